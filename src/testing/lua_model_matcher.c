/* lua_model_matcher.c: string.find in a state that nothing else uses.
 *
 * Owns its state, which holds string.find at index 1 and no other library. One thread at a time
 * enters. Invariant: the stack holds one value between the calls.
 */
#include "lua_model_matcher.h"

#include <lauxlib.h>
#include <lualib.h>

/* Opens the library and leaves string.find. */
static int open_string(lua_State *L) {
  lua_pushcfunction(L, luaopen_string);
  lua_pushliteral(L, "string");
  lua_call(L, 1, 0);
  lua_pushliteral(L, ""); /* whose metatable leads to the library, whatever the version */
  lua_getfield(L, -1, "find");
  return 1;
}

void *weft_lua_matcher_new(void) {
  lua_State *L = luaL_newstate();
  if (!L)
    return NULL;
  lua_pushcfunction(L, open_string);
  if (lua_pcall(L, 0, 1, 0) != 0) {
    lua_close(L);
    return NULL;
  }
  return L;
}

void weft_lua_matcher_free(void *matcher) {
  if (matcher)
    lua_close(matcher);
}

/* string.find, the text and the pattern as light userdata and a size: nothing here can raise. */
typedef struct question {
  const char *pattern, *text;
  size_t size;
} question;

static int find(lua_State *L) {
  const question *q = lua_touserdata(L, 2);
  lua_settop(L, 1);
  lua_pushlstring(L, q->text, q->size);
  lua_pushstring(L, q->pattern);
  lua_call(L, 2, 1);
  return 1;
}

bool weft_lua_matches(void *matcher, const char *pattern, const char *text, size_t size) {
  lua_State *L = matcher;
  question q = {pattern, text, size};
  lua_pushcfunction(L, find);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, &q);
  bool found = lua_pcall(L, 2, 1, 0) == 0 && !lua_isnil(L, -1);
  lua_settop(L, 1);
  return found;
}
