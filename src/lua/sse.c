/* sse.c: the parser of server-sent events in Lua.
 *
 * Owns one parser for each userdata. Entered by the state's thread. Invariant: while a parser's
 * events are being pushed, which may run finalizers, nobody feeds it.
 */
#include "sse.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

#include <string.h>

static const char class_name[] = "weft.sse";

typedef struct lua_sse {
  weft_sse sse;
  uint8_t is_busy; /* its events are being pushed; for ever when that ran out of memory */
} lua_sse;

static void push_text(lua_State *L, weft_sse_text text) {
  lua_pushlstring(L, text.bytes, text.size);
}

void weft_push_sse_event(lua_State *L, const weft_sse_event *event) {
  lua_createtable(L, 0, event->retry_ms >= 0 ? 4 : 3);
  push_text(L, event->type);
  lua_setfield(L, -2, "type");
  push_text(L, event->data);
  lua_setfield(L, -2, "data");
  push_text(L, event->id);
  lua_setfield(L, -2, "id");
  if (event->retry_ms < 0)
    return;
  lua_pushnumber(L, (double)event->retry_ms / 1e3);
  lua_setfield(L, -2, "retry");
}

int weft_push_sse_failure(weft_state *state, lua_State *L, int code, size_t max_event) {
  if (code == WEFT_TOO_LARGE)
    return weft_fail(state, L, "too_large", "an event is larger than max_event (%zu bytes)",
                     max_event);
  return weft_fail(state, L, "nomem", "not enough memory for an event");
}

static lua_sse *check_self(lua_State *L, const char *what) {
  return weft_check_class(L, 1, class_name, what);
}

/* The first option that is not known, or a wrong value, raises. */
static size_t read_options(lua_State *L) {
  static const char what[] = "weft.sse", expected[] = "a whole number of bytes >= 1";
  if (lua_isnoneornil(L, 1))
    return 0;
  if (!lua_istable(L, 1))
    weft_bad_argument(L, what, "options", "a table", 1);
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING || strcmp(lua_tostring(L, -1), "max_event") != 0)
      luaL_error(L, "bad option '%s' to weft.sse: known are max_event",
                 lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1));
  }
  lua_getfield(L, 1, "max_event");
  if (lua_isnil(L, -1))
    return 0;
  double bytes = weft_check_number(L, lua_gettop(L), what, "max_event", 1, 1e15, expected);
  if (bytes != floor(bytes))
    weft_bad_argument(L, what, "max_event", expected, lua_gettop(L));
  return (size_t)bytes;
}

/*** A parser of server-sent events (`text/event-stream`), after the WHATWG's rules: for bytes that
 * come from elsewhere than @{weft.http.request}, whose answers have `events`. It belongs to one Lua
 * state.
 * @function sse
 * @tparam[opt] table options
 * @tparam[opt=8388608] integer options.max_event bytes that data, type and id of one event may have
 * together
 * @treturn sse
 * @raise bad argument or unknown option
 */
static int new_sse(lua_State *L) {
  size_t max_event = read_options(L);
  lua_sse *self = weft_new_userdata(L, sizeof *self);
  weft_sse_init(&self->sse, max_event);
  self->is_busy = 0;
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  return 1;
}

static int push_events(lua_State *L, weft_sse *sse) {
  weft_sse_event event;
  int count = 0, rc;
  while ((rc = weft_sse_next(sse, &event)) == WEFT_OK) {
    weft_push_sse_event(L, &event);
    lua_rawseti(L, 3, ++count);
  }
  return rc;
}

/*** Parses the next piece of the stream, which may be cut anywhere. What no empty line has ended
 * yet is kept; at the end of the stream it does not count.
 * @function sse:feed
 * @tparam string bytes
 * @treturn[1] table the events that are complete now, in order, maybe none: each a table with
 * `type`
 *   ("message" unless the stream names another), `data` (lines joined by LF), `id` (the last one
 * that was sent, "" for none) and, when the server sent it since the last event, `retry` (seconds)
 * @treturn[2] nil
 * @treturn[2] error of kind "too_large" (`max_event`) or "nomem"; from then on always
 * @treturn[2] table the events of this piece that came before
 * @raise bad argument 'bytes'
 */
static int feed(lua_State *L) {
  lua_sse *self = check_self(L, "sse:feed");
  size_t size;
  lua_settop(L, 2);
  if (lua_type(L, 2) != LUA_TSTRING)
    weft_bad_argument(L, "sse:feed", "bytes", "a string", 2);
  if (self->is_busy)
    return luaL_error(L, "sse:feed: the parser is being fed already, or ran out of memory");
  const char *bytes = lua_tolstring(L, 2, &size);
  lua_newtable(L);
  luaL_checkstack(L, 8, "events");
  self->is_busy = 1;
  weft_sse_feed(&self->sse, bytes, size);
  int rc = push_events(L, &self->sse);
  self->is_busy = 0;
  if (rc == WEFT_WOULD_WAIT)
    return 1;
  weft_push_sse_failure(WEFT_STATE(L), L, rc, self->sse.max_event);
  lua_pushvalue(L, 3);
  return 3;
}

static int sse_gc(lua_State *L) {
  lua_sse *self = lua_touserdata(L, 1);
  weft_sse_free(&self->sse);
  return 0;
}

static int sse_tostring(lua_State *L) {
  lua_pushfstring(L, "weft.sse: %p", (void *)check_self(L, "tostring"));
  return 1;
}

void weft_open_sse(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {
      {"feed", feed, 0}, {"__gc", sse_gc, 0}, {"__tostring", sse_tostring, 0}, {NULL, NULL, 0}};
  static const weft_function functions[] = {{"sse", new_sse, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, class_name, methods);
  lua_pushliteral(L, "make it inside of the task, or send the events");
  lua_setfield(L, -2, "__weft_advice");
  lua_pop(L, 1);
}
