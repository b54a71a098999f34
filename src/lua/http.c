/* http.c: one HTTP request as a blocking call.
 *
 * Owns a reference to each transfer, in a userdata that is made first. Entered by the state's
 * thread. Invariant: from its start until its end is taken, a transfer's userdata lies in the
 * options table, which is the call's first argument and so outlives the park; a transfer whose
 * userdata is collected is aborted.
 */
#include "errors.h"
#include "http.h"
#include "objects.h"
#include "state.h"

#include <string.h>

static const char class_name[] = "weft.http_transfer";
static const char call_name[] = "core.http_request";
static const char transfer_key; /* in the options table: the userdata of the running transfer */

typedef struct lua_transfer {
  weft_http_transfer *transfer; /* one reference, or NULL */
  weft_park *park;              /* whose waiter is queued: its object is this; or NULL */
  weft_error *error;            /* why there is no transfer */
} lua_transfer;

/* ---- the request ---- */

static weft_http_text text_at(lua_State *L, int index) {
  weft_http_text text;
  text.bytes = lua_tolstring(L, index, &text.size);
  return text;
}

enum { REQUEST = 1, CLIENT = 2 }; /* the arguments: tables of options */

/* The field stays on the stack, so that its text lives until the request has been copied. */
static weft_http_text push_text(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  if (lua_isnil(L, -1))
    return (weft_http_text){NULL, 0};
  if (lua_type(L, -1) != LUA_TSTRING)
    weft_bad_argument(L, call_name, name, "a string", lua_gettop(L));
  return text_at(L, -1);
}

/* Seconds above 0 as whole milliseconds, at least one; 0 for an absent field or infinity. */
static uint32_t milliseconds(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  double seconds =
      lua_isnil(L, -1) ? HUGE_VAL : weft_check_seconds(L, lua_gettop(L), call_name, name);
  lua_pop(L, 1);
  if (seconds == HUGE_VAL)
    return 0;
  double ms = ceil(seconds * 1e3);
  return ms < 1 ? 1 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

static size_t bytes(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  double count = lua_isnil(L, -1) ? 0
                                  : weft_check_number(L, lua_gettop(L), call_name, name, 1, 1e15,
                                                      "a number of bytes >= 1");
  lua_pop(L, 1);
  return (size_t)count;
}

static uint8_t flag(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  int is_set = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return (uint8_t)is_set;
}

/* Reads the list { name, value, name, value, … }, whose strings stay alive in it. */
static void read_headers(lua_State *L, weft_http_request *request) {
  lua_getfield(L, 1, "headers");
  if (lua_isnil(L, -1))
    return;
  luaL_checktype(L, -1, LUA_TTABLE);
  int list = lua_gettop(L);
  size_t count = weft_rawlen(L, list) / 2;
  weft_http_header *headers = lua_newuserdata(L, (count + 1) * sizeof *headers);
  for (size_t i = 0; i < count; i++)
    for (int part = 0; part < 2; part++) {
      lua_rawgeti(L, list, (int)i * 2 + part + 1);
      if (lua_type(L, -1) != LUA_TSTRING)
        weft_bad_argument(L, call_name, "headers", "a list of strings", list);
      *(part ? &headers[i].value : &headers[i].name) = text_at(L, -1);
      lua_pop(L, 1);
    }
  request->headers = headers;
  request->header_count = count;
}

static void read_limits(lua_State *L, weft_http_request *request) {
  for (uint8_t limit = WEFT_HTTP_CONNECT; limit < WEFT_HTTP_LIMITS; limit++)
    request->limits_ms[limit] = milliseconds(L, CLIENT, weft_http_limit_name(limit));
  lua_getfield(L, REQUEST, "total"); /* what is left of it, where there are several attempts */
  if (!lua_isnil(L, -1))
    request->limits_ms[WEFT_HTTP_TOTAL] = milliseconds(L, REQUEST, "total");
  lua_pop(L, 1);
}

static void read_client(lua_State *L, weft_http_request *request) {
  request->ca_file = push_text(L, CLIENT, "ca_file");
  request->cert_file = push_text(L, CLIENT, "cert_file");
  request->key_file = push_text(L, CLIENT, "key_file");
  request->key_password = push_text(L, CLIENT, "key_password");
  request->proxy = push_text(L, CLIENT, "proxy");
  request->max_body = bytes(L, CLIENT, "max_body");
  request->max_header = bytes(L, CLIENT, "max_header");
  lua_getfield(L, CLIENT, "redirects");
  request->redirects = (uint8_t)lua_tointeger(L, -1);
  lua_getfield(L, CLIENT, "quota"); /* stays in the options */
  request->quota = (weft_http_quota *)weft_to_handle(L, lua_gettop(L), &weft_http_quota_type);
  lua_pop(L, 2);
  request->decompress = flag(L, CLIENT, "decompress");
  request->no_http2 = flag(L, CLIENT, "no_http2");
}

static weft_http_request read_request(lua_State *L) {
  weft_http_request request = {0};
  request.method = push_text(L, REQUEST, "method");
  request.url = push_text(L, REQUEST, "url");
  request.body = push_text(L, REQUEST, "body");
  request.is_stream = flag(L, REQUEST, "stream");
  request.buffer = bytes(L, REQUEST, "buffer");
  read_headers(L, &request);
  read_client(L, &request);
  read_limits(L, &request);
  return request;
}

/* ---- the answer ---- */

static void push_lower(lua_State *L, weft_http_text name) {
  char small[64], *text = small;
  if (name.size > sizeof small)
    text = lua_newuserdata(L, name.size);
  for (size_t i = 0; i < name.size; i++) {
    char c = name.bytes[i];
    text[i] = c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
  }
  lua_pushlstring(L, text, name.size);
  if (text != small)
    lua_remove(L, -2);
}

/* Adds the value on top to the table, under the name below it: a second one makes a list. Returns
 * whether it did. */
static int add_header(lua_State *L, int headers) {
  int name = lua_gettop(L) - 1, value = name + 1;
  lua_pushvalue(L, name);
  lua_rawget(L, headers);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_rawset(L, headers);
    return 0;
  }
  if (!lua_istable(L, -1)) {
    lua_createtable(L, 2, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, name);
    lua_pushvalue(L, -2);
    lua_rawset(L, headers);
  }
  lua_pushvalue(L, value);
  lua_rawseti(L, -2, (int)weft_rawlen(L, -2) + 1);
  lua_settop(L, name - 1);
  return 1;
}

/* Replaces the list on top of the stack by its strings joined with ", ". */
static void join_list(lua_State *L) {
  luaL_Buffer b;
  int list = lua_gettop(L), count = (int)weft_rawlen(L, list);
  luaL_buffinit(L, &b);
  for (int i = 1; i <= count; i++) {
    if (i > 1)
      luaL_addstring(&b, ", ");
    lua_rawgeti(L, list, i);
    luaL_addvalue(&b);
  }
  luaL_pushresult(&b);
  lua_replace(L, list);
}

static void join_lists(lua_State *L, int headers) {
  lua_pushnil(L);
  while (lua_next(L, headers)) {
    if (lua_istable(L, -1)) {
      join_list(L);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, headers);
    } else {
      lua_pop(L, 1);
    }
  }
}

void weft_push_http_headers(lua_State *L, weft_http_text head) {
  weft_http_header header;
  size_t position = 0;
  int has_list = 0;
  lua_createtable(L, 0, 8);
  int headers = lua_gettop(L);
  while (weft_http_next_in(head, &position, &header)) {
    push_lower(L, header.name);
    lua_pushlstring(L, header.value.bytes, header.value.size);
    has_list |= add_header(L, headers);
  }
  if (has_list)
    join_lists(L, headers);
}

static void set_time(lua_State *L, const char *name, uint64_t ns) {
  if (!ns)
    return;
  lua_pushnumber(L, (double)ns / 1e9);
  lua_setfield(L, -2, name);
}

void weft_push_http_timings(lua_State *L, const weft_http_times *times) {
  lua_createtable(L, 0, 8);
  set_time(L, "launched", times->launched_ns);
  set_time(L, "connected", times->connected_ns);
  set_time(L, "first_byte", times->first_byte_ns);
  set_time(L, "total", times->total_ns);
  weft_push_integer(L, (int64_t)times->sent);
  lua_setfield(L, -2, "sent");
  weft_push_integer(L, (int64_t)times->received);
  lua_setfield(L, -2, "received");
  lua_pushboolean(L, times->is_reused);
  lua_setfield(L, -2, "reused");
  weft_push_integer(L, times->redirects);
  lua_setfield(L, -2, "redirects");
}

/* Headers and times as they are: few ask for them, and core.http_headers and core.http_timings make
 * the tables then. */
static void push_answer(lua_State *L, weft_http_transfer *transfer) {
  weft_http_text body = weft_http_body(transfer), head = weft_http_head(transfer);
  lua_createtable(L, 0, 4);
  weft_push_integer(L, weft_http_status(transfer));
  lua_setfield(L, -2, "status");
  lua_pushlstring(L, body.size ? body.bytes : "", body.size);
  lua_setfield(L, -2, "body");
  lua_pushlstring(L, head.size ? head.bytes : "", head.size);
  lua_setfield(L, -2, "_head");
  lua_pushlstring(L, (const char *)weft_http_times_of(transfer), sizeof(weft_http_times));
  lua_setfield(L, -2, "_times");
}

/*** The headers of an answer.
 * @function http_headers
 * @local
 * @tparam string head `_head` of @{http_request}
 * @treturn table by lower-case names; one that came several times is joined with ", "
 */
static int http_headers(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  weft_push_http_headers(L, text_at(L, 1));
  return 1;
}

/*** How long a request took, and what it moved.
 * @function http_timings
 * @local
 * @tparam string times `_times` of @{http_request}
 * @treturn table
 */
static int http_timings(lua_State *L) {
  weft_http_times times;
  luaL_checktype(L, 1, LUA_TSTRING);
  weft_http_text text = text_at(L, 1);
  luaL_argcheck(L, text.size == sizeof times, 1, "no times");
  memcpy(&times, text.bytes, sizeof times);
  weft_push_http_timings(L, &times);
  return 1;
}

/* ---- the call ---- */

/* A stream's waiter waits for the headers, another's for the end. */
static void unwait(weft_http_transfer *transfer, weft_waiter *waiter) {
  if (!weft_http_unread(transfer, waiter))
    weft_http_unwait(transfer, waiter);
}

/* A park that is left behind, as by a coroutine that was killed in it, may end before its transfer
 * is collected, or after. */
static void part(lua_transfer *self) {
  if (self->park)
    self->park->object = NULL;
  self->park = NULL;
}

static void drop(lua_transfer *self) {
  lua_transfer old = *self;
  part(self);
  *self = (lua_transfer){NULL, NULL, NULL};
  weft_error_release(old.error);
  if (!old.transfer)
    return;
  if (old.park)
    unwait(old.transfer, &old.park->waiter);
  if (!weft_http_is_finished(old.transfer))
    weft_http_abort(old.transfer);
  weft_http_transfer_release(old.transfer);
}

static int transfer_gc(lua_State *L) {
  drop(lua_touserdata(L, 1));
  return 0;
}

/* Takes the transfer's userdata, which is left on top of the stack, out of the options table. */
static lua_transfer *take_running(lua_State *L) {
  lua_rawgetp(L, 1, &transfer_key);
  lua_pushnil(L);
  lua_rawsetp(L, 1, &transfer_key);
  return lua_touserdata(L, -1);
}

/* What the message says in words, as fields of the error on top of the stack. */
static void add_failure(lua_State *L, const weft_http_failure *failure) {
  weft_push_integer(L, failure->code);
  lua_setfield(L, -2, "code");
  lua_pushboolean(L, failure->is_sent);
  lua_setfield(L, -2, "sent");
  weft_push_integer(L, (int64_t)failure->received);
  lua_setfield(L, -2, "received");
  if (failure->proxy_status) {
    weft_push_integer(L, failure->proxy_status);
    lua_setfield(L, -2, "proxy_status");
  }
  if (!failure->expired)
    return;
  lua_pushstring(L, weft_http_limit_name(failure->expired));
  lua_setfield(L, -2, "timeout");
  lua_pushnumber(L, failure->limit_ms / 1e3);
  lua_setfield(L, -2, "seconds");
}

void weft_push_http_error(weft_state *state, lua_State *L, weft_http_transfer *transfer) {
  weft_push_core_error(state, L, weft_http_error(transfer));
  add_failure(L, weft_http_failure_of(transfer));
}

/* The answer to an open stream: the transfer moves on. */
static int push_stream(weft_state *state, lua_State *L, lua_transfer *self) {
  lua_createtable(L, 0, 4);
  weft_push_integer(L, weft_http_status(self->transfer));
  lua_setfield(L, -2, "status");
  lua_pushstring(L, weft_http_framing(self->transfer));
  lua_setfield(L, -2, "framing");
  weft_push_http_headers(L, weft_http_head(self->transfer));
  lua_setfield(L, -2, "headers");
  weft_push_http_stream(state, L, &self->transfer);
  lua_setfield(L, -2, "_stream");
  drop(self);
  return 1;
}

/* Pushes what the call returns. The memory goes at once: the collector does not know its size. */
static int push_end(weft_state *state, lua_State *L, lua_transfer *self) {
  luaL_checkstack(L, 20, "answer");
  if (weft_http_has_head(self->transfer))
    return push_stream(state, L, self);
  weft_error *error = weft_http_error(self->transfer);
  if (error) {
    lua_pushnil(L);
    weft_push_http_error(state, L, self->transfer);
  } else {
    push_answer(L, self->transfer);
  }
  drop(self);
  return error ? 2 : 1;
}

static void leave_request(weft_park *park) {
  lua_transfer *self = park->object;
  if (!self)
    return;
  unwait(self->transfer, &park->waiter);
  part(self);
  weft_http_abort(self->transfer);
}

/* Also when the event has come: the park's memory is soon another's. */
static void abandon_request(weft_park *park, int source) {
  lua_transfer *self = park->object;
  (void)source;
  if (self)
    part(self);
}

static int finish_request(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  lua_transfer *self = take_running(L);
  (void)park;
  part(self);
  if (source == WEFT_PARK_EVENT)
    return push_end(state, L, self);
  drop(self);
  return weft_raise_context(state, L, weft_current_context(state, L, 0));
}

static const weft_park_op request_op = {"weft.http.request", finish_request,  NULL,
                                        leave_request,       abandon_request, 0};

/* Pushes a userdata with a new transfer. NULL: nil and an error lie above it. */
static lua_transfer *push_transfer(weft_state *state, lua_State *L,
                                   const weft_http_request *request) {
  lua_transfer *self = weft_new_userdata(L, sizeof *self);
  *self = (lua_transfer){NULL, NULL, NULL};
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  self->transfer = weft_http_transfer_new(request, &self->error);
  if (self->transfer)
    return self;
  lua_pushnil(L);
  weft_push_core_error(state, L, self->error);
  return NULL;
}

/*** Sends a request and blocks until the answer is complete. Checked and wrapped by weft.http.
 * @function http_request
 * @local
 * @tparam table request of this call alone: `url`, `method`, `body`: strings; `headers`: a list of
 *   names and values by turns; `stream`: boolean; `buffer`: bytes; `total`: seconds, goes before
 * the client's. Not for two calls at the same time
 * @tparam table client `connect`, `first_byte`, `idle`, `attempt`, `total`: seconds; `max_body`,
 *   `max_header`: bytes; `ca_file`, `cert_file`, `key_file`, `key_password`, `proxy`: strings;
 *   `redirects`: a number; `decompress`, `no_http2`: booleans; `quota`: of @{http_quota}
 * @treturn[1] table `status`, `body`, `_head`, `_times`; of a stream, as soon as the headers are
 *   there, `status`, `headers`, `framing`, `_stream`
 * @treturn[2] nil
 * @treturn[2] error of kind "timeout", "network", "tls", "too_large", "protocol", "invalid" (the
 *   request), "nomem" or "nothread"
 * @raise an error of kind "canceled" or "deadline" when the context is done first: the transfer is
 *   aborted; bad argument
 */
static int http_request(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  luaL_checktype(L, REQUEST, LUA_TTABLE);
  luaL_checktype(L, CLIENT, LUA_TTABLE);
  lua_settop(L, CLIENT);
  lua_rawgetp(L, 1, &transfer_key);
  if (!lua_isnil(L, -1))
    return luaL_error(L, "core.http_request: these options are in use by a call that runs");
  weft_http_request request = read_request(L);
  weft_park_begin(state, L, &request_op, NULL); /* raises before there is a transfer */
  lua_transfer *self = push_transfer(state, L, &request);
  if (!self)
    return 2;
  weft_park *park = weft_park_renew(state, L, &request_op, self);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, 1, &transfer_key);
  int rc = weft_http_start(self->transfer);
  if (rc != WEFT_OK) {
    drop(take_running(L));
    return weft_fail(state, L, "nothread", "HTTP request: %s", weft_strerror(rc));
  }
  if (!(request.is_stream ? weft_http_wait_head : weft_http_wait)(self->transfer, &park->waiter))
    return push_end(state, L, take_running(L));
  self->park = park;
  return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
}

/*** Makes limits that requests share: the field `quota` of their options.
 * @function http_quota
 * @local
 * @tparam integer total how many may be in flight at once; 0: no limit
 * @tparam integer per_host how many of them to one host; 0: no limit
 * @treturn http_quota a handle
 */
static int http_quota(lua_State *L) {
  uint32_t total = weft_check_count(L, 1, "core.http_quota", "total", 0, WEFT_MAX_COUNT);
  uint32_t per_host = weft_check_count(L, 2, "core.http_quota", "per_host", 0, WEFT_MAX_COUNT);
  weft_http_quota *quota = weft_http_quota_new(total, per_host);
  weft_adopt_handle(WEFT_STATE(L), L, (weft_handle *)quota);
  return 1;
}

void weft_open_http(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"__gc", transfer_gc, 0}, {NULL, NULL, 0}};
  static const weft_function quota_methods[] = {
      {"__gc", weft_object_gc, 0}, {"__tostring", weft_object_tostring, 0}, {NULL, NULL, 0}};
  static const weft_function functions[] = {{"http_request", http_request, WEFT_BLOCKS},
                                            {"http_quota", http_quota, 0},
                                            {"http_headers", http_headers, 0},
                                            {"http_timings", http_timings, 0},
                                            {NULL, NULL, 0}};
  weft_register(L, state, functions);
  lua_pushlightuserdata(L, NULL); /* JSON's null: the same value in every state */
  lua_setfield(L, -2, "null");
  weft_new_class(L, state, class_name, methods);
  lua_pop(L, 1);
  weft_new_class(L, state, weft_http_quota_type.name, quota_methods);
  weft_register_handle_class(L, &weft_http_quota_type);
  lua_pop(L, 1);
}
