/* http_error.c: why a transfer failed, in one line that a person can act on.
 *
 * Owns nothing. The I/O thread enters, and who aborts a transfer before its start. Invariant: no
 * message holds a query string, userinfo, or a header's or body's content.
 */
#include "http_engine.h"

#include "error.h"
#include "platform.h"

#include <errno.h>
#include <stdio.h>

enum { WHERE_SIZE = 200, REASON_SIZE = CURL_ERROR_SIZE + 64 };

/* Codes that are not here are of kind "network". */
static const struct {
  CURLcode code;
  const char *kind, *hint;
} causes[] = {
    {CURLE_OPERATION_TIMEDOUT, "timeout", ""},
    {CURLE_SSL_CONNECT_ERROR, "tls", ""},
    {CURLE_PEER_FAILED_VERIFICATION, "tls", "; for a private certificate authority set ca_file"},
    {CURLE_SSL_CACERT_BADFILE, "tls", "; ca_file must be a readable PEM file"},
    {CURLE_SSL_CERTPROBLEM, "tls", ""},
    {CURLE_SSL_CIPHER, "tls", ""},
    {CURLE_SSL_ENGINE_INITFAILED, "tls", ""},
    {CURLE_SSL_CRL_BADFILE, "tls", ""},
    {CURLE_SSL_ISSUER_ERROR, "tls", ""},
    {CURLE_SSL_INVALIDCERTSTATUS, "tls", ""},
    {CURLE_SSL_PINNEDPUBKEYNOTMATCH, "tls", ""},
    {CURLE_USE_SSL_FAILED, "tls", ""},
    {CURLE_HTTP2, "protocol", ""},
    {CURLE_HTTP2_STREAM, "protocol", ""},
    {CURLE_WEIRD_SERVER_REPLY, "protocol", ""},
    {CURLE_UNSUPPORTED_PROTOCOL, "protocol", "; the server does not speak HTTP as expected"},
    {CURLE_BAD_CONTENT_ENCODING, "protocol", "; the compressed body is damaged"},
    {CURLE_URL_MALFORMAT, "protocol", ""},
    {CURLE_NOT_BUILT_IN, "invalid", ""},
    {CURLE_UNKNOWN_OPTION, "invalid", ""},
    {CURLE_OUT_OF_MEMORY, "nomem", ""},
    {CURLE_FILESIZE_EXCEEDED, "too_large", ""},
#if LIBCURL_VERSION_NUM >= 0x080600
    {CURLE_TOO_LARGE, "too_large", ""},
#endif
};

static size_t cause_of(CURLcode code) {
  size_t i = 0;
  while (i < sizeof causes / sizeof *causes && causes[i].code != code)
    i++;
  return i;
}

/* `reason` may hold text of the server's. */
static weft_error *make(weft_http_transfer *transfer, const char *kind, const char *reason) {
  char where[WHERE_SIZE], clean[REASON_SIZE];
  size_t size = 0;
  for (; reason[size] && size < sizeof clean - 1; size++)
    clean[size] = (unsigned char)reason[size] < ' ' ? ' ' : reason[size];
  clean[size] = '\0';
  weft_http_proxy_redact(transfer, clean);
  weft_http_describe(transfer, where, sizeof where);
  return weft_error_newf(kind, "%s: %s", where, clean);
}

static weft_error *redirect_error(weft_http_transfer *transfer) {
  char reason[REASON_SIZE];
  const char *why = transfer->refusal == WEFT_HTTP_MANY_REDIRECTS
                        ? "as many redirects as were allowed have been followed"
                    : transfer->refusal == WEFT_HTTP_FAR_REDIRECT
                        ? "its scheme, host or port is another: headers and body stay here"
                        : "its Location is no URL";
  snprintf(reason, sizeof reason, "the redirect (status %d) was not followed: %s", transfer->status,
           why);
  return make(transfer, "redirect", reason);
}

static weft_error *refusal_error(weft_http_transfer *transfer) {
  char reason[REASON_SIZE];
  switch (transfer->refusal) {
  case WEFT_HTTP_HEAD_OVERFLOW:
    snprintf(reason, sizeof reason, "the answer's headers are larger than max_header (%zu bytes)",
             transfer->max_header);
    break;
  case WEFT_HTTP_BODY_OVERFLOW:
    snprintf(reason, sizeof reason, "the answer's body is larger than max_body (%zu bytes)",
             transfer->max_body);
    break;
  case WEFT_HTTP_LINE_OVERFLOW:
    snprintf(reason, sizeof reason, "one of the answer's headers is larger than libcurl takes");
    break;
  case WEFT_HTTP_ODD_LENGTH:
    transfer->failure.code = CURLE_WEIRD_SERVER_REPLY;
    return make(transfer, "protocol",
                "the answer's Content-Length is no length, or there are several that differ");
  case WEFT_HTTP_FAR_REDIRECT:
  case WEFT_HTTP_ODD_REDIRECT:
  case WEFT_HTTP_MANY_REDIRECTS:
    return redirect_error(transfer);
  case WEFT_HTTP_NOT_REPEATED:
    transfer->failure.code = CURLE_GOT_NOTHING;
    return make(transfer, "network",
                "the server closed the kept connection without an answer; the request may have "
                "been processed, so it was not sent again");
  default:
    return weft_http_error_nomem(transfer);
  }
  return make(transfer, "too_large", reason);
}

static weft_error *system_error(weft_http_transfer *transfer, int number) {
  char reason[REASON_SIZE], text[128];
  const char *hint = number == EMFILE ? "; raise the limit of open files (ulimit -n)" : "";
  snprintf(reason, sizeof reason, "a socket could not be opened: %s%s",
           weft_errno_text(number, text, sizeof text), hint);
  return make(transfer, number == ENOMEM ? "nomem" : "network", reason);
}

static int is_system_failure(CURLcode code) {
  return code == CURLE_COULDNT_CONNECT || code == CURLE_OUT_OF_MEMORY;
}

/* libcurl's ceiling on one header line shows as a lack of memory while headers arrive. */
static int is_giant_header(weft_http_transfer *transfer, CURLcode code) {
  return code == CURLE_OUT_OF_MEMORY && transfer->header_bytes && !transfer->has_final_head &&
         !transfer->refusal;
}

/* ---- timeouts ---- */

const char *weft_http_limit_name(uint8_t limit) {
  static const char *const names[] = {"", "connect", "first_byte", "idle", "attempt", "total"};
  return limit < sizeof names / sizeof *names ? names[limit] : "";
}

/* What had arrived. */
static void put_progress(weft_http_transfer *transfer, char *text, size_t size) {
  if (transfer->has_final_head)
    snprintf(text, size, "status %d and %llu bytes of the body had arrived", transfer->status,
             (unsigned long long)transfer->failure.received);
  else if (transfer->header_bytes)
    snprintf(text, size, "%zu bytes of headers had arrived", transfer->header_bytes);
  else if (transfer->step == WEFT_HTTP_ASKED)
    snprintf(text, size, "the request was sent and nothing had arrived");
  else if (transfer->step == WEFT_HTTP_CONNECTING)
    snprintf(text, size, "it was still connecting");
  else
    snprintf(text, size, "it was still waiting for its turn");
}

static weft_error *timeout_error(weft_http_transfer *transfer) {
  char reason[REASON_SIZE], progress[96];
  uint32_t limit_ms = transfer->limits_ms[transfer->expired];
  transfer->failure.code = CURLE_OPERATION_TIMEDOUT;
  transfer->failure.expired = transfer->expired;
  transfer->failure.limit_ms = limit_ms;
  put_progress(transfer, progress, sizeof progress);
  snprintf(reason, sizeof reason, "timed out: %s took over %g s; %s",
           weft_http_limit_name(transfer->expired), limit_ms / 1e3, progress);
  return make(transfer, "timeout", reason);
}

/* A proxy that was asked for a tunnel and said no. */
static uint16_t proxy_status_of(weft_http_transfer *transfer) {
  long status = 0;
  if (transfer->slot)
    curl_easy_getinfo(transfer->slot->easy, CURLINFO_HTTP_CONNECTCODE, &status);
  return status >= 300 && status <= 999 ? (uint16_t)status : 0;
}

/* What may help: a bundle of one's own only where the signature is the trouble. */
static const char *hint_of(weft_http_transfer *transfer, CURLcode code, const char *reason) {
  size_t cause = cause_of(code);
  if (transfer->failure.proxy_status == 407)
    return "; the proxy wants a user and a password, or other ones";
  if (cause == sizeof causes / sizeof *causes)
    return "";
  if (code == CURLE_PEER_FAILED_VERIFICATION &&
      (transfer->ca_file || strstr(reason, "expired") || strstr(reason, "host name")))
    return "";
  return causes[cause].hint;
}

static weft_error *libcurl_error(weft_http_transfer *transfer, CURLcode code, const char *reason) {
  char text[REASON_SIZE], progress[96] = "";
  size_t cause = cause_of(code);
  int is_known = cause < sizeof causes / sizeof *causes;
  transfer->failure.proxy_status = proxy_status_of(transfer);
  if (transfer->has_final_head)
    put_progress(transfer, progress, sizeof progress);
  snprintf(text, sizeof text, "%s (curl %d)%s%s%s", *reason ? reason : curl_easy_strerror(code),
           (int)code, hint_of(transfer, code, reason), *progress ? "; " : "", progress);
  return make(transfer, is_known ? causes[cause].kind : "network", text);
}

weft_error *weft_http_error_of(weft_http_transfer *transfer, CURLcode code) {
  weft_http_slot *slot = transfer->slot;
  transfer->failure.code = (int)code;
  if (is_giant_header(transfer, code))
    transfer->refusal = WEFT_HTTP_LINE_OVERFLOW;
  if (transfer->refusal)
    return refusal_error(transfer);
  if (slot->system_error && is_system_failure(code))
    return system_error(transfer, slot->system_error);
  return libcurl_error(transfer, code, slot->reason);
}

weft_error *weft_http_error_of_name(weft_http_transfer *transfer, CURLcode code,
                                    const char *reason) {
  transfer->failure.code = (int)code;
  if (code == CURLE_OPERATION_TIMEDOUT) {
    transfer->expired = WEFT_HTTP_CONNECT;
    return timeout_error(transfer);
  }
  return libcurl_error(transfer, code, reason);
}

/* libcurl may have been built without what the request needs. */
weft_error *weft_http_error_of_launch(weft_http_transfer *transfer, CURLcode code) {
  transfer->failure.code = (int)code;
  return code == CURLE_OUT_OF_MEMORY ? weft_http_error_nomem(transfer)
                                     : libcurl_error(transfer, code, "");
}

weft_error *weft_http_error_of_doom(weft_http_transfer *transfer) {
  if (transfer->doom == WEFT_HTTP_ABORTED)
    return make(transfer, "canceled", "canceled");
  if (transfer->doom == WEFT_HTTP_REFUSED)
    return refusal_error(transfer);
  if (transfer->doom == WEFT_HTTP_NO_WATCH)
    return system_error(transfer, transfer->slot ? transfer->slot->system_error : 0);
  return timeout_error(transfer);
}

weft_error *weft_http_error_nomem(weft_http_transfer *transfer) {
  return make(transfer, "nomem", "not enough memory");
}
