/* group_drain.c: what has ended becomes results and errors in the group's table.
 *
 * Owns the ended tasks from the group's list until they are back in the state's cache. Entered by
 * the thread of the state that made the group. Invariant: a drained task's slot tells how it ended,
 * and its core task is in the state's cache.
 */
#include "group_body.h"

#include "errors.h"
#include "local.h"

/* The table of errors, on top of L, is there for the body's finalizer, too, which has no `env`. */
static void keep_for_collector(lua_State *L, int env) {
  lua_rawgeti(L, env, WEFT_GROUP_BODY);
  lua_pushvalue(L, -2);
  weft_set_uservalue(L, -2);
  ((weft_group_body *)lua_touserdata(L, -1))->has_errors = 1;
  lua_pop(L, 1);
}

/* Pushes one of the group's tables for writing; errors and packed results are rare and made late.
 */
void weft_push_group_field(lua_State *L, int env, int field) {
  lua_rawgeti(L, env, field);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawseti(L, env, field);
  if (field == WEFT_GROUP_ERRORS)
    keep_for_collector(L, env);
}

/* Stores the values from stack index `first` to the top as the results of task `index`; pops them.
 */
static void store_results(lua_State *L, int env, uint32_t index, int first) {
  int count = lua_gettop(L) - first + 1;
  if (count > 1) {
    weft_push_group_field(L, env, WEFT_GROUP_PACKED);
    lua_createtable(L, count, 1);
    for (int i = 0; i < count; i++) {
      lua_pushvalue(L, first + i);
      lua_rawseti(L, -2, i + 1);
    }
    weft_push_integer(L, count);
    lua_setfield(L, -2, "n");
    lua_rawseti(L, -2, (int)index);
  }
  if (count > 0) {
    lua_rawgeti(L, env, WEFT_GROUP_RESULTS);
    lua_pushvalue(L, first);
    lua_rawseti(L, -2, (int)index);
  }
  lua_settop(L, first - 1);
}

/* Pops the error on top of L. */
static void store_error(lua_State *L, int env, uint32_t index) {
  weft_push_group_field(L, env, WEFT_GROUP_ERRORS);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (int)index);
  lua_pop(L, 2);
}

typedef struct store_request {
  weft_state *state;
  weft_task *task;
} store_request;

static int protected_store(lua_State *L) {
  store_request *request = lua_touserdata(L, 2);
  weft_task *task = request->task;
  if (task->status == WEFT_TASK_DONE) {
    weft_decode(request->state, L, &task->parcel);
    store_results(L, 1, task->index, 3);
  } else {
    weft_push_core_error(request->state, L, weft_task_error(task));
    store_error(L, 1, task->index);
  }
  return 0;
}

/* What cannot be unpacked here (a metatable that is not registered) is that task's failure. */
static void store_outcome(weft_group_body *group, lua_State *L, int env, weft_task *task) {
  store_request request = {group->state, task};
  lua_pushcfunction(L, protected_store);
  lua_pushvalue(L, env);
  lua_pushlightuserdata(L, &request);
  if (lua_pcall(L, 2, 0, 0) == 0)
    return;
  weft_normalize_error(group->state, L);
  weft_push_integer(L, task->index);
  lua_setfield(L, -2, "index");
  weft_error *error = weft_to_core_error(group->state, L, lua_gettop(L));
  weft_group_fail(group->core, error);
  weft_error_release(error);
  task->status = WEFT_TASK_FAILED;
  store_error(L, env, task->index);
}

/* Pushes a lone plain value, or returns 0. A string may run finalizers, which may drain the task
 * and free it: Lua 5.4 has copied the bytes by then, for LuaJIT few are copied here. */
static int push_plain(lua_State *L, const weft_parcel *parcel) {
#if WEFT_LUA54
  return weft_decode_plain(L, parcel);
#else
  weft_parcel own = *parcel;
  own.data = own.inline_bytes;
  return !parcel->capacity && weft_decode_plain(L, &own);
#endif
}

/* Takes over all tasks that have ended; `env` is the stack index of the group's table. */
static void drain(weft_group_body *group, lua_State *L, int env) {
  luaL_checkstack(L, 64, "results");
  lua_rawgeti(L, env, WEFT_GROUP_RESULTS);
  for (weft_task *task; (task = group->ended);) {
    weft_task *next = task->next;
    uint32_t drained = group->drained;
    if (task->kind == WEFT_KIND_LOCAL) {
      /* its outcome has never left the state */
    } else if (task->status == WEFT_TASK_DONE && push_plain(L, &task->parcel)) {
      if (group->drained != drained) { /* by a finalizer, this one first */
        lua_pop(L, 1);
        continue;
      }
      lua_rawseti(L, -2, (int)task->index);
    } else {
      group->ended = next; /* what this runs, finalizers included, may drain, too */
      store_outcome(group, L, env, task);
    }
    if (group->ended == task)
      group->ended = next;
    *weft_slot_of(group, task->index) = weft_slot_status(task->status);
    group->failures += task->status != WEFT_TASK_DONE;
    group->failed += task->status == WEFT_TASK_FAILED;
    group->order[group->drained++ - group->order_base] = task->index;
    weft_task_give(&group->state->free_tasks, task);
  }
  lua_pop(L, 1);
}

void weft_group_drain(weft_group_body *group, lua_State *L, int group_index) {
  if (group->ended) /* a drain before ran out of memory */
    drain(group, L, group_index);
  if (!group->core || !(group->ended = weft_group_take_ended(group->core)))
    return;
  drain(group, L, group_index);
}

/* ---- tasks of weft.inline ---- */

/* Pushes the table of the group that the fiber's task belongs to, or nil when nobody has it any
 * more. */
static int push_group_of(weft_state *state, lua_State *L, weft_fiber *fiber) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->groups);
  lua_rawgetp(L, -1, fiber->task->group->owner);
  lua_replace(L, -2);
  return !lua_isnil(L, -1);
}

void weft_local_succeeded(weft_state *state, lua_State *L, weft_fiber *fiber, int count) {
  int first = lua_gettop(L) - count + 1;
  int has_group = push_group_of(state, L, fiber);
  lua_insert(L, first);
  if (has_group)
    store_results(L, first, fiber->task->index, first + 1);
  lua_settop(L, first - 1);
}

void weft_local_failed(weft_state *state, lua_State *L, weft_fiber *fiber) {
  int error = lua_gettop(L);
  if (push_group_of(state, L, fiber)) {
    lua_pushvalue(L, error);
    store_error(L, error + 1, fiber->task->index);
  }
  lua_settop(L, error);
}
