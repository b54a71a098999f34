/* errors.h: the one shape of errors in Lua: a table with a metatable. Everything here runs on the
 * state's thread and may raise "not enough memory". */
#ifndef WEFT_LUA_ERRORS_H
#define WEFT_LUA_ERRORS_H

#include "compat.h"
#include "weft.h"

struct weft_state;

/* Makes the metatable of errors, when the state is opened. */
void weft_errors_open(struct weft_state *state, lua_State *L);
/* Pushes { kind, message } with the metatable. */
void weft_push_error(struct weft_state *state, lua_State *L, const char *kind, const char *message);
/* Pushes nil and such an error; returns 2, what a C function that fails returns. */
int weft_fail(struct weft_state *state, lua_State *L, const char *kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Pushes the Lua form of a core error, which stays the caller's. */
void weft_push_core_error(struct weft_state *state, lua_State *L, weft_error *error);
/* Pushes what a blocking call in a done context raises. Both errors stay the caller's. */
void weft_push_context_error(struct weft_state *state, lua_State *L, weft_error *error,
                             weft_error *cause);
/* The core form of any Lua value used as a cause or failure; the caller's reference. */
weft_error *weft_to_core_error(struct weft_state *state, lua_State *L, int index);
int weft_is_error(struct weft_state *state, lua_State *L, int index);
/* Turns the value on top of the stack into an error table, in its place: strings become messages.
 */
void weft_normalize_error(struct weft_state *state, lua_State *L);
/* The chunk name of Lua code that wraps C functions: errors name the position of its caller. */
#define WEFT_SHIM_CHUNK "=weft"
/* Sets `where` of the error on top of the stack to the script's position, from `level` upwards. */
void weft_add_position(lua_State *L, int level);

/* "bad argument 'limit' to weft.group: expected …, got nan". `what` is the function's full name. */
int weft_bad_argument(lua_State *L, const char *what, const char *name, const char *expected,
                      int index);
/* A finite number from `least` to `most`, or the error above. */
double weft_check_number(lua_State *L, int index, const char *what, const char *name, double least,
                         double most, const char *expected);
uint32_t weft_check_count(lua_State *L, int index, const char *what, const char *name,
                          uint32_t least, uint32_t most);
enum { WEFT_MAX_COUNT = 1000000000 };
/* Seconds as a time span: a number >= 0, infinity allowed. */
double weft_check_seconds(lua_State *L, int index, const char *what, const char *name);

#endif
