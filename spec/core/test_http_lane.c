/* test_http_lane.c: queues by host: limits, turns, and names that are looked up once.
 *
 * Stands in for the resolver. One test after the other on the main thread.
 */
#include "http_helpers.h"

#include <dlfcn.h>
#include <netdb.h>

enum { MANY = 500 };

/* ---- a resolver that waits for the test ---- */

static _Atomic int lookups, resolving, max_resolving, may_resolve;

static int resolve(const char *node, const char *service, const struct addrinfo *hints,
                   struct addrinfo **out) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!real)
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(strstr(node, ".test") ? "127.0.0.1" : node, service, hints, out);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out) {
  int now = ++resolving;
  lookups++;
  if (now > max_resolving)
    max_resolving = now;
  while (!may_resolve)
    usleep(1000);
  int rc = strcmp(node, "nowhere.test") == 0 ? EAI_NONAME : resolve(node, service, hints, out);
  resolving--;
  return rc;
}

static void hold_lookups(void) {
  lookups = max_resolving = may_resolve = 0;
}

static weft_http_request named(char *url, size_t size, const char *host, const char *path) {
  snprintf(url, size, "http://%s:%d%s", host, server->port, path);
  return (weft_http_request){.url = weft_http_text_of(url)};
}

static int queued(void) {
  weft_http_stats stats;
  weft_http_stats_read(&stats);
  return (int)stats.queued;
}

static int in_flight(void) {
  weft_http_stats stats;
  weft_http_stats_read(&stats);
  return (int)stats.in_flight;
}

/* ---- names ---- */

static void test_one_lookup(void) {
  static weft_http_transfer *transfers[MANY];
  char url[64];
  weft_http_request request = named(url, sizeof url, "many.test", "/ok");
  hold_lookups();
  int before = thread_count();
  for (int i = 0; i < MANY; i++)
    transfers[i] = start(&request);
  while (queued() != MANY - 1)
    usleep(1000);
  int threads = thread_count() - before;
  weft_http_request other = get("/ok");
  weft_http_transfer *transfer = run(&other);
  check(body_is(transfer, "ok"), "another host is not held up");
  weft_http_transfer_release(transfer);
  may_resolve = 1;
  int good = finish_all(transfers, MANY);
  check(good == MANY && lookups == 1 && threads <= 1 && max_resolving == 1,
        "%d cold calls to one host: %d good, %d lookups, %d threads more", MANY, good, lookups,
        threads);
}

static void test_unknown_name(void) {
  static weft_http_transfer *transfers[MANY];
  char url[64];
  int told = 0;
  weft_http_request request = named(url, sizeof url, "nowhere.test", "/ok");
  hold_lookups();
  for (int i = 0; i < MANY; i++)
    transfers[i] = start(&request);
  while (queued() != MANY - 1)
    usleep(1000);
  may_resolve = 1;
  for (int i = 0; i < MANY; i++) {
    finish(transfers[i]);
    weft_error *error = weft_http_error(transfers[i]);
    told += is_kind(error, "network") && strstr(weft_error_message(error), "nowhere.test") &&
            weft_http_failure_of(transfers[i])->code == 6 &&
            !weft_http_failure_of(transfers[i])->is_sent;
    weft_http_transfer_release(transfers[i]);
  }
  check(told == MANY && lookups == 1, "a name that is unknown fails %d calls with %d lookup", told,
        lookups);
  weft_http_transfer_release(run(&request));
  check(lookups == 2, "a later call looks again");
}

/* Those that waited for the name as long as the first one run out of time with it. */
static void test_slow_name(void) {
  weft_http_transfer *transfers[3];
  char url[64];
  weft_http_request request = named(url, sizeof url, "slow.test", "/ok");
  request.limits_ms[WEFT_HTTP_CONNECT] = 50;
  hold_lookups();
  weft_http_set_limit(1);
  weft_http_request blocker = get("/never");
  weft_http_transfer *first = start(&blocker);
  wait_until_held(1);
  for (int i = 0; i < 3; i++)
    transfers[i] = start(&request);
  while (queued() != 3)
    usleep(1000);
  weft_http_set_limit(WEFT_HTTP_LIMIT);
  int timed_out = 0;
  for (int i = 0; i < 3; i++) {
    finish(transfers[i]);
    timed_out += is_kind(weft_http_error(transfers[i]), "timeout") &&
                 weft_http_failure_of(transfers[i])->expired == WEFT_HTTP_CONNECT;
    weft_http_transfer_release(transfers[i]);
  }
  check(timed_out == 3 && lookups == 1, "%d calls time out with %d lookup", timed_out, lookups);
  may_resolve = 1;
  weft_http_abort(first);
  finish(first);
  weft_http_transfer_release(first);
  while (resolving)
    usleep(1000);
}

/* When the first one is aborted another takes its place. */
static void test_aborted_scout(void) {
  weft_http_transfer *transfers[3];
  char url[64];
  weft_http_request request = named(url, sizeof url, "abort.test", "/ok");
  hold_lookups();
  for (int i = 0; i < 3; i++)
    transfers[i] = start(&request);
  while (lookups != 1)
    usleep(1000);
  weft_http_abort(transfers[0]);
  while (lookups != 2)
    usleep(1000);
  may_resolve = 1;
  finish(transfers[0]);
  check(is_kind(weft_http_error(transfers[0]), "canceled"), "the first one is canceled");
  weft_http_transfer_release(transfers[0]);
  check(finish_all(transfers + 1, 2) == 2, "the others go on without it");
  while (resolving)
    usleep(1000);
}

/* ---- limits ---- */

static void test_quota(void) {
  weft_http_transfer *transfers[40];
  weft_http_quota *quota = weft_http_quota_new(10, 4);
  char url[64];
  weft_http_request one = get("/never"), two = named(url, sizeof url, "localhost", "/never");
  one.quota = two.quota = quota;
  may_resolve = 1;
  server->max_held = 0;
  for (int i = 0; i < 40; i++)
    transfers[i] = start(i % 2 ? &one : &two);
  int is_held = wait_until_held(8);
  usleep(20000);
  check(is_held && server->held == 8 && in_flight() == 8, "4 to each of two hosts");
  for (int i = 0; i < 40; i++)
    while (!weft_http_is_finished(transfers[i])) {
      server->answer_all = 1;
      usleep(1000);
    }
  int good = finish_all(transfers, 40);
  check(good == 40 && server->max_held == 8, "%d good, never more than %ld at once", good,
        server->max_held);
  weft_http_quota_release(quota);
}

static void test_total_of_quota(void) {
  enum { HOSTS = 12 };
  weft_http_transfer *transfers[HOSTS * 5];
  weft_http_quota *quota = weft_http_quota_new(3, 0);
  server->max_held = 0;
  for (int i = 0; i < HOSTS * 5; i++) {
    char host[32], url[64];
    snprintf(host, sizeof host, "host%d.test", i % HOSTS);
    weft_http_request request = named(url, sizeof url, host, "/wait/1");
    request.quota = quota;
    transfers[i] = start(&request);
  }
  int good = finish_all(transfers, HOSTS * 5);
  check(good == HOSTS * 5 && server->max_held <= 3, "%d of many hosts, %ld at once", good,
        server->max_held);
  weft_http_quota_release(quota);
}

/* With one place to share, hosts take turns, however long the queue of one of them is. */
static void test_turns(void) {
  weft_http_transfer *long_queue[100], *transfer;
  weft_http_quota *quota = weft_http_quota_new(1, 0);
  char url[64];
  weft_http_request many = get("/never"), one = named(url, sizeof url, "turn.test", "/never");
  many.quota = one.quota = quota;
  for (int i = 0; i < 100; i++)
    long_queue[i] = start(&many);
  transfer = start(&one);
  while (queued() != 100)
    usleep(1000);
  int answers = 0;
  for (; !weft_http_is_finished(transfer) && answers < 100; answers++) {
    wait_until_held(1);
    server->answer_all = 1;
    while (server->answer_all)
      usleep(1000);
  }
  check(answers <= 4, "the other host's turn comes after %d answers", answers);
  finish(transfer);
  weft_http_transfer_release(transfer);
  for (int i = 0; i < 100; i++)
    weft_http_abort(long_queue[i]);
  finish_all(long_queue, 100);
  weft_http_quota_release(quota);
}

static void test_aborted_queue(void) {
  weft_http_transfer *transfers[20];
  weft_http_quota *quota = weft_http_quota_new(1, 1);
  weft_http_request request = get("/never");
  request.quota = quota;
  for (int i = 0; i < 20; i++)
    transfers[i] = start(&request);
  wait_until_held(1);
  for (int i = 19; i >= 0; i--)
    weft_http_abort(transfers[i]);
  check(finish_all(transfers, 20) == 0 && all_gone(), "aborts take out of queue and flight");
  weft_http_transfer *after = start(&request);
  check(wait_until_held(1), "and give their places back");
  server->answer_all = 1;
  finish(after);
  weft_http_transfer_release(after);
  weft_http_quota_release(quota);
}

static void run_tests(void) {
  test_one_lookup();
  test_unknown_name();
  test_slow_name();
  test_aborted_scout();
  test_quota();
  test_total_of_quota();
  test_turns();
  test_aborted_queue();
  check(all_gone(), "nothing is left");
  weft_stats stats;
  do /* the I/O thread gives the last reference back a moment after the end */
    weft_stats_read(&stats);
  while (stats.http_quotas && !usleep(1000));
}

int main(void) {
  return run_all(run_tests);
}
