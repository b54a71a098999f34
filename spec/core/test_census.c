/* test_census.c: who is awake: parks and wakes of parties, the virtual clock's jumps, when all is
 * stuck. */
#include "check.h"
#include "census.h"
#include "timer.h"

#include <sys/wait.h>

enum { ROUNDS = 2000 };

static gate stuck_gate = GATE;

/* ---- two parties that wake each other in turn ---- */

typedef struct pair {
  weft_parker a, b;
  _Atomic uint32_t turn; /* even: a's */
} pair;

static void play(pair *pair, int is_b) {
  weft_parker *own = is_b ? &pair->b : &pair->a, *other = is_b ? &pair->a : &pair->b;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    while ((atomic_load(&pair->turn) & 1) != (uint32_t)is_b)
      weft_parker_park(own, WEFT_NEVER_NS);
    atomic_fetch_add(&pair->turn, 1);
    weft_parker_unpark(other);
  }
}

static void play_b(void *arg) {
  play(arg, 1);
  weft_census_leave();
}

static void counts_are_exact_after_many_wakes(void) {
  pair pair = {0};
  uint32_t before = weft_census_awake();
  weft_parker_init(&pair.a, 0);
  weft_parker_init(&pair.b, 0);
  pair.a.is_party = pair.b.is_party = 1;
  weft_census_enter();
  weft_census_enter();
  CHECK(weft_thread_start(play_b, &pair, "b") == 0);
  play(&pair, 0);
  AWAIT(weft_threads_live() == 0 || weft_census_awake() == before + 1);
  CHECK(atomic_load(&pair.turn) == 2 * ROUNDS);
  weft_census_leave();
  AWAIT(weft_census_awake() == before);
}

/* ---- stuck ---- */

typedef struct sleeper {
  weft_parker parker;
  _Atomic int may_end;
} sleeper;

static void sleep_until_told(void *arg) {
  sleeper *sleeper = arg;
  while (!atomic_load(&sleeper->may_end))
    weft_parker_park(&sleeper->parker, WEFT_NEVER_NS);
  weft_census_leave_script();
}

static void start_sleeper(sleeper *sleeper) {
  weft_parker_init(&sleeper->parker, 0);
  sleeper->parker.is_party = 1;
  atomic_init(&sleeper->may_end, 0);
  weft_census_enter_script();
  CHECK(weft_thread_start(sleep_until_told, sleeper, "sleeper") == 0);
}

static void end_sleeper(sleeper *sleeper) {
  weft_census_enter(); /* who wakes is awake */
  atomic_store(&sleeper->may_end, 1);
  weft_parker_unpark(&sleeper->parker);
  weft_census_leave();
  AWAIT(weft_threads_live() <= 1);
}

static _Atomic int told;

static void tell_sleeper_once(void) {
  weft_census_on_stuck(
      NULL); /* this sleeper does nothing about it; before the gate, since the test goes on then */
  if (!atomic_exchange(&told, 1))
    gate_add(&stuck_gate, 1);
}

static void sees_that_all_is_stuck(void) {
  sleeper sleeper;
  atomic_store(&told, 0);
  stuck_gate.count = 0;
  weft_census_on_stuck(tell_sleeper_once);
  start_sleeper(&sleeper);
  gate_await(&stuck_gate, 1);
  AWAIT(weft_census_awake() <= 1);
  end_sleeper(&sleeper);
}

static void is_not_stuck_while_held(void) {
  sleeper sleeper;
  stuck_gate.count = 0;
  atomic_store(&told, 0);
  weft_census_on_stuck(tell_sleeper_once);
  weft_census_hold();
  start_sleeper(&sleeper);
  AWAIT(weft_census_awake() == 0);
  CHECK(atomic_load(&told) == 0);
  weft_census_enter(); /* whoever releases is awake, and goes to sleep afterwards */
  weft_census_release();
  weft_census_leave();
  gate_await(&stuck_gate, 1);
  end_sleeper(&sleeper);
}

/* ---- the virtual clock ---- */

typedef struct entry {
  weft_timer timer; /* first */
  sleeper *to_wake;
  uint32_t number;
} entry;

static uint32_t order[8], fired; /* the I/O thread's, and this one's after the gate */
static gate all_fired = GATE;

static int claim_always(weft_timer *timer) {
  (void)timer;
  return 1;
}

static void fire(weft_timer *timer) {
  order[fired++] = ((entry *)timer)->number;
  if (fired == 5)
    gate_add(&all_fired, 1);
}

static void start_entries(entry *entries, const int *seconds) {
  uint64_t now_ns = weft_clock_now_ns();
  fired = 0;
  all_fired.count = 0;
  for (uint32_t i = 0; i < 5; i++) {
    weft_timer_init(&entries[i].timer, claim_always, fire);
    entries[i].number = i;
    entries[i].timer.is_last = seconds[i] < 0;
    CHECK(weft_timer_start(&entries[i].timer, now_ns + (uint64_t)abs(seconds[i]) * 1000000000u) ==
          0);
  }
}

static void jumps_in_order_when_all_sleep(void) {
  static const int seconds[5] = {100, -50, 50, 7, 50};
  entry entries[5];
  CHECK(weft_clock_start_virtual());
  CHECK(!weft_clock_start_virtual());
  uint64_t start_ns = weft_clock_now_ns();
  weft_census_enter();
  start_entries(entries, seconds);
  CHECK(weft_clock_now_ns() == start_ns);
  weft_census_leave();
  gate_await(&all_fired, 1);
  CHECK(order[0] == 3 && order[1] == 2 && order[2] == 4 && order[3] == 1 && order[4] == 0);
  CHECK(weft_clock_now_ns() == start_ns + 100000000000u);
  weft_clock_stop_virtual();
  CHECK(weft_clock_now_ns() >= start_ns + 100000000000u); /* time never goes back */
}

static void outside_timers_run_under_the_virtual_clock(void) {
  entry entries[5];
  CHECK(weft_clock_start_virtual());
  uint64_t start_ns = weft_clock_now_ns();
  weft_census_enter(); /* somebody is awake: no jump */
  fired = 0;
  all_fired.count = 0;
  for (uint32_t i = 0; i < 5; i++) {
    weft_timer_init(&entries[i].timer, claim_always, fire);
    entries[i].number = i;
    entries[i].timer.is_outside = 1;
    CHECK(weft_timer_start(&entries[i].timer, weft_clock_outside_ns() + i * 1000000u) == 0);
  }
  gate_await(&all_fired, 1);
  CHECK(weft_clock_now_ns() == start_ns);
  weft_census_leave();
  weft_clock_stop_virtual();
}

/* The parent's I/O thread sleeps, and so do its timers' owners: none of that counts in the child.
 */
static void works_in_the_child_of_a_fork(void) {
  weft_timer idle;
  weft_timer_init(&idle, claim_always, fire);
  CHECK(weft_timer_start(&idle, weft_clock_now_ns() + 3600000000000u) == 0);
  AWAIT(weft_census_awake() == 0);
  pid_t child = fork();
  if (child == 0) {
    atomic_store(&check_broken, 0);
    jumps_in_order_when_all_sleep();
    sees_that_all_is_stuck();
    _exit(atomic_load(&check_broken) != 0);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  weft_timer_stop(&idle);
}

int main(void) {
  check_run("counts are exact after many wakes", counts_are_exact_after_many_wakes);
  check_run("sees that all is stuck", sees_that_all_is_stuck);
  check_run("is not stuck while held", is_not_stuck_while_held);
  check_run("jumps in order when all sleep", jumps_in_order_when_all_sleep);
  check_run("works in the child of a fork", works_in_the_child_of_a_fork);
  check_run("outside timers run under the virtual clock",
            outside_timers_run_under_the_virtual_clock);
  return check_end();
}
