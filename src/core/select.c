/* select.c: trying, or queueing at, several channels and semaphores under all of their locks.
 *
 * Owns nothing. The blocked thread enters. Invariants: their locks are held together from
 * the first try to the last waiter's queueing; done contexts, which stay done, come after.
 *
 * Lock order: channels' and semaphores' locks in the order of the locks' addresses. Waits are woken
 * after the last unlock.
 */
#include "select.h"

#include "random.h"

#include <stdlib.h>

enum { FEW = 32 };

/* The lock that guards what the case waits for, when it has one. */
static pthread_mutex_t *lock_of(const weft_select_case *one) {
  switch (one->kind) {
  case WEFT_SELECT_RECV:
  case WEFT_SELECT_SEND:
    return &one->channel->lock;
  case WEFT_SELECT_ACQUIRE:
    return &one->semaphore->lock;
  default:
    return NULL;
  }
}

/* ---- the order of locking ---- */

static pthread_mutex_t *nth_to_lock(const weft_select *select, uint32_t n) {
  return lock_of(&select->cases[select->cases[n].locked]);
}

static int is_before(const weft_select *select, uint32_t a, uint32_t b) {
  return (uintptr_t)lock_of(&select->cases[a]) < (uintptr_t)lock_of(&select->cases[b]);
}

static void set_locked(weft_select *select, uint32_t n, uint32_t index) {
  select->cases[n].locked = (uint16_t)index;
}

/* Lets the entry at `root` sink in the heap of the first `count`; the largest is on top. */
static void sink(weft_select *select, uint32_t root, uint32_t count) {
  uint32_t index = select->cases[root].locked;
  for (uint32_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count &&
        is_before(select, select->cases[child].locked, select->cases[child + 1].locked))
      child++;
    if (!is_before(select, index, select->cases[child].locked))
      break;
    set_locked(select, root, select->cases[child].locked);
  }
  set_locked(select, root, index);
}

static void heap_sort(weft_select *select, uint32_t count) {
  for (uint32_t root = count / 2; root-- > 0;)
    sink(select, root, count);
  for (uint32_t last = count; last-- > 1;) {
    uint32_t largest = select->cases[0].locked;
    set_locked(select, 0, select->cases[last].locked);
    sink(select, 0, last);
    set_locked(select, last, largest);
  }
}

static void insertion_sort(weft_select *select, uint32_t count) {
  for (uint32_t i = 1; i < count; i++) {
    uint32_t index = select->cases[i].locked, place = i;
    for (; place > 0 && is_before(select, index, select->cases[place - 1].locked); place--)
      set_locked(select, place, select->cases[place - 1].locked);
    set_locked(select, place, index);
  }
}

/* What stands in several cases is locked once. */
static uint32_t drop_doubles(weft_select *select, uint32_t count) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i++)
    if (kept == 0 || nth_to_lock(select, i) != nth_to_lock(select, kept - 1))
      set_locked(select, kept++, select->cases[i].locked);
  return kept;
}

void weft_select_init(weft_select *select, weft_select_case *cases, uint32_t count,
                      int is_ordered) {
  uint32_t locks = 0;
  *select = (weft_select){cases, count, 0, is_ordered};
  for (uint32_t i = 0; i < count; i++) {
    cases[i].polled = (uint16_t)i;
    if (lock_of(&cases[i]))
      set_locked(select, locks++, i);
  }
  if (locks <= FEW)
    insertion_sort(select, locks);
  else
    heap_sort(select, locks);
  select->lock_count = drop_doubles(select, locks);
}

static void lock_all(const weft_select *select) {
  for (uint32_t i = 0; i < select->lock_count; i++)
    pthread_mutex_lock(nth_to_lock(select, i));
}

static void unlock_all(const weft_select *select) {
  for (uint32_t i = select->lock_count; i-- > 0;)
    pthread_mutex_unlock(nth_to_lock(select, i));
}

/* ---- trying ---- */

static void shuffle(weft_select *select) {
  uint64_t chance = weft_random();
  for (uint32_t i = select->count; i-- > 1;) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    uint32_t other = (uint32_t)((chance >> 32) * (i + 1) >> 32);
    uint16_t index = select->cases[i].polled;
    select->cases[i].polled = select->cases[other].polled;
    select->cases[other].polled = index;
  }
}

static int try_case(weft_select_case *one, weft_wait **woken) {
  switch (one->kind) {
  case WEFT_SELECT_RECV:
    return weft_channel_recv_locked(one->channel, one->value, woken);
  case WEFT_SELECT_SEND:
    return weft_channel_send_locked(one->channel, one->value, woken);
  case WEFT_SELECT_DONE:
    return weft_context_done(one->context) ? WEFT_OK : WEFT_WOULD_WAIT;
  case WEFT_SELECT_ACQUIRE:
    return weft_semaphore_acquire_locked(one->semaphore, one->weight);
  default:
    return WEFT_WOULD_WAIT;
  }
}

static int try_all(weft_select *select, uint32_t *index, weft_wait **woken) {
  for (uint32_t i = 0; i < select->count; i++) {
    *index = select->cases[i].polled;
    int rc = try_case(&select->cases[*index], woken);
    if (rc != WEFT_WOULD_WAIT)
      return rc;
  }
  return WEFT_WOULD_WAIT;
}

/* ---- waiting ---- */

static void queue_at_semaphore(weft_select_case *one) {
  one->waiter.weight = one->weight;
  weft_semaphore_queue_locked(one->semaphore, &one->waiter);
}

/* In the order of trying: cases of one channel stand in its queue by the same chance. */
static void queue_under_locks(weft_select *select, weft_wait *wait, uint32_t first) {
  for (uint32_t i = 0; i < select->count; i++) {
    uint32_t index = select->cases[i].polled;
    weft_select_case *one = &select->cases[index];
    weft_waiter_init(&one->waiter, wait, (uint16_t)(first + index));
    if (one->kind == WEFT_SELECT_RECV)
      weft_channel_queue_recv_locked(one->channel, one->value, &one->waiter);
    else if (one->kind == WEFT_SELECT_SEND)
      weft_channel_queue_send_locked(one->channel, one->value, &one->waiter);
    else if (one->kind == WEFT_SELECT_ACQUIRE)
      queue_at_semaphore(one);
  }
}

/* One that is done meanwhile is claimed here, unless a channel was first. */
static int queue_at_contexts(weft_select *select, weft_wait *wait, uint32_t first,
                             uint32_t *index) {
  for (uint32_t i = 0; i < select->count; i++) {
    weft_select_case *one = &select->cases[i];
    if (one->kind != WEFT_SELECT_DONE || weft_context_wait(one->context, &one->waiter))
      continue;
    if (!weft_wait_claim(wait, first + i))
      return WEFT_WOULD_WAIT; /* its wake is on the way */
    weft_select_unwait(select);
    *index = i;
    return WEFT_OK;
  }
  return WEFT_WOULD_WAIT;
}

static int try_or_queue(weft_select *select, weft_wait *wait, uint32_t first, uint32_t *index) {
  weft_wait *woken = NULL;
  if (!select->is_ordered && select->count > 1)
    shuffle(select);
  lock_all(select);
  int rc = try_all(select, index, &woken);
  if (rc == WEFT_WOULD_WAIT && wait)
    queue_under_locks(select, wait, first);
  unlock_all(select);
  weft_wake(woken);
  return rc;
}

int weft_select_try(weft_select *select, uint32_t *index) {
  return try_or_queue(select, NULL, 0, index);
}

int weft_select_or_wait(weft_select *select, weft_wait *wait, uint32_t first, uint32_t *index) {
  int rc = try_or_queue(select, wait, first, index);
  return rc == WEFT_WOULD_WAIT ? queue_at_contexts(select, wait, first, index) : rc;
}

void weft_select_unwait(weft_select *select) {
  for (uint32_t i = 0; i < select->count; i++) {
    weft_select_case *one = &select->cases[i];
    if (one->kind == WEFT_SELECT_RECV)
      weft_channel_unwait_recv(one->channel, &one->waiter);
    else if (one->kind == WEFT_SELECT_SEND)
      weft_channel_unwait_send(one->channel, &one->waiter);
    else if (one->kind == WEFT_SELECT_DONE)
      weft_context_unwait(one->context, &one->waiter);
    else if (one->kind == WEFT_SELECT_ACQUIRE)
      weft_semaphore_unwait(one->semaphore, &one->waiter);
  }
}

/* ---- native threads ---- */

int weft_select_wait(weft_context *context, weft_select *select, uint32_t *index) {
  weft_thread_wait party;
  weft_waiter on_context;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_thread_wait_init(&party);
  weft_waiter_init(&on_context, &party.wait, (uint16_t)select->count);
  int rc = weft_select_or_wait(select, &party.wait, 0, index);
  if (rc != WEFT_WOULD_WAIT) {
    weft_thread_wait_drop(&party);
    return rc;
  }
  if (!weft_context_wait(context, &on_context) && weft_wait_claim(&party.wait, select->count))
    weft_thread_wait_drop(&party);
  else
    weft_thread_wait_block(&party);
  weft_context_unwait(context, &on_context);
  weft_select_unwait(select);
  *index = (uint32_t)weft_wait_winner(&party.wait);
  return *index == select->count ? WEFT_CANCELED : weft_select_outcome(select, *index);
}
