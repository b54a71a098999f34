/* guest.h: callers that come from an event loop which is not ours, such as handlers in nginx.
 *
 * There is no main party in such a state: each coroutine that blocks is a guest of the scheduler, a
 * party of its own. Its C function returns a token and the guest's number to its shim, which waits
 * in the loop's own way (lua/weft/ngx.lua) and then calls weft_guest_continue. Guests work for
 * requests: each has a context, made when first asked for, that is done when the request is gone.
 *
 * Everything here belongs to the state's thread, and never waits for another one, but as long as
 * that needs from a claim to its push.
 */
#ifndef WEFT_LUA_GUEST_H
#define WEFT_LUA_GUEST_H

#include "scheduler.h"

typedef struct weft_guests weft_guests;
typedef struct weft_guest weft_guest;

/* What only the event loop knows. */
typedef struct weft_guest_loop {
  /* What the caller of L works for, by address; NULL: it only prepares the process. */
  void *(*request_of)(lua_State *L);
  /* Has ended(arg) called once, when the request goes: 1, or 0 when it cannot. May raise. */
  int (*watch_end)(lua_State *L, void *request, void (*ended)(void *arg), void *arg);
  /* The address of the table that the loop keeps for the request; NULL when there is none. */
  const void *(*table_of)(lua_State *L);
  /* Why the caller of L, who cannot yield, cannot wait: pushes nil and an error and returns 2, or
   * raises. */
  int (*turn_away)(lua_State *L, const weft_park_op *op);
} weft_guest_loop;

/* A scheduler of guests, whose inbox is made in the process that first waits. NULL: no memory. */
weft_guests *weft_guests_new(const weft_guest_loop *loop);
/* Abandons all parks. Requests that are still there end without effect. */
void weft_guests_free(weft_scheduler *scheduler);

/* ---- for blocking calls ---- */

/* Before a call prepares a park. Raises "not enough memory". */
void weft_guests_ready(weft_scheduler *scheduler, lua_State *L);
/* The guest that the next park is of; it is taken when that waits. */
weft_fiber *weft_guests_next(weft_scheduler *scheduler);
weft_parcel *weft_guests_slot(weft_scheduler *scheduler);
/* Ends the C function of a call that has been parked: what it returns. */
int weft_guest_wait(struct weft_state *state, lua_State *L, weft_park *park);
void weft_guest_wake(weft_wait *wait); /* [any thread] */
void weft_guest_unparked(weft_fiber *fiber);
void weft_guests_abandon(weft_scheduler *scheduler, const void *object);
/* The table of the request that L works for, which is the loop's own; else NULL. */
const void *weft_guests_table(weft_scheduler *scheduler, lua_State *L);
/* 0: in the process that L runs in no thread is started. */
int weft_guests_may_start(weft_scheduler *scheduler, lua_State *L);
/* The context of the request that L works for, else the background; borrowed. */
weft_context *weft_guests_context(weft_scheduler *scheduler, lua_State *L);

/* ---- tasks of weft.inline: guest_task.c ---- */

/* A task's way into the loop: a userdata. */
typedef struct weft_guest_task {
  weft_scheduler *scheduler;
  weft_task *task;    /* owned until it ends; NULL: before and after */
  int count;          /* of the function and its arguments, the context among them */
  uint8_t is_counted; /* the group knows of it */
  struct weft_guest_task *next, **link; /* of the request's; link NULL: in no list */
} weft_guest_task;

/* What group:go returns first when its shim has to start the coroutine of the second, and to return
 * the third. */
extern const char weft_spawn_token;
/* Pushes one for the function at stack index `function` and `count` - 1 arguments behind it. */
weft_guest_task *weft_guest_task_new(struct weft_state *state, lua_State *L, int function,
                                     int count);
/* Gives it the task; it is on top of L. Raises without memory; the task is its own even then. */
void weft_guest_task_adopt(weft_guest_task *self, lua_State *L, weft_task *task);
/* Ends the task as cancelled unless it has ended. */
void weft_guest_task_lose(weft_guest_task *self);
/* From now on the task is lost when the request of L goes. */
void weft_guests_link_task(weft_guest_task *self, lua_State *L);
void weft_guests_unlink_task(weft_guest_task *self);
/* Adds functions to the host's table on top of the stack. */
void weft_open_guest_tasks(struct weft_state *state, lua_State *L);

/* ---- for the shims, and for who serves the loop ---- */

/* LuaJIT: called as finish(first argument, number) once the guest was taken from the woken. */
int weft_guest_continue(lua_State *L);
/* Delivers what has come. The number of a guest that was woken since, or 0. */
uint32_t weft_guests_take(weft_scheduler *scheduler);
/* Ends the park of a guest that will not go on: 1; or 0, it has been woken and shall go on. */
int weft_guest_withdraw(weft_scheduler *scheduler, uint32_t number);
/* For one that was woken and whose coroutine is gone. */
void weft_guest_drop(weft_scheduler *scheduler, uint32_t number);
/* Those that are parked; `co` is the coroutine that waits. */
void weft_guests_each(weft_scheduler *scheduler, void (*visit)(weft_fiber *, void *arg), void *arg);
/* How many are parked, or woken and have not gone on. */
uint32_t weft_guests_waiting(weft_scheduler *scheduler);
/* From now on the inbox is also unparked when the last of them has gone. */
void weft_guests_end_when_idle(weft_scheduler *scheduler);
int weft_guests_shall_end(weft_scheduler *scheduler);
/* Cancels the context of every request. */
void weft_guests_cancel_requests(weft_scheduler *scheduler, weft_error *cause);
/* Until the next leave, L runs under `context` (retained): for as long as the function lasts that
 * has called the C function which runs. 0: no memory, or L works for no request. */
int weft_guests_enter(weft_scheduler *scheduler, lua_State *L, weft_context *context);
void weft_guests_leave(weft_scheduler *scheduler, lua_State *L);

#endif
