/* ticker.c: channels that time sends to: after and ticker.
 *
 * Owns nothing: a ticker belongs to its channel. Entered by the state's thread; ticks are written
 * on the I/O thread, without Lua. Invariant: a tick is the bytes that the encoder would write for
 * the same number.
 */
#include "../core/ticker.h"

#include "encode.h"
#include "errors.h"
#include "objects.h"
#include "state.h"

#include <errno.h>
#include <string.h>

/* A tick is the time on the scale of weft.now, as the encoder would write it. */
static void stamp(weft_parcel *value, uint64_t at_ns) {
  lua_Number seconds = (lua_Number)at_ns / 1e9;
  value->data[0] = 0;
  value->data[1] = WEFT_TAG_FLOAT;
  memcpy(value->data + 2, &seconds, sizeof seconds);
  value->size = 2 + sizeof seconds;
  value->count = 1;
}

static int push_channel(lua_State *L, const char *what, double delay, double period) {
  int error;
  weft_channel *channel = weft_ticker_channel(delay, period, stamp, &error);
  if (!channel && error != ENOMEM)
    return luaL_error(L, "%s: the I/O thread could not be started (error %d)", what, error);
  weft_adopt_handle(WEFT_STATE(L), L, channel ? &channel->handle : NULL);
  return 1;
}

/*** A channel that gets one value after a time: what @{now} says then (Go: time.After). For
 * @{select}, or to be received from; it can be sent to other tasks.
 * @function after
 * @tparam number seconds >= 0; math.huge for never
 * @treturn channel
 * @raise bad argument 'seconds'
 */
static int after(lua_State *L) {
  return push_channel(L, "weft.after", weft_check_seconds(L, 1, "weft.after", "seconds"), 0);
}

/*** A channel that gets a value again and again: what @{now} says then (Go: time.NewTicker). It
 * holds one tick: who receives too slowly misses others. It ends when nobody holds the channel any
 * more, or with @{channel:stop}, or
 * @{channel:close}, which ends loops over it.
 * @function ticker
 * @tparam number seconds from one tick to the next, > 0
 * @treturn channel
 * @raise bad argument 'seconds'
 */
static int ticker(lua_State *L) {
  double seconds =
      weft_check_number(L, 1, "weft.ticker", "seconds", 1e-9, HUGE_VAL, "a number of seconds > 0");
  return push_channel(L, "weft.ticker", seconds, seconds);
}

void weft_open_ticker(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"after", after, 0}, {"ticker", ticker, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
}
