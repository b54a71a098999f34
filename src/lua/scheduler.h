/* scheduler.h: one scheduler a Lua state: many tasks as coroutines, parked and woken through the
 * core's waiter mechanism.
 *
 * Three drivers: a worker's thread drives it for ever; a script drives its own while it waits; an
 * event loop such as nginx is woken and goes on by itself (guest.h). A blocking call is the same
 * call in all of them. Everything here belongs to the state's thread, but for what says [any
 * thread].
 */
#ifndef WEFT_LUA_SCHEDULER_H
#define WEFT_LUA_SCHEDULER_H

#include "compat.h"
#include "context.h"
#include "inbox.h"
#include "pool.h"
#include "task.h"
#include "timer.h"
#include "waiter.h"

struct weft_state;
typedef struct weft_fiber weft_fiber;
typedef struct weft_park weft_park;
typedef struct weft_watch weft_watch;
typedef struct weft_scheduler weft_scheduler;
typedef struct weft_message weft_message;
struct weft_guests;
struct weft_guest_loop;

/* What any thread may send to a scheduler: `receive` is called on the state's thread, between
 * tasks, and owns the message. When the state is closing it only frees it. */
struct weft_message {
  weft_wait wait; /* first */
  void (*receive)(weft_scheduler *scheduler, weft_message *message);
};

/* How a park ended. One with several sources numbers them from WEFT_PARK_FIRST_CHOICE on: each is
 * an event. */
enum { WEFT_PARK_EVENT, WEFT_PARK_CANCELED, WEFT_PARK_ABANDONED, WEFT_PARK_FIRST_CHOICE };

/* What a finish returns when the call must be tried again from its start; LuaJIT's lua_yield
 * returns -1. */
enum { WEFT_AGAIN = -2 };

enum {
  WEFT_PARK_HOLDS_HANDLE = 1, /* object is a weft_handle, kept alive for the length of the park */
  WEFT_PARK_STEPS = 2         /* an iterator, where returning nil would end a loop in silence */
};

/* One kind of blocking call. */
typedef struct weft_park_op {
  const char *what; /* "channel:recv", for errors and dumps */
  /* In the caller, after it was woken: pushes the results and returns how many, or raises, or
   * returns WEFT_AGAIN with nothing pushed. Of the arguments only the first is there for sure.
   * `source` is WEFT_PARK_EVENT or WEFT_PARK_CANCELED; after the latter the event did not happen.
   */
  int (*finish)(lua_State *L, weft_park *park, int source);
  lua_CFunction again; /* the call itself; NULL when finish never says WEFT_AGAIN */
  /* Takes the waiter out of the source's queue, where it may be no more. */
  void (*leave)(weft_park *park);
  /* For a caller that will never go on (its state closes, or a signal's hook raised): frees what
   * finish would have, and gives back what the event brought. After leave, unless the event came.
   * May be NULL. */
  void (*abandon)(weft_park *park, int source);
  uint8_t flags; /* of those above */
  /* Says what it waits for, in a few words, for dumps; may be NULL. On the state's thread. */
  void (*describe)(const weft_park *park, char *text, size_t size);
} weft_park_op;

struct weft_park {
  weft_wait wait;     /* first */
  weft_waiter waiter; /* for the source; index WEFT_PARK_EVENT */
  const weft_park_op *op;
  void *object; /* what it waits for; kept alive by the caller's Lua stack */
};

enum { WEFT_FIBER_IDLE, WEFT_FIBER_READY, WEFT_FIBER_RUNNING, WEFT_FIBER_PARKED };

/* A coroutine of the scheduler's: idle, or running one task. `main`, without a coroutine, stands
 * for whoever calls from outside of any task. */
struct weft_fiber {
  weft_park park;      /* first */
  lua_State *co;       /* of `main`: the caller, while it is parked */
  uint64_t started_ns; /* coarse */
  weft_task *task;
  union {                     /* in one list at a time */
    weft_fiber *next;         /* of the ready or the idle list */
    weft_fiber *next_watched; /* while parked */
  };
  weft_fiber *prev_watched;
  weft_watch *watch; /* while parked: the context that can cancel it */
  union {
    const char *where; /* of a pool's task: its function's file:line, the group's; or NULL */
    weft_fiber *outer; /* of a task of weft.inline: the fiber that started it, or NULL */
  };
  uint32_t runs;       /* how many tasks have ended on it */
  uint32_t outer_runs; /* that of `outer` then: its task may have ended since */
  int anchor;          /* the coroutine's reference in the registry */
  uint16_t start_args; /* of a task of weft.inline that was not resumed yet */
  uint8_t state;
  uint8_t is_local : 1;     /* runs a task of weft.inline */
  uint8_t was_parked : 1;   /* the next resume ends a park */
  uint8_t holds_handle : 1; /* a reference to park.object */
  uint8_t owes_finish : 1;  /* its park was neither finished nor abandoned */
  uint8_t is_traced : 1;    /* a trace has begun its line */
  uint8_t traces_wait : 1;  /* and its wait */
  uint8_t has_raised : 1;   /* its task's function has, and the coroutine is well: fiber_base.c */
  uint8_t is_guest : 1;     /* of an event loop that is not ours: guest.h */
  uint8_t kills : 4;        /* how often a loop of it was told in vain that it is cancelled */
};

struct weft_scheduler {
  struct weft_state *state;
  weft_inbox *inbox;
  weft_worker *worker;        /* NULL: a host */
  struct weft_guests *guests; /* of a host that is an event loop; else NULL */
  weft_fiber *volatile current;
  lua_State *volatile running; /* the current fiber's coroutine, or one that its task made; these
                                  two are also read by the signal handler on this thread */
  uint8_t yield_kind;          /* of a yield on its way out; Lua 5.4: coroutines.h */
  uint32_t interrupted;        /* coroutines of tasks whose slice ended in them, or more */
  weft_spin spin;
  weft_fiber main;
  weft_fiber *ready_head, *ready_tail;
  weft_fiber *idle;
  struct weft_fiber_block *blocks;
  uint32_t idle_count;
  /* written here, read anywhere */
  _Atomic uint32_t live, parked; /* live: fibers that run a task */
  _Atomic uint64_t done;         /* tasks that ended well */
  _Atomic uint32_t lua_kib;      /* of the state's memory, when it was last idle */
  weft_watch *watches[256];      /* by context */
  weft_task *starting;           /* being unpacked: fails when that raises */
  weft_fiber *starting_fiber;
  uint8_t is_closing;
  uint8_t is_stuck;               /* the script was told that nothing can go on: deadlock.h */
  _Atomic uint8_t has_stuck_note; /* it is in the inbox */
  weft_message stuck_note;
  struct weft_stuck *stuck_task; /* of a worker: which task its thread is busy with; roll.h */
  weft_scheduler *next_seat, *prev_seat; /* guarded by the roster's lock */
  uint32_t process;                      /* the fork generation that it was opened in */
};

/* Of counts that one thread writes. */
static inline void weft_tally_done(weft_scheduler *scheduler) {
  uint64_t now = atomic_load_explicit(&scheduler->done, memory_order_relaxed);
  atomic_store_explicit(&scheduler->done, now + 1, memory_order_relaxed);
}
static inline void weft_tally(_Atomic uint32_t *count, int change) {
  uint32_t now = atomic_load_explicit(count, memory_order_relaxed);
  atomic_store_explicit(count, now + (uint32_t)change, memory_order_relaxed);
}

/* `loop` is NULL but for a host that is called by an event loop. */
int weft_scheduler_open(weft_scheduler *scheduler, struct weft_state *state, weft_worker *worker,
                        const struct weft_guest_loop *loop);
void weft_scheduler_close(weft_scheduler *scheduler);

/* ---- blocking calls: begin; try, or enqueue park->waiter; wait ---- */

/* For the caller of L. Raises when its context is done, or when it cannot block here. */
weft_park *weft_park_begin(struct weft_state *state, lua_State *L, const weft_park_op *op,
                           void *object);
/* Again, once what ran since may have run a finalizer that has used it to block itself. */
weft_park *weft_park_renew(struct weft_state *state, lua_State *L, const weft_park_op *op,
                           void *object);
/* The same without the checks, for the ends of scopes. */
weft_park *weft_park_prepare(struct weft_state *state, const weft_park_op *op, void *object);
/* Blocks the caller until the waiter is claimed or `context` is done. A C function returns what
 * this returns, since it may yield; but WEFT_AGAIN, which comes outside of tasks, makes it try
 * again. */
int weft_park_wait(struct weft_state *state, lua_State *L, weft_park *park, weft_context *context);
/* An empty parcel that stays put while the caller of L is blocked; `own` is for a caller that never
 * yields, on its C stack. */
weft_parcel *weft_park_slot(struct weft_state *state, weft_parcel *own);
/* What a blocking C function of LuaJIT continues with: see weft_push_function. */
int weft_park_continue(lua_State *L);
/* Raises unless a call from L may block; `what` names it. */
void weft_check_can_block(struct weft_state *state, lua_State *L, const char *what);
/* Pushes what tasks of a pool get as their first argument: "the context of the task that runs". */
void weft_push_task_context(struct weft_state *state, lua_State *L);
/* Raises the error of a context that is done. */
int weft_raise_context(struct weft_state *state, lua_State *L, weft_context *context);
/* The context of the task that L runs, else the background; borrowed. `own` makes one that belongs
 * to the task alone. Raises without memory. */
weft_context *weft_current_context(struct weft_state *state, lua_State *L, int own);
/* The same, but of the pool's task whose code runs: tasks of weft.inline share its variables, and
 * so its first argument, which means this. */
weft_context *weft_outer_context(struct weft_state *state, lua_State *L, int own);
/* Ends the parks of callers that wait for `object`, which is going: only when their state closes
 * does an object go before them. */
void weft_scheduler_abandon(weft_scheduler *scheduler, const void *object);

/* ---- running ---- */

/* Starts a task of a pool: unpacks and runs it until it parks or ends. What raises, its context
 * being done already among it, leaves it as `starting`, for the driver to fail. */
void weft_scheduler_start(weft_scheduler *scheduler, weft_task *task);
/* For a task of weft.inline, in two steps: a fiber with room for `count` values, or a raise; */
weft_fiber *weft_scheduler_reserve(weft_scheduler *scheduler, lua_State *L, int count);
void weft_scheduler_unreserve(weft_scheduler *scheduler, weft_fiber *fiber);
/* then, without a way to fail, queues the task whose function and arguments are the top of L. */
void weft_scheduler_start_local(weft_scheduler *scheduler, lua_State *L, weft_fiber *fiber,
                                weft_task *task, int count);
/* Runs what is woken or ready, once. Returns how much that was. */
int weft_scheduler_turn(weft_scheduler *scheduler);
/* 1 when a turn would find nothing. */
static inline int weft_scheduler_is_quiet(weft_scheduler *scheduler) {
  return !scheduler->ready_head && weft_inbox_is_empty(scheduler->inbox);
}
/* After an error in weft_scheduler_start: gives the fiber of the task that did not start back. */
void weft_scheduler_drop_starting(weft_scheduler *scheduler);
/* Every fiber that runs a task. */
void weft_scheduler_each(weft_scheduler *scheduler, void (*visit)(weft_fiber *, void *), void *arg);
/* [any thread] The message is the receiver's from then on. */
void weft_message_send(weft_message *message, weft_inbox *inbox);
/* [any thread] Tells the scheduler that started the task that its context is done. */
void weft_scheduler_interrupt(weft_task *task);

#endif
