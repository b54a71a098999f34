/* inbox.c: a lock-free list of woken waits with one consumer.
 *
 * Owns the inboxes, which are never freed. Any thread enters push; the driver enters the rest.
 * Invariants: the push that finds the list empty unparks, so a driver that parks after seeing it
 * empty is woken; no two processes sleep on one descriptor.
 */
#include "inbox.h"

#include "mem.h"

/* a leaf: nothing is locked under it */
static pthread_mutex_t free_lock = PTHREAD_MUTEX_INITIALIZER;
static weft_inbox *free_lists[WEFT_INBOX_KINDS]; /* guarded by free_lock */
static weft_inbox *scripts; /* all that sleep on a descriptor; guarded by free_lock */

/* The calling thread's: whom its batch has to unpark still. */
static _Thread_local weft_parker *late;
static _Thread_local int is_batch;

static weft_inbox *take_free(int kind) {
  pthread_mutex_lock(&free_lock);
  weft_inbox *inbox = free_lists[kind];
  if (inbox)
    free_lists[kind] = inbox->next_free;
  pthread_mutex_unlock(&free_lock);
  return inbox;
}

static void after_fork_in_child(void) {
  for (weft_inbox *inbox = scripts; inbox; inbox = inbox->next_script)
    weft_parker_part(&inbox->parker);
}

static void register_fork_handlers(void) {
  weft_process_renew_lock(&free_lock);
  pthread_atfork(NULL, NULL, after_fork_in_child);
}

static void add_script(weft_inbox *inbox) {
  pthread_mutex_lock(&free_lock);
  inbox->next_script = scripts;
  scripts = inbox;
  pthread_mutex_unlock(&free_lock);
}

weft_inbox *weft_inbox_acquire(int kind) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_fork_handlers);
  weft_inbox *inbox = take_free(kind);
  if (inbox)
    return inbox;
  inbox = weft_malloc_aligned(64, sizeof *inbox); /* never freed */
  if (!inbox)
    return NULL;
  atomic_init(&inbox->head, NULL);
  inbox->next_free = inbox->next_script = NULL;
  inbox->kind = (uint8_t)kind;
  if (weft_parker_init(&inbox->parker, kind == WEFT_INBOX_SCRIPT) != 0) {
    inbox->parker.fd = -1; /* no descriptor left: it still works, signals are seen later */
    inbox->kind = WEFT_INBOX_WORKER;
    atomic_init(&inbox->parker.state, 0);
  } else if (kind == WEFT_INBOX_SCRIPT) {
    add_script(inbox);
  }
  inbox->parker.is_party = kind != WEFT_INBOX_LOOP; /* who runs an event loop is awake for ever */
  return inbox;
}

void weft_inbox_release(weft_inbox *inbox) {
  pthread_mutex_lock(&free_lock);
  inbox->next_free = free_lists[inbox->kind];
  free_lists[inbox->kind] = inbox;
  pthread_mutex_unlock(&free_lock);
}

/* In a batch only when the driver changes. */
static void unpark(weft_parker *parker) {
  if (!is_batch) {
    weft_parker_unpark(parker);
    return;
  }
  if (late && late != parker)
    weft_parker_unpark(late);
  late = parker;
}

void weft_inbox_push(weft_inbox *inbox, weft_wait *wait) {
  weft_wait *head = atomic_load_explicit(&inbox->head, memory_order_relaxed);
  do
    wait->next = head;
  while (!atomic_compare_exchange_weak(&inbox->head, &head, wait));
  if (!head)
    unpark(&inbox->parker);
}

void weft_inbox_begin_batch(void) {
  is_batch = 1;
}

void weft_inbox_end_batch(void) {
  is_batch = 0;
  if (late)
    weft_parker_unpark(late);
  late = NULL;
}

weft_wait *weft_inbox_take(weft_inbox *inbox) {
  if (weft_inbox_is_empty(inbox))
    return NULL;
  weft_wait *newest = atomic_exchange(&inbox->head, NULL), *oldest = NULL;
  while (newest) {
    weft_wait *next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}
