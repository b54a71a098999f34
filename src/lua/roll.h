/* roll.h: a roll call: what every task of the process does right now.
 *
 * Each state tells of its own tasks, on its own thread, when it takes its inbox; who calls waits
 * until a bounded time for the first word of each. Any thread may call.
 */
#ifndef WEFT_LUA_ROLL_H
#define WEFT_LUA_ROLL_H

#include "sight.h"

enum { WEFT_ROLL_WAIT_MS = 250, WEFT_ROLL_LOOP_WAIT_MS = 20, WEFT_ROLL_QUEUED_MOST = 1000 };

/* Everything that was seen, oldest first within a thread; NULL: nothing, or no memory. `self` is
 * the caller's own scheduler with the L that it runs, or both NULL. Waits
 * WEFT_ROLL_WAIT_MS for threads to begin and until those are through; an event loop waits
 * WEFT_ROLL_LOOP_WAIT_MS at the most. Never raises. */
weft_sight *weft_roll_call(weft_scheduler *self, lua_State *L);
void weft_roll_free(weft_sight *sights);

#endif
