/* time.c: now and sleep.
 *
 * Owns the timer of each sleeping caller, from start to finish. Entered by the state's thread.
 * Invariant: a timer is stopped or has fired before its memory is freed.
 */
#include "clock.h"
#include "errors.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"
#include "state.h"

#include <stdio.h>

/*** The monotonic clock.
 * @function now
 * @treturn number seconds since an arbitrary moment, the same for all threads
 */
static int now(lua_State *L) {
  lua_pushnumber(L, (double)weft_clock_now_ns() / 1e9);
  return 1;
}

static void leave_sleep(weft_park *park) {
  weft_timer_stop(&((weft_wait_timer *)park->object)->timer);
}

static int finish_sleep(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  weft_free(park->object);
  return source == WEFT_PARK_EVENT
             ? 0
             : weft_raise_context(state, L, weft_current_context(state, L, 0));
}

static void abandon_sleep(weft_park *park, int source) {
  (void)source;
  weft_free(park->object);
}

static void describe_sleep(const weft_park *park, char *text, size_t size) {
  uint64_t at_ns = ((weft_wait_timer *)park->object)->timer.at_ns, now_ns = weft_clock_now_ns();
  if (at_ns == WEFT_NEVER_NS)
    snprintf(text, size, "for ever");
  else
    snprintf(text, size, "%.3f s to go", at_ns > now_ns ? (double)(at_ns - now_ns) / 1e9 : 0.0);
}

static const weft_park_op sleep_op = {
    "weft.sleep", finish_sleep, NULL, leave_sleep, abandon_sleep, 0, describe_sleep};
static const weft_park_op advance_op = {
    "clock:advance", finish_sleep, NULL, leave_sleep, abandon_sleep, 0, describe_sleep};

/* `is_last`: after everything else that is due at that moment. */
static int sleep_for(lua_State *L, const weft_park_op *op, double seconds, int is_last) {
  weft_state *state = WEFT_STATE(L);
  weft_park *park = weft_park_begin(state, L, op, NULL);
  weft_wait_timer *timer = weft_malloc(sizeof *timer);
  if (!timer)
    return luaL_error(L, "not enough memory");
  park->object = timer;
  weft_wait_timer_init(timer, &park->wait, WEFT_PARK_EVENT);
  timer->timer.is_last = (uint8_t)is_last;
  int rc = weft_timer_start(&timer->timer, weft_clock_after_s(seconds));
  if (rc != 0) {
    weft_free(timer);
    return luaL_error(L, "%s: the I/O thread could not be started (error %d)", op->what, rc);
  }
  return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
}

/*** Blocks the caller alone for a time.
 * @function sleep
 * @tparam number seconds >= 0; math.huge sleeps until the context is done
 * @raise an error of kind "canceled" or "deadline" when the context is done first; bad argument
 */
static int sleep_seconds(lua_State *L) {
  return sleep_for(L, &sleep_op, weft_check_seconds(L, 1, "weft.sleep", "seconds"), 0);
}

int weft_sleep_last(lua_State *L, double seconds) {
  return sleep_for(L, &advance_op, seconds, 1);
}

void weft_open_time(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"now", now, 0}, {"sleep", sleep_seconds, WEFT_BLOCKS}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
}
