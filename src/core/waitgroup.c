/* waitgroup.c: a count and its waiters behind one lock.
 *
 * Owns no memory but its own. Any thread enters. Invariants: the count is never negative, and
 * nobody who can still be claimed is queued while it is zero.
 *
 * Lock order: a waitgroup's lock is a leaf but for a wait's claim. Waits are woken after unlocking.
 */
#include "waitgroup.h"

#include "block.h"
#include "mem.h"
#include "stats.h"

static void destroy(weft_handle *handle) {
  weft_waitgroup *waitgroup = (weft_waitgroup *)handle;
  pthread_mutex_destroy(&waitgroup->lock);
  weft_free(waitgroup);
}

const weft_handle_type weft_waitgroup_type = {"waitgroup", destroy, &weft_live.waitgroups};

weft_waitgroup *weft_waitgroup_new(void) {
  weft_waitgroup *waitgroup = weft_malloc(sizeof *waitgroup);
  if (!waitgroup)
    return NULL;
  *waitgroup = (weft_waitgroup){.count = 0};
  pthread_mutex_init(&waitgroup->lock, NULL);
  weft_handle_init(&waitgroup->handle, &weft_waitgroup_type);
  return waitgroup;
}

weft_waitgroup *weft_waitgroup_retain(weft_waitgroup *waitgroup) {
  weft_handle_retain(&waitgroup->handle);
  return waitgroup;
}

void weft_waitgroup_release(weft_waitgroup *waitgroup) {
  if (waitgroup)
    weft_handle_release(&waitgroup->handle);
}

int weft_waitgroup_add(weft_waitgroup *waitgroup, int64_t delta) {
  weft_wait *woken = NULL;
  int64_t count;
  int rc = WEFT_OK;
  pthread_mutex_lock(&waitgroup->lock);
  if (__builtin_add_overflow(waitgroup->count, delta, &count))
    rc = delta > 0 ? WEFT_TOO_LARGE : WEFT_BELOW_ZERO;
  else if (count < 0)
    rc = WEFT_BELOW_ZERO;
  else
    waitgroup->count = count;
  if (rc == WEFT_OK && count == 0)
    weft_waitlist_claim_all(&waitgroup->waiters, &woken);
  pthread_mutex_unlock(&waitgroup->lock);
  weft_wake(woken);
  return rc;
}

int weft_waitgroup_done(weft_waitgroup *waitgroup) {
  return weft_waitgroup_add(waitgroup, -1);
}

int weft_waitgroup_wait_or_queue(weft_waitgroup *waitgroup, weft_waiter *waiter) {
  pthread_mutex_lock(&waitgroup->lock);
  int must_wait = waitgroup->count > 0;
  if (must_wait)
    weft_waitlist_push(&waitgroup->waiters, waiter);
  pthread_mutex_unlock(&waitgroup->lock);
  return must_wait ? WEFT_WOULD_WAIT : WEFT_OK;
}

void weft_waitgroup_unwait(weft_waitgroup *waitgroup, weft_waiter *waiter) {
  pthread_mutex_lock(&waitgroup->lock);
  weft_waitlist_remove(&waitgroup->waiters, waiter);
  pthread_mutex_unlock(&waitgroup->lock);
}

int64_t weft_waitgroup_count(weft_waitgroup *waitgroup) {
  pthread_mutex_lock(&waitgroup->lock);
  int64_t count = waitgroup->count;
  pthread_mutex_unlock(&waitgroup->lock);
  return count;
}

int weft_waitgroup_wait(weft_context *context, weft_waitgroup *waitgroup) {
  weft_blocked self;
  if (weft_context_done(context))
    return WEFT_CANCELED;
  weft_blocked_init(&self);
  int rc = weft_waitgroup_wait_or_queue(waitgroup, &self.on_source);
  if (rc != WEFT_WOULD_WAIT) {
    weft_blocked_drop(&self);
    return rc;
  }
  if (weft_blocked_wait(&self, context))
    return WEFT_OK;
  weft_waitgroup_unwait(waitgroup, &self.on_source);
  return WEFT_CANCELED;
}
