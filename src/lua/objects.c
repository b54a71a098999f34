/* objects.c: what all handle userdata share.
 *
 * Owns nothing but a reference for each userdata. Entered by the state's thread. Invariant: one
 * userdata a handle and state, so that equal handles are equal values.
 */
#include "objects.h"

#include "context.h"
#include "errors.h"
#include "ledger.h"
#include "state.h"

static const char class_marker; /* key in every handle class's metatable */

void weft_register_handle_class(lua_State *L, const weft_handle_type *type) {
  lua_pushboolean(L, 1);
  lua_rawsetp(L, -2, &class_marker);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, type);
}

static weft_object *test_object(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
    return NULL;
  lua_rawgetp(L, -1, &class_marker);
  int is_ours = lua_toboolean(L, -1);
  lua_pop(L, 2);
  return is_ours ? lua_touserdata(L, index) : NULL;
}

/* A pool task's first argument: the context is that task's own from here on. */
static weft_handle *resolve(lua_State *L, weft_object *object) {
  if (object->handle)
    return object->handle;
  return &weft_outer_context(weft_state_of(L), L, 1)->handle;
}

weft_handle *weft_test_handle(lua_State *L, int index) {
  weft_object *object = test_object(L, index);
  return object ? resolve(L, object) : NULL;
}

weft_handle *weft_to_handle(lua_State *L, int index, const weft_handle_type *type) {
  weft_handle *handle = weft_test_handle(L, index);
  return handle && handle->type == type ? handle : NULL;
}

weft_handle *weft_check_handle(lua_State *L, int index, const weft_handle_type *type,
                               const char *what, const char *name) {
  weft_handle *handle = weft_to_handle(L, index, type);
  if (!handle)
    weft_bad_argument(L, what, name, lua_pushfstring(L, "a weft %s", type->name), index);
  return handle;
}

void *weft_check_class(lua_State *L, int index, const char *class_name, const char *what) {
  void *self = luaL_testudata(L, index, class_name);
  if (!self)
    weft_bad_argument(L, what, "self", class_name, index);
  return self;
}

static weft_object *new_object(lua_State *L, const weft_handle_type *type) {
  weft_object *object = weft_new_userdata(L, sizeof *object);
  *object = (weft_object){NULL, NULL};
  lua_rawgetp(L, LUA_REGISTRYINDEX, type);
  if (lua_isnil(L, -1))
    luaL_error(L, "a %s cannot be used in this state", type->name);
  lua_setmetatable(L, -2);
  return object;
}

/* The userdata on top becomes the one for its handle in this state. */
static void remember(weft_state *state, lua_State *L, weft_handle *handle) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->handles);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, handle);
  lua_pop(L, 1);
}

void weft_push_handle(weft_state *state, lua_State *L, weft_handle *handle) {
  luaL_checkstack(L, 6, "handle");
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->handles);
  lua_rawgetp(L, -1, handle);
  lua_replace(L, -2);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  weft_object *object = new_object(L, handle->type);
  weft_handle_retain(handle);
  object->handle = handle;
  remember(state, L, handle);
}

typedef struct adoption {
  weft_state *state;
  weft_handle *handle;
} adoption;

static int protected_adopt(lua_State *L) {
  adoption *request = lua_touserdata(L, 1);
  weft_object *object = new_object(L, request->handle->type);
  object->handle = request->handle;
  request->handle = NULL;
  remember(request->state, L, object->handle);
  return 1;
}

void weft_adopt_handle(weft_state *state, lua_State *L, weft_handle *handle) {
  if (!handle)
    luaL_error(L, "not enough memory");
  weft_note_object(L, handle, handle->type->name);
  adoption request = {state, handle};
  lua_pushcfunction(L, protected_adopt);
  lua_pushlightuserdata(L, &request);
  if (lua_pcall(L, 1, 1, 0) == 0)
    return;
  if (request.handle)
    weft_handle_release(request.handle);
  lua_error(L);
}

int weft_object_gc(lua_State *L) {
  weft_object *object = lua_touserdata(L, 1);
  weft_handle *handle = object->handle;
  object->handle = NULL;
  if (handle)
    weft_handle_release(handle);
  return 0;
}

int weft_object_tostring(lua_State *L) {
  weft_handle *handle = weft_test_handle(L, 1);
  lua_pushfstring(L, "weft %s: %p", handle ? handle->type->name : "object", (void *)handle);
  return 1;
}
