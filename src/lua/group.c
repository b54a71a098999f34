/* group.c: errgroups in Lua: go, wait, leave.
 *
 * A group is a table: `ctx`, and under small numbers a userdata with the core group and what is Lua's:
 * results and errors. The userdata owns the core group, the list of tasks by index, and references to the
 * code that its tasks run. Entered by the thread of the state that made the group. Invariant: the slot of
 * an index is the running core task, or, once it has ended and was drained, a small number that tells how.
 */
#include "../core/group.h"
#include "../core/platform.h"

#include "errors.h"
#include "local.h"
#include "mem.h"
#include "monitor.h"
#include "objects.h"
#include "outcome.h"
#include "pool.h"
#include "state.h"

#include <string.h>

enum { KIND_POOL, KIND_LOCAL };
enum { DRAIN_EVERY = 64, CREDIT = 64 };
enum { STATUS = 7, FORGOTTEN = 8, LARGEST_STATUS = 16 }; /* of the slots of ended tasks */
/* places in the group's table */
enum { GROUP_BODY = 1, GROUP_RESULTS, GROUP_ERRORS, GROUP_PACKED, GROUP_FIELDS = GROUP_PACKED };

typedef struct lua_group {
  weft_code_keeper keeper; /* first */
  weft_state *state;
  weft_group *core;  /* NULL once it was left */
  weft_task **slots; /* by index - 1 - base; see above */
  uint32_t *order;   /* indices in the order in which tasks were drained, but for the first order_base */
  uint32_t count, capacity, drained;
  uint32_t base, order_base; /* entries that were dropped, since those tasks are forgotten */
  uint32_t base_failures;    /* how many of the dropped tasks had failed */
  uint32_t credit;        /* counted in with the core group, for tasks to come */
  uint32_t completed;     /* how many of `order` an iterator has handed out */
  struct weft_code **codes; /* retained */
  uint32_t code_count, code_capacity;
  uint8_t is_local;
} lua_group;

typedef struct lua_task { /* its uservalue is the group's table */
  uint32_t index;
} lua_task;

static const char group_class[] = "weft.group", task_class[] = "weft.task";
static const char body_key; /* of the metatable of group bodies in the registry */

/* ---- the code that the tasks run ---- */

static int keep_code(weft_code_keeper *keeper, weft_code *code) {
  lua_group *group = (lua_group *)keeper;
  for (uint32_t i = group->code_count; i-- > 0 && i + 16 >= group->code_count;)
    if (group->codes[i] == code)
      return 1;
  if (group->code_count == group->code_capacity) {
    uint32_t capacity = group->code_capacity ? group->code_capacity * 2 : 4;
    weft_code **grown = weft_realloc(group->codes, capacity * sizeof *grown);
    if (!grown)
      return 0;
    group->codes = grown;
    group->code_capacity = capacity;
  }
  weft_handle_retain(&code->handle);
  group->codes[group->code_count++] = code;
  return 1;
}

/* ---- the group's table ---- */

/* The body of the group at `index`, or NULL. No foreign userdata has this size and begins with the
 * address of our function. */
static lua_group *test_group(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE)
    return NULL;
  lua_rawgeti(L, index, GROUP_BODY);
  lua_group *group = lua_touserdata(L, -1);
  int is_ours = group && weft_rawlen(L, -1) == sizeof *group && group->keeper.keep == keep_code;
  lua_pop(L, 1);
  return is_ours ? group : NULL;
}

static lua_group *check_group(lua_State *L, const char *what) {
  lua_group *group = test_group(L, 1);
  if (!group)
    weft_bad_argument(L, what, "self", "a group (call it with ':')", 1);
  return group;
}

static lua_group *check_open_group(lua_State *L, const char *what) {
  lua_group *group = check_group(L, what);
  if (!group->core)
    luaL_error(L, "%s: the group has been left", what);
  if (group->core->process != weft_process_generation())
    luaL_error(L, "%s: the group was made before the process forked; make a new one in the child",
               what);
  return group;
}

/* ---- making one ---- */

typedef struct group_options {
  weft_pool *pool; /* borrowed */
  uint32_t limit;
  int is_local, is_collecting;
} group_options;

static void read_pool(lua_State *L, group_options *options, int index, const char *what) {
  if (lua_type(L, index) == LUA_TSTRING && strcmp(lua_tostring(L, index), "inline") == 0) {
    options->is_local = 1;
    return;
  }
  options->pool = (weft_pool *)weft_to_handle(L, index, &weft_pool_type);
  if (!options->pool)
    weft_bad_argument(L, what, "pool", "a pool or weft.inline", index);
}

static void read_option(lua_State *L, group_options *options, const char *key, const char *what) {
  int index = lua_gettop(L);
  if (strcmp(key, "limit") == 0)
    options->limit = weft_check_count(L, index, what, "limit", 1, WEFT_MAX_COUNT);
  else if (strcmp(key, "pool") == 0)
    read_pool(L, options, index, what);
  else if (strcmp(key, "collect") == 0)
    options->is_collecting = lua_toboolean(L, index);
  else
    luaL_error(L, "bad option '%s' to %s: known are limit, pool, collect", key, what);
}

static void read_options(lua_State *L, int index, group_options *options, const char *what) {
  *options = (group_options){0};
  if (lua_isnoneornil(L, index))
    return;
  if (!lua_istable(L, index))
    weft_bad_argument(L, what, "options", "a table", index);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "bad option to %s: keys are names such as limit", what);
    read_option(L, options, lua_tostring(L, -2), what);
    lua_pop(L, 1);
  }
}

/* Pushes the group's table with an empty body that is collected like any other. */
static lua_group *push_group(weft_state *state, lua_State *L) {
  lua_createtable(L, GROUP_FIELDS, 1);
  lua_group *group = lua_newuserdata(L, sizeof *group);
  *group = (lua_group){.keeper = {keep_code}, .state = state};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &body_key);
  lua_setmetatable(L, -2);
  lua_rawseti(L, -2, GROUP_BODY);
  lua_newtable(L);
  lua_rawseti(L, -2, GROUP_RESULTS);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->group_class);
  lua_setmetatable(L, -2);
  return group;
}

/*** An errgroup: tasks that run on native threads and end together (Go: errgroup.WithContext).
 * The first failure cancels the group's context, and so the other tasks. Leaving its scope cancels
 * what still runs and waits for it.
 * @function group
 * @tparam[opt] context ctx its parent; default: the running task's
 * @tparam[opt] table options `limit` tasks at once (default: no limit), `pool` or `weft.inline`
 *   (default: the pool with a thread a processor), `collect` = true: a failure does not cancel
 * @treturn group also a `<close>` value
 * @raise bad argument or unknown option
 */
static int new_group(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  group_options options;
  int has_context = weft_to_handle(L, 1, &weft_context_type) != NULL || lua_isnil(L, 1);
  if (!has_context && lua_gettop(L) >= 1 && !lua_istable(L, 1))
    weft_bad_argument(L, "weft.group", "ctx", "a weft context or a table of options", 1);
  read_options(L, has_context ? 2 : 1, &options, "weft.group");
  weft_context *parent =
      weft_check_context(state, L, has_context ? 1 : 3, "weft.group", 1);
  weft_pool *pool = options.is_local ? NULL : options.pool ? options.pool : weft_default_pool();
  lua_group *group = push_group(state, L);
  group->is_local = options.is_local;
  if (pool || options.is_local)
    group->core = weft_group_make(parent, pool, options.limit, options.is_collecting);
  if (!group->core)
    return luaL_error(L, "not enough memory");
  group->core->owner = group;
  if (group->is_local) { /* for its tasks to find, while anybody has it */
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->groups);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, group);
    lua_pop(L, 1);
  }
  weft_push_handle(state, L, &group->core->context->handle);
  lua_setfield(L, -2, "ctx");
  return 1;
}

/* ---- draining: what has ended becomes results and errors ---- */

static weft_task **slot_of(lua_group *group, uint32_t index) {
  return &group->slots[index - 1 - group->base];
}

static int is_ended(const weft_task *slot) {
  return (uintptr_t)slot < LARGEST_STATUS;
}

static int is_failure(const weft_task *slot) {
  return is_ended(slot) && ((uintptr_t)slot & STATUS) != WEFT_TASK_DONE;
}

static weft_task *status_slot(uint8_t status) {
  return (weft_task *)(uintptr_t)status; /* NULL is taken by QUEUED, which no ended task is */
}

/* Pushes one of the group's tables for writing; errors and packed results are rare and made late. */
static void push_table_of(lua_State *L, int env, int field) {
  lua_rawgeti(L, env, field);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawseti(L, env, field);
}

/* Stores the values from stack index `first` to the top as the results of task `index`; pops them. */
static void store_results(lua_State *L, int env, uint32_t index, int first) {
  int count = lua_gettop(L) - first + 1;
  if (count > 1) {
    push_table_of(L, env, GROUP_PACKED);
    lua_createtable(L, count, 1);
    for (int i = 0; i < count; i++) {
      lua_pushvalue(L, first + i);
      lua_rawseti(L, -2, i + 1);
    }
    weft_push_integer(L, count);
    lua_setfield(L, -2, "n");
    lua_rawseti(L, -2, (int)index);
  }
  if (count > 0) {
    lua_rawgeti(L, env, GROUP_RESULTS);
    lua_pushvalue(L, first);
    lua_rawseti(L, -2, (int)index);
  }
  lua_settop(L, first - 1);
}

/* Pops the error on top of L. */
static void store_error(lua_State *L, int env, uint32_t index) {
  push_table_of(L, env, GROUP_ERRORS);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (int)index);
  lua_pop(L, 2);
}

typedef struct store_request {
  weft_state *state;
  weft_task *task;
} store_request;

static int protected_store(lua_State *L) {
  store_request *request = lua_touserdata(L, 2);
  weft_task *task = request->task;
  if (task->status == WEFT_TASK_DONE) {
    weft_decode(request->state, L, &task->parcel);
    store_results(L, 1, task->index, 3);
  } else {
    weft_push_core_error(request->state, L, weft_task_error(task));
    store_error(L, 1, task->index);
  }
  return 0;
}

/* What cannot be unpacked here (a metatable that is not registered) is that task's failure. */
static void store_outcome(lua_group *group, lua_State *L, int env, weft_task *task) {
  store_request request = {group->state, task};
  lua_pushcfunction(L, protected_store);
  lua_pushvalue(L, env);
  lua_pushlightuserdata(L, &request);
  if (lua_pcall(L, 2, 0, 0) == 0)
    return;
  weft_normalize_error(group->state, L);
  weft_push_integer(L, task->index);
  lua_setfield(L, -2, "index");
  weft_error *error = weft_to_core_error(group->state, L, lua_gettop(L));
  weft_group_fail(group->core, error);
  weft_error_release(error);
  task->status = WEFT_TASK_FAILED;
  store_error(L, env, task->index);
}

/* Takes over all tasks that have ended; `env` is the stack index of the group's table. */
static void drain(lua_group *group, lua_State *L, int env) {
  weft_task *task = weft_group_take_ended(group->core);
  if (!task)
    return;
  luaL_checkstack(L, 64, "results");
  lua_rawgeti(L, env, GROUP_RESULTS);
  while (task) {
    weft_task *next = task->next;
    if (next)
      __builtin_prefetch(next);
    if (task->kind == KIND_LOCAL) {
      /* its outcome has never left the state */
    } else if (task->status == WEFT_TASK_DONE && weft_decode_plain(L, &task->parcel)) {
      lua_rawseti(L, -2, (int)task->index);
    } else {
      store_outcome(group, L, env, task);
    }
    *slot_of(group, task->index) = status_slot(task->status);
    group->order[group->drained++ - group->order_base] = task->index;
    weft_task_give(&group->state->free_tasks, task);
    task = next;
  }
  lua_pop(L, 1);
}

static void drain_group(lua_group *group, lua_State *L, int group_index) {
  if (!group->core || !atomic_load_explicit(&group->core->ended, memory_order_relaxed))
    return;
  drain(group, L, group_index);
}

/* ---- tasks of weft.inline ---- */

/* Pushes the table of the group that the fiber's task belongs to, or nil when nobody has it any more. */
static int push_group_of(weft_state *state, lua_State *L, weft_fiber *fiber) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->groups);
  lua_rawgetp(L, -1, fiber->task->group->owner);
  lua_replace(L, -2);
  return !lua_isnil(L, -1);
}

void weft_local_succeeded(weft_state *state, lua_State *L, weft_fiber *fiber, int count) {
  int first = lua_gettop(L) - count + 1;
  int has_group = push_group_of(state, L, fiber);
  lua_insert(L, first);
  if (has_group)
    store_results(L, first, fiber->task->index, first + 1);
  lua_settop(L, first - 1);
}

void weft_local_failed(weft_state *state, lua_State *L, weft_fiber *fiber) {
  int error = lua_gettop(L);
  if (push_group_of(state, L, fiber)) {
    lua_pushvalue(L, error);
    store_error(L, error + 1, fiber->task->index);
  }
  lua_settop(L, error);
}

/* ---- go ---- */

/* When the older half of the tasks is forgotten, their room serves those to come. */
static int reuse_slots(lua_group *group) {
  uint32_t used = group->count - group->base, gone = 0, failed = 0;
  uint32_t handed_out = group->completed - group->order_base;
  while (gone < used && is_ended(group->slots[gone]) && (uintptr_t)group->slots[gone] & FORGOTTEN)
    failed += (uint32_t)is_failure(group->slots[gone++]);
  if (gone < group->capacity / 2 || handed_out < group->capacity / 2)
    return 0;
  memmove(group->slots, group->slots + gone, (used - gone) * sizeof *group->slots);
  memmove(group->order, group->order + handed_out,
          (group->drained - group->completed) * sizeof *group->order);
  group->base += gone;
  group->base_failures += failed;
  group->order_base = group->completed;
  return 1;
}

static int grow_slots(lua_group *group) {
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

static weft_task *new_task(lua_group *group, lua_State *L, int name_index) {
  if (group->count - group->base == group->capacity && !grow_slots(group))
    luaL_error(L, "not enough memory");
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
  task->index = group->count + 1;
  return task;
}

static void push_task(lua_State *L, uint32_t index) {
  lua_task *task = weft_new_userdata(L, sizeof *task);
  task->index = index;
  lua_pushvalue(L, 1);
  weft_set_uservalue(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, WEFT_STATE(L)->task_class);
  lua_setmetatable(L, -2);
}

/* Groups with a limit, or that somebody waits for already, count exactly; the others in steps, since
 * workers count down the same word. */
static void count_in(lua_group *group, weft_task *task) {
  *slot_of(group, ++group->count) = task;
  if (group->credit == 0) {
    int is_exact = group->core->limit || group->is_local || weft_group_has_waiters(group->core);
    group->credit = is_exact ? 1 : CREDIT;
    weft_group_add(group->core, group->credit);
  }
  group->credit--;
}

static void count_out(lua_group *group, weft_task *task) {
  group->credit++;
  group->count--;
  weft_task_free(task);
}

/* Before anybody waits for the group, or leaves it. */
static void settle_credit(lua_group *group) {
  weft_group_unadd(group->core, group->credit);
  group->credit = 0;
}

/* Refused: nil and an error, or WEFT_WOULD_WAIT. */
static int submit(lua_group *group, lua_State *L, int function, int count, int name_index) {
  weft_state *state = group->state;
  weft_encode(state, L, function, count, "argument", &group->keeper);
  weft_task *task = new_task(group, L, name_index);
  if (weft_parcel_finish(&state->writer, &task->parcel) != WEFT_BUF_OK) {
    weft_task_free(task);
    return luaL_error(L, "not enough memory");
  }
  task->parcel.count = (uint32_t)count;
  count_in(group, task);
  int rc = weft_pool_submit(group->core->pool, task);
  if (rc != WEFT_OK)
    count_out(group, task);
  return rc;
}

/* What can raise comes before the task counts. */
static int start_local(lua_group *group, lua_State *L, int function, int count, int name_index) {
  weft_task *task = new_task(group, L, name_index);
  weft_context *own = weft_task_own_context(task);
  if (!own || !lua_checkstack(L, count + 8)) {
    weft_task_give(&group->state->free_tasks, task);
    return luaL_error(L, "not enough memory");
  }
  task->kind = KIND_LOCAL;
  lua_pushvalue(L, function);
  weft_push_handle(group->state, L, &own->handle);
  for (int i = 1; i < count; i++)
    lua_pushvalue(L, function + i);
  weft_fiber *fiber = weft_scheduler_reserve(&group->state->scheduler, L, count + 1);
  count_in(group, task);
  weft_scheduler_start_local(&group->state->scheduler, L, fiber, task, count + 1);
  return WEFT_OK;
}

/* 1 and nil, cause on the stack when the context is done. */
static int is_refused(lua_group *group, lua_State *L) {
  if (!weft_context_done(group->core->context))
    return 0;
  weft_error *error = weft_context_error(group->core->context);
  weft_error *cause = weft_context_cause(group->core->context);
  lua_pushnil(L);
  weft_push_context_error(group->state, L, error, cause);
  weft_error_release(error);
  weft_error_release(cause);
  return 1;
}

static int check_function(lua_State *L, const char *what) {
  int function = lua_type(L, 2) == LUA_TSTRING ? 3 : 2;
  if (!lua_isfunction(L, function))
    weft_bad_argument(L, what, function == 3 ? "fn" : "fn or name", "a function", function);
  return function;
}

/* Starts the task: pushes results and returns how many, or WEFT_WOULD_WAIT with the stack as it was. */
static int try_start(lua_group *group, lua_State *L, int function) {
  int top = lua_gettop(L), count = top - function + 1, name = function == 3 ? 2 : 0;
  if ((group->count & (DRAIN_EVERY - 1)) == 0)
    drain_group(group, L, 1);
  if (is_refused(group, L))
    return 2;
  uint32_t limit = group->core->limit;
  if (limit && weft_group_running(group->core) - group->credit >= limit)
    return WEFT_WOULD_WAIT;
  int rc = group->is_local ? start_local(group, L, function, count, name)
                           : submit(group, L, function, count, name);
  if (rc == WEFT_WOULD_WAIT) {
    lua_settop(L, top);
    return rc;
  }
  if (rc != WEFT_OK)
    return weft_fail(group->state, L, rc == WEFT_CLOSED ? "closed" : "thread",
                     "the task could not be started: %s",
                     rc == WEFT_CLOSED ? "the pool is closed" : weft_strerror(rc));
  push_task(L, group->count);
  return 1;
}

static int go(lua_State *L);

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

static const weft_park_op go_op = {"group:go", finish_go, go, leave_go, NULL, 0};

/* Waits for room, in the group or in the pool's queue. */
static int wait_for_room(lua_group *group, lua_State *L) {
  weft_group *core = group->core;
  weft_park *park = weft_park_begin(group->state, L, &go_op, core);
  settle_credit(group);
  int is_limit = core->limit && weft_group_running(core) >= core->limit, must_wait;
  park->waiter.slot = is_limit ? (void *)core : NULL;
  if (is_limit)
    must_wait = weft_group_wait_below(core, core->limit, &park->waiter);
  else
    must_wait = core->pool && weft_pool_wait_room(core->pool, &park->waiter);
  return must_wait ? weft_park_wait(group->state, L, park, core->context) : WEFT_AGAIN;
}

/*** Starts a task. Waits while the group's limit is reached or the pool's queue is full.
 * @function group:go
 * @tparam[opt] string name shown in errors and dumps
 * @tparam function fn called as fn(ctx, ...) on a native thread, with copies of what it captures
 * @param ... arguments, copied
 * @treturn[1] task
 * @treturn[2] nil once the group is cancelled, or when no thread can be started
 * @treturn[2] error the cause
 * @raise what cannot be sent, with its path; a captured variable that the task assigns
 */
static int go(lua_State *L) {
  lua_group *group = check_open_group(L, "group:go");
  int function = check_function(L, "group:go"), rc;
  do {
    rc = try_start(group, L, function);
    if (rc == WEFT_WOULD_WAIT)
      rc = wait_for_room(group, L);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** Starts a task unless that would wait (Go: errgroup.TryGo).
 * @function group:try_go
 * @tparam[opt] string name
 * @tparam function fn
 * @param ...
 * @return a task; false when it would wait; nil and an error as @{group:go}
 */
static int try_go(lua_State *L) {
  lua_group *group = check_open_group(L, "group:try_go");
  int rc = try_start(group, L, check_function(L, "group:try_go"));
  if (rc != WEFT_WOULD_WAIT)
    return rc;
  lua_pushboolean(L, 0);
  return 1;
}

/* ---- waiting ---- */

static uint32_t failures(lua_group *group) {
  uint32_t count = group->base_failures;
  for (uint32_t i = 0; i < group->count - group->base; i++)
    count += (uint32_t)is_failure(group->slots[i]);
  return count;
}

/* Pushes { kind = "joined", errors = {…}, message } of all failures, in the order of go. */
static void push_joined(lua_group *group, lua_State *L, int errors, uint32_t count) {
  int listed = 0;
  lua_createtable(L, (int)count, 0);
  int list = lua_gettop(L);
  for (uint32_t i = 1; i <= group->count; i++) {
    lua_rawgeti(L, errors, (int)i);
    if (lua_isnil(L, -1))
      lua_pop(L, 1);
    else
      lua_rawseti(L, list, ++listed);
  }
  lua_getglobal(L, "tostring");
  lua_rawgeti(L, list, 1);
  lua_call(L, 1, 1);
  lua_pushfstring(L, "%d of %d tasks failed; the first: %s", (int)count, (int)group->count,
                  lua_tostring(L, -1));
  weft_push_error(group->state, L, "joined", lua_tostring(L, -1));
  lua_pushvalue(L, list);
  lua_setfield(L, -2, "errors");
  lua_replace(L, list);
  lua_settop(L, list);
}

/* Pushes the error that ended the group: the same table as task:wait gives where it is a task's. */
static void push_first_error(lua_group *group, lua_State *L, int errors, weft_error *first) {
  weft_push_core_error(group->state, L, first);
  lua_getfield(L, -1, "index");
  if (lua_type(L, -1) == LUA_TNUMBER) {
    lua_rawgeti(L, errors, (int)lua_tointeger(L, -1));
    if (!lua_isnil(L, -1))
      lua_replace(L, -3);
    else
      lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* Pushes what wait returns when every task has ended: results and error. */
static int push_outcome(lua_group *group, lua_State *L) {
  drain_group(group, L, 1);
  lua_rawgeti(L, 1, GROUP_RESULTS);
  int results = lua_gettop(L);
  weft_push_integer(L, group->count);
  lua_setfield(L, results, "n");
  weft_error *first = group->core ? weft_group_first_error(group->core) : NULL;
  uint32_t failed = group->core && !first ? 0 : failures(group);
  if (!first && !failed)
    return 1;
  push_table_of(L, 1, GROUP_ERRORS);
  if (first && !group->core->is_collecting) {
    lua_pushnil(L);
    lua_insert(L, results);
    push_first_error(group, L, results + 2, first);
    weft_error_release(first);
    lua_replace(L, results + 1);
    lua_settop(L, results + 1);
    return 2;
  }
  weft_error_release(first);
  push_joined(group, L, results + 1, failed);
  lua_replace(L, results + 1);
  lua_settop(L, results + 1);
  return 2;
}

static void leave_wait(weft_park *park) {
  weft_group_unwait(park->object, &park->waiter);
}

static int finish_wait(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  weft_context_release(park->waiter.slot); /* the time limit, if any */
  park->waiter.slot = NULL;
  if (source == WEFT_PARK_EVENT)
    return push_outcome(check_group(L, group_class), L);
  weft_context *current = weft_current_context(state, L, 0);
  if (weft_context_done(current))
    return weft_raise_context(state, L, current);
  return weft_fail(state, L, "timeout", "group:wait: the tasks did not end in time");
}

static void abandon_wait(weft_park *park, int source) {
  (void)source;
  weft_context_release(park->waiter.slot);
}

static const weft_park_op wait_op = {"group:wait", finish_wait, NULL, leave_wait, abandon_wait, 0};

/*** Waits until every task has ended.
 * @function group:wait
 * @tparam[opt] number seconds how long at most; the tasks run on afterwards
 * @treturn[1] table results in the order of go, with `n`; of several values of a task the first
 * @treturn[2] nil
 * @treturn[2] error the first failure; with `collect`: the results and an error with all of them
 * @raise when the caller's context is done
 */
static int wait_group(lua_State *L) {
  lua_group *group = check_group(L, "group:wait");
  weft_context *timed = NULL;
  if (!group->core)
    return push_outcome(group, L);
  check_open_group(L, "group:wait");
  int has_limit = !lua_isnoneornil(L, 2);
  double seconds = has_limit ? weft_check_seconds(L, 2, "group:wait", "seconds") : 0;
  weft_park *park = weft_park_begin(group->state, L, &wait_op, group->core);
  settle_credit(group);
  weft_context *current = weft_current_context(group->state, L, 0);
  if (has_limit && !(timed = weft_context_with_timeout(current, seconds, NULL)))
    return luaL_error(L, "not enough memory");
  park->waiter.slot = timed;
  if (!weft_group_wait_below(group->core, 1, &park->waiter)) {
    weft_context_release(timed);
    return push_outcome(group, L);
  }
  return weft_park_wait(group->state, L, park, timed ? timed : current);
}

/* ---- leaving ---- */

static int finish_join(lua_State *L, weft_park *park, int source) {
  (void)source;
  (void)park;
  drain_group(check_group(L, group_class), L, 1);
  return 0;
}

static const weft_park_op join_op = {"leaving a group", finish_join, NULL, leave_wait, NULL, 0};

/* Waits without a way out: cancellation has been passed on to the tasks. */
static int join(lua_group *group, lua_State *L) {
  settle_credit(group);
  if (group->core->process != weft_process_generation() || weft_group_running(group->core) == 0)
    return 0;
  weft_check_can_block(group->state, L, join_op.what);
  weft_park *park = weft_park_prepare(group->state, &join_op, group->core);
  if (!weft_group_wait_below(group->core, 1, &park->waiter))
    return 0;
  return weft_park_wait(group->state, L, park, weft_background());
}

/*** Waits until every task has ended, even though the caller's context may be done.
 * @function group:join
 */
static int join_group(lua_State *L) {
  lua_group *group = check_group(L, "group:join");
  return group->core ? join(group, L) : 0;
}

/*** Leaves the group: cancels what still runs and waits for it. Also what `<close>` does.
 * @function group:close
 */
static int close_group(lua_State *L) {
  lua_group *group = check_group(L, "group:close");
  lua_settop(L, 1);
  if (!group->core)
    return 0;
  weft_context_cancel(group->core->context, NULL);
  return join(group, L);
}

static void free_group(lua_group *group) {
  weft_group *core = group->core;
  if (core) {
    settle_credit(group);
    if (weft_group_has_waiters(core))
      weft_scheduler_abandon(&group->state->scheduler, core);
    group->core = NULL;
    core->owner = NULL;
    weft_context_cancel(core->context, NULL);
    weft_group_drop(core);
  }
  for (uint32_t i = 0; i < group->code_count; i++)
    weft_handle_release(&group->codes[i]->handle);
  weft_free(group->codes);
  weft_free(group->slots);
  weft_free(group->order);
  group->codes = NULL;
  group->slots = NULL;
  group->order = NULL;
  group->count = group->base = group->code_count = 0;
}

static int group_gc(lua_State *L) {
  free_group(lua_touserdata(L, 1));
  return 0;
}

/* ---- looking ---- */

/*** Cancels the group's context, and so its tasks.
 * @function group:cancel
 * @tparam[opt] any cause as for @{context:cancel}
 */
static int cancel_group(lua_State *L) {
  lua_group *group = check_open_group(L, "group:cancel");
  weft_error *cause =
      lua_isnoneornil(L, 2) ? NULL : weft_to_core_error(group->state, L, 2);
  weft_context_cancel(group->core->context, cause);
  weft_error_release(cause);
  return 0;
}

/*** The error of a task of this group that failed; nil when it did not, or has not ended yet.
 * @function group:error_of
 * @tparam task|integer task, or its index in the order of go
 * @treturn ?error
 */
static int error_of(lua_State *L) {
  lua_group *group = check_group(L, "group:error_of");
  uint32_t index;
  if (lua_type(L, 2) == LUA_TNUMBER)
    index = weft_check_count(L, 2, "group:error_of", "task", 1, WEFT_MAX_COUNT);
  else
    index = ((lua_task *)luaL_checkudata(L, 2, task_class))->index;
  drain_group(group, L, 1);
  push_table_of(L, 1, GROUP_ERRORS);
  lua_rawgeti(L, -1, (int)index);
  return 1;
}

/*** Counts of the group's tasks.
 * @function group:stats
 * @treturn table `started`, `running` (or queued), `done`, `failed`
 */
static int group_stats(lua_State *L) {
  lua_group *group = check_group(L, "group:stats");
  drain_group(group, L, 1);
  uint32_t failed = failures(group);
  lua_createtable(L, 0, 4);
  weft_push_integer(L, group->count);
  lua_setfield(L, -2, "started");
  weft_push_integer(L, group->count - group->drained);
  lua_setfield(L, -2, "running");
  weft_push_integer(L, group->drained - failed);
  lua_setfield(L, -2, "done");
  weft_push_integer(L, failed);
  lua_setfield(L, -2, "failed");
  return 1;
}

/* ---- tasks ---- */

typedef struct task_ref {
  lua_group *group;
  uint32_t index;
} task_ref;

/* Pushes the group's table of the task at stack index 1. */
static task_ref check_task(lua_State *L) {
  lua_task *task = luaL_checkudata(L, 1, task_class);
  weft_get_uservalue(L, 1);
  task_ref ref = {test_group(L, lua_gettop(L)), task->index};
  drain_group(ref.group, L, lua_gettop(L));
  return ref;
}

/* Neither forgotten long ago nor of a group that was freed. */
static int is_known(task_ref ref) {
  return ref.index > ref.group->base && ref.index <= ref.group->count;
}

static int is_running(task_ref ref) {
  return ref.group->core && is_known(ref) && !is_ended(*slot_of(ref.group, ref.index));
}

static int push_error_of(lua_State *L, int env, uint32_t index) {
  lua_pushnil(L);
  push_table_of(L, env, GROUP_ERRORS);
  lua_rawgeti(L, -1, (int)index);
  lua_replace(L, -2);
  return 2;
}

/* All values that the task returned, or nil and its error; `env` is the stack index of the group's table. */
static int push_task_outcome(lua_State *L, int env, task_ref ref) {
  if (!is_known(ref) || *slot_of(ref.group, ref.index) != status_slot(WEFT_TASK_DONE))
    return push_error_of(L, env, ref.index);
  push_table_of(L, env, GROUP_PACKED);
  lua_rawgeti(L, -1, (int)ref.index);
  if (lua_isnil(L, -1)) {
    lua_rawgeti(L, env, GROUP_RESULTS);
    lua_rawgeti(L, -1, (int)ref.index);
    return 1;
  }
  int packed = lua_gettop(L);
  lua_getfield(L, packed, "n");
  int count = (int)lua_tointeger(L, -1);
  luaL_checkstack(L, count + 4, "results");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, packed, i);
  return count;
}

static int wait_task(lua_State *L);

static int finish_wait_task(lua_State *L, weft_park *park, int source) {
  weft_state *state = weft_state_of(L);
  (void)park;
  if (source == WEFT_PARK_CANCELED)
    return weft_raise_context(state, L, weft_current_context(state, L, 0));
  return WEFT_AGAIN;
}

static const weft_park_op wait_task_op = {"task:wait", finish_wait_task, wait_task, leave_wait, NULL,
                                          0};

static int park_for_progress(lua_State *L, const weft_park_op *op, lua_group *group) {
  settle_credit(group);
  weft_park *park = weft_park_begin(group->state, L, op, group->core);
  if (!weft_group_wait_below(group->core, WEFT_GROUP_PROGRESS, &park->waiter))
    return WEFT_AGAIN;
  return weft_park_wait(group->state, L, park, weft_current_context(group->state, L, 0));
}

/*** Waits until this task has ended.
 * @function task:wait
 * @return[1] all that the task returned
 * @treturn[2] nil
 * @treturn[2] error
 * @raise when the caller's context is done
 */
static int wait_task(lua_State *L) {
  int rc;
  do {
    lua_settop(L, 1);
    task_ref ref = check_task(L);
    if (!is_running(ref))
      return push_task_outcome(L, 2, ref);
    lua_settop(L, 1);
    rc = park_for_progress(L, &wait_task_op, ref.group);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** What the task does.
 * @function task:status
 * @treturn string "queued", "running", "done", "failed" or "canceled"
 */
static int task_status(lua_State *L) {
  static const char *const names[] = {"queued", "running", "done", "failed", "canceled"};
  task_ref ref = check_task(L);
  if (!is_known(ref)) {
    lua_pushstring(L, "done");
    return 1;
  }
  weft_task *slot = *slot_of(ref.group, ref.index);
  lua_pushstring(L, names[is_ended(slot) ? (uintptr_t)slot & STATUS : atomic_load(&slot->status)]);
  return 1;
}

/*** Cancels this task alone.
 * @function task:cancel
 * @tparam[opt] any cause as for @{context:cancel}
 */
static int cancel_task(lua_State *L) {
  task_ref ref = check_task(L);
  if (!is_running(ref))
    return 0;
  weft_task *task = *slot_of(ref.group, ref.index);
  weft_error *cause = lua_isnoneornil(L, 2) ? NULL : weft_to_core_error(ref.group->state, L, 2);
  int ok = weft_task_cancel(task, cause);
  weft_error_release(cause);
  if (!ok)
    return luaL_error(L, "not enough memory");
  weft_scheduler_interrupt(task);
  return 0;
}

/*** The task's place in the order of go.
 * @function task:index
 * @treturn integer from 1
 */
static int task_index(lua_State *L) {
  weft_push_integer(L, ((lua_task *)luaL_checkudata(L, 1, task_class))->index);
  return 1;
}

static int task_tostring(lua_State *L) {
  lua_task *task = luaL_checkudata(L, 1, task_class);
  lua_pushfstring(L, "weft task %d", (int)task->index);
  return 1;
}

/* The index of a task of the group at stack index 1 that has ended. */
static uint32_t check_ended(lua_State *L, lua_group *group, const char *what) {
  uint32_t index = weft_check_count(L, 2, what, "index", 1, WEFT_MAX_COUNT);
  drain_group(group, L, 1);
  if (index > group->count || is_running((task_ref){group, index}))
    luaL_error(L, "%s: task %d has not ended", what, (int)index);
  return index;
}

/*** All values that a task which has ended returned, or nil and its error.
 * @function group:values
 * @tparam integer index of the task in the order of go
 * @return as @{task:wait}
 * @raise when it has not ended
 */
static int group_values(lua_State *L) {
  lua_group *group = check_group(L, "group:values");
  uint32_t index = check_ended(L, group, "group:values");
  return push_task_outcome(L, 1, (task_ref){group, index});
}

/*** Drops what a task which has ended left, so that a long run of tasks stays flat in memory.
 * @function group:forget
 * @tparam integer index of the task in the order of go
 * @raise when it has not ended
 */
static int forget(lua_State *L) {
  lua_group *group = check_group(L, "group:forget");
  uint32_t index = check_ended(L, group, "group:forget");
  for (int field = GROUP_RESULTS; field <= GROUP_FIELDS; field++) {
    lua_rawgeti(L, 1, field);
    if (lua_istable(L, -1)) {
      lua_pushnil(L);
      lua_rawseti(L, -2, (int)index);
    }
    lua_pop(L, 1);
  }
  if (is_known((task_ref){group, index})) {
    weft_task **slot = slot_of(group, index);
    *slot = status_slot((uint8_t)((uintptr_t)*slot | FORGOTTEN));
  }
  return 0;
}

/* ---- in the order of completion ---- */

static int next_completed(lua_State *L);

static const weft_park_op completed_op = {"group:completed", finish_wait_task, next_completed,
                                          leave_wait, NULL, 0};

/* Pushes task, value, error. */
static int push_completed(lua_group *group, lua_State *L) {
  uint32_t index = group->order[group->completed++ - group->order_base];
  push_task(L, index);
  for (int field = GROUP_RESULTS; field <= GROUP_ERRORS; field++) {
    push_table_of(L, 1, field);
    lua_rawgeti(L, -1, (int)index);
    lua_remove(L, -2);
  }
  return 3;
}

static int next_completed(lua_State *L) {
  lua_group *group = check_group(L, group_class);
  int rc;
  do {
    lua_settop(L, 1);
    drain_group(group, L, 1);
    if (group->completed < group->drained)
      return push_completed(group, L);
    if (!group->core || group->drained == group->count)
      return 0;
    rc = park_for_progress(L, &completed_op, group);
  } while (rc == WEFT_AGAIN);
  return rc;
}

/*** Iterates over tasks in the order in which they end: `for task, value, err in g:completed() do`.
 * Ends when every task that was started has been handed out.
 * @function group:completed
 * @treturn function an iterator, and the group
 */
static int completed(lua_State *L) {
  check_group(L, "group:completed");
  lua_getmetatable(L, 1);
  lua_getfield(L, -1, "next_completed");
  lua_pushvalue(L, 1);
  return 2;
}

static int group_tostring(lua_State *L) {
  lua_group *group = check_group(L, group_class);
  lua_pushfstring(L, "weft group: %d tasks, %d running", (int)group->count,
                  (int)(group->count - group->drained));
  return 1;
}

void weft_open_group(weft_state *state, lua_State *L) {
  static const weft_function group_methods[] = {
      {"go", go, WEFT_BLOCKS_VARIADIC}, {"try_go", try_go, 0},
      {"wait", wait_group, WEFT_BLOCKS}, {"join", join_group, WEFT_BLOCKS},
      {"close", close_group, WEFT_BLOCKS}, {"cancel", cancel_group, 0},
      {"stats", group_stats, 0},         {"completed", completed, 0},
      {"error_of", error_of, 0},         {"values", group_values, 0},
      {"forget", forget, 0},
      {"__close", close_group, WEFT_BLOCKS}, {"__tostring", group_tostring, 0},
      {NULL, NULL, 0}};
  static const weft_function body_methods[] = {{"__gc", group_gc, 0}, {NULL, NULL, 0}};
  static const weft_function task_methods[] = {{"wait", wait_task, WEFT_BLOCKS},
                                               {"status", task_status, 0},
                                               {"cancel", cancel_task, 0},
                                               {"index", task_index, 0},
                                               {"__tostring", task_tostring, 0},
                                               {NULL, NULL, 0}};
  static const weft_function functions[] = {{"group", new_group, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, group_class, group_methods);
  weft_push_function(L, state, next_completed, WEFT_BLOCKS);
  lua_setfield(L, -2, "next_completed");
  lua_pushliteral(L, "a group belongs to the state that made it; send values or channels");
  lua_setfield(L, -2, "__weft_advice");
  state->group_class = luaL_ref(L, LUA_REGISTRYINDEX);
  weft_new_class(L, state, "weft.group body", body_methods);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &body_key);
  weft_new_class(L, state, task_class, task_methods);
  state->task_class = luaL_ref(L, LUA_REGISTRYINDEX);
}
