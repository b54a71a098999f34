/* group.h: the inside of groups that pools and the binding use.
 *
 * [owner] marks what only the thread that owns the group calls.
 */
#ifndef WEFT_CORE_GROUP_H
#define WEFT_CORE_GROUP_H

#include "context.h"
#include "task.h"
#include "waiter.h"
#include "weft.h"

struct weft_group {
  weft_context *context; /* retained; a child of the one given; constant */
  weft_pool *pool;       /* retained; NULL: tasks run where the group is owned; constant */
  uint32_t limit;        /* 0: none; constant */
  uint32_t process;      /* the fork generation that it was made in */
  void *owner;           /* the binding's; of the owner thread */
  uint8_t is_collecting; /* a failure does not cancel; constant */
  /* tasks that have not ended + 1 for the owner; above 32 bits: those who leave must look closer
     when fewer tasks than this run, since somebody waits for that; 0: nobody waits */
  _Atomic uint64_t state __attribute__((aligned(64)));
  _Atomic(weft_task *) ended; /* newest first; taken by the owner */
  pthread_mutex_t lock;
  /* guarded by lock */
  weft_waitlist waiters;   /* weight: woken when fewer tasks than this run */
  weft_error *first_error; /* retained */
  uint32_t wake_below;     /* the upper half of state */
};

/* As weft_group_new; `pool` may be NULL. */
weft_group *weft_group_make(weft_context *parent, weft_pool *pool, uint32_t limit,
                            int is_collecting);
/* [owner] Gives the group up: it is freed once its last task has ended. Cancels nothing. */
void weft_group_drop(weft_group *group);

/* [owner] Counts `count` tasks in, before they are given to a pool or to the owner's own scheduler.
 * To count in more than one at a time spares cache traffic; what is not used is taken back. */
void weft_group_add(weft_group *group, uint32_t count);
/* [owner] Takes back what was counted in and not used. */
void weft_group_unadd(weft_group *group, uint32_t count);
/* The worker's side of weft_task_end: 1 when that woke somebody. */
int weft_group_task_ended(weft_group *group, weft_task *task);
/* Keeps the first error (a real one outranks a "canceled" or "deadline" echo) and, unless it
 * collects, cancels the context with it. The error is retained. */
void weft_group_fail(weft_group *group, weft_error *error);
weft_error *weft_group_first_error(weft_group *group); /* with a reference, or NULL */

static inline int weft_group_has_waiters(weft_group *group) {
  return atomic_load_explicit(&group->state, memory_order_relaxed) >> 32 != 0;
}

/* Tasks that have not ended. */
static inline uint32_t weft_group_running(weft_group *group) {
  return (uint32_t)atomic_load_explicit(&group->state, memory_order_acquire) - 1;
}

/* [owner] The tasks that ended since the last call, oldest first, linked by next; they are the
 * caller's. */
weft_task *weft_group_take_ended(weft_group *group);

enum { WEFT_GROUP_PROGRESS = UINT32_MAX };
/* Queues a waiter for the moment when fewer than `below` tasks run, or, with
 * WEFT_GROUP_PROGRESS, when any more has ended than was taken. Returns 0 without queueing when
 * that is so already, and in a process that the group was not made in. With WEFT_GROUP_PROGRESS the
 * waiter's slot may be a task: then it is woken by the end of that one alone. */
int weft_group_wait_below(weft_group *group, uint32_t below, weft_waiter *waiter);
void weft_group_unwait(weft_group *group, weft_waiter *waiter);

#endif
