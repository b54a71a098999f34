/* monitor.c: time slices for workers.
 *
 * Owns the list of workers that may be interrupted and one timer that ticks on the I/O thread while
 * any of them is busy. Worker threads enter and leave; the I/O thread ticks. Invariant: a signal is
 * sent only under `lock` to a worker on the list, so its thread is alive.
 *
 * Lock order: `lock`, then the timers' lock.
 */
#include "monitor.h"

#include "clock.h"
#include "platform.h"
#include "timer.h"

#include <signal.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weft_worker *workers; /* guarded by lock */
static uint32_t process;     /* guarded by lock */
static weft_timer tick;      /* guarded by lock, but for what timer.c guards */
static _Atomic int is_ticking;
static pthread_once_t handler_once = PTHREAD_ONCE_INIT;
static struct sigaction previous_handler;

/* Static TLS: the handler must not allocate. */
static WEFT_HANDLER_LOCAL weft_worker *this_worker;

static void on_signal(int signal, siginfo_t *info, void *context) {
  weft_worker *worker = this_worker;
  if (worker && worker->pool->runtime->preempt)
    worker->pool->runtime->preempt(worker->state);
  else if (previous_handler.sa_flags & SA_SIGINFO)
    previous_handler.sa_sigaction(signal, info, context);
  else if (previous_handler.sa_handler != SIG_DFL && previous_handler.sa_handler != SIG_IGN)
    previous_handler.sa_handler(signal);
}

/* SIGURG is ignored by default and used by nothing but out-of-band data; the one before is kept. */
static void install_handler(void) {
  struct sigaction action = {.sa_flags = SA_RESTART | SA_SIGINFO | SA_ONSTACK};
  action.sa_sigaction = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGURG, &action, &previous_handler);
  weft_process_renew_lock(&lock);
}

static int is_stuck(weft_worker *worker) {
  uint32_t slice = atomic_load_explicit(&worker->slice, memory_order_relaxed);
  int stuck = (slice & 1) && slice == worker->seen_slice;
  worker->seen_slice = slice;
  return stuck;
}

static void on_tick(weft_timer *timer);

static int claim_tick(weft_timer *timer) {
  (void)timer;
  return 1;
}

static void start_ticking(void) {
  weft_timer_init(&tick, claim_tick, on_tick);
  tick.is_outside = 1;
  int rc = weft_timer_start(&tick, weft_clock_outside_ns() + WEFT_SLICE_MS * 1000000ull);
  atomic_store(&is_ticking, rc == 0);
}

/* The flag falls before the look and a worker raises its own before it reads the flag: one of the
 * two sees the other. */
static void on_tick(weft_timer *timer) {
  uint32_t is_busy = 0;
  (void)timer;
  pthread_mutex_lock(&lock);
  atomic_store(&is_ticking, 0);
  for (weft_worker *worker = workers; worker; worker = worker->next_busy) {
    if (is_stuck(worker))
      pthread_kill(worker->thread, SIGURG);
    is_busy |= atomic_load(&worker->is_awake);
  }
  if (is_busy)
    start_ticking();
  pthread_mutex_unlock(&lock);
}

void weft_monitor_sleep(weft_worker *worker) {
  atomic_store_explicit(&worker->is_awake, 0, memory_order_relaxed);
}

void weft_monitor_wake(weft_worker *worker) {
  atomic_store(&worker->is_awake, 1);
  if (atomic_load(&is_ticking) || !worker->pool->runtime->preempt)
    return;
  pthread_mutex_lock(&lock);
  if (!atomic_load(&is_ticking))
    start_ticking();
  pthread_mutex_unlock(&lock);
}

void weft_monitor_enter(weft_worker *worker) {
  sigset_t urgent;
  if (!worker->pool->runtime->preempt)
    return;
  pthread_once(&handler_once, install_handler);
  pthread_mutex_lock(&lock);
  if (process != weft_process_generation()) { /* after a fork the list is the parent's */
    process = weft_process_generation();
    workers = NULL;
    atomic_store(&is_ticking, 0);
  }
  worker->prev_busy = NULL;
  worker->next_busy = workers;
  if (workers)
    workers->prev_busy = worker;
  workers = worker;
  pthread_mutex_unlock(&lock);
  this_worker = worker;
  sigemptyset(&urgent);
  sigaddset(&urgent, SIGURG);
  pthread_sigmask(SIG_UNBLOCK, &urgent, NULL);
  weft_monitor_wake(worker);
}

void weft_monitor_leave(weft_worker *worker) {
  sigset_t urgent;
  if (!worker->pool->runtime->preempt)
    return;
  sigemptyset(&urgent);
  sigaddset(&urgent, SIGURG);
  pthread_sigmask(SIG_BLOCK, &urgent, NULL);
  this_worker = NULL;
  pthread_mutex_lock(&lock);
  if (worker->prev_busy)
    worker->prev_busy->next_busy = worker->next_busy;
  else
    workers = worker->next_busy;
  if (worker->next_busy)
    worker->next_busy->prev_busy = worker->prev_busy;
  pthread_mutex_unlock(&lock);
}
