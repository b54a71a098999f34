/* lines.h: splits a stream of bytes into lines, such as those of NDJSON.
 *
 * A line ends with LF; a CR before it is not part of the line. A splitter belongs to one thread at
 * a time; nothing blocks. Time is linear in the bytes, memory bounded by max_line.
 */
#ifndef WEFT_CORE_LINES_H
#define WEFT_CORE_LINES_H

#include "buf.h"
#include "weft.h"

enum { WEFT_LINES_MAX_LINE = 8 << 20 };

typedef struct weft_lines {
  const char *cursor, *end; /* what is being split, borrowed */
  weft_buf line;            /* the one that is not complete */
  size_t max_line;
  int failure;       /* 0, or what weft_lines_next returns from now on */
  uint8_t was_given; /* `line` has been handed out */
} weft_lines;

/* `max_line`: bytes, with the CR; 0: WEFT_LINES_MAX_LINE. */
void weft_lines_init(weft_lines *lines, size_t max_line);
void weft_lines_free(weft_lines *lines);
/* The next piece, when the one before has been consumed. The bytes must stay there until
 * weft_lines_next says WEFT_WOULD_WAIT. */
void weft_lines_feed(weft_lines *lines, const void *bytes, size_t size);
/* WEFT_OK with a line, borrowed until the next call; WEFT_WOULD_WAIT when the piece has been
 * consumed; WEFT_TOO_LARGE or WEFT_NOMEM, then for ever. */
int weft_lines_next(weft_lines *lines, const char **line, size_t *size);
/* At the end of the stream: WEFT_OK with the last line, which no LF has ended, or WEFT_CLOSED. */
int weft_lines_rest(weft_lines *lines, const char **line, size_t *size);

#endif
