/* model_json.h: just enough JSON for the model server: find two strings in a request, write text.
 *
 * Nothing here keeps state or blocks; a writer belongs to one thread at a time.
 */
#ifndef WEFT_TESTING_MODEL_JSON_H
#define WEFT_TESTING_MODEL_JSON_H

#include "../core/buf.h"

/* A string as it stands in a document, between its quotes; points into the document. */
typedef struct weft_json_span {
  const char *text; /* NULL: not found */
  size_t size;
} weft_json_span;

typedef struct weft_json_chat {
  weft_json_span model;   /* "model" of the outermost object */
  weft_json_span content; /* the last "content", or "text" of a content part, that is a string */
  size_t content_bytes;   /* the sizes of all such strings together, as they stand */
} weft_json_chat;

/* Looks through a document of any shape, also a broken one. */
weft_json_chat weft_json_scan_chat(const char *json, size_t size);

/* Appends the string that a span stands for, in UTF-8; half a surrogate pair becomes U+FFFD.
 * Returns WEFT_BUF_OK or why not. */
int weft_json_unescape(weft_json_span span, weft_buf *out);

/* 0 to 15, or -1 when it is no hexadecimal digit. */
int weft_json_hex_value(char c);

/* Writes to a buffer; the first failure sticks in `rc` and makes the rest do nothing, so that only
 * the last step needs a check. */
typedef struct weft_json_writer {
  weft_buf *out; /* not owned */
  int rc;        /* WEFT_BUF_OK, or the first failure */
} weft_json_writer;

void weft_json_put(weft_json_writer *writer, const char *text);
void weft_json_put_bytes(weft_json_writer *writer, const void *bytes, size_t size);
void weft_json_put_number(weft_json_writer *writer, uint64_t number);
/* In quotes and escaped; bytes that are no UTF-8 become U+FFFD. */
void weft_json_put_string(weft_json_writer *writer, const char *text, size_t size);

#endif
