/* random.c: numbers that look random.
 *
 * Owns a counter a thread, and the seed and counter of a sequence that can be repeated. Any thread
 * enters. Invariant: while there is a seed, the nth number after it was set depends on nothing
 * else.
 */
#include "random.h"

#include "clock.h"
#include "platform.h"

static _Atomic uint64_t seed;
static _Atomic uint64_t seeded_count;

static uint64_t own_random(void) {
  static __thread uint64_t state;
  if (!state)
    state = weft_mix(weft_clock_real_ns() ^ (uint64_t)(uintptr_t)&state);
  return weft_mix(state++);
}

uint64_t weft_random(void) {
  uint64_t base = atomic_load_explicit(&seed, memory_order_relaxed);
  return base ? weft_mix(base + atomic_fetch_add(&seeded_count, 1)) : own_random();
}

double weft_random_fraction(void) {
  return (double)(weft_random() >> 11) / 9007199254740992.0;
}

void weft_random_seed(uint64_t new_seed) {
  atomic_store(&seeded_count, 0);
  atomic_store(&seed, new_seed ? weft_mix(new_seed) | 1 : 0);
}
