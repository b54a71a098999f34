/* tasks.c: weft.tasks() and the dump: what every task of the process does.
 *
 * Owns nothing between calls. Entered by the state's thread; on SIGQUIT by a thread of its own,
 * which writes the dump and ends. Invariant: the dump needs no Lua, so it is written whatever
 * scripts do.
 */
#include "tasks.h"

#include "census.h"
#include "errors.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"
#include "roll.h"
#include "signals.h"
#include "state.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- text ---- */

static void add(weft_buf *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(weft_buf *text, const char *format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  int size = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (size >= (int)sizeof line)
    size = (int)sizeof line - 1;
  weft_buf_append(text, line, size < 0 ? 0 : (size_t)size);
}

static void add_indented(weft_buf *text, const char *lines, const char *indent) {
  while (lines && *lines) {
    size_t length = strcspn(lines, "\n");
    add(text, "%s", indent);
    weft_buf_append(text, lines, length);
    weft_buf_putc(text, '\n');
    lines += length + (lines[length] == '\n');
  }
}

/* "task 3 'fetch' (x.lua:10)", "the script", "thread 2 of pool 'weft'" */
static void add_who(weft_buf *text, const weft_sight *sight) {
  if (sight->is_script)
    add(text, sight->is_script == WEFT_SIGHT_SCRIPT ? "the script" : "a request");
  else if (!sight->index && sight->thread)
    add(text, "thread %u of pool '%s'", sight->thread, sight->pool);
  else if (!sight->index)
    add(text, "a script");
  else
    add(text, "task %u", sight->index);
  if (sight->name)
    add(text, " '%s'", sight->name);
  if (sight->started)
    add(text, " (%s)", sight->started);
}

void weft_sight_add(weft_buf *text, const weft_sight *sight) {
  add_who(text, sight);
  if (strcmp(sight->state, "busy") == 0)
    add(text, ": busy outside of weft, its thread does not answer and has %u task%s", sight->tasks,
        sight->tasks == 1 ? "" : "s");
  else if (sight->waits_for)
    add(text, ": waits in %s", sight->waits_for);
  else
    add(text, ": %s", sight->state);
  if (sight->object[0])
    add(text, " (%s)", sight->object);
  if (sight->where)
    add(text, " at %s", sight->where);
}

static void add_place(weft_buf *text, const weft_sight *sight) {
  if (!sight->pool[0])
    add(text, "in the script's state\n");
  else if (!sight->thread)
    add(text, "pool '%s', queued\n", sight->pool);
  else
    add(text, "pool '%s', thread %u\n", sight->pool, sight->thread);
}

static int is_same_place(const weft_sight *a, const weft_sight *b) {
  return a && strcmp(a->pool, b->pool) == 0 && a->thread == b->thread;
}

static void add_dump(weft_buf *text, const weft_sight *sights) {
  uint32_t count = 0;
  const weft_sight *last = NULL;
  for (const weft_sight *sight = sights; sight; sight = sight->next)
    count += sight->index != 0;
  add(text, "weft: %u task%s in process %d\n", count, count == 1 ? "" : "s", (int)getpid());
  for (const weft_sight *sight = sights; sight; last = sight, sight = sight->next) {
    if (!is_same_place(last, sight))
      add_place(text, sight);
    add(text, "  ");
    weft_sight_add(text, sight);
    if (sight->age_ns)
      add(text, ", %.2f s old", (double)sight->age_ns / 1e9);
    weft_buf_putc(text, '\n');
    add_indented(text, sight->traceback, "    ");
  }
}

/* ---- for Lua ---- */

static void set_text(lua_State *L, const char *field, const char *text) {
  if (!text || !*text)
    return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, field);
}

static void set_count(lua_State *L, const char *field, uint32_t count) {
  if (!count)
    return;
  weft_push_integer(L, count);
  lua_setfield(L, -2, field);
}

static void push_sight(lua_State *L, const weft_sight *sight) {
  int is_task = sight->index != 0;
  lua_createtable(L, 0, 12);
  static const char *const callers[] = {NULL, "script", "request"};
  set_text(L, "name", sight->is_script ? callers[sight->is_script] : sight->name);
  set_count(L, "index", sight->index);
  set_text(L, "state", sight->state);
  set_text(L, "waits_for", sight->waits_for);
  set_text(L, "object", sight->object);
  set_text(L, "started", sight->started);
  set_text(L, "where", sight->where);
  set_text(L, "traceback", sight->traceback);
  set_text(L, "pool", sight->pool[0] ? sight->pool : "inline");
  set_count(L, "thread", sight->thread);
  set_count(L, "tasks", sight->tasks);
  if (is_task && strcmp(sight->state, "queued") != 0) {
    lua_pushnumber(L, (double)sight->age_ns / 1e9);
    lua_setfield(L, -2, "age");
  }
}

int weft_push_sights(lua_State *L) {
  const weft_sight *sights = lua_touserdata(L, 1);
  lua_newtable(L);
  for (int i = 1; sights; sights = sights->next, i++) {
    push_sight(L, sights);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

static weft_sight *call_roll(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  return weft_roll_call(&state->scheduler, L);
}

/*** What every task of the process does right now: those of this state, of all pools' threads, and
 * those that wait in a pool's queue. Each state is asked and tells of itself; a thread that runs
 * something else than Lua for a quarter of a second stands in the list as one entry
 * whose state is "busy", with the name and index of the task that it runs.
 * @function tasks
 * @treturn {table,...} each with `state` ("queued", "ready", "running", "parked", "busy"), `pool`
 *   ("inline" for tasks of this state), `thread`, and, where there is such a thing, `index`,
 * `name`, `age` (seconds since it started), `waits_for` (the call that it is parked in), `object`
 * (what that waits for), `started` (file:line of its function), `where` (file:line that it is at),
 *   `traceback`. A script that is blocked in a call of weft has the name "script" and no index;
 *   in nginx the requests that wait are called "request", and a call takes 20 ms at most
 * @usage
 * for _, task in ipairs(weft.tasks()) do
 *   print(task.name, task.state, task.waits_for, task.where)
 * end
 */
static int tasks(lua_State *L) {
  lua_pushcfunction(L, weft_push_sights);
  weft_sight *sights = call_roll(L);
  lua_pushlightuserdata(L, sights);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_roll_free(sights);
  return rc == 0 ? 1 : lua_error(L);
}

static int push_text(lua_State *L) {
  const weft_buf *text = lua_touserdata(L, 1);
  lua_pushlstring(L, (const char *)text->data, text->size);
  return 1;
}

/*** The same as text, for people: each task with its traceback. Also what SIGQUIT prints.
 * @function dump
 * @treturn string several lines
 */
static int dump(lua_State *L) {
  lua_pushcfunction(L, push_text);
  weft_sight *sights = call_roll(L);
  weft_buf text;
  weft_buf_init(&text, 0);
  add_dump(&text, sights);
  weft_roll_free(sights);
  lua_pushlightuserdata(L, &text);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_buf_free(&text);
  return rc == 0 ? 1 : lua_error(L);
}

/* ---- on SIGQUIT ---- */

static void write_all(const weft_buf *text) {
  for (size_t done = 0; done < text->size;) {
    ssize_t count = write(STDERR_FILENO, text->data + done, text->size - done);
    if (count <= 0)
      return;
    done += (size_t)count;
  }
}

static void write_dump(void *unused) {
  weft_buf text;
  (void)unused;
  weft_buf_init(&text, 0);
  weft_sight *sights = weft_roll_call(NULL, NULL);
  add_dump(&text, sights);
  weft_roll_free(sights);
  write_all(&text);
  weft_buf_free(&text);
  weft_census_leave();
}

/* On the I/O thread, which shall not wait for answers. */
static void on_quit(void) {
  weft_census_enter();
  if (weft_thread_start(write_dump, NULL, "weft-dump") != 0)
    weft_census_withdraw();
}

/*** From now on SIGQUIT (Ctrl-\) prints what every task does to the standard error, instead of
 * ending the process.
 * @function dump_on_sigquit
 * @raise when the handler cannot be installed; in nginx, which ends by SIGQUIT: there @{dump} tells
 * the same
 */
static int dump_on_sigquit(lua_State *L) {
  if (weft_signals_are_left_alone())
    return luaL_error(L, "weft.dump_on_sigquit: signals are nginx's; weft.dump() tells the same");
  if (!weft_signal_listen(SIGQUIT, on_quit))
    return luaL_error(L, "weft.dump_on_sigquit: the I/O thread could not be started");
  return 0;
}

/*** Tells where weft's own Lua files are: not where a script is.
 * @function own_folder
 * @local
 * @tparam string source of one of them
 */
static int set_own_folder(lua_State *L) {
  weft_set_own_folder(luaL_checkstring(L, 1));
  return 0;
}

void weft_open_tasks(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"tasks", tasks, 0},
                                            {"dump", dump, 0},
                                            {"dump_on_sigquit", dump_on_sigquit, 0},
                                            {"own_folder", set_own_folder, 0},
                                            {NULL, NULL, 0}};
  weft_register(L, state, functions);
}
