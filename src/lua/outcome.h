/* outcome.h: what a task leaves when it ends: its results, or its error, as a parcel. */
#ifndef WEFT_LUA_OUTCOME_H
#define WEFT_LUA_OUTCOME_H

#include "scheduler.h"

/* Ends the task of a fiber whose coroutine returned `rc`. Never raises. Returns 1 when the
 * coroutine may be used again. */
int weft_outcome(weft_scheduler *scheduler, weft_fiber *fiber, int rc, int nresults);
/* [any thread] Ends a task that cannot run, without Lua. The error stays the caller's. */
void weft_outcome_fail(weft_task *task, weft_error *error);
/* "canceled" and "deadline" are echoes of something else. */
int weft_is_echo_kind(const char *kind);

/* [any thread] How many tasks of the process have failed, and how many were cancelled. */
void weft_outcome_counts(uint64_t *failed, uint64_t *canceled);

#endif
