/* ship.h: the code of closures: registered once for the process, loaded once for each state.
 *
 * Two ways lead to the same code. The portable one dumps a function, hashes the dump and compares
 * bytes; a state loads the dump for every closure. The fast one (see vmprobe.h) knows a prototype
 * by its address and loads a factory once, which makes a fresh closure with fresh variables at each
 * call.
 *
 * Codes are constant and counted: any thread may hold and release one. Everything else here runs on
 * the state's thread; what takes L may raise. Nothing blocks.
 */
#ifndef WEFT_LUA_SHIP_H
#define WEFT_LUA_SHIP_H

#include "compat.h"
#include "handle.h"

#include <stddef.h>

struct weft_state;

typedef struct weft_code {
  weft_handle handle;     /* first */
  struct weft_code *next; /* in its bucket; guarded by the registry's lock */
  uint64_t hash;
  uint8_t *bytes; /* the unstripped dump; owned, like all below; constant */
  size_t size;
  uint8_t *factory; /* NULL: cannot be spliced */
  size_t factory_size;
  char where[80]; /* "file.lua:12" */
  int env;        /* which captured variable is _ENV; 0: none */
  int upvalue_count;
  /* was sent with more than a few short plain values: see weft_encode_task */
  _Atomic uint8_t is_rich;
} weft_code;

enum { WEFT_SHIP_CACHE = 512 };

typedef struct weft_ship {
  struct {
    const void *prototype;
    weft_code *code; /* retained */
  } sent[WEFT_SHIP_CACHE];
  struct {
    const weft_code *code; /* retained */
    int reference;         /* its factory in the registry */
  } loaded[WEFT_SHIP_CACHE];
  int anchors;     /* weak table: place in `sent` -> a closure that keeps the prototype's address */
  weft_code *last; /* retained: what weft_ship_code returned last without the cache */
  const char *first_where; /* of the first function in the message that was decoded last, or NULL */
  size_t prototype_offset; /* see vmprobe.h; 0: the portable way */
  size_t array_offset;     /* the same */
  size_t wanted_offset;    /* the same */
} weft_ship;

/* Proves the fast way on this VM, or does without; when the state is opened. */
void weft_ship_open(struct weft_state *state, lua_State *L);
/* Releases the codes that the caches hold. */
void weft_ship_close(weft_ship *ship);

/* The same when this function's prototype was shipped lately, else NULL. Cheap. */
weft_code *weft_ship_find(struct weft_state *state, lua_State *L, int index);
/* The code of the Lua function at `index`; borrowed until the next call. Raises when it writes to
 * variables that it captures, naming line and variable. */
weft_code *weft_ship_code(struct weft_state *state, lua_State *L, int index);

static inline int weft_ship_is_env(const weft_code *code, int upvalue) {
  return code->env == upvalue;
}

/* Pushes what weft_ship_call_factory then calls with the captured values above it, leaving the
 * closure in their place. */
void weft_ship_push_factory(struct weft_state *state, lua_State *L, const weft_code *code);
void weft_ship_call_factory(struct weft_state *state, lua_State *L, const weft_code *code);

extern const weft_handle_type weft_code_type;

/* "file.lua:12" of the function at `index`. */
void weft_function_where(lua_State *L, int index, char *out, size_t size);
/* 1 unless WEFT_SHIP=portable or the fast way did not prove itself; for tests and stats. */
int weft_ship_is_fast(struct weft_state *state);

#endif
