/* http.h: what the parts of HTTP's binding share. On the state's thread; may raise "not enough
 * memory". */
#ifndef WEFT_LUA_HTTP_H
#define WEFT_LUA_HTTP_H

#include "../core/http.h"

#include "compat.h"

struct weft_state;

/* ---- http.c ---- */

/* By lower-case names, of the text of all headers. */
void weft_push_http_headers(lua_State *L, weft_http_text head);
void weft_push_http_timings(lua_State *L, const weft_http_times *times);
/* Why a finished transfer failed. */
void weft_push_http_error(struct weft_state *state, lua_State *L, weft_http_transfer *transfer);

/* ---- http_stream.c ---- */

/* Pushes the userdata that reads the answer of a transfer whose headers are there. It takes the
 * reference over, NULLs it, and ends with the caller's context. */
void weft_push_http_stream(struct weft_state *state, lua_State *L, weft_http_transfer **transfer);

#endif
