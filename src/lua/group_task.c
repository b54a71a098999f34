/* group_task.c: the userdata of one task, and what is asked of a task by its index.
 *
 * Owns nothing: a task's userdata holds its group's table and its index, nothing else. Entered by
 * the thread of the state that made the group. Invariant: a task is looked at after its group was
 * drained, and one that the group has forgotten is never looked up in its slots.
 */
#include "group_body.h"

#include "errors.h"
#include "objects.h"

typedef struct lua_task { /* its uservalue is the group's table */
  uint32_t index;
} lua_task;

static const char task_class[] = "weft.task";

void weft_push_task(weft_state *state, lua_State *L, uint32_t index) {
  lua_task *task = weft_new_userdata(L, sizeof *task);
  task->index = index;
  lua_pushvalue(L, 1);
  weft_set_uservalue(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->task_class);
  lua_setmetatable(L, -2);
}

typedef struct task_ref {
  weft_group_body *group;
  uint32_t index;
} task_ref;

/* Pushes the group's table of the task at stack index 1. */
static task_ref check_task(lua_State *L, const char *what) {
  lua_task *task = weft_check_class(L, 1, task_class, what);
  weft_get_uservalue(L, 1);
  task_ref ref = {weft_test_group(L, lua_gettop(L)), task->index};
  weft_group_drain(ref.group, L, lua_gettop(L));
  return ref;
}

/* Neither forgotten long ago nor of a group that was freed. */
static int is_known(task_ref ref) {
  return ref.index > ref.group->base && ref.index <= ref.group->count;
}

static int is_running(task_ref ref) {
  return ref.group->core && is_known(ref) &&
         !weft_slot_is_ended(*weft_slot_of(ref.group, ref.index));
}

static int push_error_of(lua_State *L, int env, task_ref ref) {
  lua_pushnil(L);
  weft_group_see(ref.group, ref.index);
  weft_push_group_field(L, env, WEFT_GROUP_ERRORS);
  lua_rawgeti(L, -1, (int)ref.index);
  lua_replace(L, -2);
  return 2;
}

/* All values that the task returned, or nil and its error; `env` is the stack index of the group's
 * table. */
static int push_task_outcome(lua_State *L, int env, task_ref ref) {
  if (!is_known(ref) || *weft_slot_of(ref.group, ref.index) != weft_slot_status(WEFT_TASK_DONE))
    return push_error_of(L, env, ref);
  weft_push_group_field(L, env, WEFT_GROUP_PACKED);
  lua_rawgeti(L, -1, (int)ref.index);
  if (lua_isnil(L, -1)) {
    lua_rawgeti(L, env, WEFT_GROUP_RESULTS);
    lua_rawgeti(L, -1, (int)ref.index);
    return 1;
  }
  int packed = lua_gettop(L);
  lua_getfield(L, packed, "n");
  int count = (int)lua_tointeger(L, -1);
  luaL_checkstack(L, count + 4, "results");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, packed, i);
  return count;
}

static int wait_task(lua_State *L);

static const weft_park_op wait_task_op = {
    "task:wait", weft_finish_progress, wait_task, weft_leave_group_park, NULL,
    0,           weft_describe_group};

/*** Waits until this task has ended.
 * @function task:wait
 * @return[1] all that the task returned
 * @treturn[2] nil
 * @treturn[2] error
 * @raise when the caller's context is done
 */
static int wait_task(lua_State *L) {
  int rc;
  do {
    lua_settop(L, 1);
    task_ref ref = check_task(L, "task:wait");
    if (!is_running(ref))
      return push_task_outcome(L, 2, ref);
    lua_settop(L, 1);
    rc = weft_park_for_progress(L, &wait_task_op, ref.group, ref.index);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** What the task does.
 * @function task:status
 * @treturn string "queued", "running", "done", "failed" or "canceled"
 */
static int task_status(lua_State *L) {
  static const char *const names[] = {"queued", "running", "done", "failed", "canceled"};
  task_ref ref = check_task(L, "task:status");
  if (!is_known(ref)) {
    lua_pushstring(L, "done");
    return 1;
  }
  weft_task *slot = *weft_slot_of(ref.group, ref.index);
  lua_pushstring(L, names[weft_slot_is_ended(slot) ? (uintptr_t)slot & WEFT_SLOT_STATUS
                                                   : atomic_load(&slot->status)]);
  return 1;
}

/*** Cancels this task alone.
 * @function task:cancel
 * @tparam[opt] any cause as for @{context:cancel}
 */
static int cancel_task(lua_State *L) {
  lua_settop(L, 2);
  task_ref ref = check_task(L, "task:cancel");
  if (!is_running(ref))
    return 0;
  weft_task *task = *weft_slot_of(ref.group, ref.index);
  weft_error *cause = lua_isnoneornil(L, 2) ? NULL : weft_to_core_error(ref.group->state, L, 2);
  int ok = weft_task_cancel(task, cause);
  weft_error_release(cause);
  if (!ok)
    return luaL_error(L, "not enough memory");
  weft_scheduler_interrupt(task);
  return 0;
}

/*** The task's place in the order of go.
 * @function task:index
 * @treturn integer from 1
 */
static int task_index(lua_State *L) {
  lua_task *task = weft_check_class(L, 1, task_class, "task:index");
  weft_push_integer(L, task->index);
  return 1;
}

static int task_tostring(lua_State *L) {
  lua_task *task = weft_check_class(L, 1, task_class, "tostring");
  lua_pushfstring(L, "weft task %d", (int)task->index);
  return 1;
}

/* ---- by index ---- */

/* The index of a task of the group at stack index 1 that has ended. */
static uint32_t check_ended(lua_State *L, weft_group_body *group, const char *what) {
  uint32_t index = weft_check_count(L, 2, what, "index", 1, WEFT_MAX_COUNT);
  weft_group_drain(group, L, 1);
  if (index > group->count || is_running((task_ref){group, index}))
    luaL_error(L, "%s: task %d has not ended", what, (int)index);
  return index;
}

/*** All values that a task which has ended returned, or nil and its error.
 * @function group:values
 * @tparam integer index of the task in the order of go
 * @return as @{task:wait}
 * @raise when it has not ended
 */
static int group_values(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:values");
  uint32_t index = check_ended(L, group, "group:values");
  return push_task_outcome(L, 1, (task_ref){group, index});
}

/*** Drops what a task which has ended left, so that a long run of tasks stays flat in memory.
 * @function group:forget
 * @tparam integer index of the task in the order of go
 * @raise when it has not ended
 */
static int forget(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:forget");
  uint32_t index = check_ended(L, group, "group:forget");
  for (int field = WEFT_GROUP_RESULTS; field <= WEFT_GROUP_FIELDS; field++) {
    lua_rawgeti(L, 1, field);
    if (lua_istable(L, -1)) {
      lua_pushnil(L);
      lua_rawseti(L, -2, (int)index);
    }
    lua_pop(L, 1);
  }
  if (is_known((task_ref){group, index}))
    weft_slot_mark(group, index, WEFT_SLOT_FORGOTTEN);
  return 0;
}

/*** The error of a task of this group that failed; nil when it did not, or has not ended yet.
 * @function group:error_of
 * @tparam task|integer task, or its index in the order of go
 * @treturn ?error
 */
static int error_of(lua_State *L) {
  weft_group_body *group = weft_check_group(L, "group:error_of");
  uint32_t index;
  if (lua_type(L, 2) == LUA_TNUMBER) {
    index = weft_check_count(L, 2, "group:error_of", "task", 1, WEFT_MAX_COUNT);
  } else {
    lua_task *task = luaL_testudata(L, 2, task_class);
    if (task)
      weft_get_uservalue(L, 2);
    if (!task || !lua_rawequal(L, 1, -1))
      return weft_bad_argument(L, "group:error_of", "task", "a task of this group, or its index",
                               2);
    index = task->index;
  }
  weft_group_drain(group, L, 1);
  weft_group_see(group, index);
  weft_push_group_field(L, 1, WEFT_GROUP_ERRORS);
  lua_rawgeti(L, -1, (int)index);
  return 1;
}

void weft_add_task_methods(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"values", group_values, 0},
                                          {"forget", forget, 0},
                                          {"error_of", error_of, 0},
                                          {NULL, NULL, 0}};
  weft_add_methods(L, state, methods);
}

void weft_open_task(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"wait", wait_task, WEFT_BLOCKS}, {"status", task_status, 0},
      {"cancel", cancel_task, 0},       {"index", task_index, 0},
      {"__tostring", task_tostring, 0}, {NULL, NULL, 0}};
  weft_new_class(L, state, task_class, methods);
  lua_pushliteral(
      L, "a task belongs to the state that made it; wait for it there and send its result");
  lua_setfield(L, -2, "__weft_advice");
  state->task_class = luaL_ref(L, LUA_REGISTRYINDEX);
}
