/* embed.c: the core without Lua: an errgroup of C functions with a deadline.
 *
 * usage: make embed
 *
 * Eight tasks count primes on native threads; a ninth sleeps for an hour and is cut short by the
 * deadline of 0.3 seconds, which the group reports as its error.
 */
#include "weft.h"

#include <stdio.h>

typedef struct range {
  int from, to, primes;
} range;

static int is_prime(int n) {
  for (int d = 2; d * d <= n; d++)
    if (n % d == 0)
      return 0;
  return n > 1;
}

static weft_error *count_primes(weft_context *context, void *arg) {
  range *work = arg;
  for (int n = work->from; n < work->to; n++) {
    if (weft_context_is_done(context))
      return weft_context_error(context);
    work->primes += is_prime(n);
  }
  return NULL;
}

static weft_error *sleep_for_an_hour(weft_context *context, void *arg) {
  (void)arg;
  return weft_sleep(context, 3600) == WEFT_OK ? NULL : weft_context_error(context);
}

static weft_error *run(weft_group *group, range *ranges, int count) {
  for (int i = 0; i < count; i++)
    if (weft_group_go(group, count_primes, &ranges[i]) != WEFT_OK)
      return weft_error_new("embed", "a task could not be started");
  if (weft_group_go(group, sleep_for_an_hour, NULL) != WEFT_OK)
    return weft_error_new("embed", "the sleeper could not be started");
  return weft_group_wait(group);
}

int main(void) {
  range ranges[8];
  int primes = 0;
  for (int i = 0; i < 8; i++)
    ranges[i] = (range){i * 10000, (i + 1) * 10000, 0};
  weft_pool *pool = weft_pool_new(&(weft_pool_config){.name = "embed", .threads = 3});
  weft_context *context = weft_context_with_timeout(weft_background(), 0.3, NULL);
  weft_group *group = pool && context ? weft_group_new(context, pool, 4) : NULL;
  if (!group)
    return 1;
  weft_error *error = run(group, ranges, 8);
  for (int i = 0; i < 8; i++)
    primes += ranges[i].primes;
  printf("%d primes below 80000\n", primes);
  printf("the group ended with: %s (%s)\n", error ? weft_error_message(error) : "no error",
         error ? weft_error_kind(error) : "none");
  int as_expected = error && primes == 7837;
  weft_error_release(error);
  weft_group_close(group);
  weft_context_release(context);
  weft_pool_close(pool, -1);
  weft_pool_release(pool);
  return as_expected ? 0 : 1;
}
