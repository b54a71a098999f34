/* nginx.h: nginx (lua-nginx-module, OpenResty) as an event loop that calls weft. All on the thread
 * of the state. */
#ifndef WEFT_LUA_NGINX_H
#define WEFT_LUA_NGINX_H

#include "guest.h"

/* The loop that runs L, a new host state; NULL outside of nginx. */
const weft_guest_loop *weft_nginx_loop(lua_State *L);
/* Pushes the table through which lua/weft/ngx.lua and the shims of blocking functions work
 * together. */
void weft_nginx_push_host(lua_State *L);
/* In nginx: adds that table, filled, to the module table on top of the stack. */
void weft_open_nginx(struct weft_state *state, lua_State *L);
/* For a worker's state: in nginx, an `ngx` that says why it is not there. */
void weft_nginx_refuse_in_tasks(lua_State *L);

#endif
