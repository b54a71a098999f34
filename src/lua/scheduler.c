/* scheduler.c: fibers: making, starting, resuming, ending.
 *
 * Owns the fibers of one Lua state. Entered by the state's thread; other threads reach it through
 * its inbox alone. Invariants: a fiber is in at most one list; a parked fiber is made ready exactly
 * once, by whoever claimed its wait; nothing of a fiber is touched by another thread between its
 * wake and its next park.
 */
#include "fibers.h"

#include "clock.h"
#include "errors.h"
#include "guest.h"
#include "mem.h"
#include "monitor.h"
#include "outcome.h"
#include "platform.h"
#include "roster.h"
#include "state.h"
#include "traced.h"
#include "value.h"

enum {
  MAX_IDLE = 1024,
  FEW_ARGUMENTS = LUA_MINSTACK - 8 /* every stack has room for them */
};

/* ---- fibers ---- */

static int add_block(weft_scheduler *scheduler) {
  weft_fiber_block *block = weft_calloc(1, sizeof *block);
  if (!block)
    return 0;
  block->next = scheduler->blocks;
  scheduler->blocks = block;
  for (int i = 0; i < WEFT_FIBERS_PER_BLOCK; i++) {
    block->fibers[i].next = scheduler->idle;
    scheduler->idle = &block->fibers[i];
  }
  return 1;
}

/* A coroutine for the first idle fiber. A finalizer that this runs may take that one, or give one
 * back that has a coroutine. */
static void add_coroutine(weft_scheduler *scheduler, lua_State *L) {
  lua_State *co = lua_newthread(L);
  int anchor = luaL_ref(L, LUA_REGISTRYINDEX);
  weft_fiber *fiber = scheduler->idle;
  if (!fiber || fiber->co) {
    luaL_unref(L, LUA_REGISTRYINDEX, anchor);
    return;
  }
  fiber->anchor = anchor;
  fiber->co = co;
  scheduler->idle_count++;
}

/* A fiber with an empty coroutine. Raises without memory. */
static weft_fiber *take_fiber(weft_scheduler *scheduler, lua_State *L) {
  if (scheduler->is_closing)
    luaL_error(L, "no task can be started while the Lua state closes");
  while (!scheduler->idle || !scheduler->idle->co) {
    if (!scheduler->idle && !add_block(scheduler))
      luaL_error(L, "not enough memory");
    add_coroutine(scheduler, L);
  }
  weft_fiber *fiber = scheduler->idle;
  scheduler->idle = fiber->next;
  scheduler->idle_count--;
  weft_tally(&scheduler->live, 1);
  fiber->next = NULL;
  fiber->where = NULL;
  fiber->is_traced = fiber->traces_wait = 0;
  fiber->is_local = fiber->kills = fiber->was_parked = fiber->has_raised = 0;
  fiber->holds_handle = fiber->owes_finish = 0;
  fiber->start_args = 0;
  fiber->state = WEFT_FIBER_READY;
  return fiber;
}

/* `can_reuse`: its coroutine ended normally. */
static void give_fiber_back(weft_scheduler *scheduler, weft_fiber *fiber, int can_reuse) {
  if (can_reuse && scheduler->idle_count < MAX_IDLE) {
    lua_settop(fiber->co, 0);
    scheduler->idle_count++;
  } else {
    luaL_unref(scheduler->state->L, LUA_REGISTRYINDEX, fiber->anchor);
    fiber->co = NULL;
  }
  fiber->state = WEFT_FIBER_IDLE;
  fiber->task = NULL;
  fiber->runs++;
  weft_tally(&scheduler->live, -1);
  /* those with a coroutine first */
  weft_fiber **link = &scheduler->idle;
  if (!fiber->co && *link) {
    fiber->next = (*link)->next;
    (*link)->next = fiber;
  } else {
    fiber->next = *link;
    *link = fiber;
  }
}

void weft_fiber_push_ready(weft_scheduler *scheduler, weft_fiber *fiber) {
  fiber->next = NULL;
  fiber->state = WEFT_FIBER_READY;
  if (scheduler->ready_tail)
    scheduler->ready_tail->next = fiber;
  else
    scheduler->ready_head = fiber;
  scheduler->ready_tail = fiber;
}

/* ---- running ---- */

/* `traced`: NULL, but while a trace runs; a constant where this is inlined. */
static inline __attribute__((always_inline)) void run_fiber(weft_scheduler *scheduler, lua_State *L,
                                                            weft_fiber *fiber, int nargs,
                                                            weft_traced *traced) {
  weft_fiber *outer = scheduler->current;
  lua_State *outer_running = scheduler->running;
  int nresults;
  fiber->state = WEFT_FIBER_RUNNING;
  scheduler->running = fiber->co;
  scheduler->current = fiber;
  if (scheduler->worker)
    weft_slice_begin(scheduler->worker);
  int rc = weft_resume(fiber->co, L, nargs, &nresults);
  if (rc != LUA_YIELD && fiber->owes_finish)
    weft_fiber_abandon(scheduler, fiber);
  if (traced)
    weft_traced_end(fiber, traced, rc != LUA_YIELD); /* before others hear of the task's end */
  scheduler->current = outer;
  scheduler->running = outer_running;
  scheduler->yield_kind = 0;
  if (scheduler->worker) {
    weft_slice_end(scheduler->worker);
    if (lua_gethook(fiber->co)) /* the preempting signal's */
      lua_sethook(fiber->co, NULL, 0, 0);
  }
  if (rc != LUA_YIELD) {
    int can_reuse = weft_outcome(scheduler, fiber, rc, nresults);
    give_fiber_back(scheduler, fiber, can_reuse);
  } else {
    lua_settop(fiber->co, lua_gettop(fiber->co) - (WEFT_LUA54 ? nresults : 0));
    if (fiber->state == WEFT_FIBER_RUNNING) /* preempted, or yielded by itself */
      weft_fiber_push_ready(scheduler, fiber);
  }
}

static void resume(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber, int nargs) {
  weft_traced traced;
  if (!weft_trace_is_on()) {
    run_fiber(scheduler, L, fiber, nargs, NULL);
    return;
  }
  weft_traced_begin(fiber, &traced);
  run_fiber(scheduler, L, fiber, nargs, &traced);
}

/* Takes the place of the function of a task that was cancelled before it started. */
static int raise_canceled(lua_State *L) {
  weft_state *state = weft_state_of(L);
  return weft_raise_context(state, L, weft_current_context(state, L, 0));
}

/* After a park LuaJIT's shim must be told that it was a yield; a preempted fiber just goes on. */
static void resume_ready(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber) {
  int nargs = fiber->start_args;
  fiber->start_args = 0;
  if (nargs)
    atomic_store_explicit(&fiber->task->status, WEFT_TASK_RUNNING, memory_order_relaxed);
  if (nargs && weft_context_done(weft_task_context(fiber->task))) {
    lua_pushcfunction(fiber->co, raise_canceled);
    lua_replace(fiber->co, WEFT_FIBER_BASE + 1);
  }
#if !WEFT_LUA54
  if (fiber->was_parked) {
    lua_pushlightuserdata(fiber->co, (void *)&weft_continue_token);
    nargs = 1;
  }
#endif
  fiber->was_parked = 0;
  resume(scheduler, L, fiber, nargs);
}

int weft_scheduler_turn(weft_scheduler *scheduler) {
  int count = weft_scheduler_take_inbox(scheduler);
  weft_fiber *fiber = scheduler->ready_head, *last = scheduler->ready_tail;
  while (fiber) {
    int is_last = fiber == last;
    scheduler->ready_head = fiber->next;
    if (!scheduler->ready_head)
      scheduler->ready_tail = NULL;
    resume_ready(scheduler, scheduler->state->L, fiber);
    count++;
    fiber = is_last ? NULL : scheduler->ready_head;
  }
  return count;
}

/* Unpacks function and arguments onto L: how many values. */
static int unpack_task(weft_scheduler *scheduler, lua_State *L, weft_task *task) {
  int count = weft_decode(scheduler->state, L, &task->parcel);
  weft_parcel_empty(&task->parcel);
  weft_push_task_context(scheduler->state, L);
  if (count > 1)
    lua_insert(L, -count);
  return count + 1;
}

/* A cancel that comes at this very moment may find no runner to tell (weft_scheduler_interrupt),
 * while the context's end is not seen here yet. No full fence is paid for that: whoever waits
 * queues under a lock and looks at its context after that, and a task that computes is shown its
 * context at the end of its time slice. (Code that LuaJIT has compiled has no such end, cancelled
 * early or late.) */
void weft_scheduler_start(weft_scheduler *scheduler, weft_task *task) {
  lua_State *L = scheduler->state->L;
  atomic_store_explicit(&task->runner, scheduler->inbox, memory_order_release);
  atomic_store_explicit(&task->status, WEFT_TASK_RUNNING, memory_order_relaxed);
  scheduler->starting = task;
  if (weft_context_done(weft_task_context(task)))
    weft_raise_context(scheduler->state, L, weft_task_context(task));
  weft_fiber *fiber = scheduler->starting_fiber = take_fiber(scheduler, L);
  fiber->task = task;
  fiber->started_ns = weft_clock_coarse_ns();
  int count = unpack_task(scheduler, L, task);
  fiber->where = scheduler->state->ship.first_where;
  if (count > FEW_ARGUMENTS && !lua_checkstack(fiber->co, count + 8))
    luaL_error(L, "too many arguments"); /* fails the task, see weft_scheduler_drop_starting */
  weft_fiber_push_base(fiber);
  lua_xmove(L, fiber->co, count);
  scheduler->starting = NULL;
  scheduler->starting_fiber = NULL;
  resume(scheduler, L, fiber, WEFT_FIBER_BASE + count - 1);
}

void weft_scheduler_drop_starting(weft_scheduler *scheduler) {
  weft_fiber *fiber = scheduler->starting_fiber;
  scheduler->starting = NULL;
  scheduler->starting_fiber = NULL;
  if (fiber)
    give_fiber_back(scheduler, fiber, 0);
}

weft_fiber *weft_scheduler_reserve(weft_scheduler *scheduler, lua_State *L, int count) {
  weft_fiber *fiber = take_fiber(scheduler, L);
  if (!lua_checkstack(fiber->co, count + 8)) {
    weft_scheduler_unreserve(scheduler, fiber);
    luaL_error(L, "too many arguments");
  }
  return fiber;
}

void weft_scheduler_unreserve(weft_scheduler *scheduler, weft_fiber *fiber) {
  give_fiber_back(scheduler, fiber, 1);
}

void weft_scheduler_start_local(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber,
                                weft_task *task, int count) {
  atomic_store(&task->runner, scheduler->inbox);
  fiber->task = task;
  fiber->is_local = 1;
  fiber->started_ns = weft_clock_coarse_ns();
  fiber->outer = scheduler->current;
  fiber->outer_runs = fiber->outer ? fiber->outer->runs : 0;
  weft_fiber_push_base(fiber);
  lua_xmove(L, fiber->co, count);
  fiber->start_args = (uint16_t)(WEFT_FIBER_BASE + count - 1);
  weft_fiber_push_ready(scheduler, fiber);
}

void weft_scheduler_each(weft_scheduler *scheduler, void (*visit)(weft_fiber *, void *),
                         void *arg) {
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < WEFT_FIBERS_PER_BLOCK; i++)
      if (block->fibers[i].state != WEFT_FIBER_IDLE && block->fibers[i].task)
        visit(&block->fibers[i], arg);
}

/* ---- life ---- */

int weft_scheduler_open(weft_scheduler *scheduler, weft_state *state, weft_worker *worker,
                        const weft_guest_loop *loop) {
  scheduler->state = state;
  scheduler->worker = worker;
  if (loop)
    scheduler->guests = weft_guests_new(loop);
  else
    scheduler->inbox = worker ? worker->inbox : weft_inbox_acquire(WEFT_INBOX_SCRIPT);
  if (!scheduler->guests && !scheduler->inbox)
    return 0;
  weft_roster_enter(scheduler);
  return 1;
}

void weft_fiber_abandon(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (weft_wait_claim(&fiber->park.wait, WEFT_PARK_ABANDONED))
    weft_fiber_unpark(scheduler, fiber);
  while (fiber->state == WEFT_FIBER_PARKED) /* the source has claimed, and only has to push */
    if (!weft_scheduler_take_inbox(scheduler))
      weft_cpu_relax();
  weft_park_abandon(&fiber->park);
}

void weft_scheduler_abandon(weft_scheduler *scheduler, const void *object) {
  if (scheduler->guests)
    weft_guests_abandon(scheduler, object);
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < WEFT_FIBERS_PER_BLOCK; i++)
      if (block->fibers[i].state == WEFT_FIBER_PARKED && block->fibers[i].park.object == object)
        weft_fiber_abandon(scheduler, &block->fibers[i]);
}

/* The state closes with tasks of weft.inline unfinished: what they wait for lets go, and they end.
 */
static void abandon_fiber(weft_scheduler *scheduler, weft_fiber *fiber) {
  weft_task *task = fiber->task;
  if (fiber->state == WEFT_FIBER_PARKED)
    weft_fiber_abandon(scheduler, fiber);
  fiber->task = NULL;
  if (task)
    weft_task_end(task, WEFT_TASK_CANCELED);
}

static void abandon_all(weft_scheduler *scheduler) {
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < WEFT_FIBERS_PER_BLOCK; i++)
      abandon_fiber(scheduler, &block->fibers[i]);
}

void weft_scheduler_close(weft_scheduler *scheduler) {
  int is_open = scheduler->guests || scheduler->inbox;
  if (is_open)
    weft_roster_leave(scheduler);
  scheduler->is_closing = 1;
  if (scheduler->guests)
    weft_guests_free(scheduler);
  if (scheduler->inbox) {
    abandon_all(scheduler);
    weft_scheduler_await_watches(scheduler);
    weft_scheduler_take_inbox(scheduler); /* messages that came before */
  }
  while (scheduler->blocks) {
    weft_fiber_block *block = scheduler->blocks;
    scheduler->blocks = block->next;
    weft_free(block);
  }
  if (scheduler->inbox && !scheduler->worker)
    weft_inbox_release(scheduler->inbox);
  scheduler->inbox = NULL;
}
