/* http_helpers.h: what the HTTP tests share: checks, transfers in one line, the beginning and the
 * end.
 *
 * One test after the other on the main thread. Included by the C file of a test program.
 */
#ifndef WEFT_SPEC_HTTP_HELPERS_H
#define WEFT_SPEC_HTTP_HELPERS_H

#include "http.h"

#include "http_fixture.h"
#include "io.h"

#include <dirent.h>
#include <stdarg.h>

#if defined(__SANITIZE_THREAD__)
enum { UNDER_TSAN = 1 };
#else
enum { UNDER_TSAN = 0 };
#endif

#define HEADER(name, value)                                                                        \
  {                                                                                                \
    {name, sizeof name - 1}, {                                                                     \
      value, sizeof value - 1                                                                      \
    }                                                                                              \
  }

static int passed, failed;
static fixture *server;

static inline void check(int ok, const char *format, ...) {
  char what[512];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  printf("%s %d: %s\n", ok ? "ok" : "not ok", ++*(ok ? &passed : &failed), what);
}

/* ---- transfers ---- */

/* Valid until four more were made. */
static inline const char *url_of(const char *path) {
  static char urls[4][512];
  static unsigned next;
  char *url = urls[next++ % 4];
  snprintf(url, sizeof urls[0], "http://127.0.0.1:%d%s", server->port, path);
  return url;
}

static inline weft_http_request get(const char *path) {
  return (weft_http_request){.url = weft_http_text_of(url_of(path))};
}

static inline weft_http_transfer *start(const weft_http_request *request) {
  weft_error *error = NULL;
  weft_http_transfer *transfer = weft_http_transfer_new(request, &error);
  if (!transfer || weft_http_start(transfer) != WEFT_OK) {
    printf("not started: %s\n", error ? weft_error_message(error) : "no thread");
    exit(2);
  }
  return transfer;
}

static inline void finish(weft_http_transfer *transfer) {
  weft_thread_wait party;
  weft_waiter waiter;
  weft_thread_wait_init(&party);
  weft_waiter_init(&waiter, &party.wait, 0);
  if (weft_http_wait(transfer, &waiter))
    weft_thread_wait_block(&party);
  else
    weft_thread_wait_drop(&party);
}

static inline weft_http_transfer *run(const weft_http_request *request) {
  weft_http_transfer *transfer = start(request);
  finish(transfer);
  return transfer;
}

static inline int body_is(weft_http_transfer *transfer, const char *expected) {
  weft_http_text body = weft_http_body(transfer);
  return body.size == strlen(expected) &&
         (!body.size || memcmp(body.bytes, expected, body.size) == 0);
}

static inline int is_kind(weft_error *error, const char *kind) {
  return error && strcmp(weft_error_kind(error), kind) == 0;
}

/* Runs a request that must fail: its kind, and a part of its message. */
static inline void expect_failure(const weft_http_request *request, const char *kind,
                                  const char *part) {
  weft_http_transfer *transfer = run(request);
  weft_error *error = weft_http_error(transfer);
  int ok = is_kind(error, kind) && strstr(weft_error_message(error), part) &&
           !strchr(weft_error_message(error), '\n') && weft_http_body(transfer).size == 0;
  check(ok, "%s: %s", error ? weft_error_kind(error) : "no error",
        error ? weft_error_message(error) : part);
  weft_http_transfer_release(transfer);
}

static inline void expect_invalid(const weft_http_request *request, const char *part) {
  weft_error *error = NULL;
  weft_http_transfer *transfer = weft_http_transfer_new(request, &error);
  check(!transfer && is_kind(error, "invalid") && strstr(weft_error_message(error), part) &&
            !strstr(weft_error_message(error), "SECRET"),
        "%s", error ? weft_error_message(error) : "accepted");
  weft_http_transfer_release(transfer);
  weft_error_release(error);
}

static inline int wait_until_held(long count) {
  double until = seconds_now() + 20;
  while (server->held != count && seconds_now() < until)
    usleep(2000);
  return server->held == count;
}

static inline int open_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  while (readdir(folder))
    count++;
  closedir(folder);
  return count;
}

/* Also what the last transfer's end leaves to the I/O thread for a moment. */
static inline int all_gone(void) {
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

/* ---- batches ---- */

static inline void start_all(weft_http_transfer **transfers, int count, const char *path) {
  weft_http_request request = get(path);
  for (int i = 0; i < count; i++)
    transfers[i] = start(&request);
}

/* Returns how many brought an answer with status 200. */
static inline int finish_all(weft_http_transfer **transfers, int count) {
  int good = 0;
  for (int i = 0; i < count; i++) {
    finish(transfers[i]);
    good += !weft_http_error(transfers[i]) && weft_http_status(transfers[i]) == 200;
    weft_http_transfer_release(transfers[i]);
  }
  return good;
}

/* All are in flight at once before the first is answered. */
static inline int hold_and_answer(weft_http_transfer **transfers, int count) {
  start_all(transfers, count, "/never");
  int all_held = wait_until_held(count);
  server->answer_all = 1;
  return finish_all(transfers, count) == count && all_held;
}

/* ---- beginning and end ---- */

static inline void start_server(void) {
  static const char *const variables[] = {"http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY",
                                          "ALL_PROXY",  "no_proxy",    "NO_PROXY"};
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
    unsetenv(variables[i]);
  server = fixture_start();
  weft_io_start();
}

static inline int thread_count(void) {
  DIR *folder = opendir("/proc/self/task");
  struct dirent *entry;
  int count = 0;
  while ((entry = readdir(folder)))
    count += *entry->d_name != '.';
  closedir(folder);
  return count;
}

/* Until the thread itself is gone: OpenSSL cleans up after threads, and at exit, without a lock. */
static inline void stop_io(void) {
  double until = seconds_now() + 2;
  weft_io_stop(2000);
  while (!UNDER_TSAN && thread_count() > 1 && seconds_now() < until)
    usleep(1000);
  if (UNDER_TSAN) /* it has a thread of its own */
    usleep(100000);
}

static inline void test_end(int descriptors_before) {
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

/* Runs the tests between; the program's exit code. */
static inline int run_all(void (*tests)(void)) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  start_server();
  int descriptors = open_descriptors();
  tests();
  fixture_stop(server);
  test_end(descriptors - 2); /* the server's two are closed */
  stop_io();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}

#endif
