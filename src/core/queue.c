/* queue.c: a FIFO of tasks as a chain of chunks.
 *
 * Owns the chunks, not the tasks. Entered under the lock of the queue's owner. Invariant: no chunk
 * of the chain is empty, but for a single one whose places were all taken.
 */
#include "queue.h"

#include "mem.h"

enum { PLACES = 127 };

struct weft_queue_chunk {
  struct weft_queue_chunk *next;
  struct weft_task *tasks[PLACES];
};

static struct weft_queue_chunk *new_chunk(weft_queue *queue) {
  struct weft_queue_chunk *chunk = queue->spare;
  if (!chunk)
    return weft_malloc(sizeof *chunk);
  queue->spare = NULL;
  return chunk;
}

static int add_chunk(weft_queue *queue) {
  struct weft_queue_chunk *chunk = new_chunk(queue);
  if (!chunk)
    return 0;
  chunk->next = NULL;
  if (queue->tail)
    queue->tail->next = chunk;
  else
    queue->head = chunk;
  queue->tail = chunk;
  queue->end = 0;
  return 1;
}

static void drop_head(weft_queue *queue) {
  struct weft_queue_chunk *chunk = queue->head;
  queue->head = chunk->next;
  queue->first = 0;
  if (queue->spare)
    weft_free(chunk);
  else
    queue->spare = chunk;
}

int weft_queue_put(weft_queue *queue, struct weft_task *task) {
  if ((!queue->tail || queue->end == PLACES) && !add_chunk(queue))
    return 0;
  queue->tail->tasks[queue->end++] = task;
  return 1;
}

uint32_t weft_queue_take(weft_queue *queue, struct weft_task **tasks, uint32_t most) {
  uint32_t taken = 0;
  while (taken < most && queue->head) {
    uint32_t end = queue->head == queue->tail ? queue->end : PLACES;
    while (taken < most && queue->first < end)
      tasks[taken++] = queue->head->tasks[queue->first++];
    if (queue->first < end)
      break;
    if (queue->head == queue->tail) { /* empty: it begins anew in the same chunk */
      queue->first = queue->end = 0;
      break;
    }
    drop_head(queue);
  }
  return taken;
}

void weft_queue_each(weft_queue *queue, uint32_t most, void (*visit)(struct weft_task *, void *),
                     void *arg) {
  uint32_t place = queue->first;
  for (struct weft_queue_chunk *chunk = queue->head; chunk; chunk = chunk->next, place = 0) {
    uint32_t end = chunk == queue->tail ? queue->end : PLACES;
    for (; place < end && most > 0; place++, most--)
      visit(chunk->tasks[place], arg);
  }
}

void weft_queue_free(weft_queue *queue) {
  weft_free(queue->spare);
  while (queue->head) {
    struct weft_queue_chunk *chunk = queue->head;
    queue->head = chunk->next;
    weft_free(chunk);
  }
  *queue = (weft_queue){0};
}
