/* sse.h: a parser of server-sent events (text/event-stream), after the WHATWG's rules.
 *
 * Pure: bytes in, events out, in whatever pieces the bytes come. A parser belongs to one thread at
 * a time; nothing blocks. Time is linear in the bytes, memory bounded by max_event.
 */
#ifndef WEFT_CORE_SSE_H
#define WEFT_CORE_SSE_H

#include "buf.h"
#include "weft.h"

enum { WEFT_SSE_MAX_EVENT = 8 << 20 };

typedef struct weft_sse_text {
  const char *bytes; /* not terminated; never NULL */
  size_t size;
} weft_sse_text;

/* Borrowed from the parser until the next call. */
typedef struct weft_sse_event {
  weft_sse_text type; /* "message" unless the stream says otherwise */
  weft_sse_text data; /* the data lines, joined by LF */
  weft_sse_text
      id; /* the last one that the stream has sent, with this event or before; empty: none */
  int64_t retry_ms; /* a reconnection time that came with this event or since the last; -1: none */
} weft_sse_event;

typedef struct weft_sse {
  /* what is being parsed, borrowed */
  const char *cursor, *end;
  const char *next_lf,
      *next_cr; /* the first at or behind the cursor, or `end`; stale when before it */
  /* the event so far */
  weft_buf data, type, id;
  int64_t retry_ms;
  /* the line that is not complete yet */
  weft_buf line;
  size_t max_event;
  int failure;         /* 0, or what weft_sse_next returns from now on */
  uint8_t bom;         /* how many bytes of it have been seen; past the beginning: BOM_PASSED */
  uint8_t has_data;    /* a data line, which may be empty */
  uint8_t is_skipping; /* the line that is not complete is of no interest */
  uint8_t after_cr;    /* an LF here belongs to the CR before it */
  uint8_t was_given;   /* the event has been handed out: clear it first */
} weft_sse;

/* `max_event`: bytes that data, type and id of an event may have together; 0: WEFT_SSE_MAX_EVENT.
 */
void weft_sse_init(weft_sse *sse, size_t max_event);
void weft_sse_free(weft_sse *sse);
/* The next piece of the stream, when the one before has been consumed. The bytes must stay there
 * until weft_sse_next says WEFT_WOULD_WAIT. */
void weft_sse_feed(weft_sse *sse, const void *bytes, size_t size);
/* WEFT_OK with an event; WEFT_WOULD_WAIT when the piece has been consumed; WEFT_TOO_LARGE or
 * WEFT_NOMEM, then for ever. At the end of the stream there is nothing to do: an event that no
 * empty line has ended does not count. */
int weft_sse_next(weft_sse *sse, weft_sse_event *event);
/* Whether bytes of an event that is not complete are held. */
int weft_sse_is_inside(const weft_sse *sse);

#endif
