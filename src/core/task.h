/* task.h: one unit of work of a group, from go to the end. Internal to the core and its binding.
 *
 * A task belongs to one thread at a time: the one that made it, a pool's queue, the worker that
 * runs it, the group's list of ended tasks, and at last the group's owner again.
 */
#ifndef WEFT_CORE_TASK_H
#define WEFT_CORE_TASK_H

#include "context.h"
#include "parcel.h"

typedef struct weft_task weft_task;

enum { WEFT_TASK_QUEUED, WEFT_TASK_RUNNING, WEFT_TASK_DONE, WEFT_TASK_FAILED, WEFT_TASK_CANCELED };

struct weft_task {
  weft_task *next; /* of the list it is in */
  struct weft_group *group;
  _Atomic(struct weft_inbox *) runner; /* of the scheduler that started it; NULL: none yet */
  _Atomic(weft_context *) own_context; /* made when first asked for; NULL: the group's will do */
  char *name;                          /* owned; NULL: none */
  uint32_t index;                      /* from 1, in the order of go */
  uint8_t kind;                        /* the binding's to use */
  _Atomic uint8_t status;
  uint8_t place;      /* in its block, from 1; 0: in memory of its own */
  weft_parcel parcel; /* before the end: what to run; after: the result */
};

/* NULL: no memory. Starts out QUEUED. */
weft_task *weft_task_new(struct weft_group *group);
/* Frees it and drops its parcel. */
void weft_task_free(weft_task *task);

/* Tasks to use again, of one thread, and the block of memory that new ones are made in. Starts as
 * zeros. A block is freed with its last task, by whoever frees that. */
typedef struct weft_task_cache {
  weft_task *free;
  struct weft_task_block *block;
  uint32_t count; /* of `free` */
} weft_task_cache;
/* As weft_task_new and weft_task_free. */
weft_task *weft_task_take(weft_task_cache *cache, struct weft_group *group);
void weft_task_give(weft_task_cache *cache, weft_task *task);
void weft_task_cache_free(weft_task_cache *cache);

/* Ends the task: its parcel holds the result. The task is the group's from then on, and the group
 * itself may be gone when this returns. Never blocks for longer than a lock. 1 when that woke
 * somebody. */
int weft_task_end(weft_task *task, uint8_t status);

/* Before the task is submitted: its end, however it comes, takes one from the waitgroup's count,
 * which is raised here, or closes the channel. WEFT_OK, WEFT_TOO_LARGE or WEFT_NOMEM. */
int weft_task_notify(weft_task *task, weft_handle *handle);
/* For a task that was not submitted after all. */
void weft_task_unnotify(weft_task *task);

/* The context that the task runs under; borrowed, valid until the task ends. */
weft_context *weft_task_context(weft_task *task);
/* A context of the task's own, so that it can be cancelled alone; borrowed. NULL: no memory. */
weft_context *weft_task_own_context(weft_task *task);
/* Cancels this task and nothing else of its group: makes its own context done. A binding then has
 * to tell whoever runs it, when it is parked. Returns 0 when there was no memory for it. */
int weft_task_cancel(weft_task *task, weft_error *cause);

/* A failed task's parcel holds its error, retained; the task belongs to the caller. */
void weft_task_set_error(weft_task *task, weft_error *error);
weft_error *weft_task_error(weft_task *task); /* borrowed */

#endif
