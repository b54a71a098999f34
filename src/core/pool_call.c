/* pool_call.c: pools for C programs: tasks that are functions, and closing with a limit.
 *
 * Owns nothing. Any thread makes and closes pools; their workers run the tasks. Invariant: a
 * task's parcel holds its function and argument until it ends.
 */
#include "pool.h"

#include "census.h"
#include "clock.h"
#include "group.h"
#include "timer.h"

#include <string.h>

static void end_call(weft_task *task, weft_error *error) {
  if (error)
    weft_group_fail(task->group, error);
  weft_task_end(task, error ? WEFT_TASK_FAILED : WEFT_TASK_DONE);
}

static void run_call(weft_task *task) {
  weft_pool_call call;
  weft_error *error;
  memcpy(&call, task->parcel.data, sizeof call);
  weft_context *context = weft_task_context(task);
  if (weft_context_done(context))
    error = weft_context_error(context);
  else
    error = call.fn(context, call.arg);
  end_call(task, error);
  weft_error_release(error);
}

static void *open_c(weft_worker *worker, weft_error **error) {
  (void)error;
  return worker;
}

static void run_c(weft_worker *worker, void *state) {
  weft_task *task;
  (void)state;
  do
    while ((task = weft_worker_next(worker)))
      run_call(task);
  while (weft_worker_park(worker, 0));
}

static void close_c(void *state) {
  (void)state;
}

static const weft_runtime c_runtime = {open_c, run_c, close_c, end_call, NULL};

weft_pool *weft_pool_new(const weft_pool_config *config) {
  weft_census_meet_stranger();
  return weft_pool_make(config, &c_runtime, NULL, NULL);
}

int weft_pool_close(weft_pool *pool, double seconds) {
  weft_thread_wait party;
  weft_waiter on_end;
  weft_wait_timer on_time;
  weft_pool_shut(pool);
  weft_thread_wait_init(&party);
  weft_waiter_init(&on_end, &party.wait, 0);
  if (!weft_pool_wait_end(pool, &on_end)) {
    weft_thread_wait_drop(&party);
    return WEFT_OK;
  }
  int rc = 0, has_limit = seconds >= 0;
  if (has_limit)
    rc = weft_wait_timer_start(&on_time, &party.wait, 1, weft_clock_after_s(seconds));
  if (rc != 0 && weft_wait_claim(&party.wait, 1))
    weft_thread_wait_drop(&party); /* a limit that cannot be kept ends the wait at once */
  else
    weft_thread_wait_block(&party);
  if (has_limit)
    weft_timer_stop(&on_time.timer);
  weft_pool_unwait_end(pool, &on_end);
  return weft_wait_winner(&party.wait) == 0 ? WEFT_OK : WEFT_WOULD_WAIT;
}
