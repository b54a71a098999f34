/* handle.h: refcounted objects that any thread and any Lua state may hold.
 *
 * Thread-safe; nothing blocks, except that a type's destroy may take that object's own locks.
 */
#ifndef WEFT_CORE_HANDLE_H
#define WEFT_CORE_HANDLE_H

#include "ledger.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct weft_handle weft_handle;

typedef struct weft_handle_type {
  const char *name;                     /* "context", "channel", … */
  void (*destroy)(weft_handle *handle); /* called once, when the last reference went */
  _Atomic uint32_t *live;               /* counts the objects of this type, for leak checks */
} weft_handle_type;

/* The first member of every handle object. */
struct weft_handle {
  _Atomic uint32_t refs;
  const weft_handle_type *type;
  weft_handle *next_doomed; /* of those that parcels were the last owners of: parcel.c */
};

/* Born with one reference, the caller's. */
static inline void weft_handle_init(weft_handle *handle, const weft_handle_type *type) {
  atomic_init(&handle->refs, 1);
  handle->type = type;
  atomic_fetch_add_explicit(type->live, 1, memory_order_relaxed);
}

/* Adds a reference; the caller must already hold one. */
static inline void weft_handle_retain(weft_handle *handle) {
  atomic_fetch_add_explicit(&handle->refs, 1, memory_order_relaxed);
}

/* Adds a reference unless the object is being destroyed: returns 1, or 0. The memory must still be
 * valid, which a lock that destroy takes has to guarantee. */
static inline int weft_handle_try_retain(weft_handle *handle) {
  uint32_t refs = atomic_load_explicit(&handle->refs, memory_order_relaxed);
  while (refs != 0)
    if (atomic_compare_exchange_weak(&handle->refs, &refs, refs + 1))
      return 1;
  return 0;
}

/* Gives one reference back: 1 when it was the last one, and the caller destroys the object. */
static inline int weft_handle_unref(weft_handle *handle) {
  if (atomic_fetch_sub_explicit(&handle->refs, 1, memory_order_acq_rel) != 1)
    return 0;
  atomic_fetch_sub_explicit(handle->type->live, 1, memory_order_relaxed);
  if (weft_ledger_is_on())
    weft_ledger_forget(handle);
  return 1;
}

/* Gives one reference back; the last one destroys the object. */
static inline void weft_handle_release(weft_handle *handle) {
  if (weft_handle_unref(handle))
    handle->type->destroy(handle);
}

#endif
