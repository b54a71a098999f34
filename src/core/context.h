/* context.h: the inside of contexts that groups, primitives and the binding use.
 *
 * Any thread calls any function here; none blocks. The caller keeps a reference while a waiter of
 * its is queued.
 */
#ifndef WEFT_CORE_CONTEXT_H
#define WEFT_CORE_CONTEXT_H

#include "error.h"
#include "handle.h"
#include "parcel.h"
#include "timer.h"
#include "waiter.h"
#include "weft.h"

struct weft_context {
  weft_handle handle;         /* first */
  weft_context *parent;       /* retained; NULL for the background; constant */
  uint64_t deadline_ns;       /* constant */
  weft_error *deadline_cause; /* retained, may be NULL; constant */
  weft_timer timer;
  _Atomic int is_done;
  uint8_t is_detached;    /* constant: the parent's end is not ours */
  uint8_t awaits_signal;  /* constant once its maker has it */
  weft_parcel key, value; /* of with_value; constant */
  weft_handle *notified;  /* of a task's own context, the task's: who is told of its end; or NULL */
  pthread_mutex_t lock;
  /* guarded by lock */
  weft_error *error, *cause; /* retained, set when done */
  weft_waitlist waiters;
  weft_context *first_child;
  /* guarded by the parent's lock */
  weft_context *next_sibling, *prev_sibling;
  /* the canceller's that detached it from its parent */
  weft_context *next_cancelled;
};

extern const weft_handle_type weft_context_type;

/* A child that carries one value; takes the contents of both parcels over. NULL: no memory, parcels
 * unchanged. */
weft_context *weft_context_with_value(weft_context *parent, weft_parcel *key, weft_parcel *value);
/* The nearest context, from `context` upwards, that carries a value under exactly these key bytes;
 * borrowed; NULL for none. */
weft_context *weft_context_find(weft_context *context, const void *key, uint32_t size);

/* Puts the waiter into the context's list: 1. When the context is done already: 0, nothing queued.
 */
int weft_context_wait(weft_context *context, weft_waiter *waiter);
/* Takes it out again; nothing when it was claimed. */
void weft_context_unwait(weft_context *context, weft_waiter *waiter);
static inline int weft_context_done(const weft_context *context) {
  return atomic_load_explicit(&context->is_done, memory_order_acquire);
}

#endif
