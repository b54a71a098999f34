/* coroutines_54.c: coroutine.resume, wrap and close of Lua 5.4, in C.
 *
 * Owns nothing. Entered by the state's thread, by finalizers after weft's part of the state has
 * closed, too. Invariant: `running` is the coroutine whose code runs, as far as ours have resumed
 * it.
 */
#include "coroutines.h"

#if WEFT_LUA54

#include "names.h"
#include "state.h"

static lua_State *coroutine_of(lua_State *L, int is_wrap) {
  return lua_tothread(L, is_wrap ? lua_upvalueindex(2) : 1);
}

/* ---- how a resume ends ---- */

/* What coroutine.wrap does with an error: closes the coroutine and raises with a position. */
static int raise_from_wrap(lua_State *L, lua_State *co) {
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    status = lua_resetthread(co);
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

/* The error is on top of the stack. */
static int fail(lua_State *L, lua_State *co, int is_wrap) {
  if (is_wrap)
    return raise_from_wrap(L, co);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

/* Hands on what the coroutine yielded, returned or raised. */
static int finish(lua_State *L, lua_State *co, int rc, int nresults, int is_wrap) {
  if (rc != LUA_OK && rc != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return fail(L, co, is_wrap);
  }
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(co, nresults);
    lua_pushliteral(L, "too many results to resume");
    return fail(L, co, is_wrap);
  }
  if (!is_wrap)
    lua_pushboolean(L, 1);
  lua_xmove(co, L, nresults);
  return is_wrap ? nresults : nresults + 1;
}

/* ---- passing on ---- */

static int step(weft_scheduler *scheduler, lua_State *L, lua_State *co, int nargs, int is_wrap);

/* Set on a coroutine whose task was interrupted in it, for its time slice had ended: nothing else
 * would keep a stranger from going on with it. */
static void on_stranger(lua_State *L, lua_Debug *info) {
  (void)info;
  weft_state *state = weft_state_of(L);
  lua_sethook(L, NULL, 0, 0);
  if (state && weft_coroutine_refuse(state, L, L, "resume"))
    lua_error(L);
}

int weft_coroutine_reject(weft_scheduler *scheduler, lua_State *L, lua_KContext context,
                          lua_KFunction go_on) {
  if (scheduler->running != L) { /* who has resumed it would take the yield for its own */
    if (!weft_coroutine_refuse(scheduler->state, L, L, "resume"))
      lua_pushliteral(L, "cannot resume coroutine: the task that waited in it has ended");
    return lua_error(L);
  }
  scheduler->yield_kind = WEFT_YIELD_REFUSED;
  return lua_yieldk(L, 0, context, go_on);
}

static int refuse(weft_scheduler *scheduler, lua_State *L, lua_State *co, int is_wrap) {
  if (!weft_coroutine_refuse(scheduler->state, L, co, "resume"))
    lua_pushliteral(L, "cannot resume coroutine: the task that waited in it has ended");
  return fail(L, co, is_wrap);
}

static int go_on(weft_scheduler *scheduler, lua_State *L, int is_wrap) {
  lua_State *co = coroutine_of(L, is_wrap);
  if (lua_gethook(co) == on_stranger) {
    scheduler->interrupted--;
    lua_sethook(co, NULL, 0, 0);
  }
  return step(scheduler, L, co, 0, is_wrap);
}

/* `fiber` is the one that was running when the yield was passed on. */
static int go_on_resume(lua_State *L, int status, lua_KContext fiber) {
  weft_scheduler *scheduler = &WEFT_STATE(L)->scheduler;
  (void)status;
  if (!weft_coroutine_is_mine(scheduler, (weft_fiber *)fiber))
    return weft_coroutine_reject(scheduler, L, fiber, go_on_resume);
  return go_on(scheduler, L, 0);
}

static int go_on_wrapped(lua_State *L, int status, lua_KContext fiber) {
  weft_scheduler *scheduler = &WEFT_STATE(L)->scheduler;
  (void)status;
  if (!weft_coroutine_is_mine(scheduler, (weft_fiber *)fiber))
    return weft_coroutine_reject(scheduler, L, fiber, go_on_wrapped);
  return go_on(scheduler, L, 1);
}

static int pass_on(weft_scheduler *scheduler, lua_State *L, lua_State *co, int is_wrap) {
  weft_fiber *fiber = scheduler->current;
  if (fiber->state != WEFT_FIBER_PARKED) {
    scheduler->interrupted++;
    lua_sethook(co, on_stranger, LUA_MASKCOUNT, 1);
  }
  return lua_yieldk(L, 0, (lua_KContext)fiber, is_wrap ? go_on_wrapped : go_on_resume);
}

/* ---- resuming ---- */

static int step(weft_scheduler *scheduler, lua_State *L, lua_State *co, int nargs, int is_wrap) {
  lua_State *outer = scheduler->running;
  int nresults;
  scheduler->running = co;
  int rc = lua_resume(co, L, nargs, &nresults);
  scheduler->running = outer;
  if (rc == LUA_YIELD && scheduler->yield_kind != WEFT_YIELD_OWN) {
    if (scheduler->yield_kind == WEFT_YIELD_TASK)
      return pass_on(scheduler, L, co, is_wrap);
    scheduler->yield_kind = WEFT_YIELD_OWN;
    lua_pop(co, nargs); /* it has not seen them */
    return refuse(scheduler, L, co, is_wrap);
  }
  return finish(L, co, rc, nresults, is_wrap);
}

static int start(lua_State *L, lua_State *co, int nargs, int is_wrap) {
  weft_state *state = WEFT_STATE(L);
  if (!lua_checkstack(co, nargs)) {
    lua_pushliteral(L, "too many arguments to resume");
    return fail(L, co, is_wrap);
  }
  if (state->scheduler.interrupted && lua_gethook(co) == on_stranger)
    return refuse(&state->scheduler, L, co, is_wrap);
  lua_xmove(L, co, nargs);
  return step(&state->scheduler, L, co, nargs, is_wrap);
}

/*** As Lua's own, but a blocking call in the coroutine parks the task.
 * @function coroutine.resume
 * @local
 */
static int resume_coroutine(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  return start(L, co, lua_gettop(L) - 1, 0);
}

/* Below the function of a wrapped coroutine that a task starts: what an error closes is closed
 * while the coroutine can still yield, so that a group in there waits for its tasks. It takes a
 * level of nested C calls, which outside of tasks nothing would be gained by. */
static int finish_base(lua_State *L, int status, lua_KContext unused) {
  (void)unused;
  return status == LUA_OK || status == LUA_YIELD ? lua_gettop(L) : lua_error(L);
}

static int run_base(lua_State *L) {
  return finish_base(L, lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 0, finish_base), 0);
}

/* It has its function on its stack, and has not started. */
static int is_new(lua_State *co) {
  lua_Debug frame;
  return lua_status(co) == LUA_OK && !lua_getstack(co, 0, &frame) && lua_gettop(co) == 1;
}

static int call_wrapped(lua_State *L) {
  lua_State *co = coroutine_of(L, 1);
  int nargs = lua_gettop(L);
  /* the function becomes the first argument of its base */
  if (WEFT_STATE(L)->scheduler.current && is_new(co)) {
    lua_xmove(co, L, 1);
    lua_insert(L, 1);
    lua_pushcfunction(co, run_base);
    nargs++;
  }
  return start(L, co, nargs, 1);
}

/*** As Lua's own, but a blocking call in the coroutine parks the task.
 * @function coroutine.wrap
 * @local
 */
static int wrap_function(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, call_wrapped, 2);
  return 1;
}

/* ---- closing ---- */

static const char *status_of(lua_State *L, lua_State *co) {
  lua_Debug frame;
  if (L == co)
    return "running";
  return lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame) ? "normal" : NULL;
}

/*** As Lua's own, but not for a coroutine that a task waits in.
 * @function coroutine.close
 * @local
 */
static int close_coroutine(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  weft_state *state = WEFT_STATE(L);
  luaL_argexpected(L, co, 1, "coroutine");
  const char *status = status_of(L, co);
  if (status)
    return luaL_error(L, "cannot close a %s coroutine", status);
  if (lua_status(co) == LUA_YIELD && weft_coroutine_refuse(state, L, co, "close"))
    return luaL_error(L, "%s", lua_tostring(L, -1));
  int is_well = lua_resetthread(co) == LUA_OK;
  lua_pushboolean(L, is_well);
  if (is_well)
    return 1;
  lua_xmove(co, L, 1);
  return 2;
}

/* ---- looking ---- */

lua_State *weft_coroutine_inside(lua_State *co) {
  lua_Debug frame;
  lua_State *inner = NULL;
  if (!lua_getstack(co, 0, &frame) || !lua_checkstack(co, 2))
    return NULL;
  lua_getinfo(co, "f", &frame);
  lua_CFunction function = lua_tocfunction(co, -1);
  if (function == call_wrapped) {
    lua_getupvalue(co, -1, 2);
    inner = lua_tothread(co, -1);
    lua_pop(co, 1);
  }
  lua_pop(co, 1);
  if (function == resume_coroutine && lua_getlocal(co, &frame, 1)) {
    inner = lua_tothread(co, -1);
    lua_pop(co, 1);
  }
  return inner;
}

int weft_coroutine_is_wrapped(lua_State *L, int index) {
  return lua_tocfunction(L, index) == call_wrapped;
}

/* ---- opening ---- */

void weft_open_coroutines(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"resume", resume_coroutine, 0},
                                            {"wrap", wrap_function, 0},
                                            {"close", close_coroutine, 0},
                                            {NULL, NULL, 0}};
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  lua_getfield(L, -1, "coroutine");
  if (lua_istable(L, -1)) {
    weft_names_keep(state, L, "coroutine");
    weft_register(L, state, functions);
  }
  lua_pop(L, 2);
}

#endif
