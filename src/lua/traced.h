/* traced.h: what the scheduler tells a trace, while one runs: each run of a task, and what lies
 * between. */
#ifndef WEFT_LUA_TRACED_H
#define WEFT_LUA_TRACED_H

#include "scheduler.h"
#include "trace.h"

typedef struct weft_traced {
  uint64_t start_ns;
  char name[WEFT_TRACE_NAME]; /* the task itself may end meanwhile */
} weft_traced;

/* Around the resume of a fiber, on the state's thread. */
void weft_traced_begin(weft_fiber *fiber, weft_traced *traced);
void weft_traced_end(weft_fiber *fiber, weft_traced *traced, int is_over);

#endif
