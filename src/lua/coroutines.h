/* coroutines.h: a task may block inside of coroutines that it made itself: coroutine.resume and
 * coroutine.wrap pass the task's yield outward, from one coroutine to the next, up to the task's
 * own, and go on inward when the task does. On the state's thread.
 */
#ifndef WEFT_LUA_COROUTINES_H
#define WEFT_LUA_COROUTINES_H

#include "fibers.h"

struct weft_state;

/* Replaces functions of the coroutine library, when the state is opened. May raise. */
void weft_open_coroutines(struct weft_state *state, lua_State *L);

/* The coroutine that `co` resumes through our functions: it runs, or the task waits in it. NULL:
 * none, `co` itself is the innermost. */
lua_State *weft_coroutine_inside(lua_State *co);
/* 1 when `inner` is `co`, or further inside of it. */
int weft_coroutine_has_inside(lua_State *co, lua_State *inner);
/* 1 when a yield of the coroutine L, which runs, would be passed on as far as `outermost`. */
int weft_coroutine_passes(lua_State *outermost, lua_State *L);
/* Raises when it would not; `what` names the call that would yield. */
void weft_coroutine_check(lua_State *outermost, lua_State *L, const char *what);
/* Pushes why nobody but the task that `co` belongs to may resume or close it, as `verb` says: 1; or
 * 0 with nothing pushed, no task waits in it. */
int weft_coroutine_refuse(struct weft_state *state, lua_State *L, lua_State *co, const char *verb);

/* 1 for what coroutine.wrap returns. */
int weft_coroutine_is_wrapped(lua_State *L, int index);

/* yield_kind, of Lua 5.4: what a yield means to whoever has resumed the coroutine. */
enum {
  WEFT_YIELD_OWN,    /* it is the coroutine's own: for the resumer */
  WEFT_YIELD_TASK,   /* the task's: pass it on */
  WEFT_YIELD_REFUSED /* another task waits in it: an error for the resumer */
};

#if WEFT_LUA54
/* For a C function that goes on after its task's yield: 1 when `fiber`'s task does so. Else a
 * stranger has resumed the coroutine, and the C function returns weft_coroutine_reject. */
static inline int weft_coroutine_is_mine(const weft_scheduler *scheduler, const weft_fiber *fiber) {
  return scheduler->current == fiber;
}
int weft_coroutine_reject(weft_scheduler *scheduler, lua_State *L, lua_KContext context,
                          lua_KFunction go_on);
#else
/* Pushes the table of what shims call to wait: `wait`. */
void weft_push_coroutine_host(lua_State *L);
#endif

#endif
