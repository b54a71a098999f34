/* shared.c: what maps that several threads share have in common: keys, and parcels that several
 * threads read.
 *
 * Owns nothing. Entered by the state's thread. Invariant: the reference that it is given is
 * released once, whatever unpacking raises.
 */
#include "errors.h"
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

void weft_check_key(lua_State *L, const char *what) {
  int top = lua_gettop(L), type = lua_type(L, 2);
  double number = type == LUA_TNUMBER ? lua_tonumber(L, 2) : 0;
  if ((type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN) || isnan(number))
    weft_bad_argument(L, what, "key", "a string, number or boolean", 2);
  int is_whole = type == LUA_TNUMBER;
#if WEFT_LUA54
  if (is_whole)
    lua_pushinteger(L, lua_tointegerx(L, 2, &is_whole));
#else
  if (is_whole)
    lua_pushnumber(L, number == 0 ? 0 : number); /* not -0.0 */
#endif
  if (is_whole)
    lua_replace(L, 2);
  lua_settop(L, top);
}

void weft_open_shared(weft_state *state, lua_State *L) {
  (void)state;
  lua_pushcfunction(L, protected_decode);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &decode_key);
}
