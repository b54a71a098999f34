/* roster.h: every scheduler of the process, so that something can be asked of all of them. */
#ifndef WEFT_LUA_ROSTER_H
#define WEFT_LUA_ROSTER_H

#include "scheduler.h"

/* On the state's thread. After leave no message comes any more; those that came are received. */
void weft_roster_enter(weft_scheduler *scheduler);
void weft_roster_leave(weft_scheduler *scheduler);
/* [any thread] Calls visit for each, under the roster's lock: `visit` may send it messages and take
 * a pool's lock, and reads nothing but what other threads may read.
 * Returns how many tasks those that have left before had brought to a good end. */
uint64_t weft_roster_each(void (*visit)(weft_scheduler *scheduler, void *arg), void *arg);
/* For visit: 1 when this walk had not met the pool yet, whose walk_place is then `place`. */
int weft_roster_meets_first(weft_pool *pool, uint32_t place);

#endif
