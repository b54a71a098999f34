/* model_json.h: just enough JSON for the model server: check a document, walk through it, write
 * one.
 *
 * Reading is strict (RFC 8259, UTF-8) and takes no memory: a value points into its document, which
 * must stay. Nothing here keeps state or blocks; a writer belongs to one thread at a time.
 */
#ifndef WEFT_TESTING_MODEL_JSON_H
#define WEFT_TESTING_MODEL_JSON_H

#include <stdbool.h>

#include "../core/buf.h"

enum { WEFT_JSON_DEPTH_MAX = 128 };

/* A string as it stands in a document, between its quotes; points into the document. */
typedef struct weft_json_span {
  const char *text; /* NULL: there is none */
  size_t size;
} weft_json_span;

typedef enum weft_json_kind {
  WEFT_JSON_NONE, /* there is no such value */
  WEFT_JSON_OBJECT,
  WEFT_JSON_ARRAY,
  WEFT_JSON_STRING,
  WEFT_JSON_NUMBER,
  WEFT_JSON_TRUE,
  WEFT_JSON_FALSE,
  WEFT_JSON_NULL,
} weft_json_kind;

/* A value of a document that was checked, with its brackets or quotes. */
typedef struct weft_json_value {
  weft_json_kind kind;
  const char *text;
  size_t size;
} weft_json_value;

/* Checks a whole document. Returns its value; WEFT_JSON_NONE when it is malformed or nested deeper
 * than WEFT_JSON_DEPTH_MAX, with the place of the first wrong byte in `*wrong`. */
weft_json_value weft_json_check(const char *text, size_t size, size_t *wrong);

/* Goes through the members of an object or the items of an array; any other value has none. */
typedef struct weft_json_walk {
  const char *at, *end;
  bool keys;
} weft_json_walk;

/* Before the first of them. */
weft_json_walk weft_json_walk_in(weft_json_value container);
/* False after the last; `key` is empty in an array. */
bool weft_json_next(weft_json_walk *walk, weft_json_span *key, weft_json_value *value);

/* The member of an object (of several with one name the last), or WEFT_JSON_NONE. */
weft_json_value weft_json_get(weft_json_value object, const char *key);
/* The same for several members at once, in one walk: `names` ends with NULL, `values` has room. */
void weft_json_get_all(weft_json_value object, const char *const *names, weft_json_value *values);
/* By a path as "messages.1.content": names of members, and numbers of items from 1. */
weft_json_value weft_json_find(weft_json_value value, const char *path, size_t size);
size_t weft_json_count(weft_json_value container);

/* What stands between the quotes of a string; no text for any other value. */
weft_json_span weft_json_string(weft_json_value value);
/* Whether a string, unescaped, is this text. */
bool weft_json_is(weft_json_value value, const char *text);
/* The number, or `otherwise` when it is none. */
double weft_json_number(weft_json_value value, double otherwise);

/* Appends the string that a span stands for, in UTF-8; half a surrogate pair becomes U+FFFD.
 * Returns WEFT_BUF_OK or why not. */
int weft_json_unescape(weft_json_span span, weft_buf *out);

/* 0 to 15, or -1 when it is no hexadecimal digit. */
int weft_json_hex_value(char c);
/* The size of the UTF-8 sequence at `text`, or 0 when there is none (overlong, surrogate, cut). */
size_t weft_json_utf8_size(const char *text, size_t left);

/* Writes to a buffer; the first failure sticks in `rc` and makes the rest do nothing, so that only
 * the last step needs a check. */
typedef struct weft_json_writer {
  weft_buf *out; /* not owned */
  int rc;        /* WEFT_BUF_OK, or the first failure */
} weft_json_writer;

/* As they are: text that is JSON already. */
void weft_json_put(weft_json_writer *writer, const char *text);
void weft_json_put_bytes(weft_json_writer *writer, const void *bytes, size_t size);
void weft_json_put_number(weft_json_writer *writer, uint64_t number);
/* A text, then a number. */
void weft_json_put_pair(weft_json_writer *writer, const char *text, uint64_t number);
/* In quotes and escaped; bytes that are no UTF-8 become U+FFFD. */
void weft_json_put_string(weft_json_writer *writer, const char *text, size_t size);
/* The same for a zero-terminated one; NULL is written as null. */
void weft_json_put_text(weft_json_writer *writer, const char *text);
/* As printf; for formats without texts of a client. */
__attribute__((format(printf, 2, 3))) void weft_json_putf(weft_json_writer *writer,
                                                          const char *format, ...);

#endif
