/* scheduler.c: fibers: parking, waking, resuming.
 *
 * Owns the fibers of one Lua state and the list of contexts that parked fibers watch. Entered by the
 * state's thread; other threads reach it through its inbox alone. Invariants: a fiber is in at most one
 * list; a parked fiber is made ready exactly once, by whoever claimed its wait; nothing of a fiber is
 * touched by another thread between its wake and its next park.
 */
#include "scheduler.h"

#include "clock.h"
#include "errors.h"
#include "mem.h"
#include "monitor.h"
#include "outcome.h"
#include "platform.h"
#include "state.h"
#include "value.h"

#include <string.h>

enum { FIBERS_PER_BLOCK = 64, MAX_IDLE = 1024, WATCH_BUCKETS = 256, SPIN_NS = 20000 };

typedef struct weft_fiber_block {
  struct weft_fiber_block *next;
  weft_fiber fibers[FIBERS_PER_BLOCK];
} weft_fiber_block;

/* A context that fibers of this scheduler are parked under: one waiter there for all of them. */
struct weft_watch {
  weft_wait wait; /* first */
  weft_waiter waiter;
  weft_scheduler *scheduler;
  weft_context *context; /* retained */
  weft_watch *next;      /* in its bucket */
  weft_fiber *fibers;
  uint8_t is_delivered;
};

/* A message that one task shall be looked at again. */
typedef struct interrupt {
  weft_wait wait; /* first */
  weft_inbox *inbox;
  weft_task *task; /* compared, never followed unless a fiber here runs it */
} interrupt;

/* Their addresses are words between LuaJIT's shims and us. */
static const char continue_token; /* the C function yielded and was woken */
const char weft_again_token;      /* call the C function again */

/* ---- fibers ---- */

static void wake_watch(weft_wait *wait);

static int add_block(weft_scheduler *scheduler) {
  weft_fiber_block *block = weft_calloc(1, sizeof *block);
  if (!block)
    return 0;
  block->next = scheduler->blocks;
  scheduler->blocks = block;
  for (int i = 0; i < FIBERS_PER_BLOCK; i++) {
    block->fibers[i].next = scheduler->idle;
    scheduler->idle = &block->fibers[i];
  }
  return 1;
}

/* A fiber with an empty coroutine. Raises without memory. */
static weft_fiber *take_fiber(weft_scheduler *scheduler, lua_State *L) {
  if (!scheduler->idle && !add_block(scheduler))
    luaL_error(L, "not enough memory");
  weft_fiber *fiber = scheduler->idle;
  if (!fiber->co) {
    lua_State *co = lua_newthread(L);
    fiber->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    fiber->co = co;
    scheduler->idle_count++;
  }
  scheduler->idle = fiber->next;
  scheduler->idle_count--;
  scheduler->live++;
  fiber->next = NULL;
  fiber->outer = NULL;
  fiber->where = NULL;
  fiber->is_local = fiber->kills = fiber->was_parked = fiber->holds_handle = 0;
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
  scheduler->live--;
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

static void push_ready(weft_scheduler *scheduler, weft_fiber *fiber) {
  fiber->next = NULL;
  fiber->state = WEFT_FIBER_READY;
  if (scheduler->ready_tail)
    scheduler->ready_tail->next = fiber;
  else
    scheduler->ready_head = fiber;
  scheduler->ready_tail = fiber;
}

/* ---- contexts that parked fibers watch ---- */

static weft_watch **watch_bucket(weft_scheduler *scheduler, const weft_context *context) {
  return &scheduler->watches[weft_ptr_hash(context) % WATCH_BUCKETS];
}

static weft_watch *find_watch(weft_scheduler *scheduler, const weft_context *context) {
  weft_watch *watch = *watch_bucket(scheduler, context);
  while (watch && watch->context != context)
    watch = watch->next;
  return watch;
}

/* NULL: no memory, or the context is done; weft_context_done tells. */
static weft_watch *new_watch(weft_scheduler *scheduler, weft_context *context) {
  weft_watch *watch = weft_calloc(1, sizeof *watch);
  if (!watch)
    return NULL;
  weft_wait_init(&watch->wait, wake_watch);
  weft_waiter_init(&watch->waiter, &watch->wait, 0);
  watch->scheduler = scheduler;
  if (!weft_context_wait(context, &watch->waiter)) {
    weft_free(watch);
    return NULL;
  }
  watch->context = weft_context_retain(context);
  weft_watch **bucket = watch_bucket(scheduler, context);
  watch->next = *bucket;
  *bucket = watch;
  return watch;
}

static void free_watch(weft_watch *watch) {
  weft_watch **link = watch_bucket(watch->scheduler, watch->context);
  while (*link != watch)
    link = &(*link)->next;
  *link = watch->next;
  weft_context_release(watch->context);
  weft_free(watch);
}

static void add_to_watch(weft_watch *watch, weft_fiber *fiber) {
  fiber->watch = watch;
  fiber->prev_watched = NULL;
  fiber->next_watched = watch->fibers;
  if (watch->fibers)
    watch->fibers->prev_watched = fiber;
  watch->fibers = fiber;
}

/* One that was claimed but not delivered is on its way to the inbox, and freed there. */
static void leave_watch(weft_fiber *fiber) {
  weft_watch *watch = fiber->watch;
  if (!watch)
    return;
  if (fiber->prev_watched)
    fiber->prev_watched->next_watched = fiber->next_watched;
  else
    watch->fibers = fiber->next_watched;
  if (fiber->next_watched)
    fiber->next_watched->prev_watched = fiber->prev_watched;
  fiber->watch = NULL;
  if (watch->fibers)
    return;
  weft_context_unwait(watch->context, &watch->waiter);
  if (weft_wait_winner(&watch->wait) < 0 || watch->is_delivered)
    free_watch(watch);
}

/* ---- waking: the first four functions on any thread ---- */

static void wake_fiber(weft_wait *wait) {
  weft_inbox_push(atomic_load_explicit(&((weft_fiber *)wait)->task->runner, memory_order_relaxed),
                  wait);
}

static void wake_main(weft_wait *wait) {
  char *fiber = (char *)wait;
  weft_inbox_push(((weft_scheduler *)(fiber - offsetof(weft_scheduler, main)))->inbox, wait);
}

static void wake_watch(weft_wait *wait) {
  weft_inbox_push(((weft_watch *)wait)->scheduler->inbox, wait);
}

static void wake_interrupt(weft_wait *wait) {
  weft_inbox_push(((interrupt *)wait)->inbox, wait);
}

static void unpark(weft_scheduler *scheduler, weft_fiber *fiber) {
  leave_watch(fiber);
  scheduler->parked--;
  fiber->was_parked = 1;
  if (fiber == &scheduler->main)
    fiber->state = WEFT_FIBER_READY;
  else
    push_ready(scheduler, fiber);
}

/* When the event came first, its wake is on the way. */
static void cancel_parked(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (weft_wait_claim(&fiber->park.wait, WEFT_PARK_CANCELED))
    unpark(scheduler, fiber);
}

static void deliver_watch(weft_scheduler *scheduler, weft_watch *watch) {
  for (weft_fiber *fiber = watch->fibers, *next; fiber; fiber = next) {
    next = fiber->next_watched;
    cancel_parked(scheduler, fiber);
  }
  watch->is_delivered = 1;
  if (!watch->fibers)
    free_watch(watch);
}

/* One that is not under any watch, at the end of a scope, waits until its own tasks have ended. */
static void deliver_interrupt(weft_scheduler *scheduler, interrupt *message) {
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < FIBERS_PER_BLOCK; i++) {
      weft_fiber *fiber = &block->fibers[i];
      if (fiber->state == WEFT_FIBER_PARKED && fiber->watch && fiber->task == message->task &&
          weft_context_done(weft_task_context(fiber->task)))
        cancel_parked(scheduler, fiber);
    }
  weft_free(message);
}

static void deliver(weft_scheduler *scheduler, weft_wait *wait) {
  if (wait->wake == wake_fiber || wait->wake == wake_main)
    unpark(scheduler, (weft_fiber *)wait);
  else if (wait->wake == wake_watch)
    deliver_watch(scheduler, (weft_watch *)wait);
  else
    deliver_interrupt(scheduler, (interrupt *)wait);
}

static int take_inbox(weft_scheduler *scheduler) {
  weft_wait *wait = weft_inbox_take(scheduler->inbox);
  int count = 0;
  while (wait) {
    weft_wait *next = wait->next;
    deliver(scheduler, wait);
    wait = next;
    count++;
  }
  return count;
}

void weft_scheduler_interrupt(weft_task *task) {
  weft_inbox *inbox = atomic_load(&task->runner);
  interrupt *message = inbox ? weft_malloc(sizeof *message) : NULL;
  if (!message)
    return; /* not started: it sees its context when it starts */
  weft_wait_init(&message->wait, wake_interrupt);
  message->inbox = inbox;
  message->task = task;
  weft_inbox_push(inbox, &message->wait);
}

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
  return context_of(state->scheduler.current, L, own);
}

weft_context *weft_outer_context(weft_state *state, lua_State *L, int own) {
  weft_fiber *fiber = state->scheduler.current;
  while (fiber && fiber->is_local && fiber->outer && fiber->outer->task == fiber->outer_task)
    fiber = fiber->outer;
  return context_of(fiber, L, own);
}

int weft_raise_context(weft_state *state, lua_State *L, weft_context *context) {
  weft_error *error = weft_context_error(context), *cause = weft_context_cause(context);
  weft_push_context_error(state, L, error, cause);
  weft_error_release(error);
  weft_error_release(cause);
  weft_add_position(L, 1);
  return lua_error(L);
}

/* The name of the C function between the task and the call, such as "sort" or "gsub". */
static const char *blocking_c_function(lua_State *L) {
  lua_Debug info;
  for (int level = 1; lua_getstack(L, level, &info); level++) {
    lua_getinfo(L, "Sn", &info);
    if (*info.what == 'C' && info.name && strcmp(info.name, "pcall") != 0 &&
        strcmp(info.name, "xpcall") != 0)
      return lua_pushstring(L, info.name), lua_tostring(L, -1);
  }
  return "a metamethod or finalizer";
}

void weft_check_can_block(weft_state *state, lua_State *L, const char *what) {
  weft_fiber *fiber = state->scheduler.current;
  if (!fiber && state->scheduler.main.state == WEFT_FIBER_PARKED)
    luaL_error(L, "%s would block inside a callback of another blocking call", what);
  if (!fiber)
    return;
  if (fiber->co != L && (!WEFT_LUA54 || state->scheduler.running != L))
    luaL_error(L,
               "%s would block inside a coroutine that the task made itself; call it from the task's "
               "own coroutine, or start another task",
               what);
  if (!lua_isyieldable(L))
    luaL_error(L, "%s would block inside a C call (%s), where Lua cannot yield; do it before or after",
               what, blocking_c_function(L));
}

/* ---- parking ---- */

weft_park *weft_park_prepare(weft_state *state, const weft_park_op *op, void *object) {
  weft_scheduler *scheduler = &state->scheduler;
  weft_fiber *fiber = scheduler->current;
  weft_park *park = fiber ? &fiber->park : &scheduler->main.park;
  weft_wait_init(&park->wait, fiber ? wake_fiber : wake_main);
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

/* Only what the end of the state would pull away needs it: a worker's state outlives its tasks, and the
 * main party holds what it waits for on its stack. */
static void hold_object(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (!fiber->park.op->holds_handle || scheduler->worker || fiber == &scheduler->main)
    return;
  weft_handle_retain(fiber->park.object);
  fiber->holds_handle = 1;
}

static void release_object(weft_fiber *fiber) {
  if (fiber->holds_handle)
    weft_handle_release(fiber->park.object);
  fiber->holds_handle = 0;
}

static int finish_park(lua_State *L, weft_park *park) {
  int source = weft_wait_winner(&park->wait);
  if (source != WEFT_PARK_EVENT)
    park->op->leave(park);
  release_object((weft_fiber *)park); /* the caller's stack holds it, too */
  return park->op->finish(L, park, source);
}

/* Instead of finishing. */
static void abandon_park(weft_park *park) {
  int source = weft_wait_winner(&park->wait);
  if (source != WEFT_PARK_EVENT)
    park->op->leave(park);
  if (park->op->abandon)
    park->op->abandon(park, source);
  release_object((weft_fiber *)park);
}

#if WEFT_LUA54
static int continue_after_yield(lua_State *L, int status, lua_KContext context) {
  (void)status;
  weft_park *park = (weft_park *)context;
  int rc = finish_park(L, park);
  return rc == WEFT_AGAIN ? park->op->again(L) : rc;
}
#endif

/* LuaJIT: called as finish(first argument, results of the C function…). */
int weft_park_continue(lua_State *L) {
  if (lua_touserdata(L, 2) != &continue_token)
    return lua_gettop(L) - 1;
  int rc = finish_park(L, &WEFT_STATE(L)->scheduler.current->park);
  if (rc != WEFT_AGAIN)
    return rc;
  lua_pushlightuserdata(L, (void *)&weft_again_token);
  return 1;
}

static int yield_fiber(weft_scheduler *scheduler, lua_State *L, weft_park *park) {
  scheduler->is_yield_of_task = 1;
#if WEFT_LUA54
  return lua_yieldk(L, 0, (lua_KContext)park, continue_after_yield);
#else
  (void)park;
  return lua_yield(L, 0);
#endif
}

/* A signal's handler may have set a hook that wants to raise (lua.c does so on Ctrl-C): give it a Lua
 * function to run in. Returns 1 with the error on top of the stack. */
static int signal_wants_to_raise(lua_State *L) {
  if (!lua_gethook(L))
    return 0;
  if (luaL_loadstring(L, "return") == 0 && lua_pcall(L, 0, 0, 0) == 0)
    return 0;
  return 1;
}

static int spin_for_news(weft_scheduler *scheduler) {
  static _Atomic uint32_t processors;
  uint32_t count = atomic_load_explicit(&processors, memory_order_relaxed);
  if (!count)
    atomic_store(&processors, count = weft_cpu_count());
  uint64_t until_ns = count > 1 ? weft_clock_now_ns() + SPIN_NS : 0;
  do
    for (int i = 0; i < 32; i++) {
      if (!weft_inbox_is_empty(scheduler->inbox))
        return 1;
      weft_cpu_relax();
    }
  while (until_ns && weft_clock_now_ns() < until_ns);
  return 0;
}

/* Runs the scheduler on the caller's thread until the main party is woken. On a raise the error is on
 * top of the stack and the result is 1. */
static int drive(weft_scheduler *scheduler, lua_State *L) {
  weft_fiber *self = &scheduler->main;
  int is_raising = 0;
  while (self->state == WEFT_FIBER_PARKED) {
    if (weft_scheduler_turn(scheduler) || spin_for_news(scheduler))
      continue;
    weft_parker_park(&scheduler->inbox->parker, WEFT_NEVER_NS);
    if (!is_raising && signal_wants_to_raise(L)) {
      is_raising = 1;
      if (weft_wait_claim(&self->park.wait, WEFT_PARK_ABANDONED))
        unpark(scheduler, self); /* else its wake is on the way */
    }
  }
  return is_raising;
}

static int wait_outside(weft_state *state, lua_State *L, weft_park *park) {
  weft_scheduler *scheduler = &state->scheduler;
  if (drive(scheduler, L)) {
    abandon_park(park);
    return lua_error(L);
  }
  return finish_park(L, park);
}

/* Puts the fiber under the watch of the context: 0 when that is done or memory ran out. */
static int watch_context(weft_scheduler *scheduler, weft_fiber *fiber, weft_context *context) {
  if (context == weft_background())
    return 1;
  if (weft_context_done(context))
    return 0;
  weft_watch *watch = find_watch(scheduler, context);
  if (!watch)
    watch = new_watch(scheduler, context);
  if (watch)
    add_to_watch(watch, fiber);
  return watch != NULL;
}

int weft_park_wait(weft_state *state, lua_State *L, weft_park *park, weft_context *context) {
  weft_scheduler *scheduler = &state->scheduler;
  weft_fiber *fiber = (weft_fiber *)park;
  if (!watch_context(scheduler, fiber, context) &&
      weft_wait_claim(&park->wait, WEFT_PARK_CANCELED)) {
    if (weft_context_done(context))
      return finish_park(L, park);
    abandon_park(park);
    return luaL_error(L, "not enough memory");
  }
  hold_object(scheduler, fiber);
  fiber->state = WEFT_FIBER_PARKED;
  scheduler->parked++;
  return fiber == &scheduler->main ? wait_outside(state, L, park) : yield_fiber(scheduler, L, park);
}

/* ---- running ---- */

static void resume(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber, int nargs) {
  weft_fiber *outer = scheduler->current;
  lua_State *outer_running = scheduler->running;
  int nresults;
  fiber->state = WEFT_FIBER_RUNNING;
  scheduler->running = fiber->co;
  scheduler->current = fiber;
  if (scheduler->worker)
    weft_slice_begin(scheduler->worker);
  int rc = weft_resume(fiber->co, L, nargs, &nresults);
  scheduler->current = outer;
  scheduler->running = outer_running;
  scheduler->is_yield_of_task = 0;
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
      push_ready(scheduler, fiber);
  }
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
  if (nargs && weft_context_done(weft_task_context(fiber->task))) {
    lua_pushcfunction(fiber->co, raise_canceled);
    lua_replace(fiber->co, 1);
  }
#if !WEFT_LUA54
  if (fiber->was_parked) {
    lua_pushlightuserdata(fiber->co, (void *)&continue_token);
    nargs = 1;
  }
#endif
  fiber->was_parked = 0;
  resume(scheduler, L, fiber, nargs);
}

int weft_scheduler_turn(weft_scheduler *scheduler) {
  int count = take_inbox(scheduler);
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
  lua_insert(L, -count);
  return count + 1;
}

void weft_scheduler_start(weft_scheduler *scheduler, weft_task *task) {
  lua_State *L = scheduler->state->L;
  atomic_store(&task->runner, scheduler->inbox);
  atomic_store_explicit(&task->status, WEFT_TASK_RUNNING, memory_order_relaxed);
  if (weft_context_done(weft_task_context(task))) {
    weft_outcome_not_started(task);
    return;
  }
  scheduler->starting = task;
  weft_fiber *fiber = scheduler->starting_fiber = take_fiber(scheduler, L);
  fiber->task = task;
  int count = unpack_task(scheduler, L, task);
  fiber->where = scheduler->state->ship.first_where;
  lua_xmove(L, fiber->co, count);
  scheduler->starting = NULL;
  scheduler->starting_fiber = NULL;
  resume(scheduler, L, fiber, count - 1);
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
    give_fiber_back(scheduler, fiber, 1);
    luaL_error(L, "too many arguments");
  }
  return fiber;
}

void weft_scheduler_start_local(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber,
                                weft_task *task, int count) {
  atomic_store(&task->runner, scheduler->inbox);
  fiber->task = task;
  fiber->is_local = 1;
  fiber->outer = scheduler->current;
  fiber->outer_task = fiber->outer ? fiber->outer->task : NULL;
  lua_xmove(L, fiber->co, count);
  fiber->start_args = (uint16_t)(count - 1);
  push_ready(scheduler, fiber);
}

/* ---- life ---- */

int weft_scheduler_open(weft_scheduler *scheduler, weft_state *state, weft_worker *worker) {
  scheduler->state = state;
  scheduler->worker = worker;
  scheduler->inbox = worker ? worker->inbox : weft_inbox_acquire(1);
  return scheduler->inbox != NULL;
}

/* Ends the park of a caller that will never go on. */
static void abandon_parked(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (weft_wait_claim(&fiber->park.wait, WEFT_PARK_ABANDONED))
    unpark(scheduler, fiber);
  while (fiber->state == WEFT_FIBER_PARKED) /* the source has claimed, and only has to push */
    if (!take_inbox(scheduler))
      weft_cpu_relax();
  abandon_park(&fiber->park);
}

void weft_scheduler_abandon(weft_scheduler *scheduler, const void *object) {
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < FIBERS_PER_BLOCK; i++)
      if (block->fibers[i].state == WEFT_FIBER_PARKED && block->fibers[i].park.object == object)
        abandon_parked(scheduler, &block->fibers[i]);
}

/* The state closes with tasks of weft.inline unfinished: what they wait for lets go, and they end. */
static void abandon_fiber(weft_scheduler *scheduler, weft_fiber *fiber) {
  weft_task *task = fiber->task;
  if (fiber->state == WEFT_FIBER_PARKED)
    abandon_parked(scheduler, fiber);
  fiber->task = NULL;
  if (task)
    weft_task_end(task, WEFT_TASK_CANCELED);
}

static void abandon_all(weft_scheduler *scheduler) {
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < FIBERS_PER_BLOCK; i++)
      abandon_fiber(scheduler, &block->fibers[i]);
}

void weft_scheduler_close(weft_scheduler *scheduler) {
  if (scheduler->inbox)
    abandon_all(scheduler);
  while (scheduler->blocks) {
    weft_fiber_block *block = scheduler->blocks;
    scheduler->blocks = block->next;
    weft_free(block);
  }
  if (scheduler->inbox && !scheduler->worker)
    weft_inbox_release(scheduler->inbox);
  scheduler->inbox = NULL;
}
