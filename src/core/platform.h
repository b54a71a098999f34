/* platform.h: what the core needs of the system: native threads, parking, processors, fork.
 *
 * Every function may be called from any thread.
 */
#ifndef WEFT_CORE_PLATFORM_H
#define WEFT_CORE_PLATFORM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define WEFT_NEVER_NS UINT64_MAX /* a deadline that does not come */

/* Starts a detached native thread with every signal blocked. `name` is cut to 15 characters.
 * `arg` stays the caller's on failure and is the thread's from then on. Returns 0 or an errno
 * value. */
int weft_thread_start(void (*main)(void *), void *arg, const char *name);
/* The same, but not detached: somebody joins *thread. */
int weft_thread_start_joinable(void (*main)(void *), void *arg, const char *name,
                               pthread_t *thread);
/* How many threads that weft_thread_start made are alive. */
uint32_t weft_threads_live(void);
/* Fault injection for tests: the nth thread start from now fails with EAGAIN; 0 turns it off. */
void weft_thread_fail_at(uint64_t nth);

/* Processors that this process may run on (sched_getaffinity), at least 1. */
uint32_t weft_cpu_count(void);
/* Changes in the child of every fork: what was made under another number has no threads here. */
extern _Atomic uint32_t weft_generation_now;
static inline uint32_t weft_process_generation(void) {
  return atomic_load_explicit(&weft_generation_now, memory_order_relaxed);
}
/* Counts the fork handlers in: called once by everything that starts threads. */
void weft_process_watch_forks(void);
/* Makes a static lock anew in the child of every fork, whoever held it. Called once for each
 * lock, before threads that lock it may be alive. */
void weft_process_renew_lock(pthread_mutex_t *lock);
/* Takes a static lock over every fork, so that what it guards is whole in the child. It must be a
 * leaf, and its holders must not fork. Called once for each lock: by a constructor. */
void weft_process_hold_lock(pthread_mutex_t *lock);

/* A number that looks random, made of another one. */
static inline uint64_t weft_mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static inline void weft_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/* A parker lets one thread sleep until another unparks it. An unpark that comes first is not lost;
 * a park may return early, so callers loop on their own condition. */
typedef struct weft_parker {
  _Atomic uint32_t state;
  uint8_t is_party; /* its owner counts in the census */
  int fd; /* -1: sleeps on a futex. Else an eventfd: signals interrupt the sleep (a script's thread)
           */
} weft_parker;

/* With `interruptible` the sleep ends when a signal handler ran. Returns 0 or an errno value. The
 * owner is no party until it says so. */
int weft_parker_init(weft_parker *parker, int interruptible);
/* Only the owner parks. Blocks until unparked, `until_ns` (weft_clock_real_ns) or, when
 * interruptible, a signal. Returns 1 when a signal ended it, else 0. */
int weft_parker_park(weft_parker *parker, uint64_t until_ns);
void weft_parker_unpark(weft_parker *parker);
/* For an event loop that is not ours and watches `fd`. Arm: 1, and the next unpark writes 8 bytes
 * to it; 0 when one has come already. Disarm: no unpark that comes later writes. */
int weft_parker_arm(weft_parker *parker);
void weft_parker_disarm(weft_parker *parker);

#endif
