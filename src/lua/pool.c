/* pool.c: pools in Lua, and the process's default pool.
 *
 * Owns the default pool, which lives as long as the process, and the init function of each pool.
 * Entered by any state's thread. Invariant: the default pool is made once a process.
 *
 * Lock order: `lock` is held while the pool is made; that takes no other lock.
 */
#include "../core/pool.h"

#include "clock.h"
#include "errors.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"
#include "state.h"
#include "worker.h"

#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static weft_pool *default_pool; /* retained for ever */
static weft_pool_config default_config = {.name = "weft"};
static int is_default_set; /* somebody has said what it shall be */

static __attribute__((constructor)) void hold_over_forks(void) {
  weft_process_hold_lock(&lock);
}

weft_pool *weft_default_pool(void) {
  pthread_mutex_lock(&lock);
  if (!default_pool)
    default_pool = weft_pool_make(&default_config, &weft_lua_runtime, NULL, NULL);
  weft_pool *pool = default_pool;
  pthread_mutex_unlock(&lock);
  return pool;
}

int weft_default_pool_setup(uint32_t threads, int nice, int is_fallback) {
  pthread_mutex_lock(&lock);
  weft_pool *pool = default_pool;
  int is_early = !pool || atomic_load(&pool->threads) == 0;
  if (is_early && !(is_fallback && is_default_set)) {
    is_default_set = !is_fallback;
    default_config.threads = threads;
    default_config.nice = nice;
    if (pool) {
      pool->nice = nice;
      atomic_store(&pool->max_threads, threads);
    }
  }
  pthread_mutex_unlock(&lock);
  return is_early;
}

static weft_pool *check_pool(lua_State *L, const char *what) {
  return (weft_pool *)weft_check_handle(L, 1, &weft_pool_type, what, "self");
}

static void read_init(lua_State *L, weft_parcel **init) {
  weft_state *state = WEFT_STATE(L);
  lua_getfield(L, 1, "init");
  if (!lua_isnil(L, -1)) {
    if (!lua_isfunction(L, -1))
      weft_bad_argument(L, "weft.pool", "init", "a function", -1);
    weft_encode(state, L, lua_gettop(L), 1, "init", NULL);
    *init = weft_calloc(1, sizeof **init);
    if (!*init)
      luaL_error(L, "not enough memory");
    weft_parcel_init(*init);
    if (weft_parcel_finish(&state->writer, *init) != WEFT_BUF_OK) {
      weft_free(*init);
      *init = NULL;
      luaL_error(L, "not enough memory");
    }
    (*init)->count = 1;
  }
  lua_pop(L, 1);
}

static void check_keys(lua_State *L) {
  static const char *const known[] = {"threads", "queue", "name", "init", "nice"};
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    int found = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known && lua_type(L, -2) == LUA_TSTRING; i++)
      found |= strcmp(known[i], lua_tostring(L, -2)) == 0;
    if (!found)
      luaL_error(L, "bad option '%s' to weft.pool: known are threads, queue, name, init, nice",
                 lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2));
    lua_pop(L, 1);
  }
}

static int32_t optional_field(lua_State *L, const char *name, double least, double most,
                              const char *expected) {
  lua_getfield(L, 1, name);
  double number = 0;
  if (!lua_isnil(L, -1)) {
    number = weft_check_number(L, lua_gettop(L), "weft.pool", name, least, most, expected);
    if (number != floor(number))
      weft_bad_argument(L, "weft.pool", name, expected, lua_gettop(L));
  }
  lua_pop(L, 1);
  return (int32_t)number;
}

static void free_init(void *init) {
  if (init)
    weft_parcel_clear(init);
  weft_free(init);
}

/*** A pool of native threads, started on demand, with one Lua state each.
 * @function pool
 * @tparam[opt] table options `threads` (default: one a processor), `queue`: tasks that may wait
 *   before go does (default: no limit), `name`, `init`: a function that each state runs first,
 *   `nice`: added to the threads' nice value (on Linux; other systems have none for threads)
 * @treturn pool
 * @raise bad argument or unknown option
 */
static int new_pool(lua_State *L) {
  weft_parcel *init = NULL;
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_newtable(L);
    lua_replace(L, 1);
  }
  if (!lua_istable(L, 1))
    weft_bad_argument(L, "weft.pool", "options", "a table", 1);
  check_keys(L);
  weft_pool_config config = {0};
  config.threads = (uint32_t)optional_field(L, "threads", 1, WEFT_POOL_MAX_THREADS,
                                            "a whole number from 1 to 1024");
  config.queue = (uint32_t)optional_field(L, "queue", 1, WEFT_MAX_COUNT, "a whole number >= 1");
  config.nice = optional_field(L, "nice", -20, 19, "a whole number from -20 to 19");
  lua_getfield(L, 1, "name");
  if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
    weft_bad_argument(L, "weft.pool", "name", "a string", lua_gettop(L));
  config.name = lua_tostring(L, -1);
  read_init(L, &init);
  weft_pool *pool = weft_pool_make(&config, &weft_lua_runtime, init, free_init);
  if (!pool)
    free_init(init);
  weft_adopt_handle(WEFT_STATE(L), L, pool ? &pool->handle : NULL);
  return 1;
}

/*** The process's pool with one thread a processor, made on first use.
 * @function default_pool
 * @treturn pool
 */
static int push_default_pool(lua_State *L) {
  weft_pool *pool = weft_default_pool();
  if (!pool)
    return luaL_error(L, "not enough memory");
  weft_push_handle(WEFT_STATE(L), L, &pool->handle);
  return 1;
}

/*** Counts of the pool.
 * @function pool:stats
 * @treturn table `threads` (running), `max_threads`, `idle`, `queued`
 */
static int stats(lua_State *L) {
  weft_pool *pool = check_pool(L, "pool:stats");
  lua_createtable(L, 0, 4);
  weft_push_integer(L, atomic_load(&pool->threads));
  lua_setfield(L, -2, "threads");
  weft_push_integer(L, pool->max_threads);
  lua_setfield(L, -2, "max_threads");
  weft_push_integer(L, atomic_load(&pool->idle_count));
  lua_setfield(L, -2, "idle");
  weft_push_integer(L, atomic_load(&pool->queued));
  lua_setfield(L, -2, "queued");
  return 1;
}

/*** Changes how many threads the pool may have. Those too many end once they are idle.
 * @function pool:resize
 * @tparam integer threads from 1 to 1024
 */
static int resize(lua_State *L) {
  weft_pool *pool = check_pool(L, "pool:resize");
  weft_pool_resize(pool,
                   weft_check_count(L, 2, "pool:resize", "threads", 1, WEFT_POOL_MAX_THREADS));
  return 0;
}

static void leave_close(weft_park *park) {
  weft_pool_unwait_end(park->object, &park->waiter);
}

static int finish_close(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  weft_context *current = weft_current_context(state, L, 0);
  weft_context_release(park->waiter.slot);
  if (source == WEFT_PARK_CANCELED && weft_context_done(current))
    return weft_raise_context(state, L, current);
  if (source == WEFT_PARK_CANCELED)
    return weft_fail(state, L, "timeout",
                     "pool:close: tasks still run; the threads end when they are done");
  lua_pushboolean(L, 1);
  return 1;
}

static void abandon_close(weft_park *park, int source) {
  (void)source;
  weft_context_release(park->waiter.slot);
}

static const weft_park_op close_op = {"pool:close", finish_close,  NULL,
                                      leave_close,  abandon_close, 1};

/*** Takes no more tasks and waits until all have ended and the threads are gone.
 * @function pool:close
 * @tparam[opt] number seconds how long at most; the threads end later by themselves
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] error of kind "timeout"
 */
static int close_pool(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_pool *pool = check_pool(L, "pool:close");
  weft_context *timed = NULL, *current = weft_current_context(state, L, 0);
  int has_limit = !lua_isnoneornil(L, 2);
  double seconds = has_limit ? weft_check_seconds(L, 2, "pool:close", "seconds") : 0;
  if (pool == weft_default_pool())
    return luaL_error(L,
                      "pool:close: the default pool belongs to the process and cannot be closed");
  weft_pool_shut(pool);
  weft_park *park = weft_park_begin(state, L, &close_op, pool);
  if (has_limit && !(timed = weft_context_with_timeout(current, seconds, NULL)))
    return luaL_error(L, "not enough memory");
  park->waiter.slot = timed;
  if (!weft_pool_wait_end(pool, &park->waiter)) {
    weft_context_release(timed);
    lua_pushboolean(L, 1);
    return 1;
  }
  return weft_park_wait(state, L, park, timed ? timed : current);
}

void weft_open_pool(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"stats", stats, 0},
                                          {"resize", resize, 0},
                                          {"close", close_pool, WEFT_BLOCKS},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function functions[] = {
      {"pool", new_pool, 0}, {"default_pool", push_default_pool, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.pool", methods);
  weft_register_handle_class(L, &weft_pool_type);
  lua_pop(L, 1);
}
