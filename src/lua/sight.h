/* sight.h: what is seen of one state's tasks. On the state's thread, but for what says otherwise.
 */
#ifndef WEFT_LUA_SIGHT_H
#define WEFT_LUA_SIGHT_H

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

void weft_sight_free(weft_sight *sight); /* any thread */

/* What one thread has seen: the sights are whoever's who takes the list. */
typedef struct weft_album {
  weft_scheduler *scheduler;
  lua_State *L; /* to work on */
  weft_sight *first, **end;
  uint64_t now_ns;
} weft_album;

/* Adds an empty sight of the scheduler's pool and thread, or returns NULL. Any thread. */
weft_sight *weft_album_add(weft_album *album, const char *state);
/* Begins the album anew with everything that the state's tasks do. Never raises. */
void weft_look(weft_album *album);
/* Adds a task that waits in a queue, under the lock of that queue. `album` is a weft_album. Any
 * thread. */
void weft_see_queued(weft_task *task, void *album);

/* Scripts' positions inside of weft's own Lua files are passed over: this is their folder. */
void weft_set_own_folder(const char *source);
/* Whether the function that a hook was called for is weft's own Lua code. */
int weft_is_own_code(lua_State *L, lua_Debug *info);

enum { WEFT_POSITION_SIZE = LUA_IDSIZE + 16 };
typedef struct weft_place {
  char file[LUA_IDSIZE];
  int line; /* 0: none */
} weft_place;
/* The same, not as text. */
void weft_find_place(lua_State *co, int level, weft_place *place);
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
/* Adds it to the sight, unless the thread has gone on since. Any thread that keeps the scheduler
 * alive. */
void weft_stuck_read(weft_scheduler *scheduler, weft_sight *sight);

#endif
