/* select.c: waiting for one of several channels, contexts and semaphores.
 *
 * Owns the choice of each call, in a userdata: references to what it waits for, the values
 * to be sent and the one that was received. Entered by the state's thread; while the call is parked
 * other threads move parcels out of and into it. Invariant: nothing of a choice is queued anywhere
 * once its call has ended.
 */
#include "../core/select.h"

#include "clock.h"
#include "errors.h"
#include "mem.h"
#include "objects.h"
#include "state.h"

#include <stdio.h>
#include <string.h>

typedef struct choice {
  weft_state *state;
  weft_select select;
  weft_parcel received; /* all recvs share it */
  weft_wait_timer timer;
  uint8_t is_parked; /* its waiters may be queued */
  uint8_t has_timer; /* it was started */
  uint8_t has_default, is_ordered;
  double timeout; /* seconds; infinite: none */
  uint32_t count, capacity;
  weft_select_case cases[];
} choice;

enum { COMMON_CASES = 16 };

static const char class_name[] = "weft.select call", what[] = "weft.select";
static const char spare_key; /* of a choice in the registry that no call uses */

/* ---- life ---- */

static weft_handle *handle_of(const weft_select_case *one) {
  return one->channel     ? &one->channel->handle
         : one->context   ? &one->context->handle
         : one->semaphore ? &one->semaphore->handle
                          : NULL;
}

/* Gives everything back; the choice is empty afterwards. */
static void clear(choice *choice) {
  uint32_t count = choice->count;
  choice->count = 0;
  weft_parcel_clear(&choice->received);
  for (uint32_t i = 0; i < count; i++) {
    weft_select_case *one = &choice->cases[i];
    if (one->kind == WEFT_SELECT_SEND && one->value) {
      weft_parcel_clear(one->value);
      weft_free(one->value);
    }
    weft_handle *handle = handle_of(one);
    if (handle)
      weft_handle_release(handle);
  }
}

/* Only at the end of the state does it go before the task that waits. */
static int choice_gc(lua_State *L) {
  choice *choice = lua_touserdata(L, 1);
  if (choice->is_parked)
    weft_scheduler_abandon(&choice->state->scheduler, choice);
  clear(choice);
  return 0;
}

/* Pushes the spare choice and takes it out of the registry: NULL with nothing pushed when there is
 * none. */
static choice *push_spare(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &spare_key);
  choice *choice = lua_touserdata(L, -1);
  if (!choice) {
    lua_pop(L, 1);
    return NULL;
  }
  lua_pushboolean(L, 0);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &spare_key);
  return choice;
}

/* The choice, at stack index 1, has served: a common size is kept for the next call. */
static void put_away(lua_State *L, choice *choice) {
  clear(choice);
  if (choice->capacity != COMMON_CASES)
    return;
  lua_pushvalue(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &spare_key);
}

static choice *push_choice(lua_State *L, uint32_t count) {
  uint32_t capacity = count <= COMMON_CASES ? COMMON_CASES : count;
  choice *choice = capacity == COMMON_CASES ? push_spare(L) : NULL;
  if (!choice) {
    choice = lua_newuserdata(L, sizeof *choice + capacity * sizeof *choice->cases);
    memset(choice, 0, sizeof *choice);
    luaL_getmetatable(L, class_name);
    lua_setmetatable(L, -2);
  }
  memset(choice, 0, sizeof *choice + count * sizeof *choice->cases);
  weft_parcel_init(&choice->received);
  choice->state = WEFT_STATE(L);
  choice->capacity = capacity;
  choice->timeout = HUGE_VAL;
  choice->count = count;
  return choice;
}

/* ---- reading the arguments ---- */

/* The largest index; holes are cases that never go on. */
static uint32_t count_cases(lua_State *L) {
  double largest = 0;
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    double index = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
    if (index > largest)
      largest = index;
    lua_pop(L, 1);
  }
  if (largest > WEFT_SELECT_MAX)
    luaL_error(L, "weft.select: more than %d cases", WEFT_SELECT_MAX);
  return (uint32_t)largest;
}

static int bad_source(lua_State *L, uint32_t index, const char *field, int kind) {
  static const char *const expected[] = {[WEFT_SELECT_RECV] = "a weft channel, or false",
                                         [WEFT_SELECT_SEND] = "a weft channel, or false",
                                         [WEFT_SELECT_DONE] = "a weft context, or false",
                                         [WEFT_SELECT_ACQUIRE] = "a weft semaphore, or false"};
  char name[32];
  snprintf(name, sizeof name, "[%u].%s", index + 1, field);
  return weft_bad_argument(L, what, name, expected[kind], lua_gettop(L));
}

/* The kind that a case becomes which has this handle under the name of `kind`; NEVER: it does not
 * fit. */
static int kind_with(int kind, const weft_handle *handle) {
  const weft_handle_type *type = handle ? handle->type : NULL;
  if (type == &weft_channel_type && (kind == WEFT_SELECT_RECV || kind == WEFT_SELECT_SEND))
    return kind;
  if (type == &weft_context_type && (kind == WEFT_SELECT_DONE || kind == WEFT_SELECT_RECV))
    return WEFT_SELECT_DONE;
  if (type == &weft_semaphore_type && kind == WEFT_SELECT_ACQUIRE)
    return kind;
  return WEFT_SELECT_NEVER;
}

/* The case's channel, context or semaphore is on top. */
static void set_source(lua_State *L, choice *choice, uint32_t index, int kind, const char *field) {
  weft_select_case *one = &choice->cases[index];
  if (one->kind != WEFT_SELECT_NEVER)
    luaL_error(L,
               "bad argument '[%d]' to weft.select: one of recv, send, done, acquire, not several",
               (int)index + 1);
  if (!lua_toboolean(L, -1))
    return;
  weft_handle *handle = weft_test_handle(L, lua_gettop(L));
  int becomes = kind_with(kind, handle);
  if (becomes == WEFT_SELECT_NEVER)
    bad_source(L, index, field, kind);
  weft_handle_retain(handle);
  if (becomes == WEFT_SELECT_DONE)
    one->context = (weft_context *)handle;
  else if (becomes == WEFT_SELECT_ACQUIRE)
    one->semaphore = (weft_semaphore *)handle;
  else
    one->channel = (weft_channel *)handle;
  one->kind = (uint8_t)becomes;
}

static void read_field(lua_State *L, choice *choice, uint32_t index, const char *field) {
  if (strcmp(field, "recv") == 0)
    set_source(L, choice, index, WEFT_SELECT_RECV, field);
  else if (strcmp(field, "send") == 0)
    set_source(L, choice, index, WEFT_SELECT_SEND, field);
  else if (strcmp(field, "done") == 0)
    set_source(L, choice, index, WEFT_SELECT_DONE, field);
  else if (strcmp(field, "acquire") == 0)
    set_source(L, choice, index, WEFT_SELECT_ACQUIRE, field);
  else if (strcmp(field, "k") == 0)
    choice->cases[index].weight = weft_check_count(L, lua_gettop(L), what, "k", 1, WEFT_MAX_COUNT);
  else if (strcmp(field, "value") != 0)
    luaL_error(L,
               "bad argument '[%d]' to weft.select: '%s' is none of recv, send, value, done, "
               "acquire, k",
               (int)index + 1, field);
}

static void pack_value(lua_State *L, weft_select_case *one) {
  one->value = weft_malloc(sizeof *one->value);
  if (!one->value)
    luaL_error(L, "not enough memory");
  weft_parcel_init(one->value);
  lua_getfield(L, -1, "value");
  weft_to_parcel(WEFT_STATE(L), L, lua_gettop(L), 1, "value", one->value);
  lua_pop(L, 1);
}

/* The case's table is on top; false is one that never goes on. */
static void read_case(lua_State *L, choice *choice, uint32_t index) {
  weft_select_case *one = &choice->cases[index];
  if (!lua_toboolean(L, -1))
    return;
  if (!lua_istable(L, -1)) {
    char name[16];
    snprintf(name, sizeof name, "[%u]", index + 1);
    weft_bad_argument(L, what, name, "a table such as { recv = channel }", lua_gettop(L));
  }
  one->weight = 1;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    read_field(L, choice, index, lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?");
    lua_pop(L, 1);
  }
  if (one->kind == WEFT_SELECT_SEND)
    pack_value(L, one);
  else
    one->value = &choice->received;
}

static void read_option(lua_State *L, choice *choice, const char *name) {
  int index = lua_gettop(L);
  if (strcmp(name, "timeout") == 0)
    choice->timeout = weft_check_seconds(L, index, what, "timeout");
  else if (strcmp(name, "default") == 0)
    choice->has_default = (uint8_t)lua_toboolean(L, index);
  else if (strcmp(name, "prefer") == 0 && lua_type(L, index) == LUA_TSTRING &&
           strcmp(lua_tostring(L, index), "order") == 0)
    choice->is_ordered = 1;
  else if (strcmp(name, "prefer") == 0)
    weft_bad_argument(L, what, "prefer", "'order'", index);
  else
    luaL_error(L, "bad option '%s' to weft.select: known are timeout, default, prefer", name);
}

/* Whether the choice has room for all cases. */
static int read_all(lua_State *L, choice *choice) {
  int fits = 1;
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    double index = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
    if (index < 1 || index != floor(index))
      read_option(L, choice, lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?");
    else if (index <= choice->count)
      read_case(L, choice, (uint32_t)index - 1);
    else
      fits = 0;
    lua_pop(L, 1);
  }
  return fits;
}

/* cases -> the choice */
static int prepare(lua_State *L) {
  if (!lua_istable(L, 1))
    weft_bad_argument(L, what, "cases", "a table of cases", 1);
  lua_settop(L, 1);
  size_t length = weft_rawlen(L, 1);
  choice *choice = push_choice(L, length <= WEFT_SELECT_MAX ? (uint32_t)length : count_cases(L));
  if (!read_all(L, choice)) { /* the list has holes */
    clear(choice);
    choice = push_choice(L, count_cases(L));
    read_all(L, choice);
  }
  weft_select_init(&choice->select, choice->cases, choice->count, choice->is_ordered);
  return 1;
}

/* ---- results ---- */

static int push_done(lua_State *L, weft_context *context) {
  weft_error *error = weft_context_error(context), *cause = weft_context_cause(context);
  weft_push_context_error(WEFT_STATE(L), L, error, cause);
  weft_error_release(error);
  weft_error_release(cause);
  lua_pushboolean(L, 1);
  return 2;
}

static int push_sent(lua_State *L, uint32_t index, int rc) {
  if (rc == WEFT_CLOSED) {
    lua_pushfstring(L, "weft.select: case %d: the channel is closed", (int)index + 1);
    weft_push_error(WEFT_STATE(L), L, "closed", lua_tostring(L, -1));
    weft_add_position(L, 1);
    return lua_error(L);
  }
  lua_pushnil(L);
  lua_pushboolean(L, rc == WEFT_OK);
  return 2;
}

static int push_acquired(lua_State *L, const weft_select_case *one, int rc) {
  lua_pushnil(L);
  if (rc != WEFT_OK) {
    weft_fail(WEFT_STATE(L), L, "too_large",
              "weft.select: %u is more than the semaphore's size of %u", one->weight,
              weft_semaphore_size(one->semaphore));
    lua_replace(L, -3); /* the error in place of the first nil */
    lua_pop(L, 1);
  }
  lua_pushboolean(L, rc == WEFT_OK);
  return 2;
}

/* index, value, ok of the case that went on. */
static int push_result(lua_State *L, choice *choice, uint32_t index, int rc) {
  weft_select_case *one = &choice->cases[index];
  weft_push_integer(L, index + 1);
  if (one->kind == WEFT_SELECT_DONE)
    push_done(L, one->context);
  else if (one->kind == WEFT_SELECT_SEND)
    push_sent(L, index, rc);
  else if (one->kind == WEFT_SELECT_ACQUIRE)
    push_acquired(L, one, rc);
  else
    weft_push_received(L, &choice->received, rc);
  put_away(L, choice);
  return 3;
}

static int push_word(lua_State *L, choice *choice, const char *word) {
  lua_pushstring(L, word);
  put_away(L, choice);
  return 1;
}

/* The index of a context among the cases that is done, or -1. */
static int find_done(const choice *choice) {
  for (uint32_t i = 0; i < choice->count; i++)
    if (choice->cases[i].kind == WEFT_SELECT_DONE && weft_context_done(choice->cases[i].context))
      return (int)i;
  return -1;
}

/* The caller's context is done. Who asked for that, gets it; else it raises as other calls do. */
static int push_canceled(lua_State *L, choice *choice) {
  weft_state *state = weft_state_of(L);
  int index = find_done(choice);
  if (index >= 0)
    return push_result(L, choice, (uint32_t)index, WEFT_OK);
  return weft_raise_context(state, L, weft_current_context(state, L, 0));
}

/* ---- waiting ---- */

static void leave(weft_park *park) {
  choice *choice = park->object;
  choice->is_parked = 0;
  weft_select_unwait(&choice->select);
  if (choice->has_timer)
    weft_timer_stop(&choice->timer.timer);
  choice->has_timer = 0;
}

static int finish(lua_State *L, weft_park *park, int source) {
  choice *choice = park->object;
  if (source == WEFT_PARK_CANCELED)
    return push_canceled(L, choice);
  uint32_t index = (uint32_t)weft_wait_winner(&park->wait) - WEFT_PARK_FIRST_CHOICE;
  leave(park);
  if (index == choice->count)
    return push_word(L, choice, "timeout");
  return push_result(L, choice, index, weft_select_outcome(&choice->select, index));
}

/* What was acquired for a caller that will never go on is given back. */
static void abandon(weft_park *park, int source) {
  choice *choice = park->object;
  int index = weft_wait_winner(&park->wait) - WEFT_PARK_FIRST_CHOICE;
  leave(park);
  if (source == WEFT_PARK_EVENT && index < (int)choice->count) {
    weft_select_case *one = &choice->cases[index];
    if (one->kind == WEFT_SELECT_ACQUIRE && weft_waiter_outcome(&one->waiter) == WEFT_OK)
      weft_semaphore_give_back(one->semaphore, one->weight);
  }
  clear(choice);
}

/* "recv channel 0x…, send channel 0x…, done context 0x…" */
static void describe(const weft_park *park, char *text, size_t size) {
  static const char *const words[] = {"never", "recv", "send", "done", "acquire"};
  const choice *choice = park->object;
  size_t used = 0;
  *text = '\0';
  for (uint32_t i = 0; i < choice->count && used < size; i++) {
    const weft_select_case *one = &choice->cases[i];
    weft_handle *handle = handle_of(one);
    if (handle)
      used += (size_t)snprintf(text + used, size - used, "%s%s %s %p", used ? ", " : "",
                               words[one->kind], handle->type->name, (void *)handle);
  }
  if (used == 0)
    snprintf(text, size, "no case that can go on");
}

static const weft_park_op select_op = {what, finish, NULL, leave, abandon, 0, describe};

/* Its waiters are queued. Returns 0, or an errno value with all of them taken out. */
static int start_timer(choice *choice, weft_park *park) {
  int rc =
      weft_wait_timer_start(&choice->timer, &park->wait, WEFT_PARK_FIRST_CHOICE + choice->count,
                            weft_clock_after_s(choice->timeout));
  choice->has_timer = rc == 0;
  if (rc == 0 || !weft_wait_claim(&park->wait, WEFT_PARK_ABANDONED))
    return 0; /* what was claimed meanwhile is on its way */
  leave(park);
  return rc;
}

static int block(lua_State *L, weft_state *state, choice *choice) {
  uint32_t index;
  weft_check_can_block(state, L, what);
  weft_context *context = weft_current_context(state, L, 0);
  if (weft_context_done(context))
    return push_canceled(L, choice);
  weft_park *park = weft_park_prepare(state, &select_op, choice);
  int rc = weft_select_or_wait(&choice->select, &park->wait, WEFT_PARK_FIRST_CHOICE, &index);
  if (rc != WEFT_WOULD_WAIT)
    return push_result(L, choice, index, rc);
  if (choice->timeout < HUGE_VAL && (rc = start_timer(choice, park)) != 0)
    return luaL_error(L, "weft.select: the I/O thread could not be started (error %d)", rc);
  choice->is_parked = 1;
  return weft_park_wait(state, L, park, context);
}

/* the choice -> the results */
static int wait_for_choice(lua_State *L) {
  weft_state *state = WEFT_STATE(L);
  choice *choice = luaL_checkudata(L, 1, class_name);
  uint32_t index;
  if (!choice->has_default && choice->timeout > 0)
    return block(L, state, choice);
  int rc = weft_select_try(&choice->select, &index);
  if (rc != WEFT_WOULD_WAIT)
    return push_result(L, choice, index, rc);
  return push_word(L, choice, choice->has_default ? "default" : "timeout");
}

/*** Waits for one of several operations, with Go's rules: of those that can go on, one is chosen by
 * chance; a recv from a closed channel goes on with nil and false.
 *
 * Each case is a table: `{ recv = ch }`, `{ send = ch, value = v }`, `{ done = ctx }`, or
 * `{ acquire = semaphore, k = 1 }`, which holds k of the semaphore when it is chosen. A channel,
 * context or semaphore that is nil or false makes a case that never goes on, so cases can be
 * switched off; so does false in place of the table. Options stand beside the cases: `timeout` in
 * seconds; `default = true` does not wait; `prefer = "order"` takes the first case that can go on
 * instead of leaving it to chance.
 *
 * When the caller's context is done, the call raises, unless a case waits for that context or one
 * above it: then that case is returned. Without any case that can go on, and without a timeout, it
 * waits until then.
 * @function select
 * @tparam table cases
 * @treturn[1] integer the index of the case
 * @return[1] the value received; nil for a send; for a context its error; for a semaphore nil, or
 * an error of kind "too_large"
 * @treturn[1] boolean true; false when a recv's channel is closed and empty, a full channel has
 *   dropped what was sent, or the semaphore is smaller than k
 * @treturn[2] string "timeout": nothing happened in time
 * @treturn[3] string "default": nothing can go on now
 * @raise an error of kind "closed" when the chosen case sends to a closed channel; bad argument;
 * what cannot be sent; an error of kind "canceled" or "deadline" when the caller's context is done
 */
static const char select_source[] = "local prepare, wait = ...\n"
                                    "return function(cases) return wait(prepare(cases)) end\n";

/* Lua, since on LuaJIT only an argument is alive through a yield: so the choice becomes one. */
void weft_open_select(weft_state *state, lua_State *L) {
  static const weft_function methods[] = {{"__gc", choice_gc, 0}, {NULL, NULL, 0}};
  weft_new_class(L, state, class_name, methods);
  lua_pop(L, 1);
  weft_push_shim(L, select_source);
  weft_push_function(L, state, prepare, 0);
  weft_push_function(L, state, wait_for_choice, WEFT_BLOCKS);
  lua_call(L, 2, 1);
  lua_setfield(L, -2, "select");
}
