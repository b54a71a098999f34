/* monitor.h: finds workers that have run one task for too long, and interrupts them by a signal.
 *
 * A worker's `slice` is odd while it runs a task and changes with every resume; the same odd number
 * seen in two ticks means a stuck worker. The signal's handler calls the runtime's preempt.
 */
#ifndef WEFT_CORE_MONITOR_H
#define WEFT_CORE_MONITOR_H

#include "pool.h"

enum { WEFT_SLICE_MS = 10 };

/* On the worker's thread: it may be interrupted between these two calls. */
void weft_monitor_enter(weft_worker *worker);
void weft_monitor_leave(weft_worker *worker);
/* Around its sleeps: no ticks are needed while every worker sleeps. Cheap. */
void weft_monitor_sleep(weft_worker *worker);
void weft_monitor_wake(weft_worker *worker);

static inline void weft_slice_begin(weft_worker *worker) {
  uint32_t slice = atomic_load_explicit(&worker->slice, memory_order_relaxed);
  atomic_store_explicit(&worker->slice, slice + 1, memory_order_relaxed);
}
#define weft_slice_end weft_slice_begin

#endif
