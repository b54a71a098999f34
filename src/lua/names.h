/* names.h: modules and their functions cross by name, found again by require on the other side.
 *
 * On the state's thread; what takes L may raise "not enough memory". Nothing blocks but a module
 * that is required.
 */
#ifndef WEFT_LUA_NAMES_H
#define WEFT_LUA_NAMES_H

#include "compat.h"

struct weft_state;

/* The name of a loaded module's table, or NULL. The text is Lua's and lives while the state does.
 */
const char *weft_names_find(struct weft_state *state, lua_State *L, int index, size_t *size);
/* The same for a function of a module. Looks at package.loaded again for an unknown C function. */
const char *weft_names_find_function(struct weft_state *state, lua_State *L, int index,
                                     size_t *size);
/* Learns the names of everything that is in package.loaded now, and lets workers require what this
 * state can: publishes package.path and package.cpath. */
void weft_names_rescan(struct weft_state *state, lua_State *L);
/* The same, when modules have been loaded since it was done last: 1. Cheap. */
int weft_names_refresh(struct weft_state *state, lua_State *L);
/* Functions of the table on top of the stack, the module `name`, keep their names although it will
 * get others in their places. */
void weft_names_keep(struct weft_state *state, lua_State *L, const char *name);
/* Pushes the value of a name, requiring its module. Raises what require raises. */
void weft_names_push(struct weft_state *state, lua_State *L, const char *name, size_t size);
/* Requires the module of that name: 1; or 0 with the reason on top of the stack. */
int weft_names_require(lua_State *L, const char *name);
/* Sets package.path and package.cpath of a worker's state to what a host published last. */
void weft_names_adopt_paths(lua_State *L);

#endif
