/* sse.h: what pushes server-sent events to Lua. On the state's thread; may raise "not enough
 * memory". */
#ifndef WEFT_LUA_SSE_H
#define WEFT_LUA_SSE_H

#include "../core/sse.h"

#include "compat.h"

struct weft_state;

/* Pushes { type, data, id, retry? }. */
void weft_push_sse_event(lua_State *L, const weft_sse_event *event);
/* Pushes nil and the error for what weft_sse_next returned: 2. */
int weft_push_sse_failure(struct weft_state *state, lua_State *L, int code, size_t max_event);

#endif
