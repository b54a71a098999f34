/* test_stress.c: several producers and consumers on pools of 1 to 4 threads, with cancels in
 * between. */
#include "channel.h"
#include "check.h"
#include "context.h"
#include "group.h"
#include "pool.h"
#include "semaphore.h"
#include "waitgroup.h"

enum { PRODUCERS = 3, CONSUMERS = 3, VALUES = 4000, OWNERS = 4, TASKS = 3000 };

typedef struct message {
  uint32_t producer, number;
} message;

typedef struct market {
  weft_channel *channel;
  weft_waitgroup *producing;
  weft_context *context;
  int with_cancels;
  _Atomic uint32_t next_producer, sent, received, disorder;
  _Atomic uint64_t sent_sum, received_sum;
} market;

static weft_context *cancelled_soon(market *market, uint32_t number) {
  weft_context *context = weft_context_with_timeout(market->context, number % 5 * 1e-5, NULL);
  return market->with_cancels && number % 7 == 0
             ? context
             : (weft_context_release(context), weft_context_retain(market->context));
}

static void *produce(void *arg) {
  market *market = arg;
  message message = {atomic_fetch_add(&market->next_producer, 1), 0};
  for (uint32_t i = 1; i <= VALUES; i++) {
    weft_context *context = cancelled_soon(market, i);
    message.number = i;
    int rc = weft_channel_send(context, market->channel, &message, sizeof message);
    CHECK(rc == WEFT_OK || (rc == WEFT_CANCELED && market->with_cancels));
    if (rc == WEFT_OK) {
      atomic_fetch_add(&market->sent, 1);
      atomic_fetch_add(&market->sent_sum, i * (message.producer + 1));
    }
    weft_context_release(context);
  }
  CHECK(weft_waitgroup_done(market->producing) == WEFT_OK);
  return NULL;
}

static int consume_one(market *market, weft_context *context, uint32_t *last) {
  message message;
  size_t size;
  int rc = weft_channel_recv(context, market->channel, &message, sizeof message, &size);
  if (rc != WEFT_OK)
    return rc;
  if (message.number <= last[message.producer]) /* each consumer sees each producer in order */
    atomic_fetch_add(&market->disorder, 1);
  last[message.producer] = message.number;
  atomic_fetch_add(&market->received, 1);
  atomic_fetch_add(&market->received_sum, message.number * (message.producer + 1));
  return rc;
}

static void *consume(void *arg) {
  market *market = arg;
  uint32_t last[PRODUCERS] = {0};
  int rc = WEFT_OK;
  for (uint32_t i = 1; rc != WEFT_CLOSED; i++) {
    weft_context *context = cancelled_soon(market, i);
    rc = consume_one(market, context, last);
    CHECK(rc != WEFT_CANCELED || market->with_cancels);
    weft_context_release(context);
  }
  return NULL;
}

static void trade(uint32_t capacity, int with_cancels) {
  market market = {.channel = weft_channel_new(capacity),
                   .producing = weft_waitgroup_new(),
                   .context = weft_context_with_cancel(weft_background()),
                   .with_cancels = with_cancels};
  pthread_t threads[PRODUCERS + CONSUMERS];
  CHECK(weft_waitgroup_add(market.producing, PRODUCERS) == WEFT_OK);
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_create(&threads[i], NULL, i < PRODUCERS ? produce : consume, &market);
  CHECK(weft_waitgroup_wait(market.context, market.producing) == WEFT_OK);
  CHECK(weft_channel_close(market.channel) == WEFT_OK);
  for (size_t i = 0; i < COUNT(threads); i++)
    pthread_join(threads[i], NULL);
  CHECK(market.sent == market.received && market.sent_sum == market.received_sum);
  CHECK(with_cancels || market.sent == PRODUCERS * VALUES);
  CHECK(market.disorder == 0);
  weft_channel_release(market.channel);
  weft_waitgroup_release(market.producing);
  weft_context_release(market.context);
}

static void trade_at_any_capacity(void) {
  static const uint32_t capacities[] = {0, 1, 3, 100};
  for (size_t i = 0; i < COUNT(capacities); i++)
    trade(capacities[i], 0);
}

static void trade_with_cancels(void) {
  trade(0, 1);
  trade(2, 1);
}

/* ---- groups of several owners on one pool ---- */

typedef struct owner {
  weft_pool *pool;
  weft_semaphore *semaphore;
  _Atomic uint32_t ran;
  uint32_t limit;
} owner;

static weft_error *run_one(weft_context *context, void *arg) {
  owner *owner = arg;
  int rc = weft_semaphore_acquire(context, owner->semaphore, 1);
  if (rc != WEFT_OK)
    return weft_context_error(context);
  atomic_fetch_add(&owner->ran, 1);
  weft_semaphore_give_back(owner->semaphore, 1);
  return NULL;
}

static weft_error *fail_sometimes(weft_context *context, void *arg) {
  owner *owner = arg;
  weft_error *error = run_one(context, arg);
  if (!error && atomic_load(&owner->ran) % 97 == 0)
    error = weft_error_new("boom", "failed on purpose");
  return error;
}

static void *own_groups(void *arg) {
  owner *owner = arg;
  weft_group *group = weft_group_new(weft_background(), owner->pool, owner->limit);
  for (int i = 0; i < TASKS; i++)
    CHECK(weft_group_go(group, run_one, owner) == WEFT_OK);
  CHECK(weft_group_wait(group) == NULL);
  CHECK(owner->ran == TASKS);
  weft_group_close(group);
  for (int round = 0; round < 20; round++) {
    int rc = WEFT_OK;
    group = weft_group_new(weft_background(), owner->pool, owner->limit);
    for (int i = 0; i < TASKS / 20 && rc == WEFT_OK; i++)
      rc = weft_group_go(group, fail_sometimes, owner);
    CHECK(rc == WEFT_OK || rc == WEFT_CANCELED);
    if (round % 2)
      weft_group_close(group);
    else
      weft_group_drop(group);
  }
  return NULL;
}

static void run_owners(uint32_t threads, uint32_t queue) {
  weft_pool *pool = weft_pool_new(&(weft_pool_config){.threads = threads, .queue = queue});
  weft_semaphore *semaphore = weft_semaphore_new(2);
  owner owners[OWNERS];
  pthread_t natives[OWNERS];
  for (uint32_t i = 0; i < OWNERS; i++) {
    owners[i] = (owner){.pool = pool, .semaphore = semaphore, .limit = i * 3};
    pthread_create(&natives[i], NULL, own_groups, &owners[i]);
  }
  for (uint32_t i = 0; i < OWNERS; i++)
    pthread_join(natives[i], NULL);
  CHECK(weft_pool_close(pool, -1) == WEFT_OK); /* dropped groups as well */
  AWAIT(check_stats().groups == 0);
  CHECK(weft_semaphore_held(semaphore) == 0);
  weft_pool_release(pool);
  weft_semaphore_release(semaphore);
}

static void owners_share_a_pool(void) {
  for (uint32_t threads = 1; threads <= 4; threads++)
    run_owners(threads, 0);
}

static void owners_share_a_short_queue(void) {
  for (uint32_t threads = 1; threads <= 4; threads++)
    run_owners(threads, 3);
}

int main(void) {
  check_run("stress: producers and consumers, any capacity", trade_at_any_capacity);
  check_run("stress: the same with cancels", trade_with_cancels);
  check_run("stress: owners share a pool of 1 to 4 threads", owners_share_a_pool);
  check_run("stress: the same with a short queue", owners_share_a_short_queue);
  return check_end();
}
