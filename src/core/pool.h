/* pool.h: the inside of pools that groups and the binding use.
 *
 * A pool runs tasks on native threads through a runtime: the C runtime calls functions, the Lua
 * runtime drives a scheduler of coroutines.
 */
#ifndef WEFT_CORE_POOL_H
#define WEFT_CORE_POOL_H

#include "handle.h"
#include "inbox.h"
#include "queue.h"
#include "ring.h"
#include "spin.h"
#include "task.h"
#include "waiter.h"
#include "weft.h"

typedef struct weft_worker weft_worker;

/* What runs tasks on a worker's thread. Every function is called on that thread, but preempt. */
typedef struct weft_runtime {
  /* Makes the worker's state. NULL: it failed, and `*error` says why (the pool's then). */
  void *(*open)(weft_worker *worker, weft_error **error);
  /* Runs tasks until weft_worker_park says that it is over. */
  void (*run)(weft_worker *worker, void *state);
  void (*close)(void *state);
  /* Ends a task that cannot be run, with `error` (not taken over). Any thread. */
  void (*fail)(weft_task *task, weft_error *error);
  /* In a signal handler on the worker's thread, when one task has run for too long; may be NULL. */
  void (*preempt)(void *state);
} weft_runtime;

struct weft_worker {
  weft_ring ring; /* first: it is aligned */
  weft_pool *pool;
  weft_inbox *inbox;
  void *state; /* the runtime's */
  uint32_t id;
  pthread_t thread;
  _Atomic uint32_t slice;             /* odd while a task runs; see monitor.h */
  _Atomic uint32_t is_awake;          /* not asleep in a park */
  uint32_t lean_takes;                /* how many times in a row it took one task alone; its own */
  weft_spin spin;                     /* its own */
  uint32_t seen_slice;                /* the monitor's */
  weft_worker *next_busy, *prev_busy; /* the monitor's list, guarded by its lock */
  /* guarded by the pool's lock */
  weft_worker *next_idle;
  uint8_t is_idle, is_started;
  uint8_t is_ending; /* takes no task any more */
};

struct weft_pool {
  weft_handle handle; /* first; held by users and groups, not by workers */
  const weft_runtime *runtime;
  void *user; /* the runtime's settings; freed by free_user */
  void (*free_user)(void *user);
  char name[16];
  uint32_t queue_limit; /* 0: none */
  int nice;
  uint8_t may_spin;             /* constant */
  _Atomic uint32_t process;     /* the fork generation that the threads live in */
  _Atomic uint32_t threads;     /* that run or are being started; changed under lock */
  _Atomic uint32_t max_threads; /* changed under lock */
  _Atomic uint32_t places;      /* entries of `workers` in use; only grows, under lock */
  weft_worker **workers;        /* their memory stays until the pool is freed */
  _Atomic uint32_t idle_count;  /* changed under lock */
  /* what each submit and each take touches: one cache line */
  pthread_mutex_t lock __attribute__((aligned(64)));
  _Atomic uint32_t queued;   /* tasks in `queue`; changed under lock */
  _Atomic uint32_t spinning; /* workers that look for work before they sleep */
  /* guarded by lock */
  weft_queue queue;
  weft_worker *idle;
  uint32_t ending;               /* how many of `threads` take no task any more */
  uint8_t is_closing, is_orphan; /* takes no more; the last worker frees the pool */
  weft_waitlist room_waiters, end_waiters;
  /* the binding's, guarded by its roster's lock: the last walk that met this pool, and its number
     among those that it met */
  uint64_t walk;
  uint32_t walk_place;
};

typedef struct weft_pool_call { /* what a task of the C runtime carries */
  weft_task_fn fn;
  void *arg;
} weft_pool_call;

/* As weft_pool_new with a runtime of the caller's. `user` is the pool's from then on. */
weft_pool *weft_pool_make(const weft_pool_config *config, const weft_runtime *runtime, void *user,
                          void (*free_user)(void *));
weft_pool *weft_pool_retain(weft_pool *pool);
extern const weft_handle_type weft_pool_type;

/* Queues a task that its group has counted in. WEFT_OK (the task is the pool's), or it stays the
 * caller's: WEFT_WOULD_WAIT (queue full), WEFT_CLOSED, WEFT_NOTHREAD, WEFT_NOMEM. */
int weft_pool_submit(weft_pool *pool, weft_task *task);
/* Queues a waiter for room in the queue; 0 when there is some. */
int weft_pool_wait_room(weft_pool *pool, weft_waiter *waiter);
void weft_pool_unwait_room(weft_pool *pool, weft_waiter *waiter);
/* Takes no more tasks; the threads end when all are finished. */
void weft_pool_shut(weft_pool *pool);
/* Queues a waiter for the end of the last thread of a pool that was shut; 0 when there is none. */
int weft_pool_wait_end(weft_pool *pool, weft_waiter *waiter);
void weft_pool_unwait_end(weft_pool *pool, weft_waiter *waiter);
/* Calls visit for tasks in the pool's queue, `most` of them, under its lock. */
void weft_pool_each_queued(weft_pool *pool, uint32_t most, void (*visit)(weft_task *, void *arg),
                           void *arg);
/* Changes how many threads it may have (1 to WEFT_POOL_MAX_THREADS): fewer end when they are idle.
 */
int weft_pool_resize(weft_pool *pool, uint32_t threads);
enum { WEFT_POOL_MAX_THREADS = 1024 };

/* ---- for a runtime, on the worker's thread ---- */

/* The next task to start, or NULL. Does not block. */
weft_task *weft_worker_next(weft_worker *worker);
/* Calls visit for the tasks on the worker's own ring. */
void weft_worker_each_queued(weft_worker *worker, void (*visit)(weft_task *, void *arg), void *arg);
/* A task that it ran woke somebody who had waited for it: who submits does not stream, so that to
 * let tasks gather would only delay them. */
static inline void weft_worker_saw_wait(weft_worker *worker) {
  worker->lean_takes = 0;
}
/* 1 when the pool takes no more tasks. */
int weft_worker_is_ending(weft_worker *worker);
/* Sleeps until there may be work: 1, or 0 when the thread shall end. `has_parked`: tasks of this
 * worker wait for something, so it cannot end. */
int weft_worker_park(weft_worker *worker, int has_parked);

#endif
