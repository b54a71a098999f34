/* lines.c: the splitter of lines.
 *
 * Owns the bytes of the line that is not complete; one that came in one piece is not copied. One
 * thread at a time enters. Invariant: `line` holds no LF, and never more than max_line bytes.
 */
#include "lines.h"

enum { KEPT_CAPACITY = 65536 };

void weft_lines_init(weft_lines *lines, size_t max_line) {
  *lines = (weft_lines){.max_line = max_line ? max_line : WEFT_LINES_MAX_LINE};
  weft_buf_init(&lines->line, lines->max_line);
}

void weft_lines_free(weft_lines *lines) {
  weft_buf_free(&lines->line);
}

void weft_lines_feed(weft_lines *lines, const void *bytes, size_t size) {
  lines->cursor = bytes;
  lines->end = lines->cursor + size;
}

static int fail(weft_lines *lines, int code) {
  weft_lines_free(lines);
  return lines->failure = code;
}

static int keep(weft_lines *lines, const char *bytes, size_t size) {
  int rc = weft_buf_append(&lines->line, bytes, size);
  return rc == WEFT_BUF_OK ? WEFT_OK
                           : fail(lines, rc == WEFT_BUF_LIMIT ? WEFT_TOO_LARGE : WEFT_NOMEM);
}

static void forget_given(weft_lines *lines) {
  if (!lines->was_given)
    return;
  if (lines->line.capacity > KEPT_CAPACITY)
    weft_lines_free(lines);
  lines->line.size = 0;
  lines->was_given = 0;
}

static int give(weft_lines *lines, const char *bytes, size_t bytes_size, const char **line,
                size_t *size) {
  if (lines->line.size) {
    int rc = keep(lines, bytes, bytes_size);
    if (rc != WEFT_OK)
      return rc;
    bytes = (const char *)lines->line.data;
    bytes_size = lines->line.size;
    lines->was_given = 1;
  } else if (bytes_size > lines->max_line) {
    return fail(lines, WEFT_TOO_LARGE);
  }
  *line = bytes;
  *size = bytes_size && bytes[bytes_size - 1] == '\r' ? bytes_size - 1 : bytes_size;
  return WEFT_OK;
}

int weft_lines_next(weft_lines *lines, const char **line, size_t *size) {
  if (lines->failure)
    return lines->failure;
  forget_given(lines);
  const char *start = lines->cursor;
  size_t left = (size_t)(lines->end - start);
  if (!left)
    return WEFT_WOULD_WAIT;
  const char *lf = memchr(start, '\n', left);
  lines->cursor = lf ? lf + 1 : lines->end;
  if (lf)
    return give(lines, start, (size_t)(lf - start), line, size);
  int rc = keep(lines, start, left);
  return rc == WEFT_OK ? WEFT_WOULD_WAIT : rc;
}

int weft_lines_rest(weft_lines *lines, const char **line, size_t *size) {
  if (lines->failure)
    return lines->failure;
  forget_given(lines);
  if (!lines->line.size)
    return WEFT_CLOSED;
  *line = (const char *)lines->line.data;
  *size = lines->line.size;
  lines->was_given = 1;
  return WEFT_OK;
}
