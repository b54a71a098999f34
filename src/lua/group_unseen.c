/* group_unseen.c: errors of tasks that nobody has got.
 *
 * Owns nothing. Entered by the thread of the state that made the group. Invariant: an error is seen
 * once somebody got it: from wait, which tells of all that had ended, or of this task alone. What
 * is not seen when the group is left is raised there (lua/weft/scope.lua); what is not seen when
 * the group is collected is reported (lua/weft/unseen.lua). Echoes of a cancel are no errors here.
 */
#include "group_body.h"

#include "error.h"
#include "errors.h"
#include "platform.h"

#include <string.h>

/* ---- of one task ---- */

void weft_group_see(weft_group_body *group, uint32_t index) {
  if (group->failed && index > group->base && index <= group->count &&
      weft_slot_is_failure(*weft_slot_of(group, index)))
    weft_slot_mark(group, index, WEFT_SLOT_SEEN);
}

static int is_unseen(weft_group_body *group, uint32_t index) {
  if (index <= group->told || index <= group->base)
    return 0;
  uintptr_t slot = (uintptr_t)*weft_slot_of(group, index);
  return (slot & ~(uintptr_t)WEFT_SLOT_FORGOTTEN) == WEFT_TASK_FAILED;
}

/* ---- of all ---- */

/* Appends errors to the table on top of L, from the table of errors at stack index `errors`: in the
 * order in which the tasks ended. */
static int append_drained(weft_group_body *group, lua_State *L, int errors, int count) {
  for (uint32_t i = group->order_base; group->failed && i < group->drained; i++) {
    uint32_t index = group->order[i - group->order_base];
    if (!is_unseen(group, index))
      continue;
    weft_slot_mark(group, index, WEFT_SLOT_SEEN);
    lua_rawgeti(L, errors, (int)index);
    lua_rawseti(L, -2, ++count);
  }
  return count;
}

/*** The errors of tasks that have failed by themselves and that nobody has got, in the order in
 * which they ended. They count as seen from then on.
 * @function group:_unseen
 * @local
 * @treturn ?{error,...}
 */
static int unseen(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:_unseen");
  lua_settop(L, 1);
  weft_group_drain(group, L, 1);
  if (group->is_quiet || !group->failed)
    return 0;
  weft_push_group_field(L, 1, WEFT_GROUP_ERRORS);
  lua_newtable(L);
  return append_drained(group, L, 2, 0) > 0;
}

/*** For groups of weft's own, which give the errors of their tasks to whom they are for.
 * @function group:_hush
 * @local
 * @treturn group itself
 */
static int hush(lua_State *L) {
  weft_check_group(L, "group:_hush")->is_quiet = 1;
  lua_settop(L, 1);
  return 1;
}

/* ---- of a group that is collected ---- */

/* Of tasks that have ended and were not drained. */
static int append_ended(weft_group_body *group, lua_State *L, int count) {
  for (weft_task *task = group->ended; task; task = task->next) {
    if (task->status != WEFT_TASK_FAILED)
      continue;
    weft_push_core_error(group->state, L, weft_task_error(task));
    lua_rawseti(L, -2, ++count);
  }
  return count;
}

/* When the state closes, finalizers run on an empty stack, but for this one and its own call: what
 * runs then ends with the script, as it should. */
static int is_closing(weft_state *state, lua_State *L) {
  lua_Debug info;
  return L == state->L && !lua_getstack(L, 2, &info);
}

/* Called with the body: calls report(made, running, errors) when there is something to say. */
static int protected_report(lua_State *L) {
  weft_group_body *group = lua_touserdata(L, 1);
  int is_ending = weft_context_done(group->core->context) || is_closing(group->state, L);
  uint32_t running = is_ending ? 0 : weft_group_running(group->core);
  int count = 0;
  weft_push_shim(L, "require('weft.unseen').report(...)");
  lua_pushfstring(L, "%s:%d", group->made_at.file, group->made_at.line);
  weft_push_integer(L, running);
  lua_newtable(L);
  if (group->has_errors) {
    weft_get_uservalue(L, 1);
    lua_insert(L, -2);
    count = append_drained(group, L, lua_gettop(L) - 1, 0);
    lua_remove(L, -2);
  }
  count = append_ended(group, L, count);
  if (count || running)
    lua_call(L, 3, 0);
  return 0;
}

/* An error in it has nowhere to go. */
void weft_group_report(weft_group_body *group, lua_State *L) {
  if (!group->core || group->is_quiet || group->core->process != weft_process_generation() ||
      !lua_checkstack(L, 8))
    return;
  weft_group_settle(group);
  if (!group->ended)
    group->ended = weft_group_take_ended(group->core);
  if (!group->failed && !group->ended && weft_group_running(group->core) == 0)
    return;
  lua_pushcfunction(L, protected_report);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 0, 0) != 0)
    lua_pop(L, 1);
}

/* ---- of groups that are in use ---- */

static int is_echo(const weft_error *error) {
  return strcmp(error->kind, "canceled") == 0 || strcmp(error->kind, "deadline") == 0;
}

uint32_t weft_group_failures_so_far(weft_state *state, weft_error **errors, uint32_t most) {
  uint32_t count = 0;
  for (weft_group_body *group = state->open_groups; group && count < most;
       group = group->next_open) {
    if (group->is_quiet || group->told == group->count ||
        group->core->process != weft_process_generation())
      continue;
    weft_error *first = weft_group_first_error(group->core);
    if (first && !is_echo(first))
      errors[count++] = first;
    else
      weft_error_release(first);
  }
  return count;
}

void weft_add_unseen_methods(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"_unseen", unseen, 0}, {"_hush", hush, 0}, {NULL, NULL, 0}};
  weft_add_methods(L, state, methods);
  weft_push_shim(L, "return require('weft.scope').close(...)");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__close");
  lua_getfield(L, -2, "__index");
  lua_insert(L, -2);
  lua_setfield(L, -2, "close");
  lua_pop(L, 1);
}
