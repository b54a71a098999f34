/* guest_task.c: tasks of weft.inline in an event loop: each runs as a coroutine of the loop's own.
 *
 * Owns the starter of each, a userdata with the function and its arguments, until the task ends.
 * Entered by the state's thread. Invariant: a task that was counted in ends exactly once: when its
 * function does, or when its coroutine or its request is gone.
 */
#include "guest.h"

#include "errors.h"
#include "fibers.h"
#include "mem.h"
#include "objects.h"
#include "outcome.h"
#include "state.h"

#include <string.h>

const char weft_spawn_token;
static const char class_name[] = "weft.guest_task";

static weft_guest_task *check_self(lua_State *L) {
  return luaL_checkudata(L, 1, class_name);
}

/* Its coroutine will not end any more. Touches no Lua. */
void weft_guest_task_lose(weft_guest_task *self) {
  weft_task *task = self->task;
  weft_guests_unlink_task(self);
  self->task = NULL;
  if (!task)
    return;
  if (self->is_counted)
    weft_task_end(task, WEFT_TASK_CANCELED);
  else
    weft_task_free(task);
}

static int collect(lua_State *L) {
  weft_guest_task_lose(lua_touserdata(L, 1));
  return 0;
}

weft_guest_task *weft_guest_task_new(weft_state *state, lua_State *L, int function, int count) {
  weft_guest_task *self = weft_new_userdata(L, sizeof *self);
  memset(self, 0, sizeof *self);
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  self->scheduler = &state->scheduler;
  lua_createtable(L, count + 1, 0);
  for (int i = 0; i < count; i++) {
    lua_pushvalue(L, function + i);
    lua_rawseti(L, -2, i + (i > 0) + 1); /* the second place is the context's */
  }
  self->count = count + 1;
  weft_set_uservalue(L, -2);
  return self;
}

void weft_guest_task_adopt(weft_guest_task *self, lua_State *L, weft_task *task) {
  self->task = task;
  weft_context *own = weft_task_own_context(task);
  if (!own)
    luaL_error(L, "not enough memory");
  weft_get_uservalue(L, -1);
  weft_push_handle(self->scheduler->state, L, &own->handle);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 1);
}

static int raise_canceled(lua_State *L) {
  weft_state *state = weft_state_of(L);
  return weft_raise_context(state, L, weft_current_context(state, L, 0));
}

/*** In the task's coroutine: its function and its arguments.
 * @function host.begin
 * @local
 */
static int host_begin(lua_State *L) {
  weft_guest_task *self = check_self(L);
  lua_settop(L, 1);
  if (!self->task)
    return luaL_error(L, "weft: a task was started twice, or too late");
  weft_context *context = weft_task_context(self->task);
  if (!weft_guests_enter(self->scheduler, L, context))
    return luaL_error(L, "not enough memory");
  atomic_store_explicit(&self->task->status, WEFT_TASK_RUNNING, memory_order_relaxed);
  if (weft_context_done(context)) {
    lua_pushcfunction(L, raise_canceled);
    return 1;
  }
  luaL_checkstack(L, self->count + 4, "arguments");
  weft_get_uservalue(L, 1);
  for (int i = 1; i <= self->count; i++)
    lua_rawgeti(L, 2, i);
  return self->count;
}

/*** The message handler of tasks: the error's table, with the traceback of the task's own stack.
 * @function host.describe
 * @local
 */
static int host_describe(lua_State *L) {
  lua_settop(L, 1);
  weft_normalize_error(weft_state_of(L), L);
  lua_getfield(L, -1, "traceback");
  if (lua_isnil(L, -1)) {
    luaL_traceback(L, L, NULL, 1);
    lua_setfield(L, -3, "traceback");
  }
  lua_pop(L, 1);
  return 1;
}

/*** Called as finish(starter, pcall's results…): ends the task.
 * @function host.finish
 * @local
 */
static int host_finish(lua_State *L) {
  weft_guest_task *self = check_self(L);
  weft_task *task = self->task;
  weft_guests_leave(self->scheduler, L);
  if (!task)
    return 0; /* its request was gone */
  weft_guests_unlink_task(self);
  self->task = NULL;
  weft_fiber fiber = {.co = L, .task = task, .is_local = 1};
  int is_done = lua_toboolean(L, 2);
  weft_outcome(self->scheduler, &fiber, is_done ? 0 : LUA_ERRRUN, lua_gettop(L) - 2);
  return 0;
}

void weft_open_guest_tasks(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"__gc", collect, 0}, {NULL, NULL, 0}};
  static const weft_function functions[] = {{"begin", host_begin, 0},
                                            {"describe", host_describe, 0},
                                            {"finish", host_finish, 0},
                                            {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, class_name, methods);
  lua_pushliteral(L, "a task belongs to the state that made it");
  lua_setfield(L, -2, "__weft_advice");
  lua_pop(L, 1);
}
