/* classes.c: metatables of weft's objects, and what is said when a method is asked for that an
 * object has not.
 *
 * Owns nothing but the metatables, which are in the registry. Entered by the state's thread.
 * Invariant: only a name that is not found costs anything; methods are plain fields.
 */
#include "state.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_METHODS = 64 };

/* The names of a table of methods, but those that begin with "_", which are weft's own. */
static int list_methods(lua_State *L, int methods, const char **names) {
  int count = 0;
  lua_pushnil(L);
  while (lua_next(L, methods)) {
    lua_pop(L, 1);
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "_";
    if (*name != '_' && count < MAX_METHODS)
      names[count++] = name;
  }
  return count;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Pushes "close, recv, send". */
static void push_methods(lua_State *L, int methods) {
  const char *names[MAX_METHODS];
  int count = list_methods(L, methods, names);
  luaL_Buffer b;
  qsort(names, (size_t)count, sizeof *names, compare_names);
  luaL_buffinit(L, &b);
  for (int i = 0; i < count; i++) {
    if (i > 0)
      luaL_addstring(&b, ", ");
    luaL_addstring(&b, names[i]);
  }
  luaL_pushresult(&b);
}

/* __index of a table of methods: the name is none of them. */
static int no_such_method(lua_State *L) {
  const char *class_name = lua_tostring(L, lua_upvalueindex(1));
  int type = lua_type(L, 2);
  if (type != LUA_TSTRING)
    return luaL_error(L, "%s has methods only, no value of a key that is a %s", class_name,
                      lua_typename(L, type));
  push_methods(L, 1);
  return luaL_error(L, "%s has no method '%s': known are %s", class_name, lua_tostring(L, 2),
                    lua_tostring(L, -1));
}

void weft_new_class(lua_State *L, weft_state *state, const char *name,
                    const weft_function *methods) {
  luaL_newmetatable(L, name);
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, name);
  lua_pushcclosure(L, no_such_method, 1);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  lua_setfield(L, -2, "__index");
  weft_add_methods(L, state, methods);
}

void weft_add_methods(lua_State *L, weft_state *state, const weft_function *methods) {
  lua_getfield(L, -1, "__index");
  for (; methods->name; methods++) {
    weft_push_function(L, state, methods->function, methods->may_block);
    lua_setfield(L, strncmp(methods->name, "__", 2) == 0 ? -3 : -2, methods->name);
  }
  lua_pop(L, 1);
}
