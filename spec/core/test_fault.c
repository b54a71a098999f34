/* test_fault.c: one whole scenario, run again and again while one allocation or thread start after
 * the other fails: it may fail, but it must not crash, leak or hang.
 */
#include "channel.h"
#include "check.h"
#include "context.h"
#include "group.h"
#include "inbox.h"
#include "mem.h"
#include "pool.h"
#include "semaphore.h"
#include "waitgroup.h"

enum { TASKS = 6, MOST_FAULTS = 2000 };

typedef struct scenario {
  weft_context *root, *valued, *timed, *detached;
  weft_pool *pool;
  weft_group *group;
  weft_channel *channel;
  weft_semaphore *semaphore;
  weft_waitgroup *waitgroup;
} scenario;

/* A task owes the waitgroup its done, whatever else fails. */
static weft_error *work(weft_context *context, void *arg) {
  scenario *s = arg;
  char bytes[100] = "longer than what a parcel holds without an allocation";
  weft_error *error = NULL;
  int rc = weft_semaphore_acquire(context, s->semaphore, 1);
  if (rc == WEFT_OK) {
    rc = weft_channel_send(context, s->channel, bytes, sizeof bytes);
    weft_semaphore_give_back(s->semaphore, 1);
  }
  if (rc != WEFT_OK)
    error = weft_error_newf("fault", "a task: %s", weft_strerror(rc));
  weft_waitgroup_done(s->waitgroup);
  return error;
}

static weft_error *receive_all(weft_context *context, void *arg) {
  scenario *s = arg;
  char bytes[100];
  while (weft_channel_recv(context, s->channel, bytes, sizeof bytes, NULL) == WEFT_OK) {
  }
  return NULL;
}

static int make_contexts(scenario *s) {
  weft_parcel key, value;
  weft_parcel_writer writer;
  weft_parcel_writer_init(&writer);
  weft_parcel_init(&key);
  weft_parcel_init(&value);
  s->root = weft_context_with_cancel(weft_background());
  if (s->root && weft_parcel_write_handle(&writer, &s->root->handle) == WEFT_BUF_OK &&
      weft_parcel_finish(&writer, &value) == WEFT_BUF_OK)
    s->valued = weft_context_with_value(weft_background(), &key, &value);
  weft_parcel_clear(&value);
  weft_parcel_writer_free(&writer);
  if (s->root)
    s->timed = weft_context_with_timeout(s->root, 1e5, NULL);
  if (s->timed)
    s->detached = weft_context_without_cancel(s->timed);
  return s->valued && s->detached;
}

static int make_objects(scenario *s) {
  weft_pool_config config = {.name = "fault", .threads = 3, .queue = 4};
  s->pool = weft_pool_new(&config);
  s->channel = weft_channel_new(1);
  s->semaphore = weft_semaphore_new(2);
  s->waitgroup = weft_waitgroup_new();
  if (s->pool)
    s->group = weft_group_new(s->timed, s->pool, 4);
  return s->group && s->channel && s->semaphore && s->waitgroup;
}

static void run_tasks(scenario *s) {
  if (weft_group_go(s->group, receive_all, s) != WEFT_OK)
    weft_group_cancel(s->group, NULL); /* the others would wait for it */
  for (int i = 0; i < TASKS; i++) {
    weft_waitgroup_add(s->waitgroup, 1);
    if (weft_group_go(s->group, work, s) != WEFT_OK)
      weft_waitgroup_done(s->waitgroup);
  }
  weft_waitgroup_wait(weft_group_context(s->group), s->waitgroup);
  weft_channel_close(s->channel);
  weft_error *error = weft_group_wait(s->group);
  if (!error)
    CHECK(weft_waitgroup_count(s->waitgroup) == 0);
  weft_error_release(error);
}

static void end_scenario(scenario *s) {
  weft_group_close(s->group);
  if (s->pool)
    CHECK(weft_pool_close(s->pool, -1) == WEFT_OK);
  weft_pool_release(s->pool);
  weft_channel_release(s->channel);
  weft_semaphore_release(s->semaphore);
  weft_waitgroup_release(s->waitgroup);
  if (s->root)
    weft_context_cancel(s->root, NULL);
  weft_context_release(s->detached);
  weft_context_release(s->timed);
  weft_context_release(s->valued);
  weft_context_release(s->root);
}

static void run_scenario(void) {
  scenario s = {0};
  if (make_contexts(&s) && make_objects(&s))
    run_tasks(&s);
  weft_sleep(weft_background(), 1e-6);
  end_scenario(&s);
  AWAIT(check_stats().pools == 0 && check_stats().threads <= 1);
}

static void check_counts(uint64_t nth) {
  weft_stats stats = check_stats();
  uint32_t left = stats.contexts + stats.errors + stats.groups + stats.channels + stats.semaphores +
                  stats.waitgroups + stats.timers;
  if (left)
    printf("# fault %u left %u objects\n", (unsigned)nth, left);
  CHECK(left == 0);
}

static void each_allocation_fails_once(void) {
  uint32_t hits = 0, misses = 0;
  for (uint64_t nth = 1; nth < MOST_FAULTS && misses < 10; nth++) { /* runs differ a little */
    alarm(CHECK_HANG_S);
    weft_mem_fail_at(nth);
    run_scenario();
    int is_hit = weft_mem_fail_at(0) >= nth;
    hits += is_hit;
    misses += !is_hit;
    check_counts(nth);
  }
  printf("# %u allocations failed in turn\n", hits);
  CHECK(hits > 20 && misses == 10);
}

static void each_thread_start_fails_once(void) {
  for (uint64_t nth = 1; nth <= 8; nth++) {
    alarm(CHECK_HANG_S);
    weft_thread_fail_at(nth);
    run_scenario();
    weft_thread_fail_at(0);
    check_counts(nth);
  }
}

/* Before anything else has started the I/O thread. */
static void without_an_io_thread(void) {
  weft_thread_fail_at(1);
  CHECK(weft_context_with_timeout(weft_background(), 10, NULL) == NULL);
  weft_thread_fail_at(1);
  CHECK(weft_sleep(weft_background(), 0.001) == WEFT_NOTHREAD);
  weft_thread_fail_at(0);
  CHECK(check_stats().contexts == 0 && check_stats().timers == 0);
  CHECK(weft_sleep(weft_background(), 0.001) == WEFT_OK);
}

static weft_error *pass_gate(weft_context *context, void *arg) {
  (void)context;
  gate_await(arg, 1);
  return NULL;
}

/* A limit of time that cannot be kept must not become a wait without one. */
static void close_without_an_io_thread(void) {
  gate opened = GATE;
  weft_pool *pool = weft_pool_new(&(weft_pool_config){.threads = 1});
  weft_group *group = weft_group_new(weft_background(), pool, 0);
  CHECK(weft_group_go(group, pass_gate, &opened) == WEFT_OK);
  weft_thread_fail_at(1);
  CHECK(weft_pool_close(pool, 1e5) == WEFT_WOULD_WAIT);
  weft_thread_fail_at(0);
  gate_add(&opened, 1);
  CHECK(weft_pool_close(pool, -1) == WEFT_OK);
  weft_group_close(group);
  weft_pool_release(pool);
  AWAIT(check_stats().pools == 0 && check_stats().threads == 0);
}

static void constructors_report_no_memory(void) {
  weft_mem_fail_at(1);
  CHECK(weft_channel_new(8) == NULL);
  weft_mem_fail_at(1);
  CHECK(weft_semaphore_new(8) == NULL);
  weft_mem_fail_at(1);
  CHECK(weft_waitgroup_new() == NULL);
  weft_mem_fail_at(1);
  CHECK(weft_context_with_cancel(weft_background()) == NULL);
  weft_mem_fail_at(1);
  CHECK(weft_pool_new(&(weft_pool_config){.threads = 1}) == NULL);
  weft_mem_fail_at(2);
  CHECK(weft_pool_new(&(weft_pool_config){.threads = 1}) == NULL);
  weft_mem_fail_at(0);
}

int main(void) {
  check_run("fault: close without an I/O thread", close_without_an_io_thread);
  check_run("fault: timers without an I/O thread", without_an_io_thread);
  check_run("fault: constructors report no memory", constructors_report_no_memory);
  check_run("fault: each allocation fails once", each_allocation_fails_once);
  check_run("fault: each thread start fails once", each_thread_start_fails_once);
  return check_end();
}
