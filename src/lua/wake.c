/* wake.c: how parked fibers are woken: the inbox, and the contexts that they watch.
 *
 * Owns a scheduler's watches: one waiter at each context that fibers of it are parked under.
 * Entered by the state's thread, but for the wake functions. Invariant: a watch is freed when no
 * fiber is under it and nobody can deliver it any more.
 */
#include "fibers.h"

#include "guest.h"
#include "mem.h"
#include "platform.h"
#include "ptrmap.h"

#include <sched.h>

enum { WATCH_BUCKETS = 256 };

/* A context that fibers of this scheduler are parked under: one waiter there for all of them. */
struct weft_watch {
  weft_wait wait; /* first */
  weft_waiter waiter;
  weft_scheduler *scheduler;
  weft_context *context; /* retained */
  weft_watch *next;      /* in its bucket */
  weft_fiber *fibers;
  uint8_t is_delivered;
};

/* That one task shall be looked at again. */
typedef struct interrupt {
  weft_message message; /* first */
  weft_task *task;      /* compared, never followed unless a fiber here runs it */
} interrupt;

static void wake_watch(weft_wait *wait);

/* ---- contexts that parked fibers watch ---- */

static weft_watch **watch_bucket(weft_scheduler *scheduler, const weft_context *context) {
  return &scheduler->watches[weft_ptr_hash(context) % WATCH_BUCKETS];
}

static weft_watch *find_watch(weft_scheduler *scheduler, const weft_context *context) {
  weft_watch *watch = *watch_bucket(scheduler, context);
  while (watch && watch->context != context)
    watch = watch->next;
  return watch;
}

/* NULL: no memory, or the context is done; weft_context_done tells. */
static weft_watch *new_watch(weft_scheduler *scheduler, weft_context *context) {
  weft_watch *watch = weft_calloc(1, sizeof *watch);
  if (!watch)
    return NULL;
  weft_wait_init(&watch->wait, wake_watch);
  weft_waiter_init(&watch->waiter, &watch->wait, 0);
  watch->scheduler = scheduler;
  if (!weft_context_wait(context, &watch->waiter)) {
    weft_free(watch);
    return NULL;
  }
  watch->context = weft_context_retain(context);
  weft_watch **bucket = watch_bucket(scheduler, context);
  watch->next = *bucket;
  *bucket = watch;
  return watch;
}

static void free_watch(weft_watch *watch) {
  weft_watch **link = watch_bucket(watch->scheduler, watch->context);
  while (*link != watch)
    link = &(*link)->next;
  *link = watch->next;
  weft_context_release(watch->context);
  weft_free(watch);
}

static void add_to_watch(weft_watch *watch, weft_fiber *fiber) {
  fiber->watch = watch;
  fiber->prev_watched = NULL;
  fiber->next_watched = watch->fibers;
  if (watch->fibers)
    watch->fibers->prev_watched = fiber;
  watch->fibers = fiber;
}

/* One that was claimed but not delivered is on its way to the inbox, and freed there. */
static void leave_watch(weft_fiber *fiber) {
  weft_watch *watch = fiber->watch;
  if (!watch)
    return;
  if (fiber->prev_watched)
    fiber->prev_watched->next_watched = fiber->next_watched;
  else
    watch->fibers = fiber->next_watched;
  if (fiber->next_watched)
    fiber->next_watched->prev_watched = fiber->prev_watched;
  fiber->watch = NULL;
  if (watch->fibers)
    return;
  weft_context_unwait(watch->context, &watch->waiter);
  if (weft_wait_winner(&watch->wait) < 0 || watch->is_delivered)
    free_watch(watch);
}

int weft_fiber_watch(weft_scheduler *scheduler, weft_fiber *fiber, weft_context *context) {
  if (context == weft_background())
    return 1;
  if (weft_context_done(context))
    return 0;
  weft_watch *watch = find_watch(scheduler, context);
  if (!watch)
    watch = new_watch(scheduler, context);
  if (watch)
    add_to_watch(watch, fiber);
  return watch != NULL;
}

/* ---- waking: the first four functions on any thread ---- */

void weft_fiber_wake(weft_wait *wait) {
  weft_inbox_push(atomic_load_explicit(&((weft_fiber *)wait)->task->runner, memory_order_relaxed),
                  wait);
}

void weft_main_wake(weft_wait *wait) {
  char *fiber = (char *)wait;
  weft_inbox_push(((weft_scheduler *)(fiber - offsetof(weft_scheduler, main)))->inbox, wait);
}

static void wake_watch(weft_wait *wait) {
  weft_inbox_push(((weft_watch *)wait)->scheduler->inbox, wait);
}

/* Tells messages from waits; they are pushed, never woken. */
static void wake_message(weft_wait *wait) {
  (void)wait;
}

void weft_message_send(weft_message *message, weft_inbox *inbox) {
  weft_wait_init(&message->wait, wake_message);
  weft_inbox_push(inbox, &message->wait);
}

void weft_fiber_unpark(weft_scheduler *scheduler, weft_fiber *fiber) {
  leave_watch(fiber);
  weft_tally(&scheduler->parked, -1);
  fiber->was_parked = 1;
  if (fiber->is_guest)
    weft_guest_unparked(fiber);
  else if (fiber == &scheduler->main)
    fiber->state = WEFT_FIBER_READY;
  else if (fiber == scheduler->current) /* an error kept it from its yield */
    fiber->state = WEFT_FIBER_RUNNING;
  else
    weft_fiber_push_ready(scheduler, fiber);
}

/* When the event came first, its wake is on the way. */
static void cancel_parked(weft_scheduler *scheduler, weft_fiber *fiber) {
  if (weft_wait_claim(&fiber->park.wait, WEFT_PARK_CANCELED))
    weft_fiber_unpark(scheduler, fiber);
}

static void deliver_watch(weft_scheduler *scheduler, weft_watch *watch) {
  for (weft_fiber *fiber = watch->fibers, *next; fiber; fiber = next) {
    next = fiber->next_watched;
    cancel_parked(scheduler, fiber);
  }
  watch->is_delivered = 1;
  if (!watch->fibers)
    free_watch(watch);
}

/* One that is not under any watch, at the end of a scope, waits until its own tasks have ended. */
static void deliver_interrupt(weft_scheduler *scheduler, weft_message *message) {
  weft_task *task = ((interrupt *)message)->task;
  for (weft_fiber_block *block = scheduler->blocks; block; block = block->next)
    for (int i = 0; i < WEFT_FIBERS_PER_BLOCK; i++) {
      weft_fiber *fiber = &block->fibers[i];
      if (fiber->state == WEFT_FIBER_PARKED && fiber->watch && fiber->task == task &&
          weft_context_done(weft_task_context(fiber->task)))
        cancel_parked(scheduler, fiber);
    }
  weft_free(message);
}

static void deliver(weft_scheduler *scheduler, weft_wait *wait) {
  if (wait->wake == weft_fiber_wake || wait->wake == weft_main_wake ||
      wait->wake == weft_guest_wake)
    weft_fiber_unpark(scheduler, (weft_fiber *)wait);
  else if (wait->wake == wake_watch)
    deliver_watch(scheduler, (weft_watch *)wait);
  else
    ((weft_message *)wait)->receive(scheduler, (weft_message *)wait);
}

int weft_scheduler_take_inbox(weft_scheduler *scheduler) {
  weft_wait *wait = weft_inbox_take(scheduler->inbox);
  int count = 0;
  while (wait) {
    weft_wait *next = wait->next;
    deliver(scheduler, wait);
    wait = next;
    count++;
  }
  return count;
}

/* Whoever has cancelled a context pushes its watches after its walk down the tree, which may be
 * long; in the child of a fork it is not there any more. */
void weft_scheduler_await_watches(weft_scheduler *scheduler) {
  if (scheduler->process != weft_process_generation())
    return;
  for (int i = 0; i < WATCH_BUCKETS; i++)
    while (scheduler->watches[i])
      if (!weft_scheduler_take_inbox(scheduler))
        sched_yield();
}

void weft_scheduler_interrupt(weft_task *task) {
  weft_inbox *inbox = atomic_load(&task->runner);
  interrupt *message = inbox ? weft_malloc(sizeof *message) : NULL;
  if (!message)
    return; /* not started: it sees its context when it starts */
  message->message.receive = deliver_interrupt;
  message->task = task;
  weft_message_send(&message->message, inbox);
}
