/* forking.c: fork and waitpid for the specs, as a Lua module. Lua has neither, but programs that
 * embed it do fork. Owns nothing; entered by the spec's thread. */
#include <lauxlib.h>
#include <lua.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_HANG_S = 30 };

/* In the child: 0. It is killed when it hangs. */
static int l_fork(lua_State *L) {
  pid_t child = fork();
  if (child == 0)
    alarm(CHILD_HANG_S);
  lua_pushinteger(L, child);
  return 1;
}

/* The status of the child, or 128 + the signal that ended it. */
static int l_wait(lua_State *L) {
  int status = -1;
  waitpid((pid_t)luaL_checknumber(L, 1), &status, 0);
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 1;
}

static int l_wait_for_signal(lua_State *L) {
  (void)L;
  pause();
  return 0;
}

/* Ends the child without what exit would run twice. */
static int l_leave(lua_State *L) {
  _exit((int)luaL_checknumber(L, 1));
}

__attribute__((visibility("default"))) int luaopen_forking(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, l_fork);
  lua_setfield(L, -2, "fork");
  lua_pushcfunction(L, l_wait);
  lua_setfield(L, -2, "wait");
  lua_pushcfunction(L, l_wait_for_signal);
  lua_setfield(L, -2, "wait_for_signal");
  lua_pushcfunction(L, l_leave);
  lua_setfield(L, -2, "leave");
  return 1;
}
