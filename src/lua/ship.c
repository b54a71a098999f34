/* ship.c: the registry of code, and each state's caches of what it sent and what it loaded.
 *
 * Owns the codes, refcounted: a state's caches, messages on their way and running groups hold
 * references, and the last one takes the code out of the registry. Entered by each state's own
 * thread. Invariants: two codes in the registry never have equal bytes; a cached prototype address
 * counts only while its weak anchor is alive, since then no other prototype can have that address.
 *
 * Lock order: `lock` is a leaf; no Lua function is called under it.
 */
#include "ship.h"

#include "buf.h"
#include "bytecode.h"
#include "mem.h"
#include "names.h"
#include "platform.h"
#include "state.h"
#include "stats.h"
#include "value.h"
#include "vmprobe.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { BUCKETS = 1024, PROBES = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weft_code *buckets[BUCKETS]; /* guarded by lock; holds no references */

static __attribute__((constructor)) void hold_over_forks(void) {
  weft_process_hold_lock(&lock);
}

static void destroy_code(weft_handle *handle);
const weft_handle_type weft_code_type = {"code", destroy_code, &weft_live.codes};

/* ---- the registry ---- */

static inline uint64_t multiply_fold(uint64_t a, uint64_t b) {
  __uint128_t product = (__uint128_t)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t read_word(const uint8_t *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

static uint64_t hash_bytes(const uint8_t *bytes, size_t size) {
  uint64_t hash = 0xa0761d6478bd642full ^ size;
  uint8_t tail[16] = {0};
  for (; size >= 16; bytes += 16, size -= 16)
    hash = multiply_fold(read_word(bytes) ^ 0xe7037ed1a0b428dbull, read_word(bytes + 8) ^ hash);
  memcpy(tail, bytes, size);
  return multiply_fold(read_word(tail) ^ 0x589965cc75374cc3ull, read_word(tail + 8) ^ hash);
}

static void free_code(weft_code *code) {
  weft_free(code->bytes);
  weft_free(code->factory);
  weft_free(code);
}

static void destroy_code(weft_handle *handle) {
  weft_code *code = (weft_code *)handle;
  pthread_mutex_lock(&lock);
  weft_code **link = &buckets[code->hash % BUCKETS];
  while (*link && *link != code)
    link = &(*link)->next;
  if (*link)
    *link = code->next;
  pthread_mutex_unlock(&lock);
  free_code(code);
}

/* With a reference for the caller; one that is being destroyed does not count. Called under lock.
 */
static weft_code *find_locked(uint64_t hash, const uint8_t *bytes, size_t size) {
  for (weft_code *code = buckets[hash % BUCKETS]; code; code = code->next)
    if (code->hash == hash && code->size == size && memcmp(code->bytes, bytes, size) == 0 &&
        weft_handle_try_retain(&code->handle))
      return code;
  return NULL;
}

static weft_code *find_code(uint64_t hash, const uint8_t *bytes, size_t size) {
  pthread_mutex_lock(&lock);
  weft_code *code = find_locked(hash, bytes, size);
  pthread_mutex_unlock(&lock);
  return code;
}

/* Puts `fresh` in, or finds that another state was faster: the one to use, retained. */
static weft_code *publish(weft_code *fresh) {
  pthread_mutex_lock(&lock);
  weft_code *code = find_locked(fresh->hash, fresh->bytes, fresh->size);
  if (!code) {
    weft_handle_init(&fresh->handle, &weft_code_type);
    fresh->next = buckets[fresh->hash % BUCKETS];
    buckets[fresh->hash % BUCKETS] = fresh;
    code = fresh;
  }
  pthread_mutex_unlock(&lock);
  if (code != fresh)
    free_code(fresh);
  return code;
}

/* ---- registering a function ---- */

void weft_function_where(lua_State *L, int index, char *out, size_t size) {
  lua_Debug info;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &info);
  snprintf(out, size, "%s:%d", info.short_src, info.linedefined);
}

static int write_dump(lua_State *L, const void *bytes, size_t size, void *buf) {
  (void)L;
  return weft_buf_append(buf, bytes, size) != WEFT_BUF_OK;
}

static int dump_function(lua_State *L, int index, weft_buf *out) {
  lua_pushvalue(L, index);
#if WEFT_LUA54
  int rc = lua_dump(L, write_dump, out, 0);
#else
  int rc = lua_dump(L, write_dump, out);
#endif
  lua_pop(L, 1);
  return rc;
}

static int is_copied_table(weft_state *state, lua_State *L, int index) {
  size_t size;
  return lua_istable(L, index) && !weft_names_find(state, L, index, &size);
}

static int describe_captures(weft_state *state, lua_State *L, int index, weft_capture *captures) {
  const char *name;
  int count = 0;
  while (count < 255 && (name = lua_getupvalue(L, index, count + 1))) {
    captures[count].name = *name ? name : "?";
    captures[count].is_env = strcmp(name, "_ENV") == 0;
    captures[count].is_table_copy =
        !captures[count].is_env && is_copied_table(state, L, lua_gettop(L));
    lua_pop(L, 1);
    count++;
  }
  return count;
}

static int raise_lost_write(lua_State *L, const weft_lost_write *write, const char *where) {
  static const char *const verbs[] = {"", "assigns the captured variable",
                                      "writes into the captured table",
                                      "changes the captured table"};
  return luaL_error(L,
                    "the function at %s %s '%s' at line %d: it has a copy, so the write would be "
                    "lost; return the value, send it through a channel, or use weft.inline",
                    where, verbs[write->kind], write->name, write->line);
}

/* What is checked once for each new code: that it loses no write. */
static void check_writes(weft_state *state, lua_State *L, int index, const weft_buf *dump) {
  weft_capture captures[256];
  weft_lost_write lost;
  char where[80];
  weft_names_rescan(state, L); /* so that modules are told from copied tables */
  int count = describe_captures(state, L, index, captures);
  if (!weft_bytecode_lost_write(dump->data, dump->size, captures, count, &lost))
    return;
  weft_function_where(L, index, where, sizeof where);
  weft_buf_free((weft_buf *)dump);
  raise_lost_write(L, &lost, where);
}

static int find_env(lua_State *L, int index) {
  const char *name;
  for (int i = 1; (name = lua_getupvalue(L, index, i)); i++) {
    lua_pop(L, 1);
    if (strcmp(name, "_ENV") == 0)
      return i;
  }
  return 0;
}

static int count_upvalues(lua_State *L, int index) {
  lua_Debug info;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">u", &info);
  return info.nups;
}

/* Takes the dump over. NULL: no memory. */
static weft_code *make_code(weft_state *state, lua_State *L, int index, weft_buf *dump,
                            uint64_t hash) {
  weft_code *code = weft_calloc(1, sizeof *code);
  if (!code) {
    weft_buf_free(dump);
    return NULL;
  }
  code->hash = hash;
  code->bytes = dump->data;
  code->size = dump->size;
  code->upvalue_count = count_upvalues(L, index);
  code->env = find_env(L, index);
  weft_function_where(L, index, code->where, sizeof code->where);
  weft_buf factory;
  weft_buf_init(&factory, 0);
  if (state->ship.prototype_offset && code->upvalue_count > 0 &&
      weft_bytecode_splice(L, code->bytes, code->size, code->upvalue_count, &factory)) {
    code->factory = factory.data;
    code->factory_size = factory.size;
  }
  return code;
}

/* The portable way: dump, hash, compare bytes. With a reference for the caller. */
static weft_code *register_function(weft_state *state, lua_State *L, int index) {
  weft_buf dump;
  weft_buf_init(&dump, 64u << 20);
  if (dump_function(L, index, &dump) != 0) {
    weft_buf_free(&dump);
    luaL_error(L, "the function could not be dumped: not enough memory or over 64 MiB");
  }
  uint64_t hash = hash_bytes(dump.data, dump.size);
  weft_code *code = find_code(hash, dump.data, dump.size);
  if (code) {
    weft_buf_free(&dump);
    return code;
  }
  check_writes(state, L, index, &dump);
  code = make_code(state, L, index, &dump, hash);
  if (!code)
    luaL_error(L, "not enough memory");
  return publish(code);
}

static void release_code(const weft_code *code) {
  if (code)
    weft_handle_release(&((weft_code *)code)->handle);
}

static weft_code *code_without_cache(weft_state *state, lua_State *L, int index) {
  weft_code *code = register_function(state, L, index);
  release_code(state->ship.last);
  state->ship.last = code;
  return code;
}

static uint32_t sent_place(const void *prototype) {
  return weft_ptr_hash(prototype) % WEFT_SHIP_CACHE;
}

weft_code *weft_ship_find(weft_state *state, lua_State *L, int index) {
  weft_ship *ship = &state->ship;
  if (!ship->prototype_offset || lua_iscfunction(L, index))
    return NULL;
  const void *prototype = weft_prototype_of(L, index, ship->prototype_offset);
  uint32_t place = sent_place(prototype);
  if (ship->sent[place].prototype != prototype)
    return NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, ship->anchors);
  int is_anchored = weft_rawgeti(L, -1, (int)place + 1) != LUA_TNIL;
  lua_pop(L, 2);
  return is_anchored ? ship->sent[place].code : NULL;
}

weft_code *weft_ship_code(weft_state *state, lua_State *L, int index) {
  weft_ship *ship = &state->ship;
  if (!ship->prototype_offset)
    return code_without_cache(state, L, index);
  weft_code *code = register_function(state, L, index);
  const void *prototype = weft_prototype_of(L, index, ship->prototype_offset);
  uint32_t place = sent_place(prototype);
  release_code(ship->sent[place].code);
  ship->sent[place].prototype = prototype;
  ship->sent[place].code = code;
  lua_rawgeti(L, LUA_REGISTRYINDEX, ship->anchors);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (int)place + 1);
  lua_pop(L, 1);
  return code;
}

/* ---- loading ---- */

static void load_chunk(lua_State *L, const uint8_t *bytes, size_t size, const weft_code *code) {
  char name[96];
  snprintf(name, sizeof name, "=%s", code->where);
  if (luaL_loadbufferx(L, (const char *)bytes, size, name, "b") != 0)
    luaL_error(L, "the function at %s could not be loaded: %s", code->where, lua_tostring(L, -1));
#if WEFT_LUA54
  lua_gc(L, LUA_GCSTEP, 0); /* loading never triggers a step by itself */
#endif
}

/* The place of `code` in the cache of loaded factories, empty when it is not there. */
static uint32_t loaded_place(weft_ship *ship, const weft_code *code) {
  uint32_t home = weft_ptr_hash(code) % WEFT_SHIP_CACHE, empty = UINT32_MAX;
  for (uint32_t i = 0; i < PROBES; i++) {
    uint32_t place = (home + i) % WEFT_SHIP_CACHE;
    if (ship->loaded[place].code == code)
      return place;
    if (!ship->loaded[place].code && empty == UINT32_MAX)
      empty = place;
  }
  return empty == UINT32_MAX ? home : empty;
}

/* What is loaded once and pushed for every closure: the factory, or, when there is nothing captured
 * that could differ, the function itself. */
static int is_cacheable(weft_state *state, const weft_code *code) {
  return state->ship.prototype_offset && (code->factory || code->upvalue_count == 0);
}

static void cache_factory(weft_state *state, lua_State *L, uint32_t place, const weft_code *code) {
  weft_ship *ship = &state->ship;
  if (code->factory)
    load_chunk(L, code->factory, code->factory_size, code);
  else
    load_chunk(L, code->bytes, code->size, code);
  if (ship->loaded[place].code) {
    luaL_unref(L, LUA_REGISTRYINDEX, ship->loaded[place].reference);
    release_code(ship->loaded[place].code);
    ship->loaded[place].code = NULL;
  }
  lua_pushvalue(L, -1);
  ship->loaded[place].reference = luaL_ref(L, LUA_REGISTRYINDEX);
  weft_handle_retain(&((weft_code *)code)->handle);
  ship->loaded[place].code = code;
}

void weft_ship_push_factory(weft_state *state, lua_State *L, const weft_code *code) {
  if (!is_cacheable(state, code)) {
    load_chunk(L, code->bytes, code->size, code);
    return;
  }
  uint32_t place = loaded_place(&state->ship, code);
  if (state->ship.loaded[place].code == code)
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->ship.loaded[place].reference);
  else
    cache_factory(state, L, place, code);
}

void weft_ship_call_factory(weft_state *state, lua_State *L, const weft_code *code) {
  if (code->factory && state->ship.prototype_offset) {
    lua_call(L, code->upvalue_count, 1);
    return;
  }
  int function = lua_gettop(L) - code->upvalue_count;
  for (int i = code->upvalue_count; i >= 1; i--)
    lua_setupvalue(L, function, i);
}

/* ---- life ---- */

void weft_ship_open(weft_state *state, lua_State *L) {
  state->ship.prototype_offset = weft_probe_prototype(L);
  state->ship.array_offset = weft_probe_array_size(L);
  state->ship.wanted_offset = weft_probe_wanted(L);
  lua_newtable(L);
  lua_newtable(L);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  state->ship.anchors = luaL_ref(L, LUA_REGISTRYINDEX);
}

void weft_ship_close(weft_ship *ship) {
  for (int i = 0; i < WEFT_SHIP_CACHE; i++) {
    release_code(ship->sent[i].code);
    release_code(ship->loaded[i].code);
    ship->sent[i].code = NULL;
    ship->loaded[i].code = NULL;
  }
  release_code(ship->last);
  ship->last = NULL;
}

int weft_ship_is_fast(weft_state *state) {
  return state->ship.prototype_offset != 0;
}
