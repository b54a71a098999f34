/* http_stream.c: reading an answer while it arrives: bytes, server-sent events, lines.
 *
 * Owns a reference to the transfer and the parser of its body, in one userdata. Entered by the
 * state's thread. Invariants: bytes that were taken from the transfer are parsed before more are; a
 * body is read in one way only; while results are being pushed, which may run finalizers, nobody
 * reads.
 */
#include "../core/lines.h"

#include "errors.h"
#include "http.h"
#include "objects.h"
#include "sse.h"
#include "state.h"

#include <stdio.h>

static const char class_name[] = "weft.http_stream";
static const char next_field[] = "next_of_loop";

enum { STREAM_KILOBYTES = 24 };

/* How the body is read. */
enum { UNDECIDED, BYTES, EVENTS, LINES };

typedef struct lua_stream {
  weft_http_transfer *transfer; /* one reference, bound to a context until closed */
  union {
    weft_http_text bytes;
    weft_sse sse;
    weft_lines lines;
  } body;
  uint8_t mode, is_closed;
  uint8_t is_busy; /* results are being pushed; for ever when that ran out of memory */
  uint8_t is_loop; /* for the call that runs: an error raises */
} lua_stream;

static const char *const mode_names[] = {"", "chunks", "events", "lines"};

/* ---- life ---- */

static void free_body(lua_stream *self) {
  if (self->mode == EVENTS)
    weft_sse_free(&self->body.sse);
  else if (self->mode == LINES)
    weft_lines_free(&self->body.lines);
  self->mode = UNDECIDED;
}

/* The reference stays until the userdata goes: others may be parked on it. */
static void close_stream(lua_stream *self) {
  if (self->is_closed || !self->transfer)
    return;
  self->is_closed = 1;
  weft_http_unbind(self->transfer);
  if (!weft_http_is_finished(self->transfer))
    weft_http_abort(self->transfer);
  if (!self->is_busy)
    weft_http_discard(self->transfer);
}

static int stream_gc(lua_State *L) {
  lua_stream *self = lua_touserdata(L, 1);
  close_stream(self);
  free_body(self);
  weft_http_transfer_release(self->transfer);
  self->transfer = NULL;
  return 0;
}

/* The collector does not see what a stream holds outside of Lua. It is told, so that it comes by
 * before dropped ones have used up all descriptors. */
static void press_collector(lua_State *L) {
  if (lua_gc(L, LUA_GCISRUNNING, 0))
    lua_gc(L, LUA_GCSTEP, STREAM_KILOBYTES);
}

void weft_push_http_stream(weft_state *state, lua_State *L, weft_http_transfer **transfer) {
  press_collector(L);
  lua_stream *self = weft_new_userdata(L, sizeof *self);
  *self = (lua_stream){0};
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  self->transfer = *transfer;
  *transfer = NULL;
  weft_http_bind(self->transfer, weft_current_context(state, L, 0));
}

static lua_stream *check_self(lua_State *L, const char *what) {
  return weft_check_class(L, 1, class_name, what);
}

/* ---- failing: in a loop an error raises, since nobody could miss it ---- */

/* Nil and an error are on top of the stack. */
static int give_error(lua_State *L, const lua_stream *self) {
  if (!self->is_loop)
    return 2;
  weft_add_position(L, 1);
  return lua_error(L);
}

static int fail(lua_State *L, const lua_stream *self, const char *kind, const char *message) {
  weft_fail(WEFT_STATE(L), L, kind, "%s", message);
  return give_error(L, self);
}

/* The rest of the body is of no use. */
static int fail_parsing(lua_State *L, lua_stream *self, int code, const char *unit, size_t most) {
  if (code == WEFT_TOO_LARGE)
    weft_fail(WEFT_STATE(L), L, "too_large", "the stream has %s of more than %zu bytes", unit,
              most);
  else
    weft_fail(WEFT_STATE(L), L, "nomem", "not enough memory for %s of the stream", unit);
  self->is_busy = 0;
  weft_http_abort(self->transfer);
  return give_error(L, self);
}

/* ---- what a body is made of: each pushes one result and returns how many values it is, or 0 when
 * more must arrive ---- */

static int take_bytes(lua_State *L, lua_stream *self) {
  weft_http_text *bytes = &self->body.bytes;
  if (!bytes->size)
    return 0;
  lua_pushlstring(L, bytes->bytes, bytes->size);
  bytes->size = 0;
  return 1;
}

static int take_event(lua_State *L, lua_stream *self) {
  weft_sse_event event;
  int rc = weft_sse_next(&self->body.sse, &event);
  if (rc == WEFT_WOULD_WAIT)
    return 0;
  if (rc != WEFT_OK)
    return fail_parsing(L, self, rc, "an event", self->body.sse.max_event);
  weft_push_sse_event(L, &event);
  return 1;
}

static int push_line(lua_State *L, lua_stream *self, int rc, const char *line, size_t size) {
  if (rc != WEFT_OK)
    return fail_parsing(L, self, rc, "a line", self->body.lines.max_line);
  lua_pushlstring(L, line, size);
  return 1;
}

static int take_line(lua_State *L, lua_stream *self) {
  const char *line;
  size_t size;
  int rc = weft_lines_next(&self->body.lines, &line, &size);
  return rc == WEFT_WOULD_WAIT ? 0 : push_line(L, self, rc, line, size);
}

static int take_last_line(lua_State *L, lua_stream *self) {
  const char *line;
  size_t size;
  int rc = weft_lines_rest(&self->body.lines, &line, &size);
  if (rc == WEFT_CLOSED)
    return 0;
  int count = push_line(L, self, rc, line, size);
  if (rc != WEFT_OK)
    return count;
  lua_pushnil(L);
  lua_pushboolean(L, 1);
  return 3;
}

static int take(lua_State *L, lua_stream *self) {
  self->is_busy = 1;
  int count = self->mode == EVENTS  ? take_event(L, self)
              : self->mode == LINES ? take_line(L, self)
                                    : take_bytes(L, self);
  self->is_busy = 0;
  return count;
}

static void feed(lua_stream *self, weft_http_text bytes) {
  if (self->mode == EVENTS)
    weft_sse_feed(&self->body.sse, bytes.bytes, bytes.size);
  else if (self->mode == LINES)
    weft_lines_feed(&self->body.lines, bytes.bytes, bytes.size);
  else
    self->body.bytes = bytes;
}

/* ---- reading ---- */

/* Nothing is left. */
static int give_end(lua_State *L, lua_stream *self) {
  weft_error *error = weft_http_error(self->transfer);
  weft_http_unbind(self->transfer);
  if (error) {
    lua_pushnil(L);
    weft_push_http_error(WEFT_STATE(L), L, self->transfer);
    return give_error(L, self);
  }
  int count = self->mode == LINES ? take_last_line(L, self) : 0;
  if (count)
    return count;
  lua_pushnil(L);
  return 1;
}

static int finish_read(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  (void)park;
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return WEFT_AGAIN;
}

static void leave_read(weft_park *park) {
  weft_http_unread(park->object, &park->waiter);
}

/* Takes what has arrived: WEFT_AGAIN; or waits for it, or ends, with what the call returns. */
static int get_more(lua_State *L, lua_stream *self, weft_park *park) {
  weft_state *state = WEFT_STATE(L);
  weft_http_text bytes;
  switch (weft_http_read(self->transfer, &bytes, &park->waiter)) {
  case WEFT_OK:
    feed(self, bytes);
    return WEFT_AGAIN;
  case WEFT_WOULD_WAIT:
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  case WEFT_CLOSED:
    return give_end(L, self);
  default:
    return fail(L, self, "canceled", weft_strerror(WEFT_FORKED));
  }
}

static void describe_read(const weft_park *park, char *text, size_t size) {
  weft_http_transfer *transfer = park->object;
  snprintf(text, size, "the answer of %s, status %d", weft_http_origin(transfer),
           weft_http_status(transfer));
}

static int read_one(lua_State *L);
static int next_of_loop(lua_State *L);

#define READ(name)                                                                                 \
  { "stream:" name, finish_read, read_one, leave_read, NULL, WEFT_PARK_HOLDS_HANDLE, describe_read }
#define LOOP(name)                                                                                 \
  {                                                                                                \
    "stream:" name, finish_read, next_of_loop, leave_read, NULL,                                   \
        WEFT_PARK_HOLDS_HANDLE | WEFT_PARK_STEPS, describe_read                                    \
  }
/* By mode. */
static const weft_park_op reads[] = {READ("read"), READ("read"), READ("read_event"),
                                     READ("read_line")};
static const weft_park_op loops[] = {LOOP("chunks"), LOOP("chunks"), LOOP("events"), LOOP("lines")};

static int read_next(lua_State *L, const weft_park_op *ops, int is_loop) {
  int count;
  do {
    lua_settop(L, 1);
    lua_stream *self = check_self(L, ops->what);
    const weft_park_op *op = &ops[self->mode];
    self->is_loop = (uint8_t)is_loop;
    if (self->is_busy)
      return luaL_error(L, "%s: the response is being read already, or ran out of memory",
                        op->what);
    if (self->is_closed)
      return fail(L, self, "closed", "the response has been closed");
    weft_park *park = weft_park_begin(WEFT_STATE(L), L, op, self->transfer);
    count = take(L, self);
    if (!count)
      count = get_more(L, self, park);
  } while (count == WEFT_AGAIN);
  return count;
}

/*** The next part of the body in the way that it is read.
 * @function http_stream:read
 * @local
 * @treturn[1] string|table chunk, event or line
 * @treturn[1] nil
 * @treturn[1] ?boolean true for a line that no LF ended
 * @treturn[2] nil at the end
 * @treturn[3] nil
 * @treturn[3] error
 * @raise when the caller's context is done
 */
static int read_one(lua_State *L) {
  return read_next(L, reads, 0);
}

/* The same as the iterator of a loop: an error raises. */
static int next_of_loop(lua_State *L) {
  return read_next(L, loops, 1);
}

/*** Says how the body is to be read. The first call decides.
 * @function http_stream:open
 * @local
 * @tparam string mode "bytes", "events" or "lines"
 * @tparam[opt] number most bytes of an event or a line
 * @treturn ?string how it is read already, when that is another way
 */
static int open_body(lua_State *L) {
  static const char *const names[] = {"", "bytes", "events", "lines", NULL};
  lua_stream *self = check_self(L, "response");
  uint8_t mode = (uint8_t)luaL_checkoption(L, 2, NULL, names);
  size_t most = (size_t)luaL_optnumber(L, 3, 0);
  if (self->mode == UNDECIDED) {
    self->body.bytes = (weft_http_text){NULL, 0};
    if (mode == EVENTS)
      weft_sse_init(&self->body.sse, most);
    else if (mode == LINES)
      weft_lines_init(&self->body.lines, most);
    self->mode = mode;
  }
  if (self->mode == mode)
    return 0;
  lua_pushstring(L, mode_names[self->mode]);
  return 1;
}

/*** What a loop goes over; an error raises there.
 * @function http_stream:loop
 * @local
 * @treturn function an iterator, and the stream
 */
static int push_loop(lua_State *L) {
  check_self(L, "response");
  lua_getmetatable(L, 1);
  lua_getfield(L, -1, next_field);
  lua_pushvalue(L, 1);
  return 2;
}

/*** Gives up what was not read, and aborts the transfer.
 * @function http_stream:close
 * @local
 */
static int close_by_call(lua_State *L) {
  close_stream(check_self(L, "response:close"));
  return 0;
}

/*** How long it took.
 * @function http_stream:timings
 * @local
 * @treturn ?table nil while the transfer runs
 */
static int timings(lua_State *L) {
  lua_stream *self = check_self(L, "response:timings");
  if (!weft_http_is_finished(self->transfer))
    return 0;
  weft_push_http_timings(L, weft_http_times_of(self->transfer));
  return 1;
}

void weft_open_http_stream(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"read", read_one, WEFT_BLOCKS},
                                          {"open", open_body, 0},
                                          {"loop", push_loop, 0},
                                          {"close", close_by_call, 0},
                                          {"timings", timings, 0},
                                          {"__gc", stream_gc, 0},
                                          {NULL, NULL, 0}};
  weft_new_class(L, state, class_name, methods);
  weft_push_function(L, state, next_of_loop, WEFT_BLOCKS);
  lua_setfield(L, -2, next_field);
  lua_pop(L, 1);
}
