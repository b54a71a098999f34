/* queue.h: a FIFO of tasks without an end, as a chain of chunks.
 *
 * Guarded by its owner's lock. Nothing blocks. It holds addresses in arrays, not a list through the
 * tasks: who takes some does not wait for the memory of one to find the next.
 */
#ifndef WEFT_CORE_QUEUE_H
#define WEFT_CORE_QUEUE_H

#include <stdint.h>

struct weft_task;

typedef struct weft_queue { /* starts as zeros */
  struct weft_queue_chunk *head, *tail;
  struct weft_queue_chunk *spare; /* of those that were emptied, one */
  uint32_t first, end;            /* places in head and tail */
} weft_queue;

/* 0: no memory. */
int weft_queue_put(weft_queue *queue, struct weft_task *task);
/* Takes the oldest, `most` at most: how many. */
uint32_t weft_queue_take(weft_queue *queue, struct weft_task **tasks, uint32_t most);
/* Calls visit for the oldest, `most` at most, which stay. */
void weft_queue_each(weft_queue *queue, uint32_t most, void (*visit)(struct weft_task *, void *arg),
                     void *arg);
/* Frees its memory; the tasks in it are not touched. */
void weft_queue_free(weft_queue *queue);

#endif
