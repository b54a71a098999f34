/* clock.c: time, through a table: the system's monotonic clock, or one that stands until it is
 * moved.
 *
 * Owns the pointer to the current table, the virtual time and how far that has run ahead. Any
 * thread enters. Invariant: time never goes backwards: after a virtual clock the real one goes on
 * from there.
 */
#include "clock.h"

#include "platform.h"

#include <math.h>
#include <time.h>

#ifndef CLOCK_MONOTONIC_COARSE /* Linux: as of the last tick, for less */
#define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

static uint64_t read_ns(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t weft_clock_real_ns(void) {
  return read_ns(CLOCK_MONOTONIC);
}

static _Atomic uint64_t virtual_ns; /* while the clock is virtual */
static _Atomic uint64_t ahead_ns;   /* of the system's clock, by the virtual clocks before */

static uint64_t now_ns(void) {
  return weft_clock_real_ns() + atomic_load_explicit(&ahead_ns, memory_order_relaxed);
}

static uint64_t coarse_ns(void) {
  return read_ns(CLOCK_MONOTONIC_COARSE) + atomic_load_explicit(&ahead_ns, memory_order_relaxed);
}

static uint64_t virtual_now_ns(void) {
  return atomic_load(&virtual_ns);
}

static const weft_clock real_clock = {now_ns, coarse_ns};
static const weft_clock virtual_clock = {virtual_now_ns, virtual_now_ns};
static _Atomic(const weft_clock *) current_clock = &real_clock;

uint64_t weft_clock_now_ns(void) {
  return atomic_load_explicit(&current_clock, memory_order_acquire)->now_ns();
}

uint64_t weft_clock_coarse_ns(void) {
  const weft_clock *clock = atomic_load_explicit(&current_clock, memory_order_acquire);
  return clock->coarse_ns ? clock->coarse_ns() : clock->now_ns();
}

uint64_t weft_clock_outside_ns(void) {
  const weft_clock *clock = atomic_load_explicit(&current_clock, memory_order_acquire);
  return clock == &real_clock || clock == &virtual_clock ? weft_clock_real_ns() : clock->now_ns();
}

void weft_clock_set(const weft_clock *clock) {
  atomic_store(&current_clock, clock ? clock : &real_clock);
}

int weft_clock_is_virtual(void) {
  return atomic_load_explicit(&current_clock, memory_order_relaxed) == &virtual_clock;
}

int weft_clock_start_virtual(void) {
  const weft_clock *expected = &real_clock;
  uint64_t start_ns = now_ns();
  if (weft_clock_is_virtual())
    return 0;
  atomic_store(&virtual_ns, start_ns);
  return atomic_compare_exchange_strong(&current_clock, &expected, &virtual_clock);
}

void weft_clock_stop_virtual(void) {
  if (!weft_clock_is_virtual())
    return;
  uint64_t at_ns = atomic_load(&virtual_ns), real_ns = weft_clock_real_ns();
  if (at_ns > real_ns + atomic_load(&ahead_ns))
    atomic_store(&ahead_ns, at_ns - real_ns);
  atomic_store(&current_clock, &real_clock);
}

void weft_clock_move(uint64_t at_ns) {
  uint64_t seen_ns = atomic_load(&virtual_ns);
  while (at_ns > seen_ns && !atomic_compare_exchange_weak(&virtual_ns, &seen_ns, at_ns)) {
  }
}

uint64_t weft_clock_after_s(double seconds) {
  uint64_t now_ns = weft_clock_now_ns();
  if (!(seconds > 0))
    return now_ns;
  if (seconds >= 9e9) /* 285 years */
    return WEFT_NEVER_NS;
  return now_ns + (uint64_t)(seconds * 1e9);
}
