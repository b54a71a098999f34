/* value.c: the encoder and the decoder of messages.
 *
 * Owns nothing that outlives a call but the state's scratch. Entered by the state's thread alone.
 * Invariant: both sides number tables and functions in the order in which they are first written, so
 * a reference is a number, cycles included.
 *
 * A message: flags, the values, then the contents of the tables in the order of their numbers, then
 * the captured variables that functions share, then (when flagged) how many objects there are. The
 * contents come after, not inside: depth costs no stack on either side.
 */
#include "value.h"

#include "names.h"
#include "ship.h"
#include "state.h"
#include "vmprobe.h"

#include <stdlib.h>

enum {
  TAG_NIL,
  TAG_FALSE,
  TAG_TRUE,
  TAG_INTEGER,
  TAG_FLOAT,
  TAG_STRING,
  TAG_POINTER,
  TAG_TABLE,
  TAG_GUARDED_TABLE, /* captured: a new key in it raises */
  TAG_METATABLE,     /* a name, then the table that has it */
  TAG_REFERENCE,
  TAG_FUNCTION,      /* code kept alive by somebody else */
  TAG_FUNCTION_HELD, /* code kept alive by the message */
  TAG_GLOBALS,
  TAG_NAME,
  TAG_HANDLE,
  TAG_SHARE, /* two functions share a captured variable */
  TAG_END,
};

enum { HAS_OBJECTS = 1 }; /* flags */
enum { MAX_FUNCTION_DEPTH = 100, STACK_OBJECTS = 48 };

typedef struct weft_pending_table {
  uint32_t object;   /* its number */
  uint32_t parent;   /* the table that it was found in, as an index of this list; see label */
  const char *label; /* found in a captured variable of this name or in a value; NULL: in parent */
  int number;        /* of the value that it is part of */
  uint8_t is_guarded;
} weft_pending_table;

typedef struct weft_cell {
  const void *id;
  uint32_t function;
  uint32_t index;
} weft_cell;

typedef struct encoder {
  weft_state *state;
  lua_State *L;
  weft_buf *out;
  weft_encoder_scratch *scratch;
  weft_code_keeper *keeper;
  const char *what;  /* for errors: "argument" */
  int number;        /* of the value being written */
  const char *label; /* the captured variable being written, or NULL */
  uint32_t parent;   /* the table being written, as an index of scratch->tables */
  int depth;         /* of functions */
  uint32_t names_known; /* the state's when this writing began */
  uint8_t is_guarded, has_objects;
} encoder;

/* ---- writing ---- */

static void check(encoder *e, int rc) {
  if (rc == WEFT_BUF_LIMIT)
    luaL_error(e->L, "the message is larger than the limit of %d MiB",
               (int)(WEFT_PARCEL_MAX >> 20));
  else if (rc != WEFT_BUF_OK)
    luaL_error(e->L, "not enough memory");
}

static inline int put_varint(weft_buf *out, uint64_t value) {
  int rc = weft_buf_reserve(out, 10);
  if (rc != WEFT_BUF_OK)
    return rc;
  while (value >= 128) {
    out->data[out->size++] = (uint8_t)(value | 128);
    value >>= 7;
  }
  out->data[out->size++] = (uint8_t)value;
  return WEFT_BUF_OK;
}

static inline int put_tagged(weft_buf *out, uint8_t tag, uint64_t value) {
  int rc = weft_buf_putc(out, tag);
  return rc ? rc : put_varint(out, value);
}

static inline int put_bytes(weft_buf *out, uint8_t tag, const char *bytes, size_t size) {
  int rc = put_tagged(out, tag, size);
  return rc ? rc : weft_buf_append(out, bytes, size);
}

static inline int put_integer(weft_buf *out, int64_t value) {
  return put_tagged(out, TAG_INTEGER, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

static inline int put_number(weft_buf *out, lua_State *L, int index) {
  if (weft_is_integer(L, index))
    return put_integer(out, weft_to_integer(L, index));
  lua_Number number = lua_tonumber(L, index);
  int rc = weft_buf_putc(out, TAG_FLOAT);
  return rc ? rc : weft_buf_append(out, &number, sizeof number);
}

enum { NOT_PLAIN = 1 };

/* A WEFT_BUF_ code, or NOT_PLAIN. */
static inline int put_plain(weft_buf *out, lua_State *L, int index) {
  size_t size;
  const char *bytes;
  switch (lua_type(L, index)) {
  case LUA_TNIL:
    return weft_buf_putc(out, TAG_NIL);
  case LUA_TBOOLEAN:
    return weft_buf_putc(out, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE);
  case LUA_TNUMBER:
    return put_number(out, L, index);
  case LUA_TSTRING:
    bytes = lua_tolstring(L, index, &size);
    return put_bytes(out, TAG_STRING, bytes, size);
  default:
    return NOT_PLAIN;
  }
}

int weft_encode_plain(weft_state *state, lua_State *L, int first, int count) {
  weft_parcel_writer *writer = &state->writer;
  weft_parcel_writer_reset(writer);
  int rc = weft_buf_putc(&writer->buf, 0);
  for (int i = 0; i < count && rc == WEFT_BUF_OK; i++)
    rc = put_plain(&writer->buf, L, first + i);
  if (rc == WEFT_BUF_OK)
    return 1;
  weft_parcel_writer_reset(writer);
  return 0;
}

/* ---- errors that name the path ---- */

static void push_key(lua_State *L, int key) {
  if (lua_type(L, key) == LUA_TSTRING)
    lua_pushfstring(L, ".%s", lua_tostring(L, key));
  else if (lua_type(L, key) == LUA_TNUMBER && weft_is_integer(L, key))
    lua_pushfstring(L, "[%d]", (int)weft_to_integer(L, key));
  else if (lua_type(L, key) == LUA_TNUMBER)
    lua_pushfstring(L, "[%f]", lua_tonumber(L, key));
  else
    lua_pushfstring(L, "[%s]", luaL_typename(L, key));
}

/* Pushes ".key" under which `value` lies in `table`, or the key itself when that is the value. */
static void push_key_of(lua_State *L, int table, int value) {
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_rawequal(L, -1, value) || lua_rawequal(L, -2, value)) {
      push_key(L, top + 1);
      lua_replace(L, top + 1);
      lua_settop(L, top + 1);
      return;
    }
    lua_pop(L, 1);
  }
  lua_pushliteral(L, "[?]");
}

static void push_root(encoder *e, const char *label) {
  if (label)
    lua_pushfstring(e->L, "upvalue '%s'", label);
  else if (e->number == 0)
    lua_pushfstring(e->L, "%s", e->what);
  else
    lua_pushfstring(e->L, "%s %d", e->what, e->number);
}

/* Replaces the value on top of the stack by the path to it: "upvalue 'db'.conn". Climbs from table to
 * table; `child` is the place of the value whose key is looked for, child + 1 the path so far. */
static void push_path(encoder *e) {
  lua_State *L = e->L;
  const char *label = e->label;
  uint32_t parent = e->parent;
  int child = lua_gettop(L);
  lua_pushliteral(L, "");
  while (!label && parent != UINT32_MAX) {
    const weft_pending_table *table = &e->scratch->tables[parent];
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
    lua_rawgeti(L, -1, (int)parent + 1);
    lua_replace(L, -2);
    push_key_of(L, child + 2, child);
    lua_pushvalue(L, child + 1);
    lua_concat(L, 2);
    lua_replace(L, child + 1);
    lua_replace(L, child);
    label = table->label;
    parent = table->parent;
  }
  push_root(e, label);
  lua_insert(L, child + 1);
  lua_concat(L, 2);
  lua_replace(L, child);
}

/* Pushes what a userdata calls itself, "userdata FILE*", or the plain type name. */
static const char *push_type_name(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
    return lua_pushstring(L, luaL_typename(L, index)), lua_tostring(L, -1);
  int metatable = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, LUA_REGISTRYINDEX)) { /* where luaL_newmetatable put it */
    if (lua_type(L, -2) == LUA_TSTRING && lua_rawequal(L, -1, metatable)) {
      const char *name = lua_pushfstring(L, "userdata %s", lua_tostring(L, -2));
      lua_replace(L, metatable);
      lua_settop(L, metatable);
      return name;
    }
    lua_pop(L, 1);
  }
  lua_pushliteral(L, "userdata");
  lua_replace(L, metatable);
  return lua_tostring(L, metatable);
}

/* Holds on to no table of a message that is written, or refused. */
static void forget_pending(encoder *e) {
  lua_rawgeti(e->L, LUA_REGISTRYINDEX, e->state->pending);
  for (uint32_t i = 0; i < e->scratch->table_count; i++) {
    lua_pushnil(e->L);
    lua_rawseti(e->L, -2, (int)i + 1);
  }
  lua_pop(e->L, 1);
}

/* Raises "<path>: <type> cannot be sent; <advice>". The culprit is on top of the stack, which it leaves.
 * Returns when it may be part of a module that was loaded lately: the message is then written again. */
static void refuse(encoder *e, const char *advice) {
  lua_State *L = e->L;
  luaL_checkstack(L, 16, "error");
  if (weft_names_refresh(e->state, L) || e->names_known != e->state->names_loaded) {
    lua_pop(L, 1);
    return;
  }
  int culprit = lua_gettop(L);
  const char *type = push_type_name(L, culprit);
  lua_pushvalue(L, culprit);
  push_path(e);
  forget_pending(e);
  luaL_error(L, "%s: %s cannot be sent; %s", lua_tostring(L, -1), type, advice);
}

/* ---- tables ---- */

static void add_pending(encoder *e, uint32_t object) {
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
static int64_t see(encoder *e, int index) {
  int64_t seen = weft_ptrmap_see(&e->scratch->seen, lua_topointer(e->L, index));
  if (seen == WEFT_PTRMAP_NOMEM)
    check(e, WEFT_BUF_NOMEM);
  e->has_objects |= seen >= 0;
  return seen;
}

/* A metatable crosses by its registered name; the guard is ours and is left behind. */
static void put_metatable(encoder *e, int index) {
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
      lua_settop(L, lua_gettop(L) - 3);
      lua_getfield(L, -1, "__weft_advice");
      const char *advice = lua_tostring(L, -1);
      lua_pushvalue(L, index);
      refuse(e, advice ? advice
                       : "it has a metatable: register that with weft.register(name, metatable)");
      lua_pop(L, 2);
      return;
    }
    check(e, put_bytes(e->out, TAG_METATABLE, name, size));
    lua_pop(L, 2);
  }
  lua_pop(L, 2);
}

static void put_name(encoder *e, const char *name, size_t size) {
  check(e, put_bytes(e->out, TAG_NAME, name, size));
}

static void put_table(encoder *e, int index) {
  lua_State *L = e->L;
  size_t size;
  luaL_checkstack(L, 12, "table");
  const char *name = weft_names_find(e->state, L, index, &size);
  if (name) {
    put_name(e, name, size);
    return;
  }
  int64_t seen = see(e, index);
  if (seen >= 0) {
    check(e, put_tagged(e->out, TAG_REFERENCE, (uint64_t)seen));
    return;
  }
  put_metatable(e, index);
  e->has_objects = 1;
  check(e, put_tagged(e->out, e->is_guarded ? TAG_GUARDED_TABLE : TAG_TABLE,
                      weft_rawlen(L, index)));
  add_pending(e, e->scratch->seen.count - 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (int)e->scratch->table_count);
  lua_pop(L, 1);
}

/* ---- functions ---- */

static void note_cell(encoder *e, const void *id, uint32_t function, uint32_t index) {
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

static void put_value(encoder *e, int index);

static void put_code(encoder *e, weft_code *code) {
  if (e->keeper) {
    check(e, weft_buf_putc(e->out, TAG_FUNCTION));
    if (!e->keeper->keep(e->keeper, code))
      check(e, WEFT_BUF_NOMEM);
    check(e, weft_buf_append(e->out, &code, sizeof code));
  } else {
    check(e, weft_buf_putc(e->out, TAG_FUNCTION_HELD));
    check(e, weft_parcel_write_handle(&e->state->writer, &code->handle));
  }
}

static void put_upvalues(encoder *e, int index, uint32_t function, const weft_code *code) {
  lua_State *L = e->L;
  const char *outer_label = e->label;
  uint32_t outer_parent = e->parent;
  uint8_t was_guarded = e->is_guarded;
  luaL_checkstack(L, 16, "function");
  e->is_guarded = 1;
  e->depth++;
  e->parent = UINT32_MAX;
  for (int i = 1; i <= code->upvalue_count; i++) {
    const char *name = lua_getupvalue(L, index, i);
    e->label = name && *name ? name : "?";
    if (weft_ship_is_env(code, i)) {
      check(e, weft_buf_putc(e->out, TAG_GLOBALS));
    } else {
      put_value(e, lua_gettop(L));
      note_cell(e, lua_upvalueid(L, index, i), function, (uint32_t)i);
    }
    lua_pop(L, 1);
  }
  e->is_guarded = was_guarded;
  e->depth--;
  e->parent = outer_parent;
  e->label = outer_label;
}

static void put_new_function(encoder *e, int index, weft_code *code) {
  uint32_t function = e->scratch->seen.count - 1;
  e->scratch->function_count++;
  put_code(e, code);
  if (code->upvalue_count)
    put_upvalues(e, index, function, code);
}

/* Code that was shipped before is no module's function; anything else may be. */
static const char *find_function_name(encoder *e, int index, size_t *size) {
  const char *name = weft_names_find_function(e->state, e->L, index, size);
  if (name || !weft_names_refresh(e->state, e->L))
    return name;
  return weft_names_find_function(e->state, e->L, index, size);
}

static void put_function(encoder *e, int index) {
  lua_State *L = e->L;
  size_t size;
  weft_code *code = weft_ship_find(e->state, L, index);
  const char *name = code ? NULL : find_function_name(e, index, &size);
  if (name) {
    put_name(e, name, size);
    return;
  }
  if (lua_iscfunction(L, index) || e->depth >= MAX_FUNCTION_DEPTH) {
    lua_pushvalue(L, index);
    refuse(e, lua_iscfunction(L, index)
                  ? "it is a C function that no loaded module has; require its module in the task"
                  : "functions that capture functions are nested too deeply");
    return;
  }
  int64_t seen = see(e, index);
  if (seen >= 0)
    check(e, put_tagged(e->out, TAG_REFERENCE, (uint64_t)seen));
  else
    put_new_function(e, index, code ? code : weft_ship_code(e->state, L, index));
}

static void put_userdata(encoder *e, int index) {
  weft_handle *handle = weft_test_handle(e->L, index);
  if (!handle) {
    lua_pushvalue(e->L, index);
    refuse(e, "open it inside the task, or use weft.inline");
    return;
  }
  check(e, weft_buf_putc(e->out, TAG_HANDLE));
  check(e, weft_parcel_write_handle(&e->state->writer, handle));
}

static void put_value(encoder *e, int index) {
  int rc = put_plain(e->out, e->L, index);
  if (rc != NOT_PLAIN) {
    check(e, rc);
    return;
  }
  void *pointer;
  switch (lua_type(e->L, index)) {
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
    check(e, weft_buf_putc(e->out, TAG_POINTER));
    check(e, weft_buf_append(e->out, &pointer, sizeof pointer));
    break;
  default: /* a coroutine, or LuaJIT's cdata */
    lua_pushvalue(e->L, index);
    refuse(e, "make it inside the task");
  }
}

enum { CHUNK = 32, LONGEST_INTEGER = 11 };

/* Writes the integers at stack indices first to last - 1, until something else comes: where that is. */
static int put_integers(encoder *e, int first, int last) {
  lua_State *L = e->L;
  weft_buf *out = e->out;
  check(e, weft_buf_reserve(out, CHUNK * LONGEST_INTEGER));
  uint8_t *at = out->data + out->size;
  while (first < last && weft_is_plain_integer(L, first)) {
    int64_t value = weft_to_integer(L, first++);
    uint64_t bits = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    for (*at++ = TAG_INTEGER; bits >= 128; bits >>= 7)
      *at++ = (uint8_t)(bits | 128);
    *at++ = (uint8_t)bits;
  }
  out->size = (size_t)(at - out->data);
  return first;
}

/* The elements first to last of an array part, a few at a time: each call into Lua counts here. */
static void put_array(encoder *e, int table, int first, int last) {
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

/* Writes the contents of the table on top of the stack: a run 1..n, then pairs. A traversal meets what
 * is in the array part first and in order, so it may begin behind a run that is known to be there. */
static void put_contents(encoder *e) {
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

static void put_pending(encoder *e) {
  lua_State *L = e->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->pending);
  for (uint32_t i = 0; i < e->scratch->table_count; i++) {
    e->parent = i;
    e->label = NULL;
    e->number = e->scratch->tables[i].number;
    e->is_guarded = e->scratch->tables[i].is_guarded;
    lua_rawgeti(L, -1, (int)i + 1);
    put_contents(e);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  forget_pending(e);
}

static int compare_cells(const void *a, const void *b) {
  const weft_cell *x = a, *y = b;
  if (x->id != y->id)
    return x->id < y->id ? -1 : 1;
  return x->function < y->function ? -1 : x->function > y->function;
}

static void put_shared_cells(encoder *e) {
  weft_encoder_scratch *scratch = e->scratch;
  if (scratch->function_count < 2)
    return;
  qsort(scratch->cells, scratch->cell_count, sizeof *scratch->cells, compare_cells);
  for (uint32_t i = 1; i < scratch->cell_count; i++) {
    const weft_cell *first = &scratch->cells[i - 1], *second = &scratch->cells[i];
    if (first->id != second->id)
      continue;
    e->has_objects = 1;
    check(e, put_tagged(e->out, TAG_SHARE, second->function));
    check(e, put_varint(e->out, second->index));
    check(e, put_varint(e->out, first->function));
    check(e, put_varint(e->out, first->index));
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

static void encode_once(encoder *e, int first, int count) {
  weft_state *state = e->state;
  int is_task = count > 0 && lua_type(e->L, first) == LUA_TFUNCTION;
  weft_parcel_writer_reset(&state->writer);
  reset_scratch(&state->scratch);
  check(e, weft_buf_putc(e->out, 0));
  for (int i = 0; i < count; i++) {
    e->number = is_task ? i : i + 1;
    put_value(e, first + i);
  }
  if (state->scratch.table_count)
    put_pending(e);
  put_shared_cells(e);
  if (e->has_objects) {
    uint32_t objects = state->scratch.seen.count;
    check(e, weft_buf_putc(e->out, TAG_END));
    check(e, weft_buf_append(e->out, &objects, sizeof objects));
    e->out->data[0] |= HAS_OBJECTS;
  }
}

/* A new function in the message may have made us look at what is loaded, and learn that a table which
 * was written before is a module: then all is written again. */
void weft_encode(weft_state *state, lua_State *L, int first, int count, const char *what,
                 weft_code_keeper *keeper) {
  uint32_t known;
  luaL_checkstack(L, 16, "message");
  do {
    encoder e = {.state = state,
                 .L = L,
                 .out = &state->writer.buf,
                 .scratch = &state->scratch,
                 .keeper = keeper,
                 .what = what,
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

/* ---- reading ---- */

typedef struct fixup { /* a captured variable whose function was not built yet */
  uint32_t function, index, target;
} fixup;

typedef struct decoder {
  weft_state *state;
  lua_State *L;
  const uint8_t *at;
  int objects;     /* stack index of the first object's place, or of the table that holds them */
  uint8_t in_table, has_objects;
  uint32_t count;  /* objects numbered so far */
  uint32_t *order; /* numbers of the tables, in the order of their contents: see tables */
  uint32_t table_count, table_capacity;
  fixup *fixups;
  uint32_t fixup_count, fixup_capacity;
  uint32_t unbuilt; /* set by a reference to a function that is being built: its number + 1 */
} decoder;

static inline uint64_t get_varint(decoder *d) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    uint8_t byte = *d->at++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128)
      return value;
  }
}

static void get_value(decoder *d);

/* Remembers the value on top of the stack as object `number`. */
static void keep_object(decoder *d, uint32_t number) {
  if (!d->has_objects)
    return;
  lua_pushvalue(d->L, -1);
  if (d->in_table)
    lua_rawseti(d->L, d->objects, (int)number + 1);
  else
    lua_replace(d->L, d->objects + (int)number);
}

static void push_object(decoder *d, uint32_t number) {
  if (d->in_table)
    lua_rawgeti(d->L, d->objects, (int)number + 1);
  else
    lua_pushvalue(d->L, d->objects + (int)number);
}

/* Scratch memory as userdata on the stack would cost more; a raise while decoding (out of memory, a
 * module that cannot be loaded) leaks nothing since both arrays are Lua's, see grow. */
static void *grow(decoder *d, void *old, uint32_t *capacity, size_t size) {
  uint32_t wanted = *capacity ? *capacity * 2 : 16;
  lua_rawgeti(d->L, LUA_REGISTRYINDEX, d->state->pending);
  void *grown = lua_newuserdata(d->L, wanted * size);
  if (old)
    memcpy(grown, old, *capacity * size);
  lua_pushvalue(d->L, -1);
  lua_rawsetp(d->L, -3, capacity); /* anchored until the decoder is done */
  lua_pop(d->L, 2);
  *capacity = wanted;
  return grown;
}

static void release_scratch(decoder *d) {
  if (!d->table_capacity && !d->fixup_capacity)
    return;
  lua_rawgeti(d->L, LUA_REGISTRYINDEX, d->state->pending);
  lua_pushnil(d->L);
  lua_rawsetp(d->L, -2, &d->table_capacity);
  lua_pushnil(d->L);
  lua_rawsetp(d->L, -2, &d->fixup_capacity);
  lua_pop(d->L, 1);
}

static void get_table(decoder *d, int is_guarded) {
  lua_State *L = d->L;
  uint64_t size = get_varint(d);
  lua_createtable(L, size > 1 << 20 ? 1 << 20 : (int)size, 0);
  if (is_guarded) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, d->state->guard);
    lua_setmetatable(L, -2);
  }
  if (d->table_count == d->table_capacity)
    d->order = grow(d, d->order, &d->table_capacity, sizeof *d->order);
  d->order[d->table_count++] = d->count;
  keep_object(d, d->count++);
}

/* Pushes the metatable that is registered under the name, or nil. */
static void push_registered(decoder *d, const char *name, size_t size) {
  lua_rawgeti(d->L, LUA_REGISTRYINDEX, d->state->metatables);
  lua_pushlstring(d->L, name, size);
  lua_rawget(d->L, -2);
  lua_replace(d->L, -2);
}

/* A metatable may have the name of the module that registers it, which is then loaded here. */
static void push_metatable(decoder *d, const char *name, size_t size) {
  lua_State *L = d->L;
  push_registered(d, name, size);
  if (!lua_isnil(L, -1))
    return;
  luaL_checkstack(L, 16, "metatable");
  lua_pushlstring(L, name, size);
  const char *module = lua_tostring(L, -1);
  int is_loaded = weft_names_require(L, module);
  push_registered(d, name, size);
  if (!lua_isnil(L, -1))
    return;
  const char *why = is_loaded ? "the module of that name does not do it" : lua_tostring(L, -2);
  if (!why)
    why = "it raised an error";
  size_t line = strcspn(why, "\n");
  luaL_error(L,
             "the metatable '%s' is not registered in this Lua state; call weft.register in a module "
             "that the task (or the pool's init) requires, or in one of that name (%s)",
             module, (lua_pushlstring(L, why, line), lua_tostring(L, -1)));
}

static void get_metatable(decoder *d) {
  size_t size = get_varint(d);
  const char *name = (const char *)d->at;
  d->at += size;
  get_value(d);
  int top = lua_gettop(d->L);
  push_metatable(d, name, size);
  lua_setmetatable(d->L, top);
  lua_settop(d->L, top);
}

static void note_fixup(decoder *d, uint32_t function, uint32_t index) {
  if (d->fixup_count == d->fixup_capacity)
    d->fixups = grow(d, d->fixups, &d->fixup_capacity, sizeof *d->fixups);
  d->fixups[d->fixup_count++] = (fixup){function, index, d->unbuilt - 1};
}

static void get_function(decoder *d, const weft_code *code) {
  lua_State *L = d->L;
  uint32_t number = d->count++;
  if (number == 0)
    d->state->ship.first_where = code->where;
  luaL_checkstack(L, code->upvalue_count + 8, "upvalues");
  weft_ship_push_factory(d->state, L, code);
  for (int i = 1; i <= code->upvalue_count; i++) {
    d->unbuilt = 0;
    get_value(d);
    if (d->unbuilt)
      note_fixup(d, number, (uint32_t)i);
  }
  d->unbuilt = 0;
  weft_ship_call_factory(d->state, L, code);
  keep_object(d, number);
}

static const weft_code *read_code(decoder *d, int is_record) {
  const weft_code *code;
  memcpy(&code, d->at, sizeof code);
  d->at += is_record ? WEFT_PARCEL_HANDLE_SIZE : sizeof code;
  return code;
}

static void get_reference(decoder *d) {
  uint32_t number = (uint32_t)get_varint(d);
  push_object(d, number);
  if (lua_isnil(d->L, -1))
    d->unbuilt = number + 1;
}

static inline void get_integer(decoder *d) {
  d->at++;
  uint64_t bits = get_varint(d);
  weft_push_integer(d->L, (int64_t)(bits >> 1) ^ -(int64_t)(bits & 1));
}

static void get_plain(decoder *d, uint8_t tag) {
  lua_State *L = d->L;
  lua_Number number;
  void *pointer;
  uint64_t bits;
  switch (tag) {
  case TAG_INTEGER:
    d->at--;
    get_integer(d);
    break;
  case TAG_FLOAT:
    memcpy(&number, d->at, sizeof number);
    d->at += sizeof number;
    lua_pushnumber(L, number);
    break;
  case TAG_STRING:
    bits = get_varint(d);
    lua_pushlstring(L, (const char *)d->at, bits);
    d->at += bits;
    break;
  case TAG_POINTER:
    memcpy(&pointer, d->at, sizeof pointer);
    d->at += sizeof pointer;
    lua_pushlightuserdata(L, pointer);
    break;
  case TAG_NIL:
    lua_pushnil(L);
    break;
  default:
    lua_pushboolean(L, tag == TAG_TRUE);
  }
}

static void get_value(decoder *d) {
  uint8_t tag = *d->at++;
  size_t size;
  switch (tag) {
  case TAG_TABLE:
  case TAG_GUARDED_TABLE:
    get_table(d, tag == TAG_GUARDED_TABLE);
    break;
  case TAG_METATABLE:
    get_metatable(d);
    break;
  case TAG_REFERENCE:
    get_reference(d);
    break;
  case TAG_FUNCTION:
  case TAG_FUNCTION_HELD:
    get_function(d, read_code(d, tag == TAG_FUNCTION_HELD));
    break;
  case TAG_GLOBALS:
    weft_push_globals(d->L);
    break;
  case TAG_NAME:
    size = get_varint(d);
    weft_names_push(d->state, d->L, (const char *)d->at, size);
    d->at += size;
    break;
  case TAG_HANDLE:
    weft_push_handle(d->state, d->L, weft_parcel_read_handle(d->at));
    d->at += WEFT_PARCEL_HANDLE_SIZE;
    break;
  default:
    get_plain(d, tag);
  }
}

static void get_contents(decoder *d, uint32_t number) {
  lua_State *L = d->L;
  uint32_t counts[2];
  memcpy(counts, d->at, sizeof counts);
  d->at += sizeof counts;
  push_object(d, number);
  for (uint32_t i = 1; i <= counts[0]; i++) {
    if (*d->at == TAG_INTEGER && d->at[1] < 128) { /* the commonest: one byte */
      weft_push_integer(L, (int64_t)(d->at[1] >> 1) ^ -(int64_t)(d->at[1] & 1));
      d->at += 2;
    } else if (*d->at == TAG_INTEGER) {
      get_integer(d);
    } else {
      get_value(d);
    }
    lua_rawseti(L, -2, (int)i);
  }
  for (uint32_t i = 0; i < counts[1]; i++) {
    get_value(d);
    get_value(d);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

static void share_cells(decoder *d) {
  while (*d->at == TAG_SHARE) {
    d->at++;
    uint32_t function = (uint32_t)get_varint(d), index = (uint32_t)get_varint(d);
    uint32_t other = (uint32_t)get_varint(d), other_index = (uint32_t)get_varint(d);
    push_object(d, function);
    push_object(d, other);
    lua_upvaluejoin(d->L, -2, (int)index, -1, (int)other_index);
    lua_pop(d->L, 2);
  }
}

static void apply_fixups(decoder *d) {
  for (uint32_t i = 0; i < d->fixup_count; i++) {
    push_object(d, d->fixups[i].function);
    push_object(d, d->fixups[i].target);
    lua_setupvalue(d->L, -2, (int)d->fixups[i].index);
    lua_pop(d->L, 1);
  }
}

/* Makes places for the objects below the values: on the stack for a few, else in a table. */
static void prepare_objects(decoder *d, const weft_parcel *parcel) {
  uint32_t objects;
  lua_State *L = d->L;
  memcpy(&objects, parcel->data + parcel->size - sizeof objects, sizeof objects);
  d->has_objects = 1;
  d->objects = lua_gettop(L) + 1;
  d->in_table = objects > STACK_OBJECTS;
  if (d->in_table)
    lua_createtable(L, objects > 1 << 20 ? 1 << 20 : (int)objects, 0);
  else
    lua_settop(L, lua_gettop(L) + (int)objects);
}

int weft_decode_plain(lua_State *L, const weft_parcel *parcel) {
  if (parcel->count != 1 || parcel->data[1] > TAG_POINTER)
    return 0;
  decoder d = {.L = L, .at = parcel->data + 2};
  get_plain(&d, parcel->data[1]);
  return 1;
}

int weft_decode(weft_state *state, lua_State *L, const weft_parcel *parcel) {
  decoder d = {.state = state, .L = L, .at = parcel->data + 1};
  int top = lua_gettop(L), count = (int)parcel->count;
  uint32_t few_tables[8];
  if (parcel->size == 0)
    return 0;
  state->ship.first_where = NULL;
  luaL_checkstack(L, count + STACK_OBJECTS + 16, "message");
  d.order = few_tables;
  d.table_capacity = 8;
  if (parcel->data[0] & HAS_OBJECTS)
    prepare_objects(&d, parcel);
  for (int i = 0; i < count; i++)
    get_value(&d);
  for (uint32_t i = 0; i < d.table_count; i++)
    get_contents(&d, d.order[i]);
  if (d.has_objects) {
    apply_fixups(&d);
    share_cells(&d);
    if (d.table_capacity > 8 || d.fixup_capacity)
      release_scratch(&d);
    int first = lua_gettop(L) - count;
    for (int i = 1; i <= count; i++) { /* the values take the objects' places */
      lua_pushvalue(L, first + i);
      lua_replace(L, top + i);
    }
    lua_settop(L, top + count);
  }
  return count;
}
