/* lua_model_options.c: reads and checks the Lua tables that describe a model server and its
 * faults.
 *
 * Owns nothing: what it reads stays in Lua's memory. Only the thread that runs the Lua state
 * enters. Invariant: each table of options has one list here, which is all that reads it, refuses
 * unknown keys and names a wrong value; an error leaves nothing behind.
 */
#include "lua_model_options.h"

#include <lauxlib.h>

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#if LUA_VERSION_NUM < 502
#define lua_rawlen lua_objlen
#endif

/* Reading options ----------------------------------------------------------------------------- */

/* Where a table of options is read, and how errors name it. */
typedef struct reader {
  lua_State *L;
  const char *function; /* whose argument it is */
  const char *table;    /* the table's own name, as "faults[2]" */
  const char *prefix;   /* of its options' names, as "faults[2]." */
  const char *name;     /* of the option that is read now */
  int anchors;          /* index of a table that keeps memory alive until the call ends */
} reader;

typedef struct option {
  const char *name;
  /* Reads the value on top of the stack, or raises; leaves the stack as it was. */
  void (*read)(reader *r, void *field);
  size_t offset; /* of the field in the struct that is filled */
} option;

/* Raises. */
static void option_error(const reader *r, const char *name, const char *why) {
  luaL_error(r->L, "bad argument '%s%s' to %s: %s", r->prefix, name, r->function, why);
}

/* Raises: it is about the table as a whole. */
static void table_error(const reader *r, const char *why) {
  luaL_error(r->L, "bad argument '%s' to %s: %s", r->table, r->function, why);
}

/* Pushes a short description of a value for an error message. */
static const char *describe(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TNUMBER)
    return lua_pushfstring(L, "%s", luaL_typename(L, index));
  if (isnan(lua_tonumber(L, index)))
    return lua_pushfstring(L, "nan"); /* whatever its sign */
  lua_pushvalue(L, index); /* lua_tolstring changes a number in place */
  return lua_tostring(L, -1);
}

/* Raises: the value on top of the stack is not what was expected. */
static void expected(const reader *r, const char *what) {
  const char *got = describe(r->L, -1);
  option_error(r, r->name, lua_pushfstring(r->L, "expected %s, got %s", what, got));
}

static double read_number(reader *r, const char *what) {
  if (lua_type(r->L, -1) != LUA_TNUMBER)
    expected(r, what);
  return lua_tonumber(r->L, -1);
}

static double read_whole(reader *r, double low, double high, const char *what) {
  double number = read_number(r, what);
  if (!(number >= low && number <= high) || floor(number) != number)
    expected(r, what);
  return number;
}

static double read_seconds_or_more(reader *r, double high, const char *what) {
  double seconds = read_number(r, what);
  if (!(seconds >= 0 && seconds <= high))
    expected(r, what);
  return seconds;
}

static void read_seconds(reader *r, void *field) {
  *(double *)field = read_seconds_or_more(r, 1e9, "a number of seconds >= 0");
}

static void read_text(reader *r, void *field) {
  static const char what[] = "a string without zero bytes";
  if (lua_type(r->L, -1) != LUA_TSTRING)
    expected(r, what);
  size_t size;
  const char *text = lua_tolstring(r->L, -1, &size);
  if (strlen(text) != size)
    expected(r, what);
  *(const char **)field = text; /* its table keeps it alive during the call */
}

static const option *find_option(const option *options, const char *name) {
  while (options->name && strcmp(options->name, name) != 0)
    options++;
  return options->name ? options : NULL;
}

/* Raises when the table on top of the stack has a key that is no option. */
static void refuse_unknown(reader *r, const option *options) {
  lua_State *L = r->L;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    bool is_text = lua_type(L, -1) == LUA_TSTRING;
    const char *name = is_text ? lua_tostring(L, -1) : describe(L, -1);
    if (!is_text || !find_option(options, name))
      option_error(r, name, "unknown option");
    lua_pop(L, 1);
  }
}

/* Reads the table on top of the stack into a struct; `options` ends with a NULL name. */
static void read_options(reader *r, const option *options, void *fields) {
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

/* Of the table on top of the stack. */
static size_t count_pairs(lua_State *L) {
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
    count++;
  return count;
}

/* Memory for the time of the call. */
static void *scratch(reader *r, size_t count, size_t size) {
  void *memory = lua_newuserdata(r->L, count * size + 1);
  memset(memory, 0, count * size + 1);
  lua_rawseti(r->L, r->anchors, (int)lua_rawlen(r->L, r->anchors) + 1);
  return memory;
}

/* Faults -------------------------------------------------------------------------------------- */

static weft_model_fault no_fault(void) {
  return (weft_model_fault){.retry_after = -1, .stall = INFINITY};
}

/* `field` is always the whole fault here: several options say which kind it is. */
static weft_model_fault *set_kind(reader *r, void *field, weft_model_fault_kind kind) {
  weft_model_fault *fault = field;
  if (fault->kind != WEFT_MODEL_FAULT_NONE)
    option_error(r, r->name, "a fault has only one of status, reset, truncate, stall, garbage");
  fault->kind = kind;
  return fault;
}

static void read_status(reader *r, void *field) {
  double status = read_whole(r, 400, 599, "an HTTP status from 400 to 599");
  set_kind(r, field, WEFT_MODEL_FAULT_STATUS)->status = (int)status;
}

static void read_reset(reader *r, void *field) {
  if (lua_type(r->L, -1) != LUA_TSTRING || strcmp(lua_tostring(r->L, -1), "before") != 0)
    expected(r, "\"before\"");
  set_kind(r, field, WEFT_MODEL_FAULT_RESET);
}

static void read_truncate(reader *r, void *field) {
  double size = read_whole(r, 0, 1e15, "a whole number of bytes >= 0");
  set_kind(r, field, WEFT_MODEL_FAULT_TRUNCATE)->truncate = (size_t)size;
}

static void read_stall(reader *r, void *field) {
  static const char what[] = "a number of seconds >= 0 (math.huge: until the client closes)";
  double seconds = read_seconds_or_more(r, INFINITY, what);
  set_kind(r, field, WEFT_MODEL_FAULT_STALL)->stall = seconds;
}

static void read_garbage(reader *r, void *field) {
  if (!lua_isboolean(r->L, -1))
    expected(r, "a boolean");
  if (lua_toboolean(r->L, -1))
    set_kind(r, field, WEFT_MODEL_FAULT_GARBAGE);
}

static void read_times(reader *r, void *field) {
  static const char what[] = "a whole number >= 1, or -1 or math.huge for ever";
  double times = read_number(r, what);
  bool forever = times == -1 || times == HUGE_VAL;
  *(int64_t *)field = forever ? WEFT_MODEL_FOREVER : (int64_t)read_whole(r, 1, 1e15, what);
}

static const option fault_options[] = {
    {"model", read_text, offsetof(weft_model_fault, model)},
    {"times", read_times, offsetof(weft_model_fault, times)},
    {"delay", read_seconds, offsetof(weft_model_fault, delay)},
    {"status", read_status, 0},
    {"retry_after", read_seconds, offsetof(weft_model_fault, retry_after)},
    {"message", read_text, offsetof(weft_model_fault, message)},
    {"reset", read_reset, 0},
    {"truncate", read_truncate, 0},
    {"stall", read_stall, 0},
    {"garbage", read_garbage, 0},
    {NULL, NULL, 0},
};

/* Reads the table on top of the stack; `times` stays 0 when it is not there. */
static weft_model_fault read_fault_table(reader *r) {
  weft_model_fault fault = no_fault();
  read_options(r, fault_options, &fault);
  if (fault.kind != WEFT_MODEL_FAULT_STATUS && fault.retry_after >= 0)
    option_error(r, "retry_after", "it belongs to a status");
  if (fault.kind != WEFT_MODEL_FAULT_STATUS && fault.message)
    option_error(r, "message", "it belongs to a status");
  if (fault.kind == WEFT_MODEL_FAULT_NONE && fault.delay == 0)
    table_error(r, "expected one of status, reset, truncate, stall, garbage, delay");
  return fault;
}

/* One entry of a script. */
static weft_model_fault read_scripted(reader *r) {
  weft_model_fault fault = read_fault_table(r);
  if (fault.times == 0)
    fault.times = 1;
  return fault;
}

/* Reads a table inside of the table; leaves its prefix on the stack. */
static reader nested(const reader *r, const char *table) {
  reader inner = *r;
  inner.table = table;
  inner.prefix = lua_pushfstring(r->L, "%s.", table);
  return inner;
}

/* Raises unless the value on top of the stack is a table, for `r` to read. */
static void check_table(const reader *r) {
  if (!lua_istable(r->L, -1))
    table_error(r, lua_pushfstring(r->L, "expected a table, got %s", luaL_typename(r->L, -1)));
}

static void read_faults(reader *r, void *field) {
  weft_model_config *config = field;
  lua_State *L = r->L;
  size_t count = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
  if (!lua_istable(L, -1) || count_pairs(L) != count)
    expected(r, "a list of faults");
  weft_model_fault *faults = scratch(r, count, sizeof *faults);
  for (size_t i = 0; i < count; i++) {
    reader inner = nested(r, lua_pushfstring(L, "faults[%d]", (int)i + 1));
    lua_rawgeti(L, -3, (int)i + 1);
    check_table(&inner);
    faults[i] = read_scripted(&inner);
    lua_pop(L, 3);
  }
  config->faults = faults;
  config->fault_count = count;
}

static void read_random_fault(reader *r, void *field) {
  reader inner = nested(r, "fault");
  lua_pushvalue(r->L, -2);
  check_table(&inner);
  weft_model_fault fault = read_fault_table(&inner);
  lua_pop(r->L, 2);
  if (fault.times != 0)
    option_error(&inner, "times", "a random fault has no times, only a fault_rate");
  *(weft_model_fault *)field = fault;
}

/* The server's options ------------------------------------------------------------------------ */

static void read_port(reader *r, void *field) {
  *(uint16_t *)field = (uint16_t)read_whole(r, 0, 65535, "a port from 0 to 65535");
}

static void read_seed(reader *r, void *field) {
  *(uint64_t *)field = (uint64_t)read_whole(r, 0, 0x1p53, "a whole number from 0 to 2^53");
}

static void read_record(reader *r, void *field) {
  *(size_t *)field = (size_t)read_whole(r, 0, 1e6, "a whole number from 0 to 1000000");
}

static void read_rate(reader *r, void *field) {
  static const char what[] = "a number from 0 to 1";
  double rate = read_number(r, what);
  if (!(rate >= 0 && rate <= 1))
    expected(r, what);
  *(double *)field = rate;
}

static void read_replies(reader *r, void *field) {
  weft_model_config *config = field;
  lua_State *L = r->L;
  if (!lua_istable(L, -1))
    expected(r, "a table of texts by model name");
  weft_model_canned *replies = scratch(r, count_pairs(L), sizeof *replies);
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1), count++) {
    lua_pushvalue(L, -2);
    read_text(r, &replies[count].model);
    lua_pop(L, 1);
    read_text(r, &replies[count].text);
  }
  config->replies = replies;
  config->reply_count = count;
}

static const option server_options[] = {
    {"port", read_port, offsetof(weft_model_config, port)},
    {"api_key", read_text, offsetof(weft_model_config, api_key)},
    {"reply", read_text, offsetof(weft_model_config, reply)},
    {"replies", read_replies, 0},
    {"latency", read_seconds, offsetof(weft_model_config, latency)},
    {"jitter", read_seconds, offsetof(weft_model_config, jitter)},
    {"seed", read_seed, offsetof(weft_model_config, seed)},
    {"faults", read_faults, 0},
    {"fault_rate", read_rate, offsetof(weft_model_config, fault_rate)},
    {"fault", read_random_fault, offsetof(weft_model_config, fault)},
    {"record", read_record, offsetof(weft_model_config, record)},
    {NULL, NULL, 0},
};

/* Starts to read the table at `index`; leaves it on top of the stack. */
static reader new_reader(lua_State *L, int index, const char *table, const char *function) {
  lua_newtable(L);
  reader r = {L, function, table, "", "", lua_gettop(L)};
  lua_pushvalue(L, index);
  check_table(&r);
  return r;
}

void weft_lua_model_config(lua_State *L, int index, weft_model_config *config) {
  weft_model_config_init(config);
  if (lua_isnoneornil(L, index))
    return;
  reader r = new_reader(L, index, "options", "weft.testing.model_server");
  config->fault = no_fault();
  read_options(&r, server_options, config);
  bool described = config->fault.kind != WEFT_MODEL_FAULT_NONE || config->fault.delay > 0;
  if (described && config->fault_rate == 0)
    option_error(&r, "fault", "it needs a fault_rate above 0");
  if (!described) {
    config->fault.kind = WEFT_MODEL_FAULT_STATUS;
    config->fault.status = 503;
  }
}

weft_model_fault weft_lua_model_fault(lua_State *L, int index, const char *function) {
  reader r = new_reader(L, index, "fault", function);
  return read_scripted(&r);
}

double weft_lua_opt_seconds(lua_State *L, int index, double otherwise, const char *name,
                            const char *function) {
  if (lua_isnoneornil(L, index))
    return otherwise;
  reader r = {L, function, "", "", name, 0};
  lua_pushvalue(L, index);
  double seconds = read_seconds_or_more(&r, HUGE_VAL, "a number of seconds >= 0");
  lua_pop(L, 1);
  return seconds;
}
