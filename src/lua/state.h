/* state.h: what weft keeps for one Lua state. Everything here belongs to the state's thread. */
#ifndef WEFT_LUA_STATE_H
#define WEFT_LUA_STATE_H

#include "compat.h"
#include "parcel.h"
#include "ptrmap.h"
#include "scheduler.h"
#include "ship.h"
#include "value.h"

typedef struct weft_state {
  weft_scheduler scheduler;
  lua_State *L; /* the state's main thread */
  /* references in the registry */
  int handles; /* weak: handle pointer -> its userdata, so that identity survives a trip */
  int names;   /* function or table -> "module\0field" under which a worker finds it again */
  uint32_t names_loaded; /* fingerprint of package.loaded when `names` was made */
  int named;             /* the same the other way: "module\0field" -> value found here */
  int metatables;        /* registered name -> metatable */
  int metatable_names;   /* registered metatable -> name */
  int guard;             /* the metatable of captured tables: raises on a new key */
  int error_metatable;
  int pending; /* scratch of the encoder: tables whose contents are still to be written */
  int group_class, group_go, task_class; /* group_go: the method */
  int task_context; /* the first argument of tasks: "the context of the task that runs" */
  int groups;       /* weak: body of a group of weft.inline -> its table */
  struct weft_group_body *open_groups; /* that were made here and not left, the latest first */
  weft_task_cache free_tasks;
  weft_parcel_writer writer;
  weft_encoder_scratch scratch;
  weft_ship ship;
} weft_state;

/* The state that a C function of the binding belongs to: its first upvalue. */
#define WEFT_STATE(L) ((weft_state *)lua_touserdata(L, lua_upvalueindex(1)))

/* Makes the state's part of weft, or finds it: for the module's loader and for workers. Raises
 * "not enough memory". `worker` is NULL for a host. */
weft_state *weft_state_open(lua_State *L, struct weft_worker *worker);
/* The state of a Lua state that was opened, else NULL: for hooks, which have no upvalue. */
weft_state *weft_state_of(lua_State *L);
/* Registers functions with the state as their first upvalue in the table on top of the stack.
 * Those marked as blocking get what the VM needs to continue after a yield. */
enum {
  WEFT_BLOCKS = 1,      /* takes at most two arguments */
  WEFT_BLOCKS_VARIADIC, /* returns at most two results */
};
typedef struct weft_function {
  const char *name;
  lua_CFunction function;
  int may_block; /* one of the above, or 0 */
} weft_function;
void weft_register(lua_State *L, weft_state *state, const weft_function *functions);
/* Pushes Lua code that wraps C functions; errors name the position of its caller. Raises "not
 * enough memory". */
void weft_push_shim(lua_State *L, const char *source);
/* Pushes one such function. */
void weft_push_function(lua_State *L, weft_state *state, lua_CFunction function, int may_block);
/* A new metatable `name` in the registry, left on the stack: functions whose names begin with "__"
 * go into it, the others into its __index, which raises for any other name. Names that begin with
 * one "_" are not told to users. */
void weft_new_class(lua_State *L, weft_state *state, const char *name,
                    const weft_function *methods);
/* Adds more to the class on top of the stack. */
void weft_add_methods(lua_State *L, weft_state *state, const weft_function *methods);

#endif
