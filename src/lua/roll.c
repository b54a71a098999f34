/* roll.c: asks all schedulers for their tasks, and collects the answers.
 *
 * Owns the roll, shared by the caller and the messages under way, and what was seen until the
 * caller takes it. Entered by the caller and by the threads of the states that answer. Invariant: a
 * state is looked at by its own thread alone; an answer that comes too late is dropped.
 *
 * Lock order: a roll's lock is a leaf. The caller is unparked after unlocking.
 */
#include "roll.h"

#include "clock.h"
#include "fibers.h"
#include "mem.h"
#include "pool.h"
#include "roster.h"
#include "state.h"

#include <stdlib.h>
#include <string.h>

typedef struct roll {
  _Atomic uint32_t refs; /* the caller's and one a message */
  weft_parker *caller;   /* its inbox's, or own; unparked with every answer */
  weft_parker own;
  uint32_t asked;   /* the caller's */
  weft_sight *busy; /* the caller's list: one a message */
  pthread_mutex_t lock;
  /* guarded by lock */
  weft_sight *first, **end;
  uint32_t begun, answered; /* how many threads look at their tasks or have done so; are through */
  uint8_t is_over;
} roll;

typedef struct question {
  weft_message message; /* first */
  roll *roll;
  weft_sight *busy; /* stands for the thread in the roll's list; valid until the roll is over */
} question;

/* ---- life ---- */

void weft_roll_free(weft_sight *sight) {
  while (sight) {
    weft_sight *next = sight->next;
    weft_sight_free(sight);
    sight = next;
  }
}

static void release_roll(roll *roll) {
  if (atomic_fetch_sub(&roll->refs, 1) != 1)
    return;
  weft_roll_free(roll->first);
  pthread_mutex_destroy(&roll->lock);
  weft_free(roll);
}

/* ---- answering ---- */

static void append(roll *roll, weft_sight *first, weft_sight **end) {
  if (!first)
    return;
  *roll->end = first;
  roll->end = end;
}

/* Returns whether the roll still wants it. */
static int begin_answer(roll *roll) {
  pthread_mutex_lock(&roll->lock);
  int is_wanted = !roll->is_over;
  roll->begun++;
  pthread_mutex_unlock(&roll->lock);
  return is_wanted;
}

static void answer(question *question, weft_album *album) {
  roll *roll = question->roll;
  weft_parker *caller = NULL;
  pthread_mutex_lock(&roll->lock);
  if (!roll->is_over) {
    append(roll, album->first, album->end);
    album->first = NULL;
    question->busy->has_answered = 1;
    roll->answered++;
    caller = roll->caller;
  }
  pthread_mutex_unlock(&roll->lock);
  if (caller) /* an inbox's, which stays, or the roll's, which is not released yet */
    weft_parker_unpark(caller);
  weft_roll_free(album->first);
}

static void receive(weft_scheduler *scheduler, weft_message *message) {
  question *question = (void *)message;
  weft_album album = {.scheduler = scheduler, .L = scheduler->state->L};
  if (begin_answer(question->roll)) {
    weft_look(&album);
    answer(question, &album);
  }
  release_roll(question->roll);
  weft_free(question);
}

/* ---- asking ---- */

typedef struct asking {
  roll *roll;
  weft_scheduler *self;
} asking;

/* Stands for the thread unless it answers. Freed with the roll's others, by the caller. */
static weft_sight *add_busy(roll *roll, weft_scheduler *scheduler) {
  weft_album album = {.scheduler = scheduler, .end = &album.first};
  weft_sight *sight = weft_album_add(&album, "busy");
  if (!sight)
    return NULL;
  sight->tasks = atomic_load_explicit(&scheduler->live, memory_order_relaxed);
  sight->task = scheduler; /* no task has its address */
  sight->next = roll->busy;
  roll->busy = sight;
  return sight;
}

/* Under the roster's lock. */
static void ask(weft_scheduler *scheduler, void *arg) {
  asking *asking = arg;
  roll *roll = asking->roll;
  if (scheduler == asking->self || scheduler->guests)
    return; /* an event loop cannot be asked: it looks when it likes */
  question *question = weft_calloc(1, sizeof *question);
  if (question)
    question->busy = add_busy(roll, scheduler);
  if (!question || !question->busy) {
    weft_free(question);
    return;
  }
  question->message.receive = receive;
  question->roll = roll;
  atomic_fetch_add(&roll->refs, 1);
  roll->asked++;
  weft_message_send(&question->message, scheduler->inbox);
}

/* The queue of each pool that has threads, once. */
static void ask_queue(weft_scheduler *scheduler, void *arg) {
  roll *roll = arg;
  weft_pool *pool = scheduler->worker ? scheduler->worker->pool : NULL;
  if (!pool || !weft_roster_meets_first(pool, 0))
    return;
  weft_album album = {.scheduler = scheduler};
  album.end = &album.first;
  weft_pool_each_queued(pool, WEFT_ROLL_QUEUED_MOST, weft_see_queued, &album);
  for (weft_sight *sight = album.first; sight; sight = sight->next)
    sight->thread = 0; /* nobody's yet */
  pthread_mutex_lock(&roll->lock);
  append(roll, album.first, album.end);
  pthread_mutex_unlock(&roll->lock);
}

/* Of those that were asked and did not answer. */
static void name_busy(weft_scheduler *scheduler, void *arg) {
  roll *roll = arg;
  if (!scheduler->stuck_task)
    return;
  pthread_mutex_lock(&roll->lock);
  for (weft_sight *busy = roll->busy; busy; busy = busy->next)
    if (busy->task == scheduler && !busy->has_answered)
      weft_stuck_read(scheduler, busy);
  pthread_mutex_unlock(&roll->lock);
}

static roll *new_roll(weft_scheduler *self) {
  roll *roll = weft_calloc(1, sizeof *roll);
  if (!roll)
    return NULL;
  atomic_init(&roll->refs, 1);
  pthread_mutex_init(&roll->lock, NULL);
  weft_parker_init(&roll->own, 0);
  roll->caller = self && !self->guests ? &self->inbox->parker : &roll->own;
  roll->end = &roll->first;
  return roll;
}

static int is_complete(roll *roll) {
  pthread_mutex_lock(&roll->lock);
  int complete = roll->answered == roll->asked;
  pthread_mutex_unlock(&roll->lock);
  return complete;
}

static int is_being_answered(roll *roll) {
  pthread_mutex_lock(&roll->lock);
  int found = roll->begun > roll->answered;
  pthread_mutex_unlock(&roll->lock);
  return found;
}

/* Who has many tasks takes long to look at them: an event loop does not wait for that, others do.
 * The caller goes on answering others meanwhile, or two that ask each other would wait in vain. */
static void wait_for_answers(roll *roll, weft_scheduler *self) {
  int is_loop = self && self->guests;
  uint64_t step_ns = (is_loop ? WEFT_ROLL_LOOP_WAIT_MS : WEFT_ROLL_WAIT_MS) * 1000000ull;
  uint64_t until_ns = weft_clock_real_ns() + step_ns;
  while (!is_complete(roll)) {
    if (weft_clock_real_ns() >= until_ns) {
      if (is_loop || !is_being_answered(roll))
        return;
      until_ns += step_ns;
    }
    if (self && !is_loop && weft_scheduler_take_inbox(self))
      continue;
    weft_parker_park(roll->caller, until_ns);
  }
}

/* Closes the roll, so that late answers are dropped, and adds those threads that gave none. */
static weft_sight *take_sights(roll *roll) {
  weft_sight *silent = NULL;
  pthread_mutex_lock(&roll->lock);
  roll->is_over = 1;
  for (weft_sight *busy = roll->busy, *next; busy; busy = next) {
    next = busy->next;
    if (busy->has_answered) {
      weft_sight_free(busy);
    } else {
      busy->next = silent;
      silent = busy;
    }
  }
  *roll->end = silent;
  weft_sight *sights = roll->first;
  roll->first = roll->busy = NULL;
  pthread_mutex_unlock(&roll->lock);
  return sights;
}

/* ---- in order ---- */

static int compare(const void *left, const void *right) {
  const weft_sight *a = *(weft_sight *const *)left, *b = *(weft_sight *const *)right;
  int by_pool = strcmp(a->pool, b->pool);
  if (by_pool)
    return by_pool;
  if (a->thread != b->thread)
    return a->thread < b->thread ? -1 : 1;
  if (a->is_script != b->is_script)
    return b->is_script - a->is_script;
  if (a->age_ns != b->age_ns)
    return a->age_ns > b->age_ns ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

/* Of one task first the sight that is to stay: one that was queued may have been seen again later.
 */
static int compare_tasks(const void *left, const void *right) {
  const weft_sight *a = *(weft_sight *const *)left, *b = *(weft_sight *const *)right;
  if (a->task != b->task)
    return a->task < b->task ? -1 : 1;
  int a_is_queued = strcmp(a->state, "queued") == 0, b_is_queued = strcmp(b->state, "queued") == 0;
  return a_is_queued != b_is_queued ? a_is_queued - b_is_queued
                                    : (a->thread == 0) - (b->thread == 0);
}

/* How many are left. */
static size_t drop_doubles(weft_sight **all, size_t count) {
  size_t kept = 0;
  qsort(all, count, sizeof *all, compare_tasks);
  for (size_t i = 0; i < count; i++)
    if (kept > 0 && all[i]->task && all[i]->task == all[kept - 1]->task)
      weft_sight_free(all[i]);
    else
      all[kept++] = all[i];
  return kept;
}

static weft_sight *sorted(weft_sight *first) {
  size_t count = 0, i = 0;
  for (weft_sight *sight = first; sight; sight = sight->next)
    count++;
  weft_sight **all = weft_malloc((count + 1) * sizeof *all);
  if (!all)
    return first;
  for (weft_sight *sight = first; sight; sight = sight->next)
    all[i++] = sight;
  count = drop_doubles(all, count);
  all[count] = NULL;
  qsort(all, count, sizeof *all, compare);
  for (i = 0; i < count; i++)
    all[i]->next = all[i + 1];
  first = all[0];
  weft_free(all);
  return first;
}

weft_sight *weft_roll_call(weft_scheduler *self, lua_State *L) {
  if (self && self->is_closing)
    self = NULL; /* it has no tasks and no inbox any more */
  roll *roll = new_roll(self);
  if (!roll)
    return NULL;
  asking asking = {roll, self};
  weft_album own = {.scheduler = self, .L = L, .end = &own.first};
  weft_roster_each(ask, &asking);
  weft_roster_each(ask_queue, roll);
  if (self)
    weft_look(&own);
  wait_for_answers(roll, self);
  if (!is_complete(roll))
    weft_roster_each(name_busy, roll);
  *own.end = take_sights(roll);
  release_roll(roll);
  return sorted(own.first);
}
