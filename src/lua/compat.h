/* compat.h: one Lua API for the binding: Lua 5.4 and LuaJIT 2.1 (the 5.1 interface). */
#ifndef WEFT_LUA_COMPAT_H
#define WEFT_LUA_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <math.h>
#include <stdint.h>

#if LUA_VERSION_NUM >= 504
#define WEFT_LUA54 1
#else
#define WEFT_LUA54 0
#include <luajit.h>
#endif

#if WEFT_LUA54

#define weft_rawlen(L, index) lua_rawlen(L, index)
#define weft_push_globals(L) lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS)
/* One Lua value that belongs to a userdata. */
#define weft_new_userdata(L, size) lua_newuserdatauv(L, size, 1)
#define weft_set_uservalue(L, index) lua_setiuservalue(L, index, 1)
#define weft_get_uservalue(L, index) lua_getiuservalue(L, index, 1)

static inline int weft_resume(lua_State *co, lua_State *from, int nargs, int *nresults) {
  return lua_resume(co, from, nargs, nresults);
}

static inline int weft_is_integer(lua_State *L, int index) {
  return lua_isinteger(L, index);
}
#define weft_is_plain_integer lua_isinteger
/* Returns the type. */
#define weft_rawgeti lua_rawgeti

#else

#define weft_rawlen(L, index) lua_objlen(L, index)
#define weft_push_globals(L) lua_pushvalue(L, LUA_GLOBALSINDEX)
#define weft_new_userdata(L, size) lua_newuserdata(L, size)
#define weft_set_uservalue(L, index) lua_setfenv(L, index) /* a table, always */
#define weft_get_uservalue(L, index) lua_getfenv(L, index)

static inline int weft_resume(lua_State *co, lua_State *from, int nargs, int *nresults) {
  (void)from;
  int rc = lua_resume(co, nargs);
  *nresults = lua_gettop(co);
  return rc;
}

static inline int weft_rawgeti(lua_State *L, int index, int n) {
  lua_rawgeti(L, index, n);
  return lua_type(L, -1);
}

static inline int lua_absindex(lua_State *L, int index) {
  return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

static inline void lua_rawgetp(lua_State *L, int index, const void *key) {
  index = lua_absindex(L, index);
  lua_pushlightuserdata(L, (void *)key);
  lua_rawget(L, index);
}

static inline void lua_rawsetp(lua_State *L, int index, const void *key) {
  index = lua_absindex(L, index);
  lua_pushlightuserdata(L, (void *)key);
  lua_insert(L, -2);
  lua_rawset(L, index);
}

/* The number itself when it is whole, fits, and is not -0.0. */
static inline int weft_is_integer(lua_State *L, int index) {
  lua_Number number = lua_tonumber(L, index);
  return number >= -9007199254740992.0 && number <= 9007199254740992.0 &&
         number == (lua_Number)(int64_t)number && !(number == 0 && signbit(number));
}

/* Of a value of any type. */
static inline int weft_is_plain_integer(lua_State *L, int index) {
  return lua_type(L, index) == LUA_TNUMBER && weft_is_integer(L, index);
}

#endif

/* luaL_error that names the script's line, not one of weft's own files or of a shim; see errors.c.
 */
int weft_raise_at_script(lua_State *L, const char *format, ...);
#undef luaL_error
#define luaL_error weft_raise_at_script

static inline void weft_push_integer(lua_State *L, int64_t value) {
#if WEFT_LUA54
  lua_pushinteger(L, value);
#else
  lua_pushnumber(L, (lua_Number)value);
#endif
}

static inline int64_t weft_to_integer(lua_State *L, int index) {
#if WEFT_LUA54
  return lua_tointeger(L, index);
#else
  return (int64_t)lua_tonumber(L, index);
#endif
}

#define WEFT_MODULE_API __attribute__((visibility("default")))

#endif
