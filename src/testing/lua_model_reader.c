/* lua_model_reader.c: reads and checks tables of options, whatever they are about.
 *
 * Owns nothing: what it reads stays in Lua's memory. Only the thread that runs the Lua state
 * enters. Invariant: each table of options has one list, which is all that reads it; unknown keys
 * are refused, a wrong value is named, and an error leaves nothing behind.
 */
#include "lua_model_reader.h"

#include <lauxlib.h>

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#if LUA_VERSION_NUM < 502
#define lua_rawlen lua_objlen
#endif

/* Errors -------------------------------------------------------------------------------------- */

void weft_lua_option_error(const weft_lua_reader *r, const char *name, const char *why) {
  luaL_error(r->L, "bad argument '%s%s' to %s: %s", r->prefix, name, r->function, why);
}

void weft_lua_table_error(const weft_lua_reader *r, const char *why) {
  luaL_error(r->L, "bad argument '%s' to %s: %s", r->table, r->function, why);
}

/* Pushes a short description of a value for an error message. */
static const char *describe(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TNUMBER)
    return lua_pushfstring(L, "%s", luaL_typename(L, index));
  if (isnan(lua_tonumber(L, index)))
    return lua_pushfstring(L, "nan"); /* whatever its sign */
  lua_pushvalue(L, index);            /* lua_tolstring changes a number in place */
  return lua_tostring(L, -1);
}

void weft_lua_expected(const weft_lua_reader *r, const char *what) {
  const char *got = describe(r->L, -1);
  weft_lua_option_error(r, r->name, lua_pushfstring(r->L, "expected %s, got %s", what, got));
}

/* Memory -------------------------------------------------------------------------------------- */

void weft_lua_anchor(weft_lua_reader *r) {
  lua_rawseti(r->L, r->anchors, (int)lua_rawlen(r->L, r->anchors) + 1);
}

void *weft_lua_scratch(weft_lua_reader *r, size_t count, size_t size) {
  void *memory = lua_newuserdata(r->L, count * size + 1);
  memset(memory, 0, count * size + 1);
  weft_lua_anchor(r);
  return memory;
}

const char *weft_lua_name(weft_lua_reader *r, const char *format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const char *name = lua_pushfstring(r->L, "%s", text);
  weft_lua_anchor(r);
  return name;
}

/* Tables -------------------------------------------------------------------------------------- */

static const weft_lua_option *find_option(const weft_lua_option *options, const char *name) {
  while (options->name && strcmp(options->name, name) != 0)
    options++;
  return options->name ? options : NULL;
}

/* Pushes "unknown option; known are latency, reply". */
static const char *describe_known(lua_State *L, const weft_lua_option *options) {
  lua_pushliteral(L, "unknown option; known are ");
  for (const weft_lua_option *option = options; option->name; option++) {
    lua_pushfstring(L, "%s%s", option == options ? "" : ", ", option->name);
    lua_concat(L, 2);
  }
  return lua_tostring(L, -1);
}

/* Raises when the table on top of the stack has a key that is no option. */
static void refuse_unknown(weft_lua_reader *r, const weft_lua_option *options) {
  lua_State *L = r->L;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    bool is_text = lua_type(L, -1) == LUA_TSTRING;
    const char *name = is_text ? lua_tostring(L, -1) : describe(L, -1);
    if (!is_text || !find_option(options, name))
      weft_lua_option_error(r, name, describe_known(L, options));
    lua_pop(L, 1);
  }
}

void weft_lua_read_options(weft_lua_reader *r, const weft_lua_option *options, void *fields) {
  luaL_checkstack(r->L, 16, "nested too deeply");
  refuse_unknown(r, options);
  for (; options->name; options++) {
    lua_pushstring(r->L, options->name);
    lua_rawget(r->L, -2);
    r->name = options->name;
    if (!lua_isnil(r->L, -1))
      options->read(r, (char *)fields + options->offset);
    lua_pop(r->L, 1);
  }
}

/* Raises unless the value on top of the stack is a table, for `r` to read. */
static void check_table(const weft_lua_reader *r) {
  if (!lua_istable(r->L, -1))
    weft_lua_table_error(
        r, lua_pushfstring(r->L, "expected a table, got %s", luaL_typename(r->L, -1)));
}

weft_lua_reader weft_lua_begin_reader(lua_State *L, int index, const char *table,
                                      const char *function) {
  lua_newtable(L);
  weft_lua_reader r = {L, function, table, "", "", lua_gettop(L)};
  lua_pushvalue(L, index);
  check_table(&r);
  return r;
}

weft_lua_reader weft_lua_nested(const weft_lua_reader *r, const char *table) {
  weft_lua_reader inner = *r;
  inner.table = table;
  inner.prefix = weft_lua_name(&inner, "%s.", table);
  return inner;
}

void weft_lua_read_nested(weft_lua_reader *r, const weft_lua_option *options, void *fields) {
  weft_lua_reader inner = weft_lua_nested(r, weft_lua_name(r, "%s%s", r->prefix, r->name));
  check_table(&inner);
  weft_lua_read_options(&inner, options, fields);
}

size_t weft_lua_count_pairs(lua_State *L) {
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
    count++;
  return count;
}

void *weft_lua_read_list(weft_lua_reader *r, const char *what, size_t size,
                         void (*read)(weft_lua_reader *r, void *item), size_t *count) {
  lua_State *L = r->L;
  *count = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
  if (!lua_istable(L, -1) || weft_lua_count_pairs(L) != *count)
    weft_lua_expected(r, what);
  luaL_checkstack(L, 16, "nested too deeply");
  char *items = weft_lua_scratch(r, *count, size);
  const char *list = weft_lua_name(r, "%s%s", r->prefix, r->name);
  for (size_t i = 0; i < *count; i++) {
    lua_rawgeti(L, -1, (int)i + 1);
    weft_lua_reader inner = weft_lua_nested(r, weft_lua_name(r, "%s[%d]", list, (int)i + 1));
    read(&inner, items + i * size);
    lua_pop(L, 1);
  }
  return items;
}

/* Values -------------------------------------------------------------------------------------- */

double weft_lua_number(weft_lua_reader *r, const char *what) {
  if (lua_type(r->L, -1) != LUA_TNUMBER)
    weft_lua_expected(r, what);
  return lua_tonumber(r->L, -1);
}

double weft_lua_whole(weft_lua_reader *r, double low, double high, const char *what) {
  double number = weft_lua_number(r, what);
  if (!(number >= low && number <= high) || floor(number) != number)
    weft_lua_expected(r, what);
  return number;
}

double weft_lua_seconds(weft_lua_reader *r, double high, const char *what) {
  double seconds = weft_lua_number(r, what);
  if (!(seconds >= 0 && seconds <= high))
    weft_lua_expected(r, what);
  return seconds;
}

const char *weft_lua_text(weft_lua_reader *r) {
  static const char what[] = "a string without zero bytes";
  if (lua_type(r->L, -1) != LUA_TSTRING)
    weft_lua_expected(r, what);
  size_t size;
  const char *text = lua_tolstring(r->L, -1, &size);
  if (strlen(text) != size)
    weft_lua_expected(r, what);
  return text; /* its table keeps it alive during the call */
}

int weft_lua_word(weft_lua_reader *r, const char *const *words, const char *what) {
  const char *text = lua_type(r->L, -1) == LUA_TSTRING ? lua_tostring(r->L, -1) : "";
  for (int i = 0; words[i]; i++)
    if (strcmp(words[i], text) == 0)
      return i;
  weft_lua_expected(r, what);
  return 0;
}

void weft_lua_read_seconds(weft_lua_reader *r, void *field) {
  *(double *)field = weft_lua_seconds(r, 1e9, "a number of seconds >= 0");
}

void weft_lua_read_text(weft_lua_reader *r, void *field) {
  *(const char **)field = weft_lua_text(r);
}

void weft_lua_read_flag(weft_lua_reader *r, void *field) {
  if (!lua_isboolean(r->L, -1))
    weft_lua_expected(r, "a boolean");
  *(int *)field = lua_toboolean(r->L, -1);
}

void weft_lua_read_some(weft_lua_reader *r, void *field) {
  *(double *)field = weft_lua_whole(r, 1, 1e9, "a whole number >= 1");
}
