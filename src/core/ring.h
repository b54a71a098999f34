/* ring.h: a worker's queue of tasks that other workers may steal from.
 *
 * The owner puts and takes; any worker steals. Lock-free; nothing blocks. A fixed size: what does
 * not fit goes to the pool's queue.
 */
#ifndef WEFT_CORE_RING_H
#define WEFT_CORE_RING_H

#include <stdatomic.h>
#include <stdint.h>

struct weft_task;

enum { WEFT_RING_SIZE = 256, WEFT_RING_BATCH = 32 };

typedef struct weft_ring {
  _Atomic uint32_t head __attribute__((aligned(64))); /* next to take; moved by anyone */
  _Atomic uint32_t tail __attribute__((aligned(64))); /* next free place; moved by the owner */
  _Atomic(struct weft_task *) slots[WEFT_RING_SIZE];
} weft_ring;

/* [owner] Returns 0 when it is full. */
static inline int weft_ring_put(weft_ring *ring, struct weft_task *task) {
  uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  if (tail - atomic_load_explicit(&ring->head, memory_order_acquire) >= WEFT_RING_SIZE)
    return 0;
  atomic_store_explicit(&ring->slots[tail % WEFT_RING_SIZE], task, memory_order_relaxed);
  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
  return 1;
}

/* [owner] The oldest task, or NULL. */
static inline struct weft_task *weft_ring_take(weft_ring *ring) {
  uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
  for (;;) {
    if (head == atomic_load_explicit(&ring->tail, memory_order_relaxed))
      return NULL;
    struct weft_task *task =
        atomic_load_explicit(&ring->slots[head % WEFT_RING_SIZE], memory_order_relaxed);
    if (atomic_compare_exchange_weak_explicit(&ring->head, &head, head + 1, memory_order_acq_rel,
                                              memory_order_acquire))
      return task;
  }
}

/* [any thread] Takes half of the tasks, at most WEFT_RING_BATCH, oldest first: how many. */
static inline uint32_t weft_ring_steal(weft_ring *ring, struct weft_task **stolen) {
  uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
  for (;;) {
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint32_t count = tail - head;
    if (count > WEFT_RING_SIZE) { /* head was stale */
      head = atomic_load_explicit(&ring->head, memory_order_acquire);
      continue;
    }
    count -= count / 2;
    if (count > WEFT_RING_BATCH)
      count = WEFT_RING_BATCH;
    if (count == 0)
      return 0;
    for (uint32_t i = 0; i < count; i++)
      stolen[i] =
          atomic_load_explicit(&ring->slots[(head + i) % WEFT_RING_SIZE], memory_order_relaxed);
    if (atomic_compare_exchange_weak_explicit(&ring->head, &head, head + count,
                                              memory_order_acq_rel, memory_order_acquire))
      return count;
  }
}

static inline int weft_ring_is_empty(weft_ring *ring) {
  return atomic_load_explicit(&ring->head, memory_order_relaxed) ==
         atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

#endif
