/* budget.h: an amount that is spent by many at once, and never overspent.
 *
 * Amounts are whole millionths (micro-dollars, for money). Who wants to spend reserves the worst
 * case first, and settles what it was in the end: what is spent and what is reserved are together
 * never above the limit, whoever reserves at the same time. Any thread calls any function here;
 * none blocks, none takes a lock.
 */
#ifndef WEFT_CORE_BUDGET_H
#define WEFT_CORE_BUDGET_H

#include "handle.h"
#include "weft.h"

struct weft_budget {
  weft_handle handle; /* first */
  _Atomic int64_t limit;
  _Atomic int64_t committed; /* spent and reserved */
  _Atomic int64_t spent;
  double warn_share;         /* of the limit; constant */
  _Atomic uint8_t is_warned; /* what is spent has reached that share */
};

extern const weft_handle_type weft_budget_type;

enum { WEFT_BUDGET_UNIT = 1000000 };
#define WEFT_BUDGET_MAX ((int64_t)1000000000 * WEFT_BUDGET_UNIT)

int64_t weft_budget_spent(weft_budget *budget);
int64_t weft_budget_limit(weft_budget *budget);
/* What can still be reserved; never below 0. */
int64_t weft_budget_remaining(weft_budget *budget);
int weft_budget_is_warned(weft_budget *budget);

#endif
