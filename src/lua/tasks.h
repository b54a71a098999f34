/* tasks.h: what was seen of tasks, as text and as Lua tables. */
#ifndef WEFT_LUA_TASKS_H
#define WEFT_LUA_TASKS_H

#include "buf.h"
#include "compat.h"
#include "roll.h"

/* One line without its end: "task 3 'fetch' (x.lua:10): waits in channel:recv (channel 0x…) at
 * x.lua:14". Any thread. */
void weft_sight_add(weft_buf *text, const weft_sight *sight);
/* A lua_CFunction: light userdata of the first sight → a list of tables. */
int weft_push_sights(lua_State *L);

#endif
