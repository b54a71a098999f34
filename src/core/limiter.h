/* limiter.h: a token bucket, strictly first in, first out.
 *
 * A bucket of `burst` tokens fills at `rate` tokens a second. Who wants more than is left waits
 * until it has filled; nobody is overtaken. Nothing is promised to who waits: it takes its tokens
 * when its turn comes, so a change of the rate, a pause, what others give back or leave unused
 * reach it at once.
 *
 * Any thread calls any function here; none blocks, except those that say so. The caller keeps a
 * reference while a waiter of its is queued.
 *
 * Waiting: waiter->weight says how many tokens. Once woken by the limiter, weft_waiter_outcome
 * tells WEFT_OK (they are taken), WEFT_TOO_LARGE (the burst was set below the weight) or
 * WEFT_NOTHREAD (the I/O thread, whose timer serves the queue, could not be started).
 */
#ifndef WEFT_CORE_LIMITER_H
#define WEFT_CORE_LIMITER_H

#include "handle.h"
#include "timer.h"
#include "waiter.h"
#include "weft.h"

struct weft_limiter {
  weft_handle handle; /* first */
  pthread_mutex_t lock;
  /* guarded by lock */
  double rate;   /* tokens a second; may be infinite, or 0 */
  double tokens; /* at filled_ns; below 0 when more was used than was taken */
  double queued; /* what all waiters and the reservations behind them want */
  uint64_t filled_ns, paused_until_ns;
  uint32_t burst;
  weft_waitlist waiters; /* slot: the tokens reserved right behind the waiter, a whole number */
  weft_timer timer; /* when the first waiter's turn may have come; its claim holds a reference */
  uint8_t is_armed; /* the timer runs, or has been claimed and its fire is due */
};

extern const weft_handle_type weft_limiter_type;

/* As weft_limiter_allow for waiter->weight, but WEFT_WOULD_WAIT says that the waiter was queued.
 * WEFT_TOO_LATE: its turn would not come before `deadline_ns`. No other source may hold the
 * waiter's wait yet. */
int weft_limiter_take_or_wait(weft_limiter *limiter, uint64_t deadline_ns, weft_waiter *waiter);
/* Takes the waiter out and lets the next ones proceed; nothing when it is queued no more. When the
 * wait's winner is this waiter, its tokens are taken and its wake is due. */
void weft_limiter_unwait(weft_limiter *limiter, weft_waiter *waiter);

/* Tokens a second, and how many at once, as they were set last. */
double weft_limiter_rate(weft_limiter *limiter);
uint32_t weft_limiter_burst(weft_limiter *limiter);
/* How many tokens could be taken now, less what those who wait want. */
double weft_limiter_tokens(weft_limiter *limiter);

#endif
