/* semaphore.c: a count and a queue behind one lock.
 *
 * Owns no memory but its own. Any thread enters. Invariant: whenever the lock is free, the first
 * waiter that can still be claimed wants more than is left.
 *
 * Lock order: a semaphore's lock is a leaf but for a wait's claim; a choice takes several, see
 * select.c. Waits are woken after unlocking.
 */
#include "semaphore.h"

#include "block.h"
#include "mem.h"
#include "stats.h"

static void destroy(weft_handle *handle) {
  weft_semaphore *semaphore = (weft_semaphore *)handle;
  pthread_mutex_destroy(&semaphore->lock);
  weft_free(semaphore);
}

const weft_handle_type weft_semaphore_type = {"semaphore", destroy, &weft_live.semaphores};

weft_semaphore *weft_semaphore_new(uint32_t size) {
  weft_semaphore *semaphore = weft_malloc(sizeof *semaphore);
  if (!semaphore)
    return NULL;
  *semaphore = (weft_semaphore){.size = size};
  pthread_mutex_init(&semaphore->lock, NULL);
  weft_handle_init(&semaphore->handle, &weft_semaphore_type);
  return semaphore;
}

weft_semaphore *weft_semaphore_retain(weft_semaphore *semaphore) {
  weft_handle_retain(&semaphore->handle);
  return semaphore;
}

void weft_semaphore_release(weft_semaphore *semaphore) {
  if (semaphore)
    weft_handle_release(&semaphore->handle);
}

/* ---- under the lock ---- */

static int has_room(const weft_semaphore *semaphore, uint32_t weight) {
  return semaphore->held <= semaphore->size && weight <= semaphore->size - semaphore->held;
}

/* Serves waiters from the front until one must go on waiting. */
static void serve(weft_semaphore *semaphore, weft_wait **woken) {
  weft_waiter *first;
  while ((first = semaphore->waiters.head) && has_room(semaphore, first->weight)) {
    uint32_t weight = first->weight;
    if (weft_waitlist_claim(&semaphore->waiters, first, woken))
      semaphore->held += weight;
  }
}

static void reject_too_large(weft_semaphore *semaphore, weft_wait **woken) {
  weft_waiter *waiter = semaphore->waiters.head, *next;
  for (; waiter; waiter = next) {
    next = waiter->next;
    if (waiter->weight > semaphore->size && weft_waitlist_claim(&semaphore->waiters, waiter, woken))
      weft_waiter_set_outcome(waiter, WEFT_TOO_LARGE);
  }
}

int weft_semaphore_acquire_locked(weft_semaphore *semaphore, uint32_t weight) {
  if (weight > semaphore->size)
    return WEFT_TOO_LARGE;
  if (semaphore->waiters.head || !has_room(semaphore, weight))
    return WEFT_WOULD_WAIT;
  semaphore->held += weight;
  return WEFT_OK;
}

void weft_semaphore_queue_locked(weft_semaphore *semaphore, weft_waiter *waiter) {
  weft_waitlist_push(&semaphore->waiters, waiter);
}

/* ---- for all ---- */

static int acquire(weft_semaphore *semaphore, uint32_t weight, weft_waiter *waiter) {
  pthread_mutex_lock(&semaphore->lock);
  int rc = weft_semaphore_acquire_locked(semaphore, weight);
  if (rc == WEFT_WOULD_WAIT && waiter)
    weft_semaphore_queue_locked(semaphore, waiter);
  pthread_mutex_unlock(&semaphore->lock);
  return rc;
}

int weft_semaphore_try_acquire(weft_semaphore *semaphore, uint32_t weight) {
  return acquire(semaphore, weight, NULL);
}

int weft_semaphore_acquire_or_wait(weft_semaphore *semaphore, weft_waiter *waiter) {
  return acquire(semaphore, waiter->weight, waiter);
}

int weft_semaphore_give_back(weft_semaphore *semaphore, uint32_t weight) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&semaphore->lock);
  int rc = weight > semaphore->held ? WEFT_BELOW_ZERO : WEFT_OK;
  if (rc == WEFT_OK) {
    semaphore->held -= weight;
    serve(semaphore, &woken);
  }
  pthread_mutex_unlock(&semaphore->lock);
  weft_wake(woken);
  return rc;
}

void weft_semaphore_unwait(weft_semaphore *semaphore, weft_waiter *waiter) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&semaphore->lock);
  weft_waitlist_remove(&semaphore->waiters, waiter);
  serve(semaphore, &woken); /* it may have been all that held the others up */
  pthread_mutex_unlock(&semaphore->lock);
  weft_wake(woken);
}

void weft_semaphore_resize(weft_semaphore *semaphore, uint32_t size) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&semaphore->lock);
  semaphore->size = size;
  reject_too_large(semaphore, &woken);
  serve(semaphore, &woken);
  pthread_mutex_unlock(&semaphore->lock);
  weft_wake(woken);
}

uint32_t weft_semaphore_held(weft_semaphore *semaphore) {
  pthread_mutex_lock(&semaphore->lock);
  uint32_t held = semaphore->held;
  pthread_mutex_unlock(&semaphore->lock);
  return held;
}

uint32_t weft_semaphore_size(weft_semaphore *semaphore) {
  pthread_mutex_lock(&semaphore->lock);
  uint32_t size = semaphore->size;
  pthread_mutex_unlock(&semaphore->lock);
  return size;
}

int weft_semaphore_acquire(weft_context *context, weft_semaphore *semaphore, uint32_t weight) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  self.on_source.weight = weight;
  int rc = weft_semaphore_acquire_or_wait(semaphore, &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return weft_waiter_outcome(&self.on_source);
  weft_semaphore_unwait(semaphore, &self.on_source);
  return WEFT_CANCELED;
}
