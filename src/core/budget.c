/* budget.c: three sums and a queue behind one lock.
 *
 * Owns no memory but its own. Any thread enters. Invariants: spent + reserved passes the limit only
 * when somebody settles more than was reserved; whenever the lock is free, the first waiter that
 * can still be claimed wants more than is left, but not more than is left besides reservations.
 *
 * Lock order: a budget's lock is a leaf but for a wait's claim. Waits are woken after unlocking.
 */
#include "budget.h"

#include "block.h"
#include "mem.h"
#include "stats.h"

static void destroy(weft_handle *handle) {
  weft_budget *budget = (weft_budget *)handle;
  pthread_mutex_destroy(&budget->lock);
  weft_free(budget);
}

const weft_handle_type weft_budget_type = {"budget", destroy, &weft_live.budgets};

weft_budget *weft_budget_new(int64_t limit, double warn_share) {
  weft_budget *budget = weft_malloc(sizeof *budget);
  if (!budget)
    return NULL;
  *budget = (weft_budget){.limit = limit, .warn_share = warn_share};
  pthread_mutex_init(&budget->lock, NULL);
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

/* ---- under the lock ---- */

static int64_t left(const weft_budget *budget) {
  return budget->limit - budget->spent - budget->reserved;
}

/* More than will be left even if all that is reserved is given back. */
static int is_hopeless(const weft_budget *budget, int64_t amount) {
  return amount > budget->limit - budget->spent;
}

static int reserve_locked(weft_budget *budget, int64_t amount) {
  if (is_hopeless(budget, amount))
    return WEFT_TOO_LARGE;
  if (budget->waiters.head || amount > left(budget))
    return WEFT_WOULD_WAIT;
  budget->reserved += amount;
  return WEFT_OK;
}

static void reject_hopeless(weft_budget *budget, weft_wait **woken) {
  weft_waiter *waiter = budget->waiters.head, *next;
  for (; waiter; waiter = next) {
    next = waiter->next;
    if (is_hopeless(budget, weft_budget_asked(waiter)) &&
        weft_waitlist_claim(&budget->waiters, waiter, woken))
      weft_waiter_set_outcome(waiter, WEFT_TOO_LARGE);
  }
}

/* Serves waiters from the front until one must go on waiting. */
static void serve(weft_budget *budget, weft_wait **woken) {
  weft_waiter *first;
  while ((first = budget->waiters.head) && weft_budget_asked(first) <= left(budget)) {
    int64_t amount = weft_budget_asked(first);
    if (weft_waitlist_claim(&budget->waiters, first, woken))
      budget->reserved += amount;
  }
}

/* 1 for the one call that finds the share reached first. */
static int warn_locked(weft_budget *budget) {
  double share = budget->warn_share * (double)budget->limit;
  int is_reached = budget->warn_share > 0 && (double)budget->spent >= share;
  int is_news = is_reached && !budget->is_warned;
  budget->is_warned = (uint8_t)is_reached;
  return is_news;
}

/* ---- for all ---- */

static int reserve(weft_budget *budget, int64_t amount, weft_waiter *waiter) {
  pthread_mutex_lock(&budget->lock);
  int rc = reserve_locked(budget, amount);
  if (rc == WEFT_WOULD_WAIT && waiter)
    weft_waitlist_push(&budget->waiters, waiter);
  pthread_mutex_unlock(&budget->lock);
  return rc;
}

int weft_budget_try_reserve(weft_budget *budget, int64_t amount) {
  return reserve(budget, amount, NULL);
}

int weft_budget_reserve_or_wait(weft_budget *budget, weft_waiter *waiter) {
  return reserve(budget, weft_budget_asked(waiter), waiter);
}

void weft_budget_unwait(weft_budget *budget, weft_waiter *waiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&budget->lock);
  weft_waitlist_remove(&budget->waiters, waiter);
  serve(budget, &woken); /* it may have been all that held the others up */
  pthread_mutex_unlock(&budget->lock);
  weft_wake(woken);
}

int weft_budget_settle(weft_budget *budget, int64_t reserved, int64_t actual) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&budget->lock);
  int rc = reserved > budget->reserved ? WEFT_BELOW_ZERO : WEFT_OK;
  if (rc == WEFT_OK) {
    budget->reserved -= reserved;
    budget->spent += actual;
    rc = warn_locked(budget);
    if (actual > 0)
      reject_hopeless(budget, &woken);
    serve(budget, &woken);
  }
  pthread_mutex_unlock(&budget->lock);
  weft_wake(woken);
  return rc;
}

void weft_budget_add(weft_budget *budget, int64_t amount, int64_t most_remaining) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&budget->lock);
  int64_t ceiling = budget->spent + budget->reserved + most_remaining;
  int64_t wanted = budget->limit + amount < ceiling ? budget->limit + amount : ceiling;
  wanted = wanted < WEFT_BUDGET_MAX ? wanted : WEFT_BUDGET_MAX;
  if (wanted > budget->limit) {
    budget->limit = wanted;
    warn_locked(budget); /* it may be below the share again */
    serve(budget, &woken);
  }
  pthread_mutex_unlock(&budget->lock);
  weft_wake(woken);
}

weft_budget_state weft_budget_read(weft_budget *budget) {
  pthread_mutex_lock(&budget->lock);
  weft_budget_state state = {budget->limit, budget->spent, budget->reserved,
                             left(budget) > 0 ? left(budget) : 0, budget->is_warned};
  pthread_mutex_unlock(&budget->lock);
  return state;
}

int weft_budget_reserve(weft_context *context, weft_budget *budget, int64_t amount) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  weft_budget_ask(&self.on_source, amount);
  int rc = weft_budget_reserve_or_wait(budget, &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return weft_waiter_outcome(&self.on_source);
  weft_budget_unwait(budget, &self.on_source);
  return WEFT_CANCELED;
}
