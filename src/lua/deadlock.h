/* deadlock.h: what a script is told when nothing can go on any more. */
#ifndef WEFT_LUA_DEADLOCK_H
#define WEFT_LUA_DEADLOCK_H

#include "scheduler.h"

/* From now on scripts are told: called once a process, and more often without harm. */
void weft_deadlock_watch(void);
/* For the script's thread, which was told and is blocked in L still. Returns 1 with the error on
 * top of L; the script's wait is the caller's then. 0: it has been woken meanwhile, or memory ran
 * out. */
int weft_deadlock_raise(weft_scheduler *scheduler, lua_State *L);

#endif
