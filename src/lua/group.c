/* group.c: errgroups in Lua: making them.
 *
 * A group is a table: `ctx`, and under small numbers a userdata with the core group and what is
 * Lua's: results and errors. The userdata owns the core group, the list of tasks by index, and
 * references to the code that its tasks run. Entered by the thread of the state that made the
 * group. Invariant: the slot of an index is the running core task, or, once it has ended and was
 * drained, a small number that tells how.
 */
#include "group_body.h"

#include "errors.h"
#include "ledger.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"
#include "pool.h"

#include <string.h>

const char weft_group_class[] = "weft.group";
static const char body_key; /* of the metatable of group bodies in the registry */

/* ---- the code that the tasks run ---- */

static int keep_code(weft_code_keeper *keeper, weft_code *code) {
  weft_group_body *group = (weft_group_body *)keeper;
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
weft_group_body *weft_test_group(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE)
    return NULL;
  int is_ours = weft_rawgeti(L, index, WEFT_GROUP_BODY) == LUA_TUSERDATA;
  weft_group_body *group = is_ours ? lua_touserdata(L, -1) : NULL;
  is_ours = group && weft_rawlen(L, -1) == sizeof *group && group->keeper.keep == keep_code;
  lua_pop(L, 1);
  return is_ours ? group : NULL;
}

weft_group_body *weft_check_group(lua_State *L, const char *what) {
  weft_group_body *group = weft_test_group(L, 1);
  if (!group)
    weft_bad_argument(L, what, "self", "a group (call it with ':')", 1);
  return group;
}

weft_group_body *weft_check_open_group(lua_State *L, const char *what) {
  weft_group_body *group = weft_check_group(L, what);
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
static weft_group_body *push_group(weft_state *state, lua_State *L) {
  lua_createtable(L, WEFT_GROUP_FIELDS, 2);
  weft_group_body *group = lua_newuserdata(L, sizeof *group);
  *group = (weft_group_body){.keeper = {keep_code}, .state = state};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &body_key);
  lua_setmetatable(L, -2);
  lua_rawseti(L, -2, WEFT_GROUP_BODY);
  lua_newtable(L);
  lua_rawseti(L, -2, WEFT_GROUP_RESULTS);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->group_go); /* found without a look at the class */
  lua_setfield(L, -2, "go");
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->group_class);
  lua_setmetatable(L, -2);
  return group;
}

static void list_open(weft_group_body *group) {
  group->open_link = &group->state->open_groups;
  group->next_open = *group->open_link;
  *group->open_link = group;
  if (group->next_open)
    group->next_open->open_link = &group->next_open;
}

/*** An errgroup: tasks that run on native threads and end together (Go: errgroup.WithContext).
 * The first failure cancels the group's context, and so the other tasks. Leaving its scope cancels
 * what still runs and waits for it (@{group:close}).
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
  weft_context *parent = weft_check_context(state, L, has_context ? 1 : 3, "weft.group", 1);
  weft_pool *pool = options.is_local ? NULL : options.pool ? options.pool : weft_default_pool();
  weft_group_body *group = push_group(state, L);
  group->is_local = options.is_local;
  if (pool || options.is_local)
    group->core = weft_group_make(parent, pool, options.limit, options.is_collecting);
  if (!group->core)
    return luaL_error(L, "not enough memory");
  group->core->owner = group;
  list_open(group);
  weft_find_place(L, 1, &group->made_at);
  weft_note_object(L, group->core, "group");
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

void weft_open_group(weft_state *state, lua_State *L) {
  static const weft_function no_methods[] = {{NULL, NULL, 0}};
  static const weft_function body_methods[] = {{"__gc", weft_group_gc, 0}, {NULL, NULL, 0}};
  static const weft_function functions[] = {{"group", new_group, 0}, {NULL, NULL, 0}};
  weft_register(L, state, functions);
  weft_new_class(L, state, weft_group_class, no_methods);
  weft_add_go_methods(state, L);
  weft_add_wait_methods(state, L);
  weft_add_task_methods(state, L);
  weft_add_leave_methods(state, L);
  weft_add_unseen_methods(state, L);
  lua_pushliteral(L,
                  "a group belongs to the state that made it; make another inside the task, or ask "
                  "for more tasks through a channel");
  lua_setfield(L, -2, "__weft_advice");
  lua_getfield(L, -1, "__index");
  lua_getfield(L, -1, "go");
  state->group_go = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  state->group_class = luaL_ref(L, LUA_REGISTRYINDEX);
  weft_new_class(L, state, "weft.group body", body_methods);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &body_key);
  weft_open_task(state, L);
}
