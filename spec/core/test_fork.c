/* test_fork.c: a child of a fork has no threads, and starts its own on use; and what can be tried
 * out in a child only. */
#include "census.h"
#include "channel.h"
#include "check.h"
#include "context.h"
#include "group.h"
#include "limiter.h"
#include "pool.h"
#include "select.h"
#include "signals.h"
#include "ticker.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

enum { FORKS = 60, CHILD_HANG_S = 30 };

static weft_pool *pool, *sleeping_pool; /* its threads sleep */
static weft_group *parents_group;
static weft_channel *channel, *ticks; /* ticks: in a long time */
static weft_limiter *limiter;
static probe waiting; /* at the limiter */

static weft_error *count_up(weft_context *context, void *arg) {
  (void)context;
  atomic_fetch_add((_Atomic uint32_t *)arg, 1);
  return NULL;
}

static int runs_tasks(weft_pool *any_pool) {
  _Atomic uint32_t count = 0;
  weft_group *group = weft_group_new(weft_background(), any_pool, 0);
  for (int i = 0; i < 50; i++)
    if (weft_group_go(group, count_up, &count) != WEFT_OK)
      return 0;
  weft_error *error = weft_group_wait(group);
  weft_group_close(group);
  return !error && count == 50;
}

static int times_out(void) {
  weft_context *context = weft_context_with_timeout(weft_background(), 0.002, NULL);
  int is_cut = context && weft_sleep(context, 1e5) == WEFT_CANCELED;
  weft_context_release(context);
  return is_cut && weft_sleep(weft_background(), 0.001) == WEFT_OK;
}

static int refuses_the_parents_group(void) {
  _Atomic uint32_t count = 0;
  weft_error *error = weft_group_wait(parents_group);
  int is_forked = error && strcmp(weft_error_kind(error), "forked") == 0;
  weft_error_release(error);
  is_forked &= weft_group_go(parents_group, count_up, &count) == WEFT_FORKED;
  weft_group_close(parents_group);
  return is_forked && count == 0;
}

static void stamp(weft_parcel *value, uint64_t at_ns) {
  (void)at_ns;
  value->size = 1;
}

/* A limiter whose timer runs in the parent serves the child by a timer of its own; the parent's
 * ticker is silent, the child's own ticks. */
static int uses_limits_and_tickers(void) {
  int error;
  uint32_t index;
  weft_parcel slot;
  weft_parcel_init(&slot);
  probe party; /* stands behind the parent's waiter, which is memory of this process, too */
  probe_init(&party);
  weft_limiter_set(limiter, 1e4, 2);
  party.waiter.weight = 1;
  if (weft_limiter_take_or_wait(limiter, WEFT_NEVER_NS, &party.waiter) == WEFT_WOULD_WAIT)
    AWAIT(party.wakes == 1);
  if (weft_limiter_wait(weft_background(), limiter, 2) != WEFT_OK)
    return 7;
  weft_channel *own = weft_ticker_channel(1e-4, 1e-4, stamp, &error);
  weft_select_case cases[] = {
      {.kind = WEFT_SELECT_RECV, .channel = ticks, .value = &slot},
      {.kind = WEFT_SELECT_RECV, .channel = own, .value = &slot},
  };
  weft_select select;
  weft_select_init(&select, cases, 2, 1);
  if (!own || weft_select_wait(weft_background(), &select, &index) != WEFT_OK || index != 1)
    return 8;
  weft_parcel_clear(&slot);
  weft_channel_release(own);
  return 0;
}

/* Inboxes are used again, but not those of threads that are the parent's: they are said to be
 * asleep, so that a thread of the child's that gets one would count as awake for ever. */
static int drops_the_parents_pool(void) {
  weft_pool_release(sleeping_pool);
  weft_pool *own = weft_pool_new(&(weft_pool_config){.threads = 3});
  int is_well = runs_tasks(own) && weft_pool_close(own, -1) == WEFT_OK;
  weft_pool_release(own);
  AWAIT(weft_census_awake() == 0);
  return is_well;
}

/* Exit status of the child: 0, or which step failed. */
static int live_in_child(void) {
  weft_stats stats = check_stats();
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_context *child = weft_context_with_cancel(context);
  weft_context_cancel(context, NULL); /* walks: takes the process-wide lock */
  if (!weft_context_is_done(child) || stats.threads != 0 || stats.timers != 0)
    return 1;
  if (!drops_the_parents_pool())
    return 9;
  if (!times_out())
    return 2;
  if (!runs_tasks(pool)) /* the parent's pool gets threads of this process */
    return 3;
  weft_pool *own_pool = weft_pool_new(&(weft_pool_config){.threads = 2});
  if (!runs_tasks(own_pool) || weft_pool_close(own_pool, -1) != WEFT_OK)
    return 4;
  weft_pool_release(own_pool);
  if (!refuses_the_parents_group())
    return 5;
  if (weft_channel_length(channel) != 1)
    return 6;
  return uses_limits_and_tickers();
}

static int fork_and_wait(void) {
  int status = -1;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(CHILD_HANG_S);
    _exit(live_in_child());
  }
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static weft_error *block_until_cancelled(weft_context *context, void *arg) {
  (void)arg;
  weft_sleep(context, 1e6);
  return NULL;
}

static void begin(void) {
  pool = weft_pool_new(&(weft_pool_config){.threads = 3});
  parents_group = weft_group_new(weft_background(), pool, 0);
  channel = weft_channel_new(2);
  CHECK(weft_channel_send(weft_background(), channel, "x", 1) == WEFT_OK);
  CHECK(weft_group_go(parents_group, block_until_cancelled, NULL) == WEFT_OK);
  CHECK(runs_tasks(pool));
  sleeping_pool = weft_pool_new(&(weft_pool_config){.threads = 3});
  CHECK(runs_tasks(sleeping_pool));
  AWAIT(atomic_load(&sleeping_pool->idle_count) == atomic_load(&sleeping_pool->threads));
  int error;
  ticks = weft_ticker_channel(1e6, 0, stamp, &error);
  limiter = weft_limiter_new(1e-6, 1);
  CHECK(weft_limiter_allow(limiter, 1) == WEFT_OK);
  probe_init(&waiting);
  waiting.waiter.weight = 1;
  CHECK(weft_limiter_take_or_wait(limiter, WEFT_NEVER_NS, &waiting.waiter) == WEFT_WOULD_WAIT);
}

static void finish(void) {
  weft_limiter_unwait(limiter, &waiting.waiter);
  weft_limiter_release(limiter);
  weft_channel_release(ticks);
  weft_group_close(parents_group);
  CHECK(runs_tasks(pool)); /* the parent is as it was */
  CHECK(weft_pool_close(pool, -1) == WEFT_OK);
  weft_pool_release(pool);
  CHECK(weft_pool_close(sleeping_pool, -1) == WEFT_OK);
  weft_pool_release(sleeping_pool);
  weft_channel_release(channel);
}

static void the_child_starts_its_own_threads(void) {
  begin();
  CHECK(fork_and_wait() == 0);
  finish();
}

#ifdef SYS_epoll_pwait2
static _Atomic int was_called;

static void on_signal(void) {
  atomic_store(&was_called, 1);
}

/* As sandboxes do with system calls that are newer than they are. */
static int refuse_new_calls(void) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {COUNT(program), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static void hears_of_descriptors_in_an_old_sandbox(void) {
  int status = -1;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(CHILD_HANG_S);
    if (!refuse_new_calls())
      _exit(77);
    if (!weft_signal_listen(SIGUSR1, on_signal))
      _exit(1);
    raise(SIGUSR1);
    AWAIT(atomic_load(&was_called));
    _exit(0);
  }
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
}
#else
static void hears_of_descriptors_in_an_old_sandbox(void) {
}
#endif

static _Atomic int keep_busy;

/* Keeps timers, the tree's and the pool's locks taken most of the time. */
static void *be_busy(void *arg) {
  (void)arg;
  while (atomic_load(&keep_busy)) {
    weft_context *top = weft_context_with_timeout(weft_background(), 1e4, NULL);
    weft_context *children[20];
    for (size_t i = 0; i < COUNT(children); i++)
      children[i] = weft_context_with_timeout(top, 1e3, NULL);
    weft_context_cancel(top, NULL);
    for (size_t i = 0; i < COUNT(children); i++)
      weft_context_release(children[i]);
    weft_context_release(top);
    CHECK(runs_tasks(pool));
  }
  return NULL;
}

static void forks_amid_work(void) {
  pthread_t threads[2];
  begin();
  atomic_store(&keep_busy, 1);
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_create(&threads[i], NULL, be_busy, NULL);
  for (int i = 0; i < FORKS; i++) {
    int status = fork_and_wait();
    if (status)
      printf("# fork %d: %d\n", i, status);
    CHECK(status == 0);
  }
  atomic_store(&keep_busy, 0);
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_join(threads[i], NULL);
  finish();
}

int main(void) {
  check_run("io: hears of descriptors in an old sandbox", hears_of_descriptors_in_an_old_sandbox);
#if defined(__SANITIZE_ADDRESS__) /* its allocator's locks do not survive a fork amid threads */
  printf("# not run under AddressSanitizer\n");
  (void)the_child_starts_its_own_threads, (void)forks_amid_work;
#else
  check_run("fork: the child starts its own threads", the_child_starts_its_own_threads);
  check_run("fork: amid the work of other threads", forks_amid_work);
#endif
  return check_end();
}
