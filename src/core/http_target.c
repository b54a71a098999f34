/* http_target.c: where requests go: URLs, checked and parsed once for all transfers to the same.
 *
 * Owns the table of targets that were asked for last, with a reference to each. Any thread enters.
 * Invariant: a target never changes once made, so that any thread may read its CURLU.
 *
 * Lock order: `lock` is a leaf. A fork waits for it, so that the table is whole in the child.
 */
#include "http_engine.h"

#include "error.h"
#include "hash.h"
#include "mem.h"
#include "platform.h"

#include <strings.h>

enum { TABLE_SIZE = 64, MAX_KEPT = 1024 }; /* bytes of a URL that is kept */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weft_http_target *table[TABLE_SIZE]; /* guarded by lock; by hash, the last one asked for */

static __attribute__((constructor)) void hold_over_forks(void) {
  weft_process_hold_lock(&lock);
}

/* ---- making one ---- */

static weft_error *nomem(void) {
  return weft_error_new("nomem", "HTTP request: not enough memory");
}

static int has_line_break(weft_http_text text) {
  for (size_t i = 0; i < text.size; i++)
    if (text.bytes[i] == '\r' || text.bytes[i] == '\n' || text.bytes[i] == '\0')
      return 1;
  return 0;
}

/* What is wrong with it, or NULL. The rest is checked by libcurl's parser. */
static const char *problem_of(weft_http_text url) {
  if (!url.size)
    return "the URL is missing";
  if (has_line_break(url))
    return "the URL has a line break or a NUL in it: percent-encode it";
  if ((url.size < 7 || strncasecmp(url.bytes, "http://", 7) != 0) &&
      (url.size < 8 || strncasecmp(url.bytes, "https://", 8) != 0))
    return "the URL must begin with http:// or https://";
  return NULL;
}

/* The URL's scheme and authority, without userinfo, in lower case. */
static void set_origin(weft_http_target *target, char *origin) {
  const char *text = target->text;
  size_t scheme = (size_t)(strchr(text, '/') - text) + 2;
  size_t end = scheme, host = scheme;
  for (; !strchr("/?#\\", text[end]); end++)
    if (text[end] == '@')
      host = end + 1;
  memcpy(origin, text, scheme);
  memcpy(origin + scheme, text + host, end - host);
  origin[scheme + end - host] = '\0';
  for (char *c = origin; *c; c++)
    *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 'a' - 'A') : *c;
  target->origin = origin;
  const char *after = origin + scheme + strspn(origin + scheme, "0123456789.");
  target->needs_name = origin[scheme] != '[' && *after != ':' && *after != '\0';
}

static void destroy(weft_http_target *target) {
  curl_url_cleanup(target->url); /* NULL is allowed */
  weft_free(target);
}

static weft_error *parse(weft_http_target *target) {
  target->url = curl_url();
  CURLUcode code = target->url ? curl_url_set(target->url, CURLUPART_URL, target->text, 0)
                               : CURLUE_OUT_OF_MEMORY;
  if (code == CURLUE_OK)
    return NULL;
  return code == CURLUE_OUT_OF_MEMORY
             ? nomem()
             : weft_error_newf("invalid", "HTTP request: the URL is not valid: %s",
                               curl_url_strerror(code));
}

static weft_http_target *make(weft_http_text url, weft_error **error) {
  const char *problem = problem_of(url);
  weft_http_target *target = problem ? NULL : weft_malloc(sizeof *target + 2 * (url.size + 1));
  if (!target) {
    *error = problem ? weft_error_newf("invalid", "HTTP request: %s", problem) : nomem();
    return NULL;
  }
  memset(target, 0, sizeof *target);
  atomic_init(&target->references, 1);
  target->size = url.size;
  memcpy(target->text, url.bytes, url.size);
  target->text[url.size] = '\0';
  target->is_tls = target->text[4] == 's' || target->text[4] == 'S';
  set_origin(target, target->text + url.size + 1);
  *error = parse(target);
  if (!*error)
    return target;
  destroy(target);
  return NULL;
}

/* ---- the table ---- */

static weft_http_target *retain(weft_http_target *target) {
  atomic_fetch_add_explicit(&target->references, 1, memory_order_relaxed);
  return target;
}

void weft_http_target_release(weft_http_target *target) {
  if (target && atomic_fetch_sub_explicit(&target->references, 1, memory_order_acq_rel) == 1)
    destroy(target);
}

/* Puts a target, or NULL, there and gives up the one that was. */
static void replace(uint32_t at, weft_http_target *target) {
  pthread_mutex_lock(&lock);
  weft_http_target *old = table[at];
  table[at] = target;
  pthread_mutex_unlock(&lock);
  weft_http_target_release(old);
}

static weft_http_target *find(uint32_t at, weft_http_text url) {
  pthread_mutex_lock(&lock);
  weft_http_target *target = table[at];
  if (target && target->size == url.size && memcmp(target->text, url.bytes, url.size) == 0)
    retain(target);
  else
    target = NULL;
  pthread_mutex_unlock(&lock);
  return target;
}

weft_http_target *weft_http_target_of(weft_http_text url, weft_error **error) {
  *error = NULL;
  if (url.size > MAX_KEPT)
    return make(url, error);
  uint32_t at = weft_hash_bytes(url.bytes, (uint32_t)url.size) % TABLE_SIZE;
  weft_http_target *target = find(at, url);
  if (target)
    return target;
  target = make(url, error);
  if (target)
    replace(at, retain(target));
  return target;
}

void weft_http_targets_drop(void) {
  for (uint32_t at = 0; at < TABLE_SIZE; at++)
    replace(at, NULL);
}
