/* state.c: opening and closing weft's part of a Lua state, and registering functions.
 *
 * The weft_state is a userdata in the registry. Entered by the state's thread. Invariants: it is
 * older than every other userdata of weft, so its finalizer runs after theirs; its memory goes with
 * the Lua state's, since a script's finalizers that are older still may call us after it: then
 * nothing can block or be started any more.
 */
#include "state.h"

#include "coroutines.h"
#include "errors.h"
#include "fibers.h"
#include "guest.h"
#include "nginx.h"
#include "value.h"

#include <string.h>

static const char state_key;

static int close_state(lua_State *L) {
  weft_state *state = lua_touserdata(L, 1);
  weft_ship_close(&state->ship);
  weft_encoder_scratch_free(&state->scratch);
  weft_parcel_writer_free(&state->writer);
  weft_scheduler_close(&state->scheduler);
  weft_task_cache_free(&state->free_tasks);
  return 0;
}

/* Where the VM does not give the main thread away and the module may be loaded by any coroutine, a
 * thread of our own will do: nothing ever runs on it. */
static void push_main_thread(lua_State *L, int has_guests) {
#if WEFT_LUA54
  (void)has_guests;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
#else
  if (has_guests)
    lua_newthread(L);
  else
    lua_pushthread(L); /* its loader lives on when that is a coroutine */
#endif
}

static int new_map(lua_State *L, const char *mode) {
  lua_newtable(L);
  if (mode) {
    lua_newtable(L);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

static int raise_new_key(lua_State *L) {
  return luaL_error(L,
                    "a new key in a captured table is lost: the task has a copy; return the value, "
                    "send it through a channel, or use weft.inline");
}

static void make_guard(weft_state *state, lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, raise_new_key);
  lua_setfield(L, -2, "__newindex");
  state->guard = luaL_ref(L, LUA_REGISTRYINDEX);
}

static weft_state *new_state(lua_State *L) {
  weft_state *state = lua_newuserdata(L, sizeof *state);
  memset(state, 0, sizeof *state);
  weft_parcel_writer_init(&state->writer);
  lua_newtable(L);
  lua_pushcfunction(L, close_state);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  return state;
}

static weft_state *find_state(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  weft_state *state = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return state;
}

weft_state *weft_state_of(lua_State *L) {
  return find_state(L);
}

weft_state *weft_state_open(lua_State *L, weft_worker *worker) {
  weft_state *state = find_state(L);
  if (state)
    return state;
  const weft_guest_loop *loop = worker ? NULL : weft_nginx_loop(L);
  state = new_state(L);
  push_main_thread(L, loop != NULL);
  state->L = lua_tothread(L, -1);
  luaL_ref(L, LUA_REGISTRYINDEX);
  state->handles = new_map(L, "v");
  state->groups = new_map(L, "v");
  state->names = new_map(L, "k");
  state->named = new_map(L, NULL);
  state->metatables = new_map(L, NULL);
  state->metatable_names = new_map(L, NULL);
  state->pending = new_map(L, NULL);
  make_guard(state, L);
  weft_ship_open(state, L);
  weft_errors_open(state, L);
  if (!weft_scheduler_open(&state->scheduler, state, worker, loop))
    luaL_error(L, "not enough memory or file descriptors");
  weft_open_coroutines(state, L);
  return state;
}

/* ---- functions ---- */

void weft_push_shim(lua_State *L, const char *source) {
  if (luaL_loadbuffer(L, source, strlen(source), WEFT_SHIM_CHUNK) != 0)
    lua_error(L);
}

#if !WEFT_LUA54
/* A C function of LuaJIT cannot go on after a yield: a Lua function around it does. Its first
 * argument stays alive through `finish`, which does what the C function would do after the yield.
 */
static const char fixed_shim[] = "local f, finish, again, block, host = ...\n"
                                 "local call\n"
                                 "local function check(a, b, r, ...)\n"
                                 "  if r == again then return call(a, b) end\n"
                                 "  return r, ...\n"
                                 "end\n"
                                 "local function park(a, b, number)\n"
                                 "  local ok, err = host.wait(number)\n"
                                 "  if not ok then return nil, err end\n"
                                 "  return check(a, b, finish(a, number))\n"
                                 "end\n"
                                 "local function settle(a, b, r, ...)\n"
                                 "  if r == block then return park(a, b, ...) end\n"
                                 "  return r, ...\n"
                                 "end\n"
                                 "call = function(a, b) return settle(a, b, f(a, b)) end\n"
                                 "return call";
static const char variadic_shim[] = "local f, finish, again, block, host, spawn = ...\n"
                                    "local function call(a, ...)\n"
                                    "  local r, s, t = f(a, ...)\n"
                                    "  if r == block then\n"
                                    "    local ok, err = host.wait(s)\n"
                                    "    if not ok then return nil, err end\n"
                                    "    r, s = finish(a, s)\n"
                                    "  end\n"
                                    "  if r == again then return call(a, ...) end\n"
                                    "  if r == spawn then return host.spawn(s, t) end\n"
                                    "  return r, s\n"
                                    "end\n"
                                    "return call";

/* The function is on top of the stack. */
static void wrap_in_shim(lua_State *L, weft_state *state, int may_block) {
  int has_guests = state->scheduler.guests != NULL;
  weft_push_shim(L, may_block == WEFT_BLOCKS_VARIADIC ? variadic_shim : fixed_shim);
  lua_insert(L, -2);
  lua_pushlightuserdata(L, state);
  lua_pushcclosure(L, has_guests ? weft_guest_continue : weft_park_continue, 1);
  lua_pushlightuserdata(L, (void *)&weft_again_token);
  lua_pushlightuserdata(L, (void *)&weft_block_token);
  if (has_guests)
    weft_nginx_push_host(L);
  else
    weft_push_coroutine_host(L);
  lua_pushlightuserdata(L, (void *)&weft_spawn_token);
  lua_call(L, 6, 1);
}
#endif

void weft_push_function(lua_State *L, weft_state *state, lua_CFunction function, int may_block) {
  lua_pushlightuserdata(L, state);
  lua_pushcclosure(L, function, 1);
#if !WEFT_LUA54
  if (may_block)
    wrap_in_shim(L, state, may_block);
#else
  (void)may_block;
#endif
}

void weft_register(lua_State *L, weft_state *state, const weft_function *functions) {
  for (; functions->name; functions++) {
    weft_push_function(L, state, functions->function, functions->may_block);
    lua_setfield(L, -2, functions->name);
  }
}
