/* metrics.h: the numbers of the whole process for weft.stats(). */
#ifndef WEFT_LUA_METRICS_H
#define WEFT_LUA_METRICS_H

#include "compat.h"

struct weft_state;

/* Adds them to the table on top of L. On the state's thread. */
void weft_add_stats(struct weft_state *state, lua_State *L);

#endif
