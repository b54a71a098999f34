/* names.c: what crosses by name: modules, their functions, and where require looks for them.
 *
 * Owns the process's copy of package.path and package.cpath; the maps belong to each state. Entered
 * by every state's own thread. Invariant: a name stands for the same thing in every state, as far
 * as require finds the same files.
 *
 * Lock order: `lock` is a leaf; no Lua function is called under it.
 */
#include "names.h"

#include "mem.h"
#include "platform.h"
#include "state.h"

#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *published[2]; /* path, cpath; guarded by lock */
static const char *const path_fields[2] = {"path", "cpath"};

static __attribute__((constructor)) void hold_over_forks(void) {
  weft_process_hold_lock(&lock);
}

static void push_loaded(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
}

static uint32_t fingerprint_loaded(lua_State *L) {
  uint32_t fingerprint = 1;
  push_loaded(L);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    fingerprint += weft_ptr_hash(lua_topointer(L, -1)) | 1;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return fingerprint;
}

static int is_standard(const char *name) {
  static const char *const libraries[] = {"_G", "string", "table", "math", "io", "os", "coroutine"};
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    if (strcmp(name, libraries[i]) == 0)
      return 1;
  }
  return 0;
}

/* Of two names of one value: what every state has goes first, then the shorter one. "socket" puts
 * its functions into the table of "socket.core", so only the first name brings all of them. */
static int is_better(const char *name, size_t size, const char *other, size_t other_size) {
  int rank = is_standard(name) - is_standard(other);
  if (rank != 0)
    return rank > 0;
  return size != other_size ? size < other_size : memcmp(name, other, size) < 0;
}

/* names[value below the top] = name on top, unless it has a better one. Pops both. */
static void learn(lua_State *L, int names) {
  size_t size, known_size;
  const char *name = lua_tolstring(L, -1, &size);
  lua_pushvalue(L, -2);
  lua_rawget(L, names);
  const char *known = lua_tolstring(L, -1, &known_size);
  int is_known = known && !is_better(name, size, known, known_size);
  lua_pop(L, 1);
  if (is_known)
    lua_pop(L, 2);
  else
    lua_rawset(L, names);
}

/* Functions of the table `module`. A script's own global functions are no module's. */
static void learn_fields(lua_State *L, int names, const char *name, int module) {
  int is_globals = strcmp(name, "_G") == 0;
  lua_pushnil(L);
  while (lua_next(L, module)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1) &&
        !(is_globals && !lua_iscfunction(L, -1))) {
      lua_pushvalue(L, -1);
      lua_pushstring(L, name);
      lua_pushlstring(L, "\0", 1);
      lua_pushvalue(L, -5);
      lua_concat(L, 3);
      learn(L, names);
    }
    lua_pop(L, 1);
  }
}

void weft_names_keep(weft_state *state, lua_State *L, const char *name) {
  int module = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->names);
  learn_fields(L, module + 1, name, module);
  lua_settop(L, module);
}

static void publish_paths(lua_State *L) {
  lua_getglobal(L, "package");
  for (int i = 0; i < 2 && lua_istable(L, -1); i++) {
    lua_getfield(L, -1, path_fields[i]);
    const char *text = lua_tostring(L, -1);
    pthread_mutex_lock(&lock);
    if (text && (!published[i] || strcmp(published[i], text) != 0)) {
      weft_free(published[i]);
      published[i] = weft_strndup(text, strlen(text));
    }
    pthread_mutex_unlock(&lock);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

void weft_names_rescan(weft_state *state, lua_State *L) {
  luaL_checkstack(L, 16, "names");
  int top = lua_gettop(L), names = top + 1, loaded = top + 2;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->names);
  push_loaded(L);
  lua_pushnil(L);
  while (lua_next(L, loaded)) {
    int value = lua_gettop(L);
    if (lua_type(L, -2) == LUA_TSTRING && (lua_istable(L, value) || lua_isfunction(L, value))) {
      const char *name = lua_tostring(L, -2);
      lua_pushvalue(L, value);
      lua_pushvalue(L, value - 1);
      learn(L, names);
      if (lua_istable(L, value))
        learn_fields(L, names, name, value);
    }
    lua_settop(L, value - 1);
  }
  lua_settop(L, top);
  state->names_loaded = fingerprint_loaded(L);
  publish_paths(L);
}

int weft_names_refresh(weft_state *state, lua_State *L) {
  luaL_checkstack(L, 4, "names");
  if (fingerprint_loaded(L) == state->names_loaded)
    return 0;
  weft_names_rescan(state, L);
  return 1;
}

static const char *find(weft_state *state, lua_State *L, int index, size_t *size) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->names);
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  const char *name = lua_tolstring(L, -1, size); /* stays alive: the map holds it */
  lua_pop(L, 2);
  return name;
}

const char *weft_names_find(weft_state *state, lua_State *L, int index, size_t *size) {
  return find(state, L, index, size);
}

const char *weft_names_find_function(weft_state *state, lua_State *L, int index, size_t *size) {
  const char *name = find(state, L, index, size);
  if (name || !lua_iscfunction(L, index))
    return name;
  weft_names_rescan(state, L);
  return find(state, L, index, size);
}

void weft_names_adopt_paths(lua_State *L) {
  lua_getglobal(L, "package");
  for (int i = 0; i < 2; i++) {
    pthread_mutex_lock(&lock);
    char *text = published[i] ? weft_strndup(published[i], strlen(published[i])) : NULL;
    pthread_mutex_unlock(&lock);
    if (text) {
      lua_pushstring(L, text);
      weft_free(text);
      lua_setfield(L, -2, path_fields[i]);
    }
  }
  lua_pop(L, 1);
}

/* Of what require has raised. Where it looked is a line for each place, and is left out. */
static int raise_not_required(lua_State *L, const char *name) {
  const char *message = lua_tostring(L, -1);
  lua_pushfstring(L, "module '%s' not found:", name);
  if (!message || strncmp(message, lua_tostring(L, -1), weft_rawlen(L, -1)) != 0) {
    lua_pop(L, 1);
    return lua_error(L);
  }
  return luaL_error(L,
                    "module '%s' not found in a task: it needs a file on package.path, or "
                    "package.preload['%s'] set in the init of the pool",
                    name, name);
}

/* Pushes the module, loading it with the paths that its sender has. */
static void require_module(lua_State *L, const char *name) {
  push_loaded(L);
  lua_getfield(L, -1, name);
  if (lua_toboolean(L, -1)) {
    lua_replace(L, -2);
    return;
  }
  lua_pop(L, 2);
  weft_names_adopt_paths(L);
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  if (lua_pcall(L, 1, 1, 0) != 0)
    raise_not_required(L, name);
}

static void find_named(lua_State *L, const char *name, size_t size) {
  size_t module_size = strlen(name);
  require_module(L, name);
  if (module_size == size)
    return;
  const char *field = name + module_size + 1;
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, field);
    lua_replace(L, -2);
  }
  if (!lua_isfunction(L, -1))
    luaL_error(L, "module '%s' has no function '%s' in the worker's Lua state", name, field);
}

void weft_names_push(weft_state *state, lua_State *L, const char *name, size_t size) {
  luaL_checkstack(L, 12, "name");
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->named);
  lua_pushlstring(L, name, size);
  lua_pushvalue(L, -1);
  lua_rawget(L, -3);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    find_named(L, lua_tostring(L, -1), size);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, -5);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

static int protected_require(lua_State *L) {
  require_module(L, luaL_checkstring(L, 1));
  return 0;
}

int weft_names_require(lua_State *L, const char *name) {
  lua_pushcfunction(L, protected_require);
  lua_pushstring(L, name);
  return lua_pcall(L, 1, 0, 0) == 0;
}
