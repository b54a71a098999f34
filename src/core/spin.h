/* spin.h: to look for news for a while before sleeping, since to wake a sleeping thread costs more.
 *
 * One thread. Who looked in vain looks for a shorter time next: on a machine where the other thread
 * has no processor to run on, looking only keeps it waiting.
 */
#ifndef WEFT_CORE_SPIN_H
#define WEFT_CORE_SPIN_H

#include "clock.h"
#include "platform.h"

enum { WEFT_SPIN_NS = 20000, WEFT_SPIN_SHYEST = 3 };

typedef struct weft_spin { /* starts as zeros */
  uint8_t shyness;         /* how often the time was halved */
} weft_spin;

/* A pause is some 20 to 50 ns on today's processors. */
static inline void weft_spin_pause(int pauses) {
  for (int i = 0; i < pauses; i++)
    weft_cpu_relax();
}

/* Looks again and again, with pauses, since each look takes a cache line from whoever brings the
 * news. Returns 1 when look(arg) did. */
static inline int weft_spin_until(weft_spin *spin, int (*look)(void *arg), void *arg) {
  enum { LOOKS_PER_CLOCK = 16, PAUSES_PER_LOOK = 3 };
  uint64_t until_ns = weft_clock_real_ns() + (WEFT_SPIN_NS >> spin->shyness);
  do
    for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
      if (look(arg)) {
        spin->shyness -= spin->shyness > 0;
        return 1;
      }
      weft_spin_pause(PAUSES_PER_LOOK);
    }
  while (weft_clock_real_ns() < until_ns);
  spin->shyness += spin->shyness < WEFT_SPIN_SHYEST;
  return 0;
}

#endif
