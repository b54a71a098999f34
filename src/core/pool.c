/* pool.c: pools of native threads, and the queue that tasks are submitted to.
 *
 * Owns the queue of tasks; the workers and their threads are pool_worker.c's. Any thread submits.
 * Invariants: while a task is queued some worker is awake, starting, or about to look again before
 * it sleeps; the pool's memory lives until its last handle and its last thread are gone.
 *
 * Lock order: a pool's lock is a leaf but for a wait's claim, and the inbox list's lock of a new
 * worker. Threads are started and woken after unlocking.
 */
#include "pool_inside.h"

#include "mem.h"
#include "platform.h"
#include "stats.h"

#include <string.h>

static pthread_mutex_t adopting = PTHREAD_MUTEX_INITIALIZER;

static __attribute__((constructor)) void renew_after_forks(void) {
  weft_process_renew_lock(&adopting);
}

static void destroy_handle(weft_handle *handle);
const weft_handle_type weft_pool_type = {"pool", destroy_handle, &weft_live.pools};

/* ---- life ---- */

void weft_pool_free(weft_pool *pool) {
  if (pool->free_user)
    pool->free_user(pool->user);
  for (uint32_t i = 0; i < atomic_load(&pool->places); i++) {
    weft_inbox_release(pool->workers[i]->inbox);
    weft_free(pool->workers[i]);
  }
  weft_free(pool->workers);
  weft_queue_free(&pool->queue);
  pthread_mutex_destroy(&pool->lock);
  weft_free(pool);
}

weft_pool *weft_pool_make(const weft_pool_config *config, const weft_runtime *runtime, void *user,
                          void (*free_user)(void *)) {
  weft_pool *pool = weft_malloc_aligned(64, sizeof *pool);
  weft_worker **workers = weft_calloc(WEFT_POOL_MAX_THREADS, sizeof *workers);
  if (!pool || !workers) {
    weft_free(pool);
    weft_free(workers);
    return NULL;
  }
  memset(pool, 0, sizeof *pool);
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
  weft_lock_init_short(&pool->lock);
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

/* In the child of a fork the threads are gone and so is what they ran. */
static void adopt_after_fork(weft_pool *pool) {
  pthread_mutex_lock(&adopting);
  if (atomic_load(&pool->process) != weft_process_generation()) {
    weft_lock_init_short(&pool->lock);
    atomic_store(&pool->places, 0); /* what the lost threads used stays unfreed */
    pool->queue = (weft_queue){0};
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
  if (atomic_load_explicit(&pool->process, memory_order_acquire) != weft_process_generation())
    adopt_after_fork(pool);
  pthread_mutex_lock(&pool->lock);
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
    weft_worker_wake(worker); /* under the lock: a worker that is awake may change the list */
  }
}

void weft_pool_shut(weft_pool *pool) {
  weft_wait *woken = NULL;
  lock_pool(pool);
  shut_locked(pool, &woken);
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
}

/* No user and no group is left, hence no task. */
static void destroy_handle(weft_handle *handle) {
  weft_pool *pool = (weft_pool *)handle;
  weft_wait *woken = NULL;
  lock_pool(pool);
  pool->is_orphan = 1;
  shut_locked(pool, &woken);
  int is_last = atomic_load(&pool->threads) == 0;
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  if (is_last)
    weft_pool_free(pool);
}

/* ---- submitting ---- */

static int is_full(weft_pool *pool) {
  return pool->queue_limit && atomic_load(&pool->queued) >= pool->queue_limit;
}

int weft_pool_submit(weft_pool *pool, weft_task *task) {
  weft_worker *idle = NULL, *fresh = NULL;
  lock_pool(pool);
  int rc = pool->is_closing ? WEFT_CLOSED : is_full(pool) ? WEFT_WOULD_WAIT : WEFT_OK;
  if (rc == WEFT_OK)
    rc = weft_pool_find_hands_locked(pool, &idle, &fresh);
  if (rc == WEFT_OK && !weft_queue_put(&pool->queue, task))
    rc = WEFT_NOMEM; /* whoever was found finds nothing */
  if (rc == WEFT_OK)
    weft_pool_add_queued_locked(pool, 1);
  pthread_mutex_unlock(&pool->lock);
  if (idle)
    weft_worker_wake(idle);
  if (fresh)
    weft_worker_start(fresh);
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
  if (!idle && (atomic_load(&pool->queued) > 0 || weft_pool_has_stealable(pool)))
    fresh = weft_pool_reserve_locked(pool);
  for (weft_worker *next; idle; idle = next) {
    next = idle->next_idle;
    weft_worker_wake(idle);
  }
  pthread_mutex_unlock(&pool->lock);
  if (fresh)
    weft_worker_start(fresh);
  return WEFT_OK;
}

/* ---- looking ---- */

void weft_pool_each_queued(weft_pool *pool, uint32_t most, void (*visit)(weft_task *, void *),
                           void *arg) {
  lock_pool(pool);
  weft_queue_each(&pool->queue, most, visit, arg);
  pthread_mutex_unlock(&pool->lock);
}
