/* local.h: the end of a task of weft.inline: its values never leave the state. On the state's
 * thread; may raise "not enough memory". */
#ifndef WEFT_LUA_LOCAL_H
#define WEFT_LUA_LOCAL_H

#include "scheduler.h"

/* The results are the top `count` values of L, which it pops. */
void weft_local_succeeded(struct weft_state *state, lua_State *L, weft_fiber *fiber, int count);
/* The error table is on top of L, which it leaves. */
void weft_local_failed(struct weft_state *state, lua_State *L, weft_fiber *fiber);

#endif
