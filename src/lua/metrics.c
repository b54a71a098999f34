/* metrics.c: what the process does, in numbers: weft.stats() in full, and as text for Prometheus.
 *
 * Owns nothing between calls. Entered by the state's thread; reads what other threads count,
 * without stopping them: not a snapshot of one moment. Invariant: counters never fall, also when
 * threads end.
 */
#include "metrics.h"

#include "buf.h"
#include "census.h"
#include "errors.h"
#include "http.h"
#include "outcome.h"
#include "platform.h"
#include "roster.h"
#include "state.h"
#include "stats.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOLS_FIRST = 32 }; /* there is room for so many at first */

typedef struct pool_numbers { /* of all pools of one name */
  char name[16];
  uint32_t threads, max_threads, idle, queued, tasks, parked;
} pool_numbers;

typedef struct numbers {
  weft_stats objects;
  weft_http_stats http;
  pool_numbers *pools;                 /* sorted by name; the collector's */
  uint32_t pool_count, pool_room, met; /* met: pools by themselves, also those without room */
  uint32_t states, tasks, parked;      /* of the whole process */
  uint64_t done, failed, canceled;
  uint64_t lua_bytes, resident_bytes;
} numbers;

/* ---- reading ---- */

static uint32_t read32(_Atomic uint32_t *count) {
  return atomic_load_explicit(count, memory_order_relaxed);
}

/* What belongs to the pool itself. */
static pool_numbers of_pool(weft_pool *pool) {
  pool_numbers numbers = {.threads = read32(&pool->threads),
                          .max_threads = read32(&pool->max_threads),
                          .idle = read32(&pool->idle_count),
                          .queued = read32(&pool->queued)};
  memcpy(numbers.name, pool->name, sizeof numbers.name);
  return numbers;
}

/* NULL: there is no room for this pool. */
static pool_numbers *numbers_of(numbers *all, weft_pool *pool) {
  int is_first = weft_roster_meets_first(pool, all->met);
  all->met += (uint32_t)is_first;
  if (pool->walk_place >= all->pool_room)
    return NULL;
  pool_numbers *numbers = &all->pools[pool->walk_place];
  if (is_first)
    *numbers = of_pool(pool);
  return numbers;
}

static void add_scheduler(weft_scheduler *scheduler, void *arg) {
  numbers *all = arg;
  uint32_t tasks = read32(&scheduler->live), parked = read32(&scheduler->parked);
  all->states++;
  all->tasks += tasks;
  all->parked += parked;
  all->done += atomic_load_explicit(&scheduler->done, memory_order_relaxed);
  all->lua_bytes += (uint64_t)read32(&scheduler->lua_kib) * 1024;
  if (!scheduler->worker)
    return;
  pool_numbers *numbers = numbers_of(all, scheduler->worker->pool);
  if (!numbers)
    return;
  numbers->tasks += tasks;
  numbers->parked += parked;
}

static int compare_names(const void *left, const void *right) {
  return strcmp(((const pool_numbers *)left)->name, ((const pool_numbers *)right)->name);
}

static void add_up(pool_numbers *sum, const pool_numbers *more) {
  sum->threads += more->threads;
  sum->max_threads += more->max_threads;
  sum->idle += more->idle;
  sum->queued += more->queued;
  sum->tasks += more->tasks;
  sum->parked += more->parked;
}

/* Those of one name become one. */
static void merge_names(numbers *all) {
  uint32_t count = 0;
  qsort(all->pools, all->met, sizeof *all->pools, compare_names);
  for (uint32_t i = 0; i < all->met; i++) {
    if (count && compare_names(&all->pools[count - 1], &all->pools[i]) == 0)
      add_up(&all->pools[count - 1], &all->pools[i]);
    else
      all->pools[count++] = all->pools[i];
  }
  all->pool_count = count;
}

/* Pushes the memory of the pools' numbers. */
static void read_schedulers(lua_State *L, numbers *all) {
  uint32_t room = POOLS_FIRST;
  int top = lua_gettop(L);
  do {
    lua_settop(L, top);
    memset(all, 0, sizeof *all);
    all->pools = lua_newuserdata(L, room * sizeof *all->pools);
    all->pool_room = room;
    uint64_t retired_done = weft_roster_each(add_scheduler, all);
    all->done += retired_done;
    room = 2 * all->met;
  } while (all->met > all->pool_room);
  merge_names(all);
}

/* Pushes one value, which keeps what is in `all`. */
static void read_numbers(weft_state *state, lua_State *L, numbers *all) {
  atomic_store_explicit(&state->scheduler.lua_kib, (uint32_t)lua_gc(L, LUA_GCCOUNT, 0),
                        memory_order_relaxed);
  read_schedulers(L, all);
  weft_stats_read(&all->objects);
  weft_http_stats_read(&all->http);
  weft_outcome_counts(&all->failed, &all->canceled);
  all->resident_bytes = weft_process_resident_bytes();
}

/* ---- as tables ---- */

static void set_number(lua_State *L, const char *name, uint64_t number) {
  weft_push_integer(L, (int64_t)number);
  lua_setfield(L, -2, name);
}

static void push_pool(lua_State *L, const pool_numbers *pool) {
  lua_createtable(L, 0, 6);
  set_number(L, "threads", pool->threads);
  set_number(L, "max_threads", pool->max_threads);
  set_number(L, "idle", pool->idle);
  set_number(L, "queued", pool->queued);
  set_number(L, "tasks", pool->tasks);
  set_number(L, "parked", pool->parked);
}

void weft_add_stats(weft_state *state, lua_State *L) {
  numbers all;
  read_numbers(state, L, &all);
  lua_insert(L, -2);
  set_number(L, "states", all.states);
  set_number(L, "awake", weft_census_awake());
  lua_createtable(L, 0, 5);
  set_number(L, "live", all.tasks);
  set_number(L, "parked", all.parked);
  set_number(L, "done", all.done);
  set_number(L, "failed", all.failed);
  set_number(L, "canceled", all.canceled);
  lua_setfield(L, -2, "all_tasks");
  lua_createtable(L, 0, (int)all.pool_count);
  for (uint32_t i = 0; i < all.pool_count; i++) {
    push_pool(L, &all.pools[i]);
    lua_setfield(L, -2, all.pools[i].name);
  }
  lua_setfield(L, -2, "by_pool");
  lua_createtable(L, 0, 5);
  set_number(L, "in_flight", all.http.in_flight);
  set_number(L, "queued", all.http.queued);
  set_number(L, "sockets", all.http.sockets);
  set_number(L, "started", all.http.started);
  set_number(L, "failed", all.http.failed);
  lua_setfield(L, -2, "http");
  lua_createtable(L, 0, 2);
  if (all.resident_bytes)
    set_number(L, "resident", all.resident_bytes);
  set_number(L, "lua", all.lua_bytes);
  lua_setfield(L, -2, "memory");
  lua_remove(L, -2);
}

/* ---- as text ---- */

static void add(weft_buf *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(weft_buf *text, const char *format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  int size = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (size > 0 && size < (int)sizeof line)
    weft_buf_append(text, line, (size_t)size);
}

static void add_head(weft_buf *text, const char *name, const char *type, const char *help) {
  add(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_one(weft_buf *text, const char *name, const char *type, const char *help,
                    uint64_t value) {
  add_head(text, name, type, help);
  add(text, "%s %llu\n", name, (unsigned long long)value);
}

/* A label's value: backslash, quote and line end are escaped. */
static void escape(const char *value, char *out) {
  for (; *value; value++) {
    if (*value == '\\' || *value == '"' || *value == '\n')
      *out++ = '\\';
    *out++ = *value == '\n' ? 'n' : *value;
  }
  *out = 0;
}

static void add_labelled(weft_buf *text, const char *name, const char *label, const char *value,
                         uint64_t number) {
  add(text, "%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)number);
}

static void add_pools(weft_buf *text, const numbers *all) {
  static const struct {
    const char *name, *help;
    size_t offset;
  } gauges[] = {
      {"weft_pool_threads", "Threads of the pool.", offsetof(pool_numbers, threads)},
      {"weft_pool_threads_max", "Threads that the pool may have.",
       offsetof(pool_numbers, max_threads)},
      {"weft_pool_threads_idle", "Threads that have nothing to do.", offsetof(pool_numbers, idle)},
      {"weft_pool_queued", "Tasks in the pool's queue.", offsetof(pool_numbers, queued)},
      {"weft_pool_tasks", "Tasks that have started and not ended.", offsetof(pool_numbers, tasks)},
      {"weft_pool_tasks_parked", "Those of them that wait.", offsetof(pool_numbers, parked)},
  };
  char label[2 * sizeof all->pools->name];
  for (size_t g = 0; g < sizeof gauges / sizeof *gauges; g++) {
    add_head(text, gauges[g].name, "gauge", gauges[g].help);
    for (uint32_t i = 0; i < all->pool_count; i++) {
      escape(all->pools[i].name, label);
      add_labelled(text, gauges[g].name, "pool", label,
                   *(const uint32_t *)((const char *)&all->pools[i] + gauges[g].offset));
    }
  }
}

static void add_objects(weft_buf *text, const weft_stats *objects) {
  const struct {
    const char *kind;
    uint32_t count;
  } kinds[] = {{"context", objects->contexts},     {"error", objects->errors},
               {"pool", objects->pools},           {"group", objects->groups},
               {"channel", objects->channels},     {"semaphore", objects->semaphores},
               {"waitgroup", objects->waitgroups}, {"dict", objects->dicts},
               {"limiter", objects->limiters},     {"ticker", objects->tickers},
               {"budget", objects->budgets},       {"code", weft_live.codes}};
  add_head(text, "weft_objects", "gauge", "Objects that are alive, by their kind.");
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    add_labelled(text, "weft_objects", "kind", kinds[i].kind, kinds[i].count);
}

static void add_tasks(weft_buf *text, const numbers *all) {
  add_one(text, "weft_tasks", "gauge", "Tasks that have started and not ended.", all->tasks);
  add_one(text, "weft_tasks_parked", "gauge", "Those of them that wait.", all->parked);
  add_head(text, "weft_tasks_ended_total", "counter", "Tasks that have ended, by how.");
  add_labelled(text, "weft_tasks_ended_total", "result", "done", all->done);
  add_labelled(text, "weft_tasks_ended_total", "result", "failed", all->failed);
  add_labelled(text, "weft_tasks_ended_total", "result", "canceled", all->canceled);
}

static void add_http(weft_buf *text, const weft_http_stats *http) {
  add_one(text, "weft_http_started_total", "counter", "HTTP transfers that were started.",
          http->started);
  add_one(text, "weft_http_failed_total", "counter", "HTTP transfers that ended without an answer.",
          http->failed);
  add_one(text, "weft_http_in_flight", "gauge", "HTTP transfers on a connection.", http->in_flight);
  add_one(text, "weft_http_queued", "gauge", "HTTP transfers that wait for their turn.",
          http->queued);
  add_one(text, "weft_http_sockets", "gauge", "Open connections.", http->sockets);
}

static void add_metrics(weft_buf *text, const numbers *all) {
  add_tasks(text, all);
  add_pools(text, all);
  add_http(text, &all->http);
  add_one(text, "weft_timers", "gauge", "Timers that are set.", all->objects.timers);
  add_objects(text, &all->objects);
  add_one(text, "weft_states", "gauge", "Lua states that have loaded weft.", all->states);
  add_one(text, "weft_threads", "gauge", "Native threads of weft.", all->objects.threads);
  add_one(text, "weft_threads_awake", "gauge", "Threads that do not sleep, the script's too.",
          weft_census_awake());
  if (all->resident_bytes)
    add_one(text, "weft_memory_resident_bytes", "gauge", "Memory of the process.",
            all->resident_bytes);
  add_one(text, "weft_memory_lua_bytes", "gauge",
          "Memory of Lua states, of each when it was last idle.", all->lua_bytes);
}

static int push_text(lua_State *L) {
  const weft_buf *text = lua_touserdata(L, 1);
  lua_pushlstring(L, (const char *)text->data, text->size);
  return 1;
}

/*** The numbers of weft.stats() in the text format of Prometheus: counters and gauges, with their
 * descriptions. Serve it with the content type `text/plain; version=0.0.4`.
 * @function metrics
 * @treturn string
 */
static int metrics(lua_State *L) {
  numbers all;
  weft_buf text;
  read_numbers(WEFT_STATE(L), L, &all);
  lua_pushcfunction(L, push_text);
  weft_buf_init(&text, 0);
  add_metrics(&text, &all);
  lua_pushlightuserdata(L, &text);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_buf_free(&text);
  return rc == 0 ? 1 : lua_error(L);
}

void weft_open_metrics(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"metrics", metrics, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
}
