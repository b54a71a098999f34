/* check.h: a test runner in one header, and what the core's tests share.
 *
 * A test is a function; it fails when one CHECK in it fails. One thread runs tests, any thread may
 * CHECK. Tests wait for events, never for a time to pass; one that hangs ends the process by
 * SIGALRM after CHECK_HANG_S, with its name as the last line.
 */
#ifndef WEFT_SPEC_CHECK_H
#define WEFT_SPEC_CHECK_H

#include "clock.h"
#include "io.h"
#include "platform.h"
#include "waiter.h"
#include "weft.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHECK_HANG_S = 300 };
#define COUNT(array) (sizeof(array) / sizeof *(array))

static int check_passed, check_failed;
static _Atomic int check_broken; /* CHECKs that failed in this test */

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition) && atomic_fetch_add(&check_broken, 1) < 5)                                    \
      printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);                                     \
  } while (0)

__attribute__((unused)) static void check_run(const char *name, void (*test)(void)) {
  printf("# %s\n", name);
  fflush(stdout);
  alarm(CHECK_HANG_S);
  atomic_store(&check_broken, 0);
  test();
  alarm(0);
  int ok = atomic_load(&check_broken) == 0;
  printf("%s %s\n", ok ? "ok" : "not ok", name);
  check_passed += ok;
  check_failed += !ok;
}

/* ---- events ---- */

/* Yields until the condition holds: for what has no event of its own, such as the end of a
 * thread. */
#define AWAIT(condition)                                                                           \
  do {                                                                                             \
    while (!(condition))                                                                           \
      sched_yield();                                                                               \
  } while (0)

typedef struct gate { /* a count that threads can wait for */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint32_t count; /* guarded by lock */
} gate;
#define GATE                                                                                       \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 }

__attribute__((unused)) static void gate_add(gate *gate, uint32_t count) {
  pthread_mutex_lock(&gate->lock);
  gate->count += count;
  pthread_cond_broadcast(&gate->changed);
  pthread_mutex_unlock(&gate->lock);
}

__attribute__((unused)) static void gate_await(gate *gate, uint32_t count) {
  pthread_mutex_lock(&gate->lock);
  while (gate->count < count)
    pthread_cond_wait(&gate->changed, &gate->lock);
  pthread_mutex_unlock(&gate->lock);
}

/* ---- a blocked party that only counts its wakes ---- */

typedef struct probe {
  weft_wait wait; /* first */
  weft_waiter waiter;
  _Atomic uint32_t wakes;
} probe;

static void probe_wake(weft_wait *wait) {
  atomic_fetch_add(&((probe *)wait)->wakes, 1);
}

__attribute__((unused)) static void probe_init(probe *probe) {
  weft_wait_init(&probe->wait, probe_wake);
  weft_waiter_init(&probe->waiter, &probe->wait, 0);
  atomic_init(&probe->wakes, 0);
}

/* ---- a clock that stands still until it is moved ---- */

static _Atomic uint64_t virtual_ns;

static uint64_t virtual_now_ns(void) {
  return atomic_load(&virtual_ns);
}

__attribute__((unused)) static void clock_freeze(void) {
  static const weft_clock table = {virtual_now_ns};
  atomic_store(&virtual_ns, weft_clock_now_ns());
  weft_clock_set(&table);
}

__attribute__((unused)) static void clock_advance(double seconds) {
  atomic_fetch_add(&virtual_ns, (uint64_t)(seconds * 1e9));
  weft_io_wake();
}

/* ---- the end ---- */

__attribute__((unused)) static weft_stats check_stats(void) {
  weft_stats stats;
  weft_stats_read(&stats);
  return stats;
}

/* Nothing but the I/O thread is alive. */
__attribute__((unused)) static void check_nothing_is_left(void) {
  AWAIT(check_stats().threads <= 1 && check_stats().pools == 0);
  AWAIT(check_stats().limiters == 0); /* the I/O thread holds one whose timer fires */
  weft_stats stats = check_stats();
  CHECK(stats.contexts == 0);
  CHECK(stats.errors == 0);
  CHECK(stats.groups == 0);
  CHECK(stats.channels == 0);
  CHECK(stats.semaphores == 0);
  CHECK(stats.waitgroups == 0);
  CHECK(stats.dicts == 0 && stats.flights == 0 && stats.tickers == 0);
  CHECK(stats.timers == 0);
}

static void check_no_thread_is_left(void) {
  CHECK(weft_io_stop(60000));
  AWAIT(weft_threads_live() == 0);
}

/* The last call of main. */
static int check_end(void) {
  check_run("nothing is left", check_nothing_is_left);
  check_run("the I/O thread ends", check_no_thread_is_left);
  printf("%d passed, %d failed\n", check_passed, check_failed);
  return check_failed != 0;
}

#endif
