/* block.c: the wait of a native thread on one source and one context.
 *
 * Owns nothing. Any native thread enters with a party of its own. Invariant: the source's waiter is
 * queued before the context's, so that an immediate success of the source never meets a wait that
 * the context has claimed.
 */
#include "block.h"

#include "census.h"

enum { SOURCE, CONTEXT };

void weft_blocked_init(weft_blocked *blocked) {
  weft_census_meet_stranger();
  weft_thread_wait_init(&blocked->party);
  weft_waiter_init(&blocked->on_source, &blocked->party.wait, SOURCE);
  weft_waiter_init(&blocked->on_context, &blocked->party.wait, CONTEXT);
}

int weft_blocked_wait(weft_blocked *blocked, weft_context *context) {
  weft_wait *wait = &blocked->party.wait;
  int is_open = weft_context_wait(context, &blocked->on_context);
  if (!is_open && weft_wait_claim(wait, CONTEXT)) {
    weft_blocked_drop(blocked);
    return 0;
  }
  weft_thread_wait_block(&blocked->party); /* a claim of the source's is followed by its wake */
  weft_context_unwait(context, &blocked->on_context);
  return weft_wait_winner(wait) == SOURCE;
}

void weft_blocked_drop(weft_blocked *blocked) {
  weft_thread_wait_drop(&blocked->party);
}
