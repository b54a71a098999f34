/* clock.c: reads the monotonic clock through a table that tests can replace.
 *
 * Owns the pointer to the current table. Any thread enters. Invariant: time never goes backwards
 * with the real table.
 */
#include "clock.h"

#include "platform.h"

#include <math.h>
#include <time.h>

static uint64_t read_ns(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t weft_clock_real_ns(void) {
  return read_ns(CLOCK_MONOTONIC);
}

static uint64_t real_coarse_ns(void) {
  return read_ns(CLOCK_MONOTONIC_COARSE);
}

static const weft_clock real_clock = {weft_clock_real_ns, real_coarse_ns};
static _Atomic(const weft_clock *) current_clock = &real_clock;

uint64_t weft_clock_now_ns(void) {
  return atomic_load_explicit(&current_clock, memory_order_acquire)->now_ns();
}

uint64_t weft_clock_coarse_ns(void) {
  return atomic_load_explicit(&current_clock, memory_order_acquire)->coarse_ns();
}

void weft_clock_set(const weft_clock *clock) {
  atomic_store(&current_clock, clock ? clock : &real_clock);
}

uint64_t weft_clock_after_s(double seconds) {
  uint64_t now_ns = weft_clock_now_ns();
  if (!(seconds > 0))
    return now_ns;
  if (seconds >= 9e9) /* 285 years */
    return WEFT_NEVER_NS;
  return now_ns + (uint64_t)(seconds * 1e9);
}
