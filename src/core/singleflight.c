/* singleflight.c: flights by key, and who waits for them, behind one lock.
 *
 * Owns the table; flights belong to those who lead and wait. Any thread enters. Invariants: a
 * flight that somebody waits for has a leader, or has ended; one that is listed has a leader.
 *
 * Lock order: a singleflight's lock is a leaf but for a wait's claim. Waits are woken, and what a
 * flight held is released, after unlocking.
 */
#include "singleflight.h"

#include "hash.h"
#include "mem.h"
#include "stats.h"

#include <string.h>

enum { FIRST_BUCKETS = 8 };

/* ---- life ---- */

static void destroy_flight(weft_handle *handle) {
  weft_flight *flight = (weft_flight *)handle;
  weft_shared_parcel_release(flight->result);
  weft_error_release(flight->error);
  weft_singleflight_release(flight->owner);
  weft_free(flight);
}

static void destroy(weft_handle *handle) {
  weft_singleflight *owner = (weft_singleflight *)handle;
  pthread_mutex_destroy(&owner->lock);
  weft_free(owner->buckets);
  weft_free(owner);
}

static const weft_handle_type flight_type = {"flight", destroy_flight, &weft_live.flights};
const weft_handle_type weft_singleflight_type = {"singleflight", destroy, &weft_live.flights};

weft_singleflight *weft_singleflight_new(void) {
  weft_singleflight *owner = weft_calloc(1, sizeof *owner);
  if (!owner)
    return NULL;
  pthread_mutex_init(&owner->lock, NULL);
  weft_handle_init(&owner->handle, &weft_singleflight_type);
  return owner;
}

weft_singleflight *weft_singleflight_retain(weft_singleflight *owner) {
  weft_handle_retain(&owner->handle);
  return owner;
}

void weft_singleflight_release(weft_singleflight *owner) {
  if (owner)
    weft_handle_release(&owner->handle);
}

static weft_flight *new_flight(weft_singleflight *owner, uint32_t hash, const void *key,
                               uint32_t size) {
  weft_flight *flight = weft_malloc(sizeof *flight + size);
  if (!flight)
    return NULL;
  *flight = (weft_flight){.hash = hash, .size = size};
  memcpy(flight->key, key, size);
  flight->owner = weft_singleflight_retain(owner);
  weft_handle_init(&flight->handle, &flight_type);
  return flight;
}

/* ---- the table, under the lock ---- */

static weft_flight **bucket_of(const weft_singleflight *owner, uint32_t hash) {
  return &owner->buckets[hash & (owner->bucket_count - 1)];
}

/* The link to the flight under a key, which may hold NULL; NULL before the first flight. */
static weft_flight **find(const weft_singleflight *owner, uint32_t hash, const void *key,
                          uint32_t size) {
  if (!owner->bucket_count)
    return NULL;
  weft_flight **link = bucket_of(owner, hash);
  while (*link &&
         !((*link)->hash == hash && (*link)->size == size && memcmp((*link)->key, key, size) == 0))
    link = &(*link)->next;
  return link;
}

/* Without memory the chains get longer instead. */
static int grow(weft_singleflight *owner) {
  uint32_t old_count = owner->bucket_count, count = old_count ? old_count * 2 : FIRST_BUCKETS;
  weft_flight **old = owner->buckets, **buckets = weft_calloc(count, sizeof *buckets);
  if (!buckets)
    return old != NULL;
  owner->buckets = buckets;
  owner->bucket_count = count;
  for (uint32_t i = 0; i < old_count; i++)
    for (weft_flight *flight = old[i], *next; flight; flight = next) {
      next = flight->next;
      weft_flight **bucket = bucket_of(owner, flight->hash);
      flight->next = *bucket;
      *bucket = flight;
    }
  weft_free(old);
  return 1;
}

static void list(weft_singleflight *owner, weft_flight *flight) {
  weft_flight **bucket = bucket_of(owner, flight->hash);
  flight->next = *bucket;
  *bucket = flight;
  flight->is_listed = 1;
  owner->count++;
}

static void unlist(weft_singleflight *owner, weft_flight *flight) {
  if (!flight->is_listed)
    return;
  weft_flight **link = bucket_of(owner, flight->hash);
  while (*link != flight)
    link = &(*link)->next;
  *link = flight->next;
  flight->is_listed = 0;
  owner->count--;
}

/* ---- for all ---- */

static int join(weft_singleflight *owner, const void *key, uint32_t size, weft_waiter *waiter,
                weft_flight **flight) {
  uint32_t hash = weft_hash_bytes(key, size);
  weft_flight **link = find(owner, hash, key, size);
  if (link && *link) {
    *flight = *link;
    weft_handle_retain(&(*flight)->handle);
    weft_waitlist_push(&(*flight)->waiters, waiter);
    return WEFT_WOULD_WAIT;
  }
  if (owner->count >= owner->bucket_count && !grow(owner))
    return WEFT_NOMEM;
  *flight = new_flight(owner, hash, key, size);
  if (!*flight)
    return WEFT_NOMEM;
  list(owner, *flight);
  return WEFT_OK;
}

int weft_singleflight_join(weft_singleflight *owner, const void *key, uint32_t size,
                           weft_waiter *waiter, weft_flight **flight) {
  pthread_mutex_lock(&owner->lock);
  int rc = join(owner, key, size, waiter, flight);
  pthread_mutex_unlock(&owner->lock);
  return rc;
}

void weft_flight_unwait(weft_flight *flight, weft_waiter *waiter) {
  pthread_mutex_lock(&flight->owner->lock);
  weft_waitlist_remove(&flight->waiters, waiter);
  pthread_mutex_unlock(&flight->owner->lock);
}

int weft_flight_land(weft_flight *flight) {
  pthread_mutex_lock(&flight->owner->lock);
  unlist(flight->owner, flight);
  int has_waiters = flight->waiters.head != NULL;
  pthread_mutex_unlock(&flight->owner->lock);
  return has_waiters;
}

void weft_flight_finish(weft_flight *flight, weft_shared_parcel *result, weft_error *error) {
  weft_wait *woken = NULL;
  flight->result = result ? weft_shared_parcel_retain(result) : NULL;
  flight->error = error ? weft_error_retain(error) : NULL;
  pthread_mutex_lock(&flight->owner->lock);
  unlist(flight->owner, flight);
  weft_waitlist_claim_all(&flight->waiters, &woken);
  pthread_mutex_unlock(&flight->owner->lock);
  weft_wake(woken);
}

void weft_flight_hand_over(weft_flight *flight) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&flight->owner->lock);
  weft_waiter *heir = weft_waitlist_claim_first(&flight->waiters, &woken);
  if (heir)
    weft_waiter_set_outcome(heir, WEFT_CHANGED);
  else
    unlist(flight->owner, flight);
  pthread_mutex_unlock(&flight->owner->lock);
  weft_wake(woken);
}

void weft_singleflight_forget(weft_singleflight *owner, const void *key, uint32_t size) {
  pthread_mutex_lock(&owner->lock);
  weft_flight **link = find(owner, weft_hash_bytes(key, size), key, size);
  if (link && *link)
    unlist(owner, *link);
  pthread_mutex_unlock(&owner->lock);
}
