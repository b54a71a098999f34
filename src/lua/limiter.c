/* limiter.c: token buckets in Lua.
 *
 * Owns nothing: what was taken belongs to the scripts. Entered by the state's thread. Invariant:
 * who was cancelled while waiting has taken nothing, and has left the queue.
 */
#include "../core/limiter.h"

#include "clock.h"
#include "errors.h"
#include "objects.h"
#include "state.h"

#include <stdio.h>
#include <string.h>

static weft_limiter *check_self(lua_State *L, const char *what) {
  return (weft_limiter *)weft_check_handle(L, 1, &weft_limiter_type, what, "self");
}

static uint32_t optional_tokens(lua_State *L, const char *what) {
  return lua_isnoneornil(L, 2) ? 1 : weft_check_count(L, 2, what, "n", 0, WEFT_MAX_COUNT);
}

/* ---- making and changing ---- */

typedef struct settings {
  double rate;    /* negative: not given */
  uint32_t burst; /* 0: not given */
} settings;

static void read_option(lua_State *L, settings *settings, const char *key, const char *what) {
  int index = lua_gettop(L);
  if (strcmp(key, "rate") == 0)
    settings->rate = weft_check_number(L, index, what, "rate", 0, HUGE_VAL, "a number >= 0");
  else if (strcmp(key, "burst") == 0)
    settings->burst = weft_check_count(L, index, what, "burst", 1, WEFT_MAX_COUNT);
  else
    luaL_error(L, "bad option '%s' to %s: known are rate, burst", key, what);
}

static settings read_options(lua_State *L, int index, const char *what) {
  settings settings = {-1, 0};
  if (!lua_istable(L, index))
    weft_bad_argument(L, what, "options", "a table", index);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "bad option to %s: keys are names such as rate", what);
    read_option(L, &settings, lua_tostring(L, -2), what);
    lua_pop(L, 1);
  }
  return settings;
}

/*** A token bucket: `burst` tokens that fill up at `rate` tokens a second, and a queue of those who
 * wait for tokens, strictly first in, first out (Go: rate.NewLimiter). It can be captured and sent.
 * @function limiter
 * @tparam table options `rate`: tokens a second, >= 0; math.huge lets everything pass; `burst`: how
 * many there are at the most, and so how many may be taken at once, >= 1 (default 1: evenly spaced)
 * @treturn limiter full at first
 * @raise bad argument or unknown option
 */
static int new_limiter(lua_State *L) {
  settings settings = read_options(L, 1, "weft.limiter");
  if (settings.rate < 0) {
    lua_pushnil(L);
    weft_bad_argument(L, "weft.limiter", "rate", "a number >= 0", lua_gettop(L));
  }
  weft_limiter *limiter = weft_limiter_new(settings.rate, settings.burst ? settings.burst : 1);
  weft_adopt_handle(WEFT_STATE(L), L, limiter ? &limiter->handle : NULL);
  return 1;
}

/*** Changes rate or burst, also for those who wait: nobody waits longer than the new rate makes
 * them. Who wants more than the new burst gets an error.
 * @function limiter:set
 * @tparam table options `rate`, `burst`: what is not given stays
 * @raise bad argument or unknown option
 */
static int set(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:set");
  settings settings = read_options(L, 2, "limiter:set");
  weft_limiter_set(limiter, settings.rate, settings.burst);
  return 0;
}

/* ---- taking ---- */

static int push_taken(lua_State *L, const char *what, weft_limiter *limiter, uint32_t n, int rc) {
  weft_state *state = WEFT_STATE(L);
  switch (rc) {
  case WEFT_TOO_LARGE:
    return weft_fail(state, L, "too_large", "%s: %u is more than the limiter's burst of %u", what,
                     n, weft_limiter_burst(limiter));
  case WEFT_TOO_LATE:
    return weft_fail(state, L, "deadline", "%s: to wait for %u would exceed the context's deadline",
                     what, n);
  case WEFT_NOTHREAD:
    return weft_fail(state, L, "thread", "%s: the I/O thread could not be started", what);
  default:
    lua_pushboolean(L, rc == WEFT_OK);
    return 1;
  }
}

static int finish_wait(lua_State *L, weft_park *park, int source) {
  weft_state *state = WEFT_STATE(L);
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return push_taken(L, "limiter:wait", park->object, park->waiter.weight,
                    weft_waiter_outcome(&park->waiter));
}

static void leave_wait(weft_park *park) {
  weft_limiter_unwait(park->object, &park->waiter);
}

static void abandon_wait(weft_park *park, int source) {
  if (source == WEFT_PARK_EVENT && weft_waiter_outcome(&park->waiter) == WEFT_OK)
    weft_limiter_give_back(park->object, park->waiter.weight);
}

static void describe_wait(const weft_park *park, char *text, size_t size) {
  snprintf(text, size, "%u of limiter %p", park->waiter.weight, park->object);
}

static const weft_park_op wait_op = {"limiter:wait", finish_wait,  NULL,
                                     leave_wait,     abandon_wait, WEFT_PARK_HOLDS_HANDLE,
                                     describe_wait};

/*** Takes n tokens. Waits until there are so many and all who came before have theirs.
 * @function limiter:wait
 * @tparam[opt=1] integer n >= 0
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] error at once and with nothing taken: of kind "too_large" when n is more than the
 * burst (also when @{limiter:set} makes it so later), of kind "deadline" when the turn would not
 * come before the deadline of the caller's context
 * @raise bad argument 'n'; when the caller's context is done: nothing is taken then
 */
static int wait_for_tokens(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_limiter *limiter = check_self(L, wait_op.what);
  uint32_t n = optional_tokens(L, wait_op.what);
  weft_park *park = weft_park_begin(state, L, &wait_op, limiter);
  weft_context *context = weft_current_context(state, L, 0);
  park->waiter.weight = n;
  int rc = weft_limiter_take_or_wait(limiter, weft_context_deadline_ns(context), &park->waiter);
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, context);
  return push_taken(L, wait_op.what, limiter, n, rc);
}

/*** Takes n tokens unless that would wait (Go: AllowN).
 * @function limiter:allow
 * @tparam[opt=1] integer n >= 0
 * @return true; false when it would wait: nothing is taken; nil and an error of kind "too_large"
 * @raise bad argument 'n'
 */
static int allow(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:allow");
  uint32_t n = optional_tokens(L, "limiter:allow");
  return push_taken(L, "limiter:allow", limiter, n, weft_limiter_allow(limiter, n));
}

/*** Takes n tokens in advance, for who does not want to be parked (Go: ReserveN). Those who already
 * wait come first, those who come later come after.
 * @function limiter:reserve
 * @tparam[opt=1] integer n >= 0
 * @treturn[1] number in how many seconds the caller may act, as things stand; math.huge at rate 0.
 * A change of mind: @{limiter:give_back}
 * @treturn[2] nil
 * @treturn[2] error of kind "too_large"
 * @raise bad argument 'n'
 */
static int reserve(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:reserve");
  uint32_t n = optional_tokens(L, "limiter:reserve");
  double delay = 0;
  int rc = weft_limiter_reserve(limiter, n, &delay);
  if (rc != WEFT_OK)
    return push_taken(L, "limiter:reserve", limiter, n, rc);
  lua_pushnumber(L, delay);
  return 1;
}

/*** Gives back tokens that were taken or reserved, and are not used. What exceeds the burst is
 * lost.
 * @function limiter:give_back
 * @tparam[opt=1] integer n >= 0
 * @raise bad argument 'n'
 */
static int give_back(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:give_back");
  weft_limiter_give_back(limiter, optional_tokens(L, "limiter:give_back"));
  return 0;
}

/*** Corrects an estimate by what was used in the end, such as the tokens of a model's answer: what
 * was taken too much is given back; what was taken too little is owed, and those who come have to
 * wait for it.
 * @function limiter:settle
 * @tparam integer taken what the caller took or reserved
 * @tparam number used what it used; may be more than the burst
 * @raise bad argument
 */
static int settle(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:settle");
  uint32_t taken = weft_check_count(L, 2, "limiter:settle", "taken", 0, WEFT_MAX_COUNT);
  double used = weft_check_number(L, 3, "limiter:settle", "used", 0, 1e15, "a number >= 0");
  weft_limiter_settle(limiter, taken, used);
  return 0;
}

/* ---- pausing ---- */

/*** Lets nobody pass for a time, whatever the bucket holds: what a service's `Retry-After` asks
 * for. Of several pauses the one that ends last counts. The bucket fills meanwhile.
 * @function limiter:pause
 * @tparam number seconds >= 0; math.huge until @{limiter:resume}
 * @raise bad argument 'seconds'
 */
static int pause_for(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:pause");
  double seconds = weft_check_seconds(L, 2, "limiter:pause", "seconds");
  weft_limiter_pause_until(limiter, weft_clock_after_s(seconds));
  return 0;
}

/*** The same, until a moment.
 * @function limiter:pause_until
 * @tparam number at in seconds on the scale of @{now}
 * @raise bad argument 'at'
 */
static int pause_until(lua_State *L) {
  weft_limiter *limiter = check_self(L, "limiter:pause_until");
  double at = weft_check_seconds(L, 2, "limiter:pause_until", "at");
  weft_limiter_pause_until(limiter, at >= 9e9 ? UINT64_MAX : (uint64_t)(at * 1e9));
  return 0;
}

/*** Ends a pause.
 * @function limiter:resume
 */
static int resume(lua_State *L) {
  weft_limiter_resume(check_self(L, "limiter:resume"));
  return 0;
}

/* ---- looking ---- */

/*** @function limiter:rate
 * @treturn number tokens a second
 */
static int rate(lua_State *L) {
  lua_pushnumber(L, weft_limiter_rate(check_self(L, "limiter:rate")));
  return 1;
}

/*** @function limiter:burst
 * @treturn integer how many tokens there are at the most
 */
static int burst(lua_State *L) {
  weft_push_integer(L, weft_limiter_burst(check_self(L, "limiter:burst")));
  return 1;
}

/*** How many tokens are there now, less what those who wait want.
 * @function limiter:tokens
 * @treturn number below 0 when somebody waits, or more was used than was taken
 */
static int tokens(lua_State *L) {
  lua_pushnumber(L, weft_limiter_tokens(check_self(L, "limiter:tokens")));
  return 1;
}

void weft_open_limiter(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"set", set, 0},
                                          {"wait", wait_for_tokens, WEFT_BLOCKS},
                                          {"allow", allow, 0},
                                          {"reserve", reserve, 0},
                                          {"give_back", give_back, 0},
                                          {"settle", settle, 0},
                                          {"pause", pause_for, 0},
                                          {"pause_until", pause_until, 0},
                                          {"resume", resume, 0},
                                          {"rate", rate, 0},
                                          {"burst", burst, 0},
                                          {"tokens", tokens, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function functions[] = {{"limiter", new_limiter, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.limiter", methods);
  weft_register_handle_class(L, &weft_limiter_type);
  lua_pop(L, 1);
}
