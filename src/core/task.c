/* task.c: making, ending and cancelling a task.
 *
 * Owns the memory of tasks, their names and own contexts. Entered by the thread that the task
 * belongs to; cancel by any thread that keeps the group alive. Invariant: weft_task_end is the last
 * that a worker does with a task and its group.
 */
#include "task.h"

#include "channel.h"
#include "group.h"
#include "mem.h"
#include "waitgroup.h"

#include <string.h>

enum { CACHE_MOST = 1024, TASKS_PER_BLOCK = 64 };

/* Memory for tasks that are made at about the same time by one thread: they mostly go together,
 * too. */
struct weft_task_block {
  _Atomic uint32_t shares; /* of places whose task may still come or was not freed */
  uint32_t used;           /* the making thread's */
  weft_task tasks[TASKS_PER_BLOCK];
};

/* All but the parcel. */
static void init_task(weft_task *task, weft_group *group) {
  task->next = NULL;
  task->group = group;
  atomic_init(&task->runner, NULL);
  atomic_init(&task->own_context, NULL);
  task->name = NULL;
  task->index = 0;
  task->kind = 0;
  atomic_init(&task->status, WEFT_TASK_QUEUED);
}

weft_task *weft_task_new(weft_group *group) {
  weft_task *task = weft_malloc(sizeof *task);
  if (!task)
    return NULL;
  init_task(task, group);
  task->place = 0;
  weft_parcel_init(&task->parcel);
  return task;
}

static void leave_block(struct weft_task_block *block, uint32_t shares) {
  if (atomic_fetch_sub_explicit(&block->shares, shares, memory_order_acq_rel) == shares)
    weft_free(block);
}

/* The next place of the cache's block, or of a new one. */
static weft_task *new_in_block(weft_task_cache *cache) {
  struct weft_task_block *block = cache->block;
  if (!block) {
    block = cache->block = weft_malloc(sizeof *block);
    if (!block)
      return NULL;
    atomic_init(&block->shares, TASKS_PER_BLOCK);
    block->used = 0;
  }
  weft_task *task = &block->tasks[block->used++];
  if (block->used == TASKS_PER_BLOCK)
    cache->block = NULL;
  task->place = (uint8_t)block->used;
  weft_parcel_init(&task->parcel);
  return task;
}

static void empty_task(weft_task *task) {
  weft_context *own = atomic_load_explicit(&task->own_context, memory_order_acquire);
  if (own)
    weft_context_release(own);
  if (task->name)
    weft_free(task->name);
  weft_parcel_empty(&task->parcel);
}

static void free_empty_task(weft_task *task) {
  weft_parcel_clear(&task->parcel);
  if (!task->place)
    weft_free(task);
  else
    leave_block((struct weft_task_block *)((char *)(task - (task->place - 1)) -
                                           offsetof(struct weft_task_block, tasks)),
                1);
}

void weft_task_free(weft_task *task) {
  empty_task(task);
  free_empty_task(task);
}

weft_task *weft_task_take(weft_task_cache *cache, weft_group *group) {
  weft_task *task = cache->free;
  if (task) {
    cache->free = task->next;
    cache->count--;
  } else {
    task = new_in_block(cache);
  }
  if (task)
    init_task(task, group);
  return task;
}

void weft_task_give(weft_task_cache *cache, weft_task *task) {
  empty_task(task);
  if (cache->count == CACHE_MOST) {
    free_empty_task(task);
    return;
  }
  task->next = cache->free;
  cache->free = task;
  cache->count++;
}

void weft_task_cache_free(weft_task_cache *cache) {
  while (cache->free) {
    weft_task *task = cache->free;
    cache->free = task->next;
    free_empty_task(task);
  }
  if (cache->block)
    leave_block(cache->block, TASKS_PER_BLOCK - cache->block->used);
  *cache = (weft_task_cache){0};
}

weft_context *weft_task_context(weft_task *task) {
  weft_context *own = atomic_load_explicit(&task->own_context, memory_order_acquire);
  return own ? own : task->group->context;
}

weft_context *weft_task_own_context(weft_task *task) {
  weft_context *own = atomic_load_explicit(&task->own_context, memory_order_acquire);
  if (own)
    return own;
  weft_context *made = weft_context_with_cancel(task->group->context);
  if (!made)
    return NULL;
  if (atomic_compare_exchange_strong(&task->own_context, &own, made))
    return made;
  weft_context_release(made);
  return own;
}

int weft_task_cancel(weft_task *task, weft_error *cause) {
  weft_context *own = weft_task_own_context(task);
  if (!own)
    return 0;
  weft_context_cancel(own, cause);
  return 1;
}

/* Few tasks have somebody to tell: it is kept in their own context. */
int weft_task_notify(weft_task *task, weft_handle *handle) {
  weft_context *own = weft_task_own_context(task);
  int rc = own ? WEFT_OK : WEFT_NOMEM;
  if (own && handle->type == &weft_waitgroup_type)
    rc = weft_waitgroup_add((weft_waitgroup *)handle, 1);
  if (rc != WEFT_OK)
    return rc;
  weft_handle_retain(handle);
  own->notified = handle;
  return WEFT_OK;
}

static weft_handle *take_notified(weft_task *task) {
  weft_context *own = atomic_load_explicit(&task->own_context, memory_order_acquire);
  weft_handle *notified = own ? own->notified : NULL;
  if (notified)
    own->notified = NULL;
  return notified;
}

void weft_task_unnotify(weft_task *task) {
  weft_handle *handle = take_notified(task);
  if (!handle)
    return;
  if (handle->type == &weft_waitgroup_type)
    weft_waitgroup_done((weft_waitgroup *)handle);
  weft_handle_release(handle);
}

static void tell(weft_handle *handle) {
  if (handle->type == &weft_waitgroup_type)
    weft_waitgroup_done((weft_waitgroup *)handle);
  else
    weft_channel_close((weft_channel *)handle);
  weft_handle_release(handle);
}

int weft_task_end(weft_task *task, uint8_t status) {
  weft_handle *notified = take_notified(task);
  atomic_store_explicit(&task->status, status, memory_order_release);
  int rc = weft_group_task_ended(task->group, task);
  if (notified) /* who hears of the end finds the task ended */
    tell(notified);
  return rc;
}

void weft_task_set_error(weft_task *task, weft_error *error) {
  weft_handle *handle = &weft_error_retain(error)->handle;
  weft_parcel *parcel = &task->parcel;
  weft_parcel_clear(parcel);
  memset(parcel->data, 0, WEFT_PARCEL_HANDLE_SIZE); /* a record that ends the chain */
  memcpy(parcel->data, &handle, sizeof handle);
  parcel->size = WEFT_PARCEL_HANDLE_SIZE;
  parcel->last_handle = 1;
}

weft_error *weft_task_error(weft_task *task) {
  return (weft_error *)weft_parcel_read_handle(task->parcel.data);
}
