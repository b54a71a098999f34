/* select.h: one of several channel operations, with Go's rules; semaphores and contexts may be
 * among them.
 *
 * All channels and semaphores of a choice are locked together, so that it looks at one moment. Of
 * the cases that can go on then, one is chosen by chance, or the first. When none can, a waiter is
 * queued for each, all of the same wait: whoever claims it decides. A choice never meets itself,
 * since it has nothing queued while it tries.
 *
 * A choice and its cases belong to the thread that blocks. The caller keeps references to the
 * channels and contexts. Nothing blocks, except what says so.
 */
#ifndef WEFT_CORE_SELECT_H
#define WEFT_CORE_SELECT_H

#include "channel.h"
#include "context.h"
#include "semaphore.h"

enum {
  WEFT_SELECT_NEVER,
  WEFT_SELECT_RECV,
  WEFT_SELECT_SEND,
  WEFT_SELECT_DONE,
  WEFT_SELECT_ACQUIRE
};
enum { WEFT_SELECT_MAX = 60000 }; /* cases */

typedef struct weft_select_case {
  uint8_t kind;
  weft_channel *channel;     /* of a recv or send */
  weft_context *context;     /* of a done */
  weft_semaphore *semaphore; /* of an acquire */
  uint32_t weight;           /* the same: how much */
  weft_parcel *value; /* to be sent, or empty and for what is received; all recvs may share one */
  weft_waiter waiter;
  uint16_t polled, locked; /* of the whole choice: the nth case to be tried, the nth to be locked */
} weft_select_case;

typedef struct weft_select {
  weft_select_case *cases;
  uint32_t count;
  uint32_t lock_count; /* different channels and semaphores */
  int is_ordered;      /* of several that can go on the first one does */
} weft_select;

/* Makes a choice of `count` cases whose kind, channel, context and value are set. */
void weft_select_init(weft_select *select, weft_select_case *cases, uint32_t count, int is_ordered);
/* The case `*index` went on: WEFT_OK; WEFT_CLOSED when its channel is closed (a recv's value is
 * empty, a send's unchanged); WEFT_FULL when that drops what was sent; WEFT_TOO_LARGE when its
 * semaphore is smaller than the weight. Else WEFT_WOULD_WAIT. */
int weft_select_try(weft_select *select, uint32_t *index);
/* The same, but WEFT_WOULD_WAIT says that a waiter of `wait` was queued for each case, with the
 * index `first` + the case's. No other source may hold the wait yet. */
int weft_select_or_wait(weft_select *select, weft_wait *wait, uint32_t first, uint32_t *index);
/* Takes all waiters out. After it no other thread touches them, unless the wait's winner is one of
 * them: then its wake is due. */
void weft_select_unwait(weft_select *select);
/* The result of the case that was claimed, once woken: WEFT_OK, WEFT_CLOSED or WEFT_TOO_LARGE. */
static inline int weft_select_outcome(const weft_select *select, uint32_t index) {
  return weft_waiter_outcome(&select->cases[index].waiter);
}

/* Blocks the calling native thread. As weft_select_try, or WEFT_CANCELED. */
int weft_select_wait(weft_context *context, weft_select *select, uint32_t *index);

#endif
