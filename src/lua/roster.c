/* roster.c: the list of the process's schedulers.
 *
 * Owns the list's links. Each state's thread enters and leaves; any thread visits. Invariant: a
 * scheduler on the list is alive and takes its inbox at least once more, so a message sent under
 * the lock is received.
 *
 * Lock order: `lock`, then a pool's lock.
 */
#include "roster.h"

#include "census.h"
#include "deadlock.h"
#include "platform.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weft_scheduler *seats; /* guarded by lock */
static uint64_t retired_done; /* guarded by lock */
static uint64_t walks;        /* guarded by lock */

static void renew_lock(void) {
  weft_process_renew_lock(&lock);
}

void weft_roster_enter(weft_scheduler *scheduler) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, renew_lock);
  pthread_mutex_lock(&lock);
  scheduler->process = weft_process_generation();
  scheduler->prev_seat = NULL;
  scheduler->next_seat = seats;
  if (seats)
    seats->prev_seat = scheduler;
  seats = scheduler;
  pthread_mutex_unlock(&lock);
  if (!scheduler->worker) {
    weft_deadlock_watch();
    weft_census_enter_script();
  }
}

void weft_roster_leave(weft_scheduler *scheduler) {
  pthread_mutex_lock(&lock);
  retired_done += atomic_load_explicit(&scheduler->done, memory_order_relaxed);
  if (scheduler->prev_seat)
    scheduler->prev_seat->next_seat = scheduler->next_seat;
  else
    seats = scheduler->next_seat;
  if (scheduler->next_seat)
    scheduler->next_seat->prev_seat = scheduler->prev_seat;
  pthread_mutex_unlock(&lock);
  if (!scheduler->worker)
    weft_census_leave_script();
}

/* In the child of a fork the parent's workers are still on the list, in memory that stays. */
static int is_alive(const weft_scheduler *scheduler) {
  return !scheduler->worker || scheduler->process == weft_process_generation();
}

uint64_t weft_roster_each(void (*visit)(weft_scheduler *, void *), void *arg) {
  pthread_mutex_lock(&lock);
  walks++;
  for (weft_scheduler *scheduler = seats; scheduler; scheduler = scheduler->next_seat)
    if (is_alive(scheduler))
      visit(scheduler, arg);
  uint64_t done = retired_done;
  pthread_mutex_unlock(&lock);
  return done;
}

int weft_roster_meets_first(weft_pool *pool, uint32_t place) {
  if (pool->walk == walks)
    return 0;
  pool->walk = walks;
  pool->walk_place = place;
  return 1;
}
