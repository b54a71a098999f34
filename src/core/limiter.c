/* limiter.c: a level that rises with time and a queue behind one lock.
 *
 * Owns no memory but its own, and one timer. Any thread enters, the I/O thread when the timer
 * fires. Invariants: while somebody waits whose turn a time will bring, the timer is armed for then
 * or earlier; whenever the lock is free, the first waiter that can still be claimed wants more than
 * there is. A reservation behind a waiter takes nothing from it: it counts from that waiter's turn
 * on.
 *
 * Lock order: a limiter's lock, then the I/O thread's and the timers'. Waits are woken after
 * unlocking.
 */
#include "limiter.h"

#include "block.h"
#include "clock.h"
#include "mem.h"
#include "platform.h"
#include "stats.h"

#include <math.h>

/* Rounding may leave the level this much short at the computed time. It is owed, not given away. */
static const double TOLERANCE = 1e-6;

static int claim_timer(weft_timer *timer);
static void fire_timer(weft_timer *timer);

static void destroy(weft_handle *handle) {
  weft_limiter *limiter = (weft_limiter *)handle;
  weft_timer_stop(&limiter->timer);
  pthread_mutex_destroy(&limiter->lock);
  weft_free(limiter);
}

const weft_handle_type weft_limiter_type = {"limiter", destroy, &weft_live.limiters};

weft_limiter *weft_limiter_new(double rate, uint32_t burst) {
  weft_limiter *limiter = weft_malloc(sizeof *limiter);
  if (!limiter)
    return NULL;
  *limiter = (weft_limiter){
      .rate = rate, .burst = burst, .tokens = burst, .filled_ns = weft_clock_now_ns()};
  pthread_mutex_init(&limiter->lock, NULL);
  weft_timer_init(&limiter->timer, claim_timer, fire_timer);
  weft_handle_init(&limiter->handle, &weft_limiter_type);
  return limiter;
}

weft_limiter *weft_limiter_retain(weft_limiter *limiter) {
  weft_handle_retain(&limiter->handle);
  return limiter;
}

void weft_limiter_release(weft_limiter *limiter) {
  if (limiter)
    weft_handle_release(&limiter->handle);
}

/* ---- the level; all of this under the lock ---- */

static double level_after(const weft_limiter *limiter, uint64_t now_ns) {
  double seconds = now_ns > limiter->filled_ns ? (double)(now_ns - limiter->filled_ns) / 1e9 : 0;
  double level = seconds > 0 ? limiter->tokens + seconds * limiter->rate : limiter->tokens;
  return level < limiter->burst ? level : limiter->burst;
}

static uint64_t fill(weft_limiter *limiter) {
  uint64_t now_ns = weft_clock_now_ns();
  limiter->tokens = level_after(limiter, now_ns);
  limiter->filled_ns = now_ns;
  return now_ns;
}

/* Whether `weight` can be taken at a level that is up to date. */
static int has_tokens(const weft_limiter *limiter, double weight) {
  return limiter->filled_ns >= limiter->paused_until_ns &&
         (isinf(limiter->rate) || weight <= limiter->tokens + TOLERANCE);
}

static void take(weft_limiter *limiter, double tokens) {
  if (!isinf(limiter->rate))
    limiter->tokens -= tokens;
}

static void put(weft_limiter *limiter, double tokens) {
  take(limiter, -tokens);
  if (limiter->tokens > limiter->burst)
    limiter->tokens = limiter->burst;
}

/* When the level, up to date now, will have reached `tokens`: never earlier than the pause ends. */
static uint64_t time_of(const weft_limiter *limiter, double tokens) {
  uint64_t from_ns = limiter->filled_ns;
  double level = limiter->tokens;
  if (limiter->paused_until_ns > from_ns) {
    from_ns = limiter->paused_until_ns;
    level = level_after(limiter, from_ns);
  }
  if (isinf(limiter->rate) || tokens <= level + TOLERANCE)
    return from_ns;
  double wait_ns = ceil((tokens - level) / limiter->rate * 1e9); /* infinite at rate 0 */
  return wait_ns < 9e18 && from_ns < WEFT_NEVER_NS / 2 ? from_ns + (uint64_t)wait_ns
                                                       : WEFT_NEVER_NS;
}

/* ---- the queue; all of this under the lock ---- */

static double reserved_behind(const weft_waiter *waiter) {
  return (double)(uintptr_t)waiter->slot;
}

/* For one that leaves without its tokens: what was reserved behind it counts behind the one before.
 */
static void leave_queue(weft_limiter *limiter, double weight, double behind, weft_waiter *before) {
  limiter->queued -= weight;
  if (before) {
    before->slot = (void *)((uintptr_t)before->slot + (uintptr_t)behind);
  } else {
    limiter->queued -= behind;
    take(limiter, behind);
  }
}

/* Claims the first waiter with an outcome; on WEFT_OK it takes its tokens. */
static void end_first(weft_limiter *limiter, int outcome, weft_wait **woken) {
  weft_waiter *first = limiter->waiters.head;
  double weight = first->weight, behind = reserved_behind(first);
  if (weft_waitlist_claim(&limiter->waiters, first, woken)) {
    weft_waiter_set_outcome(first, outcome);
    if (outcome == WEFT_OK)
      take(limiter, weight);
  }
  leave_queue(limiter, weight, behind, NULL);
}

/* Makes the timer go off for the first waiter. Returns 0 or an errno value. */
static int arm(weft_limiter *limiter) {
  weft_waiter *first = limiter->waiters.head;
  uint64_t at_ns = first ? time_of(limiter, first->weight) : WEFT_NEVER_NS;
  if (limiter->is_armed && limiter->timer.process == weft_process_generation()) {
    int is_early_enough = at_ns != WEFT_NEVER_NS && limiter->timer.at_ns <= at_ns;
    if (is_early_enough || !weft_timer_stop(&limiter->timer))
      return 0; /* when it fires, perhaps now, it looks again */
  }
  int rc = at_ns == WEFT_NEVER_NS ? 0 : weft_timer_start(&limiter->timer, at_ns);
  limiter->is_armed = rc == 0 && at_ns != WEFT_NEVER_NS;
  return rc;
}

/* Serves waiters from the front until one must go on waiting; the level is up to date. */
static void serve(weft_limiter *limiter, weft_wait **woken) {
  weft_waiter *first;
  while ((first = limiter->waiters.head) && has_tokens(limiter, first->weight))
    end_first(limiter, WEFT_OK, woken);
  if (arm(limiter) != 0)
    while (limiter->waiters.head)
      end_first(limiter, WEFT_NOTHREAD, woken);
}

/* ---- the timer ---- */

static weft_limiter *of_timer(weft_timer *timer) {
  return (weft_limiter *)((char *)timer - offsetof(weft_limiter, timer));
}

static int claim_timer(weft_timer *timer) {
  return weft_handle_try_retain(&of_timer(timer)->handle);
}

static void fire_timer(weft_timer *timer) {
  weft_limiter *limiter = of_timer(timer);
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  limiter->is_armed = 0;
  fill(limiter);
  serve(limiter, &woken);
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
  weft_limiter_release(limiter);
}

/* ---- taking ---- */

static int exceeds_burst(const weft_limiter *limiter, uint32_t weight) {
  return weight > limiter->burst && !isinf(limiter->rate);
}

static int take_locked(weft_limiter *limiter, uint32_t weight) {
  if (exceeds_burst(limiter, weight))
    return WEFT_TOO_LARGE;
  fill(limiter);
  if (limiter->waiters.head || !has_tokens(limiter, weight))
    return WEFT_WOULD_WAIT;
  take(limiter, weight);
  return WEFT_OK;
}

static int queue_locked(weft_limiter *limiter, uint64_t deadline_ns, weft_waiter *waiter) {
  if (deadline_ns != WEFT_NEVER_NS &&
      time_of(limiter, limiter->queued + waiter->weight) >= deadline_ns)
    return WEFT_TOO_LATE; /* at the deadline itself, too: then the context is done */
  int is_first = !limiter->waiters.head;
  waiter->slot = NULL;
  weft_waitlist_push(&limiter->waiters, waiter);
  limiter->queued += waiter->weight;
  if (is_first && arm(limiter) != 0) {
    weft_waitlist_remove(&limiter->waiters, waiter);
    limiter->queued -= waiter->weight;
    return WEFT_NOTHREAD;
  }
  return WEFT_WOULD_WAIT;
}

int weft_limiter_allow(weft_limiter *limiter, uint32_t n) {
  pthread_mutex_lock(&limiter->lock);
  int rc = take_locked(limiter, n);
  pthread_mutex_unlock(&limiter->lock);
  return rc;
}

int weft_limiter_take_or_wait(weft_limiter *limiter, uint64_t deadline_ns, weft_waiter *waiter) {
  pthread_mutex_lock(&limiter->lock);
  int rc = take_locked(limiter, waiter->weight);
  if (rc == WEFT_WOULD_WAIT)
    rc = queue_locked(limiter, deadline_ns, waiter);
  pthread_mutex_unlock(&limiter->lock);
  return rc;
}

int weft_limiter_reserve(weft_limiter *limiter, uint32_t n, double *delay) {
  pthread_mutex_lock(&limiter->lock);
  int rc = exceeds_burst(limiter, n) ? WEFT_TOO_LARGE : WEFT_OK;
  if (rc == WEFT_OK) {
    uint64_t now_ns = fill(limiter), at_ns = time_of(limiter, limiter->queued + n);
    *delay = at_ns == WEFT_NEVER_NS ? HUGE_VAL : (double)(at_ns - now_ns) / 1e9;
    weft_waiter *last = limiter->waiters.tail;
    if (last) {
      last->slot = (void *)((uintptr_t)last->slot + n);
      limiter->queued += n;
    } else {
      take(limiter, n);
    }
  }
  pthread_mutex_unlock(&limiter->lock);
  return rc;
}

void weft_limiter_unwait(weft_limiter *limiter, weft_waiter *waiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  if (waiter->is_queued) {
    weft_waiter *before = waiter->prev;
    weft_waitlist_remove(&limiter->waiters, waiter);
    fill(limiter);
    leave_queue(limiter, waiter->weight, reserved_behind(waiter), before);
    serve(limiter, &woken);
  }
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
}

/* ---- changing ---- */

void weft_limiter_settle(weft_limiter *limiter, uint32_t taken, double used) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  fill(limiter);
  put(limiter, taken - used);
  serve(limiter, &woken);
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
}

void weft_limiter_give_back(weft_limiter *limiter, uint32_t n) {
  weft_limiter_settle(limiter, n, 0);
}

void weft_limiter_pause_until(weft_limiter *limiter, uint64_t at_ns) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  fill(limiter);
  if (at_ns > limiter->paused_until_ns)
    limiter->paused_until_ns = at_ns;
  serve(limiter, &woken);
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
}

void weft_limiter_resume(weft_limiter *limiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  fill(limiter);
  limiter->paused_until_ns = 0;
  serve(limiter, &woken);
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
}

/* Those that want more than the burst are taken out, wherever they stand. */
static void reject_too_large(weft_limiter *limiter, weft_wait **woken) {
  weft_waiter *waiter = limiter->waiters.head, *next;
  for (; waiter; waiter = next) {
    next = waiter->next;
    if (!exceeds_burst(limiter, waiter->weight))
      continue;
    weft_waiter *before = waiter->prev;
    double weight = waiter->weight, behind = reserved_behind(waiter);
    if (weft_waitlist_claim(&limiter->waiters, waiter, woken))
      weft_waiter_set_outcome(waiter, WEFT_TOO_LARGE);
    leave_queue(limiter, weight, behind, before);
  }
}

void weft_limiter_set(weft_limiter *limiter, double rate, uint32_t burst) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&limiter->lock);
  fill(limiter);
  if (rate >= 0)
    limiter->rate = rate;
  if (burst > 0)
    limiter->burst = burst;
  reject_too_large(limiter, &woken);
  serve(limiter, &woken);
  pthread_mutex_unlock(&limiter->lock);
  weft_wake(woken);
}

/* ---- looking ---- */

double weft_limiter_rate(weft_limiter *limiter) {
  pthread_mutex_lock(&limiter->lock);
  double rate = limiter->rate;
  pthread_mutex_unlock(&limiter->lock);
  return rate;
}

uint32_t weft_limiter_burst(weft_limiter *limiter) {
  pthread_mutex_lock(&limiter->lock);
  uint32_t burst = limiter->burst;
  pthread_mutex_unlock(&limiter->lock);
  return burst;
}

double weft_limiter_tokens(weft_limiter *limiter) {
  pthread_mutex_lock(&limiter->lock);
  fill(limiter);
  double tokens = limiter->tokens - limiter->queued;
  pthread_mutex_unlock(&limiter->lock);
  return tokens;
}

/* ---- native threads ---- */

int weft_limiter_wait(weft_context *context, weft_limiter *limiter, uint32_t n) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  self.on_source.weight = n;
  int rc = weft_limiter_take_or_wait(limiter, weft_context_deadline_ns(context), &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return weft_waiter_outcome(&self.on_source);
  weft_limiter_unwait(limiter, &self.on_source);
  return WEFT_CANCELED;
}
