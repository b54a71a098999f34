/* test_http_load.c: the HTTP engine under load and in bad moments: thousands in flight, aborts,
 * threads, forks, no memory, no descriptors.
 *
 * Owns the server, and everything that it starts. Needs -lcurl -lz. Prints "ok …" or "not ok …"
 * lines and ends with the totals; fails when one check failed.
 */
#include "http_helpers.h"

#include <fcntl.h>
#include "mem.h"

#include <dlfcn.h>
#include <netdb.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { MANY = 2000 };

/* ---- many ---- */

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
  check(all_held && canceled == MANY,
        "%d aborts of transfers in flight: %.1f ms to ask, %.1f in all", MANY, asked * 1e3,
        (seconds_now() - began) * 1e3);
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
  weft_http_request slow = {.url = weft_http_text_of("http://slow.test/"),
                            .limits_ms[WEFT_HTTP_TOTAL] = 50};
  double began = seconds_now();
  expect_failure(&slow, "timeout", "still connecting");
  weft_http_request request = get("/ok");
  weft_http_transfer *transfer = run(&request);
  double took = seconds_now() - began;
  check(body_is(transfer, "ok") && took < 0.5,
        "a name that takes 0.7 s to look up holds nobody up (%.3f s)", took);
  weft_http_transfer_release(transfer);
  usleep(900000); /* until the resolver's thread has ended */
}

/* ---- no memory, no descriptors, forks ---- */

/* Beyond what descriptors allow transfers wait for their turn: a listener that accepts nobody. */
static void test_few_descriptors(void) {
  enum { CALLS = 400 };
  static weft_http_transfer *transfers[CALLS];
  struct rlimit usual, few;
  weft_http_stats stats;
  char url[64];
  int port, listener = listen_somewhere(&port);
  snprintf(url, sizeof url, "http://127.0.0.1:%d/", port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  weft_http_close_idle();
  getrlimit(RLIMIT_NOFILE, &usual);
  few = usual;
  few.rlim_cur = 400;
  setrlimit(RLIMIT_NOFILE, &few);
  for (int i = 0; i < CALLS; i++)
    transfers[i] = start(&request);
  do {
    usleep(1000);
    weft_http_stats_read(&stats);
  } while (stats.in_flight + stats.queued < CALLS || stats.in_flight < 300);
  check(stats.in_flight == 300 && stats.queued == 100,
        "with 400 descriptors %u are in flight and %u wait", stats.in_flight, stats.queued);
  for (int i = 0; i < CALLS; i++)
    weft_http_abort(transfers[i]);
  int aborted = 0;
  for (int i = 0; i < CALLS; i++) {
    finish(transfers[i]);
    aborted += is_kind(weft_http_error(transfers[i]), "canceled");
    weft_http_transfer_release(transfers[i]);
  }
  check(aborted == CALLS, "none of them failed");
  setrlimit(RLIMIT_NOFILE, &usual);
  close(listener);
}

/* An internet socket that a program started now would inherit. */
static int is_leaky(int fd) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  return getsockname(fd, (struct sockaddr *)&address, &size) == 0 &&
         address.sin_family == AF_INET && fcntl(fd, F_GETFD) == 0;
}

/* Connections do not get into the programs that the process starts, where they would stay open. */
static void test_closed_on_exec(void) {
  weft_http_transfer *transfers[20];
  int leaky = 0;
  start_all(transfers, 20, "/wait/50");
  wait_until_held(20);
  for (int fd = 3; fd < 1000; fd++)
    leaky += is_leaky(fd);
  check(finish_all(transfers, 20) == 20 && leaky == 0, "%d sockets without close-on-exec", leaky);
}

static weft_error *post_something(weft_http_transfer **transfer) {
  weft_http_header header = HEADER("X-Key", "value");
  weft_http_request request = get("/size/3000");
  request.method = weft_http_text_of("POST");
  request.headers = &header;
  request.header_count = 1;
  request.body = weft_http_text_of("body");
  request.limits_ms[WEFT_HTTP_TOTAL] = 20000;
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

static void run_tests(void) {
  test_no_memory(); /* first: also what is allocated but once */
  test_no_descriptors();
  test_few_descriptors();
  test_closed_on_exec();
  test_thousand();
  test_keep_alive();
  test_stale_connection();
  test_limit();
  test_abort();
  test_abort_odd_moments();
  test_threads();
  test_slow_resolver();
  test_fork();
}

int main(void) {
  return run_all(run_tests);
}
