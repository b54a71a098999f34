/* pool_worker.c: the threads of a pool: starting, taking and stealing tasks, sleeping.
 *
 * Owns the workers. Each worker's thread enters weft_worker_next and weft_worker_park; who submits
 * looks for hands. Invariant: a worker that leaves tasks behind when it turns to something else has
 * called for help.
 *
 * Lock order: see pool.c. Threads are started and woken after unlocking.
 */
#include "pool_inside.h"

#include "census.h"
#include "clock.h"
#include "io.h"
#include "mem.h"
#include "monitor.h"
#include "platform.h"

#include <string.h>

enum { LEAN_TAKES = 4, GATHER_PAUSES = 24 };

/* ---- a worker's thread ---- */

uint32_t weft_pool_hands_locked(weft_pool *pool) {
  return atomic_load(&pool->threads) - pool->ending;
}

static weft_worker *new_worker(weft_pool *pool, uint32_t id) {
  weft_worker *worker = weft_malloc_aligned(64, sizeof *worker);
  weft_inbox *inbox = weft_inbox_acquire(WEFT_INBOX_WORKER);
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
  weft_queue stranded = {0};
  weft_task *task;
  weft_wait *woken = NULL;
  const weft_runtime *runtime = pool->runtime;
  pthread_mutex_lock(&pool->lock);
  pool->ending -= worker->is_ending;
  worker->is_started = worker->is_ending = 0;
  int is_last = atomic_fetch_sub(&pool->threads, 1) == 1;
  if (weft_pool_hands_locked(pool) == 0) {
    stranded = pool->queue;
    pool->queue = (weft_queue){0};
    atomic_store(&pool->queued, 0);
    weft_waitlist_claim_all(&pool->room_waiters, &woken);
  }
  if (is_last)
    weft_waitlist_claim_all(&pool->end_waiters, &woken);
  int must_free = is_last && pool->is_orphan;
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  if (must_free)
    weft_pool_free(pool);
  while (weft_queue_take(&stranded, &task, 1))
    runtime->fail(task, error);
  weft_queue_free(&stranded);
  weft_error_release(error);
  weft_census_leave();
}

static void worker_main(void *arg) {
  weft_worker *worker = arg;
  const weft_runtime *runtime = worker->pool->runtime;
  weft_error *error = NULL;
  worker->thread = pthread_self();
  if (worker->pool->nice) {
    weft_io_start(); /* else a task may start it, and it would inherit our priority for good */
    weft_thread_set_nice(worker->pool->nice);
  }
  worker->state = runtime->open(worker, &error);
  if (worker->state) {
    weft_monitor_enter(worker);
    runtime->run(worker, worker->state);
    weft_monitor_leave(worker);
    runtime->close(worker->state);
  }
  leave_pool(worker, error);
}

weft_worker *weft_pool_reserve_locked(weft_pool *pool) {
  uint32_t id = 0, places = atomic_load(&pool->places);
  if (weft_pool_hands_locked(pool) >= atomic_load(&pool->max_threads))
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
  weft_census_enter();
  atomic_fetch_add(&pool->threads, 1);
  return pool->workers[id];
}

void weft_worker_start(weft_worker *worker) {
  char name[16];
  memcpy(name, worker->pool->name, sizeof name);
  if (weft_thread_start(worker_main, worker, name) != 0)
    leave_pool(worker, weft_error_new("thread", weft_strerror(WEFT_NOTHREAD)));
}

/* ---- finding hands ---- */

static weft_worker *pop_idle(weft_pool *pool) {
  weft_worker *worker = pool->idle;
  if (worker) {
    pool->idle = worker->next_idle;
    worker->is_idle = 0;
    atomic_fetch_sub(&pool->idle_count, 1);
  }
  return worker;
}

int weft_pool_find_hands_locked(weft_pool *pool, weft_worker **idle, weft_worker **fresh) {
  if (atomic_load(&pool->spinning) > 0)
    return WEFT_OK;
  uint32_t hands = weft_pool_hands_locked(pool);
  *idle = pop_idle(pool);
  if (!*idle && hands < atomic_load_explicit(&pool->max_threads, memory_order_relaxed)) {
    *fresh = weft_pool_reserve_locked(pool);
    hands += *fresh != NULL;
  }
  return hands > 0 ? WEFT_OK : WEFT_NOTHREAD;
}

int weft_pool_has_stealable(weft_pool *pool) {
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
  weft_pool_find_hands_locked(pool, &idle, &fresh);
  pthread_mutex_unlock(&pool->lock);
  if (idle)
    weft_worker_wake(idle);
  if (fresh)
    weft_worker_start(fresh);
}

/* ---- taking ---- */

/* As many as there is room for now, since one that was woken before may not have used its place. */
static void claim_room_waiters(weft_pool *pool, weft_wait **woken) {
  uint32_t queued = atomic_load(&pool->queued);
  while (queued++ < pool->queue_limit && weft_waitlist_claim_first(&pool->room_waiters, woken)) {
  }
}

/* Moves a fair share of the queue into the worker's ring, which is empty, and returns the first
 * task. */
static weft_task *take_batch(weft_worker *worker, uint32_t *count) {
  weft_pool *pool = worker->pool;
  weft_task *batch[WEFT_RING_BATCH];
  weft_wait *woken = NULL;
  pthread_mutex_lock(&pool->lock);
  uint32_t queued = atomic_load_explicit(&pool->queued, memory_order_relaxed);
  uint32_t share = queued / atomic_load_explicit(&pool->threads, memory_order_relaxed) + 1;
  uint32_t taken =
      weft_queue_take(&pool->queue, batch, share < WEFT_RING_BATCH ? share : WEFT_RING_BATCH);
  for (uint32_t i = 1; i < taken; i++)
    weft_ring_put(&worker->ring, batch[i]); /* under the lock: see decide */
  weft_pool_add_queued_locked(pool, -taken);
  if (pool->room_waiters.head)
    claim_room_waiters(pool, &woken);
  pthread_mutex_unlock(&pool->lock);
  weft_wake(woken);
  *count = taken;
  return taken ? batch[0] : NULL;
}

/* A worker's memory stays until the pool goes, so a victim's ring may always be read. */
static weft_task *steal(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  weft_task *stolen[WEFT_RING_BATCH];
  uint32_t count = 0, places = atomic_load_explicit(&pool->places, memory_order_acquire);
  for (uint32_t i = 1; i < places && !count; i++)
    count = weft_ring_steal(&pool->workers[(worker->id + i) % places]->ring, stolen);
  if (count > 1) {
    pthread_mutex_lock(&pool->lock); /* else one that is about to sleep may see neither ring */
    for (uint32_t i = 1; i < count; i++)
      weft_ring_put(&worker->ring, stolen[i]); /* it is empty: there is room */
    pthread_mutex_unlock(&pool->lock);
  }
  return count ? stolen[0] : NULL;
}

/* A worker that is faster than its producer would fight with it for the lock over every single
 * task. After a few takes of one task it lets some gather, for less than a wake would cost, and for
 * as long as some do; unless the producer waits for each task: see weft_worker_saw_wait. */
static weft_task *take_from_queue(weft_worker *worker) {
  uint32_t taken;
  int must_gather = worker->lean_takes >= LEAN_TAKES && worker->pool->may_spin;
  if (must_gather)
    weft_spin_pause(GATHER_PAUSES);
  weft_task *task = take_batch(worker, &taken);
  if ((taken > 1) != must_gather)
    worker->lean_takes = 0;
  else if (!must_gather)
    worker->lean_takes++;
  return task;
}

weft_task *weft_worker_next(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  weft_task *task = weft_ring_take(&worker->ring);
  if (task)
    return task;
  if (atomic_load_explicit(&pool->queued, memory_order_acquire) > 0)
    task = take_from_queue(worker);
  if (!task)
    task = steal(worker);
  if (task && (atomic_load(&pool->queued) > 0 || weft_pool_has_stealable(pool)))
    call_help(pool);
  return task;
}

int weft_worker_is_ending(weft_worker *worker) {
  pthread_mutex_lock(&worker->pool->lock);
  int is_ending = worker->pool->is_closing;
  pthread_mutex_unlock(&worker->pool->lock);
  return is_ending;
}

/* ---- looking ---- */

/* A task on the ring may be stolen and freed at any moment: those that are looked at are taken
 * first. */
void weft_worker_each_queued(weft_worker *worker, void (*visit)(weft_task *, void *), void *arg) {
  weft_task *taken[WEFT_RING_SIZE];
  uint32_t count = 0;
  while (count < WEFT_RING_SIZE && (taken[count] = weft_ring_take(&worker->ring)))
    visit(taken[count++], arg);
  for (uint32_t i = 0; i < count; i++)
    weft_ring_put(&worker->ring, taken[i]); /* only its owner puts: there is room */
}

/* ---- sleeping ---- */

static int has_news(void *arg) {
  weft_worker *worker = arg;
  return !weft_inbox_is_empty(worker->inbox) ||
         atomic_load_explicit(&worker->pool->queued, memory_order_relaxed) > 0;
}

/* One of the pool's at a time. */
static int spin(weft_worker *worker) {
  weft_pool *pool = worker->pool;
  if (!pool->may_spin || atomic_load(&pool->spinning) > 0 || weft_clock_is_virtual())
    return has_news(worker);
  atomic_fetch_add(&pool->spinning, 1);
  int found = weft_spin_until(&worker->spin, has_news, worker);
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
  if (atomic_load_explicit(&pool->queued, memory_order_relaxed) > 0 ||
      !weft_inbox_is_empty(worker->inbox))
    return LOOK_AGAIN;
  if (weft_pool_has_stealable(pool))
    return LOOK_AGAIN;
  if (!has_parked &&
      (pool->is_closing || weft_pool_hands_locked(pool) > atomic_load(&pool->max_threads))) {
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
