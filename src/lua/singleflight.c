/* singleflight.c: one run a key at once, whose outcome all who asked get.
 *
 * Owns each caller's reference to its flight, in a userdata: the token of the call. Entered by the
 * state's thread. Invariant: a token that leads ends its flight or hands the lead over, at the
 * latest when it is collected.
 */
#include "../core/singleflight.h"
#include "../core/error.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

typedef struct token {
  weft_singleflight *owner; /* kept alive by the caller, whose argument it is */
  weft_flight *flight;      /* a reference; NULL before it has joined and at the end */
  int leads;
} token;

static const char token_class[] = "weft.singleflight call";

static token *check_token(lua_State *L) {
  return luaL_checkudata(L, 1, token_class);
}

/*** Calls that want the same thing at the same time share one run (Go: singleflight.Group). It can
 * be captured and sent: the calls may come from any task on any thread.
 * @function singleflight
 * @treturn singleflight
 */
static int new_singleflight(lua_State *L) {
  weft_singleflight *owner = weft_singleflight_new();
  weft_adopt_handle(WEFT_STATE(L), L, owner ? &owner->handle : NULL);
  return 1;
}

/* ---- joining a flight ---- */

/* self, key -> token */
static int open_call(lua_State *L) {
  weft_singleflight *owner = (weft_singleflight *)weft_check_handle(L, 1, &weft_singleflight_type,
                                                                    "singleflight:run", "self");
  weft_check_key(L, "singleflight:run");
  token *call = lua_newuserdata(L, sizeof *call);
  *call = (token){.owner = owner};
  luaL_getmetatable(L, token_class);
  lua_setmetatable(L, -2);
  return 1;
}

static int push_role(lua_State *L, token *call, int leads) {
  call->leads = leads;
  lua_pushboolean(L, leads);
  return 1;
}

static int finish_join(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return push_role(L, check_token(L), weft_waiter_outcome(&park->waiter) == WEFT_CHANGED);
}

static void leave_join(weft_park *park) {
  weft_flight_unwait(park->object, &park->waiter);
}

static void abandon_join(weft_park *park, int source) {
  if (source == WEFT_PARK_EVENT && weft_waiter_outcome(&park->waiter) == WEFT_CHANGED)
    weft_flight_hand_over(park->object);
}

static const weft_park_op join_op = {"singleflight:run", finish_join,  NULL,
                                     leave_join,         abandon_join, 1};

/* token, key -> whether the caller leads; else the flight has ended */
static int join(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  token *call = check_token(L);
  weft_check_key(L, join_op.what);
  weft_park *park = weft_park_begin(state, L, &join_op, NULL);
  int rc = WEFT_NOMEM;
  if (weft_encode_plain(state, L, 2, 1))
    rc = weft_singleflight_join(call->owner, state->writer.buf.data,
                                (uint32_t)state->writer.buf.size, &park->waiter, &call->flight);
  if (rc == WEFT_NOMEM)
    return luaL_error(L, "not enough memory");
  park->object = call->flight;
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  return push_role(L, call, 1);
}

/* ---- the outcome ---- */

static void end_call(token *call) {
  weft_flight *flight = call->flight;
  call->flight = NULL;
  call->leads = 0;
  weft_flight_release(flight);
}

static int token_gc(lua_State *L) {
  token *call = lua_touserdata(L, 1);
  if (call->flight && call->leads)
    weft_flight_hand_over(call->flight);
  if (call->flight)
    end_call(call);
  return 0;
}

/* token, values … -> a light userdata: a shared parcel */
static int protected_pack(lua_State *L) {
  weft_parcel parcel;
  weft_parcel_init(&parcel);
  weft_to_parcel(weft_state_of(L), L, 1, lua_gettop(L), "result", &parcel);
  weft_shared_parcel *shared = weft_shared_parcel_new(&parcel);
  weft_parcel_clear(&parcel);
  if (!shared)
    return luaL_error(L, "not enough memory");
  lua_pushlightuserdata(L, shared);
  return 1;
}

static void finish_with_error(lua_State *L, weft_flight *flight, int index) {
  weft_error *error = weft_to_core_error(WEFT_STATE(L), L, index);
  weft_flight_finish(flight, NULL, error);
  weft_error_release(error);
}

/* For those who wait: the values from stack index 2 to the top, or why they cannot be sent. */
static void finish_with_values(lua_State *L, weft_flight *flight) {
  int top = lua_gettop(L);
  luaL_checkstack(L, top + 4, "results");
  lua_pushcfunction(L, protected_pack);
  for (int i = 2; i <= top; i++)
    lua_pushvalue(L, i);
  if (lua_pcall(L, top - 1, 1, 0) != 0) {
    finish_with_error(L, flight, lua_gettop(L));
  } else {
    weft_shared_parcel *shared = lua_touserdata(L, -1);
    weft_flight_finish(flight, shared, NULL);
    weft_shared_parcel_release(shared);
  }
  lua_settop(L, top);
}

/* What failed because the caller may not go on says nothing about what the others want. */
static int is_callers_own(lua_State *L) {
  return weft_context_done(weft_current_context(WEFT_STATE(L), L, 0));
}

/* token, values … : the leader's function has returned */
static int succeed(lua_State *L) {
  token *call = check_token(L);
  int is_failure = lua_isnil(L, 2) && !lua_isnoneornil(L, 3);
  if (is_failure && is_callers_own(L))
    weft_flight_hand_over(call->flight);
  else if (weft_flight_land(call->flight))
    finish_with_values(L, call->flight);
  end_call(call);
  return 0;
}

/* token, error: the leader's function has raised */
static int fail(lua_State *L) {
  token *call = check_token(L);
  if (is_callers_own(L))
    weft_flight_hand_over(call->flight);
  else if (weft_flight_land(call->flight))
    finish_with_error(L, call->flight, 2);
  end_call(call);
  return 0;
}

/* token -> the values of the flight, or raises its error */
static int outcome(lua_State *L) {
  token *call = check_token(L);
  weft_flight *flight = call->flight;
  if (flight->error) {
    weft_push_core_error(WEFT_STATE(L), L, flight->error);
    return lua_error(L);
  }
  return flight->result ? weft_decode_shared(L, weft_shared_parcel_retain(flight->result)) : 0;
}

/*** Calls a function, unless a call under the same key is running: then it waits for that one and
 * returns its outcome. Values are copied, as all that crosses between tasks.
 *
 * A call that is cancelled fails alone: when it was the one that ran its function, the next one
 * that waits runs its own. What has ended is not remembered: the next call runs again.
 * @function singleflight:run
 * @param key a string, number or boolean
 * @tparam function fn runs in the calling state
 * @param ... its arguments
 * @return what fn, or the running call's function, returned
 * @raise what that raised; bad argument; when the caller's context is done
 */
static const char run_source[] =
    "local open, join, succeed, fail, outcome = ...\n"
    "local function finish(token, ok, ...)\n"
    "  if ok then\n"
    "    succeed(token, ...)\n"
    "    return ...\n"
    "  end\n"
    "  fail(token, (...))\n"
    "  error((...), 0)\n"
    "end\n"
    "return function(self, key, fn, ...)\n"
    "  if type(fn) ~= 'function' then\n"
    "    error(\"bad argument 'fn' to singleflight:run: expected a function, got \" .. type(fn), "
    "2)\n"
    "  end\n"
    "  local token = open(self, key)\n"
    "  if join(token, key) then return finish(token, pcall(fn, ...)) end\n"
    "  return outcome(token)\n"
    "end\n";

/* Lua, since fn may yield; here, since every state that a singleflight is sent to must have it. */
static void add_run(weft_state *state, lua_State *L) {
  lua_getfield(L, -1, "__index");
  weft_push_shim(L, run_source);
  weft_push_function(L, state, open_call, 0);
  weft_push_function(L, state, join, WEFT_BLOCKS);
  weft_push_function(L, state, succeed, 0);
  weft_push_function(L, state, fail, 0);
  weft_push_function(L, state, outcome, 0);
  lua_call(L, 5, 1);
  lua_setfield(L, -2, "run");
  lua_pop(L, 1);
}

/*** Makes the next call under a key run its function, although one is running. Those who wait for
 * that one still get its outcome.
 * @function singleflight:forget
 * @param key a string, number or boolean
 * @raise bad argument 'key'
 */
static int forget(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_singleflight *owner = (weft_singleflight *)weft_check_handle(L, 1, &weft_singleflight_type,
                                                                    "singleflight:forget", "self");
  weft_check_key(L, "singleflight:forget");
  if (!weft_encode_plain(state, L, 2, 1))
    return luaL_error(L, "not enough memory");
  weft_singleflight_forget(owner, state->writer.buf.data, (uint32_t)state->writer.buf.size);
  return 0;
}

void weft_open_singleflight(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"forget", forget, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function token_methods[] = {{"__gc", token_gc, 0}, {NULL, NULL, 0}};
  static const weft_function functions[] = {{"singleflight", new_singleflight, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, token_class, token_methods);
  lua_pop(L, 1);
  weft_new_class(L, state, "weft.singleflight", methods);
  add_run(state, L);
  weft_register_handle_class(L, &weft_singleflight_type);
  lua_pop(L, 1);
}
