/* test_semaphore.c: strict order, weights, cancelled heads, resizing. */
#include "check.h"
#include "semaphore.h"

enum { MANY = 10001, THREADS = 4, ROUNDS = 4000 };

static int acquire_or_wait(weft_semaphore *semaphore, probe *party, uint32_t weight) {
  probe_init(party);
  party->waiter.weight = weight;
  return weft_semaphore_acquire_or_wait(semaphore, &party->waiter);
}

static void weights_add_up(void) {
  weft_semaphore *semaphore = weft_semaphore_new(10);
  CHECK(weft_semaphore_try_acquire(semaphore, 4) == WEFT_OK);
  CHECK(weft_semaphore_try_acquire(semaphore, 6) == WEFT_OK);
  CHECK(weft_semaphore_try_acquire(semaphore, 1) == WEFT_WOULD_WAIT);
  CHECK(weft_semaphore_try_acquire(semaphore, 0) == WEFT_OK);
  CHECK(weft_semaphore_try_acquire(semaphore, 11) == WEFT_TOO_LARGE);
  CHECK(weft_semaphore_give_back(semaphore, 11) == WEFT_BELOW_ZERO);
  CHECK(weft_semaphore_held(semaphore) == 10);
  CHECK(weft_semaphore_give_back(semaphore, 10) == WEFT_OK);
  CHECK(weft_semaphore_give_back(semaphore, 1) == WEFT_BELOW_ZERO);
  CHECK(weft_semaphore_held(semaphore) == 0 && weft_semaphore_size(semaphore) == 10);
  weft_semaphore_release(semaphore);
}

static void nobody_overtakes(void) {
  weft_semaphore *semaphore = weft_semaphore_new(10);
  probe large, small, too_large;
  CHECK(weft_semaphore_try_acquire(semaphore, 5) == WEFT_OK);
  CHECK(acquire_or_wait(semaphore, &large, 8) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &small, 1) == WEFT_WOULD_WAIT); /* 5 are left, and yet */
  CHECK(weft_semaphore_try_acquire(semaphore, 1) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &too_large, 11) == WEFT_TOO_LARGE);
  CHECK(weft_semaphore_give_back(semaphore, 2) == WEFT_OK);
  CHECK(large.wakes == 0 && small.wakes == 0);
  CHECK(weft_semaphore_give_back(semaphore, 1) == WEFT_OK);
  CHECK(large.wakes == 1 && small.wakes == 0 && weft_semaphore_held(semaphore) == 10);
  CHECK(weft_semaphore_give_back(semaphore, 8) == WEFT_OK);
  CHECK(small.wakes == 1 && weft_waiter_outcome(&small.waiter) == WEFT_OK);
  CHECK(weft_semaphore_give_back(semaphore, 3) == WEFT_OK);
  weft_semaphore_release(semaphore);
}

static void a_cancelled_head_lets_others_proceed(void) {
  weft_semaphore *semaphore = weft_semaphore_new(10);
  probe head, second, third;
  CHECK(weft_semaphore_try_acquire(semaphore, 5) == WEFT_OK);
  CHECK(acquire_or_wait(semaphore, &head, 8) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &second, 3) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &third, 3) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&head.wait, 1)); /* its context was first */
  weft_semaphore_unwait(semaphore, &head.waiter);
  memset(&head, 0xdd, sizeof head);
  CHECK(second.wakes == 1 && third.wakes == 0 && weft_semaphore_held(semaphore) == 8);
  CHECK(weft_semaphore_give_back(semaphore, 8) == WEFT_OK);
  CHECK(third.wakes == 1);
  weft_semaphore_unwait(semaphore, &third.waiter); /* nothing: it was served */
  CHECK(weft_semaphore_held(semaphore) == 3);
  CHECK(weft_semaphore_give_back(semaphore, 3) == WEFT_OK);
  weft_semaphore_release(semaphore);
}

static void a_lost_wait_holds_nothing(void) {
  weft_semaphore *semaphore = weft_semaphore_new(1);
  probe lost, good;
  CHECK(weft_semaphore_try_acquire(semaphore, 1) == WEFT_OK);
  CHECK(acquire_or_wait(semaphore, &lost, 1) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &good, 1) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&lost.wait, 1));
  CHECK(weft_semaphore_give_back(semaphore, 1) == WEFT_OK);
  CHECK(lost.wakes == 0 && good.wakes == 1 && weft_semaphore_held(semaphore) == 1);
  weft_semaphore_unwait(semaphore, &lost.waiter);
  CHECK(weft_semaphore_give_back(semaphore, 1) == WEFT_OK);
  weft_semaphore_release(semaphore);
}

static void resizing_serves_or_rejects(void) {
  weft_semaphore *semaphore = weft_semaphore_new(4);
  probe four, two;
  CHECK(weft_semaphore_try_acquire(semaphore, 3) == WEFT_OK);
  CHECK(acquire_or_wait(semaphore, &four, 4) == WEFT_WOULD_WAIT);
  CHECK(acquire_or_wait(semaphore, &two, 2) == WEFT_WOULD_WAIT);
  weft_semaphore_resize(semaphore, 3);
  CHECK(four.wakes == 1 && weft_waiter_outcome(&four.waiter) == WEFT_TOO_LARGE);
  CHECK(two.wakes == 0);
  weft_semaphore_resize(semaphore, 2); /* 3 are held */
  CHECK(weft_semaphore_try_acquire(semaphore, 0) == WEFT_WOULD_WAIT);
  CHECK(weft_semaphore_give_back(semaphore, 2) == WEFT_OK);
  CHECK(two.wakes == 0 && weft_semaphore_held(semaphore) == 1);
  weft_semaphore_resize(semaphore, 3);
  CHECK(two.wakes == 1 && weft_waiter_outcome(&two.waiter) == WEFT_OK);
  CHECK(weft_semaphore_held(semaphore) == 3);
  CHECK(weft_semaphore_give_back(semaphore, 3) == WEFT_OK);
  weft_semaphore_release(semaphore);
}

static void wakes_10001(void) {
  weft_semaphore *semaphore = weft_semaphore_new(MANY);
  probe *parties = calloc(MANY, sizeof *parties);
  CHECK(weft_semaphore_try_acquire(semaphore, MANY) == WEFT_OK);
  for (int i = 0; i < MANY; i++)
    CHECK(acquire_or_wait(semaphore, &parties[i], 1) == WEFT_WOULD_WAIT);
  CHECK(weft_semaphore_give_back(semaphore, MANY) == WEFT_OK);
  for (int i = 0; i < MANY; i++)
    CHECK(parties[i].wakes == 1);
  CHECK(weft_semaphore_held(semaphore) == MANY);
  CHECK(weft_semaphore_give_back(semaphore, MANY) == WEFT_OK);
  weft_semaphore_release(semaphore);
  free(parties);
}

/* ---- native threads ---- */

typedef struct shared {
  weft_semaphore *semaphore;
  weft_context *context;
  _Atomic uint32_t inside, most, canceled;
} shared;

static void *enter_and_leave(void *arg) {
  shared *shared = arg;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    uint32_t weight = i % 3 + 1;
    weft_context *context = weft_context_with_cancel(shared->context);
    if (i % 16 == 0)
      weft_context_cancel(context, NULL);
    int rc = weft_semaphore_acquire(context, shared->semaphore, weight);
    weft_context_release(context);
    if (rc == WEFT_CANCELED) {
      atomic_fetch_add(&shared->canceled, 1);
      continue;
    }
    CHECK(rc == WEFT_OK);
    uint32_t inside = atomic_fetch_add(&shared->inside, weight) + weight;
    uint32_t most = atomic_load(&shared->most);
    while (inside > most && !atomic_compare_exchange_weak(&shared->most, &most, inside)) {
    }
    atomic_fetch_sub(&shared->inside, weight);
    CHECK(weft_semaphore_give_back(shared->semaphore, weight) == WEFT_OK);
  }
  return NULL;
}

static void never_more_than_its_size_inside(void) {
  shared shared = {.semaphore = weft_semaphore_new(4), .context = weft_background()};
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, enter_and_leave, &shared);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  CHECK(shared.most <= 4 && shared.most > 0);
  CHECK(shared.canceled == THREADS * ROUNDS / 16);
  CHECK(weft_semaphore_held(shared.semaphore) == 0);
  weft_semaphore_release(shared.semaphore);
}

static int has_waiter(weft_semaphore *semaphore) {
  pthread_mutex_lock(&semaphore->lock);
  int found = semaphore->waiters.head != NULL;
  pthread_mutex_unlock(&semaphore->lock);
  return found;
}

static void *acquire_one(void *arg) {
  shared *shared = arg;
  int rc = weft_semaphore_acquire(shared->context, shared->semaphore, 1);
  atomic_store(&shared->inside, rc == WEFT_OK);
  atomic_store(&shared->canceled, rc == WEFT_CANCELED);
  return NULL;
}

static void a_cancel_meets_a_give_back(void) {
  for (int i = 0; i < ROUNDS / 4; i++) {
    shared shared = {.semaphore = weft_semaphore_new(1),
                     .context = weft_context_with_cancel(weft_background())};
    pthread_t thread;
    CHECK(weft_semaphore_acquire(weft_background(), shared.semaphore, 1) == WEFT_OK);
    pthread_create(&thread, NULL, acquire_one, &shared);
    AWAIT(has_waiter(shared.semaphore));
    if (i % 2)
      weft_context_cancel(shared.context, NULL);
    CHECK(weft_semaphore_give_back(shared.semaphore, 1) == WEFT_OK);
    weft_context_cancel(shared.context, NULL);
    pthread_join(thread, NULL);
    CHECK(shared.canceled + shared.inside == 1 && (i % 2 || shared.inside == 1));
    CHECK(weft_semaphore_held(shared.semaphore) == shared.inside);
    weft_semaphore_release(shared.semaphore);
    weft_context_release(shared.context);
  }
}

int main(void) {
  check_run("semaphore: weights add up", weights_add_up);
  check_run("semaphore: nobody overtakes", nobody_overtakes);
  check_run("semaphore: a cancelled head lets others go on", a_cancelled_head_lets_others_proceed);
  check_run("semaphore: a lost wait holds nothing", a_lost_wait_holds_nothing);
  check_run("semaphore: resizing serves or rejects", resizing_serves_or_rejects);
  check_run("semaphore: wakes 10,001", wakes_10001);
  check_run("semaphore: never more than its size inside", never_more_than_its_size_inside);
  check_run("semaphore: a cancel meets a give-back", a_cancel_meets_a_give_back);
  return check_end();
}
