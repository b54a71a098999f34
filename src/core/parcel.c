/* parcel.c: building, moving and dropping parcels.
 *
 * Owns the bytes and one reference for each handle record. One thread at a time enters with a given
 * parcel. Invariant: the handle records form a chain of offsets that ends in 0, so dropping a
 * parcel never decodes it.
 */
#include "parcel.h"

#include "mem.h"

enum {
  KEEP_CAPACITY = 64 * 1024, /* a writer that grew beyond this hands its memory over */
  KEEP_EMPTY = 4096,         /* an emptied parcel keeps no more than this */
};

/* A handle may own parcels, and be the last owner of others through them, and those of more: the
 * outermost call on a thread destroys them one after the other instead of recursing. */
static void release_chain(const uint8_t *data, uint32_t last_handle) {
  static __thread weft_handle *doomed;
  static __thread int is_destroying;
  while (last_handle) {
    const uint8_t *record = data + last_handle - 1;
    weft_handle *handle = weft_parcel_read_handle(record);
    memcpy(&last_handle, record + sizeof(void *), sizeof last_handle);
    if (!weft_handle_unref(handle))
      continue;
    handle->next_doomed = doomed;
    doomed = handle;
  }
  if (is_destroying)
    return;
  is_destroying = 1;
  for (weft_handle *handle; (handle = doomed);) {
    doomed = handle->next_doomed;
    handle->type->destroy(handle);
  }
  is_destroying = 0;
}

static inline void release_handles(const uint8_t *data, uint32_t last_handle) {
  if (last_handle)
    release_chain(data, last_handle);
}

void weft_parcel_clear(weft_parcel *parcel) {
  release_handles(parcel->data, parcel->last_handle);
  if (parcel->capacity)
    weft_free(parcel->data);
  weft_parcel_init(parcel);
}

void weft_parcel_empty(weft_parcel *parcel) {
  if (parcel->capacity > KEEP_EMPTY) {
    weft_parcel_clear(parcel);
    return;
  }
  release_handles(parcel->data, parcel->last_handle);
  parcel->size = parcel->last_handle = parcel->count = 0;
}

void weft_parcel_move(weft_parcel *to, weft_parcel *from) {
  *to = *from;
  if (!from->capacity)
    to->data = to->inline_bytes;
  weft_parcel_init(from);
}

void weft_parcel_writer_init(weft_parcel_writer *writer) {
  weft_buf_init(&writer->buf, WEFT_PARCEL_MAX);
  writer->last_handle = 0;
}

void weft_parcel_writer_free(weft_parcel_writer *writer) {
  weft_parcel_writer_reset(writer);
  weft_buf_free(&writer->buf);
}

void weft_parcel_writer_reset(weft_parcel_writer *writer) {
  release_handles(writer->buf.data, writer->last_handle);
  writer->last_handle = 0;
  writer->buf.size = 0;
  if (writer->buf.capacity > KEEP_CAPACITY) /* of a message that was given up */
    weft_buf_free(&writer->buf);
}

int weft_parcel_write_handle(weft_parcel_writer *writer, weft_handle *handle) {
  uint32_t offset = (uint32_t)writer->buf.size;
  int rc = weft_buf_reserve(&writer->buf, WEFT_PARCEL_HANDLE_SIZE);
  if (rc != WEFT_BUF_OK)
    return rc;
  weft_handle_retain(handle);
  weft_buf_append(&writer->buf, &handle, sizeof handle);
  weft_buf_append(&writer->buf, &writer->last_handle, sizeof writer->last_handle);
  writer->last_handle = offset + 1;
  return WEFT_BUF_OK;
}

/* Room for `size` bytes in a parcel that is empty. */
static int make_room(weft_parcel *parcel, size_t size) {
  if (size <= (parcel->capacity ? parcel->capacity : WEFT_PARCEL_INLINE))
    return WEFT_BUF_OK;
  uint8_t *data = weft_malloc(size);
  if (!data)
    return WEFT_BUF_NOMEM;
  if (parcel->capacity)
    weft_free(parcel->data);
  parcel->data = data;
  parcel->capacity = (uint32_t)size;
  return WEFT_BUF_OK;
}

static void hand_over(weft_buf *buf, weft_parcel *parcel) {
  if (parcel->capacity)
    weft_free(parcel->data);
  parcel->data = buf->data;
  parcel->capacity = (uint32_t)buf->capacity;
  buf->data = NULL;
  buf->capacity = 0;
}

int weft_parcel_finish(weft_parcel_writer *writer, weft_parcel *parcel) {
  weft_buf *buf = &writer->buf;
  size_t size = buf->size;
  if (buf->capacity > KEEP_CAPACITY && size > WEFT_PARCEL_INLINE)
    hand_over(buf, parcel);
  else if (make_room(parcel, size) != WEFT_BUF_OK)
    return WEFT_BUF_NOMEM;
  else if (size)
    memcpy(parcel->data, buf->data, size);
  parcel->size = (uint32_t)size;
  parcel->last_handle = writer->last_handle;
  writer->last_handle = 0;
  buf->size = 0;
  return WEFT_BUF_OK;
}

weft_shared_parcel *weft_shared_parcel_new(weft_parcel *parcel) {
  weft_shared_parcel *shared = weft_malloc(sizeof *shared);
  if (!shared)
    return NULL;
  atomic_init(&shared->refs, 1);
  weft_parcel_move(&shared->parcel, parcel);
  return shared;
}

weft_shared_parcel *weft_shared_parcel_retain(weft_shared_parcel *shared) {
  atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
  return shared;
}

void weft_shared_parcel_release(weft_shared_parcel *shared) {
  if (!shared || atomic_fetch_sub_explicit(&shared->refs, 1, memory_order_acq_rel) != 1)
    return;
  weft_parcel_clear(&shared->parcel);
  weft_free(shared);
}
