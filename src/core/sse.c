/* sse.c: the parser of server-sent events.
 *
 * Owns the bytes of the event and of the line that are not complete. One thread at a time enters.
 * Invariants: no byte is looked at again because the stream came in more pieces, and what comes out
 * does not depend on where it was cut: a line is judged when it is complete, or when it is longer
 * than any line that would be accepted.
 */
#include "sse.h"

enum {
  BOM_SIZE = 3,
  BOM_PASSED = 4,
  LONGEST_START = 6,     /* "event:" and "retry:" */
  LONGEST_PREFIX = 7,    /* the same with a space */
  KEPT_CAPACITY = 65536, /* of a buffer, once an event is through */
};

static const char bom[BOM_SIZE] = {'\xEF', '\xBB', '\xBF'};

void weft_sse_init(weft_sse *sse, size_t max_event) {
  *sse = (weft_sse){.retry_ms = -1};
  sse->max_event = max_event ? max_event : WEFT_SSE_MAX_EVENT;
  if (sse->max_event > SIZE_MAX / 4)
    sse->max_event = SIZE_MAX / 4;
  weft_buf_init(&sse->data, sse->max_event);
  weft_buf_init(&sse->type, sse->max_event);
  weft_buf_init(&sse->id, sse->max_event);
  weft_buf_init(&sse->line, sse->max_event + LONGEST_PREFIX);
}

void weft_sse_free(weft_sse *sse) {
  weft_buf_free(&sse->data);
  weft_buf_free(&sse->type);
  weft_buf_free(&sse->id);
  weft_buf_free(&sse->line);
}

void weft_sse_feed(weft_sse *sse, const void *bytes, size_t size) {
  sse->cursor = bytes;
  sse->end = sse->cursor + size;
  sse->next_lf = sse->next_cr = NULL;
}

int weft_sse_is_inside(const weft_sse *sse) {
  return (sse->has_data && !sse->was_given) || sse->line.size || sse->is_skipping ||
         (sse->bom > 0 && sse->bom < BOM_SIZE);
}

/* ---- fields ---- */

static int is_word(const char *text, size_t size, const char *word, size_t word_size) {
  return size == word_size && memcmp(text, word, size) == 0;
}
#define IS_WORD(text, size, word) is_word(text, size, word, sizeof word - 1)
#define STARTS_WITH(text, size, word)                                                              \
  (size >= sizeof word - 1 && memcmp(text, word, sizeof word - 1) == 0)

/* Whether a line of LONGEST_START bytes or more is of interest. */
static int is_known(const char *line, size_t size) {
  return STARTS_WITH(line, size, "data:") || STARTS_WITH(line, size, "event:") ||
         STARTS_WITH(line, size, "id:") || STARTS_WITH(line, size, "retry:");
}

static int status_of(int rc) {
  return rc == WEFT_BUF_OK ? WEFT_OK : rc == WEFT_BUF_LIMIT ? WEFT_TOO_LARGE : WEFT_NOMEM;
}

static size_t room(const weft_sse *sse) {
  size_t used = sse->data.size + sse->type.size + sse->id.size;
  return used < sse->max_event ? sse->max_event - used : 0;
}

static int add_data(weft_sse *sse, const char *value, size_t size) {
  size_t joint = sse->has_data;
  if (size + joint > room(sse))
    return WEFT_TOO_LARGE;
  if (weft_buf_reserve(&sse->data, size + joint) != WEFT_BUF_OK)
    return WEFT_NOMEM;
  if (joint)
    sse->data.data[sse->data.size++] = '\n';
  if (size)
    memcpy(sse->data.data + sse->data.size, value, size);
  sse->data.size += size;
  sse->has_data = 1;
  return WEFT_OK;
}

static int replace(weft_sse *sse, weft_buf *buf, const char *value, size_t size) {
  buf->size = 0;
  if (size > room(sse))
    return WEFT_TOO_LARGE;
  return status_of(weft_buf_append(buf, value, size));
}

static int set_id(weft_sse *sse, const char *value, size_t size) {
  return size && memchr(value, '\0', size) ? WEFT_OK : replace(sse, &sse->id, value, size);
}

static void set_retry(weft_sse *sse, const char *value, size_t size) {
  int64_t ms = 0;
  for (size_t i = 0; i < size; i++) {
    if (value[i] < '0' || value[i] > '9')
      return;
    ms = ms > INT64_MAX / 20 ? ms : ms * 10 + value[i] - '0';
  }
  if (size)
    sse->retry_ms = ms;
}

static int take_field(weft_sse *sse, const char *name, size_t name_size, const char *value,
                      size_t size) {
  if (IS_WORD(name, name_size, "data"))
    return add_data(sse, value, size);
  if (IS_WORD(name, name_size, "event"))
    return replace(sse, &sse->type, value, size);
  if (IS_WORD(name, name_size, "id"))
    return set_id(sse, value, size);
  if (IS_WORD(name, name_size, "retry"))
    set_retry(sse, value, size);
  return WEFT_OK;
}

/* Takes a complete line that is not empty. */
static int take_line(weft_sse *sse, const char *line, size_t size) {
  if (size >= LONGEST_START && !is_known(line, size))
    return WEFT_OK;
  if (size > sse->max_event + LONGEST_PREFIX)
    return WEFT_TOO_LARGE;
  const char *colon = memchr(line, ':', size < LONGEST_START ? size : LONGEST_START);
  if (!colon)
    return take_field(sse, line, size, line + size, 0);
  const char *value = colon + 1, *end = line + size;
  if (value < end && *value == ' ')
    value++;
  return take_field(sse, line, (size_t)(colon - line), value, (size_t)(end - value));
}

/* ---- lines in pieces ---- */

/* Up to LONGEST_START bytes of a line: then it shows whether it is of interest. */
static int take_start(weft_sse *sse, const char **bytes, size_t *size) {
  size_t wanted = LONGEST_START - sse->line.size;
  size_t taken = *size < wanted ? *size : wanted;
  int rc = weft_buf_append(&sse->line, *bytes, taken);
  *bytes += taken;
  *size -= taken;
  if (rc == WEFT_BUF_OK && sse->line.size == LONGEST_START &&
      !is_known((const char *)sse->line.data, LONGEST_START)) {
    sse->line.size = 0;
    sse->is_skipping = 1;
  }
  return status_of(rc);
}

static int take_piece(weft_sse *sse, const char *bytes, size_t size) {
  int rc = WEFT_OK;
  if (!sse->is_skipping && sse->line.size < LONGEST_START)
    rc = take_start(sse, &bytes, &size);
  if (rc != WEFT_OK || sse->is_skipping || !size)
    return rc;
  return status_of(weft_buf_append(&sse->line, bytes, size));
}

static int finish_line(weft_sse *sse, const char *bytes, size_t size) {
  int rc = take_piece(sse, bytes, size);
  if (rc == WEFT_OK && !sse->is_skipping)
    rc = take_line(sse, (const char *)sse->line.data, sse->line.size);
  sse->line.size = 0;
  sse->is_skipping = 0;
  return rc;
}

/* ---- the stream ---- */

static void empty(weft_buf *buf) {
  if (buf->capacity > KEPT_CAPACITY)
    weft_buf_free(buf);
  buf->size = 0;
}

static void clear_event(weft_sse *sse) {
  empty(&sse->data);
  empty(&sse->type);
  empty(&sse->line);
  sse->has_data = sse->was_given = 0;
}

static weft_sse_text text_of(const weft_buf *buf, const char *otherwise) {
  if (!buf->size)
    return (weft_sse_text){otherwise, strlen(otherwise)};
  return (weft_sse_text){(const char *)buf->data, buf->size};
}

/* An empty line: 1 with the event that it ends, if there is one. */
static int end_event(weft_sse *sse, weft_sse_event *event) {
  if (!sse->has_data) {
    sse->type.size = 0;
    return 0;
  }
  *event = (weft_sse_event){text_of(&sse->type, "message"), text_of(&sse->data, ""),
                            text_of(&sse->id, ""), sse->retry_ms};
  sse->retry_ms = -1;
  sse->was_given = 1;
  return 1;
}

/* One byte order mark at the very beginning does not count. */
static int pass_bom(weft_sse *sse) {
  while (sse->bom < BOM_SIZE && sse->cursor < sse->end && *sse->cursor == bom[sse->bom])
    sse->bom++, sse->cursor++;
  if (sse->bom < BOM_SIZE && sse->cursor == sse->end)
    return WEFT_OK;
  size_t seen = sse->bom == BOM_SIZE ? 0 : sse->bom;
  sse->bom = BOM_PASSED;
  return seen ? take_piece(sse, bom, seen) : WEFT_OK;
}

/* Where the line at the cursor ends, or `end`. Both searches go over each byte once. */
static const char *line_end(weft_sse *sse) {
  size_t left = (size_t)(sse->end - sse->cursor);
  if (!sse->next_lf || sse->next_lf < sse->cursor) {
    const char *lf = memchr(sse->cursor, '\n', left);
    sse->next_lf = lf ? lf : sse->end;
  }
  if (!sse->next_cr || sse->next_cr < sse->cursor) {
    const char *cr = memchr(sse->cursor, '\r', left);
    sse->next_cr = cr ? cr : sse->end;
  }
  return sse->next_lf < sse->next_cr ? sse->next_lf : sse->next_cr;
}

/* Takes the line that goes from the cursor to `end_of_line`, which is consumed. */
static int take_whole(weft_sse *sse, const char *end_of_line, weft_sse_event *event) {
  const char *line = sse->cursor;
  size_t size = (size_t)(end_of_line - line);
  sse->cursor = end_of_line + 1;
  sse->after_cr = *end_of_line == '\r';
  if (sse->line.size || sse->is_skipping)
    return finish_line(sse, line, size);
  if (size)
    return take_line(sse, line, size);
  return end_event(sse, event);
}

static int fail(weft_sse *sse, int code) {
  weft_sse_free(sse);
  return sse->failure = code;
}

static int take_rest(weft_sse *sse) {
  int rc = take_piece(sse, sse->cursor, (size_t)(sse->end - sse->cursor));
  sse->cursor = sse->end;
  return rc == WEFT_OK ? WEFT_WOULD_WAIT : fail(sse, rc);
}

/* Takes a piece of one byte in the midst of a line, where nothing has to be looked for: 1, or 0
 * when there is more to it. */
static int take_byte(weft_sse *sse) {
  if (sse->end - sse->cursor != 1 || *sse->cursor == '\n' || *sse->cursor == '\r')
    return 0;
  if (!sse->is_skipping) {
    if (sse->line.size < LONGEST_START || sse->line.size == sse->line.capacity)
      return 0;
    sse->line.data[sse->line.size++] = (uint8_t)*sse->cursor;
  }
  sse->cursor++;
  return 1;
}

int weft_sse_next(weft_sse *sse, weft_sse_event *event) {
  if (sse->failure)
    return sse->failure;
  if (take_byte(sse))
    return WEFT_WOULD_WAIT;
  if (sse->was_given)
    clear_event(sse);
  int rc = sse->bom == BOM_PASSED ? WEFT_OK : pass_bom(sse);
  while (rc == WEFT_OK && sse->cursor < sse->end) {
    if (sse->after_cr && *sse->cursor == '\n')
      sse->cursor++;
    sse->after_cr = 0;
    if (sse->cursor == sse->end)
      break;
    const char *end = line_end(sse);
    if (end == sse->end)
      return take_rest(sse);
    rc = take_whole(sse, end, event);
    if (rc == 1)
      return WEFT_OK;
  }
  return rc == WEFT_OK ? WEFT_WOULD_WAIT : fail(sse, rc);
}
