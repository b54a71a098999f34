/* ledger.c: what a leak check asks of C: where objects were made, and open descriptors.
 *
 * Owns a use of the ledger for each check that is under way. Entered by the state's thread.
 * Invariant: no memory or descriptor is lost when a list cannot be pushed: that happens in a
 * protected call.
 */
#include "ledger.h"

#include "buf.h"
#include "http.h"
#include "objects.h"
#include "platform.h"
#include "sight.h"
#include "signals.h"
#include "state.h"

#include <string.h>

void weft_note_object(lua_State *L, const void *object, const char *kind) {
  char where[WEFT_POSITION_SIZE];
  if (!weft_ledger_is_on())
    return;
  weft_position(L, 1, where);
  weft_ledger_note(object, kind, where);
}

/*** Begins a leak check: from now on it is noted where objects are made.
 * @function ledger_open
 * @local
 * @treturn integer a mark for @{ledger_list}
 */
static int ledger_open(lua_State *L) {
  weft_ledger_open();
  lua_pushnumber(L, (lua_Number)weft_ledger_last());
  return 1;
}

/*** Ends a leak check.
 * @function ledger_close
 * @local
 */
static int ledger_close(lua_State *L) {
  (void)L;
  weft_ledger_close();
  return 0;
}

static void add_line(const char *kind, const char *where, void *arg) {
  weft_buf *lines = arg;
  weft_buf_append(lines, kind, strlen(kind));
  weft_buf_putc(lines, '\t');
  weft_buf_append(lines, where, strlen(where));
  weft_buf_putc(lines, '\n');
}

static int push_lines(lua_State *L) {
  const weft_buf *lines = lua_touserdata(L, 1);
  lua_pushlstring(L, lines->data ? (const char *)lines->data : "", lines->size);
  return 1;
}

/*** What was made after a mark and is alive.
 * @function ledger_list
 * @local
 * @tparam integer mark
 * @treturn string for each object a line: kind, tab, file:line
 */
static int ledger_list(lua_State *L) {
  weft_buf lines;
  uint64_t mark = (uint64_t)luaL_checknumber(L, 1);
  lua_pushcfunction(L, push_lines);
  weft_buf_init(&lines, 0);
  weft_ledger_each(mark, add_line, &lines);
  lua_pushlightuserdata(L, &lines);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_buf_free(&lines);
  return rc == 0 ? 1 : lua_error(L);
}

/* Each is its number and what it leads to, with a zero. */
static void add_descriptor(int fd, const char *target, void *arg) {
  weft_buf *list = arg;
  size_t before = list->size;
  if (weft_signals_own(fd))
    return;
  if (weft_buf_append(list, &fd, sizeof fd) != WEFT_BUF_OK ||
      weft_buf_append(list, target, strlen(target) + 1) != WEFT_BUF_OK)
    list->size = before;
}

static int push_descriptors(lua_State *L) {
  const weft_buf *list = lua_touserdata(L, 1);
  lua_newtable(L);
  for (size_t at = 0; at < list->size;) {
    const char *target = (const char *)list->data + at + sizeof(int);
    int fd;
    memcpy(&fd, list->data + at, sizeof fd);
    lua_pushstring(L, target);
    lua_rawseti(L, -2, fd);
    at += sizeof fd + strlen(target) + 1;
  }
  return 1;
}

/*** The descriptors that the process has open, but for the pipe that signals come through, which
 * is made once.
 * @function descriptors
 * @local
 * @treturn table by number: what each leads to
 */
static int descriptors(lua_State *L) {
  weft_buf list;
  lua_pushcfunction(L, push_descriptors);
  weft_buf_init(&list, 0);
  int error = weft_fd_each(add_descriptor, &list);
  lua_pushlightuserdata(L, &list);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_buf_free(&list);
  if (error)
    return luaL_error(L, "open descriptors cannot be listed: %s", strerror(error));
  return rc == 0 ? 1 : lua_error(L);
}

/*** Closes the connections that no transfer uses.
 * @function close_idle
 * @local
 */
static int close_idle(lua_State *L) {
  (void)L;
  weft_http_close_idle();
  return 0;
}

void weft_open_ledger(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {
      {"ledger_open", ledger_open, 0}, {"ledger_close", ledger_close, 0},
      {"ledger_list", ledger_list, 0}, {"descriptors", descriptors, 0},
      {"close_idle", close_idle, 0},   {NULL, NULL, 0}};
  weft_register(L, state, functions);
}
