/* decode.c: messages to values.
 *
 * Owns nothing that outlives a call. Entered by the state's thread alone. Invariant: objects are
 * numbered as the encoder did; see encode.h.
 */
#include "encode.h"

#include "names.h"

enum { STACK_OBJECTS = 48, FEW_UPVALUES = 8 };

typedef struct fixup { /* a captured variable whose function was not built yet */
  uint32_t function, index, target;
} fixup;

typedef struct decoder {
  weft_state *state;
  lua_State *L;
  const uint8_t *at;
  int objects; /* stack index of the first object's place, or of the table that holds them */
  uint8_t in_table, has_objects;
  uint32_t count;  /* objects numbered so far */
  uint32_t *order; /* numbers of the tables, in the order of their contents: see tables */
  uint32_t table_count, table_capacity;
  fixup *fixups;
  uint32_t fixup_count, fixup_capacity;
  uint32_t unbuilt; /* set by a reference to a function that is being built: its number + 1 */
  uint32_t depth;   /* of functions */
  const char *first_where; /* see weft_ship */
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
  luaL_error(
      L,
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
    d->first_where = code->where;
  if (d->depth++ > 0 || code->upvalue_count > FEW_UPVALUES) /* else weft_decode made room */
    luaL_checkstack(L, code->upvalue_count + 16, "upvalues");
  weft_ship_push_factory(d->state, L, code);
  for (int i = 1; i <= code->upvalue_count; i++) {
    d->unbuilt = 0;
    get_value(d);
    if (d->unbuilt)
      note_fixup(d, number, (uint32_t)i);
  }
  d->unbuilt = 0;
  d->depth--;
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
  case WEFT_TAG_INTEGER:
    d->at--;
    get_integer(d);
    break;
  case WEFT_TAG_FLOAT:
    memcpy(&number, d->at, sizeof number);
    d->at += sizeof number;
    lua_pushnumber(L, number);
    break;
  case WEFT_TAG_STRING:
    bits = get_varint(d);
    lua_pushlstring(L, (const char *)d->at, bits);
    d->at += bits;
    break;
  case WEFT_TAG_POINTER:
    memcpy(&pointer, d->at, sizeof pointer);
    d->at += sizeof pointer;
    lua_pushlightuserdata(L, pointer);
    break;
  case WEFT_TAG_NIL:
    lua_pushnil(L);
    break;
  default:
    lua_pushboolean(L, tag == WEFT_TAG_TRUE);
  }
}

static void get_value(decoder *d) {
  uint8_t tag = *d->at++;
  size_t size;
  switch (tag) {
  case WEFT_TAG_TABLE:
  case WEFT_TAG_GUARDED_TABLE:
    get_table(d, tag == WEFT_TAG_GUARDED_TABLE);
    break;
  case WEFT_TAG_METATABLE:
    get_metatable(d);
    break;
  case WEFT_TAG_REFERENCE:
    get_reference(d);
    break;
  case WEFT_TAG_FUNCTION:
  case WEFT_TAG_FUNCTION_HELD:
    get_function(d, read_code(d, tag == WEFT_TAG_FUNCTION_HELD));
    break;
  case WEFT_TAG_GLOBALS:
    weft_push_globals(d->L);
    break;
  case WEFT_TAG_NAME:
    size = get_varint(d);
    weft_names_push(d->state, d->L, (const char *)d->at, size);
    d->at += size;
    break;
  case WEFT_TAG_HANDLE:
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
    if (*d->at == WEFT_TAG_INTEGER && d->at[1] < 128) { /* the commonest: one byte */
      weft_push_integer(L, (int64_t)(d->at[1] >> 1) ^ -(int64_t)(d->at[1] & 1));
      d->at += 2;
    } else if (*d->at == WEFT_TAG_INTEGER) {
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
  while (*d->at == WEFT_TAG_SHARE) {
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
  if (parcel->count != 1 || parcel->data[1] > WEFT_TAG_POINTER)
    return 0;
  const uint8_t *at = parcel->data + 1;
  if (at[0] == WEFT_TAG_INTEGER && at[1] < 128) { /* the commonest: one byte */
    weft_push_integer(L, (int64_t)(at[1] >> 1) ^ -(int64_t)(at[1] & 1));
    return 1;
  }
  decoder d = {.L = L, .at = at + 1};
  get_plain(&d, at[0]);
  return 1;
}

int weft_decode(weft_state *state, lua_State *L, const weft_parcel *parcel) {
  decoder d = {.state = state, .L = L, .at = parcel->data + 1};
  int top = lua_gettop(L), count = (int)parcel->count;
  uint32_t few_tables[8];
  if (parcel->size == 0)
    return 0;
  luaL_checkstack(L, count + STACK_OBJECTS + FEW_UPVALUES + 24, "message");
  d.order = few_tables;
  d.table_capacity = 8;
  if (parcel->data[0] & WEFT_HAS_OBJECTS)
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
  state->ship.first_where =
      d.first_where; /* after all that may run finalizers, which decode, too */
  return count;
}
