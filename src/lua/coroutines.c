/* coroutines.c: coroutine.resume and coroutine.wrap for the states of workers, on Lua 5.4.
 *
 * Owns nothing. Entered by the worker's thread. A blocking call, or the end of a time slice, inside
 * of a coroutine that the task made itself must reach the scheduler, not the resumer: these two
 * pass such a yield outward, and go on inward when the task is resumed. Invariant: `running` is the
 * coroutine whose code runs.
 */
#include "coroutines.h"

#include "state.h"

#if WEFT_LUA54

enum { FAILED = -1 };

static int step(lua_State *L, lua_State *co, int nargs, int is_wrap);

static lua_State *coroutine_of(lua_State *L, int is_wrap) {
  return lua_tothread(L, is_wrap ? lua_upvalueindex(2) : 1);
}

/* Moves what the coroutine yielded or returned: how many values; or its error, FAILED. */
static int move_results(lua_State *L, lua_State *co, int rc, int nresults) {
  if (rc != LUA_OK && rc != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return FAILED;
  }
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(co, nresults);
    lua_pushliteral(L, "too many results to resume");
    return FAILED;
  }
  lua_xmove(co, L, nresults);
  return nresults;
}

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

static int finish(lua_State *L, lua_State *co, int count, int is_wrap) {
  if (is_wrap)
    return count == FAILED ? raise_from_wrap(L, co) : count;
  lua_pushboolean(L, count != FAILED);
  lua_insert(L, count == FAILED ? -2 : -count - 1);
  return count == FAILED ? 2 : count + 1;
}

static int go_on(lua_State *L, int status, lua_KContext is_wrap) {
  (void)status;
  return step(L, coroutine_of(L, (int)is_wrap), 0, (int)is_wrap);
}

static int step(lua_State *L, lua_State *co, int nargs, int is_wrap) {
  weft_scheduler *scheduler = &WEFT_STATE(L)->scheduler;
  lua_State *outer = scheduler->running;
  int nresults;
  scheduler->running = co;
  int rc = lua_resume(co, L, nargs, &nresults);
  scheduler->running = outer;
  if (rc == LUA_YIELD && scheduler->is_yield_of_task) {
    if (lua_isyieldable(L))
      return lua_yieldk(L, 0, is_wrap, go_on);
    scheduler->is_yield_of_task = 0;
    return luaL_error(
        L, "a coroutine of the task would block inside a C call, where Lua cannot yield");
  }
  return finish(L, co, move_results(L, co, rc, nresults), is_wrap);
}

static int start(lua_State *L, lua_State *co, int nargs, int is_wrap) {
  if (!lua_checkstack(co, nargs)) {
    lua_pushliteral(L, "too many arguments to resume");
    return finish(L, co, FAILED, is_wrap);
  }
  lua_xmove(L, co, nargs);
  return step(L, co, nargs, is_wrap);
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

static int call_wrapped(lua_State *L) {
  return start(L, coroutine_of(L, 1), lua_gettop(L), 1);
}

/*** As Lua's own, but a blocking call in the coroutine parks the task.
 * @function coroutine.wrap
 * @local
 */
static int wrap_function(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushlightuserdata(L, WEFT_STATE(L));
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, call_wrapped, 2);
  return 1;
}

void weft_open_coroutines(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"resume", resume_coroutine, 0}, {"wrap", wrap_function, 0}, {NULL, NULL, 0}};
  lua_getglobal(L, "coroutine");
  weft_register(L, state, functions);
  lua_pop(L, 1);
}

#else

void weft_open_coroutines(weft_state *state, lua_State *L) {
  (void)state;
  (void)L; /* a C function of LuaJIT cannot go on after a yield */
}

#endif
