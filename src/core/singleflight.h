/* singleflight.h: of those who want the same thing at once, one fetches it for all.
 *
 * A flight is one run under a key. Who asks for a key that is not in flight leads a new flight; who
 * asks meanwhile waits for its outcome. A leader that cannot go on (its context is done) hands the
 * lead to the first that waits, so nobody fails because another one gave up.
 *
 * Any thread calls any function here; none blocks. The caller keeps its reference to the flight
 * while a waiter of its is queued.
 *
 * Waiting: once woken by the flight, weft_waiter_outcome tells WEFT_OK (it has ended: `result` or
 * `error` may be read) or WEFT_CHANGED (the caller leads from now on).
 */
#ifndef WEFT_CORE_SINGLEFLIGHT_H
#define WEFT_CORE_SINGLEFLIGHT_H

#include "handle.h"
#include "parcel.h"
#include "waiter.h"
#include "weft.h"

#include <pthread.h>

typedef struct weft_flight weft_flight;

struct weft_singleflight {
  weft_handle handle; /* first */
  pthread_mutex_t lock;
  /* guarded by lock */
  weft_flight **buckets; /* owned; a power of two, 0 before the first flight */
  uint32_t bucket_count, count;
};

struct weft_flight {
  weft_handle handle;       /* first */
  weft_singleflight *owner; /* retained; constant */
  /* constant once it has ended; at most one of them */
  weft_shared_parcel *result;
  weft_error *error;
  /* guarded by the owner's lock */
  weft_flight *next; /* in its bucket */
  uint8_t is_listed; /* under its key, for others to join */
  weft_waitlist waiters;
  /* constant */
  uint32_t hash, size;
  uint8_t key[];
};

extern const weft_handle_type weft_singleflight_type;

/* Joins the flight under a key, or starts one; `*flight` carries a reference for the caller.
 * WEFT_OK: the caller leads it, and has to call weft_flight_finish or weft_flight_hand_over.
 * WEFT_WOULD_WAIT: the waiter was queued. WEFT_NOMEM: neither. */
int weft_singleflight_join(weft_singleflight *owner, const void *key, uint32_t size,
                           weft_waiter *waiter, weft_flight **flight);
/* Takes the waiter out; nothing when it is queued no more. */
void weft_flight_unwait(weft_flight *flight, weft_waiter *waiter);
/* By the leader: nobody joins any more. Returns whether somebody waits for the outcome. */
int weft_flight_land(weft_flight *flight);
/* By the leader: ends it for all who wait, with a result or an error (retained; both NULL: no
 * values). */
void weft_flight_finish(weft_flight *flight, weft_shared_parcel *result, weft_error *error);
/* By the leader, instead: the first that waits leads; when nobody does, the flight is over. */
void weft_flight_hand_over(weft_flight *flight);
static inline void weft_flight_release(weft_flight *flight) {
  weft_handle_release(&flight->handle);
}

#endif
