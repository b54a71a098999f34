/* lua_model_matcher.h: Lua's patterns for the server's thread, in a Lua state of its own.
 *
 * A matcher is made and freed by the owner of the server; in between only the server thread uses
 * it.
 */
#ifndef WEFT_TESTING_LUA_MODEL_MATCHER_H
#define WEFT_TESTING_LUA_MODEL_MATCHER_H

#include <stdbool.h>
#include <stddef.h>

/* NULL when there is no memory. */
void *weft_lua_matcher_new(void);
void weft_lua_matcher_free(void *matcher); /* NULL is allowed */
/* Whether string.find finds the pattern in the text. */
bool weft_lua_matches(void *matcher, const char *pattern, const char *text, size_t size);

#endif
