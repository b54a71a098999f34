/* block.h: a native thread that blocks until a source is ready or its context is done.
 *
 * Lives on the blocked thread's stack. That thread calls everything here.
 */
#ifndef WEFT_CORE_BLOCK_H
#define WEFT_CORE_BLOCK_H

#include "context.h"
#include "waiter.h"

typedef struct weft_blocked {
  weft_thread_wait party;
  weft_waiter on_source; /* to be given to the source's "or wait" function */
  weft_waiter on_context;
} weft_blocked;

/* Before the source's "or wait" function is called. Ends in weft_blocked_wait or _drop. */
void weft_blocked_init(weft_blocked *blocked);
/* After on_source was queued: blocks. 1: the source claimed it; 0: the context is done, and the
 * caller takes on_source out of the source's queue. The party is dropped. */
int weft_blocked_wait(weft_blocked *blocked, weft_context *context);
/* When on_source was not queued. */
void weft_blocked_drop(weft_blocked *blocked);

#endif
