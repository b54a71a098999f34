/* outcome.c: the end of a task: results and errors on their way to the group's owner.
 *
 * Owns nothing. Entered by the thread that ran the task. Invariant: whatever happens, memory
 * running out included, the task ends exactly once and its group hears of it.
 */
#include "outcome.h"

#include "errors.h"
#include "fibers.h"
#include "group.h"
#include "local.h"
#include "ship.h"
#include "state.h"
#include "value.h"

#include <string.h>

typedef struct ending {
  weft_scheduler *scheduler;
  weft_fiber *fiber;
  int count;     /* of results on the coroutine */
  int is_raised; /* the value on top of the coroutine was raised, not returned */
  weft_parcel parcel;
  weft_error *error; /* of a failure */
} ending;

int weft_is_echo_kind(const char *kind) {
  return strcmp(kind, "canceled") == 0 || strcmp(kind, "deadline") == 0;
}

/* ---- failures ---- */

static uint8_t failure_status(weft_task *task, const weft_error *error) {
  return weft_is_echo_kind(weft_error_kind(error)) && weft_context_done(weft_task_context(task))
             ? WEFT_TASK_CANCELED
             : WEFT_TASK_FAILED;
}

static void set_string(lua_State *L, const char *field, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, field);
}

static int has_field(lua_State *L, const char *field) {
  lua_getfield(L, -1, field);
  int has = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return has;
}

/* An error that already tells of a task, of a nested group, becomes the cause of a new one. */
static void wrap_nested(weft_state *state, lua_State *L) {
  int inner = lua_gettop(L);
  lua_getfield(L, inner, "kind");
  const char *kind = lua_tostring(L, -1);
  lua_getglobal(L, "tostring");
  lua_pushvalue(L, inner);
  lua_call(L, 1, 1);
  weft_push_error(state, L, kind ? kind : "error", lua_tostring(L, -1));
  lua_pushvalue(L, inner);
  lua_setfield(L, -2, "cause");
  lua_getfield(L, inner, "status");
  lua_setfield(L, -2, "status");
  lua_replace(L, inner);
  lua_settop(L, inner);
}

static void add_traceback(lua_State *L, weft_fiber *fiber) {
  weft_fiber_take_traceback(L, fiber);
  lua_setfield(L, -2, "traceback");
}

/* Leaves the error table of the value on top of L. */
static void describe_failure(lua_State *L, ending *end) {
  weft_state *state = end->scheduler->state;
  weft_fiber *fiber = end->fiber;
  weft_normalize_error(state, L);
  if (has_field(L, "index"))
    wrap_nested(state, L);
  weft_push_integer(L, fiber->task->index);
  lua_setfield(L, -2, "index");
  if (fiber->task->name)
    set_string(L, "task", fiber->task->name);
  if (!fiber->is_local && fiber->where && !has_field(L, "where"))
    set_string(L, "where", fiber->where);
  if (end->is_raised && !has_field(L, "traceback"))
    add_traceback(L, fiber);
}

static int protected_failure(lua_State *L) {
  ending *end = lua_touserdata(L, 1);
  lua_State *co = end->fiber->co;
  luaL_checkstack(L, 16, "failure");
  lua_pushvalue(co, -1); /* the value stays on the coroutine for its traceback */
  lua_xmove(co, L, 1);
  describe_failure(L, end);
  end->error = weft_to_core_error(end->scheduler->state, L, lua_gettop(L));
  if (end->fiber->is_local)
    weft_local_failed(end->scheduler->state, L, end->fiber);
  return 0;
}

static int protected_results(lua_State *L) {
  ending *end = lua_touserdata(L, 1);
  lua_State *co = end->fiber->co;
  weft_state *state = end->scheduler->state;
  luaL_checkstack(L, end->count + 16, "results");
  lua_xmove(co, L, end->count);
  if (end->fiber->is_local)
    weft_local_succeeded(state, L, end->fiber, end->count);
  else
    weft_to_parcel(state, L, 2, end->count, "result", &end->parcel);
  return 0;
}

/* Runs a function in protected mode on the state's main thread; on failure its error message is on
 * top of the coroutine, as if the task had raised it. */
static int run_protected(ending *end, lua_CFunction function) {
  lua_State *L = end->scheduler->state->L;
  if (!lua_checkstack(L, 8))
    return 0;
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, end);
  if (lua_pcall(L, 1, 0, 0) == 0)
    return 1;
  lua_xmove(L, end->fiber->co, 1);
  return 0;
}

static _Atomic uint64_t failed_count, canceled_count; /* of the process */

void weft_outcome_counts(uint64_t *failed, uint64_t *canceled) {
  *failed = atomic_load(&failed_count);
  *canceled = atomic_load(&canceled_count);
}

void weft_outcome_fail(weft_task *task, weft_error *error) {
  uint8_t status = failure_status(task, error);
  atomic_fetch_add(status == WEFT_TASK_FAILED ? &failed_count : &canceled_count, 1);
  weft_task_set_error(task, error);
  weft_group_fail(task->group, error);
  weft_task_end(task, status);
}

static int finish_failed(ending *end) {
  if (!run_protected(end, protected_failure))
    end->error = weft_error_new("nomem", "not enough memory");
  weft_outcome_fail(end->fiber->task, end->error);
  weft_error_release(end->error);
  return 0;
}

/* nil and an error, as io.open returns them, is a failure too. */
static int is_returned_failure(lua_State *co, int count) {
  return count >= 2 && lua_isnil(co, -count) && !lua_isnil(co, -count + 1);
}

/* The commonest ending: a task of a pool that returns plain values. Never raises. */
static int end_plainly(weft_scheduler *scheduler, weft_fiber *fiber, int count) {
  lua_State *co = fiber->co;
  weft_parcel *parcel = &fiber->task->parcel;
  if (fiber->is_local || is_returned_failure(co, count))
    return 0;
  if (count != 1 || !weft_encode_small(co, -1, parcel)) {
    weft_parcel_writer *writer = &scheduler->state->writer;
    if (!weft_encode_plain(scheduler->state, co, lua_gettop(co) - count + 1, count) ||
        weft_parcel_finish(writer, parcel) != WEFT_BUF_OK)
      return 0;
    parcel->count = (uint32_t)count;
  }
  weft_tally_done(scheduler);
  if (weft_task_end(fiber->task, WEFT_TASK_DONE))
    weft_worker_saw_wait(scheduler->worker);
  return 1;
}

static int encode_results(ending *end) {
  if (!run_protected(end, protected_results))
    return 0;
  if (!end->fiber->is_local) {
    weft_parcel_clear(&end->fiber->task->parcel);
    weft_parcel_move(&end->fiber->task->parcel, &end->parcel);
  }
  return 1;
}

/* After an error the stack is unwound, which runs what was to be closed. */
static int unwind(lua_State *co, int rc) {
#if WEFT_LUA54
  return rc == LUA_OK || lua_resetthread(co) == LUA_OK;
#else
  return rc == 0;
#endif
}

int weft_outcome(weft_scheduler *scheduler, weft_fiber *fiber, int rc, int nresults) {
  lua_State *co = fiber->co;
  if (rc == 0 && !fiber->has_raised && end_plainly(scheduler, fiber, nresults))
    return 1;
  int is_raised = rc != 0 || fiber->has_raised;
  ending end = {.scheduler = scheduler, .fiber = fiber, .count = nresults, .is_raised = is_raised};
  weft_parcel_init(&end.parcel);
  if (!is_raised && is_returned_failure(co, nresults)) {
    lua_pushvalue(co, -nresults + 1);
    finish_failed(&end);
  } else if (is_raised) {
    finish_failed(&end);
  } else if (encode_results(&end)) {
    weft_tally_done(scheduler);
    weft_task_end(fiber->task, WEFT_TASK_DONE);
  } else {
    finish_failed(&end);
  }
  weft_parcel_clear(&end.parcel);
  return unwind(co, rc);
}
