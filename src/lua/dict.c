/* dict.c: shared maps in Lua: values are packed by the writer and unpacked by each reader.
 *
 * Owns the references of an update that is under way, in a userdata. Entered by the state's thread.
 * Invariant: no Lua code runs, and nothing is packed or unpacked, under a lock of the dict.
 */
#include "../core/dict.h"

#include "errors.h"
#include "objects.h"
#include "state.h"

#include <math.h>
#include <string.h>

static const char token_key; /* of the metatable of tokens in the registry */

static weft_dict *check_self(lua_State *L, const char *what) {
  return (weft_dict *)weft_check_handle(L, 1, &weft_dict_type, what, "self");
}

typedef struct settings {
  uint32_t max;
  double ttl;
} settings;

static void read_option(lua_State *L, settings *settings, const char *name) {
  int index = lua_gettop(L);
  if (strcmp(name, "max") == 0)
    settings->max = weft_check_count(L, index, "weft.dict", "max", 1, WEFT_MAX_COUNT);
  else if (strcmp(name, "ttl") == 0)
    settings->ttl =
        weft_check_number(L, index, "weft.dict", "ttl", 1e-9, HUGE_VAL, "a number of seconds > 0");
  else
    luaL_error(L, "bad option '%s' to weft.dict: known are max, ttl", name);
}

/*** A map that tasks share, whatever states and threads they run on. Values are copied in and out;
 * handles in them are shared. It can be captured and sent; one that holds itself is never freed.
 * @function dict
 * @tparam[opt] table options `max`: how many entries it takes at the most (default: no limit);
 * `ttl`: an entry goes so many seconds after it was last written (default: never)
 * @treturn dict
 * @raise bad argument or unknown option
 */
static int new_dict(lua_State *L) {
  settings settings = {0, 0};
  lua_settop(L, 1);
  if (!lua_isnil(L, 1) && !lua_istable(L, 1))
    weft_bad_argument(L, "weft.dict", "options", "a table", 1);
  if (lua_istable(L, 1))
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1))
      read_option(L, &settings, lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?");
  weft_dict *dict = weft_dict_new(settings.max, settings.ttl);
  weft_adopt_handle(WEFT_STATE(L), L, dict ? &dict->handle : NULL);
  return 1;
}

/* The key at stack index 2 as bytes, in the state's writer until it is used again. */
static const weft_buf *pack_key(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  if (!weft_encode_plain(state, L, 2, 1))
    luaL_error(L, "not enough memory");
  return &state->writer.buf;
}

/* ---- values ---- */

/* The value at `index` as a shared parcel, or NULL for nil. Raises what cannot be sent. */
static weft_shared_parcel *pack_value(lua_State *L, int index) {
  if (lua_isnil(L, index))
    return NULL;
  weft_parcel parcel;
  weft_parcel_init(&parcel);
  weft_to_parcel(WEFT_STATE(L), L, index, 1, "value", &parcel);
  weft_shared_parcel *shared = weft_shared_parcel_new(&parcel);
  weft_parcel_clear(&parcel);
  if (!shared)
    luaL_error(L, "not enough memory");
  return shared;
}

static weft_shared_parcel *get_entry(lua_State *L, weft_dict *dict) {
  const weft_buf *key = pack_key(L);
  return weft_dict_get(dict, key->data, (uint32_t)key->size);
}

/* Raises, or pushes true; or nil and an error when the dict is full. */
static int push_written(lua_State *L, const char *what, weft_dict *dict, int rc) {
  if (rc == WEFT_NOMEM)
    return luaL_error(L, "not enough memory");
  if (rc == WEFT_FULL)
    return weft_fail(WEFT_STATE(L), L, "full", "%s: the dict holds its maximum of %u entries", what,
                     dict->max);
  lua_pushboolean(L, rc == WEFT_OK);
  return 1;
}

/*** A copy of the value under a key.
 * @function dict:get
 * @param key a string, number or boolean
 * @return the value; nil when there is none
 * @raise bad argument 'key'; a value that cannot be unpacked here (a metatable that is not
 * registered)
 */
static int get(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:get");
  weft_check_key(L, "dict:get");
  weft_shared_parcel *value = get_entry(L, dict);
  if (value)
    return weft_decode_shared(L, value);
  lua_pushnil(L);
  return 1;
}

/*** Puts a copy of a value under a key.
 * @function dict:set
 * @param key a string, number or boolean
 * @param value anything that can be sent; nil removes the entry
 * @treturn[1] boolean true
 * @treturn[2] nil
 * @treturn[2] error of kind "full" when the key is new and the dict has its `max` entries
 * @raise bad argument 'key'; what cannot be sent, with its path
 */
static int set(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:set");
  lua_settop(L, 3);
  weft_check_key(L, "dict:set");
  weft_shared_parcel *value = pack_value(L, 3);
  weft_state *state = WEFT_STATE(L);
  int rc = WEFT_NOMEM;
  if (weft_encode_plain(state, L, 2, 1))
    rc = weft_dict_set(dict, state->writer.buf.data, (uint32_t)state->writer.buf.size, value);
  weft_shared_parcel_release(value);
  return push_written(L, "dict:set", dict, rc);
}

/* ---- read, compute, replace if unchanged ---- */

/* What was read: NULL for no entry. The userdata is made before, so that nothing is lost. */
static weft_shared_parcel **push_token(lua_State *L) {
  weft_shared_parcel **token = lua_newuserdata(L, sizeof *token);
  *token = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &token_key);
  lua_setmetatable(L, -2);
  return token;
}

static void drop_token(weft_shared_parcel **token) {
  weft_shared_parcel *value = *token;
  *token = NULL;
  weft_shared_parcel_release(value);
}

static int token_gc(lua_State *L) {
  drop_token(lua_touserdata(L, 1));
  return 0;
}

/* Reads the entry into a token, pushed, and pushes its value or nil. */
static weft_shared_parcel **peek(lua_State *L, weft_dict *dict) {
  weft_shared_parcel **token = push_token(L);
  *token = get_entry(L, dict);
  if (*token)
    weft_decode_shared(L, weft_shared_parcel_retain(*token));
  else
    lua_pushnil(L);
  return token;
}

/* Replaces what the token has read by the value at `index`. WEFT_CHANGED: somebody was first. */
static int replace(lua_State *L, weft_dict *dict, weft_shared_parcel **token, int index) {
  weft_state *state = WEFT_STATE(L);
  weft_shared_parcel *value = pack_value(L, index);
  int rc = WEFT_NOMEM;
  if (weft_encode_plain(state, L, 2, 1))
    rc = weft_dict_replace(dict, state->writer.buf.data, (uint32_t)state->writer.buf.size, *token,
                           value);
  weft_shared_parcel_release(value);
  drop_token(token);
  return rc;
}

/* Pushes the sum; whole numbers stay integers on 5.4. */
static void push_sum(lua_State *L, int a, int b) {
#if WEFT_LUA54
  lua_pushvalue(L, a);
  lua_pushvalue(L, b);
  lua_arith(L, LUA_OPADD);
#else
  lua_pushnumber(L, lua_tonumber(L, a) + lua_tonumber(L, b));
#endif
}

/* The number at `index`, which is `otherwise` when none is given. */
static void default_number(lua_State *L, int index, const char *name, int otherwise) {
  if (lua_isnil(L, index)) {
    weft_push_integer(L, otherwise);
    lua_replace(L, index);
  } else if (lua_type(L, index) != LUA_TNUMBER) {
    weft_bad_argument(L, "dict:incr", name, "a number", index);
  } else if (isnan(lua_tonumber(L, index))) {
    weft_bad_argument(L, "dict:incr", name, "a number that is not NaN", index);
  }
}

/*** Adds to a number, atomically.
 * @function dict:incr
 * @param key a string, number or boolean
 * @tparam[opt=1] number by
 * @tparam[opt=0] number initial what is there when there is no entry
 * @treturn[1] number the sum
 * @treturn[2] nil
 * @treturn[2] error of kind "full" as @{dict:set}; of kind "type" when the value is no number
 * @raise bad argument
 */
static int incr(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:incr");
  int rc;
  lua_settop(L, 4);
  weft_check_key(L, "dict:incr");
  default_number(L, 3, "by", 1);
  default_number(L, 4, "initial", 0);
  do {
    lua_settop(L, 4);
    weft_shared_parcel **token = peek(L, dict); /* at 5, the value at 6 */
    int addend = *token ? 6 : 4;
    if (lua_type(L, addend) != LUA_TNUMBER)
      return weft_fail(WEFT_STATE(L), L, "type", "dict:incr: the value is a %s, not a number",
                       luaL_typename(L, addend));
    push_sum(L, addend, 3);
    rc = replace(L, dict, token, 7);
  } while (rc == WEFT_CHANGED);
  return rc == WEFT_OK ? 1 : push_written(L, "dict:incr", dict, rc); /* the sum is on top */
}

/*** Puts a value under a key if the present one is the expected one, atomically (compare and set).
 * @function dict:cas
 * @param key a string, number or boolean
 * @param expected what must be there, compared by Lua's `==`: nil (no entry), a boolean, number,
 * string or handle
 * @param value anything that can be sent; nil removes the entry
 * @return true; false when something else is there; nil and an error of kind "full" as @{dict:set}
 * @raise bad argument; what cannot be sent, with its path
 */
static int cas(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:cas");
  int rc;
  lua_settop(L, 4);
  weft_check_key(L, "dict:cas");
  int type = lua_type(L, 3);
  if (type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TTHREAD)
    weft_bad_argument(
        L, "dict:cas", "expected",
        "nil, a boolean, number, string or handle (copies of a table are never equal; "
        "use dict:update)",
        3);
  do {
    lua_settop(L, 4);
    weft_shared_parcel **token = peek(L, dict); /* at 5, the value at 6 */
    if (!lua_rawequal(L, 3, 6)) {
      drop_token(token);
      lua_pushboolean(L, 0);
      return 1;
    }
    rc = replace(L, dict, token, 4);
  } while (rc == WEFT_CHANGED);
  return push_written(L, "dict:cas", dict, rc);
}

/* ---- update: its function is Lua's and may yield ---- */

/* self, key -> token, value */
static int peek_for_update(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:update");
  lua_settop(L, 2);
  weft_check_key(L, "dict:update");
  peek(L, dict);
  return 2;
}

/* self, key, value, token -> as push_written, but false: somebody was first */
static int replace_for_update(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:update");
  weft_check_key(L, "dict:update");
  return push_written(L, "dict:update", dict, replace(L, dict, lua_touserdata(L, 4), 3));
}

/*** Computes a new value from the present one, atomically: when another task writes the entry
 * meanwhile, fn is called again with what that wrote. No lock is held, so fn may do what it likes,
 * also block.
 * @function dict:update
 * @param key a string, number or boolean
 * @tparam function fn called as fn(value, ...) with a copy of the value, nil when there is none;
 * returns the new value, nil to remove the entry. May run several times
 * @param ... its further arguments
 * @return[1] what fn returned last, and is there now
 * @treturn[2] nil
 * @treturn[2] error of kind "full" as @{dict:set}
 * @raise bad argument; what fn raises: the entry is as it was; what cannot be sent, with its path
 */
static const char update_source[] =
    "local peek, replace = ...\n"
    "local function store(self, key, token, value)\n"
    "  local ok, err = replace(self, key, value, token)\n"
    "  return ok, value, err\n"
    "end\n"
    "local function try(self, key, fn, ...)\n"
    "  local token, value = peek(self, key)\n"
    "  return store(self, key, token, (fn(value, ...)))\n"
    "end\n"
    "return function(self, key, fn, ...)\n"
    "  if type(fn) ~= 'function' then\n"
    "    error(\"bad argument 'fn' to dict:update: expected a function, got \" .. type(fn), 2)\n"
    "  end\n"
    "  local ok, value, err\n"
    "  repeat ok, value, err = try(self, key, fn, ...) until ok ~= false\n"
    "  if not ok then return nil, err end\n"
    "  return value\n"
    "end\n";

/* Lua, since fn may yield; here, since every state that a dict is sent to must have it. */
static void add_update(weft_state *state, lua_State *L) {
  lua_getfield(L, -1, "__index");
  weft_push_shim(L, update_source);
  weft_push_function(L, state, peek_for_update, 0);
  weft_push_function(L, state, replace_for_update, 0);
  lua_call(L, 2, 1);
  lua_setfield(L, -2, "update");
  lua_pop(L, 1);
}

/* ---- all entries ---- */

/* A list in the making; its userdata owns the buffer. */
static int keys_gc(lua_State *L) {
  weft_buf_free(lua_touserdata(L, 1));
  return 0;
}

static const char keys_key; /* of the metatable of such buffers in the registry */

static void push_key(lua_State *L, const uint8_t *bytes, uint32_t size) {
  weft_parcel parcel;
  weft_parcel_init(&parcel);
  parcel.data = (uint8_t *)bytes; /* only to be read */
  parcel.size = size;
  parcel.count = 1;
  weft_decode_plain(L, &parcel);
}

/*** The keys of all entries, in no order. Entries that come and go meanwhile may or may not be
 * among them.
 * @function dict:keys
 * @treturn table a list
 */
static int keys(lua_State *L) {
  weft_dict *dict = check_self(L, "dict:keys");
  weft_buf *buf = lua_newuserdata(L, sizeof *buf);
  weft_buf_init(buf, 0);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &keys_key);
  lua_setmetatable(L, -2);
  if (weft_dict_keys(dict, buf) != WEFT_BUF_OK)
    return luaL_error(L, "not enough memory");
  lua_newtable(L);
  int index = 0;
  for (size_t at = 0; at < buf->size;) {
    uint32_t size;
    memcpy(&size, buf->data + at, sizeof size);
    push_key(L, buf->data + at + sizeof size, size);
    lua_rawseti(L, -2, ++index);
    at += sizeof size + size;
  }
  weft_buf_free(buf);
  return 1;
}

/*** Removes all entries.
 * @function dict:clear
 */
static int clear(lua_State *L) {
  weft_dict_clear(check_self(L, "dict:clear"));
  return 0;
}

/*** `#dict`: how many entries there are.
 * @function dict:__len
 * @treturn integer
 */
static int length(lua_State *L) {
  weft_push_integer(L, weft_dict_length(check_self(L, "#dict")));
  return 1;
}

static void set_finalizer(lua_State *L, const char *key, lua_CFunction finalizer) {
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, finalizer);
  lua_setfield(L, -2, "__gc");
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

/* A dict looks like a table, and is none. */
static int no_assignment(lua_State *L) {
  return luaL_error(L, "weft.dict: assign with dict:set(key, value), read with dict:get(key)");
}

void weft_open_dict(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"get", get, 0},
                                          {"set", set, 0},
                                          {"incr", incr, 0},
                                          {"cas", cas, 0},
                                          {"keys", keys, 0},
                                          {"clear", clear, 0},
                                          {"__len", length, 0},
                                          {"__newindex", no_assignment, 0},
                                          {"__gc", weft_object_gc, 0},
                                          {"__tostring", weft_object_tostring, 0},
                                          {NULL, NULL, 0}};
  static const weft_function functions[] = {{"dict", new_dict, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, "weft.dict", methods);
  add_update(state, L);
  weft_register_handle_class(L, &weft_dict_type);
  lua_pop(L, 1);
  set_finalizer(L, &token_key, token_gc);
  set_finalizer(L, &keys_key, keys_gc);
}
