/* value.h: Lua values to parcels and back.
 *
 * Everything but handles is copied. All functions run on the state's thread and may raise Lua
 * errors; a raise loses nothing, since scratch memory belongs to the state.
 */
#ifndef WEFT_LUA_VALUE_H
#define WEFT_LUA_VALUE_H

#include "compat.h"
#include "parcel.h"
#include "ptrmap.h"

struct weft_state;
struct weft_code;

/* What the encoder needs while it works; kept by the state from message to message. */
typedef struct weft_encoder_scratch {
  weft_ptrmap seen;                  /* tables and functions by address */
  struct weft_pending_table *tables; /* whose contents are still to be written */
  uint32_t table_count, table_capacity;
  uint32_t held;           /* how many tables of messages that are half done come before */
  struct weft_cell *cells; /* captured variables of every function */
  uint32_t cell_count, cell_capacity, function_count;
} weft_encoder_scratch;

/* When the state closes. */
void weft_encoder_scratch_free(weft_encoder_scratch *scratch);

/* Who keeps the code of shipped closures alive: by default each message does. */
typedef struct weft_code_keeper {
  int (*keep)(struct weft_code_keeper *keeper, struct weft_code *code); /* 0: no memory */
} weft_code_keeper;

/* Writes `count` values from stack index `first` into the state's writer, as one message in which
 * shared references stay shared. `what` names a value in errors: "argument", "result", …. A first
 * value that is a function counts as "the task". Raises what cannot cross, naming its path. */
void weft_encode(struct weft_state *state, lua_State *L, int first, int count, const char *what,
                 weft_code_keeper *keeper);
/* The same for plain values (nil, booleans, numbers, strings), without ever raising: 1; or 0 with
 * nothing written when one of them is something else or memory ran out. */
int weft_encode_plain(struct weft_state *state, lua_State *L, int first, int count);
/* The same for one value that is a short plain one, straight into an empty parcel: 1, or 0 with
 * nothing written. */
int weft_encode_small(lua_State *L, int index, weft_parcel *parcel);
/* The same for a function that was sent before, with arguments and captured variables that are few,
 * short and plain: 1, or 0, and weft_encode has to do it. */
int weft_encode_task(struct weft_state *state, lua_State *L, int first, int count,
                     weft_code_keeper *keeper, weft_parcel *parcel);
/* Moves what was encoded into an empty parcel. Raises when there is no memory. */
void weft_encode_finish(struct weft_state *state, lua_State *L, weft_parcel *parcel, int count);
/* All three at once. */
void weft_to_parcel(struct weft_state *state, lua_State *L, int first, int count, const char *what,
                    weft_parcel *parcel);

/* Pushes the values of a parcel, which stays as it is: how many. */
int weft_decode(struct weft_state *state, lua_State *L, const weft_parcel *parcel);

/* Pushes the value of a parcel that holds just one, and a plain one: 1; else 0 and nothing pushed.
 * The caller has made room on the stack. Raises nothing but "not enough memory". */
int weft_decode_plain(lua_State *L, const weft_parcel *parcel);

/* Pushes the values of a shared parcel and gives the reference back, also when it raises: how many.
 */
int weft_decode_shared(lua_State *L, weft_shared_parcel *shared);

/* The key of a map at stack index 2: a string, number or boolean, or raises. Keys that are equal in
 * Lua are the same bytes when encoded: whole numbers become integers in their place. */
void weft_check_key(lua_State *L, const char *what);

/* Pushes the userdata of a handle, the same one each time while it lives; it takes its own
 * reference. */
void weft_push_handle(struct weft_state *state, lua_State *L, weft_handle *handle);
/* Pushes a new userdata for a handle whose reference it takes over at once. */
void weft_adopt_handle(struct weft_state *state, lua_State *L, weft_handle *handle);
/* The handle in a userdata of ours, borrowed, or NULL for any other value. */
weft_handle *weft_test_handle(lua_State *L, int index);

/* The body of every handle's userdata. */
typedef struct weft_object {
  weft_handle *handle;      /* one reference; NULL: see fiber */
  struct weft_fiber *fiber; /* a context that means "of the task that runs on this fiber" */
} weft_object;
/* Registers the metatable on top of the stack as the class of a handle type. */
void weft_register_handle_class(lua_State *L, const weft_handle_type *type);

#endif
