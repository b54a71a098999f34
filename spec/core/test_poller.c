/* test_poller.c: which descriptors are ready, by whichever poller the system has. */
#include "check.h"

#include "mem.h"
#include "poller.h"

#include <errno.h>
#include <sys/socket.h>

enum { MANY = 100, ROOM = 8 };

typedef struct pair { /* what is written to `out` is read from `in` */
  int in, out;
} pair;

static pair open_pair(void) {
  int ends[2] = {-1, -1};
  CHECK(weft_fd_pipe(ends) == 0);
  return (pair){ends[0], ends[1]};
}

static void close_pair(pair pair) {
  close(pair.in);
  close(pair.out);
}

static void feed(pair pair) {
  CHECK(write(pair.out, "x", 1) == 1);
}

static void drain(pair pair) {
  char byte;
  CHECK(read(pair.in, &byte, 1) == 1);
}

static int wait_now(weft_poller *poller, weft_poller_event *events) {
  return weft_poller_wait(poller, events, ROOM, 0);
}

static void tells_what_is_ready_as_long_as_it_is(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pair quiet = open_pair(), fed = open_pair();
  CHECK(weft_poller_set(poller, quiet.in, 0, POLLIN, &quiet) == 0);
  CHECK(weft_poller_set(poller, fed.in, 0, POLLIN, &fed) == 0);
  CHECK(wait_now(poller, events) == 0);
  feed(fed);
  for (int i = 0; i < 2; i++) {
    CHECK(weft_poller_wait(poller, events, ROOM, WEFT_NEVER_NS) == 1);
    CHECK(events[0].tag == &fed && events[0].events == POLLIN);
  }
  drain(fed);
  CHECK(wait_now(poller, events) == 0);
  CHECK(weft_poller_set(poller, fed.out, 0, POLLOUT, &quiet) == 0);
  CHECK(wait_now(poller, events) == 1);
  CHECK(events[0].tag == &quiet && events[0].events == POLLOUT);
  weft_poller_close(poller);
  close_pair(quiet);
  close_pair(fed);
}

static void tells_the_end_of_what_nothing_is_asked_of(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  int ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  CHECK(weft_poller_set(poller, ends[0], 0, POLLIN, ends) == 0);
  CHECK(weft_poller_set(poller, ends[0], 1, 0, ends) == 0);
  CHECK(write(ends[1], "x", 1) == 1);
  CHECK(wait_now(poller, events) == 0);
  close(ends[1]);
  CHECK(wait_now(poller, events) == 1);
  CHECK(events[0].tag == ends && events[0].events & POLLHUP);
  weft_poller_close(poller);
  close(ends[0]);
}

static void tells_all_when_more_are_ready_than_there_is_room(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pair pairs[MANY];
  int told[MANY] = {0}, count = 0;
  for (int i = 0; i < MANY; i++) {
    pairs[i] = open_pair();
    feed(pairs[i]);
    CHECK(weft_poller_set(poller, pairs[i].in, 0, POLLIN, &told[i]) == 0);
  }
  for (int found; (found = wait_now(poller, events)) > 0 && count < MANY; count += found) {
    CHECK(found <= ROOM);
    for (int i = 0; i < found; i++) {
      int *tag = events[i].tag;
      ++*tag;
      drain(pairs[tag - told]);
    }
  }
  CHECK(count == MANY);
  for (int i = 0; i < MANY; i++) {
    CHECK(told[i] == 1);
    close_pair(pairs[i]);
  }
  weft_poller_close(poller);
}

static void has_no_favourites(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pair pairs[MANY];
  int told[MANY] = {0}, missing = MANY;
  for (int i = 0; i < MANY; i++) {
    pairs[i] = open_pair();
    feed(pairs[i]);
    CHECK(weft_poller_set(poller, pairs[i].in, 0, POLLIN, &told[i]) == 0);
  }
  for (int round = 0; round < 4 * MANY / ROOM; round++) /* nothing is read: all stay ready */
    for (int i = wait_now(poller, events) - 1; i >= 0; i--)
      missing -= ++*(int *)events[i].tag == 1;
  CHECK(missing == 0);
  weft_poller_close(poller);
  for (int i = 0; i < MANY; i++)
    close_pair(pairs[i]);
}

static void forgets_one_among_many(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pair pairs[3];
  for (int i = 0; i < 3; i++) {
    pairs[i] = open_pair();
    CHECK(weft_poller_set(poller, pairs[i].in, 0, POLLIN, &pairs[i]) == 0);
  }
  weft_poller_forget(poller, pairs[0].in);
  weft_poller_forget(poller, pairs[0].in); /* nothing happens */
  for (int i = 0; i < 3; i++)
    feed(pairs[i]);
  CHECK(wait_now(poller, events) == 2);
  CHECK(events[0].tag != events[1].tag && events[0].tag != &pairs[0] && events[1].tag != &pairs[0]);
  CHECK(weft_poller_set(poller, pairs[0].in, 0, POLLIN, &pairs[0]) == 0);
  CHECK(wait_now(poller, events) == 3);
  weft_poller_close(poller);
  for (int i = 0; i < 3; i++)
    close_pair(pairs[i]);
}

/* As libcurl does it: the number of a descriptor is closed and is another's before anybody says
 * so. */
static void does_not_take_a_new_file_for_the_closed_one(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pair old = open_pair(), young = open_pair();
  CHECK(weft_poller_set(poller, old.in, 0, POLLIN, &old) == 0);
  CHECK(weft_fd_replace(young.in, old.in) >= 0);
  feed(young);
  CHECK(wait_now(poller, events) == 0);
  CHECK(weft_poller_set(poller, old.in, 1, POLLIN, &young) == 0);
  CHECK(wait_now(poller, events) == 1 && events[0].tag == &young);
  close(old.in);
  close(old.out);
  close_pair(young);
  CHECK(wait_now(poller, events) == 0);
  CHECK(weft_poller_set(poller, old.in, 1, POLLIN, &old) == EBADF);
  weft_poller_close(poller);
}

static void wake(void *poller) {
  weft_poller_wake(poller);
}

static void is_woken_by_another_thread(void) {
  weft_poller *poller = weft_poller_open();
  weft_poller_event events[ROOM];
  pthread_t thread;
  weft_poller_wake(poller);
  weft_poller_wake(poller);
  CHECK(weft_poller_wait(poller, events, ROOM, WEFT_NEVER_NS) == 0); /* one that came before */
  CHECK(weft_thread_start_joinable(wake, poller, "waker", &thread) == 0);
  CHECK(weft_poller_wait(poller, events, ROOM, WEFT_NEVER_NS) == 0);
  pthread_join(thread, NULL);
  weft_poller_close(poller);
}

/* Each allocation fails in turn. Returns whether one was left to fail. */
static int survives(uint64_t nth) {
  pair pairs[MANY];
  weft_mem_fail_at(nth);
  weft_poller *poller = weft_poller_open();
  CHECK(poller || errno == ENOMEM);
  for (int i = 0; i < MANY; i++) {
    pairs[i] = open_pair();
    int rc = poller ? weft_poller_set(poller, pairs[i].in, 0, POLLIN, &pairs[i]) : 0;
    CHECK(rc == 0 || rc == ENOMEM);
  }
  int has_failed = weft_mem_fail_at(0) >= nth;
  weft_poller_close(poller);
  for (int i = 0; i < MANY; i++)
    close_pair(pairs[i]);
  return has_failed;
}

static void survives_a_lack_of_memory(void) {
  uint64_t nth = 1;
  while (survives(nth))
    nth++;
  CHECK(nth > 1);
}

/* ---- the rest of the seam ---- */

static void waits_for_a_signal(void) {
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, &before);
  CHECK(weft_signal_wait(&set, weft_clock_real_ns()) == 0);
  raise(SIGUSR2);
  CHECK(weft_signal_wait(&set, WEFT_NEVER_NS) == SIGUSR2);
  CHECK(weft_signal_wait(&set, weft_clock_real_ns()) == 0);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

typedef struct sleeper {
  weft_parker parker;
  _Atomic int is_told, has_ended;
} sleeper;

static void sleep_until_told(void *arg) {
  sleeper *sleeper = arg;
  while (!atomic_load(&sleeper->is_told))
    weft_parker_park(&sleeper->parker, WEFT_NEVER_NS);
  atomic_store(&sleeper->has_ended, 1);
}

/* More than there are lots to sleep in, where the system has no futex. */
static void wakes_the_one_that_it_means(void) {
  static sleeper sleepers[MANY];
  pthread_t threads[MANY];
  for (int i = 0; i < MANY; i++) {
    weft_parker_init(&sleepers[i].parker, i % 10 == 0); /* some sleep on a descriptor */
    CHECK(weft_thread_start_joinable(sleep_until_told, &sleepers[i], "sleeper", &threads[i]) == 0);
  }
  for (int i = MANY - 1; i >= 0; i--) {
    atomic_store(&sleepers[i].is_told, 1);
    weft_parker_unpark(&sleepers[i].parker);
    pthread_join(threads[i], NULL);
    CHECK(i == 0 || !atomic_load(&sleepers[i - 1].has_ended));
  }
  for (int i = 0; i < MANY; i += 10) {
    if (sleepers[i].parker.sleep_fd != sleepers[i].parker.fd)
      close(sleepers[i].parker.sleep_fd);
    close(sleepers[i].parker.fd);
  }
}

static void a_sleep_ends_at_its_time(void) {
  for (int interruptible = 0; interruptible < 2; interruptible++) {
    weft_parker parker;
    uint64_t until_ns = weft_clock_real_ns() + 3000000;
    CHECK(weft_parker_init(&parker, interruptible) == 0);
    while (weft_clock_real_ns() < until_ns)
      weft_parker_park(&parker, until_ns);
    if (parker.sleep_fd != parker.fd)
      close(parker.sleep_fd);
    if (parker.fd >= 0)
      close(parker.fd);
  }
}

int main(void) {
  check_run("tells what is ready, as long as it is", tells_what_is_ready_as_long_as_it_is);
  check_run("tells the end of what nothing is asked of", tells_the_end_of_what_nothing_is_asked_of);
  check_run("tells all when more are ready than there is room",
            tells_all_when_more_are_ready_than_there_is_room);
  check_run("has no favourites", has_no_favourites);
  check_run("forgets one among many", forgets_one_among_many);
  check_run("does not take a new file for the closed one",
            does_not_take_a_new_file_for_the_closed_one);
  check_run("is woken by another thread", is_woken_by_another_thread);
  check_run("survives a lack of memory", survives_a_lack_of_memory);
  check_run("waits for a signal", waits_for_a_signal);
  check_run("wakes the one that it means", wakes_the_one_that_it_means);
  check_run("a sleep ends at its time", a_sleep_ends_at_its_time);
  return check_end();
}
