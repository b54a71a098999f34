/* test_budget.c: reservations never exceed the limit, whoever makes them. */
#include "budget.h"
#include "check.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 20000 };

static void amounts_add_up(void) {
  weft_budget *budget = weft_budget_new(100, 0.5);
  CHECK(weft_budget_reserve(budget, 101) == WEFT_TOO_LARGE);
  CHECK(weft_budget_reserve(budget, 60) == WEFT_OK);
  CHECK(weft_budget_reserve(budget, 41) == WEFT_WOULD_WAIT);
  CHECK(weft_budget_remaining(budget) == 40);
  CHECK(weft_budget_settle(budget, 61, 0) == WEFT_BELOW_ZERO);
  CHECK(weft_budget_settle(budget, 60, 49) == 0 && !weft_budget_is_warned(budget));
  CHECK(weft_budget_reserve(budget, 51) == WEFT_OK);
  CHECK(weft_budget_settle(budget, 51, 70) == 1 && weft_budget_is_warned(budget));
  CHECK(weft_budget_spent(budget) == 119 && weft_budget_remaining(budget) == 0);
  weft_budget_add(budget, 100, 50);
  CHECK(weft_budget_limit(budget) == 169 && weft_budget_remaining(budget) == 50);
  weft_budget_add(budget, WEFT_BUDGET_MAX, WEFT_BUDGET_MAX);
  CHECK(weft_budget_limit(budget) == WEFT_BUDGET_MAX);
  weft_budget_release(budget);
}

typedef struct spender {
  weft_budget *budget;
  int64_t spent;
  int warnings;
} spender;

static void *spend(void *arg) {
  spender *self = arg;
  for (int i = 0; i < ROUNDS; i++) {
    if (weft_budget_reserve(self->budget, 3) != WEFT_OK)
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
  CHECK(spent == weft_budget_spent(budget) && spent <= ROUNDS && warnings == 1);
  CHECK(weft_budget_remaining(budget) == ROUNDS - spent);
  weft_budget_release(budget);
}

int main(void) {
  check_run("budget: amounts add up", amounts_add_up);
  check_run("budget: threads never overspend", threads_never_overspend);
  return check_end();
}
