/* test_budget.c: reservations never exceed the limit, whoever makes them. */
#include "budget.h"
#include "check.h"
#include "mem.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 20000 };

typedef struct spender_thread {
  weft_budget *budget;
  weft_context *context;
  int outcome;
} spender_thread;

static void amounts_add_up(void) {
  weft_budget *budget = weft_budget_new(100, 0.5);
  CHECK(weft_budget_try_reserve(budget, 101) == WEFT_TOO_LARGE);
  CHECK(weft_budget_try_reserve(budget, 60) == WEFT_OK);
  CHECK(weft_budget_try_reserve(budget, 41) == WEFT_WOULD_WAIT);
  CHECK(weft_budget_read(budget).remaining == 40);
  CHECK(weft_budget_settle(budget, 61, 0) == WEFT_BELOW_ZERO);
  CHECK(weft_budget_settle(budget, 60, 49) == 0 && !weft_budget_read(budget).is_warned);
  CHECK(weft_budget_try_reserve(budget, 51) == WEFT_OK);
  CHECK(weft_budget_settle(budget, 51, 70) == 1 && weft_budget_read(budget).is_warned);
  CHECK(weft_budget_read(budget).spent == 119 && weft_budget_read(budget).remaining == 0);
  weft_budget_add(budget, 100, 50);
  CHECK(weft_budget_read(budget).limit == 169 && weft_budget_read(budget).remaining == 50);
  weft_budget_add(budget, WEFT_BUDGET_MAX, WEFT_BUDGET_MAX);
  CHECK(weft_budget_read(budget).limit == WEFT_BUDGET_MAX);
  weft_budget_release(budget);
}

static int reserve_or_wait(weft_budget *budget, probe *party, int64_t amount) {
  probe_init(party);
  weft_budget_ask(&party->waiter, amount);
  return weft_budget_reserve_or_wait(budget, &party->waiter);
}

static void waiters_are_served_in_order_or_rejected(void) {
  weft_budget *budget = weft_budget_new(100, 0);
  probe large, small, hopeless;
  CHECK(weft_budget_try_reserve(budget, 80) == WEFT_OK);
  CHECK(reserve_or_wait(budget, &hopeless, 101) == WEFT_TOO_LARGE);
  CHECK(reserve_or_wait(budget, &large, 90) == WEFT_WOULD_WAIT);
  CHECK(reserve_or_wait(budget, &small, 10) == WEFT_WOULD_WAIT); /* nobody overtakes */
  CHECK(weft_budget_try_reserve(budget, 1) == WEFT_WOULD_WAIT);
  CHECK(weft_budget_settle(budget, 80, 30) == 0); /* 70 are left: 90 will never be */
  CHECK(large.wakes == 1 && weft_waiter_outcome(&large.waiter) == WEFT_TOO_LARGE);
  CHECK(small.wakes == 1 && weft_waiter_outcome(&small.waiter) == WEFT_OK);
  CHECK(weft_budget_read(budget).reserved == 10);
  CHECK(weft_budget_settle(budget, 10, 0) == 0);
  CHECK(weft_budget_try_reserve(budget, 70) == WEFT_OK);
  CHECK(reserve_or_wait(budget, &large, 50) == WEFT_WOULD_WAIT);
  CHECK(reserve_or_wait(budget, &small, 10) == WEFT_WOULD_WAIT);
  weft_budget_add(budget, 20, WEFT_BUDGET_MAX);
  CHECK(large.wakes == 0 && small.wakes == 0);
  CHECK(weft_wait_claim(&large.wait, 1)); /* its context was first */
  weft_budget_unwait(budget, &large.waiter);
  CHECK(small.wakes == 1);
  weft_budget_unwait(budget, &small.waiter); /* nothing: it was served */
  weft_budget_release(budget);
}

static void *block(void *arg) {
  spender_thread *self = arg;
  self->outcome = weft_budget_reserve(self->context, self->budget, 10);
  return NULL;
}

static void without_memory_there_is_none(void) {
  weft_mem_fail_at(1);
  CHECK(weft_budget_new(1, 0) == NULL);
  weft_mem_fail_at(0);
}

static void native_threads_block(void) {
  spender_thread self = {weft_budget_new(10, 0), weft_context_with_cancel(weft_background()), 0};
  pthread_t thread;
  CHECK(weft_budget_try_reserve(self.budget, 10) == WEFT_OK);
  CHECK(pthread_create(&thread, NULL, block, &self) == 0);
  CHECK(weft_budget_settle(self.budget, 10, 0) == 0);
  pthread_join(thread, NULL);
  CHECK(self.outcome == WEFT_OK);
  CHECK(pthread_create(&thread, NULL, block, &self) == 0);
  weft_context_cancel(self.context, NULL);
  pthread_join(thread, NULL);
  CHECK(self.outcome == WEFT_CANCELED && weft_budget_read(self.budget).reserved == 10);
  weft_context_release(self.context);
  weft_budget_release(self.budget);
}

typedef struct spender {
  weft_budget *budget;
  int64_t spent;
  int warnings;
} spender;

static void *spend(void *arg) {
  spender *self = arg;
  for (int i = 0; i < ROUNDS; i++) {
    if (weft_budget_try_reserve(self->budget, 3) != WEFT_OK)
      continue;
    int64_t actual = i % 3;
    self->warnings += weft_budget_settle(self->budget, 3, actual);
    self->spent += actual;
  }
  return NULL;
}

static void threads_never_overspend(void) {
  weft_budget *budget = weft_budget_new(ROUNDS, 0.8);
  pthread_t threads[THREADS];
  spender spenders[THREADS] = {{0}};
  int64_t spent = 0;
  int warnings = 0;
  for (int i = 0; i < THREADS; i++) {
    spenders[i].budget = budget;
    CHECK(pthread_create(&threads[i], NULL, spend, &spenders[i]) == 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    spent += spenders[i].spent;
    warnings += spenders[i].warnings;
  }
  CHECK(spent == weft_budget_read(budget).spent && spent <= ROUNDS && warnings == 1);
  CHECK(weft_budget_read(budget).remaining == ROUNDS - spent);
  weft_budget_release(budget);
}

int main(void) {
  check_run("budget: amounts add up", amounts_add_up);
  check_run("budget: waiters are served in order, or rejected",
            waiters_are_served_in_order_or_rejected);
  check_run("budget: without memory there is none", without_memory_there_is_none);
  check_run("budget: native threads block", native_threads_block);
  check_run("budget: threads never overspend", threads_never_overspend);
  return check_end();
}
