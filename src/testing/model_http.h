/* model_http.h: reads HTTP/1.1 requests out of a stream of bytes.
 *
 * A parser belongs to the server thread. A finished request is immutable and counted: any thread
 * may hold and release one. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_HTTP_H
#define WEFT_TESTING_MODEL_HTTP_H

#include <stdbool.h>

#include "../core/buf.h"
#include "model_json.h"
#include "model_server.h"

enum {
  WEFT_HTTP_HEAD_MAX = 64 * 1024,        /* request line and headers: else status 431 */
  WEFT_HTTP_BODY_MAX = 64 * 1024 * 1024, /* else status 413 */
};

typedef enum weft_http_phase {
  WEFT_HTTP_REQUEST_LINE,
  WEFT_HTTP_HEADERS,
  WEFT_HTTP_BODY,
  WEFT_HTTP_CHUNK_SIZE,
  WEFT_HTTP_CHUNK_DATA,
  WEFT_HTTP_CHUNK_END,
  WEFT_HTTP_TRAILERS,
  WEFT_HTTP_DONE,
} weft_http_phase;

typedef struct weft_http_parser {
  weft_http_phase phase;
  int rc;        /* WEFT_BUF_OK, or the failure of an allocation */
  weft_buf text; /* method, path, then names and values, each zero-terminated */
  size_t header_count;
  size_t head_size; /* bytes of lines so far, trailers and chunk sizes too */
  weft_buf body;
  size_t left; /* bytes of the body or of the chunk that are still to come */
  bool has_length, chunked;
  bool is_old;           /* HTTP/1.0: it knows no chunks */
  bool keep_alive;       /* what the client wishes */
  bool expects_continue; /* it waits for "100 Continue" before it sends the body */
} weft_http_parser;

typedef enum weft_http_result {
  WEFT_HTTP_MORE = 0,   /* more bytes are needed */
  WEFT_HTTP_READY = 1,  /* a request is complete */
  WEFT_HTTP_NOMEM = -1, /* the connection cannot go on */
  /* any other value is the status that refuses the request: 400, 413, 431, 501, 505 */
} weft_http_result;

/* Ready for the first request, without memory. */
void weft_http_parser_init(weft_http_parser *parser);
/* Frees what was read of a request that is not complete. */
void weft_http_parser_free(weft_http_parser *parser);

/* Reads from `bytes`; sets `*used` to how many of them it is done with. Returns a
 * weft_http_result or a status. */
int weft_http_parse(weft_http_parser *parser, const uint8_t *bytes, size_t size, size_t *used);

/* Takes the request out of a parser that is READY, which is then fresh for the next one. Returns
 * the request with one reference, or NULL when there is no memory. */
weft_model_request *weft_http_parser_take(weft_http_parser *parser);

/* The value of a header by its name in any case, or NULL; belongs to the request. */
const char *weft_model_request_header(const weft_model_request *request, const char *name);
/* The body as JSON, which points into the request; WEFT_JSON_NONE when it is no JSON, with the
 * place of the first wrong byte. */
weft_json_value weft_model_request_json(const weft_model_request *request, size_t *wrong);
/* What a request holds, about: for the ceiling of the record. */
size_t weft_model_request_size(const weft_model_request *request);

void weft_model_request_retain(const weft_model_request *request);
void weft_model_request_release(const weft_model_request *request); /* NULL is allowed */

#endif
