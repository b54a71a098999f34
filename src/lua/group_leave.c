/* group_leave.c: leaving and cancelling groups, and looking at them.
 *
 * Owns nothing; ends what the group's body owns. What leaving raises is lua/weft/scope.lua's.
 * Entered by the thread of the state that made the group. Invariants: leaving waits for every task,
 * however the caller's context stands; the collector cancels and never waits.
 */
#include "group_body.h"

#include "errors.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"

/* ---- leaving ---- */

static int finish_join(lua_State *L, weft_park *park, int source) {
  (void)source;
  (void)park;
  weft_group_drain(weft_check_group(L, weft_group_class), L, 1);
  return 0;
}

static const weft_park_op join_op = {
    "leaving a group", finish_join, NULL, weft_leave_group_park, NULL, 0, weft_describe_group};

/* Waits without a way out: cancellation has been passed on to the tasks. */
static int join(weft_group_body *group, lua_State *L) {
  weft_group_settle(group);
  if (group->core->process != weft_process_generation() || weft_group_running(group->core) == 0)
    return 0;
  weft_check_can_block(group->state, L, join_op.what);
  weft_park *park = weft_park_prepare(group->state, &join_op, group->core);
  if (!weft_group_wait_below(group->core, 1, &park->waiter))
    return 0;
  return weft_park_wait(group->state, L, park, weft_background());
}

/*** Waits until every task has ended, even though the caller's context may be done.
 * @function group:join
 */
static int join_group(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:join");
  return group->core ? join(group, L) : 0;
}

/*** Cancels what still runs and waits for it.
 * @function group:_leave
 * @local
 */
static int leave_group(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:close");
  lua_settop(L, 1);
  if (!group->core)
    return 0;
  weft_context_cancel(group->core->context, NULL);
  return join(group, L);
}

static void unlist_open(weft_group_body *group) {
  *group->open_link = group->next_open;
  if (group->next_open)
    group->next_open->open_link = group->open_link;
}

static void free_group(weft_group_body *group) {
  weft_group *core = group->core;
  if (core) {
    unlist_open(group);
    weft_group_settle(group);
    if (weft_group_has_waiters(core))
      weft_scheduler_abandon(&group->state->scheduler, core);
    group->core = NULL;
    core->owner = NULL;
    weft_context_cancel(core->context, NULL);
    weft_group_drop(core);
  }
  for (weft_task *task; (task = group->ended);) {
    group->ended = task->next;
    weft_task_free(task);
  }
  for (uint32_t i = 0; i < group->code_count; i++)
    weft_handle_release(&group->codes[i]->handle);
  weft_free(group->codes);
  weft_free(group->slots);
  weft_free(group->order);
  group->codes = NULL;
  group->slots = NULL;
  group->order = NULL;
  group->count = group->base = group->code_count = 0;
}

int weft_group_gc(lua_State *L) {
  weft_group_body *group = lua_touserdata(L, 1);
  weft_group_report(group, L);
  free_group(group);
  return 0;
}

/* ---- looking ---- */

/*** Cancels the group's context, and so its tasks.
 * @function group:cancel
 * @tparam[opt] any cause as for @{context:cancel}
 */
static int cancel_group(lua_State *L) {
  weft_group_body *group = weft_check_open_group(L, "group:cancel");
  weft_error *cause = lua_isnoneornil(L, 2) ? NULL : weft_to_core_error(group->state, L, 2);
  weft_context_cancel(group->core->context, cause);
  weft_error_release(cause);
  return 0;
}
/*** Counts of the group's tasks.
 * @function group:stats
 * @treturn table `started`, `running` (or queued), `done`, `failed`
 */
static int group_stats(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:stats");
  weft_group_drain(group, L, 1);
  uint32_t failed = group->failures;
  lua_createtable(L, 0, 4);
  weft_push_integer(L, group->count);
  lua_setfield(L, -2, "started");
  weft_push_integer(L, group->count - group->drained);
  lua_setfield(L, -2, "running");
  weft_push_integer(L, group->drained - failed);
  lua_setfield(L, -2, "done");
  weft_push_integer(L, failed);
  lua_setfield(L, -2, "failed");
  return 1;
}

static int group_tostring(lua_State *L) {
  weft_group_body *group = weft_check_group(L, weft_group_class);
  lua_pushfstring(L, "weft group: %d tasks, %d running", (int)group->count,
                  (int)(group->count - group->drained));
  return 1;
}

void weft_add_leave_methods(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"join", join_group, WEFT_BLOCKS}, {"_leave", leave_group, WEFT_BLOCKS},
      {"cancel", cancel_group, 0},       {"stats", group_stats, 0},
      {"__tostring", group_tostring, 0}, {NULL, NULL, 0}};
  weft_add_methods(L, state, methods);
}
