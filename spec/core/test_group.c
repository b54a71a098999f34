/* test_group.c: groups and pools with C tasks. */
#include "check.h"
#include "group.h"
#include "pool.h"

enum { MANY = 10000, ROUNDS = 2000 };

static weft_pool *new_pool(uint32_t threads, uint32_t queue) {
  return weft_pool_new(&(weft_pool_config){.name = "test", .threads = threads, .queue = queue});
}

static weft_group *new_group(weft_pool *pool, uint32_t limit) {
  return weft_group_new(weft_background(), pool, limit);
}

/* Ends the group and the pool and waits until their threads are gone. */
static void finish(weft_group *group, weft_pool *pool) {
  weft_group_close(group);
  CHECK(weft_pool_close(pool, -1) == WEFT_OK);
  weft_pool_release(pool);
  AWAIT(check_stats().pools == 0 && check_stats().threads <= 1);
}

static int is_kind(weft_error *error, const char *kind) {
  int same = error && strcmp(weft_error_kind(error), kind) == 0;
  weft_error_release(error);
  return same;
}

/* ---- tasks ---- */

static _Atomic uint32_t done_count, running_now, running_most;
static gate started = GATE, opened = GATE;

static void reset(void) {
  done_count = running_now = running_most = 0;
  started.count = opened.count = 0;
}

static weft_error *count_up(weft_context *context, void *arg) {
  (void)context, (void)arg;
  atomic_fetch_add(&done_count, 1);
  return NULL;
}

static weft_error *pass_gate(weft_context *context, void *arg) {
  (void)context, (void)arg;
  gate_add(&started, 1);
  gate_await(&opened, 1);
  atomic_fetch_add(&done_count, 1);
  return NULL;
}

static weft_error *sleep_until_cancelled(weft_context *context, void *arg) {
  (void)arg;
  gate_add(&started, 1);
  CHECK(weft_sleep(context, 1e6) == WEFT_CANCELED);
  atomic_fetch_add(&done_count, 1);
  return weft_context_error(context);
}

static weft_error *fail(weft_context *context, void *arg) {
  (void)context;
  return weft_error_new(arg, "failed on purpose");
}

/* ---- groups ---- */

static void runs_every_task(void) {
  weft_pool *pool = new_pool(3, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < MANY; i++)
      CHECK(weft_group_go(group, count_up, NULL) == WEFT_OK);
    CHECK(weft_group_wait(group) == NULL);
    CHECK(done_count == (uint32_t)(MANY * (round + 1)) && weft_group_running(group) == 0);
  }
  finish(group, pool);
}

static weft_error *measure(weft_context *context, void *arg) {
  (void)context, (void)arg;
  uint32_t now = atomic_fetch_add(&running_now, 1) + 1, most = atomic_load(&running_most);
  while (now > most && !atomic_compare_exchange_weak(&running_most, &most, now)) {
  }
  sched_yield();
  atomic_fetch_sub(&running_now, 1);
  return NULL;
}

static void keeps_its_limit(void) {
  weft_pool *pool = new_pool(4, 0);
  weft_group *group = new_group(pool, 3);
  reset();
  for (int i = 0; i < 3; i++)
    CHECK(weft_group_try_go(group, pass_gate, NULL) == WEFT_OK);
  gate_await(&started, 3);
  CHECK(weft_group_try_go(group, pass_gate, NULL) == WEFT_WOULD_WAIT);
  gate_add(&opened, 1);
  for (int i = 0; i < ROUNDS; i++)
    CHECK(weft_group_go(group, measure, NULL) == WEFT_OK);
  CHECK(weft_group_wait(group) == NULL);
  CHECK(running_most <= 3 && running_most > 0);
  finish(group, pool);
}

static void the_first_error_cancels(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  CHECK(weft_group_go(group, sleep_until_cancelled, NULL) == WEFT_OK);
  gate_await(&started, 1);
  CHECK(weft_group_go(group, fail, "boom") == WEFT_OK);
  CHECK(is_kind(weft_group_wait(group), "boom"));
  CHECK(done_count == 1);
  CHECK(is_kind(weft_context_cause(weft_group_context(group)), "boom"));
  CHECK(weft_group_go(group, count_up, NULL) == WEFT_CANCELED);
  finish(group, pool);
}

static weft_error *fail_after_gate(weft_context *context, void *arg) {
  gate_add(&started, 1);
  gate_await(&opened, 1);
  return fail(context, arg);
}

static void an_echo_does_not_hide_the_error(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  CHECK(weft_group_go(group, sleep_until_cancelled, NULL) == WEFT_OK);
  CHECK(weft_group_go(group, fail_after_gate, "boom") == WEFT_OK);
  gate_await(&started, 2);
  weft_group_cancel(group, NULL);
  AWAIT(weft_group_running(group) == 1); /* the echo has been recorded */
  CHECK(is_kind(weft_group_first_error(group), "canceled"));
  gate_add(&opened, 1);
  CHECK(is_kind(weft_group_wait(group), "boom"));
  finish(group, pool);
}

static void a_collecting_group_goes_on(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = weft_group_make(weft_background(), pool, 0, 1);
  reset();
  for (int i = 0; i < 10; i++)
    CHECK(weft_group_go(group, i == 2 ? fail : count_up, "boom") == WEFT_OK);
  CHECK(is_kind(weft_group_wait(group), "boom"));
  CHECK(done_count == 9 && !weft_context_is_done(weft_group_context(group)));
  finish(group, pool);
}

static void close_cancels_and_waits(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  for (int i = 0; i < 20; i++) /* most never start */
    CHECK(weft_group_go(group, sleep_until_cancelled, NULL) == WEFT_OK);
  gate_await(&started, 2);
  finish(group, pool);
  CHECK(done_count == started.count);
}

static void a_dropped_group_ends_by_itself(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  for (int i = 0; i < 10; i++)
    CHECK(weft_group_go(group, pass_gate, NULL) == WEFT_OK);
  gate_await(&started, 2);
  weft_group_drop(group);
  CHECK(check_stats().groups == 1);
  weft_pool_release(pool); /* the group keeps it */
  gate_add(&opened, 1);
  AWAIT(check_stats().groups == 0 && check_stats().pools == 0);
  CHECK(done_count == 10);
  AWAIT(check_stats().threads <= 1);
}

/* A task that was counted in and refused by the pool, while the real one ended and somebody
 * waits. */
/* Of echoes the first one counts, as of errors. */
static void a_later_echo_changes_nothing(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  static const char *const kinds[] = {"deadline", "canceled", "boom", "crash", "canceled"};
  static const char *const first[] = {"deadline", "deadline", "boom", "boom", "boom"};
  for (size_t i = 0; i < COUNT(kinds); i++) {
    weft_error *error = weft_error_new(kinds[i], "");
    weft_group_fail(group, error);
    weft_error_release(error);
    CHECK(is_kind(weft_group_first_error(group), first[i]));
  }
  finish(group, pool);
}

/* One waits for the end, others for room: each is woken at its own count. */
static void each_waiter_has_its_count(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  probe end, room, gone;
  probe_init(&end);
  probe_init(&room);
  probe_init(&gone);
  weft_group_add(group, 4);
  CHECK(weft_group_wait_below(group, 1, &end.waiter) == 1);
  CHECK(weft_group_wait_below(group, 2, &room.waiter) == 1);
  CHECK(weft_group_wait_below(group, 4, &gone.waiter) == 1);
  weft_group_unwait(group, &gone.waiter);
  weft_group_unadd(group, 2);
  CHECK(end.wakes == 0 && room.wakes == 0);
  weft_group_unadd(group, 1);
  CHECK(end.wakes == 0 && room.wakes == 1);
  weft_group_unadd(group, 1);
  CHECK(end.wakes == 1 && room.wakes == 1 && gone.wakes == 0);
  finish(group, pool);
}

static void a_refused_task_does_not_hide_the_end(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  probe waiting;
  reset();
  probe_init(&waiting);
  CHECK(weft_group_go(group, pass_gate, NULL) == WEFT_OK);
  gate_await(&started, 1);
  CHECK(weft_group_wait_below(group, 1, &waiting.waiter) == 1);
  weft_group_add(group, 3);
  gate_add(&opened, 1);
  AWAIT(weft_group_running(group) == 3);
  CHECK(waiting.wakes == 0);
  weft_group_unadd(group, 3);
  CHECK(waiting.wakes == 1);
  finish(group, pool);
}

static void ended_tasks_come_in_order(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  probe progress, empty;
  reset();
  probe_init(&progress);
  probe_init(&empty);
  CHECK(weft_group_wait_below(group, WEFT_GROUP_PROGRESS, &empty.waiter) == 0);
  CHECK(weft_group_go(group, pass_gate, NULL) == WEFT_OK);
  CHECK(weft_group_wait_below(group, WEFT_GROUP_PROGRESS, &progress.waiter) == 1);
  gate_add(&opened, 1);
  AWAIT(progress.wakes == 1);
  weft_task *task = weft_group_take_ended(group);
  CHECK(task && !task->next && task->status == WEFT_TASK_DONE);
  weft_task_free(task);
  CHECK(weft_group_take_ended(group) == NULL);
  finish(group, pool);
}

static void a_task_wakes_those_who_wait_for_it(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  weft_task *first = weft_task_new(group), *second = weft_task_new(group);
  probe for_first, for_second, for_any, for_all;
  probe *probes[] = {&for_first, &for_second, &for_any, &for_all};
  for (size_t i = 0; i < COUNT(probes); i++)
    probe_init(probes[i]);
  for_first.waiter.slot = first;
  for_second.waiter.slot = second;
  weft_group_add(group, 2);
  for (size_t i = 0; i < COUNT(probes); i++) {
    uint32_t below = probes[i] == &for_all ? 1 : WEFT_GROUP_PROGRESS;
    CHECK(weft_group_wait_below(group, below, &probes[i]->waiter) == 1);
  }
  weft_task_end(second, WEFT_TASK_DONE);
  CHECK(for_second.wakes == 1 && for_any.wakes == 1);
  CHECK(for_first.wakes == 0 && for_all.wakes == 0);
  CHECK(weft_group_take_ended(group) == second);
  weft_task_free(second);
  weft_task_end(first, WEFT_TASK_DONE);
  CHECK(for_first.wakes == 1 && for_all.wakes == 1);
  CHECK(for_second.wakes == 1 && for_any.wakes == 1);
  CHECK(!weft_group_has_waiters(group));
  finish(group, pool);
}

/* ---- pools ---- */

static void close_waits_for_tasks(void) {
  weft_pool *pool = new_pool(2, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  CHECK(weft_group_go(group, pass_gate, NULL) == WEFT_OK);
  gate_await(&started, 1);
  CHECK(weft_pool_close(pool, 0) == WEFT_WOULD_WAIT);
  CHECK(weft_group_go(group, count_up, NULL) == WEFT_CLOSED);
  CHECK(weft_group_try_go(group, count_up, NULL) == WEFT_CLOSED);
  gate_add(&opened, 1);
  CHECK(weft_pool_close(pool, -1) == WEFT_OK);
  CHECK(done_count == 1);
  CHECK(weft_pool_close(pool, 0) == WEFT_OK);
  finish(group, pool);
}

static void an_unused_pool_has_no_threads(void) {
  weft_pool *pool = new_pool(4, 0);
  CHECK(atomic_load(&pool->threads) == 0);
  CHECK(weft_pool_close(pool, -1) == WEFT_OK);
  weft_pool_release(pool);
  CHECK(check_stats().pools == 0);
}

typedef struct call {
  weft_group *group;
  int rc;
} call;

static void *go_once(void *arg) {
  call *call = arg;
  call->rc = weft_group_go(call->group, count_up, NULL);
  return NULL;
}

static int has_room_waiter(weft_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  int found = pool->room_waiters.head != NULL;
  pthread_mutex_unlock(&pool->lock);
  return found;
}

static weft_group *fill_queue(weft_pool *pool) {
  weft_group *group = new_group(pool, 0);
  reset();
  CHECK(weft_group_go(group, pass_gate, NULL) == WEFT_OK);
  gate_await(&started, 1);
  CHECK(weft_group_try_go(group, count_up, NULL) == WEFT_OK);
  CHECK(weft_group_try_go(group, count_up, NULL) == WEFT_OK);
  CHECK(weft_group_try_go(group, count_up, NULL) == WEFT_WOULD_WAIT);
  return group;
}

static void a_full_queue_makes_go_wait(void) {
  weft_pool *pool = new_pool(1, 2);
  call call = {fill_queue(pool), 1};
  pthread_t thread;
  pthread_create(&thread, NULL, go_once, &call);
  AWAIT(has_room_waiter(pool));
  gate_add(&opened, 1);
  pthread_join(thread, NULL);
  CHECK(call.rc == WEFT_OK);
  CHECK(weft_group_wait(call.group) == NULL && done_count == 4);
  finish(call.group, pool);
}

static void a_cancel_ends_the_wait_for_room(void) {
  weft_pool *pool = new_pool(1, 2);
  weft_group *filler = fill_queue(pool);
  call call = {new_group(pool, 0), 1};
  pthread_t thread;
  pthread_create(&thread, NULL, go_once, &call);
  AWAIT(has_room_waiter(pool));
  weft_group_cancel(call.group, NULL);
  pthread_join(thread, NULL); /* although the queue stays full */
  CHECK(call.rc == WEFT_CANCELED && !has_room_waiter(pool));
  gate_add(&opened, 1);
  weft_group_close(call.group);
  finish(filler, pool);
}

/* The one that is woken first makes no use of the room; the others must not wait for ever. */
static void unused_room_goes_to_the_next(void) {
  for (int round = 0; round < 200; round++) {
    weft_pool *pool = new_pool(1, 2);
    weft_group *filler = fill_queue(pool);
    call calls[4];
    pthread_t threads[COUNT(calls)];
    for (size_t i = 0; i < COUNT(calls); i++) {
      calls[i] = (call){new_group(pool, 0), 1};
      pthread_create(&threads[i], NULL, go_once, &calls[i]);
    }
    AWAIT(has_room_waiter(pool));
    gate_add(&opened, 1);
    for (size_t i = 0; i < COUNT(calls); i += 2)
      weft_group_cancel(calls[i].group, NULL);
    for (size_t i = 0; i < COUNT(calls); i++) {
      pthread_join(threads[i], NULL);
      CHECK(calls[i].rc == WEFT_OK || (i % 2 == 0 && calls[i].rc == WEFT_CANCELED));
      weft_group_close(calls[i].group);
    }
    finish(filler, pool);
  }
}

/* Tasks that need each other must all run at once while there are threads for them. */
static weft_error *meet(weft_context *context, void *arg) {
  (void)context;
  gate_add(arg, 1);
  gate_await(arg, 4);
  return NULL;
}

static void no_task_waits_behind_another(void) {
  weft_pool *pool = new_pool(4, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  for (int round = 0; round < ROUNDS; round++) {
    started.count = 0;
    if (round % 2) {
      CHECK(weft_group_go(group, count_up, NULL) == WEFT_OK);
      CHECK(weft_group_wait(group) == NULL); /* its worker looks for more for a while */
    }
    for (int i = 0; i < 4; i++)
      CHECK(weft_group_go(group, meet, &started) == WEFT_OK);
    CHECK(weft_group_wait(group) == NULL);
  }
  finish(group, pool);
}

static void resizing_starts_and_ends_threads(void) {
  weft_pool *pool = new_pool(1, 0);
  weft_group *group = new_group(pool, 0);
  reset();
  for (int i = 0; i < 4; i++)
    CHECK(weft_group_go(group, meet, &started) == WEFT_OK);
  gate_await(&started, 1);
  CHECK(weft_pool_resize(pool, 0) == WEFT_TOO_LARGE);
  CHECK(weft_pool_resize(pool, 100000) == WEFT_TOO_LARGE);
  CHECK(weft_pool_resize(pool, 4) == WEFT_OK); /* without another go */
  CHECK(weft_group_wait(group) == NULL);
  CHECK(weft_pool_resize(pool, 1) == WEFT_OK);
  AWAIT(atomic_load(&pool->threads) == 1);
  for (int i = 0; i < 100; i++)
    CHECK(weft_group_go(group, count_up, NULL) == WEFT_OK);
  CHECK(weft_group_wait(group) == NULL && done_count == 100);
  finish(group, pool);
}

static _Atomic int keep_resizing;

static void *resize_up_and_down(void *arg) {
  uint32_t threads = 1;
  while (atomic_load(&keep_resizing)) {
    CHECK(weft_pool_resize(arg, threads) == WEFT_OK);
    threads = threads % 4 + 1;
    sched_yield();
  }
  return NULL;
}

/* No task may be lost to workers that all decide to end. */
static void resizing_loses_no_task(void) {
  weft_pool *pool = new_pool(4, 0);
  weft_group *group = new_group(pool, 0);
  pthread_t resizer;
  reset();
  atomic_store(&keep_resizing, 1);
  pthread_create(&resizer, NULL, resize_up_and_down, pool);
  for (uint32_t i = 1; i <= MANY; i++) {
    CHECK(weft_group_go(group, count_up, NULL) == WEFT_OK);
    if (i % 5 == 0) {
      CHECK(weft_group_wait(group) == NULL);
      CHECK(done_count == i);
    }
  }
  atomic_store(&keep_resizing, 0);
  pthread_join(resizer, NULL);
  finish(group, pool);
}

static void a_thread_that_cannot_start(void) {
  for (uint64_t nth = 1; nth <= 4; nth++) {
    weft_pool *pool = new_pool(3, 0);
    weft_group *group = new_group(pool, 0);
    uint32_t accepted = 0;
    reset();
    weft_thread_fail_at(nth);
    for (int i = 0; i < 20; i++)
      accepted += weft_group_go(group, count_up, NULL) == WEFT_OK;
    weft_error *error = weft_group_wait(group);
    weft_thread_fail_at(0);
    CHECK(!error || strcmp(weft_error_kind(error), "thread") == 0);
    CHECK(error || done_count == accepted);
    CHECK(nth == 1 ? error != NULL : error == NULL); /* later ones: others do the work */
    weft_error_release(error);
    finish(group, pool);
  }
}

static void pools_come_and_go(void) {
  for (int round = 0; round < 300; round++) {
    weft_pool *pool = new_pool(2, 0);
    weft_group *group = new_group(pool, 0);
    reset();
    for (int i = 0; i < round % 7; i++)
      CHECK(weft_group_go(group, count_up, NULL) == WEFT_OK);
    weft_pool_release(pool); /* before its tasks have ended */
    CHECK(weft_group_wait(group) == NULL);
    CHECK(done_count == (uint32_t)(round % 7));
    weft_group_close(group);
  }
  AWAIT(check_stats().pools == 0 && check_stats().threads <= 1);
}

int main(void) {
  check_run("group: runs every task", runs_every_task);
  check_run("group: keeps its limit", keeps_its_limit);
  check_run("group: the first error cancels", the_first_error_cancels);
  check_run("group: an echo does not hide the error", an_echo_does_not_hide_the_error);
  check_run("group: a later echo changes nothing", a_later_echo_changes_nothing);
  check_run("group: each waiter has its count", each_waiter_has_its_count);
  check_run("group: a collecting one goes on", a_collecting_group_goes_on);
  check_run("group: close cancels and waits", close_cancels_and_waits);
  check_run("group: a dropped one ends by itself", a_dropped_group_ends_by_itself);
  check_run("group: a refused task does not hide the end", a_refused_task_does_not_hide_the_end);
  check_run("group: ended tasks come in order", ended_tasks_come_in_order);
  check_run("group: a task wakes those who wait for it", a_task_wakes_those_who_wait_for_it);
  check_run("pool: close waits for tasks", close_waits_for_tasks);
  check_run("pool: unused, it has no threads", an_unused_pool_has_no_threads);
  check_run("pool: a full queue makes go wait", a_full_queue_makes_go_wait);
  check_run("pool: a cancel ends the wait for room", a_cancel_ends_the_wait_for_room);
  check_run("pool: unused room goes to the next", unused_room_goes_to_the_next);
  check_run("pool: no task waits behind another", no_task_waits_behind_another);
  check_run("pool: resizing starts and ends threads", resizing_starts_and_ends_threads);
  check_run("pool: resizing loses no task", resizing_loses_no_task);
  check_run("pool: a thread that cannot start", a_thread_that_cannot_start);
  check_run("pool: pools come and go", pools_come_and_go);
  return check_end();
}
