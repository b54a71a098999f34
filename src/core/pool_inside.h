/* pool_inside.h: what pool.c and pool_worker.c share. Not for others. */
#ifndef WEFT_CORE_POOL_INSIDE_H
#define WEFT_CORE_POOL_INSIDE_H

#include "pool.h"

/* ---- pool.c ---- */

/* The last reference and the last thread have gone; whoever saw the second of them calls it, once,
 * without locks. */
void weft_pool_free(weft_pool *pool);

/* ---- pool_worker.c; those that end in _locked are called under the pool's lock ---- */

/* Threads that take tasks. */
uint32_t weft_pool_hands_locked(weft_pool *pool);
/* Takes a place for one more thread. NULL: none is wanted or possible. */
weft_worker *weft_pool_reserve_locked(weft_pool *pool);
/* Starts the thread of a place that was taken. Not under lock. */
void weft_worker_start(weft_worker *worker);
/* Somebody must look at the queue: a spinner will; else an idle worker; else a new one. After the
 * unlock the caller wakes `idle` and starts `fresh`. */
int weft_pool_find_hands_locked(weft_pool *pool, weft_worker **idle, weft_worker **fresh);
/* Any thread; a guess without locks. */
int weft_pool_has_stealable(weft_pool *pool);

/* Without a locked instruction, since only holders of the lock write it. */
static inline void weft_pool_add_queued_locked(weft_pool *pool, uint32_t change) {
  uint32_t queued = atomic_load_explicit(&pool->queued, memory_order_relaxed);
  atomic_store_explicit(&pool->queued, queued + change, memory_order_release);
}

static inline void weft_worker_wake(weft_worker *worker) {
  weft_parker_unpark(&worker->inbox->parker);
}

#endif
