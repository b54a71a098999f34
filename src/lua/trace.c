/* trace.c: traces in Lua: starting and stopping one, spans, and what the scheduler tells.
 *
 * Owns the process's one trace, in a userdata that ends it. Entered by the state's thread.
 * Invariant: a span that began ends, with the same name, on the line of the same task.
 */
#include "traced.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- tasks ---- */

enum { NAME_MOST = WEFT_TRACE_NAME - 12 };

/* "name", or "file:line", and the index. */
static void name_task(const weft_fiber *fiber, char *text) {
  const weft_task *task = fiber->task;
  const char *where = fiber->is_local || !fiber->where ? "" : fiber->where;
  const char *name = task->name ? task->name : *where ? where : "inner task";
  size_t length = strlen(name);
  if (!task->name && length > NAME_MOST) /* of a place the end tells more */
    name += length - NAME_MOST;
  snprintf(text, WEFT_TRACE_NAME, "%.*s #%u", NAME_MOST, name, task->index);
}

void weft_traced_begin(weft_fiber *fiber, weft_traced *traced) {
  name_task(fiber, traced->name);
  if (!fiber->is_traced)
    weft_trace_begin(traced->name, fiber);
  else if (fiber->traces_wait)
    weft_trace_end(fiber->park.op->what, fiber);
  fiber->is_traced = 1;
  fiber->traces_wait = 0;
  traced->start_ns = weft_trace_now_ns();
}

void weft_traced_end(weft_fiber *fiber, weft_traced *traced, int is_over) {
  weft_trace_did(traced->name, traced->start_ns);
  if (is_over) {
    weft_trace_end(traced->name, fiber);
    fiber->is_traced = 0;
  } else if (fiber->state == WEFT_FIBER_PARKED) {
    weft_trace_begin(fiber->park.op->what, fiber);
    fiber->traces_wait = 1;
  }
}

/* ---- spans ---- */

static const void *line_of(weft_state *state) {
  weft_scheduler *scheduler = &state->scheduler;
  return scheduler->current ? (const void *)scheduler->current : (const void *)scheduler;
}

/*** Begins a span, when a trace runs.
 * @function span_begin
 * @local
 * @tparam string name
 * @treturn boolean whether it did, and must be ended
 */
static int span_begin(lua_State *L) {
  int is_on = weft_trace_is_on();
  if (is_on)
    weft_trace_begin(luaL_checkstring(L, 1), line_of(WEFT_STATE(L)));
  lua_pushboolean(L, is_on);
  return 1;
}

/*** Ends a span that was begun.
 * @function span_end
 * @local
 * @tparam string name
 */
static int span_end(lua_State *L) {
  if (weft_trace_is_on())
    weft_trace_end(luaL_checkstring(L, 1), line_of(WEFT_STATE(L)));
  return 0;
}

/* ---- the trace ---- */

static const char class_name[] = "weft.trace";

typedef struct lua_trace {
  uint8_t is_open;
} lua_trace;

static const char *check_file(lua_State *L) {
  if (!lua_istable(L, 1))
    weft_bad_argument(L, "weft.trace", "options", "a table", 1);
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "file") != 0)
      luaL_error(L, "bad option '%s' to weft.trace: known is file",
                 lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2));
    lua_pop(L, 1);
  }
  lua_getfield(L, 1, "file");
  if (lua_type(L, -1) != LUA_TSTRING)
    weft_bad_argument(L, "weft.trace", "file", "the name of a file", lua_gettop(L));
  return lua_tostring(L, -1);
}

/*** Writes down what happens from now on, in the format of Chrome's traces: open the file in
 * https://ui.perfetto.dev. Each thread has a line with what it runs; each task has one with its
 * waits, on channels, limits, transfers, and with its spans (@{span}). The file is a whole JSON
 * document at every moment, also when the process ends in the middle. A thread that is faster than
 * the disk drops events.
 * @function trace
 * @tparam table options `file`: where to; a file that exists is overwritten
 * @treturn[1] trace with `stop()`; also a `<close>` value
 * @treturn[2] nil
 * @treturn[2] error when the file cannot be written, or is a pipe
 * @raise when a trace runs already; bad argument or unknown option
 * @usage
 * local trace = assert(weft.trace{ file = "run.json" })
 * -- …
 * trace:stop()
 */
static int start(lua_State *L) {
  const char *path = check_file(L);
  lua_trace *trace = weft_new_userdata(L, sizeof *trace);
  *trace = (lua_trace){0};
  luaL_getmetatable(L, class_name);
  lua_setmetatable(L, -2);
  int rc = weft_trace_start(path);
  if (rc == EBUSY)
    return luaL_error(L, "weft.trace: a trace runs already; stop it first");
  if (rc != 0)
    return weft_fail(WEFT_STATE(L), L, "file", "weft.trace: %s: %s", path,
                     rc == ESPIPE ? "a pipe or a terminal; a trace needs a file" : strerror(rc));
  trace->is_open = 1;
  return 1;
}

/*** Writes what is left and closes the file. Also what `<close>` does.
 * @function trace:stop
 * @treturn integer how many events were dropped
 */
static int stop(lua_State *L) {
  lua_trace *trace = weft_check_class(L, 1, class_name, "trace:stop");
  uint64_t dropped = trace->is_open ? weft_trace_stop() : 0;
  trace->is_open = 0;
  weft_push_integer(L, (int64_t)dropped);
  return 1;
}

static int trace_tostring(lua_State *L) {
  lua_trace *trace = weft_check_class(L, 1, class_name, "tostring");
  lua_pushstring(L, trace->is_open ? "weft trace" : "weft trace (stopped)");
  return 1;
}

void weft_open_trace(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"trace", start, 0},
                                            {"span_begin", span_begin, 0},
                                            {"span_end", span_end, 0},
                                            {NULL, NULL, 0}};
  static const weft_function methods[] = {{"stop", stop, 0},
                                          {"__close", stop, 0},
                                          {"__gc", stop, 0},
                                          {"__tostring", trace_tostring, 0},
                                          {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, class_name, methods);
  lua_pushliteral(L,
                  "a trace belongs to the script that started it; tasks are traced by themselves");
  lua_setfield(L, -2, "__weft_advice");
  lua_pop(L, 1);
}
