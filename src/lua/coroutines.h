/* coroutines.h: coroutines that a task makes itself may block, too. */
#ifndef WEFT_LUA_COROUTINES_H
#define WEFT_LUA_COROUTINES_H

#include "compat.h"

struct weft_state;

/* Replaces coroutine.resume and coroutine.wrap in a worker's state, where the VM allows. May raise.
 */
void weft_open_coroutines(struct weft_state *state, lua_State *L);

#endif
