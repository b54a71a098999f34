/* http_settings.c: what the HTTP engine takes from the environment, once a process.
 *
 * Owns the copies of the variables. Any thread enters; the first one reads. Invariant: the settings
 * are constant once weft_http_settings_get has returned them, so a later setenv changes nothing.
 *
 * libcurl is told the proxies and the bundle explicitly: left alone, it reads the environment for
 * each request, and with a directory of certificates it parses the bundle anew for each connection.
 */
#include "http_engine.h"

#include "mem.h"
#include "platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A leaf. Held across curl_global_init, which takes none of our locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weft_http_settings settings; /* guarded by lock until is_ready */
static _Atomic int is_ready;

static __attribute__((constructor)) void hold_over_forks(void) {
  weft_process_hold_lock(&lock);
}

static const char *first_variable(const char *const *names) {
  for (; *names; names++) {
    const char *value = getenv(*names);
    if (value && *value)
      return value;
  }
  return "";
}

/* Copies the first of the variables that is set, else "". Returns 0 without memory. */
static int copy_variable(const char **copy, const char *const *names) {
  const char *value = first_variable(names);
  weft_free((char *)*copy);
  *copy = weft_strndup(value, strlen(value));
  return *copy != NULL;
}

/* HTTP_PROXY in capitals is not read: a CGI program gets it from the client. */
static int read_proxies(void) {
  static const char *const http[] = {"http_proxy", "all_proxy", "ALL_PROXY", NULL};
  static const char *const https[] = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", NULL};
  static const char *const none[] = {"no_proxy", "NO_PROXY", NULL};
  return copy_variable(&settings.http_proxy, http) && copy_variable(&settings.https_proxy, https) &&
         copy_variable(&settings.no_proxy, none);
}

static const char *first_readable(const char *const *paths, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (paths[i] && access(paths[i], R_OK) == 0)
      return paths[i];
  return "";
}

/* A variable names the bundle even when it cannot be read: then requests fail and say so. */
static int find_ca_bundle(void) {
  static const char *const names[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", NULL};
  const curl_version_info_data *version = curl_version_info(CURLVERSION_NOW);
  const char *const known[] = {
      version->age >= CURLVERSION_SEVENTH ? version->cainfo : NULL,
      "/etc/ssl/certs/ca-certificates.crt", /* Debian, Arch, Alpine */
      "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
      "/etc/ssl/ca-bundle.pem",             /* openSUSE */
      "/etc/ssl/cert.pem",
  };
  if (!copy_variable(&settings.ca_bundle, names))
    return 0;
  int has_tls = version->features & CURL_VERSION_SSL; /* else libcurl takes no bundle */
  if (*settings.ca_bundle && has_tls)
    return 1;
  const char *path = has_tls ? first_readable(known, sizeof known / sizeof *known) : "";
  weft_free((char *)settings.ca_bundle);
  settings.ca_bundle = weft_strndup(path, strlen(path));
  return settings.ca_bundle != NULL;
}

/* As libcurl would write it, but once. */
static void list_codings(void) {
  static const struct {
    int feature;
    const char *names;
  } known[] = {
      {CURL_VERSION_LIBZ, "deflate, gzip"},
#ifdef CURL_VERSION_BROTLI
      {CURL_VERSION_BROTLI, "br"},
#endif
#ifdef CURL_VERSION_ZSTD
      {CURL_VERSION_ZSTD, "zstd"},
#endif
  };
  int features = curl_version_info(CURLVERSION_NOW)->features;
  for (size_t i = 0, used = 0; i < sizeof known / sizeof *known; i++)
    if (features & known[i].feature)
      used += (size_t)snprintf(settings.codings + used, sizeof settings.codings - used, "%s%s",
                               used ? ", " : "Accept-Encoding: ", known[i].names);
}

const weft_http_settings *weft_http_settings_get(void) {
  if (atomic_load_explicit(&is_ready, memory_order_acquire))
    return &settings;
  pthread_mutex_lock(&lock);
  if (!is_ready && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
    list_codings();
    is_ready = read_proxies() && find_ca_bundle();
  }
  int has_settings = is_ready;
  pthread_mutex_unlock(&lock);
  return has_settings ? &settings : NULL;
}
