/* test_http.c: the HTTP engine against a server in the same process, and TLS against openssl s_server.
 *
 * Owns the server, and everything that it starts. One test after the other on the main thread. Needs
 * -lcurl -lz, and the openssl program for TLS. Prints "ok …" or "not ok …" lines and ends with the totals;
 * fails when one check failed.
 */
#include "http.h"

#include "context.h"
#include "error.h"
#include "http_fixture.h"
#include "io.h"
#include "mem.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/wait.h>

#if defined(__SANITIZE_THREAD__)
enum { UNDER_TSAN = 1 };
#else
enum { UNDER_TSAN = 0 };
#endif

enum { MANY = 2000 };

static int passed, failed;
static fixture *server;
static const char *program;

static void check(int ok, const char *format, ...) {
  char what[512];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  printf("%s %d: %s\n", ok ? "ok" : "not ok", ++*(ok ? &passed : &failed), what);
}

/* ---- helpers ---- */

/* Valid until four more were made. */
static const char *url_of(const char *path) {
  static char urls[4][128];
  static unsigned next;
  char *url = urls[next++ % 4];
  snprintf(url, sizeof urls[0], "http://127.0.0.1:%d%s", server->port, path);
  return url;
}

static weft_http_request get(const char *path) {
  return (weft_http_request){.url = weft_http_text_of(url_of(path))};
}

static weft_http_transfer *start(const weft_http_request *request) {
  weft_error *error = NULL;
  weft_http_transfer *transfer = weft_http_transfer_new(request, &error);
  if (!transfer || weft_http_start(transfer) != WEFT_OK) {
    printf("not started: %s\n", error ? weft_error_message(error) : "no thread");
    exit(2);
  }
  return transfer;
}

static void finish(weft_http_transfer *transfer) {
  weft_thread_wait party;
  weft_waiter waiter;
  weft_thread_wait_init(&party);
  weft_waiter_init(&waiter, &party.wait, 0);
  if (weft_http_wait(transfer, &waiter))
    weft_thread_wait_block(&party);
  else
    weft_thread_wait_drop(&party);
}

static weft_http_transfer *run(const weft_http_request *request) {
  weft_http_transfer *transfer = start(request);
  finish(transfer);
  return transfer;
}

static int body_is(weft_http_transfer *transfer, const char *expected) {
  weft_http_text body = weft_http_body(transfer);
  return body.size == strlen(expected) &&
         (!body.size || memcmp(body.bytes, expected, body.size) == 0);
}

static int is_kind(weft_error *error, const char *kind) {
  return error && strcmp(weft_error_kind(error), kind) == 0;
}

/* Runs a request that must fail: its kind, and a part of its message. */
static void expect_failure(const weft_http_request *request, const char *kind, const char *part) {
  weft_http_transfer *transfer = run(request);
  weft_error *error = weft_http_error(transfer);
  int ok = is_kind(error, kind) && strstr(weft_error_message(error), part) &&
           !strchr(weft_error_message(error), '\n') && weft_http_body(transfer).size == 0;
  check(ok, "%s: %s", error ? weft_error_kind(error) : "no error",
        error ? weft_error_message(error) : part);
  weft_http_transfer_release(transfer);
}

static void expect_invalid(const weft_http_request *request, const char *part) {
  weft_error *error = NULL;
  weft_http_transfer *transfer = weft_http_transfer_new(request, &error);
  check(!transfer && is_kind(error, "invalid") && strstr(weft_error_message(error), part) &&
            !strstr(weft_error_message(error), "SECRET"),
        "%s", error ? weft_error_message(error) : "accepted");
  weft_http_transfer_release(transfer);
  weft_error_release(error);
}

static int wait_until_held(long count) {
  double until = seconds_now() + 20;
  while (server->held != count && seconds_now() < until)
    usleep(2000);
  return server->held == count;
}

static int open_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  while (readdir(folder))
    count++;
  closedir(folder);
  return count;
}

/* Also what the last transfer's end leaves to the I/O thread for a moment. */
static int all_gone(void) {
  weft_stats stats;
  weft_http_stats http;
  double until = seconds_now() + 5;
  do {
    weft_stats_read(&stats);
    weft_http_stats_read(&http);
    if (!stats.transfers && !stats.errors && !stats.timers && !http.in_flight && !http.queued)
      return 1;
    usleep(1000);
  } while (seconds_now() < until);
  printf("# %u transfers, %u errors, %u timers, %u in flight, %u queued\n", stats.transfers,
         stats.errors, stats.timers, http.in_flight, http.queued);
  return 0;
}

/* ---- requests and answers ---- */

static void test_get(void) {
  weft_http_request request = get("/ok?key=1");
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  const weft_http_times *times = weft_http_times_of(transfer);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 200 && body_is(transfer, "ok"),
        "GET brings status and body");
  check(strncmp(sent, "GET /ok?key=1 HTTP/1.1\r\n", 24) == 0 && !strstr(sent, "Expect") &&
            !strstr(sent, "Accept-Encoding") && strstr(sent, "User-Agent: weft/"),
        "GET sends what it should");
  check(times->total_ns >= times->first_byte_ns && times->first_byte_ns >= times->connected_ns &&
            times->connected_ns >= times->launched_ns && times->received == 2,
        "times are in order");
  free(sent);
  weft_http_transfer_release(transfer);
}

static void test_post(void) {
  weft_http_header headers[] = {
      {weft_http_text_of("Content-Type"), weft_http_text_of("application/json")},
      {weft_http_text_of("X-Empty"), weft_http_text_of("")},
      {weft_http_text_of("X-Blank"), weft_http_text_of(" in the middle ")},
  };
  weft_http_request request = get("/ok");
  request.method = weft_http_text_of("post");
  request.headers = headers;
  request.header_count = 3;
  request.body = (weft_http_text){"{\"a\":\0 1}", 9};
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(!weft_http_error(transfer) && strncmp(sent, "POST /ok ", 9) == 0 &&
            strstr(sent, "\r\nContent-Length: 9\r\n") &&
            strstr(sent, "\r\nContent-Type: application/json\r\n") &&
            strstr(sent, "\r\nX-Empty:\r\n") && strstr(sent, "\r\nX-Blank: in the middle\r\n"),
        "POST sends headers and a body of bytes");
  check(weft_http_times_of(transfer)->sent == 9, "bytes sent are counted");
  free(sent);
  weft_http_transfer_release(transfer);
}

static void test_methods(void) {
  static const char *const methods[] = {"PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "QUERY", "POST"};
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    weft_http_request request = get("/ok");
    request.method = weft_http_text_of(methods[i]);
    weft_http_transfer *transfer = run(&request);
    char *sent = fixture_last(server);
    int has_length = strstr(sent, "Content-Length: 0") != NULL;
    int ok = !weft_http_error(transfer) && weft_http_status(transfer) == 200 &&
             strncmp(sent, methods[i], strlen(methods[i])) == 0 && !strstr(sent, "Content-Type") &&
             has_length == (*methods[i] == 'P');
    check(ok && body_is(transfer, strcmp(methods[i], "HEAD") ? "ok" : ""), "%s without a body",
          methods[i]);
    free(sent);
    weft_http_transfer_release(transfer);
  }
}

static void test_large_body(void) {
  enum { SIZE = 900000 };
  char *bytes = malloc(SIZE);
  memset(bytes, 'b', SIZE);
  weft_http_request request = get("/size/3000000");
  request.method = weft_http_text_of("PUT");
  request.body = (weft_http_text){bytes, SIZE};
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(!weft_http_error(transfer) && weft_http_body(transfer).size == 3000000 &&
            strlen(sent) > SIZE && strcmp(sent + strlen(sent) - 4, "bbbb") == 0,
        "900 kB go up, 3 MB come down");
  free(sent);
  free(bytes);
  weft_http_transfer_release(transfer);
}

static void test_status(void) {
  weft_http_request request = get("/status/503");
  weft_http_transfer *transfer = run(&request);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 503,
        "a status of 503 is an answer, not an error");
  weft_http_transfer_release(transfer);
}

static void test_headers(void) {
  weft_http_request request = get("/odd");
  weft_http_transfer *transfer = run(&request);
  weft_http_header header;
  weft_http_text value;
  size_t position = 0;
  char all[512] = "";
  while (weft_http_next_header(transfer, &position, &header))
    sprintf(all + strlen(all), "%.*s=%.*s|", (int)header.name.size, header.name.bytes,
            (int)header.value.size, header.value.bytes);
  check(weft_http_status(transfer) == 200 && body_is(transfer, "abc") &&
            strcmp(all, "X-Two=a|X-Two=b|X-Empty=|X-Folded=one two|Transfer-Encoding=chunked|"
                        "Trailer=X-Late|") == 0,
        "headers: twice, empty, folded; no interim answer's, no trailers: %s", all);
  check(weft_http_find_header(transfer, "x-two", &value) && value.size == 1 &&
            !weft_http_find_header(transfer, "X-Late", &value),
        "a header is found in any case");
  weft_http_transfer_release(transfer);
}

static void test_coding(void) {
  weft_http_request request = get("/gzip");
  request.decompress = 1;
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(body_is(transfer, "unpacked") && strstr(sent, "Accept-Encoding: "), "gzip is unpacked");
  free(sent);
  weft_http_transfer_release(transfer);
  request = get("/gzip");
  transfer = run(&request);
  check(weft_http_body(transfer).size > 2 && weft_http_body(transfer).bytes[0] == 0x1f,
        "without the flag it stays packed");
  weft_http_transfer_release(transfer);
}

/* ---- refused before anything is sent ---- */

static weft_http_request with_header(weft_http_text name, weft_http_text value) {
  static weft_http_header header;
  weft_http_request request = get("/ok");
  header = (weft_http_header){name, value};
  request.headers = &header;
  request.header_count = 1;
  return request;
}

static void test_invalid_headers(void) {
  static const weft_http_text bad[] = {{"SECRET\r\nX: y", 12}, {"SECRET\nX", 8}, {"SECRET\0X", 8}};
  for (int i = 0; i < 3; i++) {
    weft_http_request request = with_header(weft_http_text_of("Authorization"), bad[i]);
    expect_invalid(&request, "header 1 has a line break or a NUL in its value");
    request = with_header(bad[i], weft_http_text_of("v"));
    expect_invalid(&request, "header 1 has an invalid name");
  }
  static const char *const names[] = {"", "A B", "A:", "Kopf\xc3\xa4"};
  for (int i = 0; i < 4; i++) {
    weft_http_request request = with_header(weft_http_text_of(names[i]), weft_http_text_of("v"));
    expect_invalid(&request, "header 1 has an invalid name");
  }
  weft_http_request request =
      with_header(weft_http_text_of("content-length"), weft_http_text_of("5"));
  expect_invalid(&request, "leave it out");
  char *large = calloc(1, 600 << 10);
  memset(large, 'S', (600 << 10) - 1);
  request = with_header(weft_http_text_of("X"), weft_http_text_of(large));
  expect_invalid(&request, "larger than 512 KiB");
  free(large);
}

static void test_invalid_urls(void) {
  static const char *const urls[] = {
      "",           "ftp://h/SECRET",    "file:///etc/passwd", "h/x", "http://", "http://h:99999/",
      "http://h/a b", "http://h/a\r\nX: SECRET", "http:/h",      "gopher://h"};
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    weft_http_request request = {.url = weft_http_text_of(urls[i])};
    expect_invalid(&request, "URL");
  }
  weft_http_request request = {.url = {"http://h/\0SECRET", 16}};
  expect_invalid(&request, "NUL");
  request = get("/ok");
  request.method = weft_http_text_of("GET /SECRET HTTP/1.1\r\n");
  expect_invalid(&request, "method");
  request.method = weft_http_text_of("HEAD");
  request.body = weft_http_text_of("SECRET");
  expect_invalid(&request, "no body");
}

/* ---- failures ---- */

static void test_ceilings(void) {
  weft_http_request request = get("/size/100000");
  request.max_body = 99999;
  expect_failure(&request, "too_large", "max_body (99999 bytes)");
  request.max_body = 100000;
  weft_http_transfer *transfer = run(&request);
  check(weft_http_body(transfer).size == 100000, "a body of exactly max_body passes");
  weft_http_transfer_release(transfer);
  request = get("/bomb");
  request.decompress = 1;
  request.max_body = 1 << 20;
  expect_failure(&request, "too_large", "max_body");
  request = get("/headers/20");
  request.max_header = 10000;
  expect_failure(&request, "too_large", "max_header (10000 bytes)");
  request = get("/longline/120");
  expect_failure(&request, "too_large", "one of the answer's headers");
}

static void test_failures(void) {
  int unused_port;
  int listener = listen_somewhere(&unused_port);
  char url[64];
  close(listener);
  snprintf(url, sizeof url, "http://u:SECRET@127.0.0.1:%d/p?key=SECRET", unused_port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  char where[64];
  snprintf(where, sizeof where, "GET http://127.0.0.1:%d/p: ", unused_port);
  expect_failure(&request, "network", where);
  request = get("/reset/0");
  expect_failure(&request, "network", "/reset/0");
  request = get("/reset/1");
  expect_failure(&request, "network", "(curl 56)");
  request = get("/truncate");
  expect_failure(&request, "network", "(curl 18)");
  request = get("/garbage");
  expect_failure(&request, "protocol", "/garbage");
  request = (weft_http_request){.url = weft_http_text_of("http://nowhere.invalid/")};
  expect_failure(&request, "network", "nowhere.invalid");
}

static void test_no_descriptors(void) {
  struct rlimit usual, none;
  weft_http_request request = get("/ok");
  weft_http_close_idle();
  getrlimit(RLIMIT_NOFILE, &usual);
  none = usual;
  none.rlim_cur = 3;
  setrlimit(RLIMIT_NOFILE, &none);
  expect_failure(&request, "network", "ulimit -n");
  setrlimit(RLIMIT_NOFILE, &usual);
  weft_http_transfer *transfer = run(&request);
  check(body_is(transfer, "ok"), "and it recovers");
  weft_http_transfer_release(transfer);
}

static void test_timeout(void) {
  weft_http_request request = get("/never");
  request.timeout_ms = 100;
  double began = seconds_now();
  expect_failure(&request, "timeout", "timed out after 100 ms, before the answer began");
  double took = seconds_now() - began;
  check(took >= 0.099 && took < 2, "it took %.3f s", took);
  weft_http_set_limit(1);
  weft_http_request first = get("/never");
  weft_http_transfer *transfer = start(&first);
  expect_failure(&request, "timeout", "in the queue");
  weft_http_set_limit(WEFT_HTTP_LIMIT);
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
}

/* ---- many ---- */

static void start_all(weft_http_transfer **transfers, int count, const char *path) {
  weft_http_request request = get(path);
  for (int i = 0; i < count; i++)
    transfers[i] = start(&request);
}

/* Returns how many brought an answer with status 200. */
static int finish_all(weft_http_transfer **transfers, int count) {
  int good = 0;
  for (int i = 0; i < count; i++) {
    finish(transfers[i]);
    good += !weft_http_error(transfers[i]) && weft_http_status(transfers[i]) == 200;
    weft_http_transfer_release(transfers[i]);
  }
  return good;
}

/* All are in flight at once before the first is answered. */
static int hold_and_answer(weft_http_transfer **transfers, int count) {
  start_all(transfers, count, "/never");
  int all_held = wait_until_held(count);
  server->answer_all = 1;
  return finish_all(transfers, count) == count && all_held;
}

static void test_thousand(void) {
  static weft_http_transfer *transfers[1000];
  weft_http_stats stats;
  weft_http_close_idle();
  long before = server->accepted;
  check(hold_and_answer(transfers, 1000), "1,000 transfers in flight at once");
  weft_http_stats_read(&stats);
  check(stats.shards == 16 && stats.handles == 1000 && server->accepted - before == 1000,
        "%u shards, %u handles, %ld connections", stats.shards, stats.handles,
        server->accepted - before);
  before = server->accepted;
  check(hold_and_answer(transfers, 1000) && server->accepted == before,
        "1,000 more open %ld connections", server->accepted - before);
}

static void test_keep_alive(void) {
  weft_http_request request = get("/ok");
  long before = server->accepted;
  int reused = 0;
  for (int i = 0; i < 100; i++) {
    weft_http_transfer *transfer = run(&request);
    reused += weft_http_times_of(transfer)->is_reused;
    weft_http_transfer_release(transfer);
  }
  check(server->accepted == before && reused == 100, "100 in a row use one open connection");
}

/* The server closes an idle connection: the next request opens a new one, and does not fail. */
static void test_stale_connection(void) {
  weft_http_close_idle();
  weft_http_request request = get("/ok"), last = get("/ok");
  weft_http_transfer *transfer = run(&request);
  weft_http_transfer_release(transfer);
  server->close_all = 1;
  while (server->close_all)
    usleep(1000);
  usleep(20000);
  transfer = run(&last);
  check(!weft_http_error(transfer) && !weft_http_times_of(transfer)->is_reused,
        "a connection that the server closed is not used again");
  weft_http_transfer_release(transfer);
}

static void test_limit(void) {
  static weft_http_transfer *transfers[50];
  weft_http_set_limit(5);
  server->max_held = 0;
  start_all(transfers, 50, "/wait/10");
  weft_http_abort(transfers[40]);
  int good = finish_all(transfers, 50);
  check(good == 49 && server->max_held == 5,
        "a limit of 5 holds (%ld), an abort leaves the queue in order", server->max_held);
  weft_http_set_limit(1);
  start_all(transfers, 50, "/never");
  int one_held = wait_until_held(1);
  weft_http_set_limit(WEFT_HTTP_LIMIT);
  check(one_held && wait_until_held(50), "a higher limit lets those in the queue go");
  weft_http_close_idle();
  server->answer_all = 1;
  check(finish_all(transfers, 50) == 50, "close_idle does not touch what is in flight");
}

static void test_abort(void) {
  static weft_http_transfer *transfers[MANY];
  start_all(transfers, MANY, "/never");
  int all_held = wait_until_held(MANY);
  double began = seconds_now();
  int canceled = 0;
  for (int i = 0; i < MANY; i++)
    weft_http_abort(transfers[i]);
  double asked = seconds_now() - began;
  for (int i = 0; i < MANY; i++) {
    finish(transfers[i]);
    canceled += is_kind(weft_http_error(transfers[i]), "canceled");
    weft_http_transfer_release(transfers[i]);
  }
  check(all_held && canceled == MANY, "%d aborts of transfers in flight: %.1f ms to ask, %.1f in all",
        MANY, asked * 1e3, (seconds_now() - began) * 1e3);
  check(wait_until_held(0), "the server sees them all go");
}

static void test_abort_odd_moments(void) {
  weft_error *error = NULL;
  weft_http_request request = get("/ok");
  weft_http_transfer *transfer = weft_http_transfer_new(&request, &error);
  weft_http_abort(transfer);
  check(weft_http_is_finished(transfer) && is_kind(weft_http_error(transfer), "canceled") &&
            weft_http_start(transfer) == WEFT_OK,
        "an abort before the start ends it; a start is then harmless");
  weft_http_transfer_release(transfer);
  transfer = start(&request);
  check(weft_http_start(transfer) == WEFT_CLOSED, "a second start is refused");
  finish(transfer);
  weft_http_abort(transfer);
  check(!weft_http_error(transfer), "an abort after the end changes nothing");
  weft_http_transfer_release(transfer);
  for (int i = 0; i < 300; i++) {
    transfer = start(&request);
    if (i % 3)
      usleep((useconds_t)(i % 50) * 10);
    weft_http_abort(transfer);
    weft_http_abort(transfer);
    if (i % 2)
      finish(transfer);
    weft_http_transfer_release(transfer);
  }
  check(all_gone(), "aborts at any moment, waited for or not, leave nothing");
}

typedef struct starter {
  pthread_t thread;
  int good;
} starter;

static void *start_many(void *arg) {
  starter *self = arg;
  char url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%d/ok", server->port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  for (int i = 0; i < 100; i++) {
    weft_http_transfer *transfer = start(&request);
    if (i % 10 == 9)
      weft_http_abort(transfer);
    finish(transfer);
    self->good += weft_http_error(transfer) || body_is(transfer, "ok");
    weft_http_transfer_release(transfer);
  }
  return NULL;
}

static void test_threads(void) {
  starter starters[8] = {0};
  int good = 0;
  for (int i = 0; i < 8; i++)
    pthread_create(&starters[i].thread, NULL, start_many, &starters[i]);
  for (int i = 0; i < 8; i++) {
    pthread_join(starters[i].thread, NULL);
    good += starters[i].good;
  }
  check(good == 800, "8 threads start, abort and wait");
}

/* ---- nothing of one request reaches the next on the same handle ---- */

typedef struct variant {
  const char *path, *method, *credentials;
  weft_http_header header;
  const char *body;
  uint32_t timeout_ms;
  size_t max_body, max_header;
  int decompress, is_aborted, fails;
} variant;

#define HEADER(name, value) {{name, sizeof name - 1}, {value, sizeof value - 1}}
static const variant variants[] = {
    {.path = "/ok"},
    {.path = "/ok?secret=1", .header = HEADER("Authorization", "Bearer one")},
    {.path = "/ok", .credentials = "user:pass@"},
    {.path = "/ok", .method = "POST", .body = "first body", .header = HEADER("X-Key", "two")},
    {.path = "/ok", .method = "POST", .header = HEADER("Content-Type", "text/x")},
    {.path = "/ok", .method = "DELETE", .body = "del", .timeout_ms = 9000},
    {.path = "/ok", .method = "HEAD"},
    {.path = "/size/9", .method = "OPTIONS", .max_body = 9, .max_header = 500},
    {.path = "/gzip", .decompress = 1, .header = HEADER("Host", "other.test")},
    {.path = "/size/99", .method = "PUT", .body = "x", .max_body = 9, .fails = 1},
    {.path = "/never", .method = "PURGE", .timeout_ms = 20, .decompress = 1, .fails = 1},
    {.path = "/never", .method = "POST", .body = "gone", .is_aborted = 1, .fails = 1},
    {.path = "/truncate", .credentials = "a:b@", .fails = 1},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

/* Runs it; returns what the server received, which the caller frees; NULL when it went wrong. */
static char *run_variant(const variant *v) {
  char url[256];
  snprintf(url, sizeof url, "http://%s127.0.0.1:%d%s", v->credentials ? v->credentials : "",
           server->port, v->path);
  weft_http_request request = {.url = weft_http_text_of(url),
                               .headers = &v->header,
                               .header_count = v->header.name.size != 0,
                               .timeout_ms = v->timeout_ms,
                               .max_body = v->max_body,
                               .max_header = v->max_header,
                               .decompress = (uint8_t)v->decompress};
  if (v->method)
    request.method = weft_http_text_of(v->method);
  if (v->body)
    request.body = weft_http_text_of(v->body);
  weft_http_transfer *transfer = start(&request);
  if (v->is_aborted) {
    usleep(2000);
    weft_http_abort(transfer);
  }
  finish(transfer);
  int went_wrong = !v->fails != !weft_http_error(transfer);
  weft_http_transfer_release(transfer);
  return went_wrong ? NULL : fixture_last(server);
}

static void test_no_leak_between(void) {
  char *expected[VARIANTS];
  int differ = 0;
  weft_http_stats stats;
  for (int i = 0; i < VARIANTS; i++) {
    weft_http_close_idle();
    expected[i] = run_variant(&variants[i]);
  }
  weft_http_close_idle();
  for (int i = 0; i < VARIANTS; i++)
    for (int j = 0; j < VARIANTS; j++) {
      free(run_variant(&variants[i]));
      char *sent = run_variant(&variants[j]);
      int same = sent && expected[j] && (variants[j].fails || strcmp(sent, expected[j]) == 0);
      if (!same && ++differ < 4)
        printf("# %d then %d\n--- alone\n%s\n--- after\n%s\n", i, j, expected[j], sent);
      free(sent);
    }
  weft_http_stats_read(&stats);
  check(differ == 0 && stats.handles == 1,
        "%d pairs of requests on %u handle: the second is as if it were the first", VARIANTS * VARIANTS,
        stats.handles);
  for (int i = 0; i < VARIANTS; i++)
    free(expected[i]);
}

/* ---- names: an abort does not wait for the resolver ---- */

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (node && strcmp(node, "slow.test") == 0) {
    usleep(700000);
    return EAI_NONAME;
  }
  if (!real)
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(node, service, hints, out);
}

static void test_slow_resolver(void) {
  weft_http_request slow = {.url = weft_http_text_of("http://slow.test/"), .timeout_ms = 50};
  double began = seconds_now();
  expect_failure(&slow, "timeout", "while connecting");
  weft_http_request request = get("/ok");
  weft_http_transfer *transfer = run(&request);
  double took = seconds_now() - began;
  check(body_is(transfer, "ok") && took < 0.5,
        "a name that takes 0.7 s to look up holds nobody up (%.3f s)", took);
  weft_http_transfer_release(transfer);
  usleep(900000); /* until the resolver's thread has ended */
}

/* ---- perform ---- */

static void test_perform(void) {
  weft_http_transfer *transfer = NULL;
  weft_http_request request = get("/ok");
  weft_error *error = weft_http_perform(weft_background(), &request, &transfer);
  check(!error && body_is(transfer, "ok"), "perform brings the answer");
  weft_http_transfer_release(transfer);
  request = get("/truncate");
  error = weft_http_perform(weft_background(), &request, &transfer);
  check(is_kind(error, "network") && !transfer, "perform returns the transfer's error");
  weft_error_release(error);
  weft_context *context = weft_context_with_timeout(weft_background(), 0.05, NULL);
  request = get("/never");
  error = weft_http_perform(context, &request, &transfer);
  check(is_kind(error, "deadline") && !transfer, "perform ends with its context");
  weft_error_release(error);
  error = weft_http_perform(context, &request, &transfer);
  check(is_kind(error, "deadline") && wait_until_held(0), "perform in a context that is done");
  weft_error_release(error);
  weft_context_release(context);
}

/* ---- proxies: read once, so in processes of their own ---- */

static void start_server(void) {
  static const char *const variables[] = {"http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY",
                                          "ALL_PROXY",  "no_proxy",    "NO_PROXY"};
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
    unsetenv(variables[i]);
  server = fixture_start();
  weft_io_start();
}

static int thread_count(void) {
  DIR *folder = opendir("/proc/self/task");
  struct dirent *entry;
  int count = 0;
  while ((entry = readdir(folder)))
    count += *entry->d_name != '.';
  closedir(folder);
  return count;
}

/* Until the thread itself is gone: OpenSSL cleans up after threads, and at exit, without a lock. */
static void stop_io(void) {
  double until = seconds_now() + 2;
  weft_io_stop(2000);
  while (!UNDER_TSAN && thread_count() > 1 && seconds_now() < until)
    usleep(1000);
  if (UNDER_TSAN) /* it has a thread of its own */
    usleep(100000);
}

/* The program's other role: one GET, and an exit code of 0 when an answer came. */
static int get_one(const char *url) {
  weft_http_request request = {.url = weft_http_text_of(url)};
  weft_http_transfer *transfer = run(&request);
  int has_failed = weft_http_error(transfer) != NULL;
  weft_http_transfer_release(transfer);
  weft_http_close_idle();
  stop_io();
  return has_failed;
}

static int exit_code_of(const char *variable, const char *no_proxy) {
  char proxy[64];
  snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", server->port);
  pid_t child = fork();
  if (child == 0) {
    setenv(variable, proxy, 1);
    setenv("no_proxy", no_proxy, 1);
    execl(program, program, "http://proxied.invalid/ok?a=b", (char *)NULL);
    _exit(127);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_proxies(void) {
  int through = exit_code_of("http_proxy", "");
  char *sent = fixture_last(server);
  check(through == 0 && strncmp(sent, "GET http://proxied.invalid/ok?a=b HTTP/1.1\r\n", 44) == 0,
        "http_proxy is used");
  free(sent);
  check(exit_code_of("all_proxy", "") == 0, "all_proxy is used");
  check(exit_code_of("http_proxy", "proxied.invalid") == 1, "no_proxy makes an exception");
  check(exit_code_of("HTTP_PROXY", "") == 1, "HTTP_PROXY in capitals is not read");
}

/* ---- TLS ---- */

typedef struct tls_server {
  pid_t process;
  int port;
  char folder[64], certificate[96], key[96];
} tls_server;

static int make_certificate(tls_server *tls) {
  char command[512];
  strcpy(tls->folder, "/tmp/weft-http-XXXXXX");
  if (!mkdtemp(tls->folder))
    return 0;
  snprintf(tls->certificate, sizeof tls->certificate, "%s/cert.pem", tls->folder);
  snprintf(tls->key, sizeof tls->key, "%s/key.pem", tls->folder);
  snprintf(command, sizeof command,
           "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
           "-addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s 2>/dev/null",
           tls->key, tls->certificate);
  return system(command) == 0;
}

/* Reads the port from the line "ACCEPT 127.0.0.1:port". */
static int read_port(int fd) {
  char text[256];
  size_t size = 0;
  const char *found = NULL;
  while (size < sizeof text - 1 && !(found && strchr(found, '\n'))) {
    ssize_t got = read(fd, text + size, sizeof text - 1 - size);
    if (got <= 0)
      return 0;
    text[size += (size_t)got] = '\0';
    found = strstr(text, "127.0.0.1:");
  }
  return found ? atoi(found + 10) : 0;
}

static int start_tls(tls_server *tls) {
  int out[2];
  if (!make_certificate(tls) || pipe(out))
    return 0;
  tls->process = fork();
  if (tls->process == 0) {
    dup2(out[1], 1);
    if (!freopen("/dev/null", "w", stderr))
      _exit(127);
    close(out[0]);
    execlp("openssl", "openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-cert",
           tls->certificate, "-key", tls->key, (char *)NULL);
    _exit(127);
  }
  close(out[1]);
  tls->port = read_port(out[0]);
  close(out[0]);
  return tls->port;
}

static void stop_tls(tls_server *tls) {
  kill(tls->process, SIGTERM);
  waitpid(tls->process, NULL, 0);
  unlink(tls->certificate);
  unlink(tls->key);
  rmdir(tls->folder);
}

static void test_tls(void) {
  tls_server tls = {0};
  char url[64];
  if (!start_tls(&tls)) {
    check(0, "openssl could not be started");
    return;
  }
  snprintf(url, sizeof url, "https://127.0.0.1:%d/", tls.port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  expect_failure(&request, "tls", "set ca_file");
  request.ca_file = weft_http_text_of(tls.certificate);
  weft_http_transfer *transfer = run(&request);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 200, "accepted with ca_file");
  weft_http_transfer_release(transfer);
  request.ca_file = (weft_http_text){NULL, 0};
  expect_failure(&request, "tls", "set ca_file");
  request.ca_file = weft_http_text_of("/no/such/file");
  expect_failure(&request, "tls", "ca_file");
  snprintf(url, sizeof url, "https://localhost:%d/", tls.port);
  request.url = weft_http_text_of(url);
  request.ca_file = weft_http_text_of(tls.certificate);
  expect_failure(&request, "tls", "https://localhost:");
  stop_tls(&tls);
}

/* ---- memory and forks ---- */

static weft_error *post_something(weft_http_transfer **transfer) {
  weft_http_header header = HEADER("X-Key", "value");
  weft_http_request request = get("/size/3000");
  request.method = weft_http_text_of("POST");
  request.headers = &header;
  request.header_count = 1;
  request.body = weft_http_text_of("body");
  request.timeout_ms = 20000;
  return weft_http_perform(weft_background(), &request, transfer);
}

static void test_no_memory(void) {
  int failures = 0, wrong = 0, is_through = 0, n = 0;
  while (!is_through && n < 200) {
    weft_http_transfer *transfer = NULL;
    if (n % 2)
      weft_http_close_idle(); /* with and without handles that are there already */
    weft_mem_fail_at((uint64_t)++n);
    weft_error *error = post_something(&transfer);
    is_through = weft_mem_fail_at(0) < (uint64_t)n && n % 2 == 0;
    failures += error != NULL;
    wrong += error ? !is_kind(error, "nomem") : weft_http_body(transfer).size != 3000;
    if (error && !is_kind(error, "nomem"))
      printf("# %d: %s\n", n, weft_error_message(error));
    weft_error_release(error);
    weft_http_transfer_release(transfer);
  }
  check(is_through && wrong == 0 && failures > 5,
        "each of %d allocations failed in turn: %d clean errors", n, failures);
  check(all_gone(), "and nothing is left of them");
}

static int in_child(weft_http_transfer *of_parent) {
  weft_http_transfer *transfer = NULL;
  finish(of_parent);
  if (!is_kind(weft_http_error(of_parent), "canceled"))
    return 1;
  weft_http_transfer_release(of_parent);
  weft_http_request request = get("/ok");
  weft_error *error = weft_http_perform(weft_background(), &request, &transfer);
  if (error || !body_is(transfer, "ok") || weft_http_times_of(transfer)->is_reused)
    return 2;
  weft_http_transfer_release(transfer);
  weft_http_close_idle();
  return 0;
}

static void test_fork(void) {
  if (UNDER_TSAN) /* it does not follow threads into children */
    return;
  weft_http_request request = get("/never"), quick = get("/ok");
  weft_http_transfer *transfer = start(&request);
  wait_until_held(1);
  pid_t child = fork();
  if (child == 0) {
    int problem = in_child(transfer);
    if (!problem)
      raise(SIGKILL); /* no leak check shall look at what a fork leaves behind */
    _exit(problem);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
        "in a child of fork the engine starts anew (status %d)", status);
  weft_http_transfer *next = run(&quick);
  check(body_is(next, "ok") && !weft_http_is_finished(transfer), "and goes on in the parent");
  weft_http_transfer_release(next);
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
}

static void test_end(int descriptors_before) {
  weft_http_stats stats;
  weft_stats live;
  weft_http_close_idle();
  weft_http_stats_read(&stats);
  int now = open_descriptors();
  check(!stats.sockets && !stats.shards && !stats.handles && now == descriptors_before,
        "close_idle leaves %u sockets, %u shards, %u handles, %d descriptors more", stats.sockets,
        stats.shards, stats.handles, now - descriptors_before);
  weft_stats_read(&live);
  check(all_gone() && !live.contexts, "nothing is alive at the end");
}

static void run_tests(void) {
  test_no_memory(); /* first: also what is allocated but once */
  test_get();
  test_post();
  test_methods();
  test_large_body();
  test_status();
  test_headers();
  test_coding();
  test_invalid_headers();
  test_invalid_urls();
  test_ceilings();
  test_failures();
  test_no_descriptors();
  test_timeout();
  test_thousand();
  test_keep_alive();
  test_stale_connection();
  test_limit();
  test_abort();
  test_abort_odd_moments();
  test_threads();
  test_no_leak_between();
  test_slow_resolver();
  test_perform();
  test_proxies();
  test_tls();
  test_fork();
}

int main(int argc, char **argv) {
  program = argv[0];
  if (argc > 1)
    return get_one(argv[1]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  start_server();
  int descriptors = open_descriptors();
  run_tests();
  fixture_stop(server);
  test_end(descriptors - 2); /* the server's two are closed */
  stop_io();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
