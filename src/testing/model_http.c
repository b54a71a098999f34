/* model_http.c: an incremental parser of HTTP/1.1 requests, line by line.
 *
 * Owns the bytes of the request that is being read, and the memory of finished requests. The
 * server thread enters with parsers; any thread retains and releases requests. Invariant: what a
 * client can make it hold is limited by WEFT_HTTP_HEAD_MAX and WEFT_HTTP_BODY_MAX.
 */

#include "model_http.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <strings.h>

#include "../core/mem.h"

/* Requests ------------------------------------------------------------------------------------ */

typedef struct counted_request {
  weft_model_request shown; /* first: a request is found by this address */
  _Atomic uint32_t references;
  weft_buf text, body, model;
  weft_json_value json; /* of the body; WEFT_JSON_NONE: it is none, from byte `wrong` on */
  size_t wrong;
} counted_request;

void weft_model_request_retain(const weft_model_request *request) {
  counted_request *counted = (counted_request *)request;
  atomic_fetch_add_explicit(&counted->references, 1, memory_order_relaxed);
}

void weft_model_request_release(const weft_model_request *request) {
  counted_request *counted = (counted_request *)request;
  if (!counted || atomic_fetch_sub_explicit(&counted->references, 1, memory_order_acq_rel) != 1)
    return;
  weft_buf_free(&counted->text);
  weft_buf_free(&counted->body);
  weft_buf_free(&counted->model);
  weft_free((void *)counted->shown.headers);
  weft_free(counted);
}

const char *weft_model_request_header(const weft_model_request *request, const char *name) {
  for (size_t i = 0; i < request->header_count; i++)
    if (strcasecmp(request->headers[i].name, name) == 0)
      return request->headers[i].value;
  return NULL;
}

size_t weft_model_request_size(const weft_model_request *request) {
  const counted_request *counted = (const counted_request *)request;
  return sizeof *counted + counted->text.capacity + counted->body.capacity +
         request->header_count * sizeof *request->headers;
}

static const char *next_text(const char *text) {
  return text + strlen(text) + 1;
}

/* Points the public face at what the buffers hold. */
static int show_head(counted_request *counted, size_t header_count) {
  weft_model_header *headers = weft_calloc(header_count ? header_count : 1, sizeof *headers);
  if (!headers)
    return WEFT_BUF_NOMEM;
  counted->shown.headers = headers;
  counted->shown.header_count = header_count;
  const char *text = (const char *)counted->text.data;
  counted->shown.method = text;
  counted->shown.path = text = next_text(text);
  for (size_t i = 0; i < header_count; i++) {
    headers[i].name = text = next_text(text);
    headers[i].value = text = next_text(text);
  }
  return WEFT_BUF_OK;
}

static int show_body(counted_request *counted) {
  counted->shown.body_size = counted->body.size;
  int rc = weft_buf_putc(&counted->body, '\0');
  counted->shown.body = (const char *)counted->body.data;
  if (rc != WEFT_BUF_OK)
    return rc;
  counted->json = weft_json_check(counted->shown.body, counted->shown.body_size, &counted->wrong);
  weft_json_span model = weft_json_string(weft_json_get(counted->json, "model"));
  if (!model.text)
    return WEFT_BUF_OK;
  rc = weft_json_unescape(model, &counted->model);
  if (rc == WEFT_BUF_OK)
    rc = weft_buf_putc(&counted->model, '\0');
  counted->shown.model = (const char *)counted->model.data;
  return rc;
}

weft_json_value weft_model_request_json(const weft_model_request *request, size_t *wrong) {
  const counted_request *counted = (const counted_request *)request;
  *wrong = counted->wrong;
  return counted->json;
}

weft_model_request *weft_http_parser_take(weft_http_parser *parser) {
  counted_request *counted = weft_calloc(1, sizeof *counted);
  if (!counted)
    return NULL;
  counted->references = 1;
  counted->text = parser->text;
  counted->body = parser->body;
  counted->body.limit = 0; /* the closing zero does not count */
  size_t header_count = parser->header_count;
  weft_http_parser_init(parser);
  if (show_head(counted, header_count) != WEFT_BUF_OK || show_body(counted) != WEFT_BUF_OK) {
    weft_model_request_release(&counted->shown);
    return NULL;
  }
  return &counted->shown;
}

/* The parser ---------------------------------------------------------------------------------- */

void weft_http_parser_init(weft_http_parser *parser) {
  *parser = (weft_http_parser){0};
  weft_buf_init(&parser->body, WEFT_HTTP_BODY_MAX);
}

void weft_http_parser_free(weft_http_parser *parser) {
  weft_buf_free(&parser->text);
  weft_buf_free(&parser->body);
}

typedef struct line {
  const char *text; /* without the end of the line; not zero-terminated */
  size_t size;
} line;

static void keep_text(weft_http_parser *parser, const char *text, size_t size) {
  if (parser->rc == WEFT_BUF_OK)
    parser->rc = weft_buf_append(&parser->text, text, size);
  if (parser->rc == WEFT_BUF_OK)
    parser->rc = weft_buf_putc(&parser->text, '\0');
}

static bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

static int read_request_line(weft_http_parser *parser, line at) {
  if (at.size == 0)
    return WEFT_HTTP_MORE; /* some clients send an empty line first */
  const char *space = memchr(at.text, ' ', at.size);
  const char *last = at.text + at.size;
  while (last > at.text && *--last != ' ') {
  }
  if (!space || last <= space + 1 || space == at.text || memchr(at.text, '\0', at.size))
    return 400;
  size_t version_size = at.size - (size_t)(last + 1 - at.text);
  if (version_size != 8 || memcmp(last + 1, "HTTP/1.", 7) != 0)
    return version_size > 5 && memcmp(last + 1, "HTTP/", 5) == 0 ? 505 : 400;
  parser->is_old = last[8] == '0';
  parser->keep_alive = !parser->is_old;
  keep_text(parser, at.text, (size_t)(space - at.text));
  keep_text(parser, space + 1, (size_t)(last - space - 1));
  parser->phase = WEFT_HTTP_HEADERS;
  return WEFT_HTTP_MORE;
}

static bool equals(const char *text, size_t size, const char *expected) {
  return size == strlen(expected) && strncasecmp(text, expected, size) == 0;
}

static bool has_word(const char *text, size_t size, const char *word) {
  size_t length = strlen(word);
  for (size_t i = 0; i + length <= size; i++)
    if (strncasecmp(text + i, word, length) == 0)
      return true;
  return false;
}

static int read_length(weft_http_parser *parser, const char *text, size_t size) {
  size_t length = 0;
  for (size_t i = 0; i < size; i++) {
    if (text[i] < '0' || text[i] > '9')
      return 400;
    length = length * 10 + (size_t)(text[i] - '0');
    if (length > WEFT_HTTP_BODY_MAX)
      return 413;
  }
  if (size == 0 || (parser->has_length && parser->left != length))
    return 400;
  parser->has_length = true;
  parser->left = length;
  return WEFT_HTTP_MORE;
}

/* What a header means to the parser itself. */
static int heed_header(weft_http_parser *parser, line name, line value) {
  if (equals(name.text, name.size, "content-length"))
    return read_length(parser, value.text, value.size);
  if (equals(name.text, name.size, "transfer-encoding")) {
    parser->chunked = equals(value.text, value.size, "chunked");
    return parser->chunked ? WEFT_HTTP_MORE : 501;
  }
  if (equals(name.text, name.size, "expect"))
    parser->expects_continue = equals(value.text, value.size, "100-continue");
  else if (equals(name.text, name.size, "connection") && has_word(value.text, value.size, "close"))
    parser->keep_alive = false;
  else if (equals(name.text, name.size, "connection") &&
           has_word(value.text, value.size, "keep-alive"))
    parser->keep_alive = true;
  return WEFT_HTTP_MORE;
}

static int end_headers(weft_http_parser *parser) {
  if (parser->chunked && parser->has_length)
    return 400;
  if (parser->chunked)
    parser->phase = WEFT_HTTP_CHUNK_SIZE;
  else
    parser->phase = parser->left ? WEFT_HTTP_BODY : WEFT_HTTP_DONE;
  return WEFT_HTTP_MORE;
}

static int read_header(weft_http_parser *parser, line at) {
  if (at.size == 0)
    return end_headers(parser);
  const char *colon = memchr(at.text, ':', at.size);
  if (!colon || colon == at.text || is_blank(at.text[0]) || is_blank(colon[-1]) ||
      memchr(at.text, '\0', at.size))
    return 400;
  line name = {at.text, (size_t)(colon - at.text)};
  line value = {colon + 1, at.size - name.size - 1};
  while (value.size && is_blank(value.text[0]))
    value = (line){value.text + 1, value.size - 1};
  while (value.size && is_blank(value.text[value.size - 1]))
    value.size--;
  keep_text(parser, name.text, name.size);
  keep_text(parser, value.text, value.size);
  parser->header_count++;
  return heed_header(parser, name, value);
}

static int read_chunk_size(weft_http_parser *parser, line at) {
  size_t length = 0, i = 0;
  for (; i < at.size && weft_json_hex_value(at.text[i]) >= 0; i++) {
    length = length << 4 | (size_t)weft_json_hex_value(at.text[i]);
    if (length > WEFT_HTTP_BODY_MAX)
      return 413;
  }
  if (i == 0 || (i < at.size && at.text[i] != ';' && !is_blank(at.text[i])))
    return 400;
  parser->left = length;
  parser->head_size = 0; /* the ceiling holds for each such line, not for all of them */
  parser->phase = length ? WEFT_HTTP_CHUNK_DATA : WEFT_HTTP_TRAILERS;
  return WEFT_HTTP_MORE;
}

static int read_line(weft_http_parser *parser, line at) {
  switch (parser->phase) {
  case WEFT_HTTP_REQUEST_LINE:
    return read_request_line(parser, at);
  case WEFT_HTTP_HEADERS:
    return read_header(parser, at);
  case WEFT_HTTP_CHUNK_SIZE:
    return read_chunk_size(parser, at);
  case WEFT_HTTP_CHUNK_END:
    parser->phase = WEFT_HTTP_CHUNK_SIZE;
    return at.size == 0 ? WEFT_HTTP_MORE : 400;
  case WEFT_HTTP_TRAILERS:
    if (at.size == 0)
      parser->phase = WEFT_HTTP_DONE;
    return WEFT_HTTP_MORE;
  default:
    abort(); /* the other phases have no lines */
  }
}

/* Reads one line; `*used` stays 0 while its end has not come. */
static int parse_line(weft_http_parser *parser, const uint8_t *bytes, size_t size, size_t *used) {
  const uint8_t *end = memchr(bytes, '\n', size);
  size_t taken = end ? (size_t)(end - bytes) + 1 : size;
  if (taken > WEFT_HTTP_HEAD_MAX - parser->head_size)
    return 431;
  if (!end)
    return WEFT_HTTP_MORE;
  parser->head_size += taken;
  *used = taken;
  line at = {(const char *)bytes, taken - 1};
  if (at.size && at.text[at.size - 1] == '\r')
    at.size--;
  int result = read_line(parser, at);
  return result == WEFT_HTTP_MORE && parser->rc != WEFT_BUF_OK ? WEFT_HTTP_NOMEM : result;
}

/* Moves bytes of the body or of a chunk. */
static int parse_data(weft_http_parser *parser, const uint8_t *bytes, size_t size, size_t *used) {
  size_t taken = size < parser->left ? size : parser->left;
  int rc = weft_buf_append(&parser->body, bytes, taken);
  if (rc != WEFT_BUF_OK)
    return rc == WEFT_BUF_LIMIT ? 413 : WEFT_HTTP_NOMEM;
  *used = taken;
  parser->left -= taken;
  if (parser->left == 0)
    parser->phase = parser->phase == WEFT_HTTP_BODY ? WEFT_HTTP_DONE : WEFT_HTTP_CHUNK_END;
  return WEFT_HTTP_MORE;
}

int weft_http_parse(weft_http_parser *parser, const uint8_t *bytes, size_t size, size_t *used) {
  *used = 0;
  while (parser->phase != WEFT_HTTP_DONE && *used < size) {
    bool data = parser->phase == WEFT_HTTP_BODY || parser->phase == WEFT_HTTP_CHUNK_DATA;
    size_t step = 0;
    int result = data ? parse_data(parser, bytes + *used, size - *used, &step)
                      : parse_line(parser, bytes + *used, size - *used, &step);
    *used += step;
    if (result != WEFT_HTTP_MORE)
      return result;
    if (step == 0)
      break;
  }
  return parser->phase == WEFT_HTTP_DONE ? WEFT_HTTP_READY : WEFT_HTTP_MORE;
}
