/* timer.c: two pairing heaps of timers behind one lock: those of the clock, and outside timers.
 *
 * Owns the heaps' links, not the timers. Any thread starts and stops; the I/O thread fires.
 * Invariant: a timer is in its heap exactly while is_queued, and its claim runs under the lock, so
 * that after weft_timer_stop its owner may be freed.
 *
 * Lock order: the timers' lock is a leaf; claim takes no lock.
 */
#include "timer.h"

#include "clock.h"
#include "io.h"
#include "platform.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static weft_timer *roots[2]; /* by is_outside */
static uint32_t live[2];     /* the same */
static uint64_t last_sequence;
static uint64_t shuffle_seed; /* 0: none */
static uint64_t shuffled;     /* how many starts since it was set */

static int is_before(const weft_timer *a, const weft_timer *b) {
  return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

/* Joins two heaps; either may be NULL. */
static weft_timer *meld(weft_timer *a, weft_timer *b) {
  if (!a || !b)
    return a ? a : b;
  if (is_before(b, a)) {
    weft_timer *swap = a;
    a = b;
    b = swap;
  }
  b->prev = a; /* of a first child: its parent */
  b->next = a->child;
  if (a->child)
    a->child->prev = b;
  a->child = b;
  return a;
}

/* The two-pass merge of a list of siblings into one heap. */
static weft_timer *meld_siblings(weft_timer *first) {
  weft_timer *pairs = NULL;
  while (first) {
    weft_timer *a = first, *b = first->next;
    first = b ? b->next : NULL;
    a->next = NULL;
    if (b)
      b->next = NULL;
    a = meld(a, b);
    a->next = pairs;
    pairs = a;
  }
  weft_timer *heap = NULL;
  while (pairs) {
    weft_timer *next = pairs->next;
    pairs->next = NULL;
    heap = meld(heap, pairs);
    pairs = next;
  }
  if (heap)
    heap->prev = NULL;
  return heap;
}

static void heap_remove(weft_timer *timer) {
  weft_timer **root = &roots[timer->is_outside];
  weft_timer *children = meld_siblings(timer->child);
  if (timer == *root) {
    *root = children;
  } else {
    if (timer->prev->child == timer)
      timer->prev->child = timer->next;
    else
      timer->prev->next = timer->next;
    if (timer->next)
      timer->next->prev = timer->prev;
    *root = meld(*root, children);
  }
  timer->child = timer->next = timer->prev = NULL;
  timer->is_queued = 0;
  live[timer->is_outside]--;
}

/* After a fork the parent's timers are none of ours. Called under lock. */
static void forget_other_process(void) {
  static uint32_t process;
  if (process == weft_process_generation())
    return;
  process = weft_process_generation();
  roots[0] = roots[1] = NULL;
  live[0] = live[1] = 0;
}

/* The order among timers of one instant. Called under lock. */
static uint64_t next_order(const weft_timer *timer) {
  uint64_t order = ++last_sequence;
  if (shuffle_seed)
    order = weft_mix(shuffle_seed + ++shuffled);
  return (order & INT64_MAX) | (uint64_t)timer->is_last << 63;
}

void weft_timers_shuffle(uint64_t seed) {
  pthread_mutex_lock(&lock);
  shuffle_seed = seed ? weft_mix(seed) | 1 : 0;
  shuffled = 0;
  pthread_mutex_unlock(&lock);
}

static void renew_lock(void) {
  weft_process_renew_lock(&lock);
}

int weft_timer_start(weft_timer *timer, uint64_t at_ns) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, renew_lock);
  int rc = weft_io_start();
  if (rc)
    return rc;
  pthread_mutex_lock(&lock);
  forget_other_process();
  timer->at_ns = at_ns;
  timer->order = next_order(timer);
  timer->child = timer->next = timer->prev = NULL;
  timer->process = weft_process_generation();
  timer->is_queued = 1;
  live[timer->is_outside]++;
  weft_timer **root = &roots[timer->is_outside];
  *root = meld(*root, timer);
  int is_first = *root == timer, is_outside = timer->is_outside;
  pthread_mutex_unlock(&lock); /* it may fire, and be gone, from here on */
  if (is_first && (is_outside || !weft_clock_is_virtual()))
    weft_io_wake(); /* it sleeps for a later timer */
  return 0;
}

int weft_timer_stop(weft_timer *timer) {
  pthread_mutex_lock(&lock);
  forget_other_process();
  int was_queued = timer->is_queued && timer->process == weft_process_generation();
  if (was_queued)
    heap_remove(timer);
  pthread_mutex_unlock(&lock);
  return was_queued;
}

uint32_t weft_timers_live(void) {
  pthread_mutex_lock(&lock);
  forget_other_process();
  uint32_t count = live[0];
  pthread_mutex_unlock(&lock);
  return count;
}

/* The time of the first of a heap. Called under lock. */
static uint64_t first_ns(int is_outside) {
  return roots[is_outside] ? roots[is_outside]->at_ns : WEFT_NEVER_NS;
}

uint64_t weft_timers_next_ns(void) {
  pthread_mutex_lock(&lock);
  forget_other_process();
  uint64_t next_ns = first_ns(0);
  pthread_mutex_unlock(&lock);
  return next_ns;
}

static uint64_t left_ns(uint64_t at_ns, uint64_t now_ns) {
  return at_ns == WEFT_NEVER_NS ? at_ns : at_ns > now_ns ? at_ns - now_ns : 0;
}

uint64_t weft_timers_left_ns(void) {
  pthread_mutex_lock(&lock);
  forget_other_process();
  uint64_t next_ns = weft_clock_is_virtual() ? WEFT_NEVER_NS : first_ns(0);
  uint64_t outside_ns = first_ns(1);
  pthread_mutex_unlock(&lock);
  if (next_ns != WEFT_NEVER_NS)
    next_ns = left_ns(next_ns, weft_clock_now_ns());
  if (outside_ns != WEFT_NEVER_NS)
    outside_ns = left_ns(outside_ns, weft_clock_outside_ns());
  return next_ns < outside_ns ? next_ns : outside_ns;
}

/* Takes what is due out of the heap, `most` at most; returns those to fire, in order, linked by
 * next. */
static weft_timer *claim_due(int is_outside, uint64_t now_ns, uint32_t most) {
  weft_timer *first = NULL, **end = &first, **root = &roots[is_outside];
  pthread_mutex_lock(&lock);
  while (*root && (*root)->at_ns <= now_ns && most > 0) {
    weft_timer *timer = *root;
    heap_remove(timer);
    if (timer->claim(timer)) {
      *end = timer;
      end = &timer->next;
      most--;
    }
  }
  pthread_mutex_unlock(&lock);
  return first;
}

static void fire_all(weft_timer *timer) {
  while (timer) {
    weft_timer *next = timer->next;
    timer->next = NULL;
    timer->fire(timer);
    timer = next;
  }
}

void weft_timers_run(void) {
  if (!weft_clock_is_virtual())
    fire_all(claim_due(0, weft_clock_now_ns(), UINT32_MAX));
  fire_all(claim_due(1, weft_clock_outside_ns(), UINT32_MAX));
}

void weft_timers_jump(void) {
  uint64_t next_ns = weft_timers_next_ns();
  if (next_ns == WEFT_NEVER_NS)
    return;
  weft_clock_move(next_ns);
  fire_all(claim_due(0, next_ns, 1));
}

void weft_timers_before_fork(void) {
  pthread_mutex_lock(&lock);
}

void weft_timers_after_fork(void) {
  pthread_mutex_unlock(&lock);
}

static int claim_wait(weft_timer *timer) {
  weft_wait_timer *self = (weft_wait_timer *)timer;
  return weft_wait_claim(self->wait, self->index);
}

static void fire_wait(weft_timer *timer) {
  weft_wait *wait = ((weft_wait_timer *)timer)->wait;
  wait->next = NULL;
  wait->wake(wait);
}

void weft_wait_timer_init(weft_wait_timer *timer, weft_wait *wait, uint32_t index) {
  weft_timer_init(&timer->timer, claim_wait, fire_wait);
  timer->wait = wait;
  timer->index = index;
}

int weft_wait_timer_start(weft_wait_timer *timer, weft_wait *wait, uint32_t index, uint64_t at_ns) {
  weft_wait_timer_init(timer, wait, index);
  return weft_timer_start(&timer->timer, at_ns);
}
