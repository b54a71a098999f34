/* http_proxy.c: which proxy a transfer takes, and keeping its credentials out of messages.
 *
 * Owns nothing. Any thread enters. Invariant: a proxy that reaches libcurl is a URL that it can
 * read, so that it never quotes one in a message.
 */
#include "http_engine.h"

#include "mem.h"

#include <stdio.h>
#include <strings.h>

static int is_scheme_known(const char *url) {
  static const char *const schemes[] = {"http://",    "https://",  "socks4://",
                                        "socks4a://", "socks5://", "socks5h://"};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
    if (strncasecmp(url, schemes[i], strlen(schemes[i])) == 0)
      return 1;
  return 0;
}

/* The first place of `part` in `text`, or NULL. (memmem is not in POSIX.) */
static char *find(const char *text, size_t size, const char *part, size_t part_size) {
  for (; size >= part_size; text++, size--)
    if (memcmp(text, part, part_size) == 0)
      return (char *)text;
  return NULL;
}

/* libcurl's default, spelled out. NULL: no memory. */
static char *with_scheme(weft_http_text text) {
  size_t room = text.size + sizeof "http://";
  char *url = weft_malloc(room);
  if (url && !(find(text.bytes, text.size, "://", 3)))
    snprintf(url, room, "http://%.*s", (int)text.size, text.bytes);
  else if (url)
    snprintf(url, room, "%.*s", (int)text.size, text.bytes);
  return url;
}

int weft_http_proxy_copy(weft_http_text text, char **proxy) {
  *proxy = text.size > 0 && text.size < 65536 ? with_scheme(text) : weft_strndup("", 0);
  if (!*proxy)
    return WEFT_NOMEM;
  if (!text.size)
    return WEFT_OK;
  CURLU *url = curl_url();
  CURLUcode code = url ? curl_url_set(url, CURLUPART_URL, *proxy, CURLU_NON_SUPPORT_SCHEME)
                       : CURLUE_OUT_OF_MEMORY;
  curl_url_cleanup(url);
  if (code == CURLUE_OK && is_scheme_known(*proxy))
    return WEFT_OK;
  weft_free(*proxy);
  *proxy = NULL;
  return code == CURLUE_OUT_OF_MEMORY ? WEFT_NOMEM : WEFT_CLOSED;
}

const char *weft_http_proxy_of(const weft_http_transfer *transfer) {
  const weft_http_settings *settings = weft_http_settings_get();
  if (transfer->proxy)
    return transfer->proxy;
  return transfer->target->is_tls ? settings->https_proxy : settings->http_proxy;
}

/* libcurl quotes a proxy that it cannot use, maybe not all of it; the end of the quote goes too. */
static void redact_quote(char *text) {
  char *told = strstr(text, "Unsupported proxy"), *quote = told ? strchr(told, '\'') : NULL;
  if (quote && strlen(quote) > sizeof "[redacted]")
    strcpy(quote, "[redacted]");
}

void weft_http_proxy_redact(const weft_http_transfer *transfer, char *text) {
  const char *proxy = weft_http_proxy_of(transfer);
  const char *scheme = strstr(proxy, "://"), *end = strrchr(proxy, '@');
  const char *start = scheme ? scheme + 3 : proxy;
  if (!end || end <= start)
    return;
  redact_quote(text);
  size_t size = (size_t)(end - start), left = strlen(text);
  for (char *at = text; (at = find(at, left - (size_t)(at - text), start, size)); at += size)
    memset(at, '*', size);
}
