/* park.c: blocking calls: who calls, may it block, and the park itself.
 *
 * Owns a reference to what a park waits for, where the end of the state would pull it away. Entered
 * by the state's thread. Invariant: between a waiter's queueing and its park nothing can raise; a
 * park ends in finish or in abandon, once.
 */
#include "fibers.h"

#include "clock.h"
#include "coroutines.h"
#include "deadlock.h"
#include "errors.h"
#include "guest.h"
#include "platform.h"
#include "state.h"
#include "trace.h"

#include <string.h>

/* Their addresses are words between LuaJIT's shims and us. */
const char weft_block_token;    /* the C function has parked its caller */
const char weft_continue_token; /* who was parked is woken */
const char weft_again_token;    /* call the C function again */

/* ---- who calls ---- */

static weft_context *context_of(weft_fiber *fiber, lua_State *L, int own) {
  if (!fiber)
    return weft_background();
  if (!own)
    return weft_task_context(fiber->task);
  weft_context *context = weft_task_own_context(fiber->task);
  if (!context)
    luaL_error(L, "not enough memory");
  return context;
}

weft_context *weft_current_context(weft_state *state, lua_State *L, int own) {
  if (state->scheduler.guests && !state->scheduler.current)
    return weft_guests_context(&state->scheduler, L);
  return context_of(state->scheduler.current, L, own);
}

weft_context *weft_outer_context(weft_state *state, lua_State *L, int own) {
  weft_fiber *fiber = state->scheduler.current;
  while (fiber && fiber->is_local && fiber->outer && fiber->outer->runs == fiber->outer_runs)
    fiber = fiber->outer;
  return fiber ? context_of(fiber, L, own) : weft_current_context(state, L, own);
}

int weft_raise_context(weft_state *state, lua_State *L, weft_context *context) {
  weft_error *error = weft_context_error(context), *cause = weft_context_cause(context);
  weft_push_context_error(state, L, error, cause);
  weft_error_release(error);
  weft_error_release(cause);
  weft_add_position(L, 1);
  return lua_error(L);
}

/* The name of the C function that `co` runs below the call, such as "sort" or "gsub"; valid until
 * Lua runs. */
static const char *blocking_c_function(lua_State *co) {
  lua_Debug info;
  for (int level = 1; lua_getstack(co, level, &info); level++) {
    lua_getinfo(co, "Sn", &info);
    if (*info.what == 'C' && info.name && strcmp(info.name, "pcall") != 0 &&
        strcmp(info.name, "xpcall") != 0)
      return info.name;
  }
  return "a metamethod or finalizer";
}

int weft_raise_in_c_call(lua_State *L, lua_State *co, const char *what) {
  return luaL_error(
      L, "%s would block inside a C call (%s), where Lua cannot yield; do it before or after", what,
      blocking_c_function(co));
}

void weft_check_can_block(weft_state *state, lua_State *L, const char *what) {
  weft_fiber *fiber = state->scheduler.current;
  if (state->scheduler.is_closing)
    luaL_error(L, "%s would block while the Lua state closes", what);
  if (!fiber && state->scheduler.guests) {
    weft_guests_ready(&state->scheduler, L); /* whether it may wait is seen when it must */
    return;
  }
  if (!fiber && state->scheduler.main.state == WEFT_FIBER_PARKED)
    luaL_error(L, "%s would block inside a callback of another blocking call", what);
  if (!fiber)
    return;
  if (!lua_isyieldable(L))
    weft_raise_in_c_call(L, L, what);
  if (fiber->co != L)
    weft_coroutine_check(fiber->co, L, what);
}

/* ---- parking ---- */

weft_park *weft_park_prepare(weft_state *state, const weft_park_op *op, void *object) {
  weft_scheduler *scheduler = &state->scheduler;
  weft_fiber *fiber = scheduler->current;
  void (*wake)(weft_wait *) = weft_fiber_wake;
  if (!fiber) {
    fiber = scheduler->guests ? weft_guests_next(scheduler) : &scheduler->main;
    wake = scheduler->guests ? weft_guest_wake : weft_main_wake;
  }
  weft_park *park = &fiber->park;
  if (fiber->owes_finish)
    weft_fiber_abandon(scheduler, fiber);
  weft_wait_init(&park->wait, wake);
  weft_waiter_init(&park->waiter, &park->wait, WEFT_PARK_EVENT);
  park->op = op;
  park->object = object;
  return park;
}

weft_park *weft_park_begin(weft_state *state, lua_State *L, const weft_park_op *op, void *object) {
  weft_check_can_block(state, L, op->what);
  weft_context *context = weft_current_context(state, L, 0);
  if (weft_context_done(context))
    weft_raise_context(state, L, context);
  return weft_park_prepare(state, op, object);
}

weft_park *weft_park_renew(weft_state *state, lua_State *L, const weft_park_op *op, void *object) {
  weft_check_can_block(state, L, op->what);
  return weft_park_prepare(state, op, object);
}

weft_parcel *weft_park_slot(weft_state *state, weft_parcel *own) {
  weft_fiber *fiber = state->scheduler.current;
  if (fiber) {
    weft_parcel_clear(&fiber->task->parcel); /* it may have kept memory */
    return &fiber->task->parcel;
  }
  if (state->scheduler.guests)
    return weft_guests_slot(&state->scheduler);
  weft_parcel_init(own);
  return own;
}

/* Only what the end of the state would pull away needs it: a worker's state outlives its tasks, and
 * the main party holds what it waits for on its stack. */
static void hold_object(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (!(fiber->park.op->flags & WEFT_PARK_HOLDS_HANDLE) || scheduler->worker ||
      fiber == &scheduler->main)
    return;
  weft_handle_retain(fiber->park.object);
  fiber->holds_handle = 1;
}

static void release_object(weft_fiber *fiber) {
  if (fiber->holds_handle)
    weft_handle_release(fiber->park.object);
  fiber->holds_handle = 0;
}

static int source_of(weft_park *park) {
  int winner = weft_wait_winner(&park->wait);
  return winner >= WEFT_PARK_FIRST_CHOICE ? WEFT_PARK_EVENT : winner;
}

int weft_park_finish(lua_State *L, weft_park *park) {
  int source = source_of(park);
  ((weft_fiber *)park)->owes_finish = 0;
  if (source != WEFT_PARK_EVENT)
    park->op->leave(park);
  release_object((weft_fiber *)park); /* the caller's stack holds it, too */
  return park->op->finish(L, park, source);
}

/* Instead of finishing. */
void weft_park_abandon(weft_park *park) {
  int source = source_of(park);
  ((weft_fiber *)park)->owes_finish = 0;
  if (source != WEFT_PARK_EVENT)
    park->op->leave(park);
  if (park->op->abandon)
    park->op->abandon(park, source);
  release_object((weft_fiber *)park);
}

#if WEFT_LUA54
static int continue_after_yield(lua_State *L, int status, lua_KContext context) {
  weft_park *park = (weft_park *)context;
  weft_scheduler *scheduler = &weft_state_of(L)->scheduler;
  (void)status;
  if (!weft_coroutine_is_mine(scheduler, (weft_fiber *)park))
    return weft_coroutine_reject(scheduler, L, context, continue_after_yield);
  int rc = weft_park_finish(L, park);
  return rc == WEFT_AGAIN ? park->op->again(L) : rc;
}

static int yield_fiber(weft_scheduler *scheduler, lua_State *L, weft_park *park) {
  scheduler->yield_kind = WEFT_YIELD_TASK;
  return lua_yieldk(L, 0, (lua_KContext)park, continue_after_yield);
}
#else
/* Called by the shim as finish(first argument) when the task goes on. */
int weft_park_continue(lua_State *L) {
  lua_settop(L, 1);
  int rc = weft_park_finish(L, &WEFT_STATE(L)->scheduler.current->park);
  if (rc != WEFT_AGAIN)
    return rc;
  lua_pushlightuserdata(L, (void *)&weft_again_token);
  return 1;
}

/* The shim yields. A hook of the task's own ends with this run anyway (scheduler.c): what it raised
 * before the yield would leave a wait behind for what may be collected meanwhile. */
static int yield_fiber(weft_scheduler *scheduler, lua_State *L, weft_park *park) {
  if (scheduler->worker && lua_gethook(L))
    lua_sethook(L, NULL, 0, 0);
  lua_pushlightuserdata(L, (void *)&weft_block_token);
  lua_pushboolean(L, ((weft_fiber *)park)->co != L);
  return 2;
}
#endif

/* A signal's handler may have set a hook that wants to raise (lua.c does so on Ctrl-C): give it a
 * Lua function to run in. Returns 1 with the error on top of the stack. */
static int signal_wants_to_raise(lua_State *L) {
  if (!lua_gethook(L))
    return 0;
  if (luaL_loadstring(L, "return") == 0 && lua_pcall(L, 0, 0, 0) == 0)
    return 0;
  return 1;
}

static int has_news(void *arg) {
  return !weft_inbox_is_empty(((weft_scheduler *)arg)->inbox);
}

static int spin_for_news(weft_scheduler *scheduler) {
  static _Atomic uint32_t processors;
  uint32_t count = atomic_load_explicit(&processors, memory_order_relaxed);
  if (!count)
    atomic_store(&processors, count = weft_cpu_count());
  if (count == 1 || weft_clock_is_virtual())
    return has_news(scheduler);
  return weft_spin_until(&scheduler->spin, has_news, scheduler);
}

/* Runs the scheduler on the caller's thread until the main party is woken. On a raise the error is
 * on top of the stack and the result is 1. */
static int drive(weft_scheduler *scheduler, lua_State *L) {
  weft_fiber *self = &scheduler->main;
  int is_raising = 0;
  self->co = L;
  while (self->state == WEFT_FIBER_PARKED) {
    int did = weft_scheduler_turn(scheduler);
    if (scheduler->is_stuck && weft_deadlock_raise(scheduler, L))
      return 1;
    if (did || spin_for_news(scheduler))
      continue;
    weft_parker_park(&scheduler->inbox->parker, WEFT_NEVER_NS);
    if (!is_raising && signal_wants_to_raise(L)) {
      is_raising = 1;
      if (weft_wait_claim(&self->park.wait, WEFT_PARK_ABANDONED))
        weft_fiber_unpark(scheduler, self); /* else its wake is on the way */
    }
  }
  return is_raising;
}

static int wait_outside(weft_state *state, lua_State *L, weft_park *park) {
  weft_scheduler *scheduler = &state->scheduler;
  uint64_t since_ns = weft_trace_is_on() ? weft_trace_now_ns() : 0;
  int is_raising = drive(scheduler, L);
  if (since_ns && weft_trace_is_on())
    weft_trace_did(park->op->what, since_ns);
  if (is_raising) {
    weft_park_abandon(park);
    return lua_error(L);
  }
  return weft_park_finish(L, park);
}

int weft_park_wait(weft_state *state, lua_State *L, weft_park *park, weft_context *context) {
  weft_scheduler *scheduler = &state->scheduler;
  weft_fiber *fiber = (weft_fiber *)park;
  if (!weft_fiber_watch(scheduler, fiber, context) &&
      weft_wait_claim(&park->wait, WEFT_PARK_CANCELED)) {
    if (weft_context_done(context))
      return weft_park_finish(L, park);
    weft_park_abandon(park);
    return luaL_error(L, "not enough memory");
  }
  hold_object(scheduler, fiber);
  fiber->state = WEFT_FIBER_PARKED;
  weft_tally(&scheduler->parked, 1);
  if (fiber->is_guest)
    return weft_guest_wait(state, L, park);
  if (fiber == &scheduler->main)
    return wait_outside(state, L, park);
  fiber->owes_finish = 1;
  return yield_fiber(scheduler, L, park);
}
