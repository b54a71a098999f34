/* vmprobe.h: facts about this very VM that the fast ways use, each proven before use.
 *
 * The probes run when a state is opened, on its thread; they look once a process and may raise "not
 * enough memory". What reads the VM's memory by an offset is for the thread of L.
 */
#ifndef WEFT_LUA_VMPROBE_H
#define WEFT_LUA_VMPROBE_H

#include "compat.h"

#include <string.h>

/* Where a closure keeps the address of its prototype, in bytes from lua_topointer; 0 when the probe
 * cannot tell, or when splicing does not prove itself on this VM: then shipping is portable. */
size_t weft_probe_prototype(lua_State *L);
/* Where a table keeps the size of its array part; 0 when the probe cannot tell. */
size_t weft_probe_array_size(lua_State *L);

/* Where the record of a running C function keeps how many results its caller wants; 0 when the
 * probe cannot tell (always on LuaJIT). */
size_t weft_probe_wanted(lua_State *L);

static inline const void *weft_prototype_of(lua_State *L, int index, size_t offset) {
  const char *closure = lua_topointer(L, index);
  return *(const void *const *)(closure + offset);
}

/* 1 when the keys 1 to n certainly lie in the array part, where a traversal meets them first and in
 * order; 0 when that is not known. */
static inline int weft_is_in_array(lua_State *L, int index, size_t offset, size_t n) {
  const char *table = lua_topointer(L, index);
  return offset && n && *(const uint32_t *)(table + offset) >= n + !WEFT_LUA54;
}

#if WEFT_LUA54
static inline int weft_results_wanted(lua_State *L, size_t offset) {
  lua_Debug self;
  short wanted;
  lua_getstack(L, 0, &self);
  memcpy(&wanted, (const char *)self.i_ci + offset, sizeof wanted);
  return wanted;
}
#endif

/* 1 when the caller of the running C function certainly drops whatever it returns. */
static inline int weft_is_result_dropped(lua_State *L, size_t offset) {
#if WEFT_LUA54
  return offset && weft_results_wanted(L, offset) == 0;
#else
  (void)L;
  (void)offset;
  return 0;
#endif
}

#endif
