/* encode.c: values to messages.
 *
 * Owns nothing that outlives a call but the state's scratch. Entered by the state's thread alone.
 * Invariants: an error leaves the scratch and the writer as they are; the next message begins anew.
 * While a message is written no metamethod runs, and what allocates Lua memory is called
 * undisturbed, since that may run finalizers.
 */
#include "encode.h"

#include "coroutines.h"
#include "errors.h"
#include "guest.h"
#include "names.h"
#include "put.h"
#include "vmprobe.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FUNCTION_DEPTH = 100 };

typedef struct weft_cell {
  const void *id;
  uint32_t function;
  uint32_t index;
} weft_cell;

/* ---- writing ---- */

static void check(weft_encoder *e, int rc) {
  if (rc == WEFT_BUF_LIMIT)
    luaL_error(e->L, "the message is larger than the limit of %d MiB",
               (int)(WEFT_PARCEL_MAX >> 20));
  else if (rc != WEFT_BUF_OK)
    luaL_error(e->L, "not enough memory");
}

/* ---- undisturbed ---- */

/* A finalizer that sends something does so with a writer and scratch memory of its own, and holds
 * its tables behind ours. To stop the collector instead would end its pause. */
void weft_encode_undisturbed(weft_encoder *e, lua_CFunction function, int index, void *arg) {
  lua_State *L = e->L;
  weft_state *state = e->state;
  weft_parcel_writer writer = state->writer;
  weft_encoder_scratch scratch = state->scratch;
  weft_parcel_writer_init(&state->writer);
  state->scratch = (weft_encoder_scratch){.held = scratch.held + scratch.table_count};
  e->scratch = &scratch;
  lua_pushvalue(L, index);
  lua_pushcfunction(L, function);
  lua_insert(L, -2);
  lua_pushlightuserdata(L, arg);
  int rc = lua_pcall(L, 2, 0, 0);
  weft_parcel_writer_free(&state->writer);
  weft_encoder_scratch_free(&state->scratch);
  state->writer = writer;
  state->scratch = scratch;
  e->scratch = &state->scratch;
  if (rc != 0)
    lua_error(L);
}

/* ---- tables ---- */

static void add_pending(weft_encoder *e, uint32_t object) {
  weft_encoder_scratch *scratch = e->scratch;
  if (scratch->table_count == scratch->table_capacity) {
    uint32_t capacity = scratch->table_capacity ? scratch->table_capacity * 2 : 32;
    weft_pending_table *grown = weft_realloc(scratch->tables, capacity * sizeof *grown);
    if (!grown)
      check(e, WEFT_BUF_NOMEM);
    scratch->tables = grown;
    scratch->table_capacity = capacity;
  }
  scratch->tables[scratch->table_count++] =
      (weft_pending_table){object, e->parent, e->label, e->number, e->is_guarded};
}

/* Its number when it was written before; else -1 and it has one now. */
static int64_t see(weft_encoder *e, const void *object) {
  int64_t seen = weft_ptrmap_see(&e->scratch->seen, object);
  if (seen == WEFT_PTRMAP_NOMEM)
    check(e, WEFT_BUF_NOMEM);
  e->has_objects |= seen >= 0;
  return seen;
}

/* A metatable crosses by its registered name; the guard is ours and is left behind. */
static void put_metatable(weft_encoder *e, int index) {
  lua_State *L = e->L;
  if (!lua_getmetatable(L, index))
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->guard);
  if (!lua_rawequal(L, -1, -2)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->metatable_names);
    lua_pushvalue(L, -3);
    lua_rawget(L, -2);
    size_t size;
    const char *name = lua_tolstring(L, -1, &size);
    if (!name) {
      lua_settop(L, lua_gettop(L) - 4);
      lua_pushvalue(L, index);
      weft_encode_refuse(
          e, e->state->scheduler.guests
                 ? "it has a metatable: what is nginx's stays in the handler; for a class of your "
                   "own there is weft.register(name, metatable)"
                 : "it has a metatable: register that with weft.register(name, metatable)");
      return;
    }
    check(e, weft_put_bytes(e->out, WEFT_TAG_METATABLE, name, size));
    lua_pop(L, 2);
  }
  lua_pop(L, 2);
}

static void put_name(weft_encoder *e, const char *name, size_t size) {
  check(e, weft_put_bytes(e->out, WEFT_TAG_NAME, name, size));
}

static void put_table(weft_encoder *e, int index) {
  lua_State *L = e->L;
  size_t size;
  luaL_checkstack(L, 12, "table");
  const char *name = weft_names_find(e->state, L, index, &size);
  if (name) {
    put_name(e, name, size);
    return;
  }
  int64_t seen = see(e, lua_topointer(L, index));
  if (seen >= 0) {
    check(e, weft_put_tagged(e->out, WEFT_TAG_REFERENCE, (uint64_t)seen));
    return;
  }
  if (lua_topointer(L, index) == e->foreign_table) {
    lua_pushvalue(L, index);
    weft_encode_refuse(e,
                       "it is ngx.ctx, which belongs to the request; give the task values of it");
  }
  put_metatable(e, index);
  e->has_objects = 1;
  check(e, weft_put_tagged(e->out, e->is_guarded ? WEFT_TAG_GUARDED_TABLE : WEFT_TAG_TABLE,
                           weft_rawlen(L, index)));
  add_pending(e, e->scratch->seen.count - 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (int)(e->scratch->held + e->scratch->table_count));
  lua_pop(L, 1);
}

/* ---- functions ---- */

static void note_cell(weft_encoder *e, const void *id, uint32_t function, uint32_t index) {
  weft_encoder_scratch *scratch = e->scratch;
  if (scratch->cell_count == scratch->cell_capacity) {
    uint32_t capacity = scratch->cell_capacity ? scratch->cell_capacity * 2 : 32;
    weft_cell *grown = weft_realloc(scratch->cells, capacity * sizeof *grown);
    if (!grown)
      check(e, WEFT_BUF_NOMEM);
    scratch->cells = grown;
    scratch->cell_capacity = capacity;
  }
  scratch->cells[scratch->cell_count++] = (weft_cell){id, function, index};
}

static void note_cells(weft_encoder *e, int index, uint32_t function, const weft_code *code) {
  for (int i = 1; i <= code->upvalue_count; i++)
    if (!weft_ship_is_env(code, i))
      note_cell(e, lua_upvalueid(e->L, index, i), function, (uint32_t)i);
}

/* Variables can only be shared when there are two functions: those of the first are looked up when
 * the second comes, provided that it is one of the message's own values, which stay in their
 * places. */
static void note_function(weft_encoder *e, int index, uint32_t function, const weft_code *code) {
  if (e->scratch->function_count++ == 0 && index >= e->first && index <= e->last) {
    e->lone = index;
    e->lone_code = code;
    e->lone_number = function;
    return;
  }
  if (e->lone)
    note_cells(e, e->lone, e->lone_number, e->lone_code);
  e->lone = 0;
  note_cells(e, index, function, code);
}

static void put_value(weft_encoder *e, int index);

static void put_code(weft_encoder *e, weft_code *code) {
  if (e->keeper) {
    check(e, weft_buf_putc(e->out, WEFT_TAG_FUNCTION));
    if (!e->keeper->keep(e->keeper, code))
      check(e, WEFT_BUF_NOMEM);
    check(e, weft_buf_append(e->out, &code, sizeof code));
  } else {
    check(e, weft_buf_putc(e->out, WEFT_TAG_FUNCTION_HELD));
    check(e, weft_parcel_write_handle(&e->state->writer, &code->handle));
  }
}

/* 5.4: `local _ENV = { … }` is a captured table like any other. One with a metatable stands for the
 * globals, which every state has of its own: sandboxes and test runners make such. */
static int is_own_environment(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE)
    return !lua_isnil(L, index);
  if (lua_getmetatable(L, index)) {
    lua_pop(L, 1);
    return 0;
  }
  weft_push_globals(L);
  int is_own = !lua_rawequal(L, -1, index);
  lua_pop(L, 1);
  return is_own;
}

static void put_upvalues(weft_encoder *e, int index, const weft_code *code) {
  lua_State *L = e->L;
  int top = lua_gettop(L);
  const char *outer_label = e->label;
  uint32_t outer_parent = e->parent;
  uint8_t was_guarded = e->is_guarded;
  luaL_checkstack(L, 16 + code->upvalue_count, "function");
  e->is_guarded = 1;
  e->depth++;
  e->parent = UINT32_MAX;
  for (int i = 1; i <= code->upvalue_count; i++) {
    const char *name = lua_getupvalue(L, index, i);
    e->label = name && *name ? name : "?";
    if (weft_ship_is_env(code, i) && !is_own_environment(L, top + i))
      check(e, weft_buf_putc(e->out, WEFT_TAG_GLOBALS));
    else
      put_value(e, top + i);
  }
  lua_settop(L, top);
  e->is_guarded = was_guarded;
  e->depth--;
  e->parent = outer_parent;
  e->label = outer_label;
}

static void put_new_function(weft_encoder *e, int index, weft_code *code) {
  put_code(e, code);
  if (code->upvalue_count) {
    note_function(e, index, e->scratch->seen.count - 1, code);
    put_upvalues(e, index, code);
  }
}

typedef struct lookup {
  weft_encoder *encoder;
  const char *name; /* NULL: it has none */
  size_t size;
  weft_code *code;
} lookup;

/* Code that was shipped before is no module's function; anything else may be. */
static int look_up_name(lua_State *L) {
  lookup *self = lua_touserdata(L, 2);
  weft_state *state = self->encoder->state;
  self->name = weft_names_find_function(state, L, 1, &self->size);
  if (!self->name && weft_names_refresh(state, L))
    self->name = weft_names_find_function(state, L, 1, &self->size);
  return 0;
}

static int look_up_code(lua_State *L) {
  lookup *self = lua_touserdata(L, 2);
  self->code = weft_ship_code(self->encoder->state, L, 1);
  return 0;
}

/* A function of weft's that no module has under a name: a method. On LuaJIT those that block are
 * Lua functions around C functions. */
static int is_method(weft_encoder *e, int index) {
  lua_State *L = e->L;
  lua_Debug info;
  if (lua_iscfunction(L, index)) {
    int top = lua_gettop(L);
    int is_ours = lua_getupvalue(L, index, 1) && lua_touserdata(L, -1) == (void *)e->state;
    lua_settop(L, top);
    return is_ours;
  }
  lua_pushvalue(L, index);
  return lua_getinfo(L, ">S", &info) && strcmp(info.source, WEFT_SHIM_CHUNK) == 0;
}

/* NULL when it can. */
static const char *why_function_cannot(weft_encoder *e, int index, int is_known) {
  if (!is_known && weft_coroutine_is_wrapped(e->L, index))
    return "it runs a coroutine: make that inside the task, or use weft.inline";
  if (!is_known && is_method(e, index))
    return "it belongs to an object of weft's: call it in a function of your own, as in "
           "function() return object:method(...) end";
  if (!is_known && lua_iscfunction(e->L, index))
    return "it is a C function that no loaded module has, such as what io.lines returns; make it "
           "inside the task, or require its module there";
  if (e->depth >= MAX_FUNCTION_DEPTH)
    return "functions that capture functions are nested too deeply";
  return NULL;
}

static void put_function(weft_encoder *e, int index) {
  lua_State *L = e->L;
  luaL_checkstack(L, 4, "function");
  lookup found = {.encoder = e, .code = weft_ship_find(e->state, L, index)};
  if (!found.code)
    weft_encode_undisturbed(e, look_up_name, index, &found);
  if (found.name) {
    put_name(e, found.name, found.size);
    return;
  }
  const char *reason = why_function_cannot(e, index, found.code != NULL);
  if (reason) {
    lua_pushvalue(L, index);
    weft_encode_refuse(e, reason);
    return;
  }
  int64_t seen = see(e, lua_topointer(L, index));
  if (seen >= 0) {
    check(e, weft_put_tagged(e->out, WEFT_TAG_REFERENCE, (uint64_t)seen));
    return;
  }
  if (!found.code)
    weft_encode_undisturbed(e, look_up_code, index, &found);
  put_new_function(e, index, found.code);
}

static void put_userdata(weft_encoder *e, int index) {
  weft_handle *handle = weft_test_handle(e->L, index);
  if (!handle) {
    luaL_checkstack(e->L, 4, "userdata");
    lua_pushvalue(e->L, index);
    weft_encode_refuse(e, "open it inside the task, or use weft.inline");
    return;
  }
  check(e, weft_buf_putc(e->out, WEFT_TAG_HANDLE));
  check(e, weft_parcel_write_handle(&e->state->writer, handle));
}

static void put_value(weft_encoder *e, int index) {
  int type = lua_type(e->L, index), rc = weft_put_plain(e->out, e->L, index, type);
  if (rc != WEFT_NOT_PLAIN) {
    check(e, rc);
    return;
  }
  void *pointer;
  switch (type) {
  case LUA_TTABLE:
    put_table(e, index);
    break;
  case LUA_TFUNCTION:
    put_function(e, index);
    break;
  case LUA_TUSERDATA:
    put_userdata(e, index);
    break;
  case LUA_TLIGHTUSERDATA:
    pointer = lua_touserdata(e->L, index);
    check(e, weft_buf_putc(e->out, WEFT_TAG_POINTER));
    check(e, weft_buf_append(e->out, &pointer, sizeof pointer));
    break;
  default: /* a coroutine, or LuaJIT's cdata */
    lua_pushvalue(e->L, index);
    weft_encode_refuse(e, "make it inside the task");
  }
}

enum { CHUNK = 32, LONGEST_INTEGER = 11 };

/* Writes the integers at stack indices first to last - 1, until something else comes: where that
 * is. */
static int put_integers(weft_encoder *e, int first, int last) {
  lua_State *L = e->L;
  weft_buf *out = e->out;
  check(e, weft_buf_reserve(out, CHUNK * LONGEST_INTEGER));
  uint8_t *at = out->data + out->size;
  while (first < last && weft_is_plain_integer(L, first)) {
    int64_t value = weft_to_integer(L, first++);
    uint64_t bits = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    for (*at++ = WEFT_TAG_INTEGER; bits >= 128; bits >>= 7)
      *at++ = (uint8_t)(bits | 128);
    *at++ = (uint8_t)bits;
  }
  out->size = (size_t)(at - out->data);
  return first;
}

/* The elements first to last of an array part, a few at a time: each call into Lua counts here. */
static void put_array(weft_encoder *e, int table, int first, int last) {
  lua_State *L = e->L;
  while (first <= last) {
    int count = last - first + 1 < CHUNK ? last - first + 1 : CHUNK;
    for (int i = 0; i < count; i++)
      lua_rawgeti(L, table, first + i);
    for (int i = table + 1; i <= table + count;) {
      i = put_integers(e, i, table + count + 1);
      for (; i <= table + count && !weft_is_plain_integer(L, i); i++)
        put_value(e, i);
    }
    lua_settop(L, table);
    first += count;
  }
}

static int is_next_in_run(lua_State *L, int key, uint32_t run) {
  return weft_is_plain_integer(L, key) && weft_to_integer(L, key) == (int64_t)run + 1;
}

/* Writes the contents of the table on top of the stack: a run 1..n, then pairs. A traversal meets
 * what is in the array part first and in order, so it may begin behind a run that is known to be
 * there. */
static void put_contents(weft_encoder *e) {
  lua_State *L = e->L;
  int table = lua_gettop(L);
  uint32_t counts[2] = {0, 0};
  size_t header = e->out->size, length = weft_rawlen(L, table);
  check(e, weft_buf_append(e->out, counts, sizeof counts));
  luaL_checkstack(L, CHUNK + 8, "table");
  if (weft_is_in_array(L, table, e->state->ship.array_offset, length)) {
    put_array(e, table, 1, (int)length);
    counts[0] = (uint32_t)length;
    weft_push_integer(L, (int64_t)length);
  } else {
    lua_pushnil(L);
  }
  while (lua_next(L, table)) {
    if (!counts[1] && is_next_in_run(L, table + 1, counts[0])) {
      counts[0]++;
    } else {
      put_value(e, table + 1);
      counts[1]++;
    }
    put_value(e, table + 2);
    lua_settop(L, table + 1);
  }
  memcpy(e->out->data + header, counts, sizeof counts);
}

static void put_pending(weft_encoder *e) {
  lua_State *L = e->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
  for (uint32_t i = 0; i < e->scratch->table_count; i++) {
    e->parent = i;
    e->label = NULL;
    e->number = e->scratch->tables[i].number;
    e->is_guarded = e->scratch->tables[i].is_guarded;
    lua_rawgeti(L, -1, (int)(e->scratch->held + i + 1));
    put_contents(e);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  weft_encode_forget_pending(e);
}

static int compare_cells(const void *a, const void *b) {
  const weft_cell *x = a, *y = b;
  if (x->id != y->id)
    return x->id < y->id ? -1 : 1;
  return x->function < y->function ? -1 : x->function > y->function;
}

static void put_shared_cells(weft_encoder *e) {
  weft_encoder_scratch *scratch = e->scratch;
  if (scratch->function_count < 2)
    return;
  qsort(scratch->cells, scratch->cell_count, sizeof *scratch->cells, compare_cells);
  for (uint32_t i = 1; i < scratch->cell_count; i++) {
    const weft_cell *first = &scratch->cells[i - 1], *second = &scratch->cells[i];
    if (first->id != second->id)
      continue;
    e->has_objects = 1;
    check(e, weft_put_tagged(e->out, WEFT_TAG_SHARE, second->function));
    check(e, weft_put_varint(e->out, second->index));
    check(e, weft_put_varint(e->out, first->function));
    check(e, weft_put_varint(e->out, first->index));
  }
}

static void reset_scratch(weft_encoder_scratch *scratch) {
  weft_ptrmap_clear(&scratch->seen);
  scratch->table_count = scratch->cell_count = scratch->function_count = 0;
}

void weft_encoder_scratch_free(weft_encoder_scratch *scratch) {
  reset_scratch(scratch);
  weft_free(scratch->tables);
  weft_free(scratch->cells);
  *scratch = (weft_encoder_scratch){0};
}

static void encode_once(weft_encoder *e, int first, int count) {
  weft_state *state = e->state;
  int is_task = count > 0 && lua_type(e->L, first) == LUA_TFUNCTION;
  weft_parcel_writer_reset(&state->writer);
  reset_scratch(&state->scratch);
  check(e, weft_buf_putc(e->out, 0));
  e->first = first;
  e->last = first + count - 1;
  for (int i = 0; i < count; i++) {
    e->number = is_task ? i : i + 1;
    put_value(e, first + i);
  }
  if (state->scratch.table_count)
    put_pending(e);
  put_shared_cells(e);
  if (e->has_objects) {
    uint32_t objects = state->scratch.seen.count;
    check(e, weft_buf_putc(e->out, WEFT_TAG_END));
    check(e, weft_buf_append(e->out, &objects, sizeof objects));
    e->out->data[0] |= WEFT_HAS_OBJECTS;
  }
}

/* A new function in the message may have made us look at what is loaded, and learn that a table
 * which was written before is a module: then all is written again. */
void weft_encode(weft_state *state, lua_State *L, int first, int count, const char *what,
                 weft_code_keeper *keeper) {
  uint32_t known;
  luaL_checkstack(L, 16, "message");
  do {
    weft_encoder e = {.state = state,
                      .L = L,
                      .out = &state->writer.buf,
                      .scratch = &state->scratch,
                      .keeper = keeper,
                      .what = what,
                      .foreign_table = weft_guests_table(&state->scheduler, L),
                      .names_known = known = state->names_loaded,
                      .parent = UINT32_MAX};
    encode_once(&e, first, count);
  } while (known != state->names_loaded);
}

void weft_encode_finish(weft_state *state, lua_State *L, weft_parcel *parcel, int count) {
  if (weft_parcel_finish(&state->writer, parcel) != WEFT_BUF_OK)
    luaL_error(L, "not enough memory");
  parcel->count = (uint32_t)count;
}

void weft_to_parcel(weft_state *state, lua_State *L, int first, int count, const char *what,
                    weft_parcel *parcel) {
  if (!weft_encode_plain(state, L, first, count))
    weft_encode(state, L, first, count, what, NULL);
  weft_encode_finish(state, L, parcel, count);
}
