/* ticker.c: a timer that sends to its channel.
 *
 * Owns nothing but its memory, which is the channel's. Any thread stops it, the I/O thread fires
 * it. Invariant: a ticker that was stopped before or while it fired has no timer running
 * afterwards.
 *
 * Lock order: none is held while another's function is called.
 */
#include "ticker.h"

#include "clock.h"
#include "mem.h"
#include "platform.h"
#include "stats.h"

#include <errno.h>

static weft_ticker *of_timer(weft_timer *timer) {
  return (weft_ticker *)((char *)timer - offsetof(weft_ticker, timer));
}

static int claim(weft_timer *timer) {
  return weft_handle_try_retain(&of_timer(timer)->channel->handle);
}

/* Ticks that should have been while this one was late are left out. */
static void start_next(weft_ticker *ticker) {
  uint64_t now_ns = weft_clock_now_ns(), next_ns = ticker->timer.at_ns + ticker->period_ns;
  if (next_ns <= now_ns)
    next_ns += ((now_ns - next_ns) / ticker->period_ns + 1) * ticker->period_ns;
  weft_timer_start(&ticker->timer, next_ns);
  if (atomic_load(&ticker->is_stopped)) /* by a stop that found no timer running */
    weft_timer_stop(&ticker->timer);
}

static void fire(weft_timer *timer) {
  weft_ticker *ticker = of_timer(timer);
  weft_channel *channel = ticker->channel;
  weft_parcel tick;
  weft_parcel_init(&tick);
  ticker->stamp(&tick, weft_clock_now_ns());
  int rc = weft_channel_try_send(channel, &tick);
  weft_parcel_clear(&tick);
  if (rc != WEFT_CLOSED && ticker->period_ns && !atomic_load(&ticker->is_stopped))
    start_next(ticker);
  weft_channel_release(channel);
}

static uint64_t to_ns(double seconds) {
  if (!(seconds > 0))
    return 0;
  return seconds < 9e9 ? (uint64_t)(seconds * 1e9) + (seconds < 1e-9) : WEFT_NEVER_NS / 4;
}

weft_channel *weft_ticker_channel(double delay, double period,
                                  void (*stamp)(weft_parcel *value, uint64_t at_ns), int *error) {
  weft_ticker *ticker = weft_malloc(sizeof *ticker);
  weft_channel *channel = ticker ? weft_channel_new_with(1, WEFT_DROP_NEW) : NULL;
  *error = ENOMEM;
  if (!channel) {
    weft_free(ticker);
    return NULL;
  }
  *ticker = (weft_ticker){.channel = channel, .period_ns = to_ns(period), .stamp = stamp};
  weft_timer_init(&ticker->timer, claim, fire);
  atomic_fetch_add_explicit(&weft_live.tickers, 1, memory_order_relaxed);
  channel->ticker = ticker;
  *error = weft_timer_start(&ticker->timer, weft_clock_after_s(delay));
  if (*error == 0)
    return channel;
  weft_channel_release(channel);
  return NULL;
}

int weft_ticker_stop(weft_ticker *ticker) {
  int was_stopped = atomic_exchange(&ticker->is_stopped, 1);
  int was_running = weft_timer_stop(&ticker->timer);
  return was_running || (!was_stopped && ticker->period_ns != 0);
}

void weft_ticker_free(weft_ticker *ticker) {
  weft_timer_stop(&ticker->timer);
  atomic_fetch_sub_explicit(&weft_live.tickers, 1, memory_order_relaxed);
  weft_free(ticker);
}
