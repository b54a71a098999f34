/* vmprobe.c: finds out whether the fast ways work on this very VM.
 *
 * Owns the cached answers for the process. Entered by the thread of each state that is opened.
 * Invariant: a prototype's offset is used only when closures of one prototype agree there, closures of
 * different prototypes differ, and spliced functions behave as their originals; that of the array size
 * only when tables of different sizes all show theirs there.
 */
#include "vmprobe.h"

#include "bytecode.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = -1 };
static _Atomic long prototype_offset = UNKNOWN, array_offset = UNKNOWN;

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

size_t weft_probe_prototype(lua_State *L) {
  long offset = atomic_load(&prototype_offset);
  if (is_portable_wished())
    return 0;
  if (offset == UNKNOWN) {
    offset = (long)probe_prototype(L);
    atomic_store(&prototype_offset, offset);
  }
  return (size_t)offset;
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
  long offset = atomic_load(&array_offset);
  if (is_portable_wished())
    return 0;
  if (offset == UNKNOWN) {
    offset = (long)probe_array_size(L);
    atomic_store(&array_offset, offset);
  }
  return (size_t)offset;
}
