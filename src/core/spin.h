/* spin.h: to look for news for a while before sleeping, since to wake a sleeping thread costs more.
 *
 * One thread. Who looked in vain looks for a shorter time next: on a machine where the other thread
 * has no processor to run on, looking only keeps it waiting. But two threads that answer each other
 * and both sleep in between may have been put on one processor, beside an idle one: as long as they
 * run in turn the system sees no reason to move one. So every now and then one looks for longer
 * than the system takes to notice.
 */
#ifndef WEFT_CORE_SPIN_H
#define WEFT_CORE_SPIN_H

#include "clock.h"
#include "platform.h"

enum {
  WEFT_SPIN_NS = 20000,
  WEFT_SPIN_SHYEST = 3,
  WEFT_SPIN_LONG_NS = 6000000,
  WEFT_SPIN_LONG_AFTER = 2048, /* failures */
};

typedef struct weft_spin { /* starts as zeros */
  uint16_t failures;       /* since the last long look; a success takes one away */
  uint8_t shyness;         /* how often the time was halved */
} weft_spin;

/* A pause is some 20 to 50 ns on today's processors. */
static inline void weft_spin_pause(int pauses) {
  for (int i = 0; i < pauses; i++)
    weft_cpu_relax();
}

/* How long to look this time. */
static inline uint64_t weft_spin_budget_ns(const weft_spin *spin) {
  return spin->failures >= WEFT_SPIN_LONG_AFTER ? WEFT_SPIN_LONG_NS : WEFT_SPIN_NS >> spin->shyness;
}

static inline void weft_spin_learn(weft_spin *spin, int found) {
  int was_long = spin->failures >= WEFT_SPIN_LONG_AFTER;
  if (was_long)
    spin->failures = 0;
  if (found) {
    spin->shyness = was_long ? 0 : spin->shyness - (spin->shyness > 0);
    spin->failures -= spin->failures > 0;
  } else {
    spin->shyness += spin->shyness < WEFT_SPIN_SHYEST;
    spin->failures++;
  }
}

/* Looks again and again, with pauses, since each look takes a cache line from whoever brings the
 * news. Returns 1 when look(arg) did. */
static inline int weft_spin_until(weft_spin *spin, int (*look)(void *arg), void *arg) {
  enum { LOOKS_PER_CLOCK = 16, PAUSES_PER_LOOK = 3 };
  uint64_t until_ns = weft_clock_real_ns() + weft_spin_budget_ns(spin);
  int found = 0;
  do
    for (int i = 0; i < LOOKS_PER_CLOCK && !(found = look(arg)); i++)
      weft_spin_pause(PAUSES_PER_LOOK);
  while (!found && weft_clock_real_ns() < until_ns);
  weft_spin_learn(spin, found);
  return found;
}

#endif
