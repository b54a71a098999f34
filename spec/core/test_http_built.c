/* test_http_built.c: a libcurl that was built without TLS, or that knows no bundle of certificates.
 *
 * Stands in for what libcurl says of itself and for its options. One test after the other on the
 * main thread.
 */
#define CURL_DISABLE_TYPECHECK
#include "http_helpers.h"

#include <curl/curl.h>
#include <dlfcn.h>

#undef curl_easy_setopt

static _Atomic int has_tls;
static CURL *_Atomic with_bundle, *_Atomic used; /* the handles that were given a bundle, a URL */

curl_version_info_data *curl_version_info(CURLversion version) {
  static curl_version_info_data *(*real)(CURLversion);
  static curl_version_info_data info;
  if (!real) {
    *(void **)&real = dlsym(RTLD_NEXT, "curl_version_info");
    info = *real(version);
    info.features &= ~CURL_VERSION_SSL;
  }
  return &info;
}

CURL *curl_easy_init(void) {
  static CURL *(*real)(void);
  if (!real)
    *(void **)&real = dlsym(RTLD_NEXT, "curl_easy_init");
  CURL *made = real();
  if (made == with_bundle)
    with_bundle = NULL;
  return made;
}

/* Every kind of value fits into a pointer, on the systems that this runs on. */
CURLcode curl_easy_setopt(CURL *easy, CURLoption option, ...) {
  static CURLcode (*real)(CURL *, CURLoption, ...);
  va_list args;
  if (!real)
    *(void **)&real = dlsym(RTLD_NEXT, "curl_easy_setopt");
  va_start(args, option);
  void *value = va_arg(args, void *);
  va_end(args);
  int is_of_tls = option == CURLOPT_CAINFO || option == CURLOPT_CAPATH ||
                  option == CURLOPT_SSLCERT || option == CURLOPT_SSLKEY;
  if (is_of_tls && !has_tls)
    return CURLE_NOT_BUILT_IN;
  if (option == CURLOPT_CAINFO)
    with_bundle = easy;
  if (option == CURLOPT_CURLU && value)
    used = easy;
  return real(easy, option, value);
}

static void expect_ok(const weft_http_request *request, const char *what) {
  weft_http_transfer *transfer = run(request);
  weft_error *error = weft_http_error(transfer);
  check(body_is(transfer, "ok"), "%s: %s", what, error ? weft_error_message(error) : "ok");
  weft_http_transfer_release(transfer);
}

static void test_without_tls(void) {
  weft_http_request request = get("/ok"), own = request;
  expect_ok(&request, "without TLS plain HTTP works");
  own.proxy = weft_http_text_of("");
  expect_ok(&own, "with options of its own, too");
  expect_ok(&request, "and after such a one");
  own.ca_file = weft_http_text_of("/nowhere/ca.pem");
  expect_failure(&own, "invalid", "built-in");
  expect_ok(&request, "what cannot be had is one request's trouble");
}

static void test_without_bundle(void) {
  weft_http_request request = get("/ok"), own = request;
  own.ca_file = weft_http_text_of("/nowhere/ca.pem");
  has_tls = 1;
  expect_ok(&own, "a bundle of its own");
  check(used == with_bundle, "goes to the handle");
  expect_ok(&request, "the next request");
  check(used != with_bundle, "does not trust another's bundle");
}

static void run_tests(void) {
  unsetenv("CURL_CA_BUNDLE");
  unsetenv("SSL_CERT_FILE");
  test_without_tls();
  test_without_bundle();
}

int main(void) {
  return run_all(run_tests);
}
