/* group_body.h: what the parts of a group in Lua share: its table's body, and the slots of its
 * tasks.
 *
 * group.c makes groups; group_go.c starts tasks; group_drain.c takes over those that have ended;
 * group_wait.c waits for all or for the next; group_task.c is the userdata of one task;
 * group_leave.c leaves, cancels and looks; group_unseen.c knows which errors nobody has got.
 * Everything is on the thread of the state that made the group; what takes L may raise.
 */
#ifndef WEFT_LUA_GROUP_BODY_H
#define WEFT_LUA_GROUP_BODY_H

#include "../core/group.h"
#include "sight.h"
#include "state.h"

/* places in the group's table */
enum {
  WEFT_GROUP_BODY = 1,
  WEFT_GROUP_RESULTS,
  WEFT_GROUP_ERRORS,
  WEFT_GROUP_PACKED,
  WEFT_GROUP_FIELDS = WEFT_GROUP_PACKED
};

/* The kind of a task: of a pool, or of weft.inline. */
enum { WEFT_KIND_POOL, WEFT_KIND_LOCAL };

typedef struct weft_group_body {
  weft_code_keeper keeper; /* first */
  weft_state *state;
  weft_group *core;  /* NULL once it was left */
  weft_task *ended;  /* taken from the core group, and not drained yet */
  weft_task **slots; /* by index - 1 - base: the running core task, or how it ended; see below */
  uint32_t *order;   /* indices as tasks were drained, but for the first order_base */
  uint32_t count, capacity, drained;
  uint32_t base, order_base; /* entries that were dropped, since those tasks are forgotten */
  uint32_t failures;         /* how many of the drained tasks have failed */
  uint32_t credit;           /* counted in with the core group, for tasks to come */
  uint32_t completed;        /* how many of `order` an iterator has handed out */
  uint32_t failed;           /* how many of the drained tasks have, cancelled ones aside */
  uint32_t told;             /* wait has told of the tasks up to this index */
  struct weft_code **codes;  /* retained */
  uint32_t code_count, code_capacity;
  uint8_t is_local;
  uint8_t is_quiet;   /* its maker, a part of weft, looks at what it wants to know */
  uint8_t has_errors; /* the userdata's uservalue is the table of errors */
  weft_place made_at; /* by its user */
  struct weft_group_body *next_open, **open_link; /* in the state's list, while it has a core */
} weft_group_body;

extern const char weft_group_class[];

/* ---- group.c ---- */

/* The body of the group at `index`, or NULL. */
weft_group_body *weft_test_group(lua_State *L, int index);
/* Of the first argument; the second form also refuses groups that were left, or made before a fork.
 */
weft_group_body *weft_check_group(lua_State *L, const char *what);
weft_group_body *weft_check_open_group(lua_State *L, const char *what);

/* ---- the slots of tasks ---- */

/* A slot whose task has ended and was drained holds its status, a small number, in place of a
 * pointer. NULL is taken by QUEUED, which no ended task is. */
enum {
  WEFT_SLOT_STATUS = 7,
  WEFT_SLOT_FORGOTTEN = 8,
  WEFT_SLOT_SEEN = 16, /* of a failure: somebody has got its error */
  WEFT_SLOT_LARGEST = 32
};

static inline weft_task **weft_slot_of(weft_group_body *group, uint32_t index) {
  return &group->slots[index - 1 - group->base];
}

static inline int weft_slot_is_ended(const weft_task *slot) {
  return (uintptr_t)slot < WEFT_SLOT_LARGEST;
}

static inline int weft_slot_is_failure(const weft_task *slot) {
  return weft_slot_is_ended(slot) && ((uintptr_t)slot & WEFT_SLOT_STATUS) != WEFT_TASK_DONE;
}

/* A task that has ended, and that the group remembers. */
static inline void weft_slot_mark(weft_group_body *group, uint32_t index, unsigned mark) {
  weft_task **slot = weft_slot_of(group, index);
  *slot = (weft_task *)((uintptr_t)*slot | mark);
}

static inline weft_task *weft_slot_status(uint8_t status) {
  return (weft_task *)(uintptr_t)status;
}

/* ---- group_drain.c ---- */

/* Takes over all tasks that have ended; `env` is the stack index of the group's table. */
void weft_group_drain(weft_group_body *group, lua_State *L, int env);
/* Pushes one of the group's tables for writing; errors and packed results are rare and made late.
 */
void weft_push_group_field(lua_State *L, int env, int field);

/* ---- group_go.c ---- */

/* Gives back what was counted in ahead: before anybody waits for the group, or leaves it. */
void weft_group_settle(weft_group_body *group);

/* ---- group_wait.c ---- */

/* The `leave` of parks in a group. */
void weft_leave_group_park(weft_park *park);
/* The `finish` of calls that look again at each task that ends, and such a park. */
int weft_finish_progress(lua_State *L, weft_park *park, int source);
/* `index`: of the task whose end it waits for, or 0 for that of any. */
int weft_park_for_progress(lua_State *L, const weft_park_op *op, weft_group_body *group,
                           uint32_t index);

/* The `describe` of both: how many tasks are to go. */
void weft_describe_group(const weft_park *park, char *text, size_t size);

/* ---- group_task.c ---- */

/* Pushes the userdata of a task of the group at stack index 1. */
void weft_push_task(weft_state *state, lua_State *L, uint32_t index);

/* ---- group_unseen.c ---- */

/* Somebody gets the error of this task, if it has one. */
void weft_group_see(weft_group_body *group, uint32_t index);
/* Before the body at stack index 1 is freed by the collector: tells of what was lost. */
void weft_group_report(weft_group_body *group, lua_State *L);
/* The failures, with references, of the groups of this state which wait has not told of: the latest
 * group's first, `most` at most; how many. Those that were just cancelled have none. */
uint32_t weft_group_failures_so_far(weft_state *state, weft_error **errors, uint32_t most);

/* ---- group_leave.c ---- */

int weft_group_gc(lua_State *L); /* of bodies */

/* ---- the methods in each file, added to the class on top of the stack ---- */

/* Of each file those that it defines. */
void weft_add_go_methods(weft_state *state, lua_State *L);
void weft_add_wait_methods(weft_state *state, lua_State *L);
void weft_add_task_methods(weft_state *state, lua_State *L);
void weft_add_leave_methods(weft_state *state, lua_State *L);
void weft_add_unseen_methods(weft_state *state, lua_State *L);
/* Makes the class of tasks. */
void weft_open_task(weft_state *state, lua_State *L);

#endif
