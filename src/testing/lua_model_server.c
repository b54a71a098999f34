/* lua_model_server.c: the module weft.testing.server: the model server as a Lua userdata.
 *
 * Owns the server of each userdata. Only the thread that runs the Lua state enters. Invariant: a
 * resource belongs to a userdata with a finalizer before it is acquired, so that no Lua error can
 * leak it.
 */
#include <lauxlib.h>
#include <lua.h>

#include <math.h>
#include <signal.h>
#include <string.h>

#include "lua_model_matcher.h"
#include "lua_model_options.h"
#include "model_server.h"

static const char server_type[] = "weft.testing.server";
static const char snapshot_type[] = "weft.testing.server.snapshot";

typedef struct handle {
  weft_model_server *server; /* owned; NULL once closed */
  void *matcher;             /* owned; lives longer than the server; NULL: not needed */
  int port;                  /* stays after closing */
} handle;

/* The server ---------------------------------------------------------------------------------- */

static handle *check_handle(lua_State *L) {
  handle *h = luaL_testudata(L, 1, server_type);
  if (!h)
    luaL_error(L, "bad argument 'self' to a method of a model server: expected one, got %s",
               luaL_typename(L, 1));
  return h;
}

static weft_model_server *check_server(lua_State *L) {
  handle *h = check_handle(L);
  if (!h->server)
    luaL_error(L, "the model server is closed");
  return h->server;
}

/* Only a server with patterns needs one. */
static void make_matcher(lua_State *L, handle *h, weft_model_config *config) {
  bool needed = false;
  for (size_t i = 0; i < config->rule_count; i++)
    needed |= config->rules[i].pattern != NULL;
  if (!needed)
    return;
  h->matcher = weft_lua_matcher_new();
  if (!h->matcher)
    luaL_error(L, "not enough memory");
  config->matches = weft_lua_matches;
  config->matcher = h->matcher;
}

/*** Starts a model server; weft.testing.model_server documents the options.
@function start
@tparam[opt] table options
@treturn[1] server the server, which listens already
@treturn[2] nil
@treturn[2] string why it could not start, as "cannot listen on 127.0.0.1:80: Permission denied"
@raise when an option is unknown or has a wrong value; the error names the option */
static int start(lua_State *L) {
  char error[WEFT_MODEL_ERROR_SIZE];
  weft_model_config config;
  lua_settop(L, 1);
  weft_lua_model_config(L, 1, &config);
  handle *h = lua_newuserdata(L, sizeof *h);
  *h = (handle){0};
  luaL_getmetatable(L, server_type);
  lua_setmetatable(L, -2);
  make_matcher(L, h, &config);
  h->server = weft_model_server_start(&config, error);
  if (!h->server) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  h->port = weft_model_server_port(h->server);
  return 1;
}

/*** Closes the port and all connections. Blocks until the server's thread has ended, which does not
wait for clients. Closing again does nothing; a server that was dropped is closed by its finalizer,
on Lua 5.4 also by `local server <close>`.
@function server:close */
static int server_close(lua_State *L) {
  handle *h = check_handle(L);
  weft_model_server *server = h->server;
  h->server = NULL;
  weft_model_server_stop(server);
  weft_lua_matcher_free(h->matcher);
  h->matcher = NULL;
  return 0;
}

/*** Appends a fault to the script: it meets the next request that matches it and that no earlier
fault takes.
@function server:fault
@tparam table fault as an entry of `faults`, see weft.testing.model_server
@raise when the fault is malformed (the error names the field), or the server is closed */
static int server_fault(lua_State *L) {
  weft_model_server *server = check_server(L);
  lua_settop(L, 2);
  weft_model_fault fault = weft_lua_model_fault(L, 2, "server:fault");
  if (weft_model_server_add_fault(server, &fault) != 0)
    luaL_error(L, "not enough memory");
  return 0;
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  lua_pushinteger(L, (lua_Integer)count);
  lua_setfield(L, -2, name);
}

/*** Counts what happened so far. A client that has its answer sees it counted.
@function server:stats
@treturn table of whole numbers: `connections` (accepted), `open` (now), `requests` (received
  completely), `rejected` (malformed or too large), `faults` (that met requests), `abandoned` (the
  client closed before the answer), `in_flight` (now), `max_in_flight`, `starved` (how often no
  descriptor was left for a connection, which then had to wait)
@raise when the server is closed */
static int server_stats(lua_State *L) {
  weft_model_stats stats = weft_model_server_stats(check_server(L));
  lua_createtable(L, 0, 9);
  set_count(L, "connections", stats.connections);
  set_count(L, "open", stats.open);
  set_count(L, "requests", stats.requests);
  set_count(L, "rejected", stats.rejected);
  set_count(L, "faults", stats.faults);
  set_count(L, "abandoned", stats.abandoned);
  set_count(L, "in_flight", stats.in_flight);
  set_count(L, "max_in_flight", stats.max_in_flight);
  set_count(L, "starved", stats.starved);
  return 1;
}

/* What was received --------------------------------------------------------------------------- */

typedef struct snapshot {
  const weft_model_request **requests; /* owned */
  size_t count;
} snapshot;

static int snapshot_gc(lua_State *L) {
  snapshot *s = luaL_checkudata(L, 1, snapshot_type);
  weft_model_requests_free(s->requests, s->count);
  *s = (snapshot){0};
  return 0;
}

static const snapshot *take_snapshot(lua_State *L, weft_model_server *server) {
  snapshot *s = lua_newuserdata(L, sizeof *s);
  *s = (snapshot){0};
  luaL_getmetatable(L, snapshot_type);
  lua_setmetatable(L, -2);
  s->requests = weft_model_server_requests(server, &s->count);
  if (!s->requests)
    luaL_error(L, "not enough memory");
  return s;
}

/* Pushes a header's name in lower case. */
static void push_lower(lua_State *L, const char *name) {
  luaL_Buffer lower;
  luaL_buffinit(L, &lower);
  for (; *name; name++)
    luaL_addchar(&lower, (char)(*name >= 'A' && *name <= 'Z' ? *name | 0x20 : *name));
  luaL_pushresult(&lower);
}

static void push_headers(lua_State *L, const weft_model_request *request) {
  lua_createtable(L, 0, (int)request->header_count);
  for (size_t i = 0; i < request->header_count; i++) {
    push_lower(L, request->headers[i].name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1))
      lua_pushstring(L, request->headers[i].value);
    else /* sent more than once */
      lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), request->headers[i].value);
    lua_remove(L, -2);
    lua_rawset(L, -3);
  }
}

static void push_request(lua_State *L, const weft_model_request *request) {
  lua_createtable(L, 0, 7);
  lua_pushinteger(L, (lua_Integer)request->connection);
  lua_setfield(L, -2, "connection");
  lua_pushnumber(L, request->time);
  lua_setfield(L, -2, "time");
  lua_pushstring(L, request->method);
  lua_setfield(L, -2, "method");
  lua_pushstring(L, request->path);
  lua_setfield(L, -2, "path");
  lua_pushstring(L, request->model);
  lua_setfield(L, -2, "model");
  lua_pushlstring(L, request->body, request->body_size);
  lua_setfield(L, -2, "body");
  push_headers(L, request);
  lua_setfield(L, -2, "headers");
}

/*** Lists what was received, oldest first: the last `record` complete requests, whatever was
answered.
@function server:requests
@treturn {table,...} each with `method`, `path` (with its query), `model` (nil when the body names
  none), `connection` (which one, from 1), `time` (when it was complete, on the clock of weft.now),
`headers` (by lower-case name; repeated ones joined by ", ") and `body`
@raise when the server is closed */
static int server_requests(lua_State *L) {
  const snapshot *s = take_snapshot(L, check_server(L));
  lua_createtable(L, (int)s->count, 0);
  for (size_t i = 0; i < s->count; i++) {
    push_request(L, s->requests[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_pushcfunction(L, snapshot_gc);
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0); /* now, not when the collector finds time */
  return 1;
}

/* Waiting, fields, module --------------------------------------------------------------------- */

/*** Blocks until a signal asks to end, or the time is up. The signal does not run its handler. For
scripts that are nothing but a server.
@function server:join
@tparam[opt=math.huge] number seconds how long to wait
@treturn[1] string the signal: "INT", "TERM" or "HUP"
@treturn[1] int its number; by convention the exit status is 128 more
@treturn[2] nil the time is up
@raise when the server is closed */
static int server_join(lua_State *L) {
  check_server(L);
  double seconds = weft_lua_opt_seconds(L, 2, HUGE_VAL, "seconds", "server:join");
  int number = weft_model_server_join(seconds);
  if (number == 0)
    return 0;
  lua_pushstring(L, number == SIGINT ? "INT" : number == SIGTERM ? "TERM" : "HUP");
  lua_pushinteger(L, number);
  return 2;
}

static const char *push_origin(lua_State *L, const handle *h) {
  return lua_pushfstring(L, "http://127.0.0.1:%d", h->port);
}

static const char *push_url(lua_State *L, const handle *h) {
  return lua_pushfstring(L, "%s/v1", push_origin(L, h));
}

/* The methods are upvalue 1. */
static int server_index(lua_State *L) {
  handle *h = check_handle(L);
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  if (!lua_isnil(L, -1) || lua_type(L, 2) != LUA_TSTRING)
    return 1;
  const char *name = lua_tostring(L, 2);
  if (strcmp(name, "url") == 0)
    push_url(L, h);
  else if (strcmp(name, "origin") == 0)
    push_origin(L, h);
  else if (strcmp(name, "port") == 0)
    lua_pushinteger(L, h->port);
  return 1;
}

static int server_tostring(lua_State *L) {
  handle *h = check_handle(L);
  lua_pushfstring(L, "%s (%s%s)", server_type, push_url(L, h), h->server ? "" : ", closed");
  return 1;
}

static const luaL_Reg methods[] = {
    {"close", server_close},       {"fault", server_fault}, {"stats", server_stats},
    {"requests", server_requests}, {"join", server_join},   {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", server_close},
    {"__close", server_close}, /* Lua 5.4 */
    {"__tostring", server_tostring},
    {NULL, NULL},
};

static const luaL_Reg functions[] = {{"start", start}, {NULL, NULL}};

static void make_types(lua_State *L) {
  luaL_newmetatable(L, snapshot_type);
  lua_pushcfunction(L, snapshot_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newmetatable(L, server_type);
  luaL_setfuncs(L, metamethods, 0);
  lua_pushliteral(L, "a server belongs to the state that started it; capture its url");
  lua_setfield(L, -2, "__weft_advice");
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushcclosure(L, server_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

__attribute__((visibility("default"))) int luaopen_weft_testing_server(lua_State *L);

int luaopen_weft_testing_server(lua_State *L) {
  make_types(L);
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  return 1;
}
