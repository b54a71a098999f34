/* roll.h: a roll call: what every task of the process does right now.
 *
 * Each state tells of its own tasks, on its own thread, when it takes its inbox; who calls waits
 * for the answers for a bounded time. Any thread may call.
 */
#ifndef WEFT_LUA_ROLL_H
#define WEFT_LUA_ROLL_H

#include "compat.h"
#include "scheduler.h"

typedef struct weft_sight weft_sight;

/* One task as it was seen. Strings are owned unless they are constant. */
struct weft_sight {
  weft_sight *next;
  const char
      *state; /* "queued", "ready", "running", "parked"; "busy": a thread that did not answer */
  const char *waits_for; /* constant, or NULL: the call that it is parked in */
  char *name;            /* NULL: none */
  char *started;         /* file:line of its function; may be NULL */
  char *where;           /* file:line of the script that it is at; may be NULL */
  char *traceback;       /* may be NULL */
  uint64_t age_ns;       /* since it was started */
  uint32_t index;        /* in its group; 0: the script itself, or a thread */
  uint32_t thread;       /* of the pool, from 1; 0: the host */
  uint32_t tasks;        /* of a busy thread: how many it has */
  char object[64];       /* what it waits for; "" when there is nothing to tell */
  char pool[16];         /* "" for weft.inline and scripts */
  uint8_t is_script;     /* whoever called from outside of all tasks: SCRIPT or REQUEST */
  const void *task;      /* which one it is; never followed */
  uint8_t has_answered;  /* while the roll is called */
};

enum { WEFT_SIGHT_TASK, WEFT_SIGHT_SCRIPT, WEFT_SIGHT_REQUEST }; /* is_script */
enum { WEFT_ROLL_WAIT_MS = 250, WEFT_ROLL_LOOP_WAIT_MS = 20, WEFT_ROLL_QUEUED_MOST = 1000 };

/* Everything that was seen, oldest first within a thread; NULL: nothing, or no memory. `self` is
 * the caller's own scheduler with the L that it runs, or both NULL. Blocks for WEFT_ROLL_WAIT_MS at
 * the most; never raises. */
weft_sight *weft_roll_call(weft_scheduler *self, lua_State *L);
void weft_roll_free(weft_sight *sights);

/* Scripts' positions inside of weft's own Lua files are passed over: this is their folder. */
void weft_roll_set_own_folder(const char *source);

enum { WEFT_POSITION_SIZE = LUA_IDSIZE + 16 };
/* Writes file:line of the innermost function from `level` upwards that is the script's, not weft's;
 * after a tail call into weft there is none, and it is weft's; "" when there is no Lua function. */
void weft_position(lua_State *co, int level, char *text);

/* What a thread is busy with that does not answer, as the signal handler that interrupts it saw it.
 * Written by that thread, read by any. */
enum { WEFT_STUCK_NAME = 40, WEFT_STUCK_PLACE = 80 };
typedef struct weft_stuck {
  _Atomic uint32_t slice; /* the worker's slice that the words tell of; 0: being written */
  _Atomic uint64_t words[16];
} weft_stuck;
/* In the signal handler on the worker's thread. */
void weft_stuck_write(weft_scheduler *scheduler);

#endif
