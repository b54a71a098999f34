/* channel.c: a ring of parcels, blocked senders and blocked receivers behind one lock.
 *
 * Owns the parcels that it holds; those of blocked senders stay theirs until claimed. Any thread
 * enters. Invariants: a receiver that can still be claimed is queued only while no value is held
 * and no such sender is queued; a sender only while the ring is full. So a value moves at most once
 * between two blocked parties: from slot to slot, or from slot to ring to slot.
 *
 * Lock order: a channel's lock is a leaf but for a wait's claim; several channels' locks are taken
 * in the order of their addresses. Waits are woken after unlocking.
 */
#include "channel.h"

#include "block.h"
#include "mem.h"
#include "stats.h"
#include "ticker.h"

static void destroy(weft_handle *handle);
const weft_handle_type weft_channel_type = {"channel", destroy, &weft_live.channels};

/* ---- life ---- */

weft_channel *weft_channel_new(uint32_t capacity) {
  return weft_channel_new_with(capacity, WEFT_BLOCK);
}

weft_channel *weft_channel_new_with(uint32_t capacity, int overflow) {
  weft_channel *channel = weft_malloc(sizeof *channel + (size_t)capacity * sizeof(weft_parcel));
  if (!channel)
    return NULL;
  *channel = (weft_channel){.capacity = capacity, .overflow = (uint8_t)overflow};
  pthread_mutex_init(&channel->lock, NULL);
  weft_handle_init(&channel->handle, &weft_channel_type);
  return channel;
}

weft_channel *weft_channel_retain(weft_channel *channel) {
  weft_handle_retain(&channel->handle);
  return channel;
}

void weft_channel_release(weft_channel *channel) {
  if (channel)
    weft_handle_release(&channel->handle);
}

static void take_oldest(weft_channel *channel, weft_parcel *out) {
  weft_parcel_move(out, &channel->values[channel->first]);
  channel->first = (channel->first + 1) % channel->capacity;
  channel->count--;
}

static void drop_values(weft_channel *channel) {
  weft_parcel value;
  while (channel->count > 0) {
    take_oldest(channel, &value);
    weft_parcel_clear(&value);
  }
}

static void destroy(weft_handle *handle) {
  weft_channel *channel = (weft_channel *)handle;
  drop_values(channel);
  if (channel->ticker)
    weft_ticker_free(channel->ticker);
  pthread_mutex_destroy(&channel->lock);
  weft_free(channel);
}

/* ---- under the lock ---- */

static void append(weft_channel *channel, weft_parcel *value) {
  uint32_t place = (uint32_t)(((uint64_t)channel->first + channel->count) % channel->capacity);
  weft_parcel_move(&channel->values[place], value);
  channel->count++;
}

/* No receiver waits and the ring is full. */
static int overflow(weft_channel *channel, weft_parcel *value) {
  weft_parcel oldest;
  if (channel->overflow == WEFT_BLOCK)
    return WEFT_WOULD_WAIT;
  channel->dropped++;
  if (channel->overflow == WEFT_DROP_NEW || channel->capacity == 0)
    return WEFT_FULL;
  take_oldest(channel, &oldest);
  append(channel, value);
  weft_parcel_move(value, &oldest); /* the sender's to clear: not under the lock */
  return WEFT_OK;
}

int weft_channel_send_locked(weft_channel *channel, weft_parcel *value, weft_wait **woken) {
  if (channel->is_closed)
    return WEFT_CLOSED;
  weft_waiter *receiver = weft_waitlist_claim_first(&channel->receivers, woken);
  if (receiver)
    weft_parcel_move(receiver->slot, value);
  else if (channel->count < channel->capacity)
    append(channel, value);
  else
    return overflow(channel, value);
  return WEFT_OK;
}

/* Taking from a full ring makes room for the first blocked sender. */
int weft_channel_recv_locked(weft_channel *channel, weft_parcel *out, weft_wait **woken) {
  int had_value = channel->count > 0;
  if (had_value)
    take_oldest(channel, out);
  weft_waiter *sender = weft_waitlist_claim_first(&channel->senders, woken);
  if (sender && had_value)
    append(channel, sender->slot);
  else if (sender)
    weft_parcel_move(out, sender->slot);
  else if (!had_value)
    return channel->is_closed ? WEFT_CLOSED : WEFT_WOULD_WAIT;
  return WEFT_OK;
}

void weft_channel_queue_send_locked(weft_channel *channel, weft_parcel *value,
                                    weft_waiter *waiter) {
  waiter->slot = value;
  weft_waitlist_push(&channel->senders, waiter);
}

void weft_channel_queue_recv_locked(weft_channel *channel, weft_parcel *out, weft_waiter *waiter) {
  waiter->slot = out;
  weft_waitlist_push(&channel->receivers, waiter);
}

/* ---- one channel ---- */

static int send(weft_channel *channel, weft_parcel *value, weft_waiter *waiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&channel->lock);
  int rc = weft_channel_send_locked(channel, value, &woken);
  if (rc == WEFT_WOULD_WAIT && waiter)
    weft_channel_queue_send_locked(channel, value, waiter);
  pthread_mutex_unlock(&channel->lock);
  weft_wake(woken);
  return rc;
}

static int recv(weft_channel *channel, weft_parcel *out, weft_waiter *waiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&channel->lock);
  int rc = weft_channel_recv_locked(channel, out, &woken);
  if (rc == WEFT_WOULD_WAIT && waiter)
    weft_channel_queue_recv_locked(channel, out, waiter);
  pthread_mutex_unlock(&channel->lock);
  weft_wake(woken);
  return rc;
}

int weft_channel_try_send(weft_channel *channel, weft_parcel *value) {
  return send(channel, value, NULL);
}

int weft_channel_try_recv(weft_channel *channel, weft_parcel *out) {
  return recv(channel, out, NULL);
}

int weft_channel_send_or_wait(weft_channel *channel, weft_parcel *value, weft_waiter *waiter) {
  return send(channel, value, waiter);
}

int weft_channel_recv_or_wait(weft_channel *channel, weft_parcel *out, weft_waiter *waiter) {
  return recv(channel, out, waiter);
}

static void unwait(weft_channel *channel, weft_waitlist *list, weft_waiter *waiter) {
  pthread_mutex_lock(&channel->lock);
  weft_waitlist_remove(list, waiter);
  pthread_mutex_unlock(&channel->lock);
}

void weft_channel_unwait_send(weft_channel *channel, weft_waiter *waiter) {
  unwait(channel, &channel->senders, waiter);
}

void weft_channel_unwait_recv(weft_channel *channel, weft_waiter *waiter) {
  unwait(channel, &channel->receivers, waiter);
}

static void claim_all_closed(weft_waitlist *list, weft_wait **woken) {
  weft_waiter *waiter;
  while ((waiter = weft_waitlist_claim_first(list, woken)))
    weft_waiter_set_outcome(waiter, WEFT_CLOSED);
}

int weft_channel_close(weft_channel *channel) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&channel->lock);
  int rc = channel->is_closed ? WEFT_CLOSED : WEFT_OK;
  channel->is_closed = 1;
  claim_all_closed(&channel->receivers, &woken);
  claim_all_closed(&channel->senders, &woken);
  pthread_mutex_unlock(&channel->lock);
  weft_wake(woken);
  if (channel->ticker)
    weft_ticker_stop(channel->ticker);
  return rc;
}

uint64_t weft_channel_dropped(weft_channel *channel) {
  pthread_mutex_lock(&channel->lock);
  uint64_t dropped = channel->dropped;
  pthread_mutex_unlock(&channel->lock);
  return dropped;
}

uint32_t weft_channel_length(weft_channel *channel) {
  pthread_mutex_lock(&channel->lock);
  uint32_t count = channel->count;
  pthread_mutex_unlock(&channel->lock);
  return count;
}

/* ---- native threads ---- */

int weft_channel_send_parcel(weft_context *context, weft_channel *channel, weft_parcel *value) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  int rc = weft_channel_send_or_wait(channel, value, &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return weft_waiter_outcome(&self.on_source);
  weft_channel_unwait_send(channel, &self.on_source);
  return WEFT_CANCELED;
}

int weft_channel_recv_parcel(weft_context *context, weft_channel *channel, weft_parcel *out) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  int rc = weft_channel_recv_or_wait(channel, out, &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return weft_waiter_outcome(&self.on_source);
  weft_channel_unwait_recv(channel, &self.on_source);
  return WEFT_CANCELED;
}

static int pack(weft_parcel *value, const void *bytes, size_t size) {
  weft_parcel_writer writer;
  weft_parcel_writer_init(&writer);
  int rc = weft_buf_append(&writer.buf, bytes, size);
  if (rc == WEFT_BUF_OK)
    rc = weft_parcel_finish(&writer, value);
  weft_parcel_writer_free(&writer);
  return rc == WEFT_BUF_OK ? WEFT_OK : rc == WEFT_BUF_LIMIT ? WEFT_TOO_LARGE : WEFT_NOMEM;
}

int weft_channel_send(weft_context *context, weft_channel *channel, const void *bytes,
                      size_t size) {
  weft_parcel value;
  weft_parcel_init(&value);
  int rc = pack(&value, bytes, size);
  if (rc == WEFT_OK)
    rc = weft_channel_send_parcel(context, channel, &value);
  weft_parcel_clear(&value);
  return rc;
}

int weft_channel_recv(weft_context *context, weft_channel *channel, void *buffer, size_t capacity,
                      size_t *size) {
  weft_parcel value;
  weft_parcel_init(&value);
  int rc = weft_channel_recv_parcel(context, channel, &value);
  if (rc == WEFT_OK && value.size && capacity)
    memcpy(buffer, value.data, value.size < capacity ? value.size : capacity);
  if (rc == WEFT_OK && size)
    *size = value.size;
  weft_parcel_clear(&value);
  return rc;
}
