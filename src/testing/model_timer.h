/* model_timer.h: the times at which the model server's loop has something to do, in a binary heap.
 *
 * Belongs to the server thread. Nothing here blocks; times are seconds of weft_model_now.
 */
#ifndef WEFT_TESTING_MODEL_TIMER_H
#define WEFT_TESTING_MODEL_TIMER_H

#include <stddef.h>

/* Part of the thing that waits; zeroed it is off. */
typedef struct weft_model_timer {
  double due;
  size_t place; /* in the heap, from 1; 0: off */
} weft_model_timer;

typedef struct weft_model_timers {
  weft_model_timer **heap; /* borrowed timers; heap[0] is the next one */
  size_t count, capacity;
} weft_model_timers;

/* Seconds on the monotonic clock. */
double weft_model_now(void);

/* Frees the heap, not the timers. */
void weft_model_timers_free(weft_model_timers *timers);
/* Room for `count` timers that are on at the same time, so that setting one cannot fail. Returns
 * 0, or -1 when there is no memory. */
int weft_model_timers_reserve(weft_model_timers *timers, size_t count);
/* Turns the timer on, or moves one that is on. */
void weft_model_timer_set(weft_model_timers *timers, weft_model_timer *timer, double due);
void weft_model_timer_clear(weft_model_timers *timers, weft_model_timer *timer);
/* Turns off a timer that is due and returns it; NULL when none is. */
weft_model_timer *weft_model_timers_due(weft_model_timers *timers, double now);
/* The timeout for the poller: milliseconds until the next timer, -1 when none is on. */
int weft_model_timers_timeout(const weft_model_timers *timers);

#endif
