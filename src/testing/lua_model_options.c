/* lua_model_options.c: the options of a model server.
 *
 * Owns nothing. Only the thread that runs the Lua state enters. Invariant: see lua_model_reader.c.
 */
#include "lua_model_options.h"

#include <lauxlib.h>

#include <math.h>
#include <string.h>

static void read_port(weft_lua_reader *r, void *field) {
  *(uint16_t *)field = (uint16_t)weft_lua_whole(r, 0, 65535, "a port from 0 to 65535");
}

static void read_seed(weft_lua_reader *r, void *field) {
  *(uint64_t *)field = (uint64_t)weft_lua_whole(r, 0, 0x1p53, "a whole number from 0 to 2^53");
}

static void read_record(weft_lua_reader *r, void *field) {
  *(size_t *)field = (size_t)weft_lua_whole(r, 0, 1e6, "a whole number from 0 to 1000000");
}

static void read_connections(weft_lua_reader *r, void *field) {
  *(size_t *)field = (size_t)weft_lua_whole(r, 1, 1e6, "a whole number from 1 to 1000000");
}

static void read_dimensions(weft_lua_reader *r, void *field) {
  *(size_t *)field = (size_t)weft_lua_whole(r, 1, 4096, "a whole number from 1 to 4096");
}

static void read_rate(weft_lua_reader *r, void *field) {
  static const char what[] = "a number from 0 to 1";
  double rate = weft_lua_number(r, what);
  if (!(rate >= 0 && rate <= 1))
    weft_lua_expected(r, what);
  *(double *)field = rate;
}

static void read_faults(weft_lua_reader *r, void *field) {
  weft_model_config *config = field;
  config->faults = weft_lua_read_list(r, "a list of faults", sizeof *config->faults,
                                      weft_lua_read_scripted, &config->fault_count);
}

/* One random fault, or a list of them. */
static void read_random(weft_lua_reader *r, void *field) {
  weft_model_config *config = field;
  lua_State *L = r->L;
  bool list = false;
  if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, 1);
    list = !lua_isnil(L, -1);
    lua_pop(L, 1);
  }
  if (list) {
    config->random = weft_lua_read_list(r, "a list of faults", sizeof *config->random,
                                        weft_lua_read_random, &config->random_count);
    return;
  }
  weft_model_fault *fault = weft_lua_scratch(r, 1, sizeof *fault);
  weft_lua_reader inner = weft_lua_nested(r, "fault");
  weft_lua_read_random(&inner, fault);
  config->random = fault;
  config->random_count = 1;
}

static void read_model(weft_lua_reader *r, void *field) {
  if (lua_type(r->L, -1) != LUA_TSTRING)
    weft_lua_table_error(
        r, lua_pushfstring(r->L, "expected the name of a model, got %s", luaL_typename(r->L, -1)));
  *(const char **)field = weft_lua_text(r);
}

static void read_models(weft_lua_reader *r, void *field) {
  weft_model_config *config = field;
  config->models = weft_lua_read_list(r, "a list of names", sizeof *config->models, read_model,
                                      &config->model_count);
  if (config->model_count == 0)
    weft_lua_expected(r, "at least one name");
}

static void read_headers(weft_lua_reader *r, void *field) {
  weft_model_config *config = field;
  config->headers = weft_lua_read_headers(r, &config->header_count);
}

static void read_limit(weft_lua_reader *r, void *field) {
  *(double *)field = weft_lua_whole(r, 0, 1e15, "a whole number >= 0");
}

static void read_window(weft_lua_reader *r, void *field) {
  static const char what[] = "a number of seconds above 0";
  double seconds = weft_lua_seconds(r, 1e9, what);
  if (seconds == 0)
    weft_lua_expected(r, what);
  *(double *)field = seconds;
}

#define FIELD(name) offsetof(weft_model_config, name)

static const weft_lua_option limit_options[] = {
    {"requests", read_limit, FIELD(requests_per_window)},
    {"tokens", read_limit, FIELD(tokens_per_window)},
    {"window", read_window, FIELD(window)},
    {NULL, NULL, 0},
};

static void read_limits(weft_lua_reader *r, void *field) {
  weft_lua_read_nested(r, limit_options, field);
}

static const weft_lua_option server_options[] = {
    {"port", read_port, FIELD(port)},
    {"api_key", weft_lua_read_text, FIELD(api_key)},
    {"replies", weft_lua_read_replies, 0},
    {"reply", weft_lua_read_reply, 0},
    {"models", read_models, 0},
    {"dimensions", read_dimensions, FIELD(dimensions)},
    {"headers", read_headers, 0},
    {"rate_limits", read_limits, 0},
    {"stream", weft_lua_read_stream, FIELD(style)},
    {"wire", weft_lua_read_wire, FIELD(style)},
    {"latency", weft_lua_read_seconds, FIELD(latency)},
    {"jitter", weft_lua_read_seconds, FIELD(jitter)},
    {"seed", read_seed, FIELD(seed)},
    {"faults", read_faults, 0},
    {"fault_rate", read_rate, FIELD(fault_rate)},
    {"fault", read_random, 0},
    {"record", read_record, FIELD(record)},
    {"connections", read_connections, FIELD(connections)},
    {NULL, NULL, 0},
};

/* What a random fault is when nothing is said. */
static void set_usual_fault(weft_lua_reader *r, weft_model_config *config) {
  weft_model_fault *fault = weft_lua_scratch(r, 1, sizeof *fault);
  *fault = weft_model_no_fault();
  fault->kind = WEFT_MODEL_FAULT_STATUS;
  fault->status = 503;
  config->random = fault;
  config->random_count = 1;
}

void weft_lua_model_config(lua_State *L, int index, weft_model_config *config) {
  weft_model_config_init(config);
  if (lua_isnoneornil(L, index))
    return;
  weft_lua_reader r = weft_lua_begin_reader(L, index, "options", "weft.testing.model_server");
  weft_lua_read_options(&r, server_options, config);
  if (config->random_count && config->fault_rate == 0)
    weft_lua_option_error(&r, "fault", "it needs a fault_rate above 0");
  if (!config->random_count)
    set_usual_fault(&r, config);
}

double weft_lua_opt_seconds(lua_State *L, int index, double otherwise, const char *name,
                            const char *function) {
  if (lua_isnoneornil(L, index))
    return otherwise;
  weft_lua_reader r = {L, function, "", "", name, 0};
  lua_pushvalue(L, index);
  double seconds = weft_lua_seconds(&r, HUGE_VAL, "a number of seconds >= 0");
  lua_pop(L, 1);
  return seconds;
}
