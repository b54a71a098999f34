/* http_response.c: gathers the answer and reads it back.
 *
 * Owns the bytes of head and content. The I/O thread writes; once the transfer is finished, or has
 * the head of a stream, any thread reads. Invariant: `head` holds the header lines of the last
 * answer alone, complete ones, each ended by one LF; `content` never exceeds max_body.
 */
#include "http_engine.h"

#include <strings.h>

void weft_http_drop_response(weft_http_transfer *transfer) {
  weft_http_spare_give(&transfer->content, WEFT_HTTP_BODY_SPARE);
}

enum { MAX_DIGITS = 18 }; /* of a length: what fits into 63 bits */

static weft_http_text without_blanks(const char *start, const char *end) {
  while (start < end && (*start == ' ' || *start == '\t'))
    start++;
  while (start < end && (end[-1] == ' ' || end[-1] == '\t'))
    end--;
  return (weft_http_text){start, (size_t)(end - start)};
}

static int is_named(const weft_http_header *header, const char *name) {
  return header->name.size == strlen(name) &&
         strncasecmp(header->name.bytes, name, header->name.size) == 0;
}

/* ---- libcurl's callbacks: taking less than `size` ends the transfer ---- */

static int status_of(const char *line, size_t size) {
  const char *space = memchr(line, ' ', size);
  if (!space || line + size - space < 4)
    return 0;
  int status = 0;
  for (int i = 1; i <= 3; i++) {
    if (space[i] < '0' || space[i] > '9')
      return 0;
    status = status * 10 + space[i] - '0';
  }
  return status;
}

static void begin_answer(weft_http_transfer *transfer, const char *line, size_t size) {
  transfer->status = status_of(line, size);
  transfer->is_multiplexed = line[5] >= '2';
  transfer->head.size = 0;
  /* a line that finds no room says so */
  weft_http_spare_take(&transfer->head, WEFT_HTTP_HEAD_SPARE);
}

/* A line that begins with a blank goes on with the value before it. */
static int append_line(weft_http_transfer *transfer, const char *line, size_t size) {
  weft_buf *head = &transfer->head;
  if ((*line == ' ' || *line == '\t') && head->size) {
    head->size--;
    while (size > 1 && (line[1] == ' ' || line[1] == '\t'))
      line++, size--;
  }
  int rc = weft_buf_append(head, line, size);
  return rc == WEFT_BUF_OK ? weft_buf_putc(head, '\n') : rc;
}

/* ---- lengths ---- */

/* Reads the digits before a comma and moves behind it, to NULL at the end. 0: it is no length. */
static int next_length(weft_http_text *list, int64_t *length) {
  const char *comma = memchr(list->bytes, ',', list->size), *end = list->bytes + list->size;
  weft_http_text part = without_blanks(list->bytes, comma ? comma : end);
  if (!part.size || part.size > MAX_DIGITS)
    return 0;
  *length = 0;
  for (size_t i = 0; i < part.size; i++) {
    if (part.bytes[i] < '0' || part.bytes[i] > '9')
      return 0;
    *length = *length * 10 + part.bytes[i] - '0';
  }
  *list = (weft_http_text){comma ? comma + 1 : NULL, comma ? (size_t)(end - comma - 1) : 0};
  return 1;
}

/* RFC 9112, 6.3: one length, or several that are equal. libcurl takes the last one, or as much of
 * it as looks like a number: what follows on the connection would be taken for another answer. */
static int has_clear_length(weft_http_transfer *transfer) {
  weft_http_header header;
  size_t position = 0;
  int64_t length, known = -1;
  while (weft_http_next_header(transfer, &position, &header)) {
    if (!is_named(&header, "Content-Length"))
      continue;
    do {
      if (!next_length(&header.value, &length) || (known >= 0 && length != known))
        return 0;
      known = length;
    } while (header.value.bytes);
  }
  return 1;
}

/* 0: the answer may not be taken. */
static int end_head(weft_http_transfer *transfer) {
  transfer->has_final_head = transfer->status >= 200;
  if (!transfer->has_final_head)
    return 1;
  if (!has_clear_length(transfer)) {
    transfer->refusal = WEFT_HTTP_ODD_LENGTH;
    return 0;
  }
  if (!weft_http_redirect_plan(transfer))
    return 0;
  if (transfer->stream && !transfer->next_url)
    weft_http_stream_head(transfer);
  return 1;
}

static int take_line(weft_http_transfer *transfer, const char *line, size_t size) {
  if (transfer->has_final_head) /* trailers */
    return WEFT_BUF_OK;
  while (size && (line[size - 1] == '\n' || line[size - 1] == '\r'))
    size--;
  if (size > 5 && memcmp(line, "HTTP/", 5) == 0)
    begin_answer(transfer, line, size);
  else if (size)
    return append_line(transfer, line, size);
  else if (!end_head(transfer))
    return WEFT_BUF_LIMIT;
  return WEFT_BUF_OK;
}

size_t weft_http_on_head(char *line, size_t one, size_t size, void *slot) {
  weft_http_transfer *transfer = ((weft_http_slot *)slot)->transfer;
  (void)one;
  weft_http_arrived(transfer);
  transfer->header_bytes += size;
  if (transfer->header_bytes > transfer->max_header)
    transfer->refusal = WEFT_HTTP_HEAD_OVERFLOW;
  else if (take_line(transfer, line, size) == WEFT_BUF_OK)
    return size;
  else if (!transfer->refusal)
    transfer->refusal = WEFT_HTTP_NO_MEMORY;
  return 0;
}

static size_t take_of_stream(weft_http_transfer *transfer, const char *bytes, size_t size) {
  size_t taken = weft_http_stream_take(transfer, bytes, size);
  if (taken == CURL_WRITEFUNC_PAUSE)
    weft_http_enter(transfer, WEFT_HTTP_PAUSED);
  else if (taken)
    transfer->failure.received += size;
  else if (size)
    transfer->refusal = WEFT_HTTP_NO_MEMORY;
  return taken;
}

/* The body of a redirect that will be followed. */
static size_t pass_over(weft_http_transfer *transfer, size_t size) {
  transfer->failure.received += size;
  if (transfer->failure.received <= transfer->max_body)
    return size;
  transfer->refusal = WEFT_HTTP_BODY_OVERFLOW;
  return 0;
}

size_t weft_http_on_body(char *bytes, size_t one, size_t size, void *slot) {
  weft_http_transfer *transfer = ((weft_http_slot *)slot)->transfer;
  (void)one;
  weft_http_arrived(transfer);
  if (transfer->next_url)
    return pass_over(transfer, size);
  if (transfer->stream)
    return take_of_stream(transfer, bytes, size);
  transfer->failure.received += size;
  weft_http_spare_take(&transfer->content, WEFT_HTTP_BODY_SPARE);
  int rc = weft_buf_append(&transfer->content, bytes, size);
  if (rc == WEFT_BUF_OK)
    return size;
  transfer->refusal = rc == WEFT_BUF_LIMIT ? WEFT_HTTP_BODY_OVERFLOW : WEFT_HTTP_NO_MEMORY;
  return 0;
}

/* ---- reading ---- */

weft_error *weft_http_error(weft_http_transfer *transfer) {
  return transfer->error;
}

const weft_http_failure *weft_http_failure_of(weft_http_transfer *transfer) {
  return &transfer->failure;
}

const char *weft_http_origin(weft_http_transfer *transfer) {
  return transfer->target->origin;
}

int weft_http_status(weft_http_transfer *transfer) {
  return transfer->has_final_head ? transfer->status : 0;
}

weft_http_text weft_http_body(weft_http_transfer *transfer) {
  return (weft_http_text){(const char *)transfer->content.data, transfer->content.size};
}

const weft_http_times *weft_http_times_of(weft_http_transfer *transfer) {
  return &transfer->times;
}

weft_http_text weft_http_head(weft_http_transfer *transfer) {
  size_t size = transfer->has_final_head ? transfer->head.size : 0;
  return (weft_http_text){(const char *)transfer->head.data, size};
}

int weft_http_next_in(weft_http_text head, size_t *position, weft_http_header *header) {
  while (*position < head.size) {
    const char *line = head.bytes + *position;
    const char *end = memchr(line, '\n', head.size - *position);
    if (!end)
      return 0;
    const char *colon = memchr(line, ':', (size_t)(end - line));
    *position = (size_t)(end + 1 - head.bytes);
    if (!colon) /* not a header */
      continue;
    header->name = without_blanks(line, colon);
    header->value = without_blanks(colon + 1, end);
    return 1;
  }
  return 0;
}

int weft_http_next_header(weft_http_transfer *transfer, size_t *position,
                          weft_http_header *header) {
  return weft_http_next_in(weft_http_head(transfer), position, header);
}

int weft_http_find_header(weft_http_transfer *transfer, const char *name, weft_http_text *value) {
  weft_http_header header;
  size_t position = 0;
  while (weft_http_next_header(transfer, &position, &header))
    if (is_named(&header, name)) {
      *value = header.value;
      return 1;
    }
  return 0;
}

static int ends_with_chunked(weft_http_text value) {
  static const char word[] = "chunked";
  size_t size = sizeof word - 1;
  return value.size >= size && strncasecmp(value.bytes + value.size - size, word, size) == 0;
}

const char *weft_http_framing(weft_http_transfer *transfer) {
  weft_http_text value;
  int status = weft_http_status(transfer);
  if (transfer->method_kind == WEFT_HTTP_HEAD || status == 204 || status == 304)
    return "none";
  if (transfer->is_multiplexed)
    return "h2";
  if (weft_http_find_header(transfer, "Transfer-Encoding", &value))
    return ends_with_chunked(value) ? "chunked" : "close";
  return weft_http_find_header(transfer, "Content-Length", &value) ? "length" : "close";
}
