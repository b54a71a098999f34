/* semaphore.h: a weighted semaphore, strictly first in, first out.
 *
 * Who asks for much is not overtaken by who asks for little: while somebody waits, nobody is served
 * before. Any thread calls any function here; none blocks, except those that say so. The caller
 * keeps a reference while a waiter of its is queued.
 *
 * Waiting: waiter->weight says how much. Once woken by the semaphore, weft_waiter_outcome tells
 * WEFT_OK (it is held) or WEFT_TOO_LARGE (the semaphore was resized below the weight).
 */
#ifndef WEFT_CORE_SEMAPHORE_H
#define WEFT_CORE_SEMAPHORE_H

#include "handle.h"
#include "waiter.h"
#include "weft.h"

struct weft_semaphore {
  weft_handle handle; /* first */
  pthread_mutex_t lock;
  /* guarded by lock */
  uint32_t size;
  uint32_t held; /* may exceed size after a resize */
  weft_waitlist waiters;
};

extern const weft_handle_type weft_semaphore_type;

/* As weft_semaphore_try_acquire for waiter->weight, but WEFT_WOULD_WAIT says that the waiter was
 * queued. No other source may hold the waiter's wait yet. */
int weft_semaphore_acquire_or_wait(weft_semaphore *semaphore, weft_waiter *waiter);
/* Steps for a choice, with the semaphore's lock held: see select.h. As weft_semaphore_try_acquire;
 * and queues the waiter, whose weight is set. */
int weft_semaphore_acquire_locked(weft_semaphore *semaphore, uint32_t weight);
void weft_semaphore_queue_locked(weft_semaphore *semaphore, weft_waiter *waiter);
/* Takes the waiter out and lets the next ones proceed; nothing when it is queued no more. When
 * the wait's winner is this waiter, its weight is held and its wake is due. */
void weft_semaphore_unwait(weft_semaphore *semaphore, weft_waiter *waiter);
/* How much is held now. */
uint32_t weft_semaphore_held(weft_semaphore *semaphore);
uint32_t weft_semaphore_size(weft_semaphore *semaphore);

#endif
