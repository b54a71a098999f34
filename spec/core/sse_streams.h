/* sse_streams.h: streams for the parser of server-sent events and the splitter of lines, and a
 * second, plain implementation of both to compare with. Shared by the test and the fuzz target.
 *
 * What comes out is written as text: "[type|data|id|retry]" for each event, "[line]" for each line,
 * and "!" when the ceiling is reached.
 */
#ifndef WEFT_SPEC_SSE_STREAMS_H
#define WEFT_SPEC_SSE_STREAMS_H

#include "lines.h"
#include "sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers, the same in every run ---- */

static inline uint64_t next_random(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return *seed >> 33;
}

/* ---- text that grows ---- */

typedef struct text {
  char *bytes;
  size_t size, capacity;
} text;

static void put(text *out, const void *bytes, size_t size) {
  if (out->size + size + 1 > out->capacity) {
    out->capacity = 2 * (out->size + size + 1);
    out->bytes = realloc(out->bytes, out->capacity);
  }
  if (size)
    memcpy(out->bytes + out->size, bytes, size);
  out->size += size;
  out->bytes[out->size] = '\0';
}

static void put_event(text *out, const weft_sse_event *event) {
  char retry[40];
  put(out, "[", 1);
  put(out, event->type.bytes, event->type.size);
  put(out, "|", 1);
  put(out, event->data.bytes, event->data.size);
  put(out, "|", 1);
  put(out, event->id.bytes, event->id.size);
  put(out, retry, (size_t)snprintf(retry, sizeof retry, "|%lld]", (long long)event->retry_ms));
}

/* ---- the parser under test, in pieces ---- */

typedef struct split {
  size_t first, second; /* where the stream is cut; both 0: not at all; SIZE_MAX: at every byte */
} split;
static const split whole = {0, 0}, bytewise = {SIZE_MAX, SIZE_MAX};

/* Each piece is a copy of its own, so that a sanitizer sees a read beyond it. */
static int feed_sse(weft_sse *sse, const char *bytes, size_t size, text *out) {
  weft_sse_event event;
  char *copy = malloc(size + 1);
  int rc;
  memcpy(copy, bytes, size);
  copy = realloc(copy, size ? size : 1);
  weft_sse_feed(sse, copy, size);
  while ((rc = weft_sse_next(sse, &event)) == WEFT_OK)
    put_event(out, &event);
  free(copy);
  return rc == WEFT_WOULD_WAIT;
}

static int feed_lines(weft_lines *lines, const char *bytes, size_t size, text *out) {
  const char *line;
  char *copy = malloc(size + 1);
  int rc;
  memcpy(copy, bytes, size);
  copy = realloc(copy, size ? size : 1);
  weft_lines_feed(lines, copy, size);
  while ((rc = weft_lines_next(lines, &line, &size)) == WEFT_OK) {
    put(out, "[", 1);
    put(out, line, size);
    put(out, "]", 1);
  }
  free(copy);
  return rc == WEFT_WOULD_WAIT;
}

/* Ends of the pieces of a stream: the next one after `at`. */
static size_t next_cut(split at, size_t from, size_t size) {
  if (at.first == SIZE_MAX)
    return from + 1;
  return from < at.first ? at.first : from < at.second ? at.second : size;
}

static void read_sse(weft_sse *sse, const char *stream, size_t size, split at, text *out) {
  int is_good = 1;
  for (size_t from = 0; from < size && is_good;) {
    size_t to = next_cut(at, from, size);
    is_good = feed_sse(sse, stream + from, to - from, out);
    from = to;
  }
  if (!is_good)
    put(out, "!", 1);
}

/* The events of a stream as text; the caller frees it. */
static inline char *sse_events(const char *stream, size_t size, size_t max_event, split at) {
  text out = {0};
  weft_sse sse;
  put(&out, "", 0);
  weft_sse_init(&sse, max_event);
  read_sse(&sse, stream, size, at, &out);
  weft_sse_free(&sse);
  return out.bytes;
}

static inline text lines_of(const char *stream, size_t size, size_t max_line, split at) {
  text out = {0};
  weft_lines lines;
  int is_good = 1;
  const char *line;
  put(&out, "", 0);
  weft_lines_init(&lines, max_line);
  for (size_t from = 0; from < size && is_good;) {
    size_t to = next_cut(at, from, size);
    is_good = feed_lines(&lines, stream + from, to - from, &out);
    from = to;
  }
  if (is_good && weft_lines_rest(&lines, &line, &size) == WEFT_OK) {
    put(&out, "[", 1);
    put(&out, line, size);
    put(&out, "]", 1);
  }
  if (!is_good)
    put(&out, "!", 1);
  weft_lines_free(&lines);
  return out;
}

/* ---- the plain implementations: over the whole stream, line by line ---- */

typedef struct plain {
  text data, type, id;
  int has_data;
  long long retry;
  size_t max_event;
} plain;

static int is_name(const char *line, size_t size, const char *name) {
  return strlen(name) == size && memcmp(line, name, size) == 0;
}

static void set(text *field, const char *value, size_t size) {
  field->size = 0;
  put(field, value, size);
}

static void plain_retry(plain *p, const char *value, size_t size) {
  long long ms = 0;
  for (size_t i = 0; i < size; i++) {
    if (value[i] < '0' || value[i] > '9')
      return;
    if (ms <= INT64_MAX / 20)
      ms = ms * 10 + value[i] - '0';
  }
  if (size)
    p->retry = ms;
}

static int plain_field(plain *p, const char *name, size_t name_size, const char *value,
                       size_t size) {
  int is_known = is_name(name, name_size, "data") || is_name(name, name_size, "event") ||
                 is_name(name, name_size, "id") || is_name(name, name_size, "retry");
  if (is_name(name, name_size, "data")) {
    put(&p->data, "\n", p->has_data);
    put(&p->data, value, size);
    p->has_data = 1;
  } else if (is_name(name, name_size, "event")) {
    set(&p->type, value, size);
  } else if (is_name(name, name_size, "id")) {
    if (!memchr(value, '\0', size))
      set(&p->id, value, size);
  } else if (is_known) {
    plain_retry(p, value, size);
  }
  return !is_known || p->data.size + p->type.size + p->id.size <= p->max_event;
}

/* A field of interest is too large by itself when it is longer than an event and its prefix. */
static int plain_line(plain *p, const char *line, size_t size) {
  static const char *const known[] = {"data:", "event:", "id:", "retry:"};
  for (size_t i = 0; i < 4; i++)
    if (size > p->max_event + 7 && strncmp(line, known[i], strlen(known[i])) == 0)
      return 0;
  size_t name_size = 0;
  while (name_size < size && line[name_size] != ':')
    name_size++;
  size_t at = name_size < size ? name_size + 1 : size;
  at += at < size && line[at] == ' ' && name_size < size;
  return plain_field(p, line, name_size, line + at, size - at);
}

static void plain_dispatch(plain *p, text *out) {
  if (p->has_data) {
    weft_sse_event event = {{"message", 7},
                            {p->data.bytes, p->data.size},
                            {p->id.size ? p->id.bytes : "", p->id.size},
                            p->retry};
    if (p->type.size)
      event.type = (weft_sse_text){p->type.bytes, p->type.size};
    put_event(out, &event);
    p->retry = -1;
  }
  p->data.size = p->type.size = 0;
  p->has_data = 0;
}

/* What follows the last line end: only what could never be accepted is complained about. */
static int plain_rest(plain *p, const char *line, size_t size) {
  static const char *const known[] = {"data:", "event:", "id:", "retry:"};
  for (size_t i = 0; i < 4; i++)
    if (size > p->max_event + 7 && strncmp(line, known[i], strlen(known[i])) == 0)
      return 0;
  return 1;
}

/* `stream` is terminated. */
static inline text plain_events(const char *stream, size_t size, size_t max_event) {
  plain p = {.retry = -1, .max_event = max_event ? max_event : WEFT_SSE_MAX_EVENT};
  text out = {0};
  int is_good = 1;
  put(&out, "", 0);
  size_t from = size >= 3 && memcmp(stream, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
  for (size_t at = from; at < size && is_good; at++) {
    if (stream[at] != '\n' && stream[at] != '\r')
      continue;
    if (at == from)
      plain_dispatch(&p, &out);
    else
      is_good = plain_line(&p, stream + from, at - from);
    at += stream[at] == '\r' && at + 1 < size && stream[at + 1] == '\n';
    from = at + 1;
  }
  if (!is_good || !plain_rest(&p, stream + from, from < size ? size - from : 0))
    put(&out, "!", 1);
  free(p.data.bytes);
  free(p.type.bytes);
  free(p.id.bytes);
  return out;
}

static inline text plain_lines(const char *stream, size_t size, size_t max_line) {
  text out = {0};
  size_t from = 0, most = max_line ? max_line : WEFT_LINES_MAX_LINE;
  put(&out, "", 0);
  while (from < size) {
    size_t to = from;
    while (to < size && stream[to] != '\n')
      to++;
    if (to - from > most) {
      put(&out, "!", 1);
      return out;
    }
    size_t end = to < size && to > from && stream[to - 1] == '\r' ? to - 1 : to;
    put(&out, "[", 1);
    put(&out, stream + from, end - from);
    put(&out, "]", 1);
    from = to + 1;
  }
  return out;
}

/* ---- comparing ---- */

static int is_same(text a, text b) {
  return a.size == b.size && memcmp(a.bytes, b.bytes, a.size) == 0;
}

static inline split random_split(uint64_t *seed, size_t size) {
  split at;
  at.first = next_random(seed) % (size + 1);
  at.second = at.first + next_random(seed) % (size - at.first + 1);
  return at;
}

static text sse_text(const char *stream, size_t size, size_t max_event, split at) {
  text out = {0};
  weft_sse sse;
  put(&out, "", 0);
  weft_sse_init(&sse, max_event);
  read_sse(&sse, stream, size, at, &out);
  weft_sse_free(&sse);
  return out;
}

/* NULL, or what differs. `stream` is terminated. */
static inline const char *sse_check(const char *stream, size_t size, size_t max_event,
                                    uint64_t *seed) {
  text expected = plain_events(stream, size, max_event);
  text once = sse_text(stream, size, max_event, whole);
  text bytes = sse_text(stream, size, max_event, bytewise);
  text pieces = sse_text(stream, size, max_event, random_split(seed, size));
  const char *problem = !is_same(once, expected)     ? "events differ from the plain parser's"
                        : !is_same(bytes, expected)  ? "events differ byte by byte"
                        : !is_same(pieces, expected) ? "events differ in three pieces"
                                                     : NULL;
  free(expected.bytes), free(once.bytes), free(bytes.bytes), free(pieces.bytes);
  return problem;
}

static inline const char *lines_check(const char *stream, size_t size, size_t max_line,
                                      uint64_t *seed) {
  text expected = plain_lines(stream, size, max_line);
  text once = lines_of(stream, size, max_line, whole);
  text bytes = lines_of(stream, size, max_line, bytewise);
  text pieces = lines_of(stream, size, max_line, random_split(seed, size));
  const char *problem = !is_same(once, expected)     ? "lines differ from the plain splitter's"
                        : !is_same(bytes, expected)  ? "lines differ byte by byte"
                        : !is_same(pieces, expected) ? "lines differ in three pieces"
                                                     : NULL;
  free(expected.bytes), free(once.bytes), free(bytes.bytes), free(pieces.bytes);
  return problem;
}

/* ---- random streams, made of what matters to the rules ---- */

static inline size_t random_stream(uint64_t *seed, char *out, size_t capacity) {
  static const char *const parts[] = {
      "data", "data:", "data: ",  "event:",       "event: ",
      "id:",  "id: ",  "retry:",  "retry: ",      "\n",
      "\n",   "\r",    "\r\n",    "\n\n",         "\r\n\r\n",
      ":",    " ",     "x",       "12345",        "{}",
      "\xEF", "\xBB",  "\xBF",    "\xEF\xBB\xBF", "a longer piece of text",
      "dat",  "retry", "events: "};
  size_t size = 0, wanted = next_random(seed) % (capacity - 40);
  while (size < wanted) {
    uint64_t pick = next_random(seed) % (sizeof parts / sizeof *parts + 1);
    if (pick == sizeof parts / sizeof *parts) {
      out[size++] = '\0';
      continue;
    }
    size_t part = strlen(parts[pick]);
    memcpy(out + size, parts[pick], part);
    size += part;
  }
  out[size] = '\0';
  return size;
}

#endif
