/* budget.c: three counters.
 *
 * Owns no memory but its own. Any thread enters. Invariant: a reservation succeeds only in the step
 * that raises `committed`, and only up to the limit, which never falls; so `committed` passes the
 * limit only when somebody settles more than was reserved.
 */
#include "budget.h"

#include "mem.h"
#include "stats.h"

static void destroy(weft_handle *handle) {
  weft_free(handle);
}

const weft_handle_type weft_budget_type = {"budget", destroy, &weft_live.budgets};

weft_budget *weft_budget_new(int64_t limit, double warn_share) {
  weft_budget *budget = weft_calloc(1, sizeof *budget);
  if (!budget)
    return NULL;
  atomic_init(&budget->limit, limit);
  budget->warn_share = warn_share;
  weft_handle_init(&budget->handle, &weft_budget_type);
  return budget;
}

weft_budget *weft_budget_retain(weft_budget *budget) {
  weft_handle_retain(&budget->handle);
  return budget;
}

void weft_budget_release(weft_budget *budget) {
  if (budget)
    weft_handle_release(&budget->handle);
}

int weft_budget_reserve(weft_budget *budget, int64_t amount) {
  int64_t limit = atomic_load(&budget->limit), committed = atomic_load(&budget->committed);
  do {
    if (amount > limit)
      return WEFT_TOO_LARGE;
    if (committed > limit - amount)
      return WEFT_WOULD_WAIT;
  } while (!atomic_compare_exchange_weak(&budget->committed, &committed, committed + amount));
  return WEFT_OK;
}

/* 1 for the one caller that finds the share reached first. */
static int warn(weft_budget *budget, int64_t spent) {
  double share = budget->warn_share * (double)atomic_load(&budget->limit);
  return budget->warn_share > 0 && (double)spent >= share &&
         !atomic_exchange(&budget->is_warned, 1);
}

int weft_budget_settle(weft_budget *budget, int64_t reserved, int64_t actual) {
  int64_t committed = atomic_load(&budget->committed);
  do {
    if (committed < reserved)
      return WEFT_BELOW_ZERO;
  } while (
      !atomic_compare_exchange_weak(&budget->committed, &committed, committed - reserved + actual));
  int64_t spent = atomic_fetch_add(&budget->spent, actual) + actual;
  return warn(budget, spent);
}

void weft_budget_add(weft_budget *budget, int64_t amount, int64_t most_remaining) {
  int64_t limit = atomic_load(&budget->limit), wanted;
  do {
    int64_t ceiling = atomic_load(&budget->committed) + most_remaining;
    wanted = limit + amount < ceiling ? limit + amount : ceiling;
    wanted = wanted < WEFT_BUDGET_MAX ? wanted : WEFT_BUDGET_MAX;
    if (wanted <= limit)
      return;
  } while (!atomic_compare_exchange_weak(&budget->limit, &limit, wanted));
  if ((double)atomic_load(&budget->spent) < budget->warn_share * (double)wanted)
    atomic_store(&budget->is_warned, 0);
}

int64_t weft_budget_spent(weft_budget *budget) {
  return atomic_load(&budget->spent);
}

int64_t weft_budget_limit(weft_budget *budget) {
  return atomic_load(&budget->limit);
}

int64_t weft_budget_remaining(weft_budget *budget) {
  int64_t left = atomic_load(&budget->limit) - atomic_load(&budget->committed);
  return left > 0 ? left : 0;
}

int weft_budget_is_warned(weft_budget *budget) {
  return atomic_load(&budget->is_warned);
}
