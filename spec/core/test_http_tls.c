/* test_http_tls.c: TLS and HTTP/2 against nginx: many calls over few connections, sessions taken up
 * again, client certificates.
 *
 * Needs the programs nginx and openssl. One test after the other on the main thread.
 */
#include "http_nginx.h"

static nginx tls;

static weft_http_request secure(const char *path) {
  static char url[128];
  snprintf(url, sizeof url, "https://127.0.0.1:%d%s", tls.port, path);
  weft_http_request request = {.url = weft_http_text_of(url)};
  request.ca_file = weft_http_text_of(tls.certificate);
  return request;
}

/* "protocol connection session certificate" */
typedef struct told {
  char protocol[16], connection[16], session[16], certificate[32];
} told;

static told read_told(weft_http_transfer *transfer) {
  told told = {"", "", "", ""};
  char text[128] = "";
  weft_http_text body = weft_http_body(transfer);
  if (weft_http_error(transfer))
    printf("# %s\n", weft_error_message(weft_http_error(transfer)));
  memcpy(text, body.bytes ? body.bytes : "", body.size < sizeof text - 1 ? body.size : 0);
  sscanf(text, "%15s %15s %15s %31s", told.protocol, told.connection, told.session,
         told.certificate);
  return told;
}

static told ask(const weft_http_request *request) {
  weft_http_transfer *transfer = run(request);
  told told = read_told(transfer);
  weft_http_transfer_release(transfer);
  return told;
}

/* ---- HTTP/2 ---- */

static void test_version(void) {
  weft_http_request request = secure("/");
  check(strcmp(ask(&request).protocol, "HTTP/2.0") == 0, "HTTP/2 is preferred");
  request.no_http2 = 1;
  check(strcmp(ask(&request).protocol, "HTTP/1.1") == 0, "and can be turned off");
  request.no_http2 = 0;
  check(strcmp(ask(&request).protocol, "HTTP/2.0") == 0, "for one request");
}

static void test_few_connections(void) {
  enum { CALLS = 500 };
  static weft_http_transfer *transfers[CALLS];
  static char seen[CALLS][16];
  int connections = 0, good = 0;
  weft_http_request request = secure("/");
  weft_http_close_idle();
  for (int i = 0; i < CALLS; i++)
    transfers[i] = start(&request);
  for (int i = 0; i < CALLS; i++) {
    finish(transfers[i]);
    told told = read_told(transfers[i]);
    int known = 0;
    good += strcmp(told.protocol, "HTTP/2.0") == 0;
    for (int j = 0; j < connections; j++)
      known |= strcmp(seen[j], told.connection) == 0;
    if (!known)
      strcpy(seen[connections++], told.connection);
    weft_http_transfer_release(transfers[i]);
  }
  check(good == CALLS && connections <= (CALLS + 63) / 64, "%d calls over %d connections", good,
        connections);
}

/* A server that closes each connection after fifty requests says which it has not begun: those go
 * over another one, POST too. */
static void test_going_away(void) {
  enum { CALLS = 200 };
  static weft_http_transfer *transfers[CALLS];
  int good = 0, broken = 0;
  nginx_stop(&tls);
  if (!nginx_start(&tls, 50)) {
    check(0, "nginx could not be started again");
    return;
  }
  weft_http_request request = secure("/");
  request.method = weft_http_text_of("POST");
  request.body = weft_http_text_of("x");
  for (int i = 0; i < CALLS; i++)
    transfers[i] = start(&request);
  for (int i = 0; i < CALLS; i++) {
    finish(transfers[i]);
    weft_error *error = weft_http_error(transfers[i]);
    good += !error;
    broken += error && weft_http_failure_of(transfers[i])->code == 92; /* now and then in 7.88 */
    weft_http_transfer_release(transfers[i]);
  }
  check(good + broken == CALLS && good > CALLS / 2, "%d of %d POST over connections that end", good,
        CALLS);
}

/* ---- sessions and certificates ---- */

static void test_sessions(void) {
  int reused = 0;
  weft_http_request request = secure("/last");
  request.no_http2 = 1;
  for (int i = 0; i < 4; i++) {
    weft_http_transfer *transfer = run(&request);
    reused += body_is(transfer, "r");
    weft_http_transfer_release(transfer);
  }
  check(reused >= 3, "%d of 4 connections take a session up again", reused);
}

static void test_client_certificate(void) {
  weft_http_request request = secure("/"), known = request;
  known.cert_file = weft_http_text_of(tls.certificate);
  known.key_file = weft_http_text_of(tls.key);
  for (int i = 0; i < 2; i++) {
    check(strcmp(ask(&request).certificate, "NONE") == 0, "no certificate unless it is given");
    check(strcmp(ask(&known).certificate, "SUCCESS") == 0, "a client certificate");
  }
  weft_http_close_idle(); /* libcurl tells connections apart by the certificate, not by its key */
  known.key_file = weft_http_text_of("/no/such/key");
  expect_failure(&known, "tls", "key");
}

static void run_tests(void) {
  if (!nginx_start(&tls, 1000000)) {
    check(0, "nginx could not be started");
    return;
  }
  test_version();
  test_few_connections();
  test_sessions();
  test_client_certificate();
  test_going_away();
  nginx_stop(&tls);
  nginx_remove(&tls);
}

int main(void) {
  return run_all(run_tests);
}
