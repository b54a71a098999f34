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
#include "errors.h"
#include "fibers.h"
#include "guest.h"
#include "mem.h"
#include "pool.h"
#include "roster.h"
#include "state.h"

#include <stdio.h>
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
  uint32_t answered;
  uint8_t is_over;
} roll;

typedef struct question {
  weft_message message; /* first */
  roll *roll;
  weft_sight *busy; /* stands for the thread in the roll's list; valid until the roll is over */
} question;

/* What one thread saw, before it is added to the roll. */
typedef struct album {
  weft_scheduler *scheduler;
  lua_State *L; /* to work on */
  weft_sight *first, **end;
  uint64_t now_ns;
} album;

/* ---- life ---- */

static void free_sight(weft_sight *sight) {
  weft_free(sight->name);
  weft_free(sight->started);
  weft_free(sight->where);
  weft_free(sight->traceback);
  weft_free(sight);
}

void weft_roll_free(weft_sight *sight) {
  while (sight) {
    weft_sight *next = sight->next;
    free_sight(sight);
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

static char *copy(const char *text) {
  return text ? weft_strndup(text, strlen(text)) : NULL;
}

static weft_sight *add_sight(album *album, const char *state) {
  weft_scheduler *scheduler = album->scheduler;
  weft_sight *sight = weft_calloc(1, sizeof *sight);
  if (!sight)
    return NULL;
  sight->state = state;
  if (scheduler->worker) {
    memcpy(sight->pool, scheduler->worker->pool->name, sizeof sight->pool);
    sight->thread = scheduler->worker->id + 1;
  }
  *album->end = sight;
  album->end = &sight->next;
  return sight;
}

/* ---- where a coroutine is ---- */

static char own_folder[256]; /* written once, before own_length is */
static _Atomic size_t own_length;

void weft_roll_set_own_folder(const char *source) {
  const char *slash = strrchr(source, '/');
  size_t length = slash ? (size_t)(slash - source) + 1 : 0, none = 0;
  if (length == 0 || length >= sizeof own_folder || atomic_load(&own_length))
    return;
  static _Atomic int taken;
  if (atomic_exchange(&taken, 1))
    return;
  memcpy(own_folder, source, length);
  atomic_compare_exchange_strong(&own_length, &none, length);
}

static int is_shim(const lua_Debug *info) {
  return strcmp(info->source, WEFT_SHIM_CHUNK) == 0;
}

static int is_own(const lua_Debug *info) {
  size_t length = atomic_load(&own_length);
  return length && strncmp(info->source, own_folder, length) == 0;
}

void weft_position(lua_State *co, int level, char *text) {
  lua_Debug info;
  *text = 0;
  for (; lua_getstack(co, level, &info); level++) {
    lua_getinfo(co, "Sl", &info);
    if (info.currentline <= 0 || is_shim(&info) || (is_own(&info) && *text))
      continue;
    snprintf(text, WEFT_POSITION_SIZE, "%s:%d", info.short_src, info.currentline);
    if (!is_own(&info))
      break;
  }
}

enum {
  NOT_YET = -1
}; /* for a level: the coroutine has not started, and its function is at the bottom */

typedef struct stack_request {
  lua_State *co;
  int level;
  weft_sight *sight;
} stack_request;

/* file:line of the function that the coroutine began with. */
static char *first_function(lua_State *co, int has_started) {
  lua_Debug info;
  char text[WEFT_POSITION_SIZE];
  int level = 0;
  if (has_started) {
    while (lua_getstack(co, level, &info))
      level++;
    if (!lua_getstack(co, level - 1, &info) || !lua_getinfo(co, "S", &info))
      return NULL;
  } else {
    lua_pushvalue(co, 1);
    lua_getinfo(co, ">S", &info);
  }
  if (info.linedefined <= 0)
    return NULL;
  snprintf(text, sizeof text, "%s:%d", info.short_src, info.linedefined);
  return copy(text);
}

#if WEFT_LUA54
#define copy_traceback copy
#else
static int begins(const char *line, const char *with) {
  return strncmp(line, with, strlen(with)) == 0;
}

/* A blocking function is a C function in a Lua shim there: "[C]: in function 'f'", "weft:7: in
 * function 'recv'" becomes the one line that it is for scripts. */
static char *copy_traceback(const char *text) {
  char *result = copy(text), *out = result;
  for (const char *line = text; result && *line;) {
    const char *end = strchr(line, '\n'), *next = end ? end + 1 : line + strlen(line);
    const char *what = begins(line, "\tweft:") ? strstr(line, ": in ") : NULL;
    int is_shim_line = what && what < next;
    if (is_shim_line) {
      out = stpcpy(out, "\t[C]");
      line = what;
    }
    if (is_shim_line || !begins(line, "\t[C]: in function 'f'\n\tweft:")) {
      memcpy(out, line, (size_t)(next - line));
      out += next - line;
    }
    line = next;
  }
  if (result)
    *out = 0;
  return result;
}
#endif

static int protected_stack(lua_State *L) {
  stack_request *request = lua_touserdata(L, 1);
  weft_sight *sight = request->sight;
  char where[WEFT_POSITION_SIZE];
  if (!sight->started && !sight->is_script)
    sight->started = first_function(request->co, request->level != NOT_YET);
  if (request->level == NOT_YET)
    return 0;
  weft_position(request->co, request->level, where);
  sight->where = *where ? copy(where) : NULL;
  luaL_traceback(L, request->co, NULL, request->level);
  sight->traceback = copy_traceback(lua_tostring(L, -1));
  return 0;
}

static void add_stack(lua_State *L, weft_sight *sight, lua_State *co, int level) {
  stack_request request = {co, level, sight};
  if (!lua_checkstack(L, 8))
    return;
  lua_pushcfunction(L, protected_stack);
  lua_pushlightuserdata(L, &request);
  if (lua_pcall(L, 1, 0, 0) != 0)
    lua_pop(L, 1);
}

/* ---- looking at one state ---- */

static void describe_park(weft_sight *sight, const weft_park *park) {
  sight->waits_for = park->op->what;
  if (park->op->describe)
    park->op->describe(park, sight->object, sizeof sight->object);
  else if (park->op->flags & WEFT_PARK_HOLDS_HANDLE)
    snprintf(sight->object, sizeof sight->object, "%s %p",
             ((weft_handle *)park->object)->type->name, park->object);
}

static void see_fiber(weft_fiber *fiber, void *arg) {
  static const char *const states[] = {[WEFT_FIBER_READY] = "ready",
                                       [WEFT_FIBER_RUNNING] = "running",
                                       [WEFT_FIBER_PARKED] = "parked"};
  album *album = arg;
  int is_new = fiber->state == WEFT_FIBER_READY && fiber->start_args;
  weft_sight *sight = add_sight(album, is_new ? "queued" : states[fiber->state]);
  if (!sight)
    return;
  sight->name = copy(fiber->task->name);
  sight->task = fiber->task;
  sight->index = fiber->task->index;
  sight->started = fiber->is_local ? NULL : copy(fiber->where);
  sight->age_ns = album->now_ns > fiber->started_ns ? album->now_ns - fiber->started_ns : 0;
  if (fiber->state == WEFT_FIBER_PARKED)
    describe_park(sight, &fiber->park);
  /* of the caller level 0 is the function that asks */
  add_stack(album->L, sight, fiber->co, is_new ? NOT_YET : fiber->co == album->L);
}

static void see_caller(album *album, weft_fiber *caller, uint8_t what) {
  weft_sight *sight = add_sight(album, "parked");
  if (!sight)
    return;
  sight->is_script = what;
  describe_park(sight, &caller->park);
  add_stack(album->L, sight, caller->co, 0);
}

static void see_request(weft_fiber *guest, void *arg) {
  see_caller(arg, guest, WEFT_SIGHT_REQUEST);
}

static void see_queued(weft_task *task, void *arg) {
  weft_sight *sight = add_sight(arg, "queued");
  if (!sight)
    return;
  sight->task = task;
  sight->name = copy(task->name);
  sight->index = task->index;
}

/* The script comes first, then tasks that were started, oldest first, then those on the worker's
 * ring. */
static void look(album *album) {
  weft_scheduler *scheduler = album->scheduler;
  album->first = NULL;
  album->end = &album->first;
  album->now_ns = weft_clock_coarse_ns();
  if (scheduler->is_closing)
    return;
  if (scheduler->main.state == WEFT_FIBER_PARKED)
    see_caller(album, &scheduler->main, WEFT_SIGHT_SCRIPT);
  if (scheduler->guests)
    weft_guests_each(scheduler, see_request, album);
  weft_scheduler_each(scheduler, see_fiber, album);
  if (scheduler->worker)
    weft_worker_each_queued(scheduler->worker, see_queued, album);
}

/* ---- answering ---- */

static void append(roll *roll, weft_sight *first, weft_sight **end) {
  if (!first)
    return;
  *roll->end = first;
  roll->end = end;
}

static void answer(question *question, album *album) {
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
  if (caller)
    weft_parker_unpark(
        caller); /* an inbox's, which stays, or the roll's, which is not released yet */
  weft_roll_free(album->first);
}

static void receive(weft_scheduler *scheduler, weft_message *message) {
  question *question = (void *)message;
  album album = {.scheduler = scheduler, .L = scheduler->state->L};
  look(&album);
  answer(question, &album);
  release_roll(question->roll);
  weft_free(question);
}

/* ---- threads that do not answer ---- */

typedef struct stuck_words {
  char name[WEFT_STUCK_NAME], started[WEFT_STUCK_PLACE];
  uint32_t index, unused;
} stuck_words;

_Static_assert(sizeof(stuck_words) == 16 * sizeof(uint64_t), "stuck_words fill the words");

static void copy_short(char *out, const char *text, size_t size) {
  size_t i = 0;
  for (; text && text[i] && i + 1 < size; i++)
    out[i] = text[i];
  out[i] = 0;
}

/* The fiber runs, so its task is alive, and with it its name and place. Calls nothing: a signal
 * handler. */
void weft_stuck_write(weft_scheduler *scheduler) {
  weft_stuck *stuck = scheduler->stuck_task;
  weft_fiber *fiber = scheduler->current;
  union {
    stuck_words as_text;
    uint64_t as_words[16];
  } copy;
  if (!stuck || !fiber || !fiber->task)
    return;
  atomic_store(&stuck->slice, 0);
  copy_short(copy.as_text.name, fiber->task->name, WEFT_STUCK_NAME);
  copy_short(copy.as_text.started, fiber->is_local ? NULL : fiber->where, WEFT_STUCK_PLACE);
  copy.as_text.index = fiber->task->index;
  copy.as_text.unused = 0;
  for (int i = 0; i < 16; i++)
    atomic_store_explicit(&stuck->words[i], copy.as_words[i], memory_order_relaxed);
  atomic_store(&stuck->slice, atomic_load(&scheduler->worker->slice));
}

/* Under the roster's lock. Nothing when the thread has gone on since. */
static void read_stuck(weft_scheduler *scheduler, weft_sight *sight) {
  weft_stuck *stuck = scheduler->stuck_task;
  union {
    stuck_words as_text;
    uint64_t as_words[16];
  } seen;
  uint32_t slice = atomic_load(&stuck->slice);
  for (int i = 0; i < 16; i++)
    seen.as_words[i] = atomic_load(&stuck->words[i]);
  if (!(slice & 1) || slice != atomic_load(&stuck->slice) ||
      slice != atomic_load(&scheduler->worker->slice))
    return;
  sight->index = seen.as_text.index;
  if (*seen.as_text.name)
    sight->name = copy(seen.as_text.name);
  if (*seen.as_text.started)
    sight->started = copy(seen.as_text.started);
}

/* Of those that were asked and did not answer. */
static void name_busy(weft_scheduler *scheduler, void *arg) {
  roll *roll = arg;
  if (!scheduler->stuck_task)
    return;
  pthread_mutex_lock(&roll->lock);
  for (weft_sight *busy = roll->busy; busy; busy = busy->next)
    if (busy->task == scheduler && !busy->has_answered)
      read_stuck(scheduler, busy);
  pthread_mutex_unlock(&roll->lock);
}

/* ---- asking ---- */

typedef struct asking {
  roll *roll;
  weft_scheduler *self;
} asking;

/* Stands for the thread unless it answers. Freed with the roll's others, by the caller. */
static weft_sight *add_busy(roll *roll, weft_scheduler *scheduler) {
  album album = {.scheduler = scheduler, .end = &album.first};
  weft_sight *sight = add_sight(&album, "busy");
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
typedef struct queues {
  roll *roll;
  weft_pool *seen[64];
  uint32_t count;
} queues;

static void ask_queue(weft_scheduler *scheduler, void *arg) {
  queues *queues = arg;
  weft_pool *pool = scheduler->worker ? scheduler->worker->pool : NULL;
  for (uint32_t i = 0; i < queues->count; i++)
    if (queues->seen[i] == pool)
      return;
  if (!pool || queues->count == sizeof queues->seen / sizeof *queues->seen)
    return;
  queues->seen[queues->count++] = pool;
  album album = {.scheduler = scheduler};
  album.end = &album.first;
  weft_pool_each_queued(pool, WEFT_ROLL_QUEUED_MOST, see_queued, &album);
  for (weft_sight *sight = album.first; sight; sight = sight->next)
    sight->thread = 0; /* nobody's yet */
  pthread_mutex_lock(&queues->roll->lock);
  append(queues->roll, album.first, album.end);
  pthread_mutex_unlock(&queues->roll->lock);
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

/* The caller goes on answering others meanwhile, or two that ask each other would wait in vain. */
static void wait_for_answers(roll *roll, weft_scheduler *self) {
  uint64_t most_ms = self && self->guests ? WEFT_ROLL_LOOP_WAIT_MS : WEFT_ROLL_WAIT_MS;
  uint64_t until_ns = weft_clock_real_ns() + most_ms * 1000000;
  while (!is_complete(roll) && weft_clock_real_ns() < until_ns) {
    if (self && !self->guests && weft_scheduler_take_inbox(self))
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
      weft_free(busy);
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
      free_sight(all[i]);
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
  roll *roll = new_roll(self);
  if (!roll)
    return NULL;
  asking asking = {roll, self};
  queues queues = {.roll = roll};
  album own = {.scheduler = self, .L = L, .end = &own.first};
  weft_roster_each(ask, &asking);
  weft_roster_each(ask_queue, &queues);
  if (self)
    look(&own);
  wait_for_answers(roll, self);
  if (!is_complete(roll))
    weft_roster_each(name_busy, roll);
  *own.end = take_sights(roll);
  release_roll(roll);
  return sorted(own.first);
}
