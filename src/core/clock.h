/* clock.h: the one way to read time. Thread-safe; nothing blocks. */
#ifndef WEFT_CORE_CLOCK_H
#define WEFT_CORE_CLOCK_H

#include <stdint.h>

typedef struct weft_clock {
  uint64_t (*now_ns)(void); /* monotonic, nanoseconds */
  uint64_t (*coarse_ns)(void);
} weft_clock;

uint64_t weft_clock_now_ns(void);
/* The same within some milliseconds, for less: for ages and the like. */
uint64_t weft_clock_coarse_ns(void);
/* The system's own, whatever clock is set: for what spins, and for what the outside times. */
uint64_t weft_clock_real_ns(void);
/* Replaces the clock for the whole process; NULL brings the real one back. The table must stay valid. */
void weft_clock_set(const weft_clock *clock);
/* now + seconds as an absolute time; negative and NaN give now, huge values WEFT_NEVER_NS. */
uint64_t weft_clock_after_s(double seconds);

#endif
