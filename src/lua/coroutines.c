/* coroutines.c: from a task's coroutine inward, through those that it made itself.
 *
 * Owns nothing. Entered by the state's thread. Invariant: a task's yield leaves a coroutine only
 * when everything between it and the task's own coroutine passes it on, and what the task waits in
 * is not resumed by anybody else.
 */
#include "coroutines.h"

#include "state.h"

int weft_coroutine_has_inside(lua_State *co, lua_State *inner) {
  while (co && co != inner)
    co = weft_coroutine_inside(co);
  return co != NULL;
}

/* Where the yield would stop: the coroutine that cannot pass it on, L when all can, or NULL when
 * L was not reached. */
static lua_State *find_stop(lua_State *outermost, lua_State *L) {
  lua_State *co = outermost;
  while (co && co != L && lua_isyieldable(co))
    co = weft_coroutine_inside(co);
  return co;
}

int weft_coroutine_passes(lua_State *outermost, lua_State *L) {
  return find_stop(outermost, L) == L;
}

void weft_coroutine_check(lua_State *outermost, lua_State *L, const char *what) {
  lua_State *stop = find_stop(outermost, L);
  if (stop && stop != L)
    weft_raise_in_c_call(L, stop, what);
  if (!stop)
    luaL_error(
        L,
        "%s would block inside a coroutine that was resumed past weft: by a C library, or by "
        "a copy of coroutine.resume or coroutine.wrap from before weft was loaded; require "
        "weft before such copies are made",
        what);
}

typedef struct search {
  lua_State *co;
  weft_fiber *stranger; /* is about to resume it, or NULL */
  weft_fiber *found;
} search;

static void look_inside(weft_fiber *fiber, void *arg) {
  search *self = arg;
  if (!self->found && fiber != self->stranger && weft_coroutine_has_inside(fiber->co, self->co))
    self->found = fiber;
}

int weft_coroutine_refuse(weft_state *state, lua_State *L, lua_State *co, const char *verb) {
  search search = {co, state->scheduler.current, NULL};
  weft_scheduler_each(&state->scheduler, look_inside, &search);
  weft_fiber *fiber = search.found;
  if (!fiber)
    return 0;
  const char *name = fiber->task->name;
  lua_pushfstring(L, "cannot %s coroutine: it %s%s for task %d%s%s%s", verb,
                  fiber->state == WEFT_FIBER_PARKED ? "waits in " : "works",
                  fiber->state == WEFT_FIBER_PARKED ? fiber->park.op->what : "",
                  (int)fiber->task->index, name ? " '" : "", name ? name : "", name ? "'" : "");
  return 1;
}
