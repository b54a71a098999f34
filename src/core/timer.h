/* timer.h: things that happen at a time, on the I/O thread. Internal to the core and its binding.
 *
 * A timer lives in its owner's memory and needs no allocation, so starting one fails only when the
 * I/O thread cannot be started.
 */
#ifndef WEFT_CORE_TIMER_H
#define WEFT_CORE_TIMER_H

#include "waiter.h"

#include <stdint.h>

typedef struct weft_timer weft_timer;
struct weft_timer {
  weft_timer *child, *next, *prev; /* pairing heap; guarded by the timers' lock */
  uint64_t at_ns;
  uint64_t order; /* of timers of the same instant */
  /* When due, under the timers' lock: returns 1 when fire shall follow, having made sure that the
   * owner outlives it. Must not lock anything but leaves, nor block. */
  int (*claim)(weft_timer *timer);
  void (*fire)(weft_timer *timer); /* then, on the I/O thread, without locks */
  uint32_t process;                /* the fork generation that it was started in */
  uint8_t is_queued;
  uint8_t is_outside; /* of weft_clock_outside_ns, whatever the virtual clock says; set before the
                         start */
  uint8_t is_last;    /* comes after all others of its instant; set before the start */
};

static inline void weft_timer_init(weft_timer *timer, int (*claim)(weft_timer *),
                                   void (*fire)(weft_timer *)) {
  *timer = (weft_timer){.claim = claim, .fire = fire};
}

/* Starts it (it must not be running). Any thread; does not block. Returns 0 or an errno value. */
int weft_timer_start(weft_timer *timer, uint64_t at_ns);
/* Returns 1 when it was taken out before it was due. On return claim is not running and will not.
 */
int weft_timer_stop(weft_timer *timer);
/* Those that are not outside timers. */
uint32_t weft_timers_live(void);
/* From now on timers of the same instant fire in an order that the seed decides; 0: in the order of
 * their starts. */
void weft_timers_shuffle(uint64_t seed);

/* ---- for the I/O loop ---- */

/* How long until the next timer is due, by itself; WEFT_NEVER_NS when none is. */
uint64_t weft_timers_left_ns(void);
/* Fires what is due; of the virtual clock nothing is, but by a jump. */
void weft_timers_run(void);
/* When the next timer is due that is not an outside timer. */
uint64_t weft_timers_next_ns(void);
/* Moves the virtual clock to the next timer and fires it alone, so that what follows from it comes
 * before the next one. */
void weft_timers_jump(void);

/* Around a fork: the child finds the lock free. */
void weft_timers_before_fork(void);
void weft_timers_after_fork(void);

/* ---- a wait that ends at a time ---- */

typedef struct weft_wait_timer {
  weft_timer timer; /* first */
  weft_wait *wait;
  uint32_t index;
} weft_wait_timer;

/* In two steps: between them its flags may be set; then weft_timer_start. */
void weft_wait_timer_init(weft_wait_timer *timer, weft_wait *wait, uint32_t index);
/* Claims `wait` as source `index` at `at_ns`. The owner stops it after waking. */
int weft_wait_timer_start(weft_wait_timer *timer, weft_wait *wait, uint32_t index, uint64_t at_ns);

#endif
