/* objects.h: the userdata of the binding: who opens which class, and shared checks.
 *
 * What takes L runs on its thread and may raise. Nothing blocks but weft_sleep_last.
 */
#ifndef WEFT_LUA_OBJECTS_H
#define WEFT_LUA_OBJECTS_H

#include "compat.h"
#include "handle.h"
#include "value.h"
#include "weft.h"

struct weft_state;

/* Each adds its functions to the module table on top of the stack and registers its class. */
void weft_open_context(struct weft_state *state, lua_State *L);
void weft_open_pool(struct weft_state *state, lua_State *L);
void weft_open_group(struct weft_state *state, lua_State *L);
void weft_open_shared(struct weft_state *state, lua_State *L);
void weft_open_dict(struct weft_state *state, lua_State *L);
void weft_open_singleflight(struct weft_state *state, lua_State *L);
void weft_open_select(struct weft_state *state, lua_State *L);
void weft_open_ticker(struct weft_state *state, lua_State *L);
void weft_open_time(struct weft_state *state, lua_State *L);
void weft_open_sse(struct weft_state *state, lua_State *L);
void weft_open_http(struct weft_state *state, lua_State *L);
void weft_open_http_stream(struct weft_state *state, lua_State *L);
void weft_open_channel(struct weft_state *state, lua_State *L);
void weft_open_sync(struct weft_state *state, lua_State *L);
void weft_open_tasks(struct weft_state *state, lua_State *L);
void weft_open_ledger(struct weft_state *state, lua_State *L);
void weft_open_trace(struct weft_state *state, lua_State *L);
void weft_open_metrics(struct weft_state *state, lua_State *L);
void weft_open_virtual_clock(struct weft_state *state, lua_State *L);
void weft_open_limiter(struct weft_state *state, lua_State *L);
void weft_open_budget(struct weft_state *state, lua_State *L);
void weft_open_health(struct weft_state *state, lua_State *L);

/* The context at `index`, borrowed; raises unless it is one. Nil gives the current one, for `own` a
 * context of the task's own. */
weft_context *weft_check_context(struct weft_state *state, lua_State *L, int index,
                                 const char *what, int own);
/* The handle at `index`, borrowed, when its type is `type`; else NULL. */
weft_handle *weft_to_handle(lua_State *L, int index, const weft_handle_type *type);
/* The same, but raises "bad argument". */
weft_handle *weft_check_handle(lua_State *L, int index, const weft_handle_type *type,
                               const char *what, const char *name);
/* The userdata at `index`, of the class that weft_new_class made under this name; raises "bad
 * argument 'self'". */
void *weft_check_class(lua_State *L, int index, const char *class_name, const char *what);
/* Pushes what a receive that ended with `rc` returns: the value of the slot, which is empty
 * afterwards even when this raises, and true; or nil and false. */
int weft_push_received(lua_State *L, weft_parcel *slot, int rc);
/* __gc of every handle class. */
int weft_object_gc(lua_State *L);
int weft_object_tostring(lua_State *L);
/* The process's pool of one thread a processor; borrowed. NULL: no memory. Any thread. */
weft_pool *weft_default_pool(void);
/* Settings of the default pool. 0, and nothing changed: it has threads already. As a fallback they
 * give way to what was set before. Any thread. */
int weft_default_pool_setup(uint32_t threads, int nice, int is_fallback);

/* weft.sleep that ends after everything else that is due at the same moment. For a blocking
 * function. */
int weft_sleep_last(lua_State *L, double seconds);

#endif
