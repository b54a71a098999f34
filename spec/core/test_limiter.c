/* test_limiter.c: the bucket's arithmetic, strict order, reservations, pauses, and races of cancel
 * and timer. */
#include "check.h"
#include "limiter.h"
#include "mem.h"

#include <math.h>

enum { MANY = 10001, THREADS = 4, ROUNDS = 2000, RACES = 500 };

static int is_near(double a, double b) {
  return fabs(a - b) < 1e-5;
}

static int take_or_wait(weft_limiter *limiter, probe *party, uint32_t weight) {
  probe_init(party);
  party->waiter.weight = weight;
  return weft_limiter_take_or_wait(limiter, WEFT_NEVER_NS, &party->waiter);
}

static uint64_t in_ns(double seconds) {
  return weft_clock_now_ns() + (uint64_t)(seconds * 1e9);
}

/* Lets time pass with somebody waiting; the I/O thread serves. */
static void advance(double seconds) {
  clock_advance(seconds);
}

static void fills_and_empties(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(2, 5);
  CHECK(weft_limiter_allow(limiter, 6) == WEFT_TOO_LARGE);
  CHECK(weft_limiter_allow(limiter, 4) == WEFT_OK);
  CHECK(weft_limiter_allow(limiter, 2) == WEFT_WOULD_WAIT);
  CHECK(weft_limiter_allow(limiter, 0) == WEFT_OK);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  advance(0.5);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT);
  advance(100);
  CHECK(is_near(weft_limiter_tokens(limiter), 5));
  CHECK(weft_limiter_allow(limiter, 5) == WEFT_OK);
  weft_limiter_give_back(limiter, 3);
  CHECK(is_near(weft_limiter_tokens(limiter), 3));
  weft_limiter_give_back(limiter, 30);
  CHECK(is_near(weft_limiter_tokens(limiter), 5));
  CHECK(weft_limiter_rate(limiter) == 2 && weft_limiter_burst(limiter) == 5);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void extreme_rates(void) {
  clock_freeze();
  double delay;
  weft_limiter *limiter = weft_limiter_new(0, 2);
  CHECK(weft_limiter_allow(limiter, 2) == WEFT_OK);
  advance(1e6);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT);
  probe party;
  CHECK(take_or_wait(limiter, &party, 2) == WEFT_WOULD_WAIT);
  CHECK(weft_limiter_reserve(limiter, 1, &delay) == WEFT_OK && isinf(delay));
  weft_limiter_set(limiter, HUGE_VAL, 2);
  CHECK(party.wakes == 1 && weft_waiter_outcome(&party.waiter) == WEFT_OK);
  CHECK(weft_limiter_allow(limiter, 1000) == WEFT_OK);
  CHECK(weft_limiter_reserve(limiter, 1000, &delay) == WEFT_OK && delay == 0);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void time_that_jumps_back_gives_nothing(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(10, 3);
  CHECK(weft_limiter_allow(limiter, 3) == WEFT_OK);
  atomic_fetch_sub(&virtual_ns, 1000000000u);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT);
  advance(0.1);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void nobody_overtakes(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 10);
  probe large, small;
  CHECK(weft_limiter_allow(limiter, 10) == WEFT_OK);
  CHECK(take_or_wait(limiter, &large, 8) == WEFT_WOULD_WAIT);
  CHECK(take_or_wait(limiter, &small, 1) == WEFT_WOULD_WAIT);
  advance(5);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT); /* 5 are there, and yet */
  CHECK(is_near(weft_limiter_tokens(limiter), -4));
  CHECK(large.wakes == 0 && small.wakes == 0);
  advance(3);
  AWAIT(large.wakes == 1);
  CHECK(small.wakes == 0);
  advance(1);
  AWAIT(small.wakes == 1);
  CHECK(is_near(weft_limiter_tokens(limiter), 0));
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void what_comes_too_late_fails_at_once(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 10);
  probe first, second;
  CHECK(weft_limiter_allow(limiter, 10) == WEFT_OK);
  CHECK(take_or_wait(limiter, &first, 4) == WEFT_WOULD_WAIT);
  probe_init(&second);
  second.waiter.weight = 2;
  CHECK(weft_limiter_take_or_wait(limiter, in_ns(5.9), &second.waiter) == WEFT_TOO_LATE);
  CHECK(is_near(weft_limiter_tokens(limiter), -4));
  CHECK(weft_limiter_take_or_wait(limiter, in_ns(6.1), &second.waiter) == WEFT_WOULD_WAIT);
  weft_limiter_pause_until(limiter, in_ns(20)); /* which brings 10 of 6 */
  probe third;
  probe_init(&third);
  third.waiter.weight = 5;
  CHECK(weft_limiter_take_or_wait(limiter, in_ns(20.9), &third.waiter) == WEFT_TOO_LATE);
  CHECK(weft_limiter_take_or_wait(limiter, in_ns(21.1), &third.waiter) == WEFT_WOULD_WAIT);
  weft_limiter_unwait(limiter, &first.waiter);
  weft_limiter_unwait(limiter, &second.waiter);
  weft_limiter_unwait(limiter, &third.waiter);
  CHECK(is_near(weft_limiter_tokens(limiter), 0));
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void who_leaves_lets_the_others_move_up(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 10);
  probe head, second, third;
  CHECK(weft_limiter_allow(limiter, 10) == WEFT_OK);
  CHECK(take_or_wait(limiter, &head, 9) == WEFT_WOULD_WAIT);
  CHECK(take_or_wait(limiter, &second, 1) == WEFT_WOULD_WAIT);
  CHECK(take_or_wait(limiter, &third, 1) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&head.wait, 1)); /* its context was first */
  weft_limiter_unwait(limiter, &head.waiter);
  memset(&head, 0xdd, sizeof head);
  advance(1);
  AWAIT(second.wakes == 1);
  CHECK(third.wakes == 0);
  CHECK(weft_wait_claim(&third.wait, 1)); /* and it has not left yet when its turn comes */
  advance(5);
  AWAIT(is_near(weft_limiter_tokens(limiter), 5)); /* nothing was taken for it */
  weft_limiter_unwait(limiter, &third.waiter);
  CHECK(is_near(weft_limiter_tokens(limiter), 5));
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void reservations_keep_their_place(void) {
  clock_freeze();
  double delay;
  weft_limiter *limiter = weft_limiter_new(1, 10);
  CHECK(weft_limiter_reserve(limiter, 11, &delay) == WEFT_TOO_LARGE);
  CHECK(weft_limiter_reserve(limiter, 4, &delay) == WEFT_OK && delay == 0);
  CHECK(weft_limiter_reserve(limiter, 10, &delay) == WEFT_OK && is_near(delay, 4));
  CHECK(is_near(weft_limiter_tokens(limiter), -4));
  probe first, second, third;
  CHECK(take_or_wait(limiter, &first, 1) == WEFT_WOULD_WAIT);                      /* at 5 */
  CHECK(weft_limiter_reserve(limiter, 3, &delay) == WEFT_OK && is_near(delay, 8)); /* behind it */
  CHECK(take_or_wait(limiter, &second, 1) == WEFT_WOULD_WAIT);                     /* at 9 */
  CHECK(weft_limiter_reserve(limiter, 2, &delay) == WEFT_OK && is_near(delay, 11));
  CHECK(take_or_wait(limiter, &third, 1) == WEFT_WOULD_WAIT); /* at 12 */
  advance(5);
  AWAIT(first.wakes == 1);
  advance(3.9);
  CHECK(weft_wait_claim(&second.wait, 1));
  weft_limiter_unwait(limiter, &second.waiter); /* the third moves up, to 11 */
  CHECK(third.wakes == 0);
  CHECK(is_near(weft_limiter_tokens(limiter), -2.1)); /* 3 for it and for what was reserved */
  advance(2.1);
  AWAIT(third.wakes == 1);
  CHECK(is_near(weft_limiter_tokens(limiter), 0));
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void use_is_settled(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 10);
  probe party;
  CHECK(weft_limiter_allow(limiter, 10) == WEFT_OK);
  CHECK(take_or_wait(limiter, &party, 5) == WEFT_WOULD_WAIT);
  weft_limiter_settle(limiter, 10, 6);
  CHECK(party.wakes == 0);
  weft_limiter_settle(limiter, 6, 5); /* less than estimated: who waits goes on */
  CHECK(party.wakes == 1);
  weft_limiter_settle(limiter, 5, 35.5); /* more than there ever is */
  CHECK(is_near(weft_limiter_tokens(limiter), -30.5));
  CHECK(weft_limiter_allow(limiter, 0) == WEFT_WOULD_WAIT);
  advance(31.5);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void a_pause_holds_all(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 3);
  probe party;
  double delay;
  weft_limiter_pause_until(limiter, in_ns(10));
  weft_limiter_pause_until(limiter, in_ns(5)); /* the later one counts */
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT);
  CHECK(weft_limiter_reserve(limiter, 1, &delay) == WEFT_OK && is_near(delay, 10));
  CHECK(take_or_wait(limiter, &party, 1) == WEFT_WOULD_WAIT);
  advance(9);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_WOULD_WAIT && party.wakes == 0);
  advance(1);
  AWAIT(party.wakes == 1);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK); /* it filled meanwhile */
  weft_limiter_pause_until(limiter, WEFT_NEVER_NS);
  CHECK(take_or_wait(limiter, &party, 1) == WEFT_WOULD_WAIT);
  advance(1e6);
  weft_limiter_resume(limiter);
  CHECK(party.wakes == 1);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void setting_serves_or_rejects(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(1, 10);
  probe first, large, last;
  double delay;
  CHECK(weft_limiter_allow(limiter, 10) == WEFT_OK);
  CHECK(take_or_wait(limiter, &first, 2) == WEFT_WOULD_WAIT);
  CHECK(take_or_wait(limiter, &large, 9) == WEFT_WOULD_WAIT);
  CHECK(weft_limiter_reserve(limiter, 1, &delay) == WEFT_OK && is_near(delay, 12));
  CHECK(take_or_wait(limiter, &last, 1) == WEFT_WOULD_WAIT);
  weft_limiter_set(limiter, 1, 8);
  CHECK(large.wakes == 1 && weft_waiter_outcome(&large.waiter) == WEFT_TOO_LARGE);
  CHECK(first.wakes == 0 && last.wakes == 0);
  weft_limiter_set(limiter, 10, 8); /* ten times as fast: at 0.2, 0.3, 0.4 */
  advance(0.2);
  AWAIT(first.wakes == 1);
  advance(0.15);
  CHECK(last.wakes == 0);
  advance(0.05);
  AWAIT(last.wakes == 1);
  CHECK(is_near(weft_limiter_tokens(limiter), 0));
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
}

static void wakes_10001(void) {
  clock_freeze();
  weft_limiter *limiter = weft_limiter_new(100, 1);
  probe *parties = calloc(MANY, sizeof *parties);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  for (int i = 0; i < MANY; i++)
    CHECK(take_or_wait(limiter, &parties[i], 1) == WEFT_WOULD_WAIT);
  for (int i = 0; i < 100; i++) {
    advance(0.01);
    AWAIT(parties[i].wakes == 1);
    CHECK(parties[i + 1].wakes == 0);
  }
  weft_limiter_set(limiter, HUGE_VAL, 1);
  for (int i = 0; i < MANY; i++)
    CHECK(parties[i].wakes == 1);
  weft_limiter_release(limiter);
  weft_clock_set(NULL);
  free(parties);
}

static void an_armed_one_can_go(void) {
  weft_limiter *limiter = weft_limiter_new(1e-6, 1);
  probe party;
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  CHECK(take_or_wait(limiter, &party, 1) == WEFT_WOULD_WAIT);
  CHECK(check_stats().timers == 1);
  weft_limiter_unwait(limiter, &party.waiter);
  CHECK(check_stats().timers == 0);
  CHECK(take_or_wait(limiter, &party, 1) == WEFT_WOULD_WAIT);
  weft_limiter_release(
      limiter); /* with the memory of its waiter: nobody does this, but its timer goes */
  CHECK(check_stats().timers == 0);
}

/* ---- native threads ---- */

typedef struct shared {
  weft_limiter *limiter;
  weft_context *context;
  _Atomic uint32_t taken, canceled;
} shared;

static void *take_many(void *arg) {
  shared *shared = arg;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    weft_context *context = i % 8 == 0 ? weft_context_with_timeout(shared->context, 2e-5, NULL)
                                       : weft_context_with_cancel(shared->context);
    int rc = weft_limiter_wait(context, shared->limiter, i % 3);
    weft_context_release(context);
    CHECK(rc == WEFT_OK || ((rc == WEFT_CANCELED || rc == WEFT_TOO_LATE) && i % 8 == 0));
    atomic_fetch_add(rc == WEFT_OK ? &shared->taken : &shared->canceled, rc == WEFT_OK ? i % 3 : 1);
    if (i % 64 == 1)
      weft_limiter_set(shared->limiter, i % 128 == 1 ? 2e5 : 3e5, 4);
  }
  return NULL;
}

static void what_is_taken_is_what_has_flowed(void) {
  uint64_t start_ns = weft_clock_now_ns();
  shared shared = {.limiter = weft_limiter_new(2e5, 4), .context = weft_background()};
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, take_many, &shared);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  double seconds = (double)(weft_clock_now_ns() - start_ns) / 1e9;
  CHECK(shared.taken <= 4 + seconds * 3e5);
  double left = weft_limiter_tokens(shared.limiter);
  CHECK(left >= -1e-3 && left <= 4); /* nobody waits: nothing is owed */
  weft_limiter_release(shared.limiter);
}

static int has_waiter(weft_limiter *limiter) {
  pthread_mutex_lock(&limiter->lock);
  int found = limiter->waiters.head != NULL;
  pthread_mutex_unlock(&limiter->lock);
  return found;
}

static void *take_one(void *arg) {
  shared *shared = arg;
  int rc = weft_limiter_wait(shared->context, shared->limiter, 1);
  atomic_store(&shared->taken, rc == WEFT_OK);
  atomic_store(&shared->canceled, rc == WEFT_CANCELED);
  return NULL;
}

static void a_cancel_meets_a_give_back(void) {
  for (int i = 0; i < RACES; i++) {
    shared shared = {.limiter = weft_limiter_new(0, 1),
                     .context = weft_context_with_cancel(weft_background())};
    pthread_t thread;
    CHECK(weft_limiter_wait(weft_background(), shared.limiter, 1) == WEFT_OK);
    pthread_create(&thread, NULL, take_one, &shared);
    AWAIT(has_waiter(shared.limiter));
    if (i % 2)
      weft_context_cancel(shared.context, NULL);
    weft_limiter_give_back(shared.limiter, 1);
    weft_context_cancel(shared.context, NULL);
    pthread_join(thread, NULL);
    CHECK(shared.canceled + shared.taken == 1 && (i % 2 || shared.taken == 1));
    CHECK(is_near(weft_limiter_tokens(shared.limiter), !shared.taken));
    weft_limiter_release(shared.limiter);
    weft_context_release(shared.context);
  }
}

static void blocks_a_thread(void) {
  weft_limiter *limiter = weft_limiter_new(1000, 1);
  uint64_t start_ns = weft_clock_now_ns();
  for (int i = 0; i < 20; i++)
    CHECK(weft_limiter_wait(weft_background(), limiter, 1) == WEFT_OK);
  CHECK(weft_clock_now_ns() - start_ns >= 18999000);
  CHECK(weft_limiter_wait(weft_background(), limiter, 2) == WEFT_TOO_LARGE);
  weft_context *context = weft_context_with_timeout(weft_background(), 1000, NULL);
  CHECK(weft_limiter_wait(context, limiter, 1) == WEFT_OK);
  weft_limiter_set(limiter, 1e-6, 1);
  CHECK(weft_limiter_wait(context, limiter, 1) == WEFT_TOO_LATE);
  weft_context_cancel(context, NULL);
  CHECK(weft_limiter_wait(context, limiter, 1) == WEFT_CANCELED);
  weft_context_release(context);
  weft_limiter_release(limiter);
}

int main(void) {
  check_run("limiter: fills and empties", fills_and_empties);
  check_run("limiter: extreme rates", extreme_rates);
  check_run("limiter: time that jumps back", time_that_jumps_back_gives_nothing);
  check_run("limiter: nobody overtakes", nobody_overtakes);
  check_run("limiter: too late fails at once", what_comes_too_late_fails_at_once);
  check_run("limiter: who leaves lets others move up", who_leaves_lets_the_others_move_up);
  check_run("limiter: reservations keep their place", reservations_keep_their_place);
  check_run("limiter: use is settled", use_is_settled);
  check_run("limiter: a pause holds all", a_pause_holds_all);
  check_run("limiter: setting serves or rejects", setting_serves_or_rejects);
  check_run("limiter: wakes 10,001", wakes_10001);
  check_run("limiter: an armed one can go", an_armed_one_can_go);
  check_run("limiter: what is taken has flowed", what_is_taken_is_what_has_flowed);
  check_run("limiter: a cancel meets a give-back", a_cancel_meets_a_give_back);
  check_run("limiter: blocks a thread", blocks_a_thread);
  return check_end();
}
