/* group.c: the errgroup: counts tasks, keeps the first error, collects what has ended.
 *
 * Owns its context, the ended tasks and the list of waiters. The owner thread adds and takes;
 * workers end tasks. Invariant: the lower half of `state` counts the shares: the owner's, and one
 * of every task that has not ended. Whoever brings it to zero frees the group, and nobody else
 * touches the group after taking its own share away. The upper half says whether leaving concerns a
 * waiter; since it is in the same word, one exchange both looks and leaves.
 *
 * Lock order: a group's lock is a leaf but for the wait's claim; waiters are woken after unlocking.
 */
#include "group.h"

#include "census.h"
#include "ledger.h"
#include "block.h"
#include "mem.h"
#include "platform.h"
#include "pool.h"
#include "stats.h"

#include <string.h>

enum { WAKE_SHIFT = 32 };

weft_group *weft_group_make(weft_context *parent, weft_pool *pool, uint32_t limit,
                            int is_collecting) {
  weft_group *group = weft_malloc_aligned(64, sizeof *group);
  weft_context *context = weft_context_with_cancel(parent);
  if (!group || !context) {
    weft_context_release(context);
    weft_free(group);
    return NULL;
  }
  *group = (weft_group){.context = context, .limit = limit, .is_collecting = !!is_collecting};
  group->process = weft_process_generation();
  if (pool)
    group->pool = weft_pool_retain(pool);
  atomic_init(&group->state, 1);
  pthread_mutex_init(&group->lock, NULL);
  atomic_fetch_add_explicit(&weft_live.groups, 1, memory_order_relaxed);
  return group;
}

weft_group *weft_group_new(weft_context *parent, weft_pool *pool, uint32_t limit) {
  weft_census_meet_stranger();
  return weft_group_make(parent, pool, limit, 0);
}

static void destroy(weft_group *group) {
  if (weft_ledger_is_on())
    weft_ledger_forget(group);
  weft_task *task = atomic_load(&group->ended);
  while (task) {
    weft_task *next = task->next;
    weft_task_free(task);
    task = next;
  }
  weft_error_release(group->first_error);
  weft_context_release(group->context);
  if (group->pool)
    weft_pool_release(group->pool);
  pthread_mutex_destroy(&group->lock);
  atomic_fetch_sub_explicit(&weft_live.groups, 1, memory_order_relaxed);
  weft_free(group);
}

/* Leavers look closer when fewer tasks than this run. Called under lock. */
static void set_wake_below(weft_group *group, uint32_t below) {
  uint64_t change = (uint64_t)below - group->wake_below; /* wraps around when it sinks */
  group->wake_below = below;
  atomic_fetch_add(&group->state, change << WAKE_SHIFT);
}

/* After a waiter has left; it ends at the first that wants as much as before. */
static void forget_gone_waiters(weft_group *group) {
  uint32_t below = 0;
  for (weft_waiter *waiter = group->waiters.head; waiter && below < group->wake_below;
       waiter = waiter->next)
    if (waiter->weight > below)
      below = waiter->weight;
  if (below != group->wake_below)
    set_wake_below(group, below);
}

/* Whether it waits for this: `running` are left, and `ended` is the task that has left, if one has.
 */
static int is_awaited(const weft_waiter *waiter, uint32_t running, const weft_task *ended) {
  int is_for_one = waiter->weight == WEFT_GROUP_PROGRESS && waiter->slot;
  return is_for_one ? waiter->slot == ended : running < waiter->weight;
}

/* Called under lock. */
static void claim_waiters(weft_group *group, uint32_t running, const weft_task *ended,
                          weft_wait **woken) {
  uint32_t below = 0;
  for (weft_waiter *waiter = group->waiters.head, *next; waiter; waiter = next) {
    next = waiter->next;
    if (is_awaited(waiter, running, ended))
      weft_waitlist_claim(&group->waiters, waiter, woken);
    else if (waiter->weight > below)
      below = waiter->weight;
  }
  if (below != group->wake_below)
    set_wake_below(group, below);
}

/* Takes shares away under the lock, which whoever frees the group has held after us. `ended` may
 * have been freed. */
static int leave_slowly(weft_group *group, uint32_t count, const weft_task *ended) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&group->lock);
  uint32_t left = (uint32_t)atomic_fetch_sub(&group->state, count) - count;
  if (left > 0)
    claim_waiters(group, left - 1, ended, &woken);
  pthread_mutex_unlock(&group->lock);
  if (left == 0)
    destroy(group);
  else
    weft_wake(woken);
  return woken != NULL;
}

/* 1 when somebody was woken. */
static int leave(weft_group *group, uint32_t count, const weft_task *ended) {
  uint64_t state = atomic_load_explicit(&group->state, memory_order_relaxed);
  while ((uint32_t)state > count && (uint32_t)state - count > state >> WAKE_SHIFT)
    if (atomic_compare_exchange_weak(&group->state, &state, state - count))
      return 0; /* neither the last nor waited for: the group is not ours to touch any more */
  return leave_slowly(group, count, ended);
}

/* In the child of a fork its tasks are not there: it is never freed, and nobody waits for it. */
static int is_of_other_process(const weft_group *group) {
  return group->process != weft_process_generation();
}

void weft_group_drop(weft_group *group) {
  if (!is_of_other_process(group))
    leave_slowly(group, 1, NULL);
}

void weft_group_add(weft_group *group, uint32_t count) {
  atomic_fetch_add_explicit(&group->state, count, memory_order_relaxed);
}

void weft_group_unadd(weft_group *group, uint32_t count) {
  leave(group, count, NULL); /* the last real task may have ended, with somebody waiting for that */
}

int weft_group_task_ended(weft_group *group, weft_task *task) {
  weft_task *head = atomic_load_explicit(&group->ended, memory_order_relaxed);
  do
    task->next = head;
  while (!atomic_compare_exchange_weak_explicit(&group->ended, &head, task, memory_order_release,
                                                memory_order_relaxed));
  return leave(group, 1, task);
}

weft_task *weft_group_take_ended(weft_group *group) {
  if (!atomic_load_explicit(&group->ended, memory_order_relaxed))
    return NULL;
  weft_task *newest = atomic_exchange_explicit(&group->ended, NULL, memory_order_acquire);
  weft_task *oldest = NULL;
  while (newest) {
    weft_task *next = newest->next;
    __builtin_prefetch(&newest->parcel.inline_bytes);
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

/* ---- the first error ---- */

static int is_echo(const weft_error *error) {
  return strcmp(error->kind, "canceled") == 0 || strcmp(error->kind, "deadline") == 0;
}

void weft_group_fail(weft_group *group, weft_error *error) {
  weft_error *replaced = NULL;
  pthread_mutex_lock(&group->lock);
  if (!group->first_error || (is_echo(group->first_error) && !is_echo(error))) {
    replaced = group->first_error;
    group->first_error = weft_error_retain(error);
  }
  pthread_mutex_unlock(&group->lock);
  weft_error_release(replaced);
  if (!group->is_collecting)
    weft_context_cancel(group->context, error);
}

weft_error *weft_group_first_error(weft_group *group) {
  pthread_mutex_lock(&group->lock);
  weft_error *error = weft_error_retain(group->first_error);
  pthread_mutex_unlock(&group->lock);
  return error;
}

/* ---- waiting ---- */

static int is_reached(weft_group *group, uint32_t below) {
  if (below == WEFT_GROUP_PROGRESS)
    return atomic_load(&group->ended) != NULL || weft_group_running(group) == 0;
  return weft_group_running(group) < below;
}

int weft_group_wait_below(weft_group *group, uint32_t below, weft_waiter *waiter) {
  if (is_of_other_process(group))
    return 0;
  pthread_mutex_lock(&group->lock);
  uint32_t before = group->wake_below;
  if (below > before) /* before the look: a leaver sees it, or we see him */
    set_wake_below(group, below);
  int must_wait = !is_reached(group, below);
  if (must_wait) {
    waiter->weight = below;
    weft_waitlist_push(&group->waiters, waiter);
  } else if (below > before) {
    set_wake_below(group, before);
  }
  pthread_mutex_unlock(&group->lock);
  return must_wait;
}

void weft_group_unwait(weft_group *group, weft_waiter *waiter) {
  pthread_mutex_lock(&group->lock);
  weft_waitlist_remove(&group->waiters, waiter);
  forget_gone_waiters(group);
  pthread_mutex_unlock(&group->lock);
}

/* ---- the C interface ---- */

static void block_until_below(weft_group *group, uint32_t below) {
  weft_thread_wait party;
  weft_waiter waiter;
  weft_thread_wait_init(&party);
  weft_waiter_init(&waiter, &party.wait, 0);
  if (weft_group_wait_below(group, below, &waiter))
    weft_thread_wait_block(&party);
  else
    weft_thread_wait_drop(&party);
}

/* Until fewer tasks run than the limit, or the group's context is done. */
static void block_until_limit_allows(weft_group *group) {
  weft_blocked self;
  weft_blocked_init(&self);
  if (!weft_group_wait_below(group, group->limit, &self.on_source))
    weft_blocked_drop(&self);
  else if (!weft_blocked_wait(&self, group->context))
    weft_group_unwait(group, &self.on_source);
}

static void block_until_queue_has_room(weft_group *group) {
  weft_blocked self;
  weft_blocked_init(&self);
  if (!weft_pool_wait_room(group->pool, &self.on_source))
    weft_blocked_drop(&self);
  else if (!weft_blocked_wait(&self, group->context))
    weft_pool_unwait_room(group->pool, &self.on_source);
}

static void free_ended(weft_group *group) {
  weft_task *task = weft_group_take_ended(group);
  while (task) {
    weft_task *next = task->next;
    weft_task_free(task);
    task = next;
  }
}

static int submit_call(weft_group *group, weft_task_fn fn, void *arg) {
  weft_task *task = weft_task_new(group);
  if (!task)
    return WEFT_NOMEM;
  weft_pool_call call = {fn, arg};
  memcpy(task->parcel.inline_bytes, &call, sizeof call);
  task->parcel.size = sizeof call;
  weft_group_add(group, 1);
  int rc = weft_pool_submit(group->pool, task);
  if (rc != WEFT_OK) {
    weft_group_unadd(group, 1);
    weft_task_free(task);
  }
  return rc;
}

int weft_group_try_go(weft_group *group, weft_task_fn fn, void *arg) {
  if (is_of_other_process(group))
    return WEFT_FORKED;
  free_ended(group);
  if (weft_context_done(group->context))
    return WEFT_CANCELED;
  if (group->limit && weft_group_running(group) >= group->limit)
    return WEFT_WOULD_WAIT;
  return submit_call(group, fn, arg);
}

int weft_group_go(weft_group *group, weft_task_fn fn, void *arg) {
  for (;;) {
    int rc = weft_group_try_go(group, fn, arg);
    if (rc != WEFT_WOULD_WAIT)
      return rc;
    if (group->limit && weft_group_running(group) >= group->limit)
      block_until_limit_allows(group);
    else
      block_until_queue_has_room(group);
  }
}

weft_error *weft_group_wait(weft_group *group) {
  if (is_of_other_process(group))
    return weft_error_new("forked", weft_strerror(WEFT_FORKED));
  block_until_below(group, 1);
  free_ended(group);
  return weft_group_first_error(group);
}

weft_context *weft_group_context(weft_group *group) {
  return group->context;
}

void weft_group_cancel(weft_group *group, weft_error *cause) {
  weft_context_cancel(group->context, cause);
}

void weft_group_close(weft_group *group) {
  if (!group || is_of_other_process(group))
    return;
  weft_context_cancel(group->context, NULL);
  block_until_below(group, 1);
  weft_group_drop(group);
}
