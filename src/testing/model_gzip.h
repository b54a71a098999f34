/* model_gzip.h: gzip without a library: text that is stored, and bombs.
 *
 * A stream belongs to one thread at a time. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_GZIP_H
#define WEFT_TESTING_MODEL_GZIP_H

#include "model_json.h"

/* Of the text so far. */
typedef struct weft_gzip {
  uint32_t crc;
  uint64_t size;
  bool begun;
} weft_gzip;

/* Replaces the text in `buf` by its compressed form, whole bytes that a client can unpack at once;
 * `last` ends the stream. Returns WEFT_BUF_OK, or why not. */
int weft_gzip_pack(weft_gzip *gzip, weft_buf *buf, bool last);

/* Writes `before`, `size` times the letter a, and `after`, compressed to about a thousandth. */
void weft_gzip_bomb(const char *before, uint64_t size, const char *after, weft_json_writer *out);

#endif
