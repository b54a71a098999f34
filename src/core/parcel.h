/* parcel.h: a self-contained message in C memory: the only data that crosses threads.
 *
 * A parcel belongs to one thread at a time; handing it over is the business of a queue. The bytes
 * mean something to the binding alone, but for handle records, which the parcel can find by itself
 * so that a parcel that nobody reads still gives its references back.
 */
#ifndef WEFT_CORE_PARCEL_H
#define WEFT_CORE_PARCEL_H

#include "buf.h"
#include "handle.h"

#define WEFT_PARCEL_MAX ((size_t)1 << 30) /* bytes; larger values do not cross */
enum { WEFT_PARCEL_INLINE = 40 };         /* bytes that need no allocation of their own */

typedef struct weft_parcel {
  uint8_t *data; /* inline_bytes, or memory owned by the parcel */
  uint32_t size;
  uint32_t capacity;    /* of memory that is owned; 0: inline_bytes */
  uint32_t last_handle; /* offset + 1 of the newest handle record; 0: none */
  uint32_t count;       /* how many values it holds; the binding's to use */
  uint8_t inline_bytes[WEFT_PARCEL_INLINE];
} weft_parcel;

/* A parcel under construction. One thread; reused from message to message. */
typedef struct weft_parcel_writer {
  weft_buf buf;
  uint32_t last_handle;
} weft_parcel_writer;

static inline void weft_parcel_init(weft_parcel *parcel) {
  parcel->data = parcel->inline_bytes;
  parcel->size = parcel->capacity = parcel->last_handle = parcel->count = 0;
}

/* Frees the memory and releases the references; the parcel is empty and usable again. */
void weft_parcel_clear(weft_parcel *parcel);
/* Releases the references, but keeps some memory for the next use: what one thread allocates is
 * best freed by the same. */
void weft_parcel_empty(weft_parcel *parcel);
/* Moves `from` into `to`, whose old content is not looked at: it owns nothing. `from` is empty
 * afterwards. */
void weft_parcel_move(weft_parcel *to, weft_parcel *from);

/* Empty, without memory. */
void weft_parcel_writer_init(weft_parcel_writer *writer);
/* Drops what was written, its references and the memory. */
void weft_parcel_writer_free(weft_parcel_writer *writer);
/* Drops what was written so far and its references. */
void weft_parcel_writer_reset(weft_parcel_writer *writer);
/* Writes a handle record (weft_parcel_read_handle reads it) and retains the handle.
 * Returns a WEFT_BUF_ code; on failure nothing was retained. */
int weft_parcel_write_handle(weft_parcel_writer *writer, weft_handle *handle);
/* Moves what was written into `parcel` (which must be empty); the writer is empty afterwards.
 * Returns WEFT_BUF_OK, or WEFT_BUF_NOMEM with the writer unchanged. */
int weft_parcel_finish(weft_parcel_writer *writer, weft_parcel *parcel);

/* ---- parcels that several threads read: constant, with a count of references ---- */

typedef struct weft_shared_parcel {
  _Atomic uint32_t refs;
  weft_parcel parcel; /* constant */
} weft_shared_parcel;

/* Moves the parcel into a new shared one with one reference, the caller's. NULL: no memory, and the
 * parcel is as it was. */
weft_shared_parcel *weft_shared_parcel_new(weft_parcel *parcel);
weft_shared_parcel *weft_shared_parcel_retain(weft_shared_parcel *shared);
/* NULL is allowed. The last one clears the parcel, which may destroy handles of any kind. */
void weft_shared_parcel_release(weft_shared_parcel *shared);

enum { WEFT_PARCEL_HANDLE_SIZE = sizeof(void *) + sizeof(uint32_t) };
/* The handle of the record at `record`; the reference stays the parcel's. */
static inline weft_handle *weft_parcel_read_handle(const uint8_t *record) {
  weft_handle *handle;
  memcpy(&handle, record, sizeof handle);
  return handle;
}

#endif
