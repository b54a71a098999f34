/* virtual_clock.c: the virtual clock in Lua, for tests.
 *
 * Owns the process's one virtual clock, in a userdata that ends it. Entered by the state's thread.
 * Invariant: the clock is virtual from the making of the userdata to its close.
 */
#include "clock.h"
#include "errors.h"
#include "io.h"
#include "mem.h"
#include "objects.h"
#include "random.h"
#include "state.h"
#include "timer.h"

typedef struct virtual_clock {
  uint64_t start_ns;
  uint8_t is_open;
} virtual_clock;

static const char class_name[] = "weft.virtual_clock";

static virtual_clock *check_clock(lua_State *L, const char *what) {
  virtual_clock *clock = weft_check_class(L, 1, class_name, what);
  if (!clock->is_open)
    luaL_error(L, "%s: the virtual clock was closed", what);
  return clock;
}

/*** Makes time virtual for the whole process.
 * @function virtual_clock
 * @local
 * @tparam[opt] integer seed
 * @treturn virtual_clock
 */
static int start(lua_State *L) {
  uint64_t seed = (uint64_t)luaL_optnumber(L, 1, 0);
  virtual_clock *clock = weft_new_userdata(L, sizeof *clock);
  *clock = (virtual_clock){0};
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  if (!weft_clock_start_virtual())
    return luaL_error(L, "weft.testing.virtual_clock: there is one already; close it first");
  clock->is_open = 1;
  clock->start_ns = weft_clock_now_ns();
  weft_timers_shuffle(seed);
  weft_random_seed(seed);
  return 1;
}

/*** Ends the virtual clock: time goes on by itself, from where it stands. Also what `<close>` does.
 * @function virtual_clock:close
 */
static int close_clock(lua_State *L) {
  virtual_clock *clock = weft_check_class(L, 1, class_name, "clock:close");
  if (!clock->is_open)
    return 0;
  clock->is_open = 0;
  weft_timers_shuffle(0);
  weft_random_seed(0);
  weft_clock_stop_virtual();
  if (weft_io_start() == 0)
    weft_io_wake(); /* what is due next, in real time? */
  return 0;
}

/*** The virtual time.
 * @function virtual_clock:now
 * @treturn number seconds, as @{now}
 */
static int now(lua_State *L) {
  check_clock(L, "clock:now");
  lua_pushnumber(L, (double)weft_clock_now_ns() / 1e9);
  return 1;
}

/*** How much virtual time has gone by.
 * @function virtual_clock:elapsed
 * @treturn number seconds since the clock was made
 */
static int elapsed(lua_State *L) {
  virtual_clock *clock = check_clock(L, "clock:elapsed");
  lua_pushnumber(L, (double)(weft_clock_now_ns() - clock->start_ns) / 1e9);
  return 1;
}

static int clock_tostring(lua_State *L) {
  lua_pushliteral(L, "weft virtual clock");
  return 1;
}

/*** Lets virtual time go by: returns when all that is due until then has happened, and whatever
 * followed from it has come to rest.
 * @function virtual_clock:advance
 * @tparam number seconds >= 0; 0: what is due now
 * @raise an error of kind "canceled" or "deadline" when the caller's context is done first; bad
 * argument
 */
static int advance(lua_State *L) {
  check_clock(L, "clock:advance");
  return weft_sleep_last(L, weft_check_seconds(L, 2, "clock:advance", "seconds"));
}

/*** A number that looks random; under a virtual clock with a seed always the same one.
 * @function random
 * @local
 * @treturn number from 0 up to, but not, 1
 */
static int random_fraction(lua_State *L) {
  lua_pushnumber(L, weft_random_fraction());
  return 1;
}

void weft_open_virtual_clock(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"virtual_clock", start, 0}, {"random", random_fraction, 0}, {NULL, NULL, 0}};
  static const weft_function methods[] = {{"now", now, 0},
                                          {"elapsed", elapsed, 0},
                                          {"advance", advance, WEFT_BLOCKS},
                                          {"close", close_clock, 0},
                                          {"__close", close_clock, 0},
                                          {"__gc", close_clock, 0},
                                          {"__tostring", clock_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, class_name, methods);
  lua_pushliteral(L, "a virtual clock belongs to the script that made it; tasks see its time");
  lua_setfield(L, -2, "__weft_advice");
  lua_pop(L, 1);
}
