/* errors.c: error tables: making, printing, converting.
 *
 * Owns the metatable. Entered by the state's thread. Invariant: an error table is plain data but
 * for its metatable, so it crosses states like any other value.
 */
#include "errors.h"

#include "error.h"
#include "sight.h"
#include "state.h"
#include "value.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- printing ---- */

static void add_field(luaL_Buffer *b, lua_State *L, const char *before, const char *field,
                      const char *after) {
  lua_getfield(L, 1, field);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  const char *text = lua_tostring(L, -1);
  lua_pushfstring(L, "%s%s%s", before, text ? text : "?", after);
  lua_remove(L, -2);
  luaL_addvalue(b);
}

static int has_field(lua_State *L, const char *field) {
  lua_getfield(L, 1, field);
  int has = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return has;
}

/* One line: "task 3 'fetch' (x.lua:12) failed: message", "stage 'clean', item 3 failed: message" of
 * a pipeline, "stage 2 (clean) failed: message" of a chain. */
static int error_tostring(lua_State *L) {
  luaL_Buffer b;
  lua_settop(L, 1);
  int is_of_chain = has_field(L, "stage_index"),
      is_of_pipeline = !is_of_chain && has_field(L, "stage");
  int is_of_item = is_of_pipeline || has_field(L, "item"), is_of_task = has_field(L, "index");
  luaL_buffinit(L, &b);
  if (is_of_pipeline)
    add_field(&b, L, "stage '", "stage", "', ");
  if (is_of_task) {
    add_field(&b, L, is_of_item ? "item " : "task ", "index", "");
    add_field(&b, L, " '", "task", "'");
    add_field(&b, L, " (", "where", ")");
    luaL_addstring(&b, " failed: ");
  } else {
    add_field(&b, L, "", "where", ": ");
  }
  if (is_of_chain) {
    add_field(&b, L, "stage ", "stage_index", "");
    add_field(&b, L, " (", "stage", ") failed: ");
  }
  add_field(&b, L, "", "message", "");
  luaL_pushresult(&b);
  return 1;
}

static int error_concat(lua_State *L) {
  lua_settop(L, 2);
  for (int i = 1; i <= 2; i++) {
    lua_getglobal(L, "tostring");
    lua_pushvalue(L, i);
    lua_call(L, 1, 1);
    lua_replace(L, i);
  }
  lua_concat(L, 2);
  return 1;
}

void weft_errors_open(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"__tostring", error_tostring, 0}, {"__concat", error_concat, 0}, {NULL, NULL, 0}};
  lua_newtable(L);
  weft_register(L, state, methods);
  lua_pushliteral(L, "weft.error");
  lua_setfield(L, -2, "__name");
  lua_pushvalue(L, -1);
  state->error_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->metatables);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "weft.error");
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->metatable_names);
  lua_pushvalue(L, -3);
  lua_pushliteral(L, "weft.error");
  lua_rawset(L, -3);
  lua_pop(L, 3);
}

/* ---- making ---- */

void weft_push_error(weft_state *state, lua_State *L, const char *kind, const char *message) {
  luaL_checkstack(L, 6, "error");
  lua_createtable(L, 0, 4);
  lua_pushstring(L, kind);
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->error_metatable);
  lua_setmetatable(L, -2);
}

int weft_fail(weft_state *state, lua_State *L, const char *kind, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  lua_pushnil(L);
  weft_push_error(state, L, kind, text);
  return 2;
}

static int protected_detail(lua_State *L) {
  return weft_decode(weft_state_of(L), L, lua_touserdata(L, 1));
}

/* What of an error cannot be unpacked here (a metatable that is not registered) is left out: it
 * stays that error, and who holds it loses nothing. */
void weft_push_core_error(weft_state *state, lua_State *L, weft_error *error) {
  luaL_checkstack(L, 4, "error");
  if (error->detail.size > 0) {
    lua_pushcfunction(L, protected_detail);
    lua_pushlightuserdata(L, &error->detail);
    if (lua_pcall(L, 1, 1, 0) == 0)
      return;
    lua_pop(L, 1);
  }
  weft_push_error(state, L, error->kind, error->message);
}

void weft_push_context_error(weft_state *state, lua_State *L, weft_error *error,
                             weft_error *cause) {
  weft_push_error(state, L, error->kind, error->message);
  if (cause == error)
    return;
  lua_pushfstring(L, "%s: %s", error->message, cause->message);
  lua_setfield(L, -2, "message");
  weft_push_core_error(state, L, cause);
  lua_setfield(L, -2, "cause");
}

int weft_is_error(weft_state *state, lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index))
    return 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->error_metatable);
  int is_it = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is_it;
}

static int call_tostring(lua_State *L) {
  return luaL_callmeta(L, 1, "__tostring");
}

/* Pushes what a table's own __tostring says; 0 when it has none, or that fails. */
static int push_own_text(lua_State *L, int index) {
  if (!luaL_getmetafield(L, index, "__tostring"))
    return 0;
  lua_pop(L, 1);
  lua_pushcfunction(L, call_tostring);
  lua_pushvalue(L, index);
  if (lua_pcall(L, 1, 1, 0) == 0 && lua_type(L, -1) == LUA_TSTRING)
    return 1;
  lua_pop(L, 1);
  return 0;
}

/* Pushes one line about any value that was raised. */
static void push_description(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TSTRING || lua_type(L, index) == LUA_TNUMBER) {
    lua_pushvalue(L, index);
    lua_tostring(L, -1);
    return;
  }
  if (lua_type(L, index) == LUA_TTABLE) {
    lua_pushliteral(L, "message");
    lua_rawget(L, index);
    if (lua_type(L, -1) == LUA_TSTRING)
      return;
    lua_pop(L, 1);
    if (push_own_text(L, index))
      return;
  }
  lua_pushfstring(L, "(a %s was raised)", luaL_typename(L, index));
}

/* A nil global is most often one that the script defined: say why it is not there. */
static void add_hint(lua_State *L) {
  const char *text = lua_tostring(L, -1);
  if (strstr(text, "global '") && strstr(text, "a nil value"))
    lua_pushfstring(L,
                    "%s; a script's globals do not exist in tasks: make it a local that the task "
                    "captures, or require it",
                    text);
  else
    lua_pushvalue(L, -1);
  lua_remove(L, -2);
}

void weft_normalize_error(weft_state *state, lua_State *L) {
  int value = lua_gettop(L);
  luaL_checkstack(L, 8, "error");
  if (weft_is_error(state, L, value))
    return;
  push_description(L, value);
  add_hint(L);
  weft_push_error(state, L, "error", lua_tostring(L, -1));
  if (lua_type(L, value) != LUA_TSTRING) {
    lua_pushvalue(L, value);
    lua_setfield(L, -2, "value");
  }
  lua_replace(L, value);
  lua_settop(L, value);
}

void weft_add_position(lua_State *L, int level) {
  char where[WEFT_POSITION_SIZE];
  weft_position(L, level, where);
  if (!*where)
    return;
  lua_pushstring(L, where);
  lua_setfield(L, -2, "where");
}

static void copy_field(lua_State *L, int table, const char *field, char *out, size_t size,
                       const char *otherwise) {
  lua_getfield(L, table, field);
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : otherwise;
  snprintf(out, size, "%s", text);
  lua_pop(L, 1);
}

typedef struct encode_error {
  weft_state *state;
  weft_parcel *parcel;
} encode_error;

static int protected_encode(lua_State *L) {
  encode_error *request = lua_touserdata(L, 2);
  weft_to_parcel(request->state, L, 1, 1, "error", request->parcel);
  return 0;
}

/* What of an error cannot cross is described instead. */
static void encode_safely(weft_state *state, lua_State *L, int index, weft_parcel *parcel) {
  static const char *const fields[] = {"value", "cause", "errors"};
  for (int i = 0; i <= 3; i++) {
    encode_error request = {state, parcel};
    lua_pushcfunction(L, protected_encode);
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, &request);
    if (lua_pcall(L, 2, 0, 0) == 0)
      return;
    lua_pop(L, 1);
    if (i == 3)
      return; /* the core error has kind and message */
    lua_getfield(L, index, fields[i]);
    if (!lua_isnil(L, -1)) {
      push_description(L, lua_gettop(L));
      lua_setfield(L, index, fields[i]);
    }
    lua_pop(L, 1);
  }
}

weft_error *weft_to_core_error(weft_state *state, lua_State *L, int index) {
  weft_parcel detail;
  char kind[24], message[1024];
  weft_parcel_init(&detail);
  lua_pushvalue(L, index);
  weft_normalize_error(state, L);
  int table = lua_gettop(L);
  copy_field(L, table, "kind", kind, sizeof kind, "error");
  copy_field(L, table, "message", message, sizeof message, "");
  encode_safely(state, L, table, &detail);
  lua_pop(L, 1);
  return weft_error_with_detail(kind, message, &detail);
}

/* ---- arguments ---- */

int weft_raise_at_script(lua_State *L, const char *format, ...) {
  char where[WEFT_POSITION_SIZE];
  va_list args;
  weft_position(L, 1, where);
  lua_pushfstring(L, *where ? "%s: " : "%s", where);
  va_start(args, format);
  lua_pushvfstring(L, format, args);
  va_end(args);
  lua_concat(L, 2);
  return lua_error(L);
}

/* A userdata by the name of its class. Functions that are started as tasks without a function
 * around them are called with a context, which is not what they expect. */
static const char *push_class(lua_State *L, int index) {
  if (!luaL_getmetafield(L, index, "__name"))
    return "userdata";
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "userdata";
  if (strcmp(name, "weft.context") == 0)
    return "weft.context (the first argument of every task)";
  return name;
}

/* What the argument is, in words; may push. */
static const char *push_got(lua_State *L, int index) {
  char number[32];
  double value;
  switch (lua_type(L, index)) {
  case LUA_TNUMBER:
    value = lua_tonumber(L, index);
    snprintf(number, sizeof number, "%.14g", isnan(value) ? (double)NAN : value); /* not "-nan" */
    return lua_pushstring(L, number), lua_tostring(L, -1);
  case LUA_TSTRING:
    return lua_pushfstring(L, "'%s'", lua_tostring(L, index));
  case LUA_TUSERDATA:
    return push_class(L, index);
  default:
    return luaL_typename(L, index);
  }
}

int weft_bad_argument(lua_State *L, const char *what, const char *name, const char *expected,
                      int index) {
  const char *got = push_got(L, index);
  return luaL_error(L, "bad argument '%s' to %s: expected %s, got %s", name, what, expected, got);
}

double weft_check_number(lua_State *L, int index, const char *what, const char *name, double least,
                         double most, const char *expected) {
  double number = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : NAN;
  if (!(number >= least && number <= most))
    weft_bad_argument(L, what, name, expected, index);
  return number;
}

uint32_t weft_check_count(lua_State *L, int index, const char *what, const char *name,
                          uint32_t least, uint32_t most) {
  char expected[80];
  snprintf(expected, sizeof expected, "a whole number from %u to %u", least, most);
  double number = weft_check_number(L, index, what, name, least, most, expected);
  if (number != floor(number))
    weft_bad_argument(L, what, name, expected, index);
  return (uint32_t)number;
}

double weft_check_seconds(lua_State *L, int index, const char *what, const char *name) {
  return weft_check_number(L, index, what, name, 0, HUGE_VAL, "a number of seconds >= 0");
}
