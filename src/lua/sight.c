/* sight.c: what one state's tasks do, as its own thread sees them; and what a busy thread is busy
 * with.
 *
 * Owns nothing but the folder of weft's own Lua files. Entered by the thread of the state that is
 * looked at; weft_stuck_write by a signal handler on it. Invariant: a Lua state is looked at by its
 * own thread alone.
 */
#include "sight.h"

#include "clock.h"
#include "coroutines.h"
#include "errors.h"
#include "fibers.h"
#include "guest.h"
#include "mem.h"
#include "pool.h"
#include "state.h"

#include <stdio.h>
#include <string.h>

/* ---- sights ---- */

void weft_sight_free(weft_sight *sight) {
  weft_free(sight->name);
  weft_free(sight->started);
  weft_free(sight->where);
  weft_free(sight->traceback);
  weft_free(sight);
}

static char *copy(const char *text) {
  return text ? weft_strndup(text, strlen(text)) : NULL;
}

weft_sight *weft_album_add(weft_album *album, const char *state) {
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

void weft_set_own_folder(const char *source) {
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

int weft_is_own_code(lua_State *L, lua_Debug *info) {
  lua_getinfo(L, "S", info);
  return is_shim(info) || is_own(info);
}

void weft_find_place(lua_State *co, int level, weft_place *place) {
  lua_Debug info;
  place->line = 0;
  for (; lua_getstack(co, level, &info); level++) {
    lua_getinfo(co, "Sl", &info);
    if (info.currentline <= 0 || is_shim(&info) || (is_own(&info) && place->line))
      continue;
    memcpy(place->file, info.short_src, sizeof place->file);
    place->line = info.currentline;
    if (!is_own(&info))
      break;
  }
}

void weft_position(lua_State *co, int level, char *text) {
  weft_place place;
  weft_find_place(co, level, &place);
  *text = 0;
  if (place.line)
    snprintf(text, WEFT_POSITION_SIZE, "%s:%d", place.file, place.line);
}

typedef struct stack_request {
  lua_State *co;
  lua_State *asker; /* the coroutine that runs, where its topmost function is the one that asks */
  int has_started;
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
    level -= WEFT_FIBER_BASE != 0; /* that function is below it */
    if (!lua_getstack(co, level - 1, &info) || !lua_getinfo(co, "S", &info))
      return NULL;
  } else {
    lua_pushvalue(co, WEFT_FIBER_BASE + 1);
    lua_getinfo(co, ">S", &info);
  }
  if (info.linedefined <= 0)
    return NULL;
  snprintf(text, sizeof text, "%s:%d", info.short_src, info.linedefined);
  return copy(text);
}

/* Pushes the tracebacks of the coroutine and of those that it resumes, as one. */
static void push_stack(lua_State *L, lua_State *co, lua_State *asker) {
  lua_pushliteral(L, "");
  for (; co; co = weft_coroutine_inside(co)) {
    weft_push_traceback(L, co, co == asker);
    const char *lines = strchr(lua_tostring(L, -1), '\n');
    lua_pushstring(L, lines ? lines : "");
    lua_replace(L, -2);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  lua_pushfstring(L, "stack traceback:%s", lua_tostring(L, -1));
}

/* Of the innermost function that has one. */
static void find_where(lua_State *co, lua_State *asker, char *where) {
  char text[WEFT_POSITION_SIZE];
  *where = 0;
  for (; co; co = weft_coroutine_inside(co)) {
    weft_position(co, co == asker, text);
    if (*text)
      strcpy(where, text);
  }
}

static int protected_stack(lua_State *L) {
  stack_request *request = lua_touserdata(L, 1);
  weft_sight *sight = request->sight;
  char where[WEFT_POSITION_SIZE];
  if (!sight->started && !sight->is_script)
    sight->started = first_function(request->co, request->has_started);
  if (!request->has_started)
    return 0;
  find_where(request->co, request->asker, where);
  sight->where = *where ? copy(where) : NULL;
  push_stack(L, request->co, request->asker);
  sight->traceback = copy(lua_tostring(L, -1));
  return 0;
}

static void add_stack(lua_State *L, weft_sight *sight, stack_request request) {
  request.sight = sight;
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
  weft_album *album = arg;
  int is_new = fiber->state == WEFT_FIBER_READY && fiber->start_args;
  weft_sight *sight = weft_album_add(album, is_new ? "queued" : states[fiber->state]);
  if (!sight)
    return;
  sight->name = copy(fiber->task->name);
  sight->task = fiber->task;
  sight->index = fiber->task->index;
  sight->started = fiber->is_local ? NULL : copy(fiber->where);
  sight->age_ns = album->now_ns > fiber->started_ns ? album->now_ns - fiber->started_ns : 0;
  if (fiber->state == WEFT_FIBER_PARKED)
    describe_park(sight, &fiber->park);
  add_stack(album->L, sight,
            (stack_request){.co = fiber->co, .asker = album->L, .has_started = !is_new});
}

static void see_caller(weft_album *album, weft_fiber *caller, uint8_t what) {
  weft_sight *sight = weft_album_add(album, "parked");
  if (!sight)
    return;
  sight->is_script = what;
  describe_park(sight, &caller->park);
  add_stack(album->L, sight, (stack_request){.co = caller->co, .has_started = 1});
}

static void see_request(weft_fiber *guest, void *arg) {
  see_caller(arg, guest, WEFT_SIGHT_REQUEST);
}

void weft_see_queued(weft_task *task, void *arg) {
  weft_sight *sight = weft_album_add(arg, "queued");
  if (!sight)
    return;
  sight->task = task;
  sight->name = copy(task->name);
  sight->index = task->index;
}

/* The script comes first, then tasks that were started, oldest first, then those on the worker's
 * ring. */
void weft_look(weft_album *album) {
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
    weft_worker_each_queued(scheduler->worker, weft_see_queued, album);
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
void weft_stuck_read(weft_scheduler *scheduler, weft_sight *sight) {
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
