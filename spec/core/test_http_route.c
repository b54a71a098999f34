/* test_http_route.c: where requests go: redirects within the origin, and proxies by option.
 *
 * One test after the other on the main thread.
 */
#include "http_helpers.h"

/* ---- redirects ---- */

static weft_http_request redirected(char *path, size_t size, int status, const char *to) {
  snprintf(path, size, "/redirect/%d?to=%s", status, to);
  weft_http_request request = get(path);
  request.redirects = 3;
  return request;
}

static void test_off(void) {
  char path[128];
  weft_http_request request = redirected(path, sizeof path, 302, "/ok");
  request.redirects = 0;
  weft_http_transfer *transfer = run(&request);
  check(weft_http_status(transfer) == 302 && body_is(transfer, "there"),
        "without the option a redirect is an answer");
  weft_http_transfer_release(transfer);
  request = redirected(path, sizeof path, 301, "");
  transfer = run(&request);
  check(weft_http_status(transfer) == 301, "so is one without a Location");
  weft_http_transfer_release(transfer);
}

/* Which method asks for the target, and whether the body goes with it: RFC 9110. */
static void test_methods(void) {
  static const struct {
    int status;
    const char *method, *next;
    int has_body;
  } cases[] = {{301, "GET", "GET", 0},   {301, "POST", "GET", 0},  {302, "POST", "GET", 0},
               {302, "PUT", "PUT", 1},   {303, "POST", "GET", 0},  {303, "PUT", "GET", 0},
               {303, "HEAD", "HEAD", 0}, {307, "POST", "POST", 1}, {308, "PATCH", "PATCH", 1}};
  weft_http_header headers[] = {HEADER("Content-Type", "text/x"), HEADER("X-Key", "mine")};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char path[128], line[64];
    weft_http_request request = redirected(path, sizeof path, cases[i].status, "/ok?b");
    request.method = weft_http_text_of(cases[i].method);
    request.headers = headers;
    request.header_count = 2;
    if (*cases[i].method == 'P')
      request.body = weft_http_text_of("content");
    weft_http_transfer *transfer = run(&request);
    char *sent = fixture_last(server);
    snprintf(line, sizeof line, "%s /ok?b HTTP/1.1\r\n", cases[i].next);
    int has_body = strstr(sent, "\r\n\r\ncontent") != NULL;
    int has_type = strstr(sent, "Content-Type: text/x") != NULL;
    check(!weft_http_error(transfer) && weft_http_status(transfer) == 200 &&
              strncmp(sent, line, strlen(line)) == 0 && has_body == cases[i].has_body &&
              has_type == (*cases[i].next != 'G' || *cases[i].method == 'G') &&
              strstr(sent, "X-Key: mine") && weft_http_times_of(transfer)->redirects == 1,
          "%d after %s is asked for with %s", cases[i].status, cases[i].method, cases[i].next);
    free(sent);
    weft_http_transfer_release(transfer);
  }
}

static void test_bounded(void) {
  char path[256];
  snprintf(path, sizeof path, "/redirect/302?to=/redirect/307?to=/ok");
  weft_http_request request = get(path);
  request.redirects = 2;
  weft_http_transfer *transfer = run(&request);
  check(body_is(transfer, "ok") && weft_http_times_of(transfer)->redirects == 2,
        "one after the other");
  weft_http_transfer_release(transfer);
  request.redirects = 1;
  expect_failure(&request, "redirect", "as many redirects as were allowed");
  request = redirected(path, sizeof path, 302, "/redirect/302");
  transfer = run(&request);
  check(weft_http_status(transfer) == 302, "the last one has no Location");
  weft_http_transfer_release(transfer);
  check(all_gone(), "nothing is left");
}

static void test_other_origins(void) {
  static const char *const targets[] = {"http://127.0.0.2/ok", "https://127.0.0.1/ok",
                                        "//localhost/ok", "ftp://127.0.0.1/ok",
                                        "http://user:pass@127.0.0.1:1/ok"};
  char path[256], same[64];
  for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
    weft_http_request request = redirected(path, sizeof path, 307, targets[i]);
    char *before = fixture_last(server);
    free(before);
    expect_failure(&request, "redirect", "(status 307) was not followed: its");
  }
  static const char *const same_port[] = {"http://localhost:%d/ok", "http://127.0.0.2:%d/ok",
                                          "https://127.0.0.1:%d/ok"};
  for (size_t i = 0; i < sizeof same_port / sizeof *same_port; i++) {
    snprintf(same, sizeof same, same_port[i], server->port);
    weft_http_request request = redirected(path, sizeof path, 307, same);
    expect_failure(&request, "redirect", "(status 307) was not followed: its");
  }
  snprintf(same, sizeof same, "HTTP://other:key@127.0.0.1:%d/ok", server->port);
  weft_http_request request = redirected(path, sizeof path, 307, same);
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(body_is(transfer, "ok") && !strstr(sent, "Authorization"),
        "the same origin in full is followed, without credentials that the server chose");
  free(sent);
  weft_http_transfer_release(transfer);
  request = redirected(path, sizeof path, 302, "http://:99999999/");
  expect_failure(&request, "redirect", "Location is no URL");
}

static void test_limits(void) {
  char path[128];
  weft_http_request request = redirected(path, sizeof path, 302, "/never");
  request.limits_ms[WEFT_HTTP_ATTEMPT] = 100;
  expect_failure(&request, "timeout", "attempt took over 0.1 s");
  request = redirected(path, sizeof path, 302, "/ok");
  request.max_body = 4;
  expect_failure(&request, "too_large", "max_body");
  weft_http_quota *quota = weft_http_quota_new(1, 1);
  request = redirected(path, sizeof path, 302, "/ok");
  request.quota = quota;
  weft_http_transfer *transfers[20];
  for (int i = 0; i < 20; i++)
    transfers[i] = start(&request);
  check(finish_all(transfers, 20) == 20, "redirects keep to the limits, and give places back");
  weft_http_quota_release(quota);
}

/* ---- proxies ---- */

static void test_proxy(void) {
  char proxy[64];
  snprintf(proxy, sizeof proxy, "http://me:SECRET@127.0.0.1:%d", server->port);
  weft_http_request request = {.url = weft_http_text_of("http://proxied.invalid/ok?a=b"),
                               .proxy = weft_http_text_of(proxy)};
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(body_is(transfer, "ok") &&
            strncmp(sent, "GET http://proxied.invalid/ok?a=b HTTP/1.1\r\n", 44) == 0 &&
            strstr(sent, "\r\nProxy-Authorization: Basic "),
        "a proxy by option, with credentials");
  free(sent);
  weft_http_transfer_release(transfer);
  weft_http_request direct = get("/ok");
  transfer = run(&direct);
  sent = fixture_last(server);
  check(body_is(transfer, "ok") && !strstr(sent, "Proxy-"), "the next request takes none");
  free(sent);
  weft_http_transfer_release(transfer);
  snprintf(proxy, sizeof proxy, "127.0.0.1:%d", server->port);
  request.proxy = weft_http_text_of(proxy);
  transfer = run(&request);
  check(body_is(transfer, "ok"), "without a scheme it is http");
  weft_http_transfer_release(transfer);
}

static void test_bad_proxies(void) {
  static const char *const bad[] = {"gopher://me:SECRET@host:1", "http://me:SECRET@:99999999",
                                    "http://me:SECRET@", "socks9://SECRET@x"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weft_http_request request = get("/ok");
    request.proxy = weft_http_text_of(bad[i]);
    expect_invalid(&request, "the proxy is no URL");
  }
  weft_http_request request = {.url = weft_http_text_of("http://x.invalid/"),
                               .proxy = weft_http_text_of("http://me:SECRET@127.0.0.1:1")};
  weft_http_transfer *transfer = run(&request);
  weft_error *error = weft_http_error(transfer);
  check(is_kind(error, "network") && !strstr(weft_error_message(error), "SECRET"), "%s",
        error ? weft_error_message(error) : "no error");
  weft_http_transfer_release(transfer);
  request.proxy = (weft_http_text){"a\nb", 3};
  expect_invalid(&request, "proxy has a line break");
}

static void test_files(void) {
  weft_http_request request = get("/ok");
  request.key_file = weft_http_text_of("/x");
  expect_invalid(&request, "key_file is given without cert_file");
  request.cert_file = (weft_http_text){"/x\0y", 4};
  expect_invalid(&request, "cert_file has a line break or a NUL");
}

static void run_tests(void) {
  test_off();
  test_methods();
  test_bounded();
  test_other_origins();
  test_limits();
  test_proxy();
  test_bad_proxies();
  test_files();
}

int main(void) {
  return run_all(run_tests);
}
