/* waiter.h: waiting, written once.
 *
 * Every primitive is "try, or enqueue a waiter". A wait is one blocked party: a coroutine, a native
 * thread or an event loop. It stands in one or more queues (a channel, a context, the timers) with
 * one waiter each. The first source that claims it decides the outcome; its owner then takes the
 * other waiters out of their queues.
 *
 * Rules that make it safe without reference counts:
 *  - a source claims under its own lock, unlinks the waiter, unlocks, and only then wakes;
 *  - between claim and wake the wait belongs to the source: the owner leaves it alone until woken;
 *  - a source whose claim failed unlinks the waiter and never touches it again.
 */
#ifndef WEFT_CORE_WAITER_H
#define WEFT_CORE_WAITER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct weft_wait weft_wait;
typedef struct weft_waiter weft_waiter;

struct weft_wait {
  weft_wait *next; /* the source's from claim to wake, then the inbox's */
  /* called by the winning source without locks; the last thing it does */
  void (*wake)(weft_wait *);
  _Atomic uint32_t winner; /* 0: pending; else 1 + index of the waiter that was claimed */
};

typedef struct weft_waitlist {
  weft_waiter *head, *tail; /* guarded by the lock of the primitive that owns the list */
} weft_waitlist;

struct weft_waiter {
  weft_waiter *next, *prev;
  weft_wait *wait;
  void *slot;        /* where the primitive takes or leaves what is exchanged */
  uint32_t weight;   /* how much it wants (semaphore), or when to be woken (group) */
  uint16_t index;    /* which of the wait's sources this is */
  uint8_t is_queued; /* guarded by the list's lock */
  uint8_t outcome;   /* a primitive's own word on how it ended; set by the claimer */
};

static inline void weft_wait_init(weft_wait *wait, void (*wake)(weft_wait *)) {
  wait->next = NULL;
  wait->wake = wake;
  atomic_init(&wait->winner, 0);
}

/* Index of the source that won, or -1 while pending. */
static inline int weft_wait_winner(weft_wait *wait) {
  return (int)atomic_load_explicit(&wait->winner, memory_order_acquire) - 1;
}

/* Returns 1 to the one source that may decide the outcome. */
static inline int weft_wait_claim(weft_wait *wait, uint32_t index) {
  uint32_t pending = 0;
  return atomic_compare_exchange_strong(&wait->winner, &pending, index + 1);
}

static inline void weft_waiter_init(weft_waiter *waiter, weft_wait *wait, uint16_t index) {
  *waiter = (weft_waiter){.wait = wait, .index = index};
}

/* How a wait ended that was claimed through this waiter: WEFT_OK or a negative WEFT_ code, by
 * the claimer between claim and wake; read by the owner once woken. */
static inline void weft_waiter_set_outcome(weft_waiter *waiter, int code) {
  waiter->outcome = (uint8_t)-code;
}
static inline int weft_waiter_outcome(const weft_waiter *waiter) {
  return -(int)waiter->outcome;
}

/* All of these are called under the lock that guards the list. */
void weft_waitlist_push(weft_waitlist *list, weft_waiter *waiter);
/* Nothing when it is not in it. */
void weft_waitlist_remove(weft_waitlist *list, weft_waiter *waiter);
/* Unlinks waiters from the front until one could be claimed: adds its wait to `woken` and
 * returns it, or NULL when none is left. Its slot is the claimer's until weft_wake. A claim
 * cannot be taken back: claim only when what the waiter waits for can be delivered under the
 * same lock. */
weft_waiter *weft_waitlist_claim_first(weft_waitlist *list, weft_wait **woken);
/* Claims `waiter`, which is in `list`, and unlinks it: 1, or 0 when another source was first. */
int weft_waitlist_claim(weft_waitlist *list, weft_waiter *waiter, weft_wait **woken);
void weft_waitlist_claim_all(weft_waitlist *list, weft_wait **woken);

/* Wakes a chain that the claim functions built, oldest first. Called without locks. */
void weft_wake(weft_wait *woken);

/* ---- a native thread as the blocked party ---- */

typedef struct weft_thread_wait {
  weft_wait wait; /* first */
  pthread_mutex_t lock;
  pthread_cond_t woken;
  int is_woken; /* guarded by lock */
} weft_thread_wait;

/* Ends in weft_thread_wait_block or _drop. */
void weft_thread_wait_init(weft_thread_wait *party);
/* Blocks the calling thread until woken, then frees the party's system resources. */
void weft_thread_wait_block(weft_thread_wait *party);
/* For a party that was never put into a list, or that was taken out of all unclaimed. */
void weft_thread_wait_drop(weft_thread_wait *party);

#endif
