/* fiber_base.c: what stands below a task's function on its coroutine, on Lua 5.4.
 *
 * A coroutine that dies of an error cannot yield any more, and its `<close>` variables are closed
 * without it: there no group could wait for its tasks. So the function is called in a protected
 * call that ends before the coroutine does. LuaJIT has no `<close>`, and no base.
 *
 * Owns a traceback for each failing fiber, in the registry, from the error to the task's end.
 * Entered by the state's thread. Invariant: closing happens while the task runs still, so that its
 * end comes after that of everything it closed.
 */
#include "fibers.h"
#include "state.h"

#include <string.h>

#if WEFT_LUA54

static const char base_line[] = "\n\t[C]: in ?";

void weft_push_traceback(lua_State *L, lua_State *co, int level) {
  size_t size, end = sizeof base_line - 1;
  luaL_traceback(L, co, NULL, level);
  const char *text = lua_tolstring(L, -1, &size);
  if (size < end || strcmp(text + size - end, base_line) != 0)
    return;
  lua_pushlstring(L, text, size - end);
  lua_replace(L, -2);
}

/* At the error, whose stack is gone when it has arrived. */
static int keep_traceback(lua_State *L) {
  weft_push_traceback(L, L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, weft_state_of(L)->scheduler.current);
  lua_settop(L, 1);
  return 1;
}

static int finish_base(lua_State *L, int status, lua_KContext unused) {
  (void)unused;
  if (status == LUA_OK || status == LUA_YIELD)
    return lua_gettop(L) - 1;
  weft_fiber *fiber = weft_state_of(L)->scheduler.current;
  fiber->has_raised = 1;
  if (status == LUA_ERRMEM) { /* nobody was asked for a traceback: what is there is an older one */
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, fiber);
  }
  return 1;
}

/* Called with the message handler, the function and its arguments. */
static int run_base(lua_State *L) {
  return finish_base(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, finish_base), 0);
}

void weft_fiber_push_base(weft_fiber *fiber) {
  lua_pushcfunction(fiber->co, run_base);
  lua_pushcfunction(fiber->co, keep_traceback);
}

void weft_fiber_take_traceback(lua_State *L, weft_fiber *fiber) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, fiber);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, fiber);
}

#else

static int begins(const char *line, const char *with) {
  return strncmp(line, with, strlen(with)) == 0;
}

/* A blocking function, and one that runs a coroutine, is a Lua function of ours there, which calls
 * C functions: "[C]: in function 'f'", "weft:7: in function 'recv'" becomes the one line that it is
 * for scripts. */
static void tidy(char *text) {
  char *out = text, *last = NULL; /* the line before, when it is C's or ours */
  for (char *line = text, *next; *line; line = next) {
    char *end = strchr(line, '\n'), *what = begins(line, "\tweft:") ? strstr(line, ": in ") : NULL;
    next = end ? end + 1 : line + strlen(line);
    int is_ours = what && what < next;
    if (is_ours) {
      out = stpcpy(last ? last : out, "\t[C]");
      line = what;
    }
    last = is_ours ? out - strlen("\t[C]") : begins(line, "\t[C]: ") ? out : NULL;
    memmove(out, line, (size_t)(next - line));
    out += next - line;
  }
  *out = 0;
}

void weft_push_traceback(lua_State *L, lua_State *co, int level) {
  luaL_traceback(L, co, NULL, level);
  size_t size = lua_objlen(L, -1) + 1;
  char *text = memcpy(lua_newuserdata(L, size), lua_tostring(L, -1), size);
  tidy(text);
  lua_pushstring(L, text);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

void weft_fiber_push_base(weft_fiber *fiber) {
  (void)fiber;
}

void weft_fiber_take_traceback(lua_State *L, weft_fiber *fiber) {
  weft_push_traceback(L, fiber->co, 0);
}

#endif
