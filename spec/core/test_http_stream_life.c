/* test_http_stream_life.c: streams and contexts, calls that block, failing memory, forks, a
 * thousand at once. The test's thread is the server too. */
#include "stream_helpers.h"

#include "context.h"
#include "mem.h"

#include <sys/wait.h>

/* ---- contexts ---- */

static void test_bond(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  send_text(fd, open_end);
  wait_head(transfer);
  weft_http_bind(transfer, context);
  weft_context_cancel(context, NULL);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "canceled"),
        "a context's end aborts");
  weft_http_unbind(transfer);
  weft_http_transfer_release(transfer);
  close(fd);
  transfer = open_stream(0);
  fd = accept_request();
  weft_http_bind(transfer, context);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "canceled"),
        "so does one that is done already");
  weft_http_unbind(transfer);
  weft_http_transfer_release(transfer);
  weft_context_release(context);
  close(fd);
}

static void test_unbind(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  send_text(fd, open_end);
  weft_http_bind(transfer, context);
  weft_http_unbind(transfer);
  weft_http_unbind(transfer);
  weft_context_cancel(context, NULL);
  send_text(fd, "still");
  check(next_is(transfer, "still"), "an undone bond aborts nothing");
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
  weft_context_release(context);
  close(fd);
}

static void *cancel(void *context) {
  weft_context_cancel(context, NULL);
  return NULL;
}

/* The bond is broken and undone at the same time; the end comes at any time. */
static void test_bond_races(void) {
  for (int i = 0; i < 300; i++) {
    pthread_t thread;
    weft_context *context = weft_context_with_cancel(weft_background());
    weft_http_transfer *transfer = open_stream(0);
    int fd = accept_request();
    send_text(fd, open_end);
    weft_http_bind(transfer, context);
    if (i % 3 == 0)
      close(fd);
    pthread_create(&thread, NULL, cancel, context);
    if (i % 2)
      weft_http_discard(transfer);
    weft_http_unbind(transfer);
    weft_http_abort(transfer);
    weft_http_transfer_release(transfer);
    pthread_join(thread, NULL);
    weft_context_release(context);
    if (i % 3)
      close(fd);
  }
  check(all_gone(), "nothing is left of 300 races");
}

/* ---- the calls that block ---- */

static void test_blocking(void) {
  weft_context *context = weft_context_with_timeout(weft_background(), 0.1, NULL);
  weft_http_request request = stream_request(0);
  weft_http_transfer *transfer;
  weft_http_text bytes;
  weft_error *error = weft_http_open(context, &request, &transfer);
  check(!transfer && is_kind(error, "deadline"), "no headers before the deadline");
  weft_error_release(error);
  error = weft_http_open(context, &request, &transfer);
  check(!transfer && is_kind(error, "deadline"), "nor after it");
  weft_error_release(error);
  weft_context_release(context);
  close(accept_request());
  request.url = weft_http_text_of("http://127.0.0.1:1/");
  error = weft_http_open(weft_background(), &request, &transfer);
  check(!transfer && is_kind(error, "network"), "nobody there");
  weft_error_release(error);
  request = stream_request(0);
  request.is_stream = 0;
  connection c;
  pthread_t thread;
  pthread_create(&thread, NULL, answer_one, &c);
  error = weft_http_open(weft_background(), &request, &transfer);
  pthread_join(thread, NULL);
  check(!error && weft_http_status(transfer) == 200, "opened");
  context = weft_context_with_timeout(weft_background(), 0.05, NULL);
  check(weft_http_read_or_block(context, transfer, &bytes) == WEFT_CANCELED, "a read that waits");
  weft_context_release(context);
  send_text(c.fd, "later");
  check(next_is(transfer, "later"), "what comes later is not lost");
  close(c.fd);
  check(is_closed(transfer), "the end");
  weft_http_transfer_release(transfer);
}

/* ---- failing memory ---- */

/* One stream with all that may happen; the kind of its failure, or NULL. */
static const char *run_one(void) {
  weft_error *error = NULL;
  weft_http_request request = stream_request(1000);
  weft_http_transfer *transfer = weft_http_transfer_new(&request, &error);
  static char kind[32];
  if (!transfer) {
    snprintf(kind, sizeof kind, "%s", weft_error_kind(error));
    weft_error_release(error);
    return kind;
  }
  weft_http_start(transfer);
  /* without memory it may never connect */
  struct timeval patience = {0, 200000};
  setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  int fd = accept_request();
  if (fd >= 0) {
    char body[20000];
    connection c = {.fd = fd};
    memset(body, 'x', sizeof body);
    send_text(fd, open_end);
    send_all(&c, body, sizeof body);
    close(fd);
  }
  weft_http_text bytes;
  size_t total = 0;
  while (read_some(transfer, &bytes) == WEFT_OK)
    total += bytes.size;
  error = weft_http_error(transfer);
  snprintf(kind, sizeof kind, "%s", error ? weft_error_kind(error) : "");
  if (!error && total != 20000)
    snprintf(kind, sizeof kind, "lost bytes");
  weft_http_transfer_release(transfer);
  return error || *kind ? kind : NULL;
}

static void test_torture(void) {
  int failures = 0, odd = 0, is_good = 0;
  for (uint64_t nth = 1; nth <= 60; nth++) {
    weft_mem_fail_at(nth);
    const char *kind = run_one();
    weft_mem_fail_at(0);
    failures += kind != NULL;
    odd += kind && strcmp(kind, "nomem") != 0;
    if (odd == 1 && kind && strcmp(kind, "nomem") != 0)
      printf("# allocation %d: %s\n", (int)nth, kind);
    is_good |= kind == NULL;
  }
  struct timeval forever = {0, 0};
  setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
  check(failures > 3 && !odd && is_good, "%d lacks of memory, all told", failures);
  check(run_one() == NULL && all_gone(), "and afterwards it works");
}

/* ---- forks ---- */

static void test_fork(void) {
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request(), status = 1;
  send_text(fd, open_end);
  wait_head(transfer);
  pid_t child = fork();
  if (child == 0) {
    weft_http_text bytes;
    weft_waiter waiter = {0};
    int rc = weft_http_read(transfer, &bytes, &waiter);
    weft_http_unread(transfer, &waiter);
    weft_http_discard(transfer);
    weft_http_abort(transfer);
    _exit(rc == WEFT_FORKED ? 0 : 1);
  }
  waitpid(child, &status, 0);
  check(status == 0, "a child of a fork is told");
  send_text(fd, "parent");
  check(next_is(transfer, "parent"), "the parent reads on");
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
  close(fd);
}

/* ---- many ---- */

enum { MANY = UNDER_TSAN ? 200 : 1000, ROUNDS = 30 };

static void test_many(void) {
  static weft_http_transfer *transfers[MANY];
  static int fds[MANY];
  size_t used[ROUNDS];
  int good = 0;
  for (int i = 0; i < MANY; i++) {
    transfers[i] = open_stream(0);
    fds[i] = accept_request();
    send_text(fds[i], open_end);
  }
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < MANY; i++)
      send_text(fds[i], "data: event\n\n");
    for (int i = 0; i < MANY; i++)
      good += next_is(transfers[i], "data: event\n\n");
    used[round] = mallinfo2().uordblks;
  }
  check(good == MANY * ROUNDS, "%d events of %d streams at once", good, MANY);
  check(used[ROUNDS - 1] < used[1] + 64 * 1024, "in flat memory: %zu KB, then %zu KB",
        used[1] >> 10, used[ROUNDS - 1] >> 10);
  for (int i = 0; i < MANY; i++)
    close(fds[i]);
  good = 0;
  for (int i = 0; i < MANY; i++) {
    good += is_closed(transfers[i]) && !weft_http_error(transfers[i]);
    weft_http_transfer_release(transfers[i]);
  }
  check(good == MANY, "all end");
}

static void tests(void) {
  listen_here();
  test_bond();
  test_unbind();
  test_bond_races();
  test_blocking();
  test_torture();
  test_fork();
  test_many();
  close(listener);
}

int main(void) {
  return run_all(tests);
}
