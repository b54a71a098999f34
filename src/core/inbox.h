/* inbox.h: where woken waits of one scheduler arrive, and where its thread sleeps.
 *
 * Any thread pushes; one thread at a time, the scheduler's driver, takes and parks.
 */
#ifndef WEFT_CORE_INBOX_H
#define WEFT_CORE_INBOX_H

#include "platform.h"
#include "waiter.h"

typedef struct weft_inbox {
  _Atomic(weft_wait *) head __attribute__((aligned(64))); /* newest first */
  weft_parker parker;
  struct weft_inbox *next_free, *next_script;
  uint8_t kind;
} weft_inbox;

/* Whose inbox it is: a worker sleeps on a futex, a script on a descriptor that signals interrupt;
 * for an event loop the caller gives the parker a descriptor, which then stays the inbox's. */
enum { WEFT_INBOX_WORKER, WEFT_INBOX_SCRIPT, WEFT_INBOX_LOOP, WEFT_INBOX_KINDS };

/* An empty inbox, or NULL. */
weft_inbox *weft_inbox_acquire(int kind);
/* Gives it back. Inboxes are recycled and never freed: a waker that comes late, between its push
 * and its unpark, meets live memory and causes at most one early return from a park. */
void weft_inbox_release(weft_inbox *inbox);

/* Never blocks, takes no lock. */
void weft_inbox_push(weft_inbox *inbox, weft_wait *wait);
/* Between these the calling thread's pushes unpark late: a driver that gets many waits wakes once
 * for all. Nothing that blocks may stand between them; they do not nest. */
void weft_inbox_begin_batch(void);
void weft_inbox_end_batch(void);
/* Everything that has arrived, oldest first, linked by next; NULL when empty. */
weft_wait *weft_inbox_take(weft_inbox *inbox);

static inline int weft_inbox_is_empty(weft_inbox *inbox) {
  return atomic_load_explicit(&inbox->head, memory_order_relaxed) == NULL;
}

#endif
