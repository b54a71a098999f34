/* waiter.c: waiter lists and the native-thread waiter.
 *
 * Owns nothing: waits and waiters live with whoever blocks. Lists are entered under the lock of
 * their primitive. Invariant: a waiter is in at most one list, and a wait is woken exactly once.
 */
#include "waiter.h"

#include "inbox.h"

void weft_waitlist_push(weft_waitlist *list, weft_waiter *waiter) {
  waiter->is_queued = 1;
  waiter->next = NULL;
  waiter->prev = list->tail;
  if (list->tail)
    list->tail->next = waiter;
  else
    list->head = waiter;
  list->tail = waiter;
}

void weft_waitlist_remove(weft_waitlist *list, weft_waiter *waiter) {
  if (!waiter->is_queued)
    return;
  waiter->is_queued = 0;
  if (waiter->prev)
    waiter->prev->next = waiter->next;
  else
    list->head = waiter->next;
  if (waiter->next)
    waiter->next->prev = waiter->prev;
  else
    list->tail = waiter->prev;
}

int weft_waitlist_claim(weft_waitlist *list, weft_waiter *waiter, weft_wait **woken) {
  weft_waitlist_remove(list, waiter);
  if (!weft_wait_claim(waiter->wait, waiter->index))
    return 0;
  waiter->wait->next = *woken;
  *woken = waiter->wait;
  return 1;
}

weft_waiter *weft_waitlist_claim_first(weft_waitlist *list, weft_wait **woken) {
  weft_waiter *waiter;
  while ((waiter = list->head))
    if (weft_waitlist_claim(list, waiter, woken))
      return waiter;
  return NULL;
}

void weft_waitlist_claim_all(weft_waitlist *list, weft_wait **woken) {
  while (weft_waitlist_claim_first(list, woken)) {
  }
}

static weft_wait *reversed(weft_wait *chain) {
  weft_wait *out = NULL;
  while (chain) {
    weft_wait *next = chain->next;
    chain->next = out;
    out = chain;
    chain = next;
  }
  return out;
}

void weft_wake(weft_wait *woken) {
  int is_batch = woken && woken->next;
  woken = reversed(woken);
  if (is_batch)
    weft_inbox_begin_batch();
  while (woken) {
    weft_wait *next = woken->next; /* the wait is gone once it was woken */
    woken->wake(woken);
    woken = next;
  }
  if (is_batch)
    weft_inbox_end_batch();
}

static void wake_thread(weft_wait *wait) {
  weft_thread_wait *party = (weft_thread_wait *)wait;
  pthread_mutex_lock(&party->lock);
  party->is_woken = 1;
  pthread_cond_signal(&party->woken);
  pthread_mutex_unlock(&party->lock);
}

void weft_thread_wait_init(weft_thread_wait *party) {
  weft_wait_init(&party->wait, wake_thread);
  pthread_mutex_init(&party->lock, NULL);
  pthread_cond_init(&party->woken, NULL);
  party->is_woken = 0;
}

void weft_thread_wait_block(weft_thread_wait *party) {
  pthread_mutex_lock(&party->lock);
  while (!party->is_woken)
    pthread_cond_wait(&party->woken, &party->lock);
  pthread_mutex_unlock(&party->lock);
  weft_thread_wait_drop(party);
}

void weft_thread_wait_drop(weft_thread_wait *party) {
  pthread_cond_destroy(&party->woken);
  pthread_mutex_destroy(&party->lock);
}
