/* context.c: the cancel tree.
 *
 * Owns links, waiters and the deadline's timer of each context; a child holds a reference to its
 * parent, a parent none to its children. Any thread enters. Invariants: a context that is done
 * stays done and has an error; when a cancel returns, all descendants are done.
 *
 * Lock order: propagation, then one context's lock, then the timers' lock. Two contexts' locks are
 * never held together. Waiters are woken after unlocking.
 */
#include "context.h"

#include "census.h"
#include "clock.h"
#include "mem.h"
#include "platform.h"
#include "signals.h"
#include "stats.h"

/* Held while a cancel walks down a tree, so that a second cancel can wait until the first is
 * through. */
static pthread_mutex_t propagation = PTHREAD_MUTEX_INITIALIZER;

static void destroy(weft_handle *handle);
const weft_handle_type weft_context_type = {"context", destroy, &weft_live.contexts};

static weft_context background = {
    .handle = {1, &weft_context_type},
    .deadline_ns = WEFT_NEVER_NS,
    .lock = PTHREAD_MUTEX_INITIALIZER,
};

weft_context *weft_background(void) {
  return &background;
}

weft_context *weft_context_retain(weft_context *context) {
  weft_handle_retain(&context->handle);
  return context;
}

void weft_context_release(weft_context *context) {
  if (context)
    weft_handle_release(&context->handle);
}

/* ---- the tree ---- */

/* Only a context that can be cancelled needs to know its children. */
static int has_cancel(const weft_context *context) {
  return context != &background;
}

static void link_child(weft_context *parent, weft_context *child) {
  child->prev_sibling = NULL;
  child->next_sibling = parent->first_child;
  if (parent->first_child)
    parent->first_child->prev_sibling = child;
  parent->first_child = child;
}

static void unlink_child(weft_context *parent, weft_context *child) {
  if (child->prev_sibling)
    child->prev_sibling->next_sibling = child->next_sibling;
  else if (parent->first_child == child)
    parent->first_child = child->next_sibling;
  if (child->next_sibling)
    child->next_sibling->prev_sibling = child->prev_sibling;
  child->next_sibling = child->prev_sibling = NULL;
}

static void stop_timer(weft_context *context) {
  if (context->timer.claim)
    weft_timer_stop(&context->timer);
}

static void leave_parent(weft_context *parent, weft_context *context) {
  if (!has_cancel(parent) || context->is_detached)
    return;
  pthread_mutex_lock(&parent->lock);
  unlink_child(parent, context);
  pthread_mutex_unlock(&parent->lock);
}

/* Releasing the last child of a long chain must not recurse: the loop climbs. */
static void destroy(weft_handle *handle) {
  weft_context *context = (weft_context *)handle;
  while (context) {
    weft_context *parent = context->parent;
    stop_timer(context);
    if (context->awaits_signal)
      weft_signals_forget(context);
    leave_parent(parent, context);
    weft_error_release(context->error);
    weft_error_release(context->cause);
    weft_error_release(context->deadline_cause);
    weft_parcel_clear(&context->key);
    weft_parcel_clear(&context->value);
    pthread_mutex_destroy(&context->lock);
    weft_free(context);
    context = weft_handle_unref(&parent->handle) ? parent : NULL;
  }
}

static weft_context *new_child(weft_context *parent, uint64_t deadline_ns) {
  weft_context *child = weft_calloc(1, sizeof *child);
  if (!child)
    return NULL;
  weft_handle_init(&child->handle, &weft_context_type);
  child->parent = weft_context_retain(parent);
  child->deadline_ns = deadline_ns;
  weft_parcel_init(&child->key);
  weft_parcel_init(&child->value);
  pthread_mutex_init(&child->lock, NULL);
  return child;
}

/* ---- cancelling ---- */

/* Called under the context's lock. */
static void mark_done(weft_context *context, weft_error *error, weft_error *cause,
                      weft_wait **woken) {
  if (weft_context_done(context))
    return;
  context->error = weft_error_retain(error);
  context->cause = weft_error_retain(cause);
  atomic_store(&context->is_done, 1);
  weft_waitlist_claim_all(&context->waiters, woken);
}

/* Marks one context done. Its children go to `children`, detached and retained. */
static void finish_one(weft_context *context, weft_error *error, weft_error *cause,
                       weft_context **children, weft_wait **woken) {
  weft_context *child;
  pthread_mutex_lock(&context->lock);
  mark_done(context, error, cause, woken);
  while ((child = context->first_child)) {
    unlink_child(context, child);
    if (weft_handle_try_retain(&child->handle)) {
      child->next_cancelled = *children;
      *children = child;
    }
  }
  pthread_mutex_unlock(&context->lock);
}

/* A release may destroy handles of any kind, so it waits until no lock is held. */
static void release_all(weft_context *context) {
  while (context) {
    weft_context *next = context->next_cancelled;
    weft_context_release(context);
    context = next;
  }
}

static void renew_propagation(void) {
  weft_process_renew_lock(&propagation);
}

static void finish_tree(weft_context *top, weft_error *error, weft_error *cause) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, renew_propagation);
  weft_context *pending = NULL, *finished = NULL;
  weft_wait *woken = NULL;
  pthread_mutex_lock(&propagation);
  finish_one(top, error, cause, &pending, &woken);
  while (pending) {
    weft_context *context = pending;
    pending = context->next_cancelled;
    finish_one(context, error, cause, &pending, &woken);
    stop_timer(context);
    context->next_cancelled = finished;
    finished = context;
  }
  pthread_mutex_unlock(&propagation);
  weft_wake(woken);
  release_all(finished);
}

/* A leaf needs no walk, and so not the process-wide lock: 1, or 0 when it has children, or lost
 * them to a canceller that may still be on its way down. */
static int finish_leaf(weft_context *context, weft_error *error, weft_error *cause) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&context->lock);
  int is_leaf = !weft_context_done(context) && !context->first_child;
  if (is_leaf)
    mark_done(context, error, cause, &woken);
  pthread_mutex_unlock(&context->lock);
  weft_wake(woken);
  return is_leaf;
}

static void finish(weft_context *context, weft_error *error, weft_error *cause) {
  if (weft_context_done(context)) {
    pthread_mutex_lock(&propagation); /* until the first canceller is through */
    pthread_mutex_unlock(&propagation);
    return;
  }
  if (!finish_leaf(context, error, cause))
    finish_tree(context, error, cause);
  stop_timer(context);
}

void weft_context_cancel(weft_context *context, weft_error *cause) {
  if (!has_cancel(context))
    return;
  weft_error *error = weft_error_new("canceled", "context canceled");
  finish(context, error, cause ? cause : error);
  weft_error_release(error);
}

/* ---- deadlines ---- */

static weft_context *of_timer(weft_timer *timer) {
  return (weft_context *)((char *)timer - offsetof(weft_context, timer));
}

static int claim_deadline(weft_timer *timer) {
  return weft_handle_try_retain(&of_timer(timer)->handle);
}

static void fire_deadline(weft_timer *timer) {
  weft_context *context = of_timer(timer);
  weft_error *error = weft_error_new("deadline", "context deadline exceeded");
  finish(context, error, context->deadline_cause ? context->deadline_cause : error);
  weft_error_release(error);
  weft_context_release(context);
}

/* Hangs the child under its parent, or finishes it when the parent is done. */
static void adopt(weft_context *child) {
  weft_context *parent = child->parent;
  if (!has_cancel(parent) || child->is_detached)
    return;
  pthread_mutex_lock(&parent->lock);
  int is_done = weft_context_done(parent);
  if (is_done) {
    child->error = weft_error_retain(parent->error);
    child->cause = weft_error_retain(parent->cause);
    atomic_store(&child->is_done, 1);
  } else {
    link_child(parent, child);
  }
  pthread_mutex_unlock(&parent->lock);
}

weft_context *weft_context_with_cancel(weft_context *parent) {
  weft_context *child = new_child(parent, parent->deadline_ns);
  if (child)
    adopt(child);
  return child;
}

weft_context *weft_context_with_deadline(weft_context *parent, uint64_t deadline_ns,
                                         weft_error *cause) {
  if (deadline_ns >= parent->deadline_ns)
    return weft_context_with_cancel(parent);
  weft_context *child = new_child(parent, deadline_ns);
  if (!child)
    return NULL;
  child->deadline_cause = weft_error_retain(cause);
  weft_timer_init(&child->timer, claim_deadline, fire_deadline);
  adopt(child);
  if (weft_context_done(child))
    return child;
  if (deadline_ns <= weft_clock_now_ns()) {
    weft_handle_retain(&child->handle); /* what the timer's claim would have done */
    fire_deadline(&child->timer);
  } else if (weft_timer_start(&child->timer, deadline_ns) != 0) {
    weft_context_release(child);
    return NULL;
  } else if (weft_context_done(child)) {
    stop_timer(child); /* cancelled with its parent, by who had stopped it before it was started */
  }
  return child;
}

weft_context *weft_context_with_timeout(weft_context *parent, double seconds, weft_error *cause) {
  return weft_context_with_deadline(parent, weft_clock_after_s(seconds), cause);
}

weft_context *weft_context_without_cancel(weft_context *parent) {
  weft_context *child = new_child(parent, WEFT_NEVER_NS);
  if (child)
    child->is_detached = 1;
  return child;
}

/* ---- values ---- */

weft_context *weft_context_with_value(weft_context *parent, weft_parcel *key, weft_parcel *value) {
  weft_context *child = new_child(parent, parent->deadline_ns);
  if (!child)
    return NULL;
  weft_parcel_move(&child->key, key);
  weft_parcel_move(&child->value, value);
  adopt(child);
  return child;
}

weft_context *weft_context_find(weft_context *context, const void *key, uint32_t size) {
  for (; context; context = context->parent)
    if (size && context->key.size == size && memcmp(context->key.data, key, size) == 0)
      return context;
  return NULL;
}

/* ---- looking and waiting ---- */

int weft_context_is_done(weft_context *context) {
  return weft_context_done(context);
}

weft_error *weft_context_error(weft_context *context) {
  return weft_context_done(context) ? weft_error_retain(context->error) : NULL;
}

weft_error *weft_context_cause(weft_context *context) {
  return weft_context_done(context) ? weft_error_retain(context->cause) : NULL;
}

uint64_t weft_context_deadline_ns(weft_context *context) {
  return context->deadline_ns;
}

int weft_context_wait(weft_context *context, weft_waiter *waiter) {
  if (!has_cancel(context))
    return 1; /* never done: nothing to wait for */
  pthread_mutex_lock(&context->lock);
  int is_open = !weft_context_done(context);
  if (is_open)
    weft_waitlist_push(&context->waiters, waiter);
  pthread_mutex_unlock(&context->lock);
  return is_open;
}

void weft_context_unwait(weft_context *context, weft_waiter *waiter) {
  if (!has_cancel(context))
    return;
  pthread_mutex_lock(&context->lock);
  weft_waitlist_remove(&context->waiters, waiter);
  pthread_mutex_unlock(&context->lock);
}

uint64_t weft_now_ns(void) {
  return weft_clock_now_ns();
}

int weft_sleep(weft_context *context, double seconds) {
  weft_census_meet_stranger();
  weft_thread_wait party;
  weft_waiter on_context;
  weft_wait_timer on_time;
  weft_thread_wait_init(&party);
  weft_waiter_init(&on_context, &party.wait, 0);
  if (!weft_context_wait(context, &on_context)) {
    weft_thread_wait_drop(&party);
    return WEFT_CANCELED;
  }
  if (weft_wait_timer_start(&on_time, &party.wait, 1, weft_clock_after_s(seconds)) != 0) {
    weft_context_unwait(context, &on_context);
    if (weft_wait_winner(&party.wait) < 0) {
      weft_thread_wait_drop(&party);
      return WEFT_NOTHREAD;
    }
  }
  weft_thread_wait_block(&party);
  weft_timer_stop(&on_time.timer);
  weft_context_unwait(context, &on_context);
  return weft_wait_winner(&party.wait) == 0 ? WEFT_CANCELED : WEFT_OK;
}
