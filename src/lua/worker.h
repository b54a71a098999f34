/* worker.h: the runtime that gives each worker of a pool a Lua state. */
#ifndef WEFT_LUA_WORKER_H
#define WEFT_LUA_WORKER_H

#include "compat.h"
#include "pool.h"

/* A pool's `user` is NULL or a parcel with the init function. */
extern const weft_runtime weft_lua_runtime;
/* The loader of the C module, which workers call too. */
int luaopen_weft_core(lua_State *L);
/* Ends the process from a task as from the script: flushes and runs exit handlers, once. */
int weft_os_exit(lua_State *L);

#endif
