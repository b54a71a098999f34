/* buf.h: a growing byte buffer with a ceiling from birth.
 *
 * A buffer belongs to one thread at a time. No function here blocks.
 */
#ifndef WEFT_CORE_BUF_H
#define WEFT_CORE_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct weft_buf {
  uint8_t *data; /* owned by the buffer */
  size_t size, capacity;
  size_t limit; /* the most bytes it may ever hold; 0: no ceiling */
} weft_buf;

enum { WEFT_BUF_OK = 0, WEFT_BUF_NOMEM = -1, WEFT_BUF_LIMIT = -2 };

/* An empty buffer that holds no memory yet. */
void weft_buf_init(weft_buf *buf, size_t limit);
/* Frees the memory; the buffer is empty and usable again. */
void weft_buf_free(weft_buf *buf);
/* Room for `extra` more bytes: WEFT_BUF_OK, or why not (the buffer is unchanged then). */
int weft_buf_reserve_slow(weft_buf *buf, size_t extra);

static inline int weft_buf_reserve(weft_buf *buf, size_t extra) {
  return buf->capacity - buf->size >= extra ? WEFT_BUF_OK : weft_buf_reserve_slow(buf, extra);
}

/* Copies `size` bytes to the end; same return values as weft_buf_reserve. */
static inline int weft_buf_append(weft_buf *buf, const void *bytes, size_t size) {
  int rc = weft_buf_reserve(buf, size);
  if (rc == WEFT_BUF_OK && size) {
    memcpy(buf->data + buf->size, bytes, size);
    buf->size += size;
  }
  return rc;
}

static inline int weft_buf_putc(weft_buf *buf, uint8_t byte) {
  int rc = weft_buf_reserve(buf, 1);
  if (rc == WEFT_BUF_OK)
    buf->data[buf->size++] = byte;
  return rc;
}

#endif
