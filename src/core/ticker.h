/* ticker.h: channels that time sends to.
 *
 * A ticker is a part of its channel, which holds one value and takes no more: who receives slowly
 * misses ticks (Go: time.Ticker), and whoever drops the channel drops the ticker. Any thread calls
 * any function here; none blocks.
 */
#ifndef WEFT_CORE_TICKER_H
#define WEFT_CORE_TICKER_H

#include "channel.h"
#include "parcel.h"
#include "timer.h"

typedef struct weft_ticker {
  weft_timer timer;      /* its claim holds a reference to the channel */
  weft_channel *channel; /* its owner */
  uint64_t period_ns;    /* constant; 0: once */
  void (*stamp)(weft_parcel *value,
                uint64_t at_ns); /* constant; writes a tick into an empty parcel */
  _Atomic int is_stopped;
} weft_ticker;

/* A channel that gets a tick in `delay` seconds and then each `period` seconds (0: no more). NULL,
 * with an errno value in `*error`, for want of memory or of the I/O thread. */
weft_channel *weft_ticker_channel(double delay, double period,
                                  void (*stamp)(weft_parcel *value, uint64_t at_ns), int *error);
/* No more ticks are sent from now on, but for one that is on its way. Returns 1 when one was to
 * come. */
int weft_ticker_stop(weft_ticker *ticker);
/* By the channel, whose last reference went. */
void weft_ticker_free(weft_ticker *ticker);

#endif
