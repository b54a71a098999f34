/* module.c: the C module weft.core: what lua/weft builds the public module from.
 *
 * Owns the process's exit handler. Entered by every state's thread once. Invariant: only
 * luaopen_weft_core is visible outside of the shared object.
 */
#include "compat.h"

#include "errors.h"
#include "fingerprint.h"
#include "io.h"
#include "metrics.h"
#include "nginx.h"
#include "objects.h"
#include "platform.h"
#include "state.h"
#include "stats.h"
#include "trace.h"
#include "weft.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

enum { EXIT_WAIT_MS = 500 };

/* libcurl and OpenSSL free their globals in exit handlers of their own, which run after ours. */
static void at_exit(void) {
  weft_trace_stop();
  weft_io_stop(EXIT_WAIT_MS);
}

static void set_up_process(void) {
  weft_process_stay_loaded();
  atexit(at_exit);
}

/*** Lets values with this metatable cross between states; found again there by its name.
 * @function register
 * @tparam string name the same in every state
 * @tparam table metatable
 * @raise bad argument; a name that another metatable has
 */
static int register_metatable(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  if (lua_type(L, 1) != LUA_TSTRING)
    weft_bad_argument(L, "weft.register", "name", "a string", 1);
  if (!lua_istable(L, 2))
    weft_bad_argument(L, "weft.register", "metatable", "a table", 2);
  lua_settop(L, 2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->metatables);
  lua_pushvalue(L, 1);
  lua_rawget(L, 3);
  if (!lua_isnil(L, 4) && !lua_rawequal(L, 2, 4))
    return luaL_error(L, "weft.register: the name '%s' is taken by another metatable",
                      lua_tostring(L, 1));
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_rawset(L, 3);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->metatable_names);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 1);
  lua_rawset(L, -3);
  return 0;
}

/*** The metatable that is registered under a name; when there is none, a new one that is from now on. For
 * modules of weft, which may be loaded more than once.
 * @function class
 * @local
 * @tparam string name that of the module
 * @treturn table metatable
 */
static int class(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  luaL_checktype(L, 1, LUA_TSTRING);
  lua_settop(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->metatables);
  lua_pushvalue(L, 1);
  lua_rawget(L, 2);
  if (!lua_isnil(L, 3))
    return 1;
  lua_newtable(L);
  lua_replace(L, 2);
  lua_settop(L, 2);
  register_metatable(L);
  lua_settop(L, 2);
  return 1;
}

/*** A name for a text that does not tell it, such as a key: the same in all states of the process.
 * @function fingerprint
 * @local
 * @tparam string text
 * @treturn string 16 hexadecimal digits
 */
static int fingerprint(lua_State *L) {
  char digits[17];
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  snprintf(digits, sizeof digits, "%016llx", (unsigned long long)weft_fingerprint(text, size));
  lua_pushstring(L, digits);
  return 1;
}

/*** Raises a text with the script's line before it, passing over weft's own files.
 * @function raise
 * @local
 * @tparam string message
 */
static int raise_text(lua_State *L) {
  return luaL_error(L, "%s", luaL_checkstring(L, 1));
}

/*** Makes an error of the common shape from a table of its fields.
 * @function new_error
 * @local
 * @tparam table fields `kind`, `message` and others; becomes the error itself
 * @treturn error
 */
static int new_error(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, WEFT_STATE(L)->error_metatable);
  lua_setmetatable(L, 1);
  return 1;
}

/*** Whether a value is an error of the common shape.
 * @function is_error
 * @param value
 * @treturn boolean
 */
static int is_error(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, weft_is_error(WEFT_STATE(L), L, 1));
  return 1;
}

/*** Counts of what is alive in the process.
 * @function stats
 * @treturn table `threads`, `contexts`, `errors`, `pools`, `groups`, `channels`, `semaphores`,
 * `dicts`, `flights` (of singleflights), `tickers`, `waitgroups`, `limiters`, `timers`,
 * `transfers`, `http_quotas`, `budgets`, `healths`, `codes`; of this state: `tasks`, `parked`;
 *   `states`: Lua states that have loaded weft; `awake`: threads that do not sleep; `all_tasks`: of
 * the process, with `live`, `parked`, and the counters `done`, `failed`, `canceled`; `by_pool`: for
 * each name of a pool with threads `threads`, `max_threads`, `idle`, `queued`, `tasks`, `parked`;
 * `http`: `in_flight`, `queued`, `sockets`, and the counters `started`, `failed`; `memory`, in
 * bytes: `resident` (where the system tells), and `lua`, of the Lua states, each as of when it was
 * last idle
 */
static int stats(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  weft_stats all;
  weft_stats_read(&all);
  const struct {
    const char *name;
    uint32_t count;
  } counts[] = {{"threads", all.threads},
                {"contexts", all.contexts},
                {"errors", all.errors},
                {"pools", all.pools},
                {"groups", all.groups},
                {"channels", all.channels},
                {"semaphores", all.semaphores},
                {"waitgroups", all.waitgroups},
                {"dicts", all.dicts},
                {"flights", all.flights},
                {"tickers", all.tickers},
                {"timers", all.timers},
                {"transfers", all.transfers},
                {"http_quotas", all.http_quotas},
                {"limiters", all.limiters},
                {"budgets", all.budgets},
                {"healths", all.healths},
                {"codes", weft_live.codes},
                {"tasks", state->scheduler.live},
                {"parked", state->scheduler.parked}};
  lua_createtable(L, 0, 16);
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    weft_push_integer(L, counts[i].count);
    lua_setfield(L, -2, counts[i].name);
  }
  lua_pushstring(L, weft_ship_is_fast(state) ? "fast" : "portable");
  lua_setfield(L, -2, "shipping");
  weft_add_stats(state, L);
  return 1;
}

/*** Makes the nth allocation, or thread start, from now fail: for tests of weft itself.
 * @function fail_at
 * @local
 * @tparam string what "malloc" or "thread"
 * @tparam integer nth 0 turns it off
 * @treturn integer how many allocations were made since the last call
 */
static int fail_at(lua_State *L) {
  static const char *const kinds[] = {"malloc", "thread", NULL};
  int kind = luaL_checkoption(L, 1, NULL, kinds);
  uint64_t nth = (uint64_t)luaL_checknumber(L, 2), made = 0;
  if (kind == 0)
    made = weft_mem_fail_at(nth);
  else
    weft_thread_fail_at(nth);
  weft_push_integer(L, (int64_t)made);
  return 1;
}

static void expose_methods(lua_State *L, const char *class) {
  luaL_getmetatable(L, class);
  lua_getfield(L, -1, "__index");
  lua_replace(L, -2);
  lua_setfield(L, -2, class + sizeof "weft." - 1);
}

WEFT_MODULE_API int luaopen_weft_core(lua_State *L) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  static const weft_function functions[] = {{"register", register_metatable, 0},
                                            {"class", class, 0},
                                            {"fingerprint", fingerprint, 0},
                                            {"new_error", new_error, 0},
                                            {"raise", raise_text, 0},
                                            {"is_error", is_error, 0},
                                            {"stats", stats, 0},
                                            {"fail_at", fail_at, 0},
                                            {NULL, NULL, 0}};
  pthread_once(&once, set_up_process);
  weft_state *state = weft_state_open(L, NULL);
  lua_newtable(L);
  weft_register(L, state, functions);
  weft_open_context(state, L);
  weft_open_pool(state, L);
  weft_open_group(state, L);
  weft_open_time(state, L);
  weft_open_channel(state, L);
  weft_open_select(state, L);
  weft_open_ticker(state, L);
  weft_open_sync(state, L);
  weft_open_limiter(state, L);
  weft_open_sse(state, L);
  weft_open_shared(state, L);
  weft_open_dict(state, L);
  weft_open_singleflight(state, L);
  weft_open_http(state, L);
  weft_open_tasks(state, L);
  weft_open_ledger(state, L);
  weft_open_trace(state, L);
  weft_open_metrics(state, L);
  weft_open_virtual_clock(state, L);
  weft_open_http_stream(state, L);
  weft_open_budget(state, L);
  weft_open_health(state, L);
  weft_open_nginx(state, L);
  lua_newtable(L); /* methods of classes that lua/weft extends */
  expose_methods(L, "weft.context");
  expose_methods(L, "weft.group");
  lua_setfield(L, -2, "methods");
  return 1;
}
