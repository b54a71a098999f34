/* platform.c: threads, parking and forks, as far as POSIX tells.
 *
 * Owns the count of live threads and the fork generation. Any thread enters. Invariant: a parker's
 * state is PARKED only while its owner sleeps or is about to, so an unpark makes a system call
 * only then.
 */
#include "platform.h"

#include "census.h"
#include "mem.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic uint32_t threads_live;
static _Atomic uint64_t thread_fail_countdown;
_Atomic uint32_t weft_generation_now;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
enum { MAX_LOCKS = 32 };
typedef struct lock_list { /* static locks of this library */
  _Atomic(pthread_mutex_t *) locks[MAX_LOCKS];
  _Atomic uint32_t count;
} lock_list;
static lock_list renewed, held;

typedef struct thread_start {
  void (*main)(void *);
  void *arg;
  char name[16];
} thread_start;

static void *thread_main(void *arg) {
  thread_start start = *(thread_start *)arg;
  weft_free(arg);
  weft_thread_set_name(start.name);
  start.main(start.arg);
  atomic_fetch_sub(&threads_live, 1);
  return NULL;
}

static int start_injected_failure(void) {
  uint64_t left = atomic_load(&thread_fail_countdown);
  return left != 0 && atomic_fetch_sub(&thread_fail_countdown, 1) == 1;
}

static void ask_for_stack(pthread_attr_t *attributes) {
  size_t size;
  if (pthread_attr_getstacksize(attributes, &size) == 0 && size < WEFT_MIN_STACK_SIZE)
    pthread_attr_setstacksize(attributes, WEFT_MIN_STACK_SIZE);
}

static int create(thread_start *start, pthread_t *thread, int detach_state) {
  pthread_attr_t attributes;
  sigset_t all, before;
  if (start_injected_failure())
    return EAGAIN;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, detach_state);
  ask_for_stack(&attributes);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  atomic_fetch_add(&threads_live, 1);
  int rc = pthread_create(thread, &attributes, thread_main, start);
  if (rc)
    atomic_fetch_sub(&threads_live, 1);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return rc;
}

static int start_thread(void (*main)(void *), void *arg, const char *name, pthread_t *thread,
                        int detach_state) {
  thread_start *start = weft_calloc(1, sizeof *start);
  if (!start)
    return ENOMEM;
  start->main = main;
  start->arg = arg;
  strncpy(start->name, name, sizeof start->name - 1);
  int rc = create(start, thread, detach_state);
  if (rc)
    weft_free(start);
  return rc;
}

int weft_thread_start(void (*main)(void *), void *arg, const char *name) {
  pthread_t thread;
  return start_thread(main, arg, name, &thread, PTHREAD_CREATE_DETACHED);
}

int weft_thread_start_joinable(void (*main)(void *), void *arg, const char *name,
                               pthread_t *thread) {
  return start_thread(main, arg, name, thread, PTHREAD_CREATE_JOINABLE);
}

uint32_t weft_threads_live(void) {
  return atomic_load(&threads_live);
}

void weft_thread_fail_at(uint64_t nth) {
  atomic_store(&thread_fail_countdown, nth);
}

/* glibc has a function of its own by this name, which returns the text. */
const char *weft_errno_text(int number, char *buffer, size_t size) {
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
  return strerror_r(number, buffer, size);
#else
  if (strerror_r(number, buffer, size) != 0)
    snprintf(buffer, size, "error %d", number);
  return buffer;
#endif
}

/* ---- forks ---- */

/* Leaves: nobody who holds one of them waits for another, so any order will do. */
static void before_fork(void) {
  for (uint32_t i = 0; i < atomic_load(&held.count); i++)
    pthread_mutex_lock(atomic_load(&held.locks[i]));
}

static void after_fork_in_parent(void) {
  for (uint32_t i = 0; i < atomic_load(&held.count); i++)
    pthread_mutex_unlock(atomic_load(&held.locks[i]));
}

static void renew(lock_list *list) {
  for (uint32_t i = 0; i < atomic_load(&list->count); i++)
    if (atomic_load(&list->locks[i]))
      pthread_mutex_init(atomic_load(&list->locks[i]), NULL);
}

static void after_fork_in_child(void) {
  atomic_fetch_add(&weft_generation_now, 1);
  atomic_store(&threads_live, 0); /* threads do not cross a fork */
  renew(&renewed);
  renew(&held);
}

static void register_fork_handler(void) {
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void weft_process_watch_forks(void) {
  pthread_once(&fork_once, register_fork_handler);
}

static void add_lock(lock_list *list, pthread_mutex_t *lock) {
  uint32_t place = atomic_fetch_add(&list->count, 1);
  if (place >= MAX_LOCKS)
    abort(); /* the table is too small for this library's own locks */
  atomic_store(&list->locks[place], lock);
  weft_process_watch_forks();
}

void weft_process_renew_lock(pthread_mutex_t *lock) {
  add_lock(&renewed, lock);
}

void weft_process_hold_lock(pthread_mutex_t *lock) {
  add_lock(&held, lock);
}

/* ---- parking ---- */

enum { EMPTY, PARKED, ASLEEP, NOTIFIED }; /* ASLEEP: parked, and not counted as awake */

int weft_parker_init(weft_parker *parker, int interruptible) {
  int bell[2] = {-1, -1};
  int rc = interruptible ? weft_fd_bell(bell) : 0;
  atomic_init(&parker->state, EMPTY);
  parker->is_party = 0;
  parker->sleep_fd = bell[0];
  parker->fd = bell[1];
  return rc < 0 ? errno : 0;
}

static int sleep_on_fd(weft_parker *parker, uint64_t until_ns) {
  struct pollfd poll_fd = {.fd = parker->sleep_fd, .events = POLLIN};
  char bytes[64];
  int rc = weft_fd_poll(&poll_fd, 1, until_ns);
  if (rc < 0)
    return errno == EINTR;
  if (rc > 0 && read(parker->sleep_fd, bytes, sizeof bytes) < 0)
    return 0; /* nothing was there: state tells */
  return 0;
}

int weft_parker_park(weft_parker *parker, uint64_t until_ns) {
  uint32_t expected = EMPTY;
  uint32_t asleep = parker->is_party && until_ns == WEFT_NEVER_NS ? ASLEEP : PARKED;
  int interrupted = 0;
  if (atomic_compare_exchange_strong(&parker->state, &expected, asleep)) {
    if (asleep == ASLEEP)
      weft_census_sleep();
    if (parker->fd >= 0)
      interrupted = sleep_on_fd(parker, until_ns);
    else
      weft_word_sleep(&parker->state, asleep, until_ns);
  }
  if (atomic_exchange(&parker->state, EMPTY) == ASLEEP)
    weft_census_wake(); /* nobody woke it */
  return interrupted;
}

void weft_parker_unpark(weft_parker *parker) {
  uint32_t before = atomic_exchange(&parker->state, NOTIFIED);
  if (before == ASLEEP)
    weft_census_wake();
  else if (before != PARKED)
    return;
  uint64_t one = 1;
  if (parker->fd < 0)
    weft_word_wake(&parker->state);
  else if (write(parker->fd, &one, sizeof one) < 0)
    return; /* the counter is full: the sleeper is awake already */
}

void weft_parker_part(weft_parker *parker) {
  int bell[2];
  if (parker->sleep_fd < 0 || weft_fd_bell(bell) != 0)
    return;
  weft_fd_replace(bell[0], parker->sleep_fd);
  close(bell[0]);
  if (bell[1] == bell[0])
    return;
  weft_fd_replace(bell[1], parker->fd);
  close(bell[1]);
}

int weft_parker_arm(weft_parker *parker) {
  uint32_t expected = EMPTY;
  if (atomic_compare_exchange_strong(&parker->state, &expected, PARKED))
    return 1;
  atomic_exchange(&parker->state, EMPTY); /* reads whose word it takes back, and so sees his push */
  return 0;
}

void weft_parker_disarm(weft_parker *parker) {
  atomic_exchange(&parker->state, EMPTY);
}
