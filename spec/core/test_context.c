/* test_context.c: the cancel tree: causes, deadlines, values, waiters, and many threads at once. */
#include "check.h"
#include "context.h"

enum { DEEP = 100000, ROUNDS = 3000, CANCELLERS = 3, SMALL_STACK = 64 * 1024 };

static void check_kind(weft_error *error, const char *kind) {
  CHECK(error && strcmp(weft_error_kind(error), kind) == 0);
  weft_error_release(error);
}

static void cancel_reaches_descendants_only(void) {
  weft_context *parent = weft_context_with_cancel(weft_background());
  weft_context *child = weft_context_with_cancel(parent);
  weft_context *grandchild = weft_context_with_cancel(child);
  weft_context *sibling = weft_context_with_cancel(parent);
  weft_error *why = weft_error_new("quota", "used up");
  CHECK(!weft_context_is_done(grandchild) && weft_context_error(grandchild) == NULL &&
        weft_context_cause(grandchild) == NULL);
  weft_context_cancel(child, why);
  CHECK(weft_context_is_done(child) && weft_context_is_done(grandchild));
  CHECK(!weft_context_is_done(parent) && !weft_context_is_done(sibling));
  check_kind(weft_context_error(grandchild), "canceled");
  check_kind(weft_context_cause(grandchild), "quota");
  weft_context *late = weft_context_with_cancel(child);
  CHECK(weft_context_is_done(late));
  check_kind(weft_context_cause(late), "quota");
  weft_context_release(late);
  weft_context_release(sibling);
  weft_context_release(parent); /* the children keep it */
  weft_context_release(child);
  CHECK(check_stats().contexts == 3);
  weft_context_release(grandchild);
  CHECK(check_stats().contexts == 0);
  weft_error_release(why);
}

static void only_the_first_cancel_counts(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_error *first = weft_error_new("first", ""), *second = weft_error_new("second", "");
  weft_context_cancel(context, first);
  weft_context_cancel(context, second);
  check_kind(weft_context_cause(context), "first");
  weft_context_release(context);
  weft_error_release(first);
  weft_error_release(second);
  context = weft_context_with_cancel(weft_background());
  weft_context_cancel(context, NULL);
  check_kind(weft_context_cause(context), "canceled");
  weft_context_release(context);
}

static void background_is_never_done(void) {
  weft_context_cancel(weft_background(), NULL);
  CHECK(!weft_context_is_done(weft_background()));
  CHECK(weft_context_deadline_ns(weft_background()) == WEFT_NEVER_NS);
  probe party;
  probe_init(&party);
  CHECK(weft_context_wait(weft_background(), &party.waiter) == 1);
  weft_context_unwait(weft_background(), &party.waiter);
}

/* ---- deadlines ---- */

static void deadline_ends_the_tree(void) {
  clock_freeze();
  weft_error *slow = weft_error_new("slow", "took too long");
  weft_context *parent = weft_context_with_timeout(weft_background(), 5, slow);
  weft_context *child = weft_context_with_cancel(parent);
  weft_context *longer = weft_context_with_timeout(parent, 50, NULL);
  CHECK(weft_context_deadline_ns(longer) == weft_context_deadline_ns(parent));
  CHECK(weft_context_deadline_ns(child) == weft_now_ns() + 5000000000u);
  probe party;
  probe_init(&party);
  CHECK(weft_context_wait(child, &party.waiter) == 1);
  clock_advance(4.9);
  CHECK(!weft_context_is_done(parent));
  clock_advance(0.2);
  AWAIT(party.wakes == 1);
  CHECK(weft_context_is_done(parent) && weft_context_is_done(longer));
  check_kind(weft_context_error(child), "deadline");
  check_kind(weft_context_cause(child), "slow");
  weft_context_release(child);
  weft_context_release(longer);
  weft_context_release(parent);
  weft_error_release(slow);
  AWAIT(check_stats().contexts == 0);
  weft_clock_set(NULL);
}

static void past_deadline_is_done_at_once(void) {
  weft_context *context = weft_context_with_timeout(weft_background(), -1, NULL);
  CHECK(weft_context_is_done(context));
  check_kind(weft_context_cause(context), "deadline");
  weft_context_release(context);
}

static void released_early_leaves_no_timer(void) {
  weft_context *contexts[100];
  for (size_t i = 0; i < COUNT(contexts); i++)
    contexts[i] = weft_context_with_timeout(weft_background(), 1e6 + (double)(i % 7), NULL);
  CHECK(check_stats().timers == COUNT(contexts));
  for (size_t i = 0; i < COUNT(contexts); i += 2)
    weft_context_cancel(contexts[i], NULL); /* stops the timer */
  CHECK(check_stats().timers == COUNT(contexts) / 2);
  for (size_t i = 0; i < COUNT(contexts); i++)
    weft_context_release(contexts[i]);
  CHECK(check_stats().timers == 0);
}

static void cancelled_with_its_parent_no_timer_stays(void) {
  weft_context *top = weft_context_with_cancel(weft_background());
  weft_context *child = weft_context_with_timeout(top, 1e6, NULL);
  weft_context *grandchild = weft_context_with_timeout(child, 1e5, NULL);
  CHECK(check_stats().timers == 2);
  weft_context_cancel(top, NULL);
  CHECK(weft_context_is_done(grandchild) && check_stats().timers == 0);
  weft_context_release(grandchild);
  weft_context_release(child);
  weft_context_release(top);
}

static void deadline_meets_release(void) {
  for (uint32_t i = 0; i < ROUNDS; i++) {
    weft_context *parent = weft_context_with_cancel(weft_background());
    weft_context *child = weft_context_with_deadline(parent, weft_now_ns() + i % 50 * 1000, NULL);
    weft_context_release(parent);
    if (i % 2)
      weft_context_cancel(child, NULL);
    weft_context_release(child);
  }
  AWAIT(check_stats().contexts == 0);
}

/* ---- values ---- */

static void put_text(weft_parcel *parcel, const char *text) {
  weft_parcel_init(parcel);
  parcel->size = (uint32_t)strlen(text);
  memcpy(parcel->inline_bytes, text, parcel->size);
}

static weft_context *with_text(weft_context *parent, const char *key, const char *text) {
  weft_parcel key_parcel, value_parcel;
  put_text(&key_parcel, key);
  put_text(&value_parcel, text);
  weft_context *child = weft_context_with_value(parent, &key_parcel, &value_parcel);
  CHECK(key_parcel.size == 0 && value_parcel.size == 0);
  return child;
}

static void check_text(weft_context *context, const char *key, const char *text) {
  weft_context *found = weft_context_find(context, key, (uint32_t)strlen(key));
  CHECK(!text == !found);
  if (text && found)
    CHECK(found->value.size == strlen(text) && memcmp(found->value.data, text, strlen(text)) == 0);
}

static void nearest_value_is_found(void) {
  weft_context *outer = with_text(weft_background(), "user", "anna");
  weft_context *middle = with_text(outer, "trace", "77");
  weft_context *inner = with_text(middle, "user", "bob");
  weft_context *detached = weft_context_without_cancel(inner);
  check_text(inner, "user", "bob");
  check_text(inner, "trace", "77");
  check_text(middle, "user", "anna");
  check_text(outer, "trace", NULL);
  check_text(inner, "use", NULL);
  check_text(detached, "user", "bob");
  weft_context_cancel(middle, NULL);
  CHECK(weft_context_is_done(inner));
  weft_context_release(detached);
  weft_context_release(inner);
  weft_context_release(middle);
  weft_context_release(outer);
}

static void detached_outlives_its_parent(void) {
  weft_context *parent = weft_context_with_timeout(weft_background(), 1e6, NULL);
  weft_context *detached = weft_context_without_cancel(parent);
  weft_context *child = weft_context_with_cancel(detached);
  weft_context_cancel(parent, NULL);
  CHECK(!weft_context_is_done(detached) && !weft_context_is_done(child));
  CHECK(weft_context_deadline_ns(child) == WEFT_NEVER_NS);
  weft_context *late = weft_context_without_cancel(parent);
  CHECK(!weft_context_is_done(late));
  weft_context_cancel(detached, NULL);
  CHECK(weft_context_is_done(child));
  weft_context_release(late);
  weft_context_release(child);
  weft_context_release(detached);
  weft_context_release(parent);
}

/* ---- waiters ---- */

static void waiters_wake_or_leave(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  probe stays, leaves, late;
  probe_init(&stays);
  probe_init(&leaves);
  probe_init(&late);
  CHECK(weft_context_wait(context, &stays.waiter) == 1);
  CHECK(weft_context_wait(context, &leaves.waiter) == 1);
  weft_context_unwait(context, &leaves.waiter);
  weft_context_cancel(context, NULL);
  CHECK(stays.wakes == 1 && leaves.wakes == 0);
  CHECK(weft_context_wait(context, &late.waiter) == 0 && late.wakes == 0);
  CHECK(!late.waiter.is_queued && !context->waiters.head); /* it need not leave */
  weft_context_unwait(context, &stays.waiter);
  weft_context_release(context);
}

static void *sleep_for_ever(void *arg) {
  CHECK(weft_sleep(arg, 1e6) == WEFT_CANCELED);
  CHECK(weft_sleep(arg, 1e6) == WEFT_CANCELED);
  return NULL;
}

static void cancel_ends_a_sleep(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  pthread_t sleeper;
  pthread_create(&sleeper, NULL, sleep_for_ever, context);
  AWAIT(check_stats().timers == 1);
  weft_context_cancel(context, NULL);
  pthread_join(sleeper, NULL);
  CHECK(check_stats().timers == 0);
  weft_context_release(context);
}

/* ---- size ---- */

static void *build_and_cancel_a_chain(void *unused) {
  weft_context *top = weft_context_with_cancel(weft_background()), *leaf = top;
  (void)unused;
  for (int i = 0; i < DEEP; i++) {
    weft_context *child = weft_context_with_cancel(leaf);
    if (leaf != top)
      weft_context_release(leaf);
    leaf = child;
  }
  weft_context_cancel(top, NULL);
  CHECK(weft_context_is_done(leaf));
  weft_context_release(top);
  weft_context_release(leaf);
  return NULL;
}

static void run_with_a_small_stack(void *(*function)(void *)) {
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, SMALL_STACK);
  CHECK(pthread_create(&thread, &attributes, function, NULL) == 0);
  pthread_join(thread, NULL);
  pthread_attr_destroy(&attributes);
  CHECK(check_stats().contexts == 0);
}

static void chain_needs_no_stack(void) {
  run_with_a_small_stack(build_and_cancel_a_chain);
}

static void many_children(void) {
  weft_context *top = weft_context_with_cancel(weft_background());
  weft_context **children = calloc(DEEP, sizeof *children);
  for (int i = 0; i < DEEP; i++)
    children[i] = weft_context_with_cancel(top);
  for (int i = 0; i < DEEP; i += 3)
    weft_context_release(children[i]);
  weft_context_cancel(top, NULL);
  for (int i = 0; i < DEEP; i++)
    if (i % 3) {
      CHECK(weft_context_is_done(children[i]));
      weft_context_release(children[i]);
    }
  weft_context_release(top);
  free(children);
}

/* ---- many threads ---- */

static void *make_and_drop_children(void *arg) {
  weft_context *parent = arg;
  for (int i = 0; i < 40; i++) {
    weft_context *child = weft_context_with_cancel(parent);
    weft_context *grandchild = weft_context_with_timeout(child, 1e5, NULL);
    weft_context_release(child);
    weft_context_release(grandchild);
  }
  return NULL;
}

static void cancel_while_children_are_destroyed(void) {
  for (int round = 0; round < ROUNDS / 10; round++) {
    weft_context *parent = weft_context_with_cancel(weft_background());
    pthread_t threads[2];
    for (size_t i = 0; i < COUNT(threads); i++)
      pthread_create(&threads[i], NULL, make_and_drop_children, parent);
    weft_context_cancel(parent, NULL);
    for (size_t i = 0; i < COUNT(threads); i++)
      pthread_join(threads[i], NULL);
    weft_context_release(parent);
  }
  AWAIT(check_stats().contexts == 0);
  CHECK(check_stats().timers == 0);
}

typedef struct tree {
  weft_context *top, *middle;
  _Atomic(weft_context *) leaves[8];
  pthread_barrier_t start;
} tree;

/* Whoever's cancel returns: all that hung there before is done. */
static void *cancel_and_look(void *arg) {
  tree *tree = arg;
  pthread_barrier_wait(&tree->start);
  weft_context *before[COUNT(tree->leaves)];
  for (size_t i = 0; i < COUNT(before); i++)
    before[i] = atomic_load(&tree->leaves[i]);
  weft_context_cancel(tree->top, NULL);
  for (size_t i = 0; i < COUNT(before); i++)
    CHECK(!before[i] || weft_context_is_done(before[i]));
  return NULL;
}

static void *hang_leaves(void *arg) {
  tree *tree = arg;
  pthread_barrier_wait(&tree->start);
  for (size_t i = 0; i < COUNT(tree->leaves); i++) {
    weft_context *parent = i % 2 ? tree->middle : tree->top;
    weft_context *leaf =
        i % 4 ? weft_context_with_timeout(parent, 3600, NULL) : weft_context_with_cancel(parent);
    atomic_store(&tree->leaves[i], leaf);
  }
  return NULL;
}

static void cancel_one_tree(int has_middle) {
  tree tree = {.top = weft_context_with_cancel(weft_background())};
  pthread_t threads[CANCELLERS + 1];
  tree.middle = has_middle ? weft_context_with_cancel(tree.top) : weft_context_retain(tree.top);
  pthread_barrier_init(&tree.start, NULL, CANCELLERS + 1);
  for (int i = 0; i <= CANCELLERS; i++)
    pthread_create(&threads[i], NULL, i ? cancel_and_look : hang_leaves, &tree);
  for (int i = 0; i <= CANCELLERS; i++)
    pthread_join(threads[i], NULL);
  CHECK(check_stats().timers == 0); /* nor one that was started when its context was done */
  for (size_t i = 0; i < COUNT(tree.leaves); i++) {
    CHECK(weft_context_is_done(tree.leaves[i]));
    weft_context_release(tree.leaves[i]);
  }
  weft_context_release(tree.middle);
  weft_context_release(tree.top);
  pthread_barrier_destroy(&tree.start);
}

static void concurrent_cancels_agree(void) {
  for (int round = 0; round < ROUNDS / 3; round++)
    cancel_one_tree(round % 2);
  CHECK(check_stats().contexts == 0);
}

static void *cancel_first(void *top) {
  weft_context_cancel(top, NULL);
  return NULL;
}

/* Whoever comes second returns no earlier than the first: all descendants are done. */
static void a_later_cancel_waits_for_the_first(void) {
  weft_context **leaves = calloc(DEEP / 10, sizeof *leaves);
  for (int round = 0; round < 10; round++) {
    weft_context *top = weft_context_with_cancel(weft_background());
    pthread_t first;
    for (int i = 0; i < DEEP / 10; i++)
      leaves[i] = weft_context_with_cancel(top);
    pthread_create(&first, NULL, cancel_first, top);
    AWAIT(weft_context_is_done(top));
    weft_context_cancel(top, NULL);
    for (int i = 0; i < DEEP / 10; i++)
      CHECK(weft_context_is_done(leaves[i]));
    pthread_join(first, NULL);
    for (int i = 0; i < DEEP / 10; i++)
      weft_context_release(leaves[i]);
    weft_context_release(top);
  }
  free(leaves);
}

/* A child of `parent` whose value holds the last reference to `held`. */
static weft_context *put_inside(weft_context *parent, weft_context *held) {
  weft_parcel key, value;
  weft_parcel_writer writer;
  put_text(&key, "held");
  weft_parcel_init(&value);
  weft_parcel_writer_init(&writer);
  CHECK(weft_parcel_write_handle(&writer, &held->handle) == WEFT_BUF_OK);
  CHECK(weft_parcel_finish(&writer, &value) == WEFT_BUF_OK);
  weft_parcel_writer_free(&writer);
  weft_context_release(held);
  return weft_context_with_value(parent, &key, &value);
}

/* Cancelling one tree may destroy another. */
static void values_may_hold_contexts(void) {
  weft_context *top = weft_context_with_cancel(weft_background());
  weft_context *held = weft_context_with_cancel(weft_background());
  weft_context *child = put_inside(top, held);
  weft_context_cancel(top, NULL);
  CHECK(!weft_context_is_done(held));
  weft_context_release(child);
  weft_context_release(top);
  CHECK(check_stats().contexts == 0);
}

static void *build_and_drop_a_nest(void *unused) {
  (void)unused;
  weft_context *context = weft_context_with_cancel(weft_background());
  for (int i = 0; i < DEEP; i++)
    context = put_inside(weft_background(), context);
  CHECK(check_stats().contexts == DEEP + 1);
  weft_context_release(context);
  return NULL;
}

static void nest_of_values_needs_no_stack(void) {
  run_with_a_small_stack(build_and_drop_a_nest);
}

int main(void) {
  check_run("context: a cancel reaches descendants only", cancel_reaches_descendants_only);
  check_run("context: only the first cancel counts", only_the_first_cancel_counts);
  check_run("context: the background is never done", background_is_never_done);
  check_run("context: a deadline ends the tree", deadline_ends_the_tree);
  check_run("context: a past deadline is done at once", past_deadline_is_done_at_once);
  check_run("context: released early, no timer stays", released_early_leaves_no_timer);
  check_run("context: cancelled with its parent, no timer stays",
            cancelled_with_its_parent_no_timer_stays);
  check_run("context: a deadline meets a release", deadline_meets_release);
  check_run("context: the nearest value is found", nearest_value_is_found);
  check_run("context: a detached one outlives its parent", detached_outlives_its_parent);
  check_run("context: values may hold contexts", values_may_hold_contexts);
  check_run("context: a nest of 100,000 values needs no stack", nest_of_values_needs_no_stack);
  check_run("context: waiters wake or leave", waiters_wake_or_leave);
  check_run("context: a cancel ends a sleep", cancel_ends_a_sleep);
  check_run("context: a chain of 100,000 needs no stack", chain_needs_no_stack);
  check_run("context: 100,000 children", many_children);
  check_run("context: cancel while children are destroyed", cancel_while_children_are_destroyed);
  check_run("context: concurrent cancels agree", concurrent_cancels_agree);
  check_run("context: a later cancel waits for the first", a_later_cancel_waits_for_the_first);
  return check_end();
}
