/* group_wait.c: waiting for a group: for all of its tasks, or for the next that ends.
 *
 * Owns the context with the time limit of each wait that has one. Entered by the thread of the
 * state that made the group. Invariant: whoever parks in a group has settled what was counted in
 * ahead.
 */
#include "group_body.h"

#include "errors.h"
#include "outcome.h"

#include <stdio.h>

/* Pushes { kind = "joined", errors = {…}, message } of all failures, in the order of go.
 */
static void push_joined(weft_group_body *group, lua_State *L, int errors, uint32_t count) {
  int listed = 0;
  lua_createtable(L, (int)count, 0);
  int list = lua_gettop(L);
  for (uint32_t i = 1; i <= group->count; i++) {
    lua_rawgeti(L, errors, (int)i);
    if (lua_isnil(L, -1))
      lua_pop(L, 1);
    else
      lua_rawseti(L, list, ++listed);
  }
  lua_getglobal(L, "tostring");
  lua_rawgeti(L, list, 1);
  lua_call(L, 1, 1);
  lua_pushfstring(L, "%d of %d tasks failed; the first: %s", (int)count, (int)group->count,
                  lua_tostring(L, -1));
  weft_push_error(group->state, L, "joined", lua_tostring(L, -1));
  lua_pushvalue(L, list);
  lua_setfield(L, -2, "errors");
  lua_replace(L, list);
  lua_settop(L, list);
}

/* Pushes the error that ended the group: the same table as task:wait gives where it is a task's. */
static void push_first_error(weft_group_body *group, lua_State *L, int errors, weft_error *first) {
  weft_push_core_error(group->state, L, first);
  lua_getfield(L, -1, "index");
  if (lua_type(L, -1) == LUA_TNUMBER) {
    lua_rawgeti(L, errors, (int)lua_tointeger(L, -1));
    if (!lua_isnil(L, -1))
      lua_replace(L, -3);
    else
      lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* When the caller was cancelled and so the group, the end of the group may reach the caller before
 * its own cancellation does: it raises all the same. */
static void raise_if_echo(weft_group_body *group, lua_State *L, weft_error *first) {
  weft_context *current = weft_current_context(group->state, L, 0);
  if (!first || !weft_is_echo_kind(weft_error_kind(first)) || !weft_context_done(current))
    return;
  weft_error_release(first);
  weft_raise_context(group->state, L, current);
}

/* Pushes what wait returns when every task has ended: results and error. */
static int push_outcome(weft_group_body *group, lua_State *L) {
  weft_group_drain(group, L, 1);
  lua_rawgeti(L, 1, WEFT_GROUP_RESULTS);
  int results = lua_gettop(L);
  weft_push_integer(L, group->count);
  lua_setfield(L, results, "n");
  weft_error *first = group->core ? weft_group_first_error(group->core) : NULL;
  raise_if_echo(group, L, first);
  group->told = group->count;
  uint32_t failed = group->core && !first ? 0 : group->failures;
  if (!first && !failed)
    return 1;
  weft_push_group_field(L, 1, WEFT_GROUP_ERRORS);
  int is_joined = group->core ? group->core->is_collecting && failed : !first;
  if (is_joined)
    push_joined(group, L, results + 1, failed);
  else
    push_first_error(group, L, results + 1, first);
  weft_error_release(first);
  lua_replace(L, results + 1);
  if (!is_joined && !group->core->is_collecting) {
    lua_pushnil(L);
    lua_replace(L, results);
  }
  lua_settop(L, results + 1);
  return 2;
}

void weft_leave_group_park(weft_park *park) {
  weft_group_unwait(park->object, &park->waiter);
}

static int finish_wait(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  weft_context_release(park->waiter.slot); /* the time limit, if any */
  park->waiter.slot = NULL;
  if (source == WEFT_PARK_EVENT)
    return push_outcome(weft_check_group(L, weft_group_class), L);
  weft_context *current = weft_current_context(state, L, 0);
  if (weft_context_done(current))
    return weft_raise_context(state, L, current);
  return weft_fail(state, L, "timeout", "group:wait: the tasks did not end in time");
}

static void abandon_wait(weft_park *park, int source) {
  (void)source;
  weft_context_release(park->waiter.slot);
}

void weft_describe_group(const weft_park *park, char *text, size_t size) {
  uint32_t running = weft_group_running(park->object);
  snprintf(text, size, "%u task%s to go", running, running == 1 ? "" : "s");
}

static const weft_park_op wait_op = {
    "group:wait", finish_wait, NULL, weft_leave_group_park, abandon_wait, 0, weft_describe_group};

/*** Waits until every task has ended.
 * @function group:wait
 * @tparam[opt] number seconds how long at most; the tasks run on afterwards
 * @treturn[1] table results in the order of go, with `n`; of several values of a task the first
 * @treturn[2] nil
 * @treturn[2] error the first failure; with `collect`: the results and an error with all of them
 * @raise when the caller's context is done
 */
static int wait_group(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:wait");
  weft_context *timed = NULL;
  if (!group->core)
    return push_outcome(group, L);
  weft_check_open_group(L, "group:wait");
  int has_limit = !lua_isnoneornil(L, 2);
  double seconds = has_limit ? weft_check_seconds(L, 2, "group:wait", "seconds") : 0;
  weft_park *park = weft_park_begin(group->state, L, &wait_op, group->core);
  weft_group_settle(group);
  weft_context *current = weft_current_context(group->state, L, 0);
  if (has_limit && !(timed = weft_context_with_timeout(current, seconds, NULL)))
    return luaL_error(L, "not enough memory");
  park->waiter.slot = timed;
  if (!weft_group_wait_below(group->core, 1, &park->waiter)) {
    weft_context_release(timed);
    return push_outcome(group, L);
  }
  return weft_park_wait(group->state, L, park, timed ? timed : current);
}

/* ---- in the order of completion ---- */

int weft_finish_progress(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  (void)park;
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return WEFT_AGAIN;
}

/* The core task of an index, or NULL when it has ended, as may be found after anything that runs
 * Lua. */
static weft_task *running_task(weft_group_body *group, uint32_t index) {
  weft_task *slot = index > group->base ? *weft_slot_of(group, index) : NULL;
  return weft_slot_is_ended(slot) ? NULL : slot;
}

int weft_park_for_progress(lua_State *L, const weft_park_op *op, weft_group_body *group,
                           uint32_t index) {
  weft_group_settle(group);
  weft_park *park = weft_park_begin(group->state, L, op, group->core);
  if (index && !(park->waiter.slot = running_task(group, index)))
    return WEFT_AGAIN;
  if (!weft_group_wait_below(group->core, WEFT_GROUP_PROGRESS, &park->waiter))
    return WEFT_AGAIN;
  return weft_park_wait(group->state, L, park, weft_current_context(group->state, L, 0));
}

static int next_completed(lua_State *L);

static const weft_park_op completed_op = {
    "group:completed", weft_finish_progress, next_completed, weft_leave_group_park, NULL,
    WEFT_PARK_STEPS,   weft_describe_group};

/* Pushes task, value, error. */
static int push_completed(weft_group_body *group, lua_State *L) {
  uint32_t index = group->order[group->completed++ - group->order_base];
  weft_push_task(group->state, L, index);
  weft_group_see(group, index);
  for (int field = WEFT_GROUP_RESULTS; field <= WEFT_GROUP_ERRORS; field++) {
    weft_push_group_field(L, 1, field);
    lua_rawgeti(L, -1, (int)index);
    lua_remove(L, -2);
  }
  return 3;
}

static int next_completed(lua_State *L) {
  weft_group_body *group = weft_check_group(L, weft_group_class);
  int rc;
  do {
    lua_settop(L, 1);
    weft_group_drain(group, L, 1);
    if (group->completed < group->drained)
      return push_completed(group, L);
    if (!group->core || group->drained == group->count)
      return 0;
    rc = weft_park_for_progress(L, &completed_op, group, 0);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** Iterates over tasks in the order in which they end: `for task, value, err in g:completed() do`.
 * Ends when every task that was started has been handed out.
 * @function group:completed
 * @treturn function an iterator, and the group
 */
static int completed(lua_State *L) {
  weft_check_group(L, "group:completed");
  lua_getmetatable(L, 1);
  lua_getfield(L, -1, "next_completed");
  lua_pushvalue(L, 1);
  return 2;
}

void weft_add_wait_methods(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"wait", wait_group, WEFT_BLOCKS}, {"completed", completed, 0}, {NULL, NULL, 0}};
  weft_add_methods(L, state, methods);
  weft_push_function(L, state, next_completed, WEFT_BLOCKS);
  lua_setfield(L, -2, "next_completed");
}
