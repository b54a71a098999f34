/* channel.h: a queue of parcels between tasks, with Go's rules.
 *
 * Capacity 0 is a rendezvous: a send succeeds when a receiver takes the value. Values, blocked
 * senders and blocked receivers are first in, first out. A closed channel takes no more, gives what
 * it holds and then answers WEFT_CLOSED.
 *
 * A channel that drops never makes senders wait: when it is full, a send takes the place of the
 * oldest value, which it gets back in its parcel, or ends with WEFT_FULL. Either way the sender
 * clears its parcel.
 *
 * Any thread calls any function here; none blocks, except those that say so. The caller keeps a
 * reference while a waiter of its is queued.
 *
 * Waiting: a waiter's slot is a parcel in the blocked party's memory: what a sender wants to send,
 * or an empty one for what a receiver gets. It stays put until the wait was claimed or the waiter
 * taken out. Once woken by the channel, weft_waiter_outcome tells WEFT_OK (the value was moved) or
 * WEFT_CLOSED (a sender's slot still holds its value, a receiver's is empty).
 */
#ifndef WEFT_CORE_CHANNEL_H
#define WEFT_CORE_CHANNEL_H

#include "handle.h"
#include "parcel.h"
#include "waiter.h"
#include "weft.h"

struct weft_ticker;

struct weft_channel {
  weft_handle handle;         /* first */
  uint32_t capacity;          /* constant */
  uint8_t overflow;           /* constant; WEFT_BLOCK, … */
  struct weft_ticker *ticker; /* constant and owned; what sends to it at times, or NULL */
  pthread_mutex_t lock;
  /* guarded by lock */
  uint32_t first, count; /* of `values` */
  uint8_t is_closed;
  uint64_t dropped; /* how many values */
  weft_waitlist receivers, senders;
  weft_parcel values[]; /* a ring of `capacity` */
};

extern const weft_handle_type weft_channel_type;

/* ---- trying ---- */

/* WEFT_OK: the parcel was moved out of `value`, which holds one that was dropped for it, or
 * nothing. Else it is unchanged: WEFT_WOULD_WAIT, WEFT_CLOSED, or WEFT_FULL when the channel drops
 * it. */
int weft_channel_try_send(weft_channel *channel, weft_parcel *value);
/* WEFT_OK: a parcel was moved into `out`, which must be empty. Else WEFT_WOULD_WAIT, or
 * WEFT_CLOSED when it is closed and drained. */
int weft_channel_try_recv(weft_channel *channel, weft_parcel *out);

/* ---- trying, or queueing a waiter, in one step ---- */

/* The same, but WEFT_WOULD_WAIT says that the waiter was queued with `value` or `out` as its
 * slot. No other source may hold the waiter's wait yet: give it to the context and the timers
 * afterwards. */
int weft_channel_send_or_wait(weft_channel *channel, weft_parcel *value, weft_waiter *waiter);
int weft_channel_recv_or_wait(weft_channel *channel, weft_parcel *out, weft_waiter *waiter);
/* Takes the waiter out; nothing when it is queued no more. After it no other thread touches
 * waiter or slot, unless the wait's winner is this waiter: then the exchange took place and its
 * wake is due. */
void weft_channel_unwait_send(weft_channel *channel, weft_waiter *waiter);
void weft_channel_unwait_recv(weft_channel *channel, weft_waiter *waiter);

/* How many values a channel that drops has dropped. */
uint64_t weft_channel_dropped(weft_channel *channel);
static inline uint32_t weft_channel_capacity(const weft_channel *channel) {
  return channel->capacity;
}

/* ---- steps for a choice among several channels ----
 *
 * Called with the lock of every channel of the choice held, taken in the order of their addresses.
 * While none of its waiters is queued, a choice cannot be claimed by others, so a try needs to
 * claim the peer alone and no value is lost when that fails; two choices that face each other meet
 * under the lock that they share. Only when no try succeeded are the waiters queued, one a channel
 * and direction, and all locks released. Waits to be woken are added to `woken`, for weft_wake
 * after the last unlock. */
int weft_channel_send_locked(weft_channel *channel, weft_parcel *value, weft_wait **woken);
int weft_channel_recv_locked(weft_channel *channel, weft_parcel *out, weft_wait **woken);
void weft_channel_queue_send_locked(weft_channel *channel, weft_parcel *value, weft_waiter *waiter);
void weft_channel_queue_recv_locked(weft_channel *channel, weft_parcel *out, weft_waiter *waiter);

/* ---- for native threads ---- */

/* Block the calling native thread until the parcel was moved (WEFT_OK), the channel is closed
 * (WEFT_CLOSED) or the context is done (WEFT_CANCELED). Any but the first leaves the parcel
 * unchanged. Sending ends as weft_channel_try_send when the channel drops. */
int weft_channel_send_parcel(weft_context *context, weft_channel *channel, weft_parcel *value);
int weft_channel_recv_parcel(weft_context *context, weft_channel *channel, weft_parcel *out);

#endif
