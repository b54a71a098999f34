/* worker.c: a worker's Lua state: opening, the loop, time slices, closing.
 *
 * Owns the Lua state and its allocator. Entered by the worker's thread; preempt_worker by a signal
 * handler on that thread. Invariant: an error that escapes from the loop fails at most the task
 * that was being unpacked, and the loop goes on.
 */
#include "worker.h"

#include "coroutines.h"
#include "error.h"
#include "errors.h"
#include "group.h"
#include "mem.h"
#include "monitor.h"
#include "names.h"
#include "nginx.h"
#include "outcome.h"
#include "sight.h"
#include "slab.h"
#include "state.h"
#include "value.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KILLS_BEFORE_FORCE = 3, OWN_CODE_STEPS = 50 };

typedef struct lua_worker {
  weft_slab slab;
  lua_State *L;
  weft_state *state;
  weft_worker *worker;
  weft_stuck stuck_task;
} lua_worker;

/* ---- time slices ---- */

static void on_slice(lua_State *L, lua_Debug *info);

/* A task that is cancelled gets the error; one that swallows it again and again gets it at its very
 * next instruction, until it is outside of every pcall. Never inside of weft's own Lua code: what
 * that has just taken (a semaphore's part, a place among a model's calls) would be lost. */
static void raise_canceled(weft_state *state, lua_State *L, lua_Debug *info, weft_fiber *fiber) {
  int is_forced = fiber->kills >= KILLS_BEFORE_FORCE;
  if (weft_is_own_code(L, info)) {
    lua_sethook(L, on_slice, LUA_MASKCOUNT, is_forced ? 1 : OWN_CODE_STEPS);
    return;
  }
  if (is_forced)
    lua_sethook(L, on_slice, LUA_MASKCOUNT, 1);
  else
    fiber->kills++;
  weft_raise_context(state, L, weft_task_context(fiber->task));
}

/* Runs inside of the task. */
static void on_slice(lua_State *L, lua_Debug *info) {
  weft_state *state = weft_state_of(L);
  weft_fiber *fiber = state->scheduler.current;
  lua_sethook(L, NULL, 0, 0);
  if (!fiber)
    return;
  if (fiber->state == WEFT_FIBER_PARKED) { /* on its way out, in a shim of LuaJIT */
    lua_sethook(L, on_slice, LUA_MASKCOUNT, 1);
    return;
  }
  if (weft_context_done(weft_task_context(fiber->task))) {
    raise_canceled(state, L, info, fiber);
    return;
  }
  if (L == state->scheduler.running && lua_isyieldable(L) && weft_coroutine_passes(fiber->co, L)) {
    state->scheduler.yield_kind = WEFT_YIELD_TASK;
    lua_yield(L, 0);
  }
}

static void preempt_worker(void *opaque) {
  lua_worker *self = opaque;
  lua_State *running = self->state->scheduler.running;
  weft_stuck_write(&self->state->scheduler);
  if (self->state->scheduler.current && running)
    lua_sethook(running, on_slice, LUA_MASKCOUNT, 1);
}

/* ---- opening ---- */

static _Atomic int is_exiting;

int weft_os_exit(lua_State *L) {
  int status = EXIT_SUCCESS;
  if (lua_isboolean(L, 1))
    status = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else if (!lua_isnoneornil(L, 1))
    status = (int)luaL_checknumber(L, 1);
  while (atomic_exchange(&is_exiting, 1))
    pause(); /* another thread ends the process */
  exit(status);
}

static void replace_exit(lua_State *L) {
  lua_getglobal(L, "os");
  lua_pushcfunction(L, weft_os_exit);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}

static void run_init(lua_worker *self, lua_State *L) {
  const weft_parcel *init = self->worker->pool->user;
  if (!init)
    return;
  weft_decode(self->state, L, init);
  lua_call(L, 0, 0);
}

static int open_libraries(lua_State *L) {
  lua_worker *self = lua_touserdata(L, 1);
  luaL_openlibs(L);
  replace_exit(L);
  weft_nginx_refuse_in_tasks(L);
  weft_names_adopt_paths(L);
  self->state = weft_state_open(L, self->worker);
  self->state->scheduler.stuck_task = &self->stuck_task;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_weft_core);
  lua_setfield(L, -2, "weft.core");
  lua_getglobal(L, "require");
  lua_pushliteral(L, "weft.core");
  lua_call(L, 1, 0);
  run_init(self, L);
  return 0;
}

static lua_State *new_lua(lua_worker *self) {
#if WEFT_LUA54
  return lua_newstate(weft_slab_alloc, &self->slab);
#else
  (void)self;
  return luaL_newstate();
#endif
}

static void close_worker(void *opaque) {
  lua_worker *self = opaque;
  if (self->L)
    lua_close(self->L);
  weft_slab_free(&self->slab);
  weft_free(self);
}

static weft_error *open_error(lua_State *L, weft_worker *worker) {
  const char *text = lua_tostring(L, -1);
  return weft_error_newf("worker", "a thread of pool '%s' could not be set up: %s",
                         worker->pool->name, text ? text : "its init raised an error");
}

static void *open_worker(weft_worker *worker, weft_error **error) {
  lua_worker *self = weft_calloc(1, sizeof *self);
  if (self)
    self->L = new_lua(self);
  if (!self || !self->L) {
    weft_free(self);
    *error = weft_error_new("nomem", "a thread of a pool could not be set up: not enough memory");
    return NULL;
  }
  self->worker = worker;
  lua_State *L = self->L;
  lua_pushcfunction(L, open_libraries);
  lua_pushlightuserdata(L, self);
  if (lua_pcall(L, 1, 0, 0) == 0)
    return self;
  lua_getglobal(L, "tostring");
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) != 0)
    lua_settop(L, 0);
  *error = open_error(L, worker);
  close_worker(self);
  return NULL;
}

/* ---- the loop ---- */

/* A group that a task made and only dropped is cancelled by its finalizer: a worker that shall end
 * does not wait for garbage to pile up. */
static void collect_before_end(lua_State *L, lua_worker *self) {
  if (self->state->scheduler.live > 0 && weft_worker_is_ending(self->worker))
    lua_gc(L, LUA_GCCOLLECT, 0);
}

static int loop(lua_State *L) {
  lua_worker *self = lua_touserdata(L, 1);
  weft_scheduler *scheduler = &self->state->scheduler;
  lua_settop(L, 0);
  for (;;) {
    int did = weft_scheduler_is_quiet(scheduler) ? 0 : weft_scheduler_turn(scheduler);
    weft_task *task = weft_worker_next(self->worker);
    if (task)
      weft_scheduler_start(scheduler, task);
    if (task || did || scheduler->ready_head)
      continue;
    collect_before_end(L, self);
    atomic_store_explicit(&scheduler->lua_kib, (uint32_t)lua_gc(L, LUA_GCCOUNT, 0),
                          memory_order_relaxed);
    if (!weft_worker_park(self->worker, scheduler->live > 0))
      return 0;
  }
}

/* The error of a task that could not be unpacked, or was cancelled before, is on top of L. */
static int fail_starting(lua_State *L) {
  lua_worker *self = lua_touserdata(L, 2);
  weft_task *task = self->state->scheduler.starting;
  self->state->scheduler.starting = NULL;
  lua_settop(L, 1);
  weft_normalize_error(self->state, L);
  weft_push_integer(L, task->index);
  lua_setfield(L, -2, "index");
  if (task->name) {
    lua_pushstring(L, task->name);
    lua_setfield(L, -2, "task");
  }
  weft_error *error = weft_to_core_error(self->state, L, 1);
  weft_outcome_fail(task, error);
  weft_error_release(error);
  return 0;
}

static void recover(lua_worker *self) {
  lua_State *L = self->L;
  weft_task *task = self->state->scheduler.starting;
  if (task) {
    lua_pushcfunction(L, fail_starting);
    lua_insert(L, -2);
    lua_pushlightuserdata(L, self);
    if (lua_pcall(L, 2, 0, 0) != 0) {
      weft_error *error = weft_error_new("nomem", "not enough memory");
      weft_outcome_fail(task, error);
      weft_error_release(error);
    }
  }
  weft_scheduler_drop_starting(&self->state->scheduler);
  lua_settop(L, 0);
}

static void run_worker(weft_worker *worker, void *opaque) {
  lua_worker *self = opaque;
  (void)worker;
  for (;;) {
    lua_pushcfunction(self->L, loop);
    lua_pushlightuserdata(self->L, self);
    if (lua_pcall(self->L, 1, 0, 0) == 0)
      return;
    recover(self);
  }
}

const weft_runtime weft_lua_runtime = {open_worker, run_worker, close_worker, weft_outcome_fail,
                                       preempt_worker};
