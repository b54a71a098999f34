/* census.c: counts the parties that are awake, and acts when none is.
 *
 * Owns the counts. Any thread enters. Invariant: `awake` is never lower than the number of parties
 * that run or have been woken; it is raised before the wake can be seen and lowered after the sleep
 * can.
 *
 * A script that was interrupted by a signal's handler runs for a moment while it does not count. It
 * can only find itself told that it is stuck, which it was.
 */
#include "census.h"

#include "clock.h"
#include "io.h"
#include "platform.h"
#include "signals.h"
#include "timer.h"

#include <pthread.h>

static _Atomic uint32_t awake;
static _Atomic uint32_t scripts;
static _Atomic uint32_t holds;
static _Atomic int has_strangers;
static void (*_Atomic on_stuck)(void);

/* Of the parties only the thread that forked is left. Scripts on other threads count as awake for
 * ever, so nothing is said of them. */
static void after_fork_in_child(void) {
  atomic_store(&awake, atomic_load(&scripts));
  atomic_store(&holds, 0);
}

static void register_fork_handler(void) {
  pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* ---- what can be done when nobody is awake ---- */

enum { NOTHING, JUMP, STUCK };

static int may_be_stuck(void) {
  return atomic_load(&on_stuck) && atomic_load(&scripts) > 0 && !atomic_load(&has_strangers) &&
         weft_timers_live() == 0 && !weft_signals_are_awaited();
}

static int what_to_do(void) {
  if (atomic_load(&holds) > 0)
    return NOTHING;
  if (weft_clock_is_virtual() && weft_timers_next_ns() != WEFT_NEVER_NS)
    return JUMP;
  return may_be_stuck() ? STUCK : NOTHING;
}

/* The I/O thread does it, when it finds everybody asleep in its turn. */
static void call_io_thread(void) {
  if (what_to_do() != NOTHING && weft_io_start() == 0)
    weft_io_wake();
}

/* ---- parties ---- */

void weft_census_enter(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_fork_handler);
  atomic_fetch_add(&awake, 1);
}

void weft_census_leave(void) {
  weft_census_sleep();
}

void weft_census_withdraw(void) {
  atomic_fetch_sub(&awake, 1);
}

void weft_census_enter_script(void) {
  weft_census_enter();
  atomic_fetch_add(&scripts, 1);
}

void weft_census_leave_script(void) {
  atomic_fetch_sub(&scripts, 1);
  weft_census_leave();
}

void weft_census_sleep(void) {
  if (atomic_fetch_sub(&awake, 1) == 1)
    call_io_thread();
}

void weft_census_wake(void) {
  atomic_fetch_add(&awake, 1);
}

uint32_t weft_census_awake(void) {
  return atomic_load(&awake);
}

/* ---- the outside ---- */

void weft_census_hold(void) {
  atomic_fetch_add(&holds, 1);
}

/* By a party, which is awake: it will look when it sleeps. */
void weft_census_release(void) {
  atomic_fetch_sub(&holds, 1);
}

void weft_census_meet_stranger(void) {
  if (!atomic_load_explicit(&has_strangers, memory_order_relaxed))
    atomic_store(&has_strangers, 1);
}

void weft_census_on_stuck(void (*stuck)(void)) {
  atomic_store(&on_stuck, stuck);
}

/* ---- the I/O thread ---- */

int weft_census_sleep_or_act(void) {
  if (atomic_fetch_sub(&awake, 1) != 1)
    return 0;
  int what = what_to_do();
  if (what == NOTHING)
    return 0;
  weft_census_wake();
  void (*stuck)(void) = atomic_load(&on_stuck);
  if (what == JUMP)
    weft_timers_jump();
  else
    stuck();
  return 1;
}
