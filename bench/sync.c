/* sync.c: what the core's primitives cost from C when nobody is in the way.
 *
 * One round of what is named; prints "name<TAB>figure<TAB>unit".
 * usage: bench_sync semaphore|limiter|select …
 */
#include "limiter.h"
#include "select.h"
#include "semaphore.h"

#include <stdio.h>
#include <string.h>

enum { ROUNDS = 2000000, CASES = 8 };

static void report(const char *name, uint64_t started_ns, uint32_t count) {
  printf("%s\t%.2f\tns\n", name, (double)(weft_now_ns() - started_ns) / count);
}

static void semaphore(void) {
  weft_semaphore *semaphore = weft_semaphore_new(4);
  uint64_t started_ns = weft_now_ns();
  for (int i = 0; i < ROUNDS; i++) {
    weft_semaphore_acquire(weft_background(), semaphore, 1);
    weft_semaphore_give_back(semaphore, 1);
  }
  report("semaphore, acquire and release", started_ns, ROUNDS);
  weft_semaphore_release(semaphore);
}

static void limiter(void) {
  weft_limiter *limiter = weft_limiter_new(1e9, 1000000000);
  uint64_t started_ns = weft_now_ns();
  for (int i = 0; i < ROUNDS; i++)
    weft_limiter_wait(weft_background(), limiter, 1);
  report("limiter, wait that need not wait", started_ns, ROUNDS);
  weft_limiter_release(limiter);
}

static void choose(void) {
  weft_select_case cases[CASES];
  weft_parcel value, slot;
  weft_select select;
  uint32_t index;
  weft_parcel_init(&value);
  weft_parcel_init(&slot);
  for (int i = 0; i < CASES; i++)
    cases[i] = (weft_select_case){
        .kind = WEFT_SELECT_RECV, .channel = weft_channel_new(1), .value = &slot};
  uint64_t started_ns = weft_now_ns();
  for (int i = 0; i < ROUNDS / 10; i++) {
    weft_channel_try_send(cases[i % CASES].channel, &value);
    weft_select_init(&select, cases, CASES, 0);
    weft_select_wait(weft_background(), &select, &index);
  }
  report("send, then select over 8 channels", started_ns, ROUNDS / 10);
  for (int i = 0; i < CASES; i++)
    weft_channel_release(cases[i].channel);
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "semaphore") == 0)
      semaphore();
    else if (strcmp(argv[i], "limiter") == 0)
      limiter();
    else if (strcmp(argv[i], "select") == 0)
      choose();
  }
  return 0;
}
