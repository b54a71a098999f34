/* channel.c: channels in Lua: values are packed by the sender and unpacked by the receiver.
 *
 * Owns the parcel of a caller that is blocked here: in the memory of the task that it runs, whose
 * own parcel is empty meanwhile, or of the guest, or on the C stack of the main party, which never
 * yields. So a parked sender or receiver costs nothing. Entered by the state's thread; other
 * threads move parcels out of and into a queued slot. Invariant: when a call ends, however it ends,
 * the slot is empty.
 */
#include "../core/channel.h"
#include "../core/ticker.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

#include <string.h>

static const char class_name[] = "weft.channel", next_field[] = "next_value";
static const char unpack_key; /* of the function in the registry that unpacks */

static weft_channel *check_self(lua_State *L, const char *what) {
  return (weft_channel *)weft_check_handle(L, 1, &weft_channel_type, what, "self");
}

/* Reads the overflow policy at stack index 2; conflate sets the capacity. */
static int read_overflow(lua_State *L, uint32_t *capacity) {
  static const char expected[] = "'block', 'drop_old', 'drop_new' or 'conflate'";
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (lua_isnoneornil(L, 2) || strcmp(name, "block") == 0)
    return WEFT_BLOCK;
  if (strcmp(name, "drop_new") == 0)
    return WEFT_DROP_NEW;
  if (strcmp(name, "conflate") == 0) {
    if (*capacity > 1)
      weft_bad_argument(L, "weft.channel", "capacity", "0 or 1, since conflate keeps one value", 1);
    *capacity = 1;
  } else if (strcmp(name, "drop_old") != 0) {
    weft_bad_argument(L, "weft.channel", "overflow", expected, 2);
  } else if (*capacity == 0) {
    lua_settop(L, 2);
    weft_bad_argument(L, "weft.channel", "capacity", "a whole number >= 1 for drop_old", 1);
  }
  return WEFT_DROP_OLD;
}

/*** A queue of values between tasks, whatever states and threads they run on (Go: make(chan)). First
 * in, first out. Values are copied, handles such as other channels are shared. A channel can be
 * captured and sent like any handle; one that holds itself in its queue is never freed.
 * @function channel
 * @tparam[opt=0] integer capacity how many values it holds before send waits; with 0 send waits for
 *   a receiver. The memory, 56 bytes a value, is reserved at once
 * @tparam[opt="block"] string overflow what send does when the channel is full: "block" waits;
 * "drop_old" drops the oldest value; "drop_new" drops its own; "conflate" keeps one value, the
 * latest
 * @treturn channel
 * @raise bad argument
 */
static int new_channel(lua_State *L) {
  uint32_t capacity = 0;
  if (!lua_isnoneornil(L, 1))
    capacity = weft_check_count(L, 1, "weft.channel", "capacity", 0, WEFT_MAX_COUNT);
  int overflow = read_overflow(L, &capacity);
  weft_channel *channel = weft_channel_new_with(capacity, overflow);
  weft_adopt_handle(WEFT_STATE(L), L, channel ? &channel->handle : NULL);
  return 1;
}

static int raise_closed(lua_State *L, const char *what, const char *problem) {
  lua_pushfstring(L, "%s: %s", what, problem);
  weft_push_error(WEFT_STATE(L), L, "closed", lua_tostring(L, -1));
  weft_add_position(L, 1);
  return lua_error(L);
}

static int raise_canceled(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  return weft_raise_context(state, L, weft_current_context(state, L, 0));
}

/* ---- sending ---- */

/* The slot holds what was not accepted, or dropped in its favour. */
static int push_sent(lua_State *L, weft_parcel *slot, int rc) {
  weft_parcel_clear(slot);
  if (rc == WEFT_CLOSED)
    return raise_closed(L, "channel:send", "the channel is closed");
  lua_pushboolean(L, rc == WEFT_OK);
  return 1;
}

static int finish_send(lua_State *L, weft_park *park, int source) {
  if (source == WEFT_PARK_CANCELED)
    return raise_canceled(L);
  return push_sent(L, park->waiter.slot, weft_waiter_outcome(&park->waiter));
}

static void leave_send(weft_park *park) {
  weft_channel_unwait_send(park->object, &park->waiter);
  weft_parcel_clear(park->waiter.slot);
}

static void abandon_value(weft_park *park, int source) {
  (void)source;
  weft_parcel_clear(park->waiter.slot); /* what was received, or could not be sent */
}

static const weft_park_op send_op = {"channel:send", finish_send,   NULL,
                                     leave_send,     abandon_value, 1};

/*** Sends a copy of a value. Waits while the channel is full or, at capacity 0, until somebody
 * receives. Cancelled while it waits, it has not sent.
 * @function channel:send
 * @param value anything that can be sent, nil and false too
 * @treturn boolean true; false when a channel with "drop_new" was full and has dropped it
 * @raise an error of kind "closed" when the channel is or gets closed; what cannot be sent, with
 * its path; an error of kind "canceled" or "deadline" when the caller's context is done
 */
static int send_value(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_channel *channel = check_self(L, "channel:send");
  weft_parcel own;
  lua_settop(L, 2);
  weft_park_begin(state, L, &send_op, channel);
  weft_parcel *slot = weft_park_slot(state, &own);
  weft_to_parcel(state, L, 2, 1, "value", slot);
  weft_park *park = weft_park_renew(state, L, &send_op, channel);
  int rc = weft_channel_send_or_wait(channel, slot, &park->waiter);
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  return push_sent(L, slot, rc);
}

/*** Sends unless that would wait.
 * @function channel:try_send
 * @param value as for @{channel:send}
 * @treturn boolean whether it was sent; false: the channel is full, or at capacity 0 nobody waits
 * @raise an error of kind "closed"; what cannot be sent
 */
static int try_send(lua_State *L) {
  weft_channel *channel = check_self(L, "channel:try_send");
  weft_parcel value;
  weft_parcel_init(&value);
  lua_settop(L, 2);
  weft_to_parcel(WEFT_STATE(L), L, 2, 1, "value", &value);
  int rc = weft_channel_try_send(channel, &value);
  weft_parcel_clear(&value);
  if (rc == WEFT_CLOSED)
    return raise_closed(L, "channel:try_send", "the channel is closed");
  lua_pushboolean(L, rc == WEFT_OK);
  return 1;
}

/* ---- receiving ---- */

/* Bytes that C sent are a string. */
static void unpack(weft_state *state, lua_State *L, const weft_parcel *value) {
  if (value->count == 0)
    lua_pushlstring(L, (const char *)value->data, value->size);
  else if (!weft_decode_plain(L, value))
    weft_decode(state, L, value);
}

static int unpack_protected(lua_State *L) {
  unpack(weft_state_of(L), L, lua_touserdata(L, 1));
  return 1;
}

/* Pushes the value of the slot, which is empty afterwards even when unpacking raises. */
static void push_value(lua_State *L, weft_parcel *slot) {
  weft_parcel value;
  weft_parcel_move(&value, slot);
  if (!value.capacity && !value.last_handle) { /* it owns nothing */
    unpack(WEFT_STATE(L), L, &value);
    return;
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &unpack_key);
  lua_pushlightuserdata(L, &value);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_parcel_clear(&value);
  if (rc != 0)
    lua_error(L);
}

int weft_push_received(lua_State *L, weft_parcel *slot, int rc) {
  if (rc == WEFT_OK)
    push_value(L, slot);
  else
    lua_pushnil(L);
  lua_pushboolean(L, rc == WEFT_OK);
  return 2;
}

static int finish_recv(lua_State *L, weft_park *park, int source) {
  if (source == WEFT_PARK_CANCELED)
    return raise_canceled(L);
  return weft_push_received(L, park->waiter.slot, weft_waiter_outcome(&park->waiter));
}

static void leave_recv(weft_park *park) {
  weft_channel_unwait_recv(park->object, &park->waiter);
}

/* Takes a value, or waits for one; `push` is what the op's finish does with it. */
static int recv_with(lua_State *L, const weft_park_op *op,
                     int (*push)(lua_State *L, weft_parcel *slot, int rc)) {
  weft_state *state = WEFT_STATE(L);
  weft_channel *channel = check_self(L, op->what);
  weft_parcel own;
  weft_park *park = weft_park_begin(state, L, op, channel);
  weft_parcel *slot = weft_park_slot(state, &own);
  int rc = weft_channel_recv_or_wait(channel, slot, &park->waiter);
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  return push(L, slot, rc);
}

static const weft_park_op recv_op = {"channel:recv", finish_recv,   NULL,
                                     leave_recv,     abandon_value, 1};

/*** Receives the oldest value. Waits while there is none. A value that was handed over is returned
 * although the caller's context has been cancelled meanwhile: none is lost.
 * @function channel:recv
 * @return[1] the value, which may be nil or false
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] boolean false: the channel is closed and all its values have been received
 * @raise an error of kind "canceled" or "deadline" when the caller's context is done; a value that
 *   cannot be unpacked here (a metatable that is not registered), which is dropped
 */
static int recv_value(lua_State *L) {
  return recv_with(L, &recv_op, weft_push_received);
}

/*** Receives unless that would wait.
 * @function channel:try_recv
 * @return[1] the value, which may be nil or false
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] boolean false: the channel is closed and all its values have been received
 * @treturn[3] nil
 * @treturn[3] nil
 * @treturn[3] string "empty": there is nothing now
 * @raise a value that cannot be unpacked here, which is dropped
 */
static int try_recv(lua_State *L) {
  weft_channel *channel = check_self(L, "channel:try_recv");
  weft_parcel value;
  weft_parcel_init(&value);
  int rc = weft_channel_try_recv(channel, &value);
  if (rc != WEFT_WOULD_WAIT)
    return weft_push_received(L, &value, rc);
  lua_pushnil(L);
  lua_pushnil(L);
  lua_pushliteral(L, "empty");
  return 3;
}

/* A nil would end the loop in silence, with its senders blocked for ever. */
static int push_next(lua_State *L, weft_parcel *slot, int rc) {
  weft_push_received(L, slot, rc);
  if (rc == WEFT_OK && lua_isnil(L, -2))
    return luaL_error(L, "channel:iter: a nil was received, which would end the loop; use "
                         "channel:recv, or send false");
  lua_pop(L, 1);
  return 1;
}

static int finish_next(lua_State *L, weft_park *park, int source) {
  if (source == WEFT_PARK_CANCELED)
    return raise_canceled(L);
  return push_next(L, park->waiter.slot, weft_waiter_outcome(&park->waiter));
}

static const weft_park_op next_op = {"channel:iter", finish_next,
                                     NULL,           leave_recv,
                                     abandon_value,  WEFT_PARK_HOLDS_HANDLE | WEFT_PARK_STEPS};

static int next_value(lua_State *L) {
  return recv_with(L, &next_op, push_next);
}

/*** Iterates over the values until the channel is closed: `for v in ch:iter() do` (Go: for range).
 * False is a value like others. A nil cannot be told from the end by Lua's loop, so it raises: who
 * sends nil receives with `recv`.
 * @function channel:iter
 * @treturn function an iterator that waits as @{channel:recv} does, and the channel
 * @raise in the loop: a nil was received; what @{channel:recv} raises
 */
static int iter(lua_State *L) {
  check_self(L, "channel:iter");
  lua_getmetatable(L, 1);
  lua_getfield(L, -1, next_field);
  lua_pushvalue(L, 1);
  return 2;
}

/* ---- both sides ---- */

/*** Takes no more values; those that it holds can still be received. Wakes all who wait: senders
 * raise, receivers get nil, false.
 * @function channel:close
 * @raise an error of kind "closed" when it was closed before
 */
static int close_channel(lua_State *L) {
  if (weft_channel_close(check_self(L, "channel:close")) != WEFT_OK)
    return raise_closed(L, "channel:close", "the channel was closed before");
  return 0;
}

/*** Stops the channel of @{ticker} or @{after}: it gets no more ticks. What it holds can still be
 * received; it is not closed, so that nobody takes that for a tick.
 * @function channel:stop
 * @treturn boolean whether a tick was still to come
 * @raise when it is another channel
 */
static int stop(lua_State *L) {
  weft_channel *channel = check_self(L, "channel:stop");
  if (!channel->ticker)
    return luaL_error(L, "channel:stop: not a channel of weft.ticker or weft.after");
  lua_pushboolean(L, weft_ticker_stop(channel->ticker));
  return 1;
}

/*** How many values have been dropped, by a channel that drops when it is full.
 * @function channel:dropped
 * @treturn integer
 */
static int dropped(lua_State *L) {
  weft_push_integer(L, (int64_t)weft_channel_dropped(check_self(L, "channel:dropped")));
  return 1;
}

/*** How many values a channel holds before send waits.
 * @function channel:capacity
 * @treturn integer
 */
static int capacity(lua_State *L) {
  weft_push_integer(L, weft_channel_capacity(check_self(L, "channel:capacity")));
  return 1;
}

/*** `#ch`: how many values are queued; those of blocked senders do not count.
 * @function channel:__len
 * @treturn integer
 */
static int length(lua_State *L) {
  weft_push_integer(L, weft_channel_length(check_self(L, "#channel")));
  return 1;
}

void weft_open_channel(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"send", send_value, WEFT_BLOCKS},
                                          {"try_send", try_send, 0},
                                          {"recv", recv_value, WEFT_BLOCKS},
                                          {"try_recv", try_recv, 0},
                                          {"iter", iter, 0},
                                          {"close", close_channel, 0},
                                          {"capacity", capacity, 0},
                                          {"dropped", dropped, 0},
                                          {"stop", stop, 0},
                                          {"__len", length, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function functions[] = {{"channel", new_channel, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, class_name, methods);
  weft_push_function(L, state, next_value, WEFT_BLOCKS);
  lua_setfield(L, -2, next_field);
  weft_register_handle_class(L, &weft_channel_type);
  lua_pop(L, 1);
  lua_pushcfunction(L, unpack_protected);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &unpack_key);
}
