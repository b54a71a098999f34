/* io.c: the I/O thread.
 *
 * Owns the poller, the table of watched descriptors and the list of posted jobs. One thread runs
 * the loop; any thread posts, wakes, starts. Invariant: whatever is posted or started before
 * weft_io_wake returns is seen by the next turn of the loop.
 *
 * Lock order: `lock` is a leaf; nothing is called under it.
 */
#include "io.h"

#include "census.h"
#include "clock.h"
#include "mem.h"
#include "platform.h"
#include "poller.h"
#include "timer.h"

#include <errno.h>
#include <string.h>

enum { EVENTS_PER_TURN = 32, FIRST_WATCHES = 64 };

typedef struct watch {
  void (*ready)(int fd, uint32_t events, void *arg);
  void *arg;
  uint32_t events; /* as the poller was told; 0: it does not know the descriptor */
} watch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static weft_io_job *jobs_head, *jobs_tail;
static int is_running, is_stopping;
static pthread_t thread;    /* valid while is_running */
static weft_parker stopper; /* who waits for its end */
static _Atomic int has_ended;
/* written under lock before the thread starts, constant while it runs */
static weft_poller *poller;
static _Atomic uint32_t process_plus_one; /* in which process the thread runs; 0: in none yet */
static _Atomic int is_asleep;             /* the loop is, or is about to be, in the poller */
/* the I/O thread's own */
static watch *watches;
static int watch_capacity;
static weft_io_job *hooks;

/* ---- fork: the child has the lock free, no thread and descriptors of its own on first use ---- */

static void before_fork(void) {
  pthread_mutex_lock(&lock);
  weft_timers_before_fork();
}

static void after_fork_in_parent(void) {
  weft_timers_after_fork();
  pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void) {
  weft_timers_after_fork();
  pthread_mutex_init(&lock, NULL);
  jobs_head = jobs_tail = NULL;
  is_running = is_stopping = 0;
  weft_poller_abandon(poller);
  poller = NULL;
  watches = NULL; /* the parent's thread may have been changing it: it is left alone */
  watch_capacity = 0;
  hooks = NULL;
  atomic_store(&process_plus_one, 0);
  atomic_store(&is_asleep, 0);
}

static void register_fork_handlers(void) {
  weft_process_watch_forks();
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- the loop ---- */

static void dispatch(const weft_poller_event *event) {
  int fd = (int)(intptr_t)event->tag;
  if (fd < watch_capacity && watches[fd].ready)
    watches[fd].ready(fd, event->events, watches[fd].arg);
}

static weft_io_job *take_jobs(int *stop) {
  pthread_mutex_lock(&lock);
  weft_io_job *jobs = jobs_head;
  jobs_head = jobs_tail = NULL;
  *stop = is_stopping;
  pthread_mutex_unlock(&lock);
  return jobs;
}

static void run_jobs(weft_io_job *job) {
  while (job) {
    weft_io_job *next = job->next;
    job->run(job);
    job = next;
  }
}

static void run_hooks(void) {
  weft_io_job *pending = hooks;
  hooks = NULL;
  run_jobs(pending);
}

static int has_jobs(void) {
  pthread_mutex_lock(&lock);
  int found = jobs_head != NULL || is_stopping;
  pthread_mutex_unlock(&lock);
  return found;
}

/* Says that it sleeps before it looks for the last time, so that no wake is lost. Whoever takes
 * that word back has counted this thread in; when it does not sleep at all, that was once too
 * often. */
static int sleep_for_events(weft_poller_event *events) {
  atomic_store(&is_asleep, 1);
  uint64_t left_ns = has_jobs() ? 0 : weft_timers_left_ns();
  int sleeps = left_ns > 0 && !weft_census_sleep_or_act();
  int count = weft_poller_wait(poller, events, EVENTS_PER_TURN, sleeps ? left_ns : 0);
  int nobody_woke_it = atomic_exchange(&is_asleep, 0);
  if (sleeps && nobody_woke_it)
    weft_census_wake();
  else if (!sleeps && !nobody_woke_it)
    weft_census_withdraw();
  return count;
}

static void io_main(void *unused) {
  weft_poller_event events[EVENTS_PER_TURN];
  int stop = 0;
  (void)unused;
  while (!stop) {
    int count = sleep_for_events(events);
    for (int i = 0; i < count; i++)
      dispatch(&events[i]);
    weft_timers_run();
    run_jobs(take_jobs(&stop));
    run_hooks();
  }
  weft_census_leave();
  atomic_store(&has_ended, 1);
  weft_parker_unpark(&stopper);
}

/* ---- start, wake, post ---- */

static int start_locked(void) {
  if (is_running)
    return 0;
  if (!poller && !(poller = weft_poller_open()))
    return errno;
  weft_parker_init(&stopper, 0);
  atomic_store(&has_ended, 0);
  weft_census_enter();
  int rc = weft_thread_start_joinable(io_main, NULL, "weft-io", &thread);
  if (rc) {
    weft_census_withdraw();
    return rc;
  }
  is_running = 1;
  atomic_store(&process_plus_one, weft_process_generation() + 1);
  return 0;
}

int weft_io_start(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  if (atomic_load_explicit(&process_plus_one, memory_order_acquire) ==
      weft_process_generation() + 1)
    return 0;
  pthread_once(&once, register_fork_handlers);
  pthread_mutex_lock(&lock);
  int rc = is_stopping ? ECANCELED : start_locked();
  pthread_mutex_unlock(&lock);
  return rc;
}

void weft_io_wake(void) {
  if (!atomic_exchange(&is_asleep, 0))
    return;
  weft_census_wake();
  weft_poller_wake(poller);
}

void weft_io_post(weft_io_job *job) {
  job->next = NULL;
  pthread_mutex_lock(&lock);
  if (jobs_tail)
    jobs_tail->next = job;
  else
    jobs_head = job;
  jobs_tail = job;
  pthread_mutex_unlock(&lock);
  weft_io_wake();
}

/* ---- descriptors ---- */

static int grow_watches(int fd) {
  int capacity = watch_capacity ? watch_capacity : FIRST_WATCHES;
  while (capacity <= fd)
    capacity *= 2;
  watch *grown = weft_realloc(watches, sizeof *grown * (size_t)capacity);
  if (!grown)
    return ENOMEM;
  memset(grown + watch_capacity, 0, sizeof *grown * (size_t)(capacity - watch_capacity));
  watches = grown;
  watch_capacity = capacity;
  return 0;
}

int weft_io_watch(int fd, uint32_t events, void (*ready)(int, uint32_t, void *), void *arg) {
  if (fd >= watch_capacity && grow_watches(fd) != 0)
    return ENOMEM;
  watch *entry = &watches[fd];
  int rc = 0;
  if (events && events != entry->events)
    rc = weft_poller_set(poller, fd, entry->events != 0, events, (void *)(intptr_t)fd);
  else if (!events && entry->events)
    weft_poller_forget(poller, fd);
  *entry = (watch){ready, arg, rc ? 0 : events};
  return rc;
}

void weft_io_forget(int fd) {
  if (fd >= watch_capacity)
    return;
  if (watches[fd].events)
    weft_poller_forget(poller, fd);
  watches[fd] = (watch){NULL, NULL, 0};
}

void weft_io_after_turn(weft_io_job *hook) {
  hook->next = hooks;
  hooks = hook;
}

int weft_io_stop(uint32_t timeout_ms) {
  uint64_t until_ns = weft_clock_real_ns() + timeout_ms * (uint64_t)1000000;
  pthread_mutex_lock(&lock);
  is_stopping = 1;
  int must_join = is_running;
  is_running = 0;
  pthread_mutex_unlock(&lock);
  if (!must_join)
    return 1;
  weft_io_wake();
  while (!atomic_load(&has_ended) && weft_clock_real_ns() < until_ns)
    weft_parker_park(&stopper, until_ns);
  if (!atomic_load(&has_ended))
    return 0;
  /* so that what other libraries free as a thread ends is done before they are shut down */
  return pthread_join(thread, NULL) == 0;
}
