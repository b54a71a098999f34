/* http_redirect.c: following redirects, within one origin.
 *
 * Owns nothing but the next URL in a transfer. The I/O thread alone enters. Invariant: a request
 * goes only to the scheme, host and port that its caller named: libcurl would hand headers such as
 * x-api-key, and the body, to whatever host an answer names, so it follows nothing itself.
 */
#include "http_engine.h"

#include "error.h"
#include "mem.h"

#include <stdio.h>
#include <strings.h>

static int is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* ---- where to ---- */

static int is_same_part(CURLU *a, CURLU *b, CURLUPart part) {
  char *one = NULL, *other = NULL;
  curl_url_get(a, part, &one, CURLU_DEFAULT_PORT);
  curl_url_get(b, part, &other, CURLU_DEFAULT_PORT);
  int is_same = one && other ? strcasecmp(one, other) == 0 : one == other;
  curl_free(one);
  curl_free(other);
  return is_same;
}

static int is_same_origin(CURLU *a, CURLU *b) {
  return is_same_part(a, b, CURLUPART_SCHEME) && is_same_part(a, b, CURLUPART_HOST) &&
         is_same_part(a, b, CURLUPART_PORT);
}

/* The Location against the URL that was asked, with its credentials. NULL: it is no URL. */
static CURLU *resolve(weft_http_transfer *transfer, weft_http_text location) {
  CURLU *url = curl_url_dup(transfer->url);
  char *text = weft_strndup(location.bytes, location.size);
  if (url && text && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK) {
    weft_free(text);
    return url;
  }
  weft_free(text);
  curl_url_cleanup(url);
  return NULL;
}

/* Credentials of the Location's own would be the server's choice; the caller's stay. */
static CURLUcode keep_credentials(CURLU *from, CURLU *to) {
  static const CURLUPart parts[] = {CURLUPART_USER, CURLUPART_PASSWORD};
  CURLUcode code = CURLUE_OK;
  for (size_t i = 0; i < 2 && code == CURLUE_OK; i++) {
    char *text = NULL;
    curl_url_get(from, parts[i], &text, 0);
    code = curl_url_set(to, parts[i], text, 0);
    curl_free(text);
  }
  return code;
}

static uint8_t plan(weft_http_transfer *transfer, weft_http_text location) {
  if (transfer->redirects >= transfer->max_redirects)
    return WEFT_HTTP_MANY_REDIRECTS;
  CURLU *url = resolve(transfer, location);
  if (!url)
    return WEFT_HTTP_ODD_REDIRECT;
  if (!is_same_origin(url, transfer->url) || keep_credentials(transfer->url, url) != CURLUE_OK) {
    curl_url_cleanup(url);
    return WEFT_HTTP_FAR_REDIRECT;
  }
  transfer->next_url = url;
  return WEFT_HTTP_FITS;
}

int weft_http_redirect_plan(weft_http_transfer *transfer) {
  weft_http_text location;
  if (!transfer->max_redirects || !is_redirect(transfer->status) ||
      !weft_http_find_header(transfer, "Location", &location))
    return 1;
  transfer->refusal = plan(transfer, location);
  return transfer->refusal == WEFT_HTTP_FITS;
}

/* ---- the next request ---- */

/* The headers that are about the body go with it. */
static void drop_body(weft_http_transfer *transfer) {
  struct curl_slist **link = &transfer->headers;
  while (*link)
    if (strncasecmp((*link)->data, "Content-", 8) == 0)
      *link = (*link)->next;
    else
      link = &(*link)->next;
  weft_free(transfer->body);
  transfer->body = NULL;
  transfer->body_size = 0;
  transfer->has_body = 0;
  transfer->method = "GET";
  transfer->method_kind = WEFT_HTTP_GET;
  transfer->is_repeatable = 1;
}

/* RFC 9110: a 303 is asked for with GET, whatever the method was; so is a 301 or 302 after POST. */
static int becomes_get(const weft_http_transfer *transfer) {
  if (transfer->method_kind == WEFT_HTTP_HEAD)
    return 0;
  return transfer->status == 303 ||
         (transfer->status <= 302 && transfer->method_kind == WEFT_HTTP_POST);
}

void weft_http_redirect_turn(weft_http_transfer *transfer) {
  if (becomes_get(transfer))
    drop_body(transfer);
  weft_http_drop_url(transfer);
  transfer->url = transfer->next_url;
  transfer->next_url = NULL;
  transfer->redirects++;
  transfer->head.size = 0;
  transfer->header_bytes = 0;
  transfer->has_final_head = 0;
  transfer->status = 0;
  transfer->failure.received = 0;
}
