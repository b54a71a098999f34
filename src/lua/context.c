/* context.c: contexts in Lua.
 *
 * Owns nothing but references. Entered by the state's thread. Invariant: the first argument of a
 * pool's tasks is one userdata a state that means "the context of the task that runs".
 */
#include "context.h"

#include "clock.h"
#include "errors.h"
#include "objects.h"
#include "signals.h"
#include "state.h"

#include <signal.h>
#include <string.h>

weft_context *weft_check_context(weft_state *state, lua_State *L, int index, const char *what,
                                 int own) {
  if (lua_isnoneornil(L, index))
    return weft_current_context(state, L, own);
  return (weft_context *)weft_check_handle(L, index, &weft_context_type, what, "ctx");
}

/* Like the above for methods; reading through a task's first argument makes no context of its own.
 */
static weft_context *check_self(lua_State *L, const char *what) {
  weft_state *state = WEFT_STATE(L);
  weft_object *object = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->task_context);
  int is_current = lua_rawequal(L, 1, -1);
  lua_pop(L, 1);
  if (object && is_current)
    return weft_outer_context(state, L, 0);
  return (weft_context *)weft_check_handle(L, 1, &weft_context_type, what, "self");
}

static weft_context *check_parent(lua_State *L, const char *what) {
  return (weft_context *)weft_check_handle(L, 1, &weft_context_type, what, "self");
}

static int push_context(lua_State *L, weft_context *context) {
  weft_adopt_handle(WEFT_STATE(L), L, context ? &context->handle : NULL);
  return 1;
}

/* A cause may be anything that can be raised. */
static weft_error *optional_cause(lua_State *L, int index) {
  return lua_isnoneornil(L, index) ? NULL : weft_to_core_error(WEFT_STATE(L), L, index);
}

static uint64_t seconds_to_ns(double seconds) {
  return seconds >= 9e9 ? WEFT_NEVER_NS : (uint64_t)(seconds * 1e9);
}

/*** The root of all contexts: never done, without deadline or values.
 * @function background
 * @treturn context the same one each time
 */
static int background(lua_State *L) {
  weft_push_handle(WEFT_STATE(L), L, &weft_background()->handle);
  return 1;
}

/*** The context of the running task, or the root outside of tasks: the default of every blocking call.
 * @function current
 * @treturn context
 */
static int current(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_push_handle(state, L, &weft_current_context(state, L, 1)->handle);
  return 1;
}

/*** Whether a value is a context.
 * @function is_context
 * @param value
 * @treturn boolean
 */
static int is_context(lua_State *L) {
  luaL_checkany(L, 1);
  int is_it = lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1);
  if (is_it) { /* no look inside: a task's first argument would become a context of its own */
    lua_rawgetp(L, LUA_REGISTRYINDEX, &weft_context_type);
    is_it = lua_rawequal(L, -1, -2);
  }
  lua_pushboolean(L, is_it);
  return 1;
}

/*** A child that is done when it is cancelled or its parent is (Go: context.WithCancel).
 * @function context:with_cancel
 * @treturn context cancel it, or leave its `<close>` scope, to free what waits for it
 */
static int with_cancel(lua_State *L) {
  return push_context(L, weft_context_with_cancel(check_parent(L, "context:with_cancel")));
}

static int push_with_deadline(lua_State *L, weft_context *parent, uint64_t deadline_ns) {
  weft_error *cause = optional_cause(L, 3);
  weft_context *context = weft_context_with_deadline(parent, deadline_ns, cause);
  weft_error_release(cause);
  return push_context(L, context);
}

/*** A child that is done after a time (Go: context.WithTimeout). An earlier deadline of the parent stays.
 * @function context:with_timeout
 * @tparam number seconds from now, >= 0; math.huge for none
 * @param[opt] cause what @{context:cause} then returns: a string, an error, any value that can be
 * sent
 * @treturn context
 * @raise bad argument 'seconds'
 */
static int with_timeout(lua_State *L) {
  weft_context *parent = check_parent(L, "context:with_timeout");
  double seconds = weft_check_seconds(L, 2, "context:with_timeout", "seconds");
  return push_with_deadline(L, parent, weft_clock_after_s(seconds));
}

/*** A child that is done at a time (Go: context.WithDeadline).
 * @function context:with_deadline
 * @tparam number at in seconds on the scale of @{now}
 * @param[opt] cause as for @{context:with_timeout}
 * @treturn context
 * @raise bad argument 'at'
 */
static int with_deadline(lua_State *L) {
  weft_context *parent = check_parent(L, "context:with_deadline");
  double at = weft_check_seconds(L, 2, "context:with_deadline", "at");
  return push_with_deadline(L, parent, seconds_to_ns(at));
}

/*** A child that the parent's cancel and deadline do not reach; values are still found.
 * @function context:without_cancel
 * @treturn context (Go: context.WithoutCancel)
 */
static int without_cancel(lua_State *L) {
  return push_context(L, weft_context_without_cancel(check_parent(L, "context:without_cancel")));
}

/*** A child that carries a value (Go: context.WithValue).
 * @function context:with_value
 * @param key a string, number or boolean
 * @param value anything that can be sent; nil masks a value of the parent
 * @treturn context
 * @raise bad argument 'key', or what cannot be sent
 */
static int with_value(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_context *parent = check_parent(L, "context:with_value");
  weft_check_key(L, "context:with_value");
  lua_settop(L, 3);
  weft_parcel key, value;
  weft_parcel_init(&key);
  weft_parcel_init(&value);
  weft_to_parcel(state, L, 3, 1, "value", &value);
  if (!weft_encode_plain(state, L, 2, 1) ||
      weft_parcel_finish(&state->writer, &key) != WEFT_BUF_OK) {
    weft_parcel_clear(&value);
    return luaL_error(L, "not enough memory");
  }
  weft_context *child = weft_context_with_value(parent, &key, &value);
  weft_parcel_clear(&key);
  weft_parcel_clear(&value);
  return push_context(L, child);
}

/*** The value of the nearest context, from this one upwards, that carries the key.
 * @function context:value
 * @param key a string, number or boolean
 * @return a copy of the value, or nil
 */
static int value(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_context *context = check_self(L, "context:value");
  weft_check_key(L, "context:value");
  if (!weft_encode_plain(state, L, 2, 1))
    return luaL_error(L, "not enough memory");
  const weft_buf *key = &state->writer.buf;
  weft_context *owner = weft_context_find(context, key->data, (uint32_t)key->size);
  if (owner)
    return weft_decode(state, L, &owner->value);
  lua_pushnil(L);
  return 1;
}

/*** Makes this context and all its descendants done before it returns. Only the first call counts.
 * @function context:cancel
 * @param[opt] cause a string, an error or any value that can be sent (Go: CancelCauseFunc)
 */
static int cancel(lua_State *L) {
  weft_context *context = check_parent(L, "context:cancel");
  weft_error *cause = optional_cause(L, 2);
  weft_context_cancel(context, cause);
  weft_error_release(cause);
  return 0;
}

static int close_context(lua_State *L) {
  weft_object *object = lua_touserdata(L, 1);
  if (object->handle)
    weft_context_cancel((weft_context *)object->handle, NULL);
  return 0;
}

static int push_error_or_nil(lua_State *L, weft_error *error) {
  if (error)
    weft_push_core_error(WEFT_STATE(L), L, error);
  else
    lua_pushnil(L);
  weft_error_release(error);
  return 1;
}

/*** Nil while the context is not done, else an error of kind "canceled" or "deadline".
 * @function context:err
 * @treturn ?error
 */
static int err(lua_State *L) {
  return push_error_or_nil(L, weft_context_error(check_self(L, "context:err")));
}

/*** Why the context is done: what was given to cancel or to the deadline, else as @{context:err}.
 * @function context:cause
 * @treturn ?error (Go: context.Cause)
 */
static int cause(lua_State *L) {
  return push_error_or_nil(L, weft_context_cause(check_self(L, "context:cause")));
}

/*** The deadline in force.
 * @function context:deadline
 * @treturn ?number in seconds on the scale of @{now}; nil for none
 */
static int deadline(lua_State *L) {
  uint64_t at_ns = weft_context_deadline_ns(check_self(L, "context:deadline"));
  if (at_ns == WEFT_NEVER_NS)
    lua_pushnil(L);
  else
    lua_pushnumber(L, (double)at_ns / 1e9);
  return 1;
}

/*** How long until the deadline.
 * @function context:remaining
 * @treturn number seconds, 0 when it has passed, math.huge for no deadline
 */
static int remaining(lua_State *L) {
  uint64_t at_ns = weft_context_deadline_ns(check_self(L, "context:remaining"));
  uint64_t now_ns = weft_clock_now_ns();
  if (at_ns == WEFT_NEVER_NS)
    lua_pushnumber(L, HUGE_VAL);
  else
    lua_pushnumber(L, at_ns > now_ns ? (double)(at_ns - now_ns) / 1e9 : 0);
  return 1;
}

/*** Raises when the context is done; for loops that compute.
 * @function context:check
 * @raise an error of kind "canceled" or "deadline"
 */
static int check(lua_State *L) {
  weft_context *context = check_self(L, "context:check");
  return weft_context_done(context) ? weft_raise_context(WEFT_STATE(L), L, context) : 0;
}

/* The end of the caller's own context may be the one that it waits for. */
static int finish_wait_done(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  if (source == WEFT_PARK_CANCELED && !weft_context_done(park->object))
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return 0;
}

static void leave_wait_done(weft_park *park) {
  weft_context_unwait(park->object, &park->waiter);
}

static const weft_park_op wait_done_op = {
    "context:wait", finish_wait_done, NULL, leave_wait_done, NULL, 1};

/*** Blocks until this context is done, whose context that may be.
 * @function context:wait
 * @raise when the caller's own context is done and this one is not
 */
static int wait_done(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_context *context = check_parent(L, "context:wait");
  weft_context *current = weft_current_context(state, L, 0);
  int is_caller_done =
      weft_context_done(current); /* looked at first: that may end the other, too */
  if (weft_context_done(context))
    return 0;
  if (is_caller_done)
    return weft_raise_context(state, L, current);
  weft_check_can_block(state, L, wait_done_op.what);
  weft_park *park = weft_park_prepare(state, &wait_done_op, context);
  if (context != weft_background() && !weft_context_wait(context, &park->waiter))
    return 0;
  return weft_park_wait(state, L, park, current);
}

/*** What @{select} can wait for, in `{ done = ctx:done() }` (Go: Done): the context itself, so `{ done = ctx }` says
 * the same, and `ctx:done():wait()` is `ctx:wait()`.
 * @function context:done
 * @treturn context
 */
static int done(lua_State *L) {
  check_parent(L, "context:done");
  lua_settop(L, 1);
  return 1;
}

static int signal_number(lua_State *L, int index) {
  static const struct {
    const char *name;
    int number;
  } known[] = {{"INT", SIGINT},   {"TERM", SIGTERM}, {"HUP", SIGHUP},
               {"QUIT", SIGQUIT}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}};
  const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : "";
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i].name, name) == 0)
      return known[i].number;
  return weft_bad_argument(L, "weft.signal_context", "signal",
                           "one of INT, TERM, HUP, QUIT, USR1, USR2", index);
}

/*** A context that a signal cancels (Go: signal.NotifyContext). A second signal ends the
 * process, and so does the first one once the context was cancelled or collected.
 * @function signal_context
 * @tparam string ... names: "INT" (Ctrl-C), "TERM", "HUP", "QUIT", "USR1", "USR2"
 * @treturn context a child of the current one; its cause has kind "signal"
 * @raise bad argument
 */
static int signal_context(lua_State *L) {
  int numbers[8], count = lua_gettop(L);
  if (weft_signals_are_left_alone())
    return luaL_error(L, "weft.signal_context: signals are nginx's; a request's context, "
                         "weft.current(), is cancelled when its worker shuts down");
  if (count == 0 || count > 8)
    weft_bad_argument(L, "weft.signal_context", "signal", "one to eight names such as INT", 1);
  for (int i = 1; i <= count; i++)
    numbers[i - 1] = signal_number(L, i);
  weft_context *parent = weft_current_context(WEFT_STATE(L), L, 1);
  weft_context *context = weft_signal_context(parent, numbers, count);
  if (!context)
    return luaL_error(L, "weft.signal_context: not enough memory, file descriptors or threads");
  return push_context(L, context);
}

void weft_push_task_context(weft_state *state, lua_State *L) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->task_context);
}

void weft_open_context(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"with_cancel", with_cancel, 0},
                                          {"with_timeout", with_timeout, 0},
                                          {"with_deadline", with_deadline, 0},
                                          {"without_cancel", without_cancel, 0},
                                          {"with_value", with_value, 0},
                                          {"value", value, 0},
                                          {"cancel", cancel, 0},
                                          {"err", err, 0},
                                          {"cause", cause, 0},
                                          {"deadline", deadline, 0},
                                          {"remaining", remaining, 0},
                                          {"check", check, 0},
                                          {"wait", wait_done, WEFT_BLOCKS},
                                          {"done", done, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__close", close_context, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function functions[] = {{"background", background, 0},
                                            {"current", current, 0},
                                            {"signal_context", signal_context, 0},
                                            {"is_context", is_context, 0},
                                            {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.context", methods);
  weft_register_handle_class(L, &weft_context_type);
  weft_object *object = weft_new_userdata(L, sizeof *object);
  *object = (weft_object){NULL, NULL};
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  state->task_context = luaL_ref(L, LUA_REGISTRYINDEX);
}
