/* http_request.c: checks a request and turns it into a transfer.
 *
 * Owns the transfer's memory: the struct, the header list and the texts are one block, beside the
 * URL, the body and what the answer brings. Any thread enters. Invariant: what a transfer holds can
 * be given to libcurl as it is; no line break or NUL can get from a caller into the head of a
 * request.
 */
#include "http_engine.h"

#include "error.h"
#include "mem.h"
#include "stats.h"

#include <stdio.h>
#include <strings.h>

enum {
  MAX_HEAD = 512 << 10, /* of a request: libcurl builds it in a buffer of 1 MiB */
  OWN_HEADERS = 3,      /* lines that the engine adds */
  SURE_BODY = 1024,     /* no libcurl sends Expect by itself for a body of at most this size */
};

static int equals(weft_http_text text, const char *word) {
  return text.size == strlen(word) && strncasecmp(text.bytes, word, text.size) == 0;
}

/* A token of RFC 9110: what methods and header names are made of. */
static int is_token(weft_http_text text) {
  static const uint8_t letters[256] = {
      ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['!'] = 1, ['#'] = 1, ['$'] = 1,
      ['%'] = 1,         ['&'] = 1,         ['\''] = 1,        ['*'] = 1, ['+'] = 1, ['-'] = 1,
      ['.'] = 1,         ['^'] = 1,         ['_'] = 1,         ['`'] = 1, ['|'] = 1, ['~'] = 1,
  };
  for (size_t i = 0; i < text.size; i++)
    if (!letters[(uint8_t)text.bytes[i]])
      return 0;
  return text.size > 0;
}

static int has_line_break(weft_http_text text) {
  for (size_t i = 0; i < text.size; i++)
    if (text.bytes[i] == '\r' || text.bytes[i] == '\n' || text.bytes[i] == '\0')
      return 1;
  return 0;
}

static weft_http_text trimmed(weft_http_text text) {
  while (text.size && (*text.bytes == ' ' || *text.bytes == '\t'))
    text.bytes++, text.size--;
  while (text.size && (text.bytes[text.size - 1] == ' ' || text.bytes[text.size - 1] == '\t'))
    text.size--;
  return text;
}

/* ---- checks: NULL, or what is wrong ---- */

static weft_error *invalid(const char *reason) {
  return weft_error_newf("invalid", "HTTP request: %s", reason);
}

static weft_error *check_method(const weft_http_request *request) {
  if (!request->method.size)
    return NULL;
  if (!is_token(request->method))
    return invalid("the method must be a word such as GET or POST");
  if (equals(request->method, "CONNECT"))
    return invalid("the method CONNECT is the business of proxies");
  if (equals(request->method, "HEAD") && request->body.size)
    return invalid("a HEAD request has no body");
  return NULL;
}

/* Messages name a header by its number: a name that is wrong may well hold a key. */
static weft_error *check_header(const weft_http_header *header, size_t number) {
  const char *problem = NULL;
  if (!is_token(header->name))
    problem = "has an invalid name: letters, digits and !#$%&'*+-.^_`|~ are allowed";
  else if (has_line_break(header->value))
    problem = "has a line break or a NUL in its value";
  else if (equals(header->name, "Content-Length") || equals(header->name, "Transfer-Encoding"))
    problem = "sets the length of the body, which is known: leave it out";
  else if (equals(header->name, "Expect"))
    problem = "is Expect, which is not supported: leave it out";
  if (!problem)
    return NULL;
  return weft_error_newf("invalid", "HTTP request: header %zu %s", number, problem);
}

static weft_error *check_headers(const weft_http_request *request) {
  size_t size = request->url.size;
  for (size_t i = 0; i < request->header_count; i++) {
    const weft_http_header *header = &request->headers[i];
    weft_error *error = check_header(header, i + 1);
    if (error)
      return error;
    size += header->name.size + header->value.size + 4;
    if (size > MAX_HEAD || header->value.size > MAX_HEAD)
      break;
  }
  return size > MAX_HEAD ? invalid("the URL and the headers are larger than 512 KiB") : NULL;
}

static weft_error *check_files(const weft_http_request *request) {
  const struct {
    const char *name;
    weft_http_text text;
  } texts[] = {{"ca_file", request->ca_file},
               {"cert_file", request->cert_file},
               {"key_file", request->key_file},
               {"key_password", request->key_password},
               {"proxy", request->proxy}};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (has_line_break(texts[i].text))
      return weft_error_newf("invalid", "HTTP request: %s has a line break or a NUL in it",
                             texts[i].name);
  if (request->key_file.size && !request->cert_file.size)
    return invalid("key_file is given without cert_file");
  return NULL;
}

static weft_error *check(const weft_http_request *request) {
  weft_error *error = check_method(request);
  if (!error)
    error = check_headers(request);
  return error ? error : check_files(request);
}

/* ---- building ---- */

/* Copies into the block behind the struct, terminated; moves the cursor on. */
static char *put(char **cursor, weft_http_text text) {
  char *start = *cursor;
  if (text.size)
    memcpy(start, text.bytes, text.size);
  start[text.size] = '\0';
  *cursor = start + text.size + 1;
  return start;
}

static struct curl_slist *append_line(struct curl_slist **end, char *line) {
  struct curl_slist *node = *end;
  *node = (struct curl_slist){line, NULL};
  *end = node + 1;
  return node;
}

/* "Name: value", or "Name;" for an empty value: to libcurl "Name:" takes a header away. */
static char *put_header(char **cursor, const weft_http_header *header) {
  weft_http_text value = trimmed(header->value);
  char *line = put(cursor, header->name);
  (*cursor)--;
  put(cursor, weft_http_text_of(value.size ? ": " : ";"));
  (*cursor)--;
  put(cursor, value);
  return line;
}

static int has_header(const weft_http_request *request, const char *name) {
  for (size_t i = 0; i < request->header_count; i++)
    if (equals(request->headers[i].name, name))
      return 1;
  return 0;
}

/* To send it twice does no harm: by its method (RFC 9110), or by a key that the server checks. */
static int is_repeatable(const weft_http_request *request, const char *method) {
  static const char *const idempotent[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
  for (size_t i = 0; i < sizeof idempotent / sizeof *idempotent; i++)
    if (strcmp(method, idempotent[i]) == 0)
      return 1;
  return has_header(request, "Idempotency-Key") || has_header(request, "X-Idempotency-Key");
}

/* The list is an array of nodes: libcurl only reads it, so it need not come from
 * curl_slist_append. */
static void put_headers(weft_http_transfer *transfer, struct curl_slist *nodes, char **cursor,
                        const weft_http_request *request) {
  static char no_expect[] = "Expect:", no_type[] = "Content-Type:";
  char *codings = (char *)weft_http_settings_get()->codings; /* libcurl only reads it */
  struct curl_slist *end = nodes;
  if (transfer->has_body && request->body.size > SURE_BODY)
    append_line(&end, no_expect);
  if (transfer->has_body && !has_header(request, "Content-Type"))
    append_line(&end, no_type); /* not the form type that libcurl would choose */
  if (request->decompress && *codings && !has_header(request, "Accept-Encoding"))
    append_line(&end, codings); /* libcurl would write it into a text first, then into the head */
  for (size_t i = 0; i < request->header_count; i++)
    append_line(&end, put_header(cursor, &request->headers[i]));
  for (struct curl_slist *node = nodes; node + 1 < end; node++)
    node->next = node + 1;
  transfer->headers = end > nodes ? nodes : NULL;
}

/* The usual methods in capitals, whatever case they came in; others as they are. */
static weft_http_text method_of(const weft_http_request *request) {
  static const char *const usual[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
  if (!request->method.size)
    return weft_http_text_of("GET");
  for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
    if (equals(request->method, usual[i]))
      return weft_http_text_of(usual[i]);
  return request->method;
}

static void put_method(weft_http_transfer *transfer, char **cursor,
                       const weft_http_request *request) {
  const char *method = put(cursor, method_of(request));
  int expects_body =
      strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
  transfer->method = method;
  transfer->has_body = strcmp(method, "HEAD") != 0 && (request->body.bytes || expects_body);
  transfer->method_kind = strcmp(method, "HEAD") == 0                         ? WEFT_HTTP_HEAD
                          : !transfer->has_body && strcmp(method, "GET") == 0 ? WEFT_HTTP_GET
                          : strcmp(method, "POST") == 0                       ? WEFT_HTTP_POST
                                                                              : WEFT_HTTP_CUSTOM;
}

static size_t block_size(const weft_http_request *request) {
  size_t size = sizeof(weft_http_transfer) +
                (request->header_count + OWN_HEADERS) * sizeof(struct curl_slist) +
                request->method.size + sizeof "GET" + request->ca_file.size +
                request->cert_file.size + request->key_file.size + request->key_password.size + 4;
  for (size_t i = 0; i < request->header_count; i++)
    size += request->headers[i].name.size + request->headers[i].value.size + sizeof ": ";
  return size;
}

/* NULL for an empty text. */
static const char *put_option(char **cursor, weft_http_text text) {
  return text.size ? put(cursor, text) : NULL;
}

static void put_files(weft_http_transfer *transfer, char **cursor,
                      const weft_http_request *request) {
  transfer->ca_file = put_option(cursor, request->ca_file);
  transfer->cert_file = put_option(cursor, request->cert_file);
  transfer->key_file = put_option(cursor, request->key_file);
  transfer->key_password = put_option(cursor, request->key_password);
}

static void set_limits(weft_http_transfer *transfer, const weft_http_request *request) {
  transfer->max_body = request->max_body ? request->max_body : WEFT_HTTP_MAX_BODY;
  transfer->max_header = request->max_header ? request->max_header : WEFT_HTTP_MAX_HEADER;
  memcpy(transfer->limits_ms, request->limits_ms, sizeof transfer->limits_ms);
  transfer->limits_ms[WEFT_HTTP_NO_LIMIT] = 0;
  if (!transfer->limits_ms[WEFT_HTTP_CONNECT])
    transfer->limits_ms[WEFT_HTTP_CONNECT] = WEFT_HTTP_CONNECT_TIMEOUT_MS;
  transfer->decompress = !!request->decompress;
  transfer->no_http2 = request->no_http2 || request->is_stream;
  transfer->max_redirects = request->redirects;
  weft_buf_init(&transfer->head, 0); /* the ceilings are checked as data arrives */
  weft_buf_init(&transfer->content, transfer->max_body);
}

static void destroy(weft_handle *handle) {
  weft_http_transfer *transfer = (weft_http_transfer *)handle;
  weft_http_drop_request(transfer);
  weft_http_drop_response(transfer);
  weft_http_spare_give(&transfer->head, WEFT_HTTP_HEAD_SPARE);
  weft_http_stream_free(transfer);
  weft_error_release(transfer->error);
  weft_http_target_release(transfer->target);
  weft_http_quota_release(transfer->quota);
  weft_free(transfer);
}

static const weft_handle_type transfer_type = {"transfer", destroy, &weft_live.transfers};

static weft_http_transfer *allocate(const weft_http_request *request) {
  weft_http_transfer *transfer = weft_malloc(block_size(request));
  if (!transfer)
    return NULL;
  memset(transfer, 0, sizeof *transfer);
  weft_handle_init(&transfer->handle, &transfer_type);
  struct curl_slist *nodes = (struct curl_slist *)(transfer + 1);
  char *cursor = (char *)(nodes + request->header_count + OWN_HEADERS);
  put_method(transfer, &cursor, request);
  put_headers(transfer, nodes, &cursor, request);
  transfer->is_repeatable = (uint8_t)is_repeatable(request, transfer->method);
  transfer->quota = weft_http_quota_retain(request->quota);
  put_files(transfer, &cursor, request);
  set_limits(transfer, request);
  return transfer;
}

static weft_error *set_target(weft_http_transfer *transfer, weft_http_text url) {
  weft_error *error;
  transfer->target = weft_http_target_of(url, &error);
  if (error)
    return error;
  transfer->url = transfer->target->url;
  transfer->needs_name = transfer->target->needs_name;
  return NULL;
}

/* The name that counts is then the proxy's. */
static weft_error *set_proxy(weft_http_transfer *transfer, weft_http_text proxy) {
  int rc = proxy.bytes ? weft_http_proxy_copy(proxy, &transfer->proxy) : WEFT_OK;
  if (rc == WEFT_NOMEM)
    return weft_error_new("nomem", "HTTP request: not enough memory");
  if (rc != WEFT_OK)
    return invalid("the proxy is no URL such as http://host:port");
  if (*weft_http_proxy_of(transfer))
    transfer->needs_name = 1;
  return NULL;
}

static weft_error *copy_body(weft_http_transfer *transfer, weft_http_text body) {
  if (!body.size)
    return NULL;
  transfer->body = weft_malloc(body.size);
  if (!transfer->body)
    return weft_error_new("nomem", "HTTP request: not enough memory for the body");
  memcpy(transfer->body, body.bytes, body.size);
  transfer->body_size = body.size;
  return NULL;
}

weft_http_transfer *weft_http_transfer_new(const weft_http_request *request, weft_error **error) {
  *error = check(request);
  if (*error)
    return NULL;
  weft_http_transfer *transfer = weft_http_settings_get() ? allocate(request) : NULL;
  if (!transfer) {
    *error = weft_error_new("nomem", "HTTP request: not enough memory");
    return NULL;
  }
  *error = set_target(transfer, request->url);
  if (!*error)
    *error = set_proxy(transfer, request->proxy);
  if (!*error)
    *error = copy_body(transfer, request->body);
  if (!*error && request->is_stream && !weft_http_stream_new(transfer, request->buffer))
    *error = weft_error_new("nomem", "HTTP request: not enough memory");
  if (!*error)
    return transfer;
  weft_http_transfer_release(transfer);
  return NULL;
}

weft_http_transfer *weft_http_transfer_retain(weft_http_transfer *transfer) {
  weft_handle_retain(&transfer->handle);
  return transfer;
}

void weft_http_transfer_release(weft_http_transfer *transfer) {
  if (transfer)
    weft_handle_release(&transfer->handle);
}

void weft_http_drop_url(weft_http_transfer *transfer) {
  if (transfer->target && transfer->url != transfer->target->url)
    curl_url_cleanup(transfer->url); /* NULL is allowed */
  transfer->url = NULL;
}

void weft_http_drop_request(weft_http_transfer *transfer) {
  weft_http_drop_url(transfer);
  curl_url_cleanup(transfer->next_url);
  weft_free(transfer->body);
  weft_free(transfer->proxy);
  transfer->next_url = NULL;
  transfer->proxy = NULL;
  transfer->body = NULL;
}

void weft_http_describe(weft_http_transfer *transfer, char *text, size_t size) {
  static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT,
                                    CURLUPART_PATH};
  static const char *const before[] = {" ", "://", ":", ""};
  size_t used = (size_t)snprintf(text, size, "%s", transfer->method);
  for (size_t i = 0; i < 4 && used < size; i++) {
    char *part = NULL;
    curl_url_get(transfer->url, parts[i], &part, CURLU_DEFAULT_PORT);
    used += (size_t)snprintf(text + used, size - used, "%s%s", before[i], part ? part : "?");
    curl_free(part);
  }
}
