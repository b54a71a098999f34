/* waitgroup.h: a count of things to be done, and those who wait for it to reach zero.
 *
 * Any thread calls any function here; none blocks, except those that say so. The caller keeps a
 * reference while a waiter of its is queued.
 */
#ifndef WEFT_CORE_WAITGROUP_H
#define WEFT_CORE_WAITGROUP_H

#include "handle.h"
#include "waiter.h"
#include "weft.h"

struct weft_waitgroup {
  weft_handle handle; /* first */
  pthread_mutex_t lock;
  /* guarded by lock */
  int64_t count;
  weft_waitlist waiters;
};

extern const weft_handle_type weft_waitgroup_type;

/* WEFT_OK: the count is zero. WEFT_WOULD_WAIT: the waiter was queued; it is woken when the count
 * becomes zero. No other source may hold its wait yet. */
int weft_waitgroup_wait_or_queue(weft_waitgroup *waitgroup, weft_waiter *waiter);
/* Takes the waiter out; nothing when it is queued no more. */
void weft_waitgroup_unwait(weft_waitgroup *waitgroup, weft_waiter *waiter);
int64_t weft_waitgroup_count(weft_waitgroup *waitgroup);

#endif
