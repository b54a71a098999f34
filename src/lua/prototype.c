/* prototype.c: finds out whether the fast way works on this very VM.
 *
 * Owns one cached answer for the process. Entered by the thread of each state that is opened.
 * Invariant: the offset is used only when closures of one prototype agree there, closures of different
 * prototypes differ, and spliced functions behave as their originals.
 */
#include "prototype.h"

#include "bytecode.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = -1 };
static _Atomic long proven_offset = UNKNOWN;

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
static size_t probe(lua_State *L) {
  int top = lua_gettop(L);
  size_t found = 0;
  if (luaL_loadstring(L, samples) == 0 && lua_pcall(L, 0, 6, 0) == 0)
    for (size_t offset = 16; offset < 40 && !found; offset += sizeof(void *))
      if (tells_prototypes_apart(L, top + 1, offset))
        found = offset;
  lua_settop(L, top);
  return found && weft_bytecode_selftest(L) ? found : 0;
}

size_t weft_prototype_offset(lua_State *L) {
  const char *wish = getenv("WEFT_SHIP");
  if (wish && strcmp(wish, "portable") == 0)
    return 0;
  long offset = atomic_load(&proven_offset);
  if (offset == UNKNOWN) {
    offset = (long)probe(L);
    atomic_store(&proven_offset, offset);
  }
  return (size_t)offset;
}
