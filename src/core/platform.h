/* platform.h: what weft needs of the system: native threads, parking, processors, descriptors,
 * forks.
 *
 * platform.c has what is POSIX; the last section is done by platform_linux.c on Linux and by
 * platform_posix.c everywhere else. With poller.h that is the whole seam. Every function may be
 * called from any thread.
 */
#ifndef WEFT_CORE_PLATFORM_H
#define WEFT_CORE_PLATFORM_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define WEFT_NEVER_NS UINT64_MAX /* a deadline that does not come */
/* What Lua's own limits on nesting may need; musl would give a thread 128 KiB, macOS 512. */
#define WEFT_MIN_STACK_SIZE ((size_t)2 * 1024 * 1024)

/* For what a signal handler reads. glibc allocates such a variable at its first use in a thread,
 * unless it is asked for static memory, of which it keeps some for modules that are loaded later.
 * musl keeps none and allocates early. On macOS the first use must come before the signal. */
#ifdef __GLIBC__
#define WEFT_HANDLER_LOCAL __thread __attribute__((tls_model("initial-exec")))
#else
#define WEFT_HANDLER_LOCAL __thread
#endif

/* Starts a detached native thread with every signal blocked, and a stack of WEFT_MIN_STACK_SIZE at
 * least. `name` is cut to 15 characters. `arg` stays the caller's on failure and is the thread's
 * from then on. Returns 0 or an errno value. */
int weft_thread_start(void (*main)(void *), void *arg, const char *name);
/* The same, but not detached: somebody joins *thread. */
int weft_thread_start_joinable(void (*main)(void *), void *arg, const char *name,
                               pthread_t *thread);
/* How many threads that weft_thread_start made are alive. */
uint32_t weft_threads_live(void);
/* Fault injection for tests: the nth thread start from now fails with EAGAIN; 0 turns it off. */
void weft_thread_fail_at(uint64_t nth);

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
  int fd;           /* -1: sleeps on `state`. Else an unpark writes 8 bytes to it */
  int sleep_fd; /* where its owner reads them: signals interrupt the sleep (a script's thread) */
} weft_parker;

/* With `interruptible` the sleep ends when a signal handler ran. Returns 0 or an errno value. The
 * owner is no party until it says so. */
int weft_parker_init(weft_parker *parker, int interruptible);
/* Only the owner parks. Blocks until unparked, `until_ns` (weft_clock_real_ns) or, when
 * interruptible, a signal. Returns 1 when a signal ended it, else 0. */
int weft_parker_park(weft_parker *parker, uint64_t until_ns);
void weft_parker_unpark(weft_parker *parker);
/* In the child of a fork: an interruptible parker has the parent's descriptors, on which that goes
 * on sleeping. The same numbers become the child's own. Only calls what a signal handler may. */
void weft_parker_part(weft_parker *parker);
/* For an event loop that is not ours and watches `fd`. Arm: 1, and the next unpark writes 8 bytes
 * to it; 0 when one has come already. Disarm: no unpark that comes later writes. */
int weft_parker_arm(weft_parker *parker);
void weft_parker_disarm(weft_parker *parker);

/* What an errno value means, in `buffer` or not. */
const char *weft_errno_text(int number, char *buffer, size_t size);

/* ---- each system does these its own way ---- */

/* Sleeps while *word is `expected`, until `until_ns` (weft_clock_real_ns), or for no reason. */
void weft_word_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns);
/* Ends the sleep of the one thread that may sleep on `word`, which was changed before. */
void weft_word_wake(_Atomic uint32_t *word);

/* Makes a lock that is held for some 20 ns at a time: who waits for it stays awake a while, if the
 * system can do that. */
void weft_lock_init_short(pthread_mutex_t *lock);

/* Processors that this process may run on, at least 1. */
uint32_t weft_cpu_count(void);
/* Keeps the code mapped when Lua unloads its modules, since threads may be in it. */
void weft_process_stay_loaded(void);
/* Memory that the process has; 0: the system does not tell. */
uint64_t weft_process_resident_bytes(void);

/* Of the calling thread. A name is cut to 15 characters. */
void weft_thread_set_name(const char *name);
void weft_thread_get_name(char name[16]);
/* A number that no other living thread of the process has: the system's, where that has one. */
uint64_t weft_thread_number(void);
/* Makes it less important than the process by `nice`, if the system can do that to one thread. */
void weft_thread_set_nice(int nice);

/* Waits for one of the signals of `set`, which the caller has blocked, until `until_ns`
 * (weft_clock_real_ns). Returns its number, or 0. */
int weft_signal_wait(const sigset_t *set, uint64_t until_ns);

/* Descriptors that close at exec and do not block. -1 and errno, as the system's own. */
int weft_fd_socket(int family, int type, int protocol);
int weft_fd_accept(int listener);
int weft_fd_pipe(int ends[2]);
/* What is written to ends[1], 8 bytes at a time, makes ends[0] readable. They may be the same. */
int weft_fd_bell(int ends[2]);
/* Puts the file of `fd` behind the number `onto`, which closes at exec. */
int weft_fd_replace(int fd, int onto);
/* poll, for the time until `until_ns` (weft_clock_real_ns). */
int weft_fd_poll(struct pollfd *fds, uint32_t count, uint64_t until_ns);
/* Whether the process at the other end of a Unix socket is this one. */
int weft_fd_peer_is_own(int fd);
/* Visits each open descriptor with words on what it leads to. 0, or an errno value. */
int weft_fd_each(void (*visit)(int fd, const char *target, void *arg), void *arg);

#endif
