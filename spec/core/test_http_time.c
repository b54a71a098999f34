/* test_http_time.c: the times that a transfer may take, with a clock that the test moves, and what
 * libcurl must not send twice.
 *
 * The test plays the server. One test after the other on the main thread.
 */
#include "http_peer.h"

#include "clock.h"

/* ---- a clock that stands still until it is moved ---- */

static _Atomic uint64_t virtual_ns;

static uint64_t virtual_now_ns(void) {
  return atomic_load(&virtual_ns);
}

static void freeze(void) {
  static const weft_clock table = {virtual_now_ns};
  atomic_store(&virtual_ns, weft_clock_now_ns());
  weft_clock_set(&table);
}

static void advance(double seconds) {
  atomic_fetch_add(&virtual_ns, (uint64_t)(seconds * 1e9));
  weft_io_wake();
}

/* Until the engine has taken notice of all that has happened: a transfer more goes all the way. */
static void settle(void) {
  weft_http_request request = get("/ok");
  weft_http_transfer_release(run(&request));
}

/* The limit of one transfer passes at `seconds` and not before. */
static void expect_limit(weft_http_transfer *transfer, double seconds, const char *message) {
  settle();
  advance(seconds - 0.001);
  settle();
  int is_early = weft_http_is_finished(transfer);
  advance(0.001);
  finish(transfer);
  weft_error *error = weft_http_error(transfer);
  check(!is_early && is_kind(error, "timeout") && strstr(weft_error_message(error), message),
        "%s%s", is_early ? "too early: " : "", error ? weft_error_message(error) : "no error");
}

static const char *answer_head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";

/* ---- the limits ---- */

static void test_first_byte(void) {
  peer peer;
  char url[64];
  peer_open(&peer);
  weft_http_request request = peer_get(&peer, url, sizeof url, "/x");
  request.limits_ms[WEFT_HTTP_FIRST_BYTE] = 5000;
  request.limits_ms[WEFT_HTTP_IDLE] = 1000; /* does not count yet */
  weft_http_transfer *transfer = start(&request);
  int fd = peer_accept(&peer);
  peer_read(&peer, fd);
  expect_limit(transfer, 5, "first_byte took over 5 s; the request was sent and nothing had");
  const weft_http_failure *failure = weft_http_failure_of(transfer);
  check(failure->code == 28 && failure->expired == WEFT_HTTP_FIRST_BYTE && failure->is_sent &&
            failure->limit_ms == 5000 && failure->received == 0,
        "the failure says which limit it was");
  weft_http_transfer_release(transfer);
  close(fd);
  peer_close(&peer);
}

static void test_idle(void) {
  peer peer;
  char url[64];
  peer_open(&peer);
  weft_http_request request = peer_get(&peer, url, sizeof url, "/x");
  request.limits_ms[WEFT_HTTP_IDLE] = 2000;
  weft_http_transfer *transfer = start(&request);
  int fd = peer_accept(&peer), was_early = 0;
  peer_read(&peer, fd);
  settle();
  advance(60); /* before the answer nothing is idle */
  peer_write(fd, answer_head);
  for (int i = 0; i < 5; i++) { /* ten seconds, never two without a byte */
    settle();
    advance(1.999);
    settle();
    was_early |= weft_http_is_finished(transfer);
    peer_write(fd, "x");
    usleep(20000); /* the I/O thread reads it before the clock moves */
  }
  check(!was_early, "bytes that arrive in time keep it going");
  expect_limit(transfer, 2, "idle took over 2 s; status 200 and 5 bytes of the body had arrived");
  check(weft_http_failure_of(transfer)->received == 5, "and what had arrived is counted");
  weft_http_transfer_release(transfer);
  close(fd);
  peer_close(&peer);
}

static void test_attempt_and_total(void) {
  peer peer;
  char url[64];
  peer_open(&peer);
  weft_http_request request = peer_get(&peer, url, sizeof url, "/x");
  request.limits_ms[WEFT_HTTP_ATTEMPT] = 3000;
  request.limits_ms[WEFT_HTTP_TOTAL] = 10000;
  weft_http_transfer *transfer = start(&request);
  int fd = peer_accept(&peer);
  peer_read(&peer, fd);
  expect_limit(transfer, 3, "attempt took over 3 s");
  weft_http_transfer_release(transfer);
  request.limits_ms[WEFT_HTTP_TOTAL] = 2000;
  transfer = start(&request);
  expect_limit(transfer, 2, "total took over 2 s");
  weft_http_transfer_release(transfer);
  close(fd);
  peer_close(&peer);
}

/* The queue counts for the total alone. */
static void test_queue(void) {
  weft_http_request first = get("/never"), request = get("/never");
  weft_http_quota *quota = weft_http_quota_new(1, 0);
  first.quota = request.quota = quota;
  request.limits_ms[WEFT_HTTP_ATTEMPT] = 1000;
  request.limits_ms[WEFT_HTTP_CONNECT] = 1000;
  request.limits_ms[WEFT_HTTP_TOTAL] = 8000;
  weft_http_transfer *holder = start(&first);
  wait_until_held(1);
  weft_http_transfer *transfer = start(&request);
  expect_limit(transfer, 8, "total took over 8 s; it was still waiting for its turn");
  weft_http_transfer_release(transfer);
  weft_http_abort(holder);
  finish(holder);
  weft_http_transfer_release(holder);
  weft_http_quota_release(quota);
}

/* A listener whose queue of connections is full does not answer. */
static void test_connect(void) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fill[4];
  char url[64];
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 0) ||
      getsockname(listener, (struct sockaddr *)&address, &size))
    exit(2);
  for (int i = 0; i < 4; i++) {
    fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)!connect(fill[i], (struct sockaddr *)&address, size);
  }
  snprintf(url, sizeof url, "http://127.0.0.1:%d/", ntohs(address.sin_port));
  weft_http_request request = {.url = weft_http_text_of(url)};
  request.limits_ms[WEFT_HTTP_CONNECT] = 400000; /* longer than libcurl's own limit */
  weft_http_transfer *transfer = start(&request);
  expect_limit(transfer, 400, "connect took over 400 s; it was still connecting");
  check(!weft_http_failure_of(transfer)->is_sent, "nothing was sent");
  weft_http_transfer_release(transfer);
  for (int i = 0; i < 4; i++)
    close(fill[i]);
  close(listener);
}

/* ---- what may be sent twice ---- */

/* One request goes over a connection that is kept; the next one is read and the connection closed
 * without an answer. Returns whether it came again, on another connection, and was answered. */
static int comes_again(weft_http_request *request, weft_http_transfer **transfer) {
  static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  static peer peer;
  static char sent[sizeof peer.head];
  char url[64], asked[64];
  peer_open(&peer);
  weft_http_request first = peer_get(&peer, url, sizeof url, "/first");
  snprintf(asked, sizeof asked, "http://user:word@127.0.0.1:%d/asked?q=1", peer.port);
  weft_http_transfer *warm = start(&first);
  int fd = peer_accept(&peer), again = -1, came = 0;
  peer_read(&peer, fd);
  peer_write(fd, ok);
  finish(warm);
  weft_http_transfer_release(warm);
  request->url = weft_http_text_of(asked);
  *transfer = start(request);
  check(peer_read(&peer, fd), "the kept connection is used");
  memcpy(sent, peer.head, sizeof sent);
  check(strstr(sent, " /asked?q=1 ") && strstr(sent, "\r\nAuthorization: Basic "),
        "to the URL, with its credentials");
  peer_reset(fd);
  while (!weft_http_is_finished(*transfer) && !readable(peer.listener, 10))
    ;
  if (readable(peer.listener, 0) && (again = peer_accept(&peer)) >= 0 &&
      (came = peer_read(&peer, again))) {
    check(strcmp(peer.head, sent) == 0, "the same request comes again");
    peer_write(again, ok);
  }
  finish(*transfer);
  if (again >= 0)
    close(again);
  peer_close(&peer);
  return came;
}

static void test_repeated(void) {
  static const weft_http_header key = HEADER("idempotency-key", "k1");
  const struct {
    const char *method;
    const weft_http_header *header;
    int is_repeated;
  } cases[] = {{"GET", NULL, 1},  {"PUT", NULL, 1},   {"DELETE", NULL, 1},
               {"POST", NULL, 0}, {"PATCH", NULL, 0}, {"POST", &key, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weft_http_request request = {.method = weft_http_text_of(cases[i].method),
                                 .headers = cases[i].header,
                                 .header_count = cases[i].header != NULL};
    weft_http_transfer *transfer;
    if (*cases[i].method == 'P')
      request.body = weft_http_text_of("body");
    int came = comes_again(&request, &transfer);
    weft_error *error = weft_http_error(transfer);
    int ended_well = cases[i].is_repeated
                         ? body_is(transfer, "ok")
                         : is_kind(error, "network") &&
                               strstr(weft_error_message(error), "not sent again") &&
                               weft_http_failure_of(transfer)->code == 52 &&
                               weft_http_failure_of(transfer)->is_sent;
    check(came == cases[i].is_repeated && ended_well, "%s%s: %s", cases[i].method,
          cases[i].header ? " with a key" : "",
          error ? weft_error_message(error) : "it was sent again");
    weft_http_transfer_release(transfer);
  }
}

/* Whether the server wants the body is never asked: it comes along, however long it is. */
static void test_no_expect(void) {
  static const size_t sizes[] = {0, 1024, 1025, 2 << 20};
  static peer peer;
  char url[64], *body = calloc(1, 2 << 20);
  peer_open(&peer);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    weft_http_request request = peer_get(&peer, url, sizeof url, "/");
    request.method = weft_http_text_of("POST");
    request.body = (weft_http_text){body, sizes[i]};
    weft_http_transfer *transfer = start(&request);
    int fd = peer_accept(&peer);
    check(peer_read(&peer, fd) && strncmp(peer.head, "POST / ", 7) == 0 &&
              !strcasestr(peer.head, "\r\nExpect:"),
          "no Expect before a body of %zu bytes", sizes[i]);
    weft_http_abort(transfer);
    finish(transfer);
    weft_http_transfer_release(transfer);
    close(fd);
  }
  peer_close(&peer);
  free(body);
}

/* A connection that is known to be closed before anything was sent is no reason to fail. */
static void test_closed_while_idle(void) {
  weft_http_request request = get("/ok");
  request.method = weft_http_text_of("POST");
  weft_http_transfer_release(run(&request));
  server->close_all = 1;
  while (server->open)
    usleep(1000);
  weft_http_transfer *transfer = run(&request);
  check(body_is(transfer, "ok"), "POST after the server has closed the idle connection");
  weft_http_transfer_release(transfer);
}

static void run_tests(void) {
  test_repeated();
  test_no_expect();
  test_closed_while_idle();

  freeze();
  test_first_byte();
  test_idle();
  test_attempt_and_total();
  test_queue();
  test_connect();
  weft_clock_set(NULL);
}

int main(void) {
  return run_all(run_tests);
}
