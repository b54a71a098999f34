/* pool.c: native threads that run tasks, started on demand.
 *
 * Owns the queue of tasks, the workers and their threads. Any thread submits; each worker's thread
 * enters weft_worker_next and weft_worker_park. Invariants: while a task is queued some worker is
 * awake, starting, or about to look again before it sleeps; the pool's memory lives until its last
 * handle and its last thread are gone.
 *
 * Lock order: a pool's lock is a leaf but for a wait's claim. Threads are started and woken after
 * unlocking.
 */
#include "pool.h"

#include "clock.h"
#include "group.h"
#include "mem.h"
#include "monitor.h"
#include "platform.h"
#include "stats.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THIN_QUEUE = 4, LEAN_TAKES = 4, GATHER_PAUSES = 16 };
enum { SPIN_NS = 20000, LOOKS_PER_CLOCK = 32 };

static void destroy_handle(weft_handle *handle);
const weft_handle_type weft_pool_type = {"pool", destroy_handle, &weft_live.pools};

/* It is held for some 20 ns at a time: those who wait do so awake. */
static void init_lock(weft_pool *pool) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init(&pool->lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

/* ---- life ---- */

static void free_pool(weft_pool *pool) {
  if (pool->free_user)
    pool->free_user(pool->user);
  for (uint32_t i = 0; i < atomic_load(&pool->places); i++) {
    weft_inbox_release(pool->workers[i]->inbox);
    weft_free(pool->workers[i]);
  }
  weft_free(pool->workers);
  pthread_mutex_destroy(&pool->lock);
  weft_free(pool);
}

weft_pool *weft_pool_make(const weft_pool_config *config, const weft_runtime *runtime, void *user,
                          void (*free_user)(void *)) {
  weft_pool *pool = weft_calloc(1, sizeof *pool);
  weft_worker **workers = weft_calloc(WEFT_POOL_MAX_THREADS, sizeof *workers);
  if (!pool || !workers) {
    weft_free(pool);
    weft_free(workers);
    return NULL;
  }
  weft_process_watch_forks();
  weft_handle_init(&pool->handle, &weft_pool_type);
  pool->runtime = runtime;
  pool->user = user;
  pool->free_user = free_user;
  strncpy(pool->name, config->name ? config->name : "weft", sizeof pool->name - 1);
  pool->queue_limit = config->queue;
  pool->nice = config->nice;
  pool->max_threads = config->threads ? config->threads : weft_cpu_count();
  if (pool->max_threads > WEFT_POOL_MAX_THREADS)
    pool->max_threads = WEFT_POOL_MAX_THREADS;
  pool->may_spin = weft_cpu_count() > 1;
  pool->workers = workers;
  atomic_init(&pool->process, weft_process_generation());
  init_lock(pool);
  return pool;
}

weft_pool *weft_pool_retain(weft_pool *pool) {
  weft_handle_retain(&pool->handle);
  return pool;
}

void weft_pool_release(weft_pool *pool) {
  if (pool)
    weft_handle_release(&pool->handle);
}

static void wake_worker(weft_worker *worker) {
  weft_parker_unpark(&worker->inbox->parker);
}

/* Takes every idle worker off the list; called under lock, woken after it. */
static weft_worker *take_all_idle(weft_pool *pool) {
  weft_worker *idle = pool->idle;
  for (weft_worker *worker = idle; worker; worker = worker->next_idle)
    worker->is_idle = 0;
  pool->idle = NULL;
  atomic_store(&pool->idle_count, 0);
  return idle;
}

static void shut_locked(weft_pool *pool, weft_wait **woken) {
  pool->is_closing = 1;
  weft_waitlist_claim_all(&pool->room_waiters, woken);
  for (weft_worker *worker = take_all_idle(pool), *next; worker; worker = next) {
    next = worker->next_idle;
    wake_worker(worker); /* under the lock: a worker that is awake may change the list */
  }
}

void weft_pool_shut(weft_pool *pool) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&pool->lock);
  shut_locked(pool, &woken);
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
}

/* No user and no group is left, hence no task. */
static void destroy_handle(weft_handle *handle) {
  weft_pool *pool = (weft_pool *)handle;
  weft_wait *woken = NULL;
  int is_other_process = atomic_load(&pool->process) != weft_process_generation();
  if (is_other_process)
    init_lock(pool); /* its threads stayed in the parent */
  pthread_mutex_lock(&pool->lock);
  pool->is_orphan = 1;
  if (is_other_process)
    atomic_store(&pool->threads, 0);
  else
    shut_locked(pool, &woken);
  int is_last = atomic_load(&pool->threads) == 0;
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  if (is_last)
    free_pool(pool);
}

/* ---- a worker's thread ---- */

/* Threads that take tasks. Called under lock. */
static uint32_t hands(weft_pool *pool) {
  return atomic_load(&pool->threads) - pool->ending;
}

static weft_worker *new_worker(weft_pool *pool, uint32_t id) {
  weft_worker *worker = weft_malloc_aligned(64, sizeof *worker);
  weft_inbox *inbox = weft_inbox_acquire(0);
  if (!worker || !inbox) {
    weft_free(worker);
    if (inbox)
      weft_inbox_release(inbox);
    return NULL;
  }
  memset(worker, 0, sizeof *worker);
  worker->pool = pool;
  worker->id = id;
  worker->inbox = inbox;
  return worker;
}

/* The worker's last act: after the unlock it and the pool may be gone. Tasks that nobody is left to
 * run fail with `error`. */
static void leave_pool(weft_worker *worker, weft_error *error) {
  weft_pool *pool = worker->pool;
  weft_task *stranded = NULL;
  weft_wait *woken = NULL;
  const weft_runtime *runtime = pool->runtime;
  pthread_mutex_lock(&pool->lock);
  pool->ending -= worker->is_ending;
  worker->is_started = worker->is_ending = 0;
  int is_last = atomic_fetch_sub(&pool->threads, 1) == 1;
  if (hands(pool) == 0) {
    stranded = pool->head;
    pool->head = pool->tail = NULL;
    atomic_store(&pool->queued, 0);
    weft_waitlist_claim_all(&pool->room_waiters, &woken);
  }
  if (is_last)
    weft_waitlist_claim_all(&pool->end_waiters, &woken);
  int must_free = is_last && pool->is_orphan;
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  if (must_free)
    free_pool(pool);
  while (stranded) {
    weft_task *next = stranded->next;
    runtime->fail(stranded, error);
    stranded = next;
  }
  weft_error_release(error);
}

static void worker_main(void *arg) {
  weft_worker *worker = arg;
  const weft_runtime *runtime = worker->pool->runtime;
  weft_error *error = NULL;
  worker->thread = pthread_self();
  if (worker->pool->nice)
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), worker->pool->nice);
  worker->state = runtime->open(worker, &error);
  if (worker->state) {
    weft_monitor_enter(worker);
    runtime->run(worker, worker->state);
    weft_monitor_leave(worker);
    runtime->close(worker->state);
  }
  leave_pool(worker, error);
}

/* Takes a place for one more thread. Called under lock; NULL: none is wanted or possible. */
static weft_worker *reserve_worker(weft_pool *pool) {
  uint32_t id = 0, places = atomic_load(&pool->places);
  if (hands(pool) >= atomic_load(&pool->max_threads))
    return NULL;
  while (id < places && pool->workers[id]->is_started)
    id++;
  if (id == WEFT_POOL_MAX_THREADS)
    return NULL;
  if (id == places) {
    pool->workers[id] = new_worker(pool, id);
    if (!pool->workers[id])
      return NULL;
    atomic_store(&pool->places, places + 1);
  }
  pool->workers[id]->is_started = 1;
  atomic_fetch_add(&pool->threads, 1);
  return pool->workers[id];
}

static void start_worker(weft_worker *worker) {
  char name[16];
  memcpy(name, worker->pool->name, sizeof name);
  if (weft_thread_start(worker_main, worker, name) != 0)
    leave_pool(worker, weft_error_new("thread", weft_strerror(WEFT_NOTHREAD)));
}

/* ---- submitting ---- */

/* In the child of a fork the threads are gone and so is what they ran. */
static void adopt_after_fork(weft_pool *pool) {
  static pthread_mutex_t adopting = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&adopting);
  if (atomic_load(&pool->process) != weft_process_generation()) {
    init_lock(pool);
    atomic_store(&pool->places, 0); /* what the lost threads used stays unfreed */
    pool->head = pool->tail = NULL;
    pool->idle = NULL;
    pool->ending = 0;
    atomic_store(&pool->threads, 0);
    pool->room_waiters = pool->end_waiters = (weft_waitlist){0};
    atomic_store(&pool->queued, 0);
    atomic_store(&pool->spinning, 0);
    atomic_store(&pool->idle_count, 0);
    atomic_store(&pool->process, weft_process_generation());
  }
  pthread_mutex_unlock(&adopting);
}

static void lock_pool(weft_pool *pool) {
  if (atomic_load_explicit(&pool->process, memory_order_relaxed) != weft_process_generation())
    adopt_after_fork(pool);
  pthread_mutex_lock(&pool->lock);
}

static void append(weft_pool *pool, weft_task *task) {
  task->next = NULL;
  if (pool->tail)
    pool->tail->next = task;
  else
    pool->head = task;
  pool->tail = task;
  atomic_fetch_add(&pool->queued, 1);
}

static weft_worker *pop_idle(weft_pool *pool) {
  weft_worker *worker = pool->idle;
  if (worker) {
    pool->idle = worker->next_idle;
    worker->is_idle = 0;
    atomic_fetch_sub(&pool->idle_count, 1);
  }
  return worker;
}

/* Somebody must look at the queue: a spinner will; else an idle worker; else a new one. */
static int find_hands(weft_pool *pool, weft_worker **idle, weft_worker **fresh) {
  if (atomic_load(&pool->spinning) > 0)
    return WEFT_OK;
  *idle = pop_idle(pool);
  if (!*idle)
    *fresh = reserve_worker(pool);
  return hands(pool) > 0 ? WEFT_OK : WEFT_NOTHREAD;
}

static int any_ring_has_tasks(weft_pool *pool) {
  uint32_t places = atomic_load(&pool->places);
  for (uint32_t i = 0; i < places; i++)
    if (!weft_ring_is_empty(&pool->workers[i]->ring))
      return 1;
  return 0;
}

/* By a worker that goes to run something and leaves tasks behind: one more hand, which does the
 * same in its turn. Without it they would wait for that something to end. */
static void call_help(weft_pool *pool) {
  weft_worker *idle = NULL, *fresh = NULL;
  if (atomic_load(&pool->idle_count) == 0 &&
      atomic_load(&pool->threads) >= atomic_load(&pool->max_threads))
    return;
  pthread_mutex_lock(&pool->lock);
  find_hands(pool, &idle, &fresh);
  pthread_mutex_unlock(&pool->lock);
  if (idle)
    wake_worker(idle);
  if (fresh)
    start_worker(fresh);
}

static int is_full(weft_pool *pool) {
  return pool->queue_limit && atomic_load(&pool->queued) >= pool->queue_limit;
}

int weft_pool_submit(weft_pool *pool, weft_task *task) {
  weft_worker *idle = NULL, *fresh = NULL;
  lock_pool(pool);
  int rc = pool->is_closing ? WEFT_CLOSED : is_full(pool) ? WEFT_WOULD_WAIT : WEFT_OK;
  if (rc == WEFT_OK)
    rc = find_hands(pool, &idle, &fresh);
  if (rc == WEFT_OK)
    append(pool, task);
  pthread_mutex_unlock(&pool->lock);
  if (idle)
    wake_worker(idle);
  if (fresh)
    start_worker(fresh);
  return rc;
}

int weft_pool_wait_room(weft_pool *pool, weft_waiter *waiter) {
  lock_pool(pool);
  int must_wait = !pool->is_closing && is_full(pool);
  if (must_wait)
    weft_waitlist_push(&pool->room_waiters, waiter);
  pthread_mutex_unlock(&pool->lock);
  return must_wait;
}

void weft_pool_unwait_room(weft_pool *pool, weft_waiter *waiter) {
  lock_pool(pool);
  weft_waitlist_remove(&pool->room_waiters, waiter);
  pthread_mutex_unlock(&pool->lock);
}

int weft_pool_wait_end(weft_pool *pool, weft_waiter *waiter) {
  lock_pool(pool);
  int must_wait = atomic_load(&pool->threads) > 0;
  if (must_wait)
    weft_waitlist_push(&pool->end_waiters, waiter);
  pthread_mutex_unlock(&pool->lock);
  return must_wait;
}

void weft_pool_unwait_end(weft_pool *pool, weft_waiter *waiter) {
  lock_pool(pool);
  weft_waitlist_remove(&pool->end_waiters, waiter);
  pthread_mutex_unlock(&pool->lock);
}

int weft_pool_resize(weft_pool *pool, uint32_t threads) {
  if (threads == 0 || threads > WEFT_POOL_MAX_THREADS)
    return WEFT_TOO_LARGE;
  weft_worker *fresh = NULL;
  lock_pool(pool);
  atomic_store(&pool->max_threads, threads);
  weft_worker *idle = take_all_idle(pool); /* those too many end, the others sleep again */
  if (!idle && (pool->head || any_ring_has_tasks(pool)))
    fresh = reserve_worker(pool);
  for (weft_worker *next; idle; idle = next) {
    next = idle->next_idle;
    wake_worker(idle);
  }
  pthread_mutex_unlock(&pool->lock);
  if (fresh)
    start_worker(fresh);
  return WEFT_OK;
}

/* ---- taking ---- */

/* As many as there is room for now, since one that was woken before may not have used its place. */
static void claim_room_waiters(weft_pool *pool, weft_wait **woken) {
  uint32_t queued = atomic_load(&pool->queued);
  while (queued++ < pool->queue_limit && weft_waitlist_claim_first(&pool->room_waiters, woken)) {
  }
}

/* Moves a fair share of the queue into the worker's ring and returns the first task. */
static weft_task *take_batch(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  weft_wait *woken = NULL;
  pthread_mutex_lock(&pool->lock);
  weft_task *first = pool->head;
  uint32_t queued = atomic_load_explicit(&pool->queued, memory_order_relaxed);
  uint32_t share = queued / atomic_load(&pool->threads) + 1, taken = 0;
  if (share > WEFT_RING_BATCH)
    share = WEFT_RING_BATCH;
  while (pool->head && taken < share) {
    weft_task *task = pool->head;
    __builtin_prefetch(task->next);
    if (taken > 0 && !weft_ring_put(&worker->ring, task))
      break;
    pool->head = task->next;
    taken++;
  }
  if (!pool->head)
    pool->tail = NULL;
  atomic_fetch_sub(&pool->queued, taken);
  claim_room_waiters(pool, &woken);
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  worker->lean_takes = taken > 1 ? 0 : worker->lean_takes + 1;
  return first;
}

/* A worker's memory stays until the pool goes, so a victim's ring may always be read. */
static weft_task *steal(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  weft_task *stolen[WEFT_RING_BATCH];
  uint32_t count = 0, places = atomic_load_explicit(&pool->places, memory_order_acquire);
  for (uint32_t i = 1; i < places && !count; i++)
    count = weft_ring_steal(&pool->workers[(worker->id + i) % places]->ring, stolen);
  for (uint32_t i = 1; i < count; i++)
    weft_ring_put(&worker->ring, stolen[i]); /* it is empty: there is room */
  return count ? stolen[0] : NULL;
}

/* A worker that is faster than its producer would fight with it for the lock over every single task:
 * after a few takes of one task it lets some gather, for less than a wake would cost. */
static void let_tasks_gather(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  if (worker->lean_takes < LEAN_TAKES || !pool->may_spin)
    return;
  for (int i = 0; i < GATHER_PAUSES && atomic_load_explicit(&pool->queued, memory_order_relaxed) <
                                           THIN_QUEUE; i++)
    weft_cpu_relax();
}

weft_task *weft_worker_next(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  weft_task *task = weft_ring_take(&worker->ring);
  if (task)
    return task;
  if (atomic_load_explicit(&pool->queued, memory_order_acquire) > 0) {
    let_tasks_gather(worker);
    task = take_batch(worker);
  }
  if (!task)
    task = steal(worker);
  if (task && (atomic_load(&pool->queued) > 0 || any_ring_has_tasks(pool)))
    call_help(pool);
  return task;
}

int weft_worker_is_ending(weft_worker *worker) {
  pthread_mutex_lock(&worker->pool->lock);
  int is_ending = worker->pool->is_closing;
  pthread_mutex_unlock(&worker->pool->lock);
  return is_ending;
}

/* ---- sleeping ---- */

static int has_news(weft_worker *worker) {
  return !weft_inbox_is_empty(worker->inbox) ||
         atomic_load_explicit(&worker->pool->queued, memory_order_relaxed) > 0;
}

/* Looks for work for SPIN_NS: a wake of a sleeping thread costs more than that. */
static int spin(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  int found = 0;
  if (!pool->may_spin || atomic_load(&pool->spinning) > 0)
    return has_news(worker);
  atomic_fetch_add(&pool->spinning, 1);
  uint64_t until_ns = weft_clock_now_ns() + SPIN_NS;
  do
    for (int i = 0; i < LOOKS_PER_CLOCK && !(found = has_news(worker)); i++)
      weft_cpu_relax();
  while (!found && weft_clock_now_ns() < until_ns);
  atomic_fetch_sub(&pool->spinning, 1);
  return found;
}

static void leave_idle_list(weft_pool *pool, weft_worker *worker) {
  weft_worker **link = &pool->idle;
  if (!worker->is_idle)
    return;
  while (*link != worker)
    link = &(*link)->next_idle;
  *link = worker->next_idle;
  worker->is_idle = 0;
  atomic_fetch_sub(&pool->idle_count, 1);
}

enum { LOOK_AGAIN, SLEEP, END };

static int decide(weft_worker *worker, int has_parked) {
  weft_pool *pool = worker->pool;
  if (pool->head || !weft_inbox_is_empty(worker->inbox))
    return LOOK_AGAIN;
  if (any_ring_has_tasks(pool))
    return LOOK_AGAIN;
  if (!has_parked && (pool->is_closing || hands(pool) > atomic_load(&pool->max_threads))) {
    worker->is_ending = 1; /* counted at once, so that no task is left to those who all end */
    pool->ending++;
    return END;
  }
  worker->next_idle = pool->idle;
  pool->idle = worker;
  worker->is_idle = 1;
  atomic_fetch_add(&pool->idle_count, 1);
  return SLEEP;
}

/* A submit may have left its task to this worker, which turns to its inbox first. */
static int look_again(weft_worker *worker) {
  if (!weft_inbox_is_empty(worker->inbox) && atomic_load(&worker->pool->queued) > 0)
    call_help(worker->pool);
  return 1;
}

int weft_worker_park(weft_worker *worker, int has_parked) {
  weft_pool *pool = worker->pool;
  weft_wait *woken = NULL;
  if (spin(worker))
    return look_again(worker);
  pthread_mutex_lock(&pool->lock);
  int decision = decide(worker, has_parked);
  if (decision == SLEEP)
    claim_room_waiters(pool, &woken);
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  if (decision != SLEEP)
    return decision == LOOK_AGAIN && look_again(worker);
  weft_monitor_sleep(worker);
  weft_parker_park(&worker->inbox->parker, WEFT_NEVER_NS);
  weft_monitor_wake(worker);
  pthread_mutex_lock(&pool->lock);
  leave_idle_list(pool, worker);
  pthread_mutex_unlock(&pool->lock);
  return look_again(worker);
}

/* ---- the C runtime and the C interface ---- */

static void end_call(weft_task *task, weft_error *error) {
  if (error)
    weft_group_fail(task->group, error);
  weft_task_end(task, error ? WEFT_TASK_FAILED : WEFT_TASK_DONE);
}

static void run_call(weft_task *task) {
  weft_pool_call call;
  weft_error *error;
  memcpy(&call, task->parcel.data, sizeof call);
  weft_context *context = weft_task_context(task);
  if (weft_context_done(context))
    error = weft_context_error(context);
  else
    error = call.fn(context, call.arg);
  end_call(task, error);
  weft_error_release(error);
}

static void *open_c(weft_worker *worker, weft_error **error) {
  (void)error;
  return worker;
}

static void run_c(weft_worker *worker, void *state) {
  weft_task *task;
  (void)state;
  do
    while ((task = weft_worker_next(worker)))
      run_call(task);
  while (weft_worker_park(worker, 0));
}

static void close_c(void *state) {
  (void)state;
}

static const weft_runtime c_runtime = {open_c, run_c, close_c, end_call, NULL};

weft_pool *weft_pool_new(const weft_pool_config *config) {
  return weft_pool_make(config, &c_runtime, NULL, NULL);
}

int weft_pool_close(weft_pool *pool, double seconds) {
  weft_thread_wait party;
  weft_waiter on_end;
  weft_wait_timer on_time;
  weft_pool_shut(pool);
  weft_thread_wait_init(&party);
  weft_waiter_init(&on_end, &party.wait, 0);
  if (!weft_pool_wait_end(pool, &on_end)) {
    weft_thread_wait_drop(&party);
    return WEFT_OK;
  }
  int rc = 0, has_limit = seconds >= 0;
  if (has_limit)
    rc = weft_wait_timer_start(&on_time, &party.wait, 1, weft_clock_after_s(seconds));
  if (rc != 0 && weft_wait_claim(&party.wait, 1))
    weft_thread_wait_drop(&party); /* a limit that cannot be kept ends the wait at once */
  else
    weft_thread_wait_block(&party);
  if (has_limit)
    weft_timer_stop(&on_time.timer);
  weft_pool_unwait_end(pool, &on_end);
  return weft_wait_winner(&party.wait) == 0 ? WEFT_OK : WEFT_WOULD_WAIT;
}
