/* buf.c: growth of the byte buffer.
 *
 * Owns the bytes of each buffer. One thread at a time enters with a given buffer. Invariant:
 * size <= capacity, and capacity never exceeds the ceiling when there is one.
 */
#include "buf.h"

#include "mem.h"

enum { FIRST_CAPACITY = 256 };

void weft_buf_init(weft_buf *buf, size_t limit) {
  *buf = (weft_buf){.limit = limit};
}

void weft_buf_free(weft_buf *buf) {
  weft_free(buf->data);
  weft_buf_init(buf, buf->limit);
}

int weft_buf_reserve_slow(weft_buf *buf, size_t extra) {
  size_t limit = buf->limit ? buf->limit : SIZE_MAX / 2;
  if (extra > limit || buf->size > limit - extra)
    return WEFT_BUF_LIMIT;
  size_t wanted = buf->size + extra;
  size_t capacity = buf->capacity ? buf->capacity : FIRST_CAPACITY;
  while (capacity < wanted)
    capacity *= 2;
  if (capacity > limit)
    capacity = limit;
  uint8_t *data = weft_realloc(buf->data, capacity);
  if (!data)
    return WEFT_BUF_NOMEM;
  buf->data = data;
  buf->capacity = capacity;
  return WEFT_BUF_OK;
}
