/* coroutines_jit.c: coroutine.resume and wrap of LuaJIT, in Lua: a C function cannot go on there
 * after a yield.
 *
 * Owns nothing. Entered by the state's thread. Invariant: in the code below the local `inner` of a
 * function, or what it captured under that name, is the coroutine that it resumes.
 */
#include "coroutines.h"

#if !WEFT_LUA54

#include "errors.h"
#include "names.h"
#include "state.h"

#include <string.h>

static const char host_key; /* in the registry */

/* `stopped` says how the coroutine was stopped that has just yielded. false: by itself; true: its
 * task waits, so the yield is passed on, and `go_on` comes back with the end of the wait; a text:
 * somebody has resumed it who may not. A task's own coroutine yields to its scheduler, which takes
 * no word. */
static const char source[] =
    "local library, host, go_on, is_nested, refuse = ...\n"
    "local create, resume, wrap, yield = library.create, library.resume, library.wrap, "
    "library.yield\n"
    "local error, rawequal, type = error, rawequal, type\n"
    "local stopped = false\n"
    "local function wait(nested)\n"
    "  stopped = nested\n"
    "  local word = yield()\n"
    "  while not rawequal(word, go_on) do\n"
    "    stopped = refuse()\n"
    "    word = yield()\n"
    "  end\n"
    "  return true\n"
    "end\n"
    "host.wait = wait\n"
    /* true when the coroutine is to be resumed again */
    "local function pass()\n"
    "  local how = stopped\n"
    "  stopped = false\n"
    "  return how == true and wait(is_nested()), how\n"
    "end\n"
    "local settle, settle_wrapped\n"
    "local function pass_resumed(inner, ok, ...)\n"
    "  if not ok then stopped = false return ok, ... end\n"
    "  local again, why = pass()\n"
    "  if again then return settle(inner, resume(inner, go_on)) end\n"
    "  return false, why\n"
    "end\n"
    "local function pass_wrapped(inner)\n"
    "  local again, why = pass()\n"
    "  if again then return settle_wrapped(inner, resume(inner, go_on)) end\n"
    "  error(why, 2)\n"
    "end\n"
    "settle = function(inner, ...)\n"
    "  if not stopped then return ... end\n"
    "  return pass_resumed(inner, ...)\n"
    "end\n"
    "settle_wrapped = function(inner, ok, ...)\n"
    "  if ok and not stopped then return ... end\n"
    "  if ok then return pass_wrapped(inner) end\n"
    "  stopped = false\n"
    "  error((...), type((...)) == 'string' and 2 or 0)\n"
    "end\n"
    "library.resume = function(inner, ...) return settle(inner, resume(inner, ...)) end\n"
    "library.wrap = function(fn)\n"
    "  if type(fn) ~= 'function' then return wrap(fn) end\n"
    "  local inner = create(fn)\n"
    "  return function(...) return settle_wrapped(inner, resume(inner, ...)) end\n"
    "end\n";

/* 1 when it is called from a coroutine that the task made itself. */
static int is_nested(lua_State *L) {
  weft_fiber *fiber = WEFT_STATE(L)->scheduler.current;
  lua_pushboolean(L, fiber && fiber->co != L);
  return 1;
}

/* In a coroutine that a task waits in and that somebody else has resumed: returns why that may not
 * be, or raises it where the resumer would take the yield for the coroutine's own. */
static int refuse(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_fiber *current = state->scheduler.current;
  if (!weft_coroutine_refuse(state, L, L, "resume"))
    lua_pushliteral(L, "cannot resume coroutine: the task that waited in it has ended");
  if (!weft_coroutine_has_inside(current ? current->co : state->L, L))
    return lua_error(L);
  return 1;
}

void weft_push_coroutine_host(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
}

void weft_open_coroutines(weft_state *state, lua_State *L) {
  if (state->scheduler.guests) /* the event loop has its own */
    return;
  weft_push_shim(L, source);
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  lua_getfield(L, -1, "coroutine");
  lua_replace(L, -2);
  weft_names_keep(state, L, "coroutine");
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
  lua_pushlightuserdata(L, (void *)&weft_continue_token);
  weft_push_function(L, state, is_nested, 0);
  weft_push_function(L, state, refuse, 0);
  lua_call(L, 5, 0);
}

/* ---- looking ---- */

static lua_State *thread_if_inner(lua_State *co, const char *name) {
  lua_State *inner = strcmp(name, "inner") == 0 ? lua_tothread(co, -1) : NULL;
  lua_pop(co, 1);
  return inner;
}

/* What the function on top of the stack has captured. */
static lua_State *captured_inner(lua_State *co) {
  lua_State *inner = NULL;
  const char *name;
  for (int i = 1; !inner && (name = lua_getupvalue(co, -1, i)) != NULL; i++)
    inner = thread_if_inner(co, name);
  return inner;
}

/* Of one of our functions, which is on top of the stack. */
static lua_State *find_inner(lua_State *co, lua_Debug *frame) {
  lua_State *inner = NULL;
  const char *name;
  for (int i = 1; !inner && (name = lua_getlocal(co, frame, i)) != NULL; i++)
    inner = thread_if_inner(co, name);
  return inner ? inner : captured_inner(co);
}

lua_State *weft_coroutine_inside(lua_State *co) {
  lua_Debug frame;
  lua_State *inner = NULL;
  if (!lua_checkstack(co, 4) || !lua_getstack(co, 0, &frame) || !lua_getinfo(co, "S", &frame) ||
      *frame.what != 'C') /* yield or resume */
    return NULL;
  for (int level = 1; !inner && lua_getstack(co, level, &frame); level++) {
    lua_getinfo(co, "Sf", &frame);
    int is_ours = strcmp(frame.source, WEFT_SHIM_CHUNK) == 0;
    if (is_ours)
      inner = find_inner(co, &frame);
    lua_pop(co, 1);
    if (!is_ours)
      break;
  }
  return inner;
}

int weft_coroutine_is_wrapped(lua_State *L, int index) {
  lua_Debug info;
  if (lua_iscfunction(L, index))
    return 0;
  lua_pushvalue(L, index);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">S", &info);
  int is_it = strcmp(info.source, WEFT_SHIM_CHUNK) == 0 && captured_inner(L);
  lua_pop(L, 1);
  return is_it;
}

#endif
