/* parcel.c: building, moving and dropping parcels.
 *
 * Owns the bytes and one reference for each handle record. One thread at a time enters with a given
 * parcel. Invariant: the handle records form a chain of offsets that ends in 0, so dropping a parcel
 * never decodes it.
 */
#include "parcel.h"

#include "mem.h"

enum { KEEP_CAPACITY = 64 * 1024 }; /* a writer that grew beyond this hands its memory over */

static void release_handles(const uint8_t *data, uint32_t last_handle) {
  while (last_handle) {
    const uint8_t *record = data + last_handle - 1;
    weft_handle *handle = weft_parcel_read_handle(record);
    memcpy(&last_handle, record + sizeof(void *), sizeof last_handle);
    weft_handle_release(handle);
  }
}

void weft_parcel_clear(weft_parcel *parcel) {
  release_handles(parcel->data, parcel->last_handle);
  if (parcel->data != parcel->inline_bytes)
    weft_free(parcel->data);
  weft_parcel_init(parcel);
}

void weft_parcel_move(weft_parcel *to, weft_parcel *from) {
  *to = *from;
  if (from->data == from->inline_bytes)
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

int weft_parcel_finish(weft_parcel_writer *writer, weft_parcel *parcel) {
  weft_buf *buf = &writer->buf;
  if (buf->size <= WEFT_PARCEL_INLINE) {
    if (buf->size)
      memcpy(parcel->inline_bytes, buf->data, buf->size);
    parcel->data = parcel->inline_bytes;
  } else if (buf->capacity > KEEP_CAPACITY) {
    parcel->data = buf->data;
    buf->data = NULL;
    buf->capacity = 0;
  } else {
    uint8_t *data = weft_malloc(buf->size);
    if (!data)
      return WEFT_BUF_NOMEM;
    parcel->data = memcpy(data, buf->data, buf->size);
  }
  parcel->size = (uint32_t)buf->size;
  parcel->last_handle = writer->last_handle;
  writer->last_handle = 0;
  buf->size = 0;
  return WEFT_BUF_OK;
}
