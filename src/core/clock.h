/* clock.h: the one way to read time. Thread-safe; nothing blocks. */
#ifndef WEFT_CORE_CLOCK_H
#define WEFT_CORE_CLOCK_H

#include <stdint.h>

typedef struct weft_clock {
  uint64_t (*now_ns)(void);    /* monotonic, nanoseconds */
  uint64_t (*coarse_ns)(void); /* NULL: as now_ns */
} weft_clock;

/* By the clock that is set. */
uint64_t weft_clock_now_ns(void);
/* The same within some milliseconds, for less: for ages and the like. */
uint64_t weft_clock_coarse_ns(void);
/* The system's own, whatever clock is set: for what spins and sleeps. */
uint64_t weft_clock_real_ns(void);
/* For what is timed together with the outside world (transfers, time slices): as the clock that is
 * set, but not the virtual one. */
uint64_t weft_clock_outside_ns(void);
/* Replaces the clock for the whole process; NULL brings the real one back. The table must stay
 * valid. */
void weft_clock_set(const weft_clock *clock);

/* ---- the virtual clock: stands still until it is moved ---- */

/* From now on, for the whole process. Returns 1, or 0 when it runs already. */
int weft_clock_start_virtual(void);
/* Time goes on by itself again, from where it stands: it never goes back. */
void weft_clock_stop_virtual(void);
int weft_clock_is_virtual(void);
/* Moves it forward to `at_ns`; nothing when that is past. */
void weft_clock_move(uint64_t at_ns);
/* now + seconds as an absolute time; negative and NaN give now, huge values WEFT_NEVER_NS. */
uint64_t weft_clock_after_s(double seconds);

#endif
