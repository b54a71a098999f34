/* health.c: what a client has learnt about its server, for lua/weft; not public.
 *
 * Owns nothing. Entered by the state's thread. Invariant: options are numbers from 0 to 1e9, so
 * that no conversion of theirs overflows.
 */
#include "../core/health.h"

#include "clock.h"
#include "errors.h"
#include "objects.h"
#include "state.h"

static weft_health *check_health(lua_State *L, const char *what) {
  return (weft_health *)weft_check_handle(L, 1, &weft_health_type, what, "self");
}

static double number(lua_State *L, const char *name, double fallback) {
  lua_getfield(L, 1, name);
  double value = fallback;
  if (!lua_isnil(L, -1))
    value = weft_check_number(L, lua_gettop(L), "core.health", name, 0, 1e9, "a number from 0");
  lua_pop(L, 1);
  return value;
}

/*** Makes the health of a server: see core/health.h.
 * @function health
 * @local
 * @tparam table options `failures`, `cooldown` (seconds): the breaker; `places`: a semaphore,
 * `least`, `most`, `slow` (seconds): AIMD
 * @treturn health
 */
static int new_health(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  weft_health_config config = {
      .failures = (uint32_t)number(L, "failures", 0),
      .cooldown_ns = (uint64_t)(number(L, "cooldown", 0) * 1e9),
      .least = (uint32_t)number(L, "least", 1),
      .most = (uint32_t)number(L, "most", WEFT_MAX_COUNT),
      .slow_ns = (uint64_t)(number(L, "slow", 0) * 1e9),
  };
  lua_getfield(L, 1, "places");
  config.places = (weft_semaphore *)weft_to_handle(L, 2, &weft_semaphore_type);
  weft_health *health = weft_health_new(&config);
  weft_adopt_handle(WEFT_STATE(L), L, health ? &health->handle : NULL);
  return 1;
}

/*** Before a call.
 * @function health:enter
 * @local
 * @treturn[1] boolean whether the call is a probe, to be given to @{health:report}
 * @treturn[2] nil
 * @treturn[2] error of kind "breaker_open", with `retry_after`
 */
static int enter(lua_State *L) {
  int is_probe = 0;
  uint64_t wait_ns = 0;
  weft_health *health = check_health(L, "health:enter");
  if (weft_health_enter(health, weft_clock_now_ns(), &is_probe, &wait_ns) == WEFT_OK) {
    lua_pushboolean(L, is_probe);
    return 1;
  }
  double wait_s = (double)wait_ns / 1e9;
  int count = weft_fail(WEFT_STATE(L), L, "breaker_open",
                        "the server has failed %u times in a row: no calls for %.1f seconds",
                        health->config.failures, wait_s);
  lua_pushnumber(L, wait_s);
  lua_setfield(L, -2, "retry_after");
  return count;
}

/*** After a call.
 * @function health:report
 * @local
 * @tparam string outcome "good", "bad", "overload", "sick" (both) or "unknown"
 * @tparam number started when it started, as now() gives it
 * @tparam boolean is_probe what @{health:enter} returned
 */
static int report(lua_State *L) {
  static const char *const outcomes[] = {"good", "bad", "overload", "sick", "unknown", NULL};
  weft_health *health = check_health(L, "health:report");
  int outcome = luaL_checkoption(L, 2, NULL, outcomes);
  uint64_t now_ns = weft_clock_now_ns();
  uint64_t started_ns = (uint64_t)(luaL_checknumber(L, 3) * 1e9);
  weft_health_report(health, (weft_health_outcome)outcome,
                     started_ns < now_ns ? started_ns : now_ns, now_ns, lua_toboolean(L, 4));
  return 0;
}

static int check_series(lua_State *L) {
  static const char *const series[] = {"whole", "first", NULL};
  return luaL_checkoption(L, 2, NULL, series);
}

/*** Keeps the latency of a success.
 * @function health:sample
 * @local
 * @tparam string series "whole" (until the end of an answer) or "first" (until its first byte)
 * @tparam number seconds
 */
static int sample(lua_State *L) {
  weft_health *health = check_health(L, "health:sample");
  weft_health_sample(health, check_series(L), luaL_checknumber(L, 3));
  return 0;
}

/*** The latency that a share of the latest successes did not exceed.
 * @function health:quantile
 * @local
 * @tparam string series
 * @tparam number share from 0 to 1
 * @tparam integer least nil when fewer are known
 * @treturn ?number seconds
 */
static int quantile(lua_State *L) {
  weft_health *health = check_health(L, "health:quantile");
  double seconds = weft_health_quantile(health, check_series(L), luaL_checknumber(L, 3),
                                        (uint32_t)luaL_checknumber(L, 4));
  if (seconds < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, seconds);
  return 1;
}

/*** @function health:breaker
 * @local
 * @treturn string "closed", "open" or "half-open"
 */
static int breaker(lua_State *L) {
  static const char *const states[] = {"closed", "open", "half-open"};
  weft_health *health = check_health(L, "health:breaker");
  lua_pushstring(L, states[weft_health_breaker(health, weft_clock_now_ns())]);
  return 1;
}

void weft_open_health(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"health", new_health, 0}, {NULL, NULL, 0}};
  static const weft_function methods[] = {{"enter", enter, 0},
                                          {"report", report, 0},
                                          {"sample", sample, 0},
                                          {"quantile", quantile, 0},
                                          {"breaker", breaker, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.health", methods);
  weft_register_handle_class(L, &weft_health_type);
  lua_pop(L, 1);
}
