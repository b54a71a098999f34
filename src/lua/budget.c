/* budget.c: budgets in Lua: amounts are numbers, such as US dollars, and whole millionths below.
 *
 * Owns nothing. Entered by the state's thread. Invariant: an amount is rounded up in the same way
 * when it is reserved and when it is settled, so that nothing is left over.
 */
#include "../core/budget.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

#include <string.h>

static const char amount_expected[] = "a number from 0 to 1e9";

static weft_budget *check_budget(lua_State *L, const char *what) {
  return (weft_budget *)weft_check_handle(L, 1, &weft_budget_type, what, "self");
}

static int64_t check_amount(lua_State *L, int index, const char *what, const char *name) {
  double amount = weft_check_number(L, index, what, name, 0, 1e9, amount_expected);
  return (int64_t)ceil(amount * WEFT_BUDGET_UNIT - 1e-6); /* 0.1 is a bit more than a tenth */
}

static int push_amount(lua_State *L, int64_t amount) {
  lua_pushnumber(L, (double)amount / WEFT_BUDGET_UNIT);
  return 1;
}

static double field(lua_State *L, const char *name, double fallback, double most,
                    const char *expected) {
  lua_getfield(L, 1, name);
  double value = fallback;
  if (fallback < 0 || !lua_isnil(L, -1))
    value = weft_check_number(L, lua_gettop(L), "weft.budget", name, 0, most, expected);
  lua_pop(L, 1);
  return value;
}

static void check_fields(lua_State *L) {
  if (!lua_istable(L, 1))
    weft_bad_argument(L, "weft.budget", "options", "a table", 1);
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    if (strcmp(name, "usd") != 0 && strcmp(name, "warn") != 0)
      luaL_error(L, "bad option '%s' to weft.budget: known are usd, warn", name);
  }
}

/*** What may be spent, by all tasks that have it together. Models take it as `budget`: each call
 * reserves its worst case before it starts and settles what it cost in the end, so that tasks at
 * the same time never spend more than there is. It can be captured and sent.
 * @function budget
 * @tparam table options
 * @tparam number options.usd how much; US dollars where models spend it, counted in whole
 * millionths
 * @tparam[opt=0.8] number options.warn the share of it, from 0 to 1, that is worth a warning once
 * it is spent; 0: none
 * @treturn budget
 * @raise bad argument or unknown option
 */
static int new_budget(lua_State *L) {
  lua_settop(L, 1);
  check_fields(L);
  double usd = field(L, "usd", -1, 1e9, amount_expected);
  double warn = field(L, "warn", 0.8, 1, "a share from 0 to 1");
  weft_budget *budget = weft_budget_new((int64_t)ceil(usd * WEFT_BUDGET_UNIT - 1e-6), warn);
  weft_adopt_handle(WEFT_STATE(L), L, budget ? &budget->handle : NULL);
  return 1;
}

static int push_reserved(lua_State *L, weft_budget *budget, int64_t amount, int rc) {
  if (rc == WEFT_TOO_LARGE) {
    weft_budget_state now = weft_budget_read(budget);
    return weft_fail(WEFT_STATE(L), L, "skipped_budget",
                     "the budget is used up: up to %.6f are wanted, %.6f of %.6f are left",
                     (double)amount / WEFT_BUDGET_UNIT,
                     (double)(now.limit > now.spent ? now.limit - now.spent : 0) / WEFT_BUDGET_UNIT,
                     (double)now.limit / WEFT_BUDGET_UNIT);
  }
  lua_pushboolean(L, rc == WEFT_OK);
  return 1;
}

static int finish_reserve(lua_State *L, weft_park *park, int source) {
  weft_state *state = WEFT_STATE(L);
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return push_reserved(L, park->object, weft_budget_asked(&park->waiter),
                       weft_waiter_outcome(&park->waiter));
}

static void leave_reserve(weft_park *park) {
  weft_budget_unwait(park->object, &park->waiter);
}

static void abandon_reserve(weft_park *park, int source) {
  if (source == WEFT_PARK_EVENT && weft_waiter_outcome(&park->waiter) == WEFT_OK)
    weft_budget_settle(park->object, weft_budget_asked(&park->waiter), 0);
}

static const weft_park_op reserve_op = {"budget:reserve", finish_reserve,  NULL,
                                        leave_reserve,    abandon_reserve, 1};

/*** Sets an amount aside. Whoever does so must settle it. Waits while only what others have
 * reserved is in the way: they may give some of it back.
 * @function budget:reserve
 * @tparam number usd the worst case
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] error of kind "skipped_budget": so much will not be left
 * @raise bad argument 'usd'; when the caller's context is done: nothing is reserved then
 */
static int reserve(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_budget *budget = check_budget(L, reserve_op.what);
  int64_t amount = check_amount(L, 2, reserve_op.what, "usd");
  weft_park *park = weft_park_begin(state, L, &reserve_op, budget);
  weft_budget_ask(&park->waiter, amount);
  int rc = weft_budget_reserve_or_wait(budget, &park->waiter);
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  return push_reserved(L, budget, amount, rc);
}

/*** Sets an amount aside unless that would wait.
 * @function budget:try_reserve
 * @tparam number usd the worst case
 * @return true; false when it would wait; nil and an error as @{budget:reserve}
 * @raise bad argument 'usd'
 */
static int try_reserve(lua_State *L) {
  weft_budget *budget = check_budget(L, "budget:try_reserve");
  int64_t amount = check_amount(L, 2, "budget:try_reserve", "usd");
  return push_reserved(L, budget, amount, weft_budget_try_reserve(budget, amount));
}

/*** Ends a reservation: what was not spent is given back.
 * @function budget:settle
 * @tparam number reserved the same amount as was given to @{budget:reserve}
 * @tparam[opt=0] number spent what it was in the end; more than reserved is booked as well
 * @treturn boolean true for the one call that brought what is spent to the share to warn at
 * @raise bad argument; so much is not reserved
 */
static int settle(lua_State *L) {
  weft_budget *budget = check_budget(L, "budget:settle");
  int64_t reserved = check_amount(L, 2, "budget:settle", "reserved");
  int64_t spent = lua_isnoneornil(L, 3) ? 0 : check_amount(L, 3, "budget:settle", "spent");
  int rc = weft_budget_settle(budget, reserved, spent);
  if (rc < 0)
    return luaL_error(L, "budget:settle: so much is not reserved");
  lua_pushboolean(L, rc);
  return 1;
}

/*** Adds to what may be spent. What was skipped for want of it can be tried again then.
 * @function budget:add
 * @tparam number usd
 * @tparam[opt] number most not more than so much is left after it; default: no bound
 * @raise bad argument
 */
static int add(lua_State *L) {
  weft_budget *budget = check_budget(L, "budget:add");
  int64_t amount = check_amount(L, 2, "budget:add", "usd"), most = WEFT_BUDGET_MAX;
  if (!lua_isnoneornil(L, 3))
    most = check_amount(L, 3, "budget:add", "most");
  weft_budget_add(budget, amount, most);
  return 0;
}

/*** @function budget:spent
 * @treturn number what was settled; without what is reserved
 */
static int spent(lua_State *L) {
  return push_amount(L, weft_budget_read(check_budget(L, "budget:spent")).spent);
}

/*** @function budget:remaining
 * @treturn number what can be reserved now
 */
static int remaining(lua_State *L) {
  return push_amount(L, weft_budget_read(check_budget(L, "budget:remaining")).remaining);
}

/*** @function budget:limit
 * @treturn number what it was made with, and what was added
 */
static int limit(lua_State *L) {
  return push_amount(L, weft_budget_read(check_budget(L, "budget:limit")).limit);
}

/*** @function budget:warned
 * @treturn boolean whether the share to warn at is spent
 */
static int warned(lua_State *L) {
  lua_pushboolean(L, weft_budget_read(check_budget(L, "budget:warned")).is_warned);
  return 1;
}

void weft_open_budget(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"budget", new_budget, 0}, {NULL, NULL, 0}};
  static const weft_function methods[] = {{"reserve", reserve, WEFT_BLOCKS},
                                          {"try_reserve", try_reserve, 0},
                                          {"settle", settle, 0},
                                          {"add", add, 0},
                                          {"spent", spent, 0},
                                          {"remaining", remaining, 0},
                                          {"limit", limit, 0},
                                          {"warned", warned, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.budget", methods);
  weft_register_handle_class(L, &weft_budget_type);
  lua_pop(L, 1);
}
