/* group_go.c: starting tasks.
 *
 * Owns the slots' growth, and what is counted in ahead with the core group. Entered by the thread
 * of the state that made the group. Invariant: what can raise comes before the task counts.
 */
#include "group_body.h"
#include "../core/channel.h"
#include "../core/waitgroup.h"

#include "errors.h"
#include "guest.h"
#include "mem.h"
#include "objects.h"
#include "pool.h"
#include "vmprobe.h"

#include <stdio.h>
#include <string.h>

enum { DRAIN_EVERY = 64, CREDIT = 64 };

/* Where the arguments of a go are. */
typedef struct call {
  int function, name;    /* stack indices; name 0: none */
  weft_handle *notified; /* of the task's end, borrowed; NULL: nobody */
} call;

/* When the older half of the tasks is forgotten, their room serves those to come. */
static int reuse_slots(weft_group_body *group) {
  uint32_t used = group->count - group->base, gone = 0;
  uint32_t handed_out = group->completed - group->order_base;
  while (gone < used && weft_slot_is_ended(group->slots[gone]) &&
         (uintptr_t)group->slots[gone] & WEFT_SLOT_FORGOTTEN)
    gone++;
  if (gone < group->capacity / 2 || handed_out < group->capacity / 2)
    return 0;
  memmove(group->slots, group->slots + gone, (used - gone) * sizeof *group->slots);
  memmove(group->order, group->order + handed_out,
          (group->drained - group->completed) * sizeof *group->order);
  group->base += gone;
  group->order_base = group->completed;
  return 1;
}

static int grow_slots(weft_group_body *group) {
  if (group->capacity && reuse_slots(group))
    return 1;
  uint32_t capacity = group->capacity ? group->capacity * 2 : 16;
  weft_task **slots = weft_realloc(group->slots, capacity * sizeof *slots);
  if (slots)
    group->slots = slots;
  uint32_t *order = weft_realloc(group->order, capacity * sizeof *order);
  if (order)
    group->order = order;
  if (slots && order)
    group->capacity = capacity;
  return slots && order;
}

/* Room for one more slot. To be made sure of after everything that may run finalizers, since those
 * may start tasks, too. */
static int has_slot(weft_group_body *group) {
  return group->count - group->base < group->capacity || grow_slots(group);
}

static weft_task *new_task(weft_group_body *group, lua_State *L, int name_index) {
  weft_task *task = weft_task_take(&group->state->free_tasks, group->core);
  if (!task)
    luaL_error(L, "not enough memory");
  if (name_index) {
    size_t size;
    const char *name = lua_tolstring(L, name_index, &size);
    task->name = weft_strndup(name, size);
    if (!task->name) {
      weft_task_free(task);
      luaL_error(L, "not enough memory");
    }
  }
  return task;
}

/* Groups with a limit, or that somebody waits for already, count exactly; the others in steps,
 * since workers count down the same word. */
static void count_in(weft_group_body *group, weft_task *task) {
  task->index = ++group->count;
  *weft_slot_of(group, task->index) = task;
  if (group->credit == 0) {
    int is_exact = group->core->limit || group->is_local || weft_group_has_waiters(group->core);
    group->credit = is_exact ? 1 : CREDIT;
    weft_group_add(group->core, group->credit);
  }
  group->credit--;
}

static void count_out(weft_group_body *group, weft_task *task) {
  group->credit++;
  group->count--;
  weft_task_free(task);
}

/* Before anybody waits for the group, or leaves it. */
void weft_group_settle(weft_group_body *group) {
  weft_group_unadd(group->core, group->credit);
  group->credit = 0;
}

/* A task with function and arguments packed. */
static weft_task *pack_task(weft_group_body *group, lua_State *L, const call *call, int count) {
  weft_state *state = group->state;
  weft_task *task = new_task(group, L, call->name);
  if (weft_encode_task(state, L, call->function, count, &group->keeper, &task->parcel))
    return task;
  weft_task_give(&state->free_tasks, task);
  weft_encode(state, L, call->function, count, "argument", &group->keeper);
  task = new_task(group, L, call->name);
  if (weft_parcel_finish(&state->writer, &task->parcel) != WEFT_BUF_OK) {
    weft_task_give(&state->free_tasks, task);
    luaL_error(L, "not enough memory");
  }
  task->parcel.count = (uint32_t)count;
  return task;
}

/* The last that may fail before the task counts: a WEFT_ code, and it is freed unless that is
 * WEFT_OK. */
static int admit(weft_group_body *group, weft_task *task, const call *call) {
  int rc = has_slot(group) ? WEFT_OK : WEFT_NOMEM;
  if (rc == WEFT_OK && call->notified)
    rc = weft_task_notify(task, call->notified);
  if (rc != WEFT_OK)
    weft_task_free(task);
  return rc;
}

static int raise_not_admitted(lua_State *L, int rc) {
  return luaL_error(L, rc == WEFT_NOMEM ? "not enough memory"
                                        : "waitgroup:go: the count would be too large");
}

/* A WEFT_ code. */
static int submit(weft_group_body *group, lua_State *L, const call *call, int count) {
  weft_task *task = pack_task(group, L, call, count);
  int rc = admit(group, task, call);
  if (rc != WEFT_OK)
    return raise_not_admitted(L, rc);
  count_in(group, task);
  rc = weft_pool_submit(group->core->pool, task);
  if (rc != WEFT_OK) {
    weft_task_unnotify(task);
    count_out(group, task);
  }
  return rc;
}

/* What can raise comes before the task counts. */
static int start_local(weft_group_body *group, lua_State *L, const call *call, int count) {
  if (count >= UINT16_MAX - 8) /* see start_args */
    return luaL_error(L, "group:go: too many arguments");
  weft_task *task = new_task(group, L, call->name);
  weft_context *own = weft_task_own_context(task);
  if (!own || !lua_checkstack(L, count + 8)) {
    weft_task_give(&group->state->free_tasks, task);
    return luaL_error(L, "not enough memory");
  }
  task->kind = WEFT_KIND_LOCAL;
  lua_pushvalue(L, call->function);
  weft_push_handle(group->state, L, &own->handle);
  for (int i = 1; i < count; i++)
    lua_pushvalue(L, call->function + i);
  weft_fiber *fiber = weft_scheduler_reserve(&group->state->scheduler, L, count + 1);
  int rc = admit(group, task, call);
  if (rc != WEFT_OK) {
    weft_scheduler_unreserve(&group->state->scheduler, fiber);
    return raise_not_admitted(L, rc);
  }
  count_in(group, task);
  weft_scheduler_start_local(&group->state->scheduler, L, fiber, task, count + 1);
  return WEFT_OK;
}

/* In an event loop: pushes what tells the shim of go to start a coroutine there. */
static int start_guest(weft_group_body *group, lua_State *L, const call *call, int count) {
  if (!lua_isyieldable(L))
    return weft_fail(group->state, L, "phase",
                     "group:go: weft.inline starts light threads, which nginx cannot do here");
  lua_pushlightuserdata(L, (void *)&weft_spawn_token);
  weft_guest_task *starter = weft_guest_task_new(group->state, L, call->function, count);
  weft_task *task = new_task(group, L, call->name);
  weft_guest_task_adopt(starter, L, task);
  task->kind = WEFT_KIND_LOCAL;
  starter->task = NULL; /* freed by the next, should that raise */
  int rc = admit(group, task, call);
  if (rc != WEFT_OK)
    return raise_not_admitted(L, rc);
  starter->task = task;
  count_in(group, task);
  starter->is_counted = 1;
  weft_guests_link_task(starter, L);
  weft_push_task(group->state, L, group->count);
  return 3;
}

/* What was not started for its context's sake has failed with it: wait says so, though nobody
 * looked at what go returned. The error is on top of the stack. */
static void note_refusal(weft_group_body *group, lua_State *L) {
  weft_error *error = weft_to_core_error(group->state, L, lua_gettop(L));
  weft_group_fail(group->core, error);
  weft_error_release(error);
}

/* 1 and nil, cause on the stack when the context is done. */
static int is_refused(weft_group_body *group, lua_State *L) {
  if (group->state->scheduler.guests && !weft_guests_may_start(&group->state->scheduler, L)) {
    weft_fail(group->state, L, "phase",
              "group:go: tasks are started in the workers of nginx, not in the phase 'init'");
    return 1;
  }
  if (!weft_context_done(group->core->context))
    return 0;
  weft_error *error = weft_context_error(group->core->context);
  weft_error *cause = weft_context_cause(group->core->context);
  lua_pushnil(L);
  weft_push_context_error(group->state, L, error, cause);
  weft_error_release(error);
  weft_error_release(cause);
  note_refusal(group, L);
  return 1;
}

/* [name,] fn from stack index `first` on. */
static call check_call(lua_State *L, const char *what, int first) {
  call call = {.function = first};
  int type = lua_type(L, first);
  if (type == LUA_TFUNCTION)
    return call;
  if (type == LUA_TSTRING)
    call.name = call.function++;
  if (!call.name || !lua_isfunction(L, call.function))
    weft_bad_argument(L, what, call.name ? "fn" : "fn or name", "a function", call.function);
  return call;
}

/* Starts the task: pushes results and returns how many, or WEFT_WOULD_WAIT with the stack as it
 * was. */
static int try_start(weft_group_body *group, lua_State *L, const call *call) {
  int top = lua_gettop(L), count = top - call->function + 1;
  if ((group->count & (DRAIN_EVERY - 1)) == 0)
    weft_group_drain(group, L, 1);
  if (is_refused(group, L))
    return 2;
  uint32_t limit = group->core->limit;
  if (limit && weft_group_running(group->core) - group->credit >= limit)
    return WEFT_WOULD_WAIT;
  if (group->is_local && group->state->scheduler.guests)
    return start_guest(group, L, call, count);
  int rc = group->is_local ? start_local(group, L, call, count) : submit(group, L, call, count);
  if (rc == WEFT_WOULD_WAIT) {
    lua_settop(L, top);
    return rc;
  }
  if (rc != WEFT_OK)
    return weft_fail(group->state, L, rc == WEFT_CLOSED ? "closed" : "thread",
                     "the task could not be started: %s",
                     rc == WEFT_CLOSED ? "the pool is closed" : weft_strerror(rc));
  if (weft_is_result_dropped(L, group->state->ship.wanted_offset))
    return 0; /* nobody will see a task object */
  weft_push_task(group->state, L, group->count);
  return 1;
}

static int go(lua_State *L);
static int go_notifying(lua_State *L);

static int finish_go(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  weft_context *context = weft_current_context(state, L, 0);
  (void)park;
  if (source == WEFT_PARK_CANCELED && weft_context_done(context))
    return weft_raise_context(state, L, context);
  return WEFT_AGAIN; /* there is room, or the group itself was cancelled, which go reports */
}

static void leave_go(weft_park *park) {
  weft_group *group = park->object;
  if (park->waiter.slot == group)
    weft_group_unwait(group, &park->waiter);
  else
    weft_pool_unwait_room(group->pool, &park->waiter);
}

static void describe_go(const weft_park *park, char *text, size_t size) {
  weft_group *group = park->object;
  if (park->waiter.slot == group)
    snprintf(text, size, "the limit of %u tasks is reached", group->limit);
  else
    snprintf(text, size, "the queue of pool '%s' is full", group->pool->name);
}

static const weft_park_op go_op = {"group:go", finish_go, go, leave_go, NULL, 0, describe_go};

static const weft_park_op go_notifying_op = {"group:go", finish_go, go_notifying, leave_go,
                                             NULL,       0,         describe_go};

/* Waits for room, in the group or in the pool's queue. */
static int wait_for_room(weft_group_body *group, lua_State *L, const weft_park_op *op) {
  weft_group *core = group->core;
  weft_park *park = weft_park_begin(group->state, L, op, core);
  weft_group_settle(group);
  int is_limit = core->limit && weft_group_running(core) >= core->limit, must_wait;
  park->waiter.slot = is_limit ? (void *)core : NULL;
  if (is_limit)
    must_wait = weft_group_wait_below(core, core->limit, &park->waiter);
  else
    must_wait = core->pool && weft_pool_wait_room(core->pool, &park->waiter);
  return must_wait ? weft_park_wait(group->state, L, park, core->context) : WEFT_AGAIN;
}

static int start(weft_group_body *group, lua_State *L, const call *call, const weft_park_op *op) {
  int rc;
  do {
    rc = try_start(group, L, call);
    if (rc == WEFT_WOULD_WAIT)
      rc = wait_for_room(group, L, op);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** Starts a task. Waits while the group's limit is reached or the pool's queue is full.
 * @function group:go
 * @tparam[opt] string name shown in errors and dumps
 * @tparam function fn called as fn(ctx, ...) on a native thread, with copies of what it captures
 * @param ... arguments, copied
 * @treturn[1] task
 * @treturn[2] nil once the group is cancelled, which wait then reports too; or when no thread can
 * be started
 * @treturn[2] error the cause
 * @raise what cannot be sent, with its path; a captured variable that the task assigns
 */
static int go(lua_State *L) {
  weft_group_body *group = weft_check_open_group(L, "group:go");
  call call = check_call(L, "group:go", 2);
  return start(group, L, &call, &go_op);
}

/*** The same, for a task whose end, however it comes, is told to a waitgroup, which counts it in,
 * or to a channel, which is closed then.
 * @function group:_go_notifying
 * @local
 * @param handle the waitgroup or channel
 * @tparam[opt] string name
 * @tparam function fn
 * @param ...
 */
static int go_notifying(lua_State *L) {
  weft_group_body *group = weft_check_open_group(L, "group:go");
  call call = check_call(L, "group:go", 3);
  call.notified = weft_to_handle(L, 2, &weft_waitgroup_type);
  if (!call.notified)
    call.notified = weft_check_handle(L, 2, &weft_channel_type, "group:go", "handle");
  return start(group, L, &call, &go_notifying_op);
}

/*** Starts a task unless that would wait (Go: errgroup.TryGo).
 * @function group:try_go
 * @tparam[opt] string name
 * @tparam function fn
 * @param ...
 * @return a task; false when it would wait; nil and an error as @{group:go}
 */
static int try_go(lua_State *L) {
  weft_group_body *group = weft_check_open_group(L, "group:try_go");
  call call = check_call(L, "group:try_go", 2);
  int rc = try_start(group, L, &call);
  if (rc != WEFT_WOULD_WAIT)
    return rc;
  lua_pushboolean(L, 0);
  return 1;
}

void weft_add_go_methods(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"go", go, WEFT_BLOCKS_VARIADIC},
                                          {"_go_notifying", go_notifying, WEFT_BLOCKS_VARIADIC},
                                          {"try_go", try_go, WEFT_BLOCKS_VARIADIC},
                                          {NULL, NULL, 0}};
  weft_add_methods(L, state, methods);
}
