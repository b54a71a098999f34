/* sync.c: semaphores and waitgroups in Lua.
 *
 * Owns nothing: what a semaphore counts belongs to the scripts. Entered by the state's thread.
 * Invariant: who was cancelled while waiting holds nothing, and has left the queue.
 */
#include "../core/semaphore.h"
#include "../core/waitgroup.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

/* ---- semaphores ---- */

static weft_semaphore *check_semaphore(lua_State *L, const char *what) {
  return (weft_semaphore *)weft_check_handle(L, 1, &weft_semaphore_type, what, "self");
}

static uint32_t optional_weight(lua_State *L, const char *what) {
  return lua_isnoneornil(L, 2) ? 1 : weft_check_count(L, 2, what, "k", 1, WEFT_MAX_COUNT);
}

/*** A weighted semaphore, strictly first in, first out: who asks for much is not overtaken by who asks
 * for little (Go: semaphore.NewWeighted). It can be captured and sent.
 * @function semaphore
 * @tparam integer n how much there is, >= 1
 * @treturn semaphore
 * @raise bad argument 'n'
 */
static int new_semaphore(lua_State *L) {
  uint32_t size = weft_check_count(L, 1, "weft.semaphore", "n", 1, WEFT_MAX_COUNT);
  weft_semaphore *semaphore = weft_semaphore_new(size);
  weft_adopt_handle(WEFT_STATE(L), L, semaphore ? &semaphore->handle : NULL);
  return 1;
}

static int push_acquired(lua_State *L, weft_semaphore *semaphore, uint32_t weight, int rc) {
  if (rc == WEFT_TOO_LARGE)
    return weft_fail(WEFT_STATE(L), L, "too_large",
                     "semaphore:acquire: %u is more than the semaphore's size of %u", weight,
                     weft_semaphore_size(semaphore));
  lua_pushboolean(L, rc == WEFT_OK);
  return 1;
}

static int finish_acquire(lua_State *L, weft_park *park, int source) {
  weft_state *state = WEFT_STATE(L);
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return push_acquired(L, park->object, park->waiter.weight, weft_waiter_outcome(&park->waiter));
}

static void leave_acquire(weft_park *park) {
  weft_semaphore_unwait(park->object, &park->waiter);
}

static void abandon_acquire(weft_park *park, int source) {
  if (source == WEFT_PARK_EVENT && weft_waiter_outcome(&park->waiter) == WEFT_OK)
    weft_semaphore_give_back(park->object, park->waiter.weight);
}

static const weft_park_op acquire_op = {"semaphore:acquire", finish_acquire,  NULL,
                                        leave_acquire,       abandon_acquire, 1};

/*** Takes a part of the semaphore. Waits while less than that is left, or others wait already.
 * @function semaphore:acquire
 * @tparam[opt=1] integer k how much
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] error of kind "too_large" when the semaphore is smaller than k, or gets so by resize
 * @raise bad argument 'k'; when the caller's context is done: nothing is held then
 */
static int acquire(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_semaphore *semaphore = check_semaphore(L, acquire_op.what);
  uint32_t weight = optional_weight(L, acquire_op.what);
  weft_park *park = weft_park_begin(state, L, &acquire_op, semaphore);
  park->waiter.weight = weight;
  int rc = weft_semaphore_acquire_or_wait(semaphore, &park->waiter);
  if (rc == WEFT_WOULD_WAIT)
    return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
  return push_acquired(L, semaphore, weight, rc);
}

/*** Takes a part of the semaphore unless that would wait.
 * @function semaphore:try_acquire
 * @tparam[opt=1] integer k how much
 * @return true; false when it would wait; nil and an error as @{semaphore:acquire}
 */
static int try_acquire(lua_State *L) {
  weft_semaphore *semaphore = check_semaphore(L, "semaphore:try_acquire");
  uint32_t weight = optional_weight(L, "semaphore:try_acquire");
  return push_acquired(L, semaphore, weight, weft_semaphore_try_acquire(semaphore, weight));
}

/*** Gives back what was acquired, by whomever.
 * @function semaphore:release
 * @tparam[opt=1] integer k how much
 * @raise bad argument 'k'; more is given back than is held
 */
static int release(lua_State *L) {
  weft_semaphore *semaphore = check_semaphore(L, "semaphore:release");
  uint32_t weight = optional_weight(L, "semaphore:release");
  if (weft_semaphore_give_back(semaphore, weight) != WEFT_OK)
    return luaL_error(L, "semaphore:release: %d given back, but only %d held", (int)weight,
                      (int)weft_semaphore_held(semaphore));
  return 0;
}

/*** Changes the size. What is held stays held; who waits for more than the new size gets an error.
 * @function semaphore:resize
 * @tparam integer n >= 1
 * @raise bad argument 'n'
 */
static int resize(lua_State *L) {
  weft_semaphore *semaphore = check_semaphore(L, "semaphore:resize");
  weft_semaphore_resize(semaphore,
                        weft_check_count(L, 2, "semaphore:resize", "n", 1, WEFT_MAX_COUNT));
  return 0;
}

/*** @function semaphore:size
 * @treturn integer how much there is in all
 */
static int size(lua_State *L) {
  weft_push_integer(L, weft_semaphore_size(check_semaphore(L, "semaphore:size")));
  return 1;
}

/*** @function semaphore:held
 * @treturn integer how much of it is held now; more than its size after a resize
 */
static int held(lua_State *L) {
  weft_push_integer(L, weft_semaphore_held(check_semaphore(L, "semaphore:held")));
  return 1;
}

/*** Calls a function while holding a part of the semaphore, which is given back however it ends.
 * @function semaphore:with
 * @tparam[opt=1] integer k how much
 * @tparam function fn
 * @param ... its arguments
 * @return[1] what fn returned
 * @treturn[2] nil
 * @treturn[2] error of kind "too_large" as @{semaphore:acquire}; fn was not called
 * @raise what fn raised; bad argument; when the caller's context is done before it has its part
 */
static const char with_source[] =
    "local acquire, release = ...\n"
    "local function leave(self, k, ok, ...)\n"
    "  release(self, k)\n"
    "  if not ok then error((...), 0) end\n"
    "  return ...\n"
    "end\n"
    "local function enter(self, k, fn, ...)\n"
    "  local ok, err = acquire(self, k)\n"
    "  if not ok then return nil, err end\n"
    "  return leave(self, k, pcall(fn, ...))\n"
    "end\n"
    "return function(self, k, fn, ...)\n"
    "  if type(k) == 'function' then return enter(self, 1, k, fn, ...) end\n"
    "  if type(fn) ~= 'function' then\n"
    "    error(\"bad argument 'fn' to semaphore:with: expected a function, got \" .. type(fn), 2)\n"
    "  end\n"
    "  return enter(self, k, fn, ...)\n"
    "end\n";

/* Lua, since fn may yield; here, since every state that a semaphore is sent to must have it. */
static void add_with(lua_State *L) {
  lua_getfield(L, -1, "__index");
  weft_push_shim(L, with_source);
  lua_getfield(L, -2, "acquire");
  lua_getfield(L, -3, "release");
  lua_call(L, 2, 1);
  lua_setfield(L, -2, "with");
  lua_pop(L, 1);
}

/* ---- waitgroups ---- */

/*** Starts a task of a group that the waitgroup counts (Go: WaitGroup.Go): done when it ends, however it ends, also when
 * it raises or is cancelled before it has begun.
 * @function waitgroup:go
 * @tparam group group that owns the task
 * @tparam[opt] string name
 * @tparam function fn
 * @param ... its arguments
 * @return as @{group:go}
 * @raise bad argument; as @{group:go}
 */
static const char go_source[] = "return function(self, group, ...)\n"
                                "  local go = type(group) == 'table' and group._go_notifying\n"
                                "  if not go then\n"
                                "    error(\"bad argument 'group' to waitgroup:go: expected a "
                                "group, got \" .. type(group), 2)\n"
                                "  end\n"
                                "  return go(group, self, ...)\n"
                                "end\n";

/* Lua, since going on after a wait needs its arguments where group:go has them. */
static void add_go(lua_State *L) {
  lua_getfield(L, -1, "__index");
  weft_push_shim(L, go_source);
  lua_call(L, 0, 1);
  lua_setfield(L, -2, "go");
  lua_pop(L, 1);
}

static weft_waitgroup *check_waitgroup(lua_State *L, const char *what) {
  return (weft_waitgroup *)weft_check_handle(L, 1, &weft_waitgroup_type, what, "self");
}

/*** A count of things to be done, and those who wait until it is zero (Go: sync.WaitGroup). It can be
 * captured and sent.
 * @function waitgroup
 * @treturn waitgroup
 */
static int new_waitgroup(lua_State *L) {
  weft_waitgroup *waitgroup = weft_waitgroup_new();
  weft_adopt_handle(WEFT_STATE(L), L, waitgroup ? &waitgroup->handle : NULL);
  return 1;
}

static int change_count(lua_State *L, const char *what, weft_waitgroup *waitgroup, int64_t delta) {
  int rc = weft_waitgroup_add(waitgroup, delta);
  if (rc == WEFT_BELOW_ZERO)
    return luaL_error(L, "%s: the count would fall below zero", what);
  if (rc != WEFT_OK)
    return luaL_error(L, "%s: the count would be too large", what);
  return 0;
}

/*** Adds to the count. Who waits goes on when it becomes zero.
 * @function waitgroup:add
 * @tparam[opt=1] integer n may be negative
 * @raise bad argument 'n'; the count would fall below zero
 */
static int add(lua_State *L) {
  static const char expected[] = "a whole number from -1000000000 to 1000000000";
  weft_waitgroup *waitgroup = check_waitgroup(L, "waitgroup:add");
  double n = 1;
  if (!lua_isnoneornil(L, 2))
    n = weft_check_number(L, 2, "waitgroup:add", "n", -WEFT_MAX_COUNT, WEFT_MAX_COUNT, expected);
  if (n != floor(n))
    weft_bad_argument(L, "waitgroup:add", "n", expected, 2);
  return change_count(L, "waitgroup:add", waitgroup, (int64_t)n);
}

/*** Takes one from the count.
 * @function waitgroup:done
 * @raise the count would fall below zero
 */
static int done(lua_State *L) {
  return change_count(L, "waitgroup:done", check_waitgroup(L, "waitgroup:done"), -1);
}

/*** @function waitgroup:count
 * @treturn integer what is still to be done
 */
static int count(lua_State *L) {
  weft_push_integer(L, weft_waitgroup_count(check_waitgroup(L, "waitgroup:count")));
  return 1;
}

static int finish_wait(lua_State *L, weft_park *park, int source) {
  weft_state *state = WEFT_STATE(L);
  (void)park;
  return source == WEFT_PARK_EVENT
             ? 0
             : weft_raise_context(state, L, weft_current_context(state, L, 0));
}

static void leave_wait(weft_park *park) {
  weft_waitgroup_unwait(park->object, &park->waiter);
}

static const weft_park_op wait_op = {"waitgroup:wait", finish_wait, NULL, leave_wait, NULL, 1};

/*** Waits until the count is zero.
 * @function waitgroup:wait
 * @raise an error of kind "canceled" or "deadline" when the caller's context is done
 */
static int wait_for_zero(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_waitgroup *waitgroup = check_waitgroup(L, wait_op.what);
  weft_park *park = weft_park_begin(state, L, &wait_op, waitgroup);
  if (weft_waitgroup_wait_or_queue(waitgroup, &park->waiter) == WEFT_OK)
    return 0;
  return weft_park_wait(state, L, park, weft_current_context(state, L, 0));
}

static void open_semaphore(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"acquire", acquire, WEFT_BLOCKS},
                                          {"try_acquire", try_acquire, 0},
                                          {"release", release, 0},
                                          {"resize", resize, 0},
                                          {"size", size, 0},
                                          {"held", held, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_new_class(L, state, "weft.semaphore", methods);
  add_with(L);
  weft_register_handle_class(L, &weft_semaphore_type);
  lua_pop(L, 1);
}

static void open_waitgroup(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"add", add, 0},
                                          {"done", done, 0},
                                          {"count", count, 0},
                                          {"wait", wait_for_zero, WEFT_BLOCKS},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_new_class(L, state, "weft.waitgroup", methods);
  add_go(L);
  weft_register_handle_class(L, &weft_waitgroup_type);
  lua_pop(L, 1);
}

void weft_open_sync(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"semaphore", new_semaphore, 0}, {"waitgroup", new_waitgroup, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  open_semaphore(state, L);
  open_waitgroup(state, L);
}
