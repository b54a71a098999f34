/* budget.h: an amount that is spent by many at once, and never overspent.
 *
 * Amounts are whole millionths (micro-dollars, for money). Who wants to spend reserves the worst
 * case first, and settles what it was in the end: what is spent and what is reserved are together
 * never above the limit. While others' reservations are all that is in the way, who wants to
 * reserve may wait until they are settled, strictly first in, first out. Any thread calls any
 * function here; none blocks, except those that say so. The caller keeps a reference while a waiter
 * of its is queued.
 *
 * Waiting: waiter->slot is the amount (weft_budget_ask). Once woken by the budget,
 * weft_waiter_outcome tells WEFT_OK (it is reserved) or WEFT_TOO_LARGE (so much will not be left).
 */
#ifndef WEFT_CORE_BUDGET_H
#define WEFT_CORE_BUDGET_H

#include "handle.h"
#include "waiter.h"
#include "weft.h"

struct weft_budget {
  weft_handle handle; /* first */
  double warn_share;  /* of the limit; constant */
  pthread_mutex_t lock;
  /* guarded by lock */
  int64_t limit, spent, reserved;
  weft_waitlist waiters;
  uint8_t is_warned; /* what is spent has reached the share */
};

extern const weft_handle_type weft_budget_type;

enum { WEFT_BUDGET_UNIT = 1000000 };
#define WEFT_BUDGET_MAX ((int64_t)1000000000 * WEFT_BUDGET_UNIT)

_Static_assert(sizeof(void *) >= sizeof(int64_t), "a waiter's slot holds an amount");
static inline void weft_budget_ask(weft_waiter *waiter, int64_t amount) {
  waiter->slot = (void *)(intptr_t)amount;
}
static inline int64_t weft_budget_asked(const weft_waiter *waiter) {
  return (int64_t)(intptr_t)waiter->slot;
}

/* As weft_budget_reserve for what was asked, but WEFT_WOULD_WAIT says that the waiter was queued.
 * No other source may hold the waiter's wait yet. */
int weft_budget_reserve_or_wait(weft_budget *budget, weft_waiter *waiter);
/* Takes the waiter out and lets the next ones proceed; nothing when it is queued no more. When the
 * wait's winner is this waiter, its amount is reserved and its wake is due. */
void weft_budget_unwait(weft_budget *budget, weft_waiter *waiter);

typedef struct weft_budget_state {
  int64_t limit, spent, reserved;
  int64_t remaining; /* what could be reserved now; never below 0 */
  int is_warned;
} weft_budget_state;
/* All sums as they are at one moment. */
weft_budget_state weft_budget_read(weft_budget *budget);

#endif
