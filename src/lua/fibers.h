/* fibers.h: what the parts of a scheduler share.
 *
 * scheduler.c has the fibers and runs them; fiber_base.c is below what they run; wake.c has the
 * contexts that they are parked under, and their wakes; park.c blocks callers. All on the state's
 * thread, but for the wake functions.
 */
#ifndef WEFT_LUA_FIBERS_H
#define WEFT_LUA_FIBERS_H

#include "scheduler.h"

enum { WEFT_FIBERS_PER_BLOCK = 64 };

typedef struct weft_fiber_block {
  struct weft_fiber_block *next;
  weft_fiber fibers[WEFT_FIBERS_PER_BLOCK];
} weft_fiber_block;

/* Queues a fiber to be resumed. */
void weft_fiber_push_ready(weft_scheduler *scheduler, weft_fiber *fiber);
/* Ends the park of a caller that will never finish it: its state closes, or its coroutine was
 * killed by somebody else. */
void weft_fiber_abandon(weft_scheduler *scheduler, weft_fiber *fiber);

/* ---- fiber_base.c ---- */

/* How many values lie below a task's function on its coroutine before it starts. */
enum { WEFT_FIBER_BASE = WEFT_LUA54 ? 2 : 0 };
/* Pushes them. */
void weft_fiber_push_base(weft_fiber *fiber);
/* Pushes the traceback of the error that its task has ended with, once; may be nil. */
void weft_fiber_take_traceback(lua_State *L, weft_fiber *fiber);
/* Pushes that of a coroutine, as luaL_traceback, without what is ours. */
void weft_push_traceback(lua_State *L, lua_State *co, int level);

/* ---- wake.c ---- */

/* Puts the fiber under the watch of the context: 0 when that is done or memory ran out. */
int weft_fiber_watch(weft_scheduler *scheduler, weft_fiber *fiber, weft_context *context);
/* Makes a parked fiber whose wait was claimed by the caller ready. */
void weft_fiber_unpark(weft_scheduler *scheduler, weft_fiber *fiber);
/* Delivers what others have woken: how much that was. */
int weft_scheduler_take_inbox(weft_scheduler *scheduler);
/* When no fiber is parked any more: waits until what is on its way to the inbox has arrived. */
void weft_scheduler_await_watches(weft_scheduler *scheduler);
/* The wake functions of a fiber's and of the main party's wait. [any thread] */
void weft_fiber_wake(weft_wait *wait);
void weft_main_wake(weft_wait *wait);

/* ---- park.c ---- */

/* What the caller does once its park has ended; returns as op->finish. */
int weft_park_finish(lua_State *L, weft_park *park);
/* Instead of finishing a park. */
void weft_park_abandon(weft_park *park);
/* Raises in L: `what` would block below a C function that the coroutine `co` runs. */
int weft_raise_in_c_call(lua_State *L, lua_State *co, const char *what);
/* Words between LuaJIT's shims and us. A blocking C function returns first that its caller is to
 * wait: a fiber, or a guest whose number is the second. Who waited goes on; the C function is to be
 * called again. */
extern const char weft_block_token, weft_continue_token, weft_again_token;

#endif
