/* test_http_target.c: URLs that are parsed once for all transfers to the same. */
#include "check.h"
#include "http_engine.h"

static weft_http_target *target_of(const char *url) {
  weft_error *error;
  weft_http_target *target = weft_http_target_of(weft_http_text_of(url), &error);
  CHECK(target && !error);
  return target;
}

static int part_is(const weft_http_target *target, CURLUPart part, const char *expected) {
  char *text = NULL;
  curl_url_get(target->url, part, &text, 0);
  int is_it = text && strcmp(text, expected) == 0;
  curl_free(text);
  return is_it;
}

static void says_what_follows_from_the_url(void) {
  weft_http_target *target = target_of("HTTPS://u:p@API.example.ORG:8443/Path?q");
  CHECK(strcmp(target->origin, "https://api.example.org:8443") == 0);
  CHECK(target->is_tls && target->needs_name);
  CHECK(part_is(target, CURLUPART_USER, "u") && part_is(target, CURLUPART_PATH, "/Path"));
  weft_http_target_release(target);
  static const char *const addresses[] = {"http://127.0.0.1", "http://127.0.0.1:80/",
                                          "http://[::1]/"};
  for (size_t i = 0; i < COUNT(addresses); i++) {
    target = target_of(addresses[i]);
    CHECK(!target->is_tls && !target->needs_name);
    weft_http_target_release(target);
  }
  target = target_of("http://1.example/");
  CHECK(target->needs_name);
  weft_http_target_release(target);
}

static void the_same_url_is_parsed_once(void) {
  weft_http_target *first = target_of("http://h/a?key=1"), *again = target_of("http://h/a?key=1");
  CHECK(again == first);
  weft_http_target_release(again);
  weft_http_targets_drop();
  CHECK(part_is(first, CURLUPART_QUERY, "key=1")); /* it is ours still */
  again = target_of("http://h/a?key=1");
  CHECK(again != first);
  weft_http_target_release(again);
  weft_http_target_release(first);
}

/* More URLs than the table has room for, some too long for it: none is taken for another. */
static void no_url_is_taken_for_another(void) {
  char url[2000];
  for (int round = 0; round < 2; round++)
    for (int i = 0; i < 500; i++) {
      snprintf(url, sizeof url, "http://h%d/%0*d", i, i % 10 ? 1 : 1500, i);
      weft_http_target *target = target_of(url);
      char host[16];
      snprintf(host, sizeof host, "h%d", i);
      CHECK(part_is(target, CURLUPART_HOST, host) && strcmp(target->origin + 7, host) == 0);
      weft_http_target_release(target);
    }
}

static void what_is_wrong_is_not_kept(void) {
  for (int i = 0; i < 2; i++) {
    weft_error *error;
    CHECK(!weft_http_target_of(weft_http_text_of("http://h:99999/"), &error));
    CHECK(error && strcmp(weft_error_kind(error), "invalid") == 0);
    weft_error_release(error);
  }
}

static void *ask_in_turn(void *unused) {
  char url[32];
  for (int i = 0; i < 20000; i++) {
    int port = 1 + i % 200;
    snprintf(url, sizeof url, "http://h:%d/", port);
    weft_http_target *target = target_of(url);
    CHECK(atoi(target->origin + 9) == port);
    weft_http_target_release(target);
    if (i % 1000 == 0)
      weft_http_targets_drop();
  }
  return unused;
}

static void any_thread_may_ask(void) {
  pthread_t threads[3];
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_create(&threads[i], NULL, ask_in_turn, NULL);
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_join(threads[i], NULL);
}

int main(void) {
  weft_http_settings_get();
  check_run("target: says what follows from the URL", says_what_follows_from_the_url);
  check_run("target: the same URL is parsed once", the_same_url_is_parsed_once);
  check_run("target: no URL is taken for another", no_url_is_taken_for_another);
  check_run("target: what is wrong is not kept", what_is_wrong_is_not_kept);
  check_run("target: any thread may ask", any_thread_may_ask);
  weft_http_targets_drop();
  return check_end();
}
