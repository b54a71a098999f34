/* prototype.h: the fast way of shipping: knows a function's prototype by its address. */
#ifndef WEFT_LUA_PROTOTYPE_H
#define WEFT_LUA_PROTOTYPE_H

#include "compat.h"

/* Where a closure keeps the address of its prototype, in bytes from lua_topointer; 0 when the probe
 * cannot tell, or when splicing does not prove itself on this VM: then the portable way is used. */
size_t weft_prototype_offset(lua_State *L);

static inline const void *weft_prototype_of(lua_State *L, int index, size_t offset) {
  const char *closure = lua_topointer(L, index);
  return *(const void *const *)(closure + offset);
}

#endif
