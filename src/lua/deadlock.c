/* deadlock.c: from "everybody sleeps and nothing can wake anybody" to an error in the script that
 * waits.
 *
 * Owns nothing. The I/O thread enters tell_scripts, each script's thread the rest. Invariant: a
 * script is told through its inbox, so it is awake when the I/O thread looks again, and it is told
 * once at a time.
 */
#include "deadlock.h"

#include "census.h"
#include "error.h"
#include "errors.h"
#include "fibers.h"
#include "group_body.h"
#include "mem.h"
#include "roll.h"
#include "roster.h"
#include "state.h"
#include "tasks.h"

enum { LISTED_MOST = 50, FAILURES_MOST = 5 };

/* On the script's thread. */
static void receive(weft_scheduler *scheduler, weft_message *message) {
  (void)message; /* it lies in the scheduler */
  atomic_store(&scheduler->has_stuck_note, 0);
  scheduler->is_stuck = scheduler->main.state == WEFT_FIBER_PARKED;
}

static void tell(weft_scheduler *scheduler, void *unused) {
  (void)unused;
  if (scheduler->worker || scheduler->guests || atomic_exchange(&scheduler->has_stuck_note, 1))
    return;
  scheduler->stuck_note.receive = receive;
  weft_message_send(&scheduler->stuck_note, scheduler->inbox);
}

static void tell_scripts(void) {
  weft_roster_each(tell, NULL);
}

void weft_deadlock_watch(void) {
  weft_census_on_stuck(tell_scripts);
}

/* ---- the error ---- */

/* "deadlock: …", then a line for each. */
static void describe(weft_buf *text, const weft_sight *sights) {
  static const char head[] = "deadlock: everything is waiting, and nothing can end that:";
  uint32_t count = 0;
  weft_buf_append(text, head, sizeof head - 1);
  for (const weft_sight *sight = sights; sight; sight = sight->next) {
    if (++count > LISTED_MOST)
      continue;
    weft_buf_append(text, "\n  ", 3);
    weft_sight_add(text, sight);
  }
  if (count > LISTED_MOST)
    weft_buf_append(text, "\n  and others", 13);
  weft_buf_putc(text, 0);
}

typedef struct report {
  weft_state *state;
  weft_sight *sights;
  weft_buf text;
  uint32_t failure_count;
  weft_error *failures[FAILURES_MOST]; /* of tasks: others may wait in vain for their sake */
} report;

/* Adds the failures to the message of the error on top of the stack, and makes the first its cause.
 */
static void add_failures(report *report, lua_State *L) {
  int error = lua_gettop(L);
  lua_getfield(L, error, "message");
  for (uint32_t i = 0; i < report->failure_count; i++) {
    lua_pushliteral(L, "\n  before that, ");
    weft_push_core_error(report->state, L, report->failures[i]);
    if (i == 0) {
      lua_pushvalue(L, -1);
      lua_setfield(L, error, "cause");
    }
    luaL_callmeta(L, lua_gettop(L), "__tostring");
    lua_replace(L, -2);
    lua_concat(L, 3);
  }
  lua_setfield(L, error, "message");
}

static int protected_report(lua_State *L) {
  report *report = lua_touserdata(L, 1);
  weft_push_error(report->state, L, "deadlock",
                  report->text.data ? (const char *)report->text.data : "deadlock");
  lua_pushcfunction(L, weft_push_sights);
  lua_pushlightuserdata(L, report->sights);
  lua_call(L, 1, 1);
  lua_setfield(L, -2, "tasks");
  add_failures(report, L);
  return 1;
}

/* Pushes the error: 1, or 0 with nothing pushed. */
static int push_report(weft_scheduler *scheduler, lua_State *L) {
  report report = {.state = scheduler->state};
  if (!lua_checkstack(L, 16))
    return 0;
  report.sights = weft_roll_call(scheduler, L);
  weft_buf_init(&report.text, 0);
  describe(&report.text, report.sights);
  report.failure_count = weft_group_failures_so_far(report.state, report.failures, FAILURES_MOST);
  lua_pushcfunction(L, protected_report);
  lua_pushlightuserdata(L, &report);
  int rc = lua_pcall(L, 1, 1, 0);
  weft_buf_free(&report.text);
  weft_roll_free(report.sights);
  for (uint32_t i = 0; i < report.failure_count; i++)
    weft_error_release(report.failures[i]);
  if (rc == 0)
    return 1;
  lua_pop(L, 1);
  return 0;
}

int weft_deadlock_raise(weft_scheduler *scheduler, lua_State *L) {
  weft_fiber *script = &scheduler->main;
  scheduler->is_stuck = 0;
  if (script->state != WEFT_FIBER_PARKED || !push_report(scheduler, L))
    return 0;
  if (script->state != WEFT_FIBER_PARKED ||
      !weft_wait_claim(&script->park.wait, WEFT_PARK_ABANDONED)) {
    lua_pop(L, 1); /* woken while the others were asked */
    return 0;
  }
  weft_fiber_unpark(scheduler, script);
  weft_add_position(L, 1);
  return 1;
}
