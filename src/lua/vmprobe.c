/* vmprobe.c: finds out whether the fast ways work on this very VM.
 *
 * Owns the cached answers for the process. Entered by the thread of each state that is opened.
 * Invariant: a prototype's offset is used only when closures of one prototype agree there, closures
 * of different prototypes differ, and spliced functions behave as their originals; that of the
 * array size only when tables of different sizes all show theirs there; that of the wanted results
 * only when calls that want different numbers all show theirs there.
 */
#include "vmprobe.h"

#include "bytecode.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = -1 };
static _Atomic long prototype_offset = UNKNOWN, array_offset = UNKNOWN, wanted_offset = UNKNOWN;

static const char samples[] = "local function a(x) return function() return x end end\n"
                              "local function b(x) return function() return x + 1 end end\n"
                              "return a(1), a(2), b(1), b(2), a({}), b({})";

/* The four closures are at the top of the stack, those of one prototype 0, 1, 4 and 2, 3, 5. */
static int tells_prototypes_apart(lua_State *L, int first, size_t offset) {
  const void *seen[6];
  for (int i = 0; i < 6; i++)
    seen[i] = weft_prototype_of(L, first + i, offset);
  return seen[0] && seen[0] == seen[1] && seen[0] == seen[4] && seen[2] && seen[2] == seen[3] &&
         seen[2] == seen[5] && seen[0] != seen[2];
}

/* A closure with one captured variable is at least 40 bytes long in both VMs. */
static size_t probe_prototype(lua_State *L) {
  int top = lua_gettop(L);
  size_t found = 0;
  if (luaL_loadstring(L, samples) == 0 && lua_pcall(L, 0, 6, 0) == 0)
    for (size_t offset = 16; offset < 40 && !found; offset += sizeof(void *))
      if (tells_prototypes_apart(L, top + 1, offset))
        found = offset;
  lua_settop(L, top);
  return found && weft_bytecode_selftest(L) ? found : 0;
}

static int is_portable_wished(void) {
  const char *wish = getenv("WEFT_SHIP");
  return wish && strcmp(wish, "portable") == 0;
}

/* Probes once for the process. */
static size_t probe_once(_Atomic long *known, size_t (*probe)(lua_State *), lua_State *L) {
  long offset = atomic_load(known);
  if (is_portable_wished())
    return 0;
  if (offset == UNKNOWN) {
    offset = (long)probe(L);
    atomic_store(known, offset);
  }
  return (size_t)offset;
}

size_t weft_probe_prototype(lua_State *L) {
  return probe_once(&prototype_offset, probe_prototype, L);
}

/* Tables whose array parts were made in these sizes, and one that has none, all agree. */
static size_t probe_array_size(lua_State *L) {
  static const uint32_t sizes[] = {37, 101, 4096, 0};
  int top = lua_gettop(L);
  size_t found = 0;
  for (int i = 0; i < 4; i++)
    lua_createtable(L, (int)sizes[i], i);
  for (size_t offset = 8; offset + 4 <= 56 && !found; offset += 4) {
    int agree = 1;
    for (int i = 0; i < 4 && agree; i++) {
      uint32_t seen;
      memcpy(&seen, (const char *)lua_topointer(L, top + 1 + i) + offset, sizeof seen);
      agree = seen == (sizes[i] ? sizes[i] + !WEFT_LUA54 : 0);
    }
    found = agree ? offset : 0;
  }
  lua_settop(L, top);
  return found;
}

size_t weft_probe_array_size(lua_State *L) {
  return probe_once(&array_offset, probe_array_size, L);
}

#if WEFT_LUA54

/* In the record of a call: behind its five pointers, within its 64 bytes. */
enum { FIRST_WANTED = 40, END_WANTED = 64 };

/* Upvalue 1: the offsets that agreed so far, a bit each; 2: how many results this call is to want.
 */
static int look_for_wanted(lua_State *L) {
  uint32_t *agreed = lua_touserdata(L, lua_upvalueindex(1));
  int wanted = (int)lua_tointeger(L, lua_upvalueindex(2));
  for (size_t offset = FIRST_WANTED; offset < END_WANTED; offset += sizeof(short))
    if (weft_results_wanted(L, offset) != wanted)
      *agreed &= ~(1u << (offset - FIRST_WANTED) / sizeof(short));
  return 0;
}

static size_t probe_wanted(lua_State *L) {
  static const int wanted[] = {0, 1, 2, 7, LUA_MULTRET};
  static const char code[] =
      "local none, one, two = ... none() local _ = one() local _, _ = two() none()";
  uint32_t agreed = UINT32_MAX;
  int top = lua_gettop(L);
  if (luaL_loadstring(L, code) != 0)
    return lua_settop(L, top), 0;
  for (int i = 0; i < 5; i++) {
    lua_pushlightuserdata(L, &agreed);
    lua_pushinteger(L, wanted[i]);
    lua_pushcclosure(L, look_for_wanted, 2);
    lua_pushvalue(L, -1);
    lua_call(L, 0, wanted[i]);
    lua_settop(L, top + 2 + i);
  }
  lua_settop(L, top + 4);
  int ok = lua_pcall(L, 3, 0, 0) == 0;
  lua_settop(L, top);
  for (size_t offset = FIRST_WANTED; ok && offset < END_WANTED; offset += sizeof(short))
    if (agreed & 1u << (offset - FIRST_WANTED) / sizeof(short))
      return offset;
  return 0;
}

#else

static size_t probe_wanted(lua_State *L) {
  (void)L;
  return 0;
}

#endif

size_t weft_probe_wanted(lua_State *L) {
  return probe_once(&wanted_offset, probe_wanted, L);
}
