/* lua_model_options.h: the options of the model server, from Lua tables to C structs.
 *
 * Only the thread that runs the Lua state calls these; none blocks. Each raises a Lua error that
 * names the option when a key is unknown or a value is wrong.
 */
#ifndef WEFT_TESTING_LUA_MODEL_OPTIONS_H
#define WEFT_TESTING_LUA_MODEL_OPTIONS_H

#include <lua.h>

#include "lua_model_reader.h"
#include "model_server.h"

/* Reads the options at `index`, a table or nothing. What `config` points to is owned by Lua: by
 * that table and by values that stay on the stack. */
void weft_lua_model_config(lua_State *L, int index, weft_model_config *config);

/* Reads one entry of a script of faults; `function` is whose argument it is. The strings are owned
 * by the table at `index` and by values that stay on the stack. */
weft_model_fault weft_lua_model_fault(lua_State *L, int index, const char *function);

/* The argument `name` of `function`: seconds >= 0, also infinite; `otherwise` if there is none. */
double weft_lua_opt_seconds(lua_State *L, int index, double otherwise, const char *name,
                            const char *function);

/* Parts, for one another: the value on top of the stack. */
void weft_lua_read_stream(weft_lua_reader *r, void *style);
void weft_lua_read_wire(weft_lua_reader *r, void *style);
const weft_model_header *weft_lua_read_headers(weft_lua_reader *r, size_t *count);
/* One entry of a script, or (without `times`) a random fault. */
void weft_lua_read_scripted(weft_lua_reader *r, void *fault);
void weft_lua_read_random(weft_lua_reader *r, void *fault);
/* `reply` and `replies`; `config` is the whole configuration. */
void weft_lua_read_reply(weft_lua_reader *r, void *config);
void weft_lua_read_replies(weft_lua_reader *r, void *config);

#endif
