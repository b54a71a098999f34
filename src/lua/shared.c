/* shared.c: unpacks parcels that several threads read.
 *
 * Owns nothing. Entered by the state's thread. Invariant: the reference that it is given is
 * released once, whatever unpacking raises.
 */
#include "objects.h"
#include "state.h"

static const char decode_key; /* of the function in the registry that unpacks */

static int protected_decode(lua_State *L) {
  const weft_parcel *parcel = lua_touserdata(L, 1);
  lua_settop(L, 0);
  return weft_decode(weft_state_of(L), L, parcel);
}

/* A small one that owns nothing is copied to the stack: nothing that raises needs to be caught. */
static int decode_small(lua_State *L, weft_shared_parcel *shared) {
  weft_parcel own = shared->parcel;
  own.data = own.inline_bytes;
  weft_shared_parcel_release(shared);
  return weft_decode_plain(L, &own) ? 1 : weft_decode(weft_state_of(L), L, &own);
}

int weft_decode_shared(lua_State *L, weft_shared_parcel *shared) {
  int top = lua_gettop(L);
  if (!shared->parcel.capacity && !shared->parcel.last_handle)
    return decode_small(L, shared);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &decode_key);
  lua_pushlightuserdata(L, &shared->parcel);
  int rc = lua_pcall(L, 1, LUA_MULTRET, 0);
  weft_shared_parcel_release(shared);
  return rc == 0 ? lua_gettop(L) - top : lua_error(L);
}

void weft_open_shared(weft_state *state, lua_State *L) {
  (void)state;
  lua_pushcfunction(L, protected_decode);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &decode_key);
}
