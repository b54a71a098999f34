/* test_waitgroup.c: counting, waiting, misuse, many threads. */
#include "check.h"
#include "waitgroup.h"

enum { MANY = 10001, THREADS = 4, ROUNDS = 3000 };

static void counts_and_refuses_less_than_zero(void) {
  weft_waitgroup *waitgroup = weft_waitgroup_new();
  CHECK(weft_waitgroup_add(waitgroup, 3) == WEFT_OK);
  CHECK(weft_waitgroup_add(waitgroup, -4) == WEFT_BELOW_ZERO);
  CHECK(weft_waitgroup_count(waitgroup) == 3);
  CHECK(weft_waitgroup_add(waitgroup, INT64_MAX) == WEFT_TOO_LARGE);
  CHECK(weft_waitgroup_add(waitgroup, -2) == WEFT_OK);
  CHECK(weft_waitgroup_done(waitgroup) == WEFT_OK);
  CHECK(weft_waitgroup_done(waitgroup) == WEFT_BELOW_ZERO);
  CHECK(weft_waitgroup_count(waitgroup) == 0);
  CHECK(weft_waitgroup_wait(weft_background(), waitgroup) == WEFT_OK);
  weft_waitgroup_release(waitgroup);
}

static void wakes_at_zero_and_can_be_used_again(void) {
  weft_waitgroup *waitgroup = weft_waitgroup_new();
  probe first, gone;
  for (int round = 0; round < 2; round++) {
    probe_init(&first);
    probe_init(&gone);
    CHECK(weft_waitgroup_wait_or_queue(waitgroup, &first.waiter) == WEFT_OK);
    CHECK(weft_waitgroup_add(waitgroup, 2) == WEFT_OK);
    CHECK(weft_waitgroup_wait_or_queue(waitgroup, &first.waiter) == WEFT_WOULD_WAIT);
    CHECK(weft_waitgroup_wait_or_queue(waitgroup, &gone.waiter) == WEFT_WOULD_WAIT);
    CHECK(weft_waitgroup_done(waitgroup) == WEFT_OK);
    weft_waitgroup_unwait(waitgroup, &gone.waiter);
    CHECK(first.wakes == 0);
    CHECK(weft_waitgroup_done(waitgroup) == WEFT_OK);
    CHECK(first.wakes == 1 && gone.wakes == 0);
  }
  weft_waitgroup_release(waitgroup);
}

static void wakes_10001(void) {
  weft_waitgroup *waitgroup = weft_waitgroup_new();
  probe *parties = calloc(MANY, sizeof *parties);
  CHECK(weft_waitgroup_add(waitgroup, 1) == WEFT_OK);
  for (int i = 0; i < MANY; i++) {
    probe_init(&parties[i]);
    CHECK(weft_waitgroup_wait_or_queue(waitgroup, &parties[i].waiter) == WEFT_WOULD_WAIT);
  }
  CHECK(weft_waitgroup_done(waitgroup) == WEFT_OK);
  for (int i = 0; i < MANY; i++)
    CHECK(parties[i].wakes == 1);
  weft_waitgroup_release(waitgroup);
  free(parties);
}

typedef struct call {
  weft_waitgroup *waitgroup;
  weft_context *context;
  int rc;
} call;

static void *wait_for_zero(void *arg) {
  call *call = arg;
  call->rc = weft_waitgroup_wait(call->context, call->waitgroup);
  return NULL;
}

static void *done_many(void *arg) {
  call *call = arg;
  for (int i = 0; i < ROUNDS; i++)
    CHECK(weft_waitgroup_done(call->waitgroup) == WEFT_OK);
  return NULL;
}

static void threads_meet_at_zero(void) {
  call call = {weft_waitgroup_new(), weft_background(), 1};
  pthread_t threads[THREADS], waiter;
  CHECK(weft_waitgroup_add(call.waitgroup, THREADS * ROUNDS) == WEFT_OK);
  pthread_create(&waiter, NULL, wait_for_zero, &call);
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, done_many, &call);
  pthread_join(waiter, NULL);
  CHECK(call.rc == WEFT_OK && weft_waitgroup_count(call.waitgroup) == 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  weft_waitgroup_release(call.waitgroup);
}

static int has_waiter(weft_waitgroup *waitgroup) {
  pthread_mutex_lock(&waitgroup->lock);
  int found = waitgroup->waiters.head != NULL;
  pthread_mutex_unlock(&waitgroup->lock);
  return found;
}

static void a_cancel_ends_the_wait(void) {
  call call = {weft_waitgroup_new(), weft_context_with_cancel(weft_background()), 1};
  pthread_t waiter;
  CHECK(weft_waitgroup_add(call.waitgroup, 1) == WEFT_OK);
  pthread_create(&waiter, NULL, wait_for_zero, &call);
  AWAIT(has_waiter(call.waitgroup));
  weft_context_cancel(call.context, NULL);
  pthread_join(waiter, NULL);
  CHECK(call.rc == WEFT_CANCELED && !has_waiter(call.waitgroup));
  weft_waitgroup_release(call.waitgroup);
  weft_context_release(call.context);
}

int main(void) {
  check_run("waitgroup: counts, and refuses less than zero", counts_and_refuses_less_than_zero);
  check_run("waitgroup: wakes at zero, again and again", wakes_at_zero_and_can_be_used_again);
  check_run("waitgroup: wakes 10,001", wakes_10001);
  check_run("waitgroup: threads meet at zero", threads_meet_at_zero);
  check_run("waitgroup: a cancel ends the wait", a_cancel_ends_the_wait);
  return check_end();
}
