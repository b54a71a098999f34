/* test_timer.c: order, many timers, stopping against firing, the posted jobs of the I/O thread. */
#include "check.h"
#include "io.h"
#include "timer.h"

enum { MANY = 100000, RACES = 20000 };

typedef struct entry {
  weft_timer timer; /* first */
  uint32_t place;   /* in the order in which it should fire */
  _Atomic uint32_t fired;
} entry;

static _Atomic uint32_t fired_count, disorder;
static uint64_t last_fired_ns, last_fired_place; /* the I/O thread's */
static gate all_fired = GATE;
static uint32_t wanted;

static int claim_always(weft_timer *timer) {
  (void)timer;
  return 1;
}

static void fire_in_order(weft_timer *timer) {
  entry *self = (entry *)timer;
  if (timer->at_ns < last_fired_ns ||
      (timer->at_ns == last_fired_ns && self->place < last_fired_place))
    atomic_fetch_add(&disorder, 1);
  last_fired_ns = timer->at_ns;
  last_fired_place = self->place;
  atomic_fetch_add(&self->fired, 1);
  if (atomic_fetch_add(&fired_count, 1) + 1 == wanted)
    gate_add(&all_fired, 1);
}

static entry *make_entries(uint32_t count) {
  entry *entries = calloc(count, sizeof *entries);
  for (uint32_t i = 0; i < count; i++)
    weft_timer_init(&entries[i].timer, claim_always, fire_in_order);
  return entries;
}

static void begin(uint32_t count) {
  atomic_store(&fired_count, 0);
  atomic_store(&disorder, 0);
  last_fired_ns = last_fired_place = 0;
  all_fired.count = 0;
  wanted = count;
}

static uint32_t next_random(uint32_t *seed) {
  return *seed = *seed * 1664525u + 1013904223u, *seed >> 8;
}

static void fires_in_order(void) {
  static const int seconds[] = {5, 1, 4, 1, 3, 2, 5, 2, 9, 1};
  entry *entries = make_entries(COUNT(seconds));
  clock_freeze();
  begin(COUNT(seconds));
  for (uint32_t i = 0; i < COUNT(seconds); i++) {
    entries[i].place = i; /* equal times fire in the order of starting */
    CHECK(weft_timer_start(&entries[i].timer,
                           weft_clock_now_ns() + (uint64_t)seconds[i] * 1000000000u) == 0);
  }
  CHECK(weft_timers_live() == COUNT(seconds));
  clock_advance(10);
  gate_await(&all_fired, 1);
  CHECK(atomic_load(&disorder) == 0);
  CHECK(weft_timers_live() == 0);
  weft_clock_set(NULL);
  free(entries);
}

static void is_not_early(void) {
  entry *entries = make_entries(2);
  clock_freeze();
  begin(1);
  uint64_t now_ns = weft_clock_now_ns();
  CHECK(weft_timer_start(&entries[0].timer, now_ns + 1000000000u) == 0);
  CHECK(weft_timer_start(&entries[1].timer, now_ns + 1000000001u) == 0);
  clock_advance(1);
  gate_await(&all_fired, 1);
  CHECK(atomic_load(&entries[0].fired) == 1 && atomic_load(&entries[1].fired) == 0);
  CHECK(weft_timer_stop(&entries[1].timer) == 1);
  CHECK(weft_timer_stop(&entries[1].timer) == 0);
  CHECK(weft_timer_stop(&entries[0].timer) == 0);
  weft_clock_set(NULL);
  free(entries);
}

static void fires_many_and_not_the_stopped(void) {
  entry *entries = make_entries(MANY);
  uint32_t seed = 1, stopped = 0;
  clock_freeze();
  uint64_t now_ns = weft_clock_now_ns();
  for (uint32_t i = 0; i < MANY; i++)
    CHECK(weft_timer_start(&entries[i].timer,
                           now_ns + 1000000000u + next_random(&seed) % 1000000u) == 0);
  CHECK(weft_timers_live() == MANY);
  for (uint32_t i = 0; i < MANY; i++)
    if (next_random(&seed) % 2) {
      CHECK(weft_timer_stop(&entries[i].timer) == 1);
      memset(&entries[i], 0xdd, sizeof entries[i]); /* it is the owner's memory again */
      stopped++;
    }
  begin(MANY - stopped);
  clock_advance(2);
  gate_await(&all_fired, 1);
  CHECK(atomic_load(&disorder) == 0);
  CHECK(weft_timers_live() == 0);
  weft_clock_set(NULL);
  free(entries);
}

static void fire_once(weft_timer *timer) {
  atomic_fetch_add(&((entry *)timer)->fired, 1);
}

static void is_stopped_or_fires_but_never_both(void) {
  uint32_t stopped = 0;
  for (uint32_t i = 0; i < RACES; i++) {
    entry self = {.place = i};
    weft_timer_init(&self.timer, claim_always, fire_once);
    CHECK(weft_timer_start(&self.timer, weft_clock_now_ns() + i % 100000) == 0);
    if (i % 3)
      sched_yield();
    if (weft_timer_stop(&self.timer))
      stopped++;
    else
      AWAIT(atomic_load(&self.fired) == 1); /* claimed: it fires once more */
    CHECK(atomic_load(&self.fired) <= 1);
  }
  printf("# %u stopped, %u fired\n", stopped, RACES - stopped);
  CHECK(weft_timers_live() == 0);
}

/* Two sources of one wait: the timer and a rival that claims it from another thread. */
static void *claim_rival(void *arg) {
  weft_thread_wait *party = arg;
  if (weft_wait_claim(&party->wait, 0))
    party->wait.wake(&party->wait);
  return NULL;
}

static void a_wait_has_one_winner(void) {
  uint32_t won_by_timer = 0;
  for (uint32_t i = 0; i < 2000; i++) {
    weft_thread_wait party;
    weft_wait_timer timer;
    pthread_t rival;
    weft_thread_wait_init(&party);
    CHECK(weft_wait_timer_start(&timer, &party.wait, 1, weft_clock_now_ns() + i * 20) == 0);
    pthread_create(&rival, NULL, claim_rival, &party);
    weft_thread_wait_block(&party);
    weft_timer_stop(&timer.timer);
    CHECK(weft_wait_winner(&party.wait) >= 0);
    won_by_timer += weft_wait_winner(&party.wait) == 1;
    pthread_join(rival, NULL);
  }
  printf("# the timer won %u times\n", won_by_timer);
}

typedef struct job {
  weft_io_job job; /* first */
  uint32_t number;
} job;

static uint32_t next_job; /* the I/O thread's */
static _Atomic uint32_t jobs_disorder;

static void run_job(weft_io_job *posted) {
  job *self = (job *)posted;
  if (self->number != next_job++)
    atomic_fetch_add(&jobs_disorder, 1);
  if (self->number + 1 == MANY)
    gate_add(&all_fired, 1);
  free(self);
}

static void runs_jobs_in_the_order_of_posting(void) {
  begin(0);
  CHECK(weft_io_start() == 0);
  for (uint32_t i = 0; i < MANY; i++) {
    job *posted = malloc(sizeof *posted);
    *posted = (job){{NULL, run_job}, i};
    weft_io_post(&posted->job);
  }
  gate_await(&all_fired, 1);
  CHECK(atomic_load(&jobs_disorder) == 0);
}

static void sleep_ends_at_its_time(void) {
  uint64_t before_ns = weft_now_ns();
  CHECK(weft_sleep(weft_background(), 0.01) == WEFT_OK);
  CHECK(weft_now_ns() - before_ns >= 10000000u);
  CHECK(weft_sleep(weft_background(), 0) == WEFT_OK);
}

int main(void) {
  check_run("timer: fires in order, equal times as started", fires_in_order);
  check_run("timer: is not early", is_not_early);
  check_run("timer: 100,000, half of them stopped", fires_many_and_not_the_stopped);
  check_run("timer: is stopped or fires, never both", is_stopped_or_fires_but_never_both);
  check_run("timer: a wait has one winner", a_wait_has_one_winner);
  check_run("io: runs jobs in the order of posting", runs_jobs_in_the_order_of_posting);
  check_run("sleep: ends at its time", sleep_ends_at_its_time);
  return check_end();
}
