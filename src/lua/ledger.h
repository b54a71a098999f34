/* ledger.h: notes where scripts make objects, while a leak check is under way. On the state's
 * thread. */
#ifndef WEFT_LUA_LEDGER_H
#define WEFT_LUA_LEDGER_H

#include "../core/ledger.h"
#include "compat.h"

/* Of an object that L has just made. `kind` is constant. Never raises. */
void weft_note_object(lua_State *L, const void *object, const char *kind);

#endif
