/* refuse.c: errors of the encoder, which name the path to what cannot be sent.
 *
 * Owns nothing. Entered by the state's thread. Invariant: nothing is kept for paths while all goes
 * well: a path is found by searching the tables that led there.
 */
#include "encode.h"

#include "names.h"

#include <string.h>

static void push_key(lua_State *L, int key) {
  if (lua_type(L, key) == LUA_TSTRING)
    lua_pushfstring(L, ".%s", lua_tostring(L, key));
  else if (lua_type(L, key) == LUA_TNUMBER && weft_is_integer(L, key))
    lua_pushfstring(L, "[%d]", (int)weft_to_integer(L, key));
  else if (lua_type(L, key) == LUA_TNUMBER)
    lua_pushfstring(L, "[%f]", lua_tonumber(L, key));
  else
    lua_pushfstring(L, "[%s]", luaL_typename(L, key));
}

/* Pushes ".key" under which `value` lies in `table`, or the key itself when that is the value. */
static void push_key_of(lua_State *L, int table, int value) {
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_rawequal(L, -1, value) || lua_rawequal(L, -2, value)) {
      push_key(L, top + 1);
      lua_replace(L, top + 1);
      lua_settop(L, top + 1);
      return;
    }
    lua_pop(L, 1);
  }
  lua_pushliteral(L, "[?]");
}

static void push_root(weft_encoder *e, const char *label) {
  if (label)
    lua_pushfstring(e->L, "upvalue '%s'", label);
  else if (e->number == 0)
    lua_pushstring(e->L, strcmp(e->what, "argument") == 0 ? "the function" : e->what);
  else
    lua_pushfstring(e->L, "%s %d", e->what, e->number);
}

/* Replaces the value on top of the stack by the path to it: "upvalue 'db'.conn". Climbs from table
 * to table; `child` is the place of the value whose key is looked for, child + 1 the path so far.
 */
static void push_path(weft_encoder *e) {
  lua_State *L = e->L;
  const char *label = e->label;
  uint32_t parent = e->parent;
  int child = lua_gettop(L);
  lua_pushliteral(L, "");
  while (!label && parent != UINT32_MAX) {
    const weft_pending_table *table = &e->scratch->tables[parent];
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
    lua_rawgeti(L, -1, (int)(e->scratch->held + parent + 1));
    lua_replace(L, -2);
    push_key_of(L, child + 2, child);
    lua_pushvalue(L, child + 1);
    lua_concat(L, 2);
    lua_replace(L, child + 1);
    lua_replace(L, child);
    label = table->label;
    parent = table->parent;
  }
  push_root(e, label);
  lua_insert(L, child + 1);
  lua_concat(L, 2);
  lua_replace(L, child);
}

/* Pushes what a userdata calls itself, "userdata FILE*", or the plain type name. */
static const char *push_type_name(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
    return lua_pushstring(L, luaL_typename(L, index)), lua_tostring(L, -1);
  int metatable = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, LUA_REGISTRYINDEX)) { /* where luaL_newmetatable put it */
    if (lua_type(L, -2) == LUA_TSTRING && lua_rawequal(L, -1, metatable)) {
      const char *name = lua_pushfstring(L, "userdata %s", lua_tostring(L, -2));
      lua_replace(L, metatable);
      lua_settop(L, metatable);
      return name;
    }
    lua_pop(L, 1);
  }
  lua_pushliteral(L, "userdata");
  lua_replace(L, metatable);
  return lua_tostring(L, metatable);
}

/* Holds on to no table of a message that is written, or refused. */
void weft_encode_forget_pending(weft_encoder *e) {
  lua_rawgeti(e->L, LUA_REGISTRYINDEX, e->state->pending);
  for (uint32_t i = 0; i < e->scratch->table_count; i++) {
    lua_pushnil(e->L);
    lua_rawseti(e->L, -2, (int)(e->scratch->held + i + 1));
  }
  lua_pop(e->L, 1);
}

/* Pushes `__weft_advice` of the value's metatable, when that has one, or the advice that is given.
 */
static const char *push_advice(lua_State *L, int index, const char *otherwise) {
  if (lua_getmetatable(L, index)) {
    lua_pushliteral(L, "__weft_advice");
    lua_rawget(L, -2);
    if (lua_type(L, -1) == LUA_TSTRING)
      return lua_tostring(L, -1);
  }
  lua_pushstring(L, otherwise);
  return lua_tostring(L, -1);
}

typedef struct refusal {
  weft_encoder *encoder;
  const char *advice;
} refusal;

static int refuse(lua_State *L) {
  refusal *refusal = lua_touserdata(L, 2);
  weft_encoder *e = refusal->encoder;
  luaL_checkstack(L, 16, "error");
  if (weft_names_refresh(e->state, L) || e->names_known != e->state->names_loaded)
    return 0;
  const char *type = push_type_name(L, 1), *advice = push_advice(L, 1, refusal->advice);
  lua_pushvalue(L, 1);
  push_path(e);
  weft_encode_forget_pending(e);
  return luaL_error(L, "%s: %s cannot be sent; %s", lua_tostring(L, -1), type, advice);
}

void weft_encode_refuse(weft_encoder *e, const char *advice) {
  lua_State *L = e->L;
  refusal refusal = {e, advice};
  luaL_checkstack(L, 4, "error");
  weft_encode_undisturbed(e, refuse, lua_gettop(L), &refusal);
  lua_pop(L, 1);
}
