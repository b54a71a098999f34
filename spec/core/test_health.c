/* test_health.c: breaker, places and latencies, on a clock of the test's own. */
#include "check.h"
#include "health.h"
#include "mem.h"

enum { COOLDOWN = 100 };

static int is_probe;
static uint64_t wait_ns;

static int enter(weft_health *health, uint64_t now_ns) {
  return weft_health_enter(health, now_ns, &is_probe, &wait_ns);
}

static void report(weft_health *health, weft_health_outcome outcome, uint64_t now_ns, int probe) {
  weft_health_report(health, outcome, now_ns, now_ns, probe);
}

static weft_health *new_breaker(void) {
  weft_health_config config = {.failures = 3, .cooldown_ns = COOLDOWN};
  return weft_health_new(&config);
}

static void fail_often(weft_health *health, uint64_t now_ns) {
  for (int i = 0; i < 3; i++)
    report(health, i == 1 ? WEFT_HEALTH_SICK : WEFT_HEALTH_BAD, now_ns, 0);
}

static void failures_in_a_row_open(void) {
  weft_health *health = new_breaker();
  report(health, WEFT_HEALTH_BAD, 1, 0);
  report(health, WEFT_HEALTH_BAD, 1, 0);
  report(health, WEFT_HEALTH_UNKNOWN, 1, 0); /* says nothing */
  report(health, WEFT_HEALTH_GOOD, 1, 0);
  report(health, WEFT_HEALTH_BAD, 1, 0);
  report(health, WEFT_HEALTH_OVERLOAD, 1, 0); /* it answers */
  CHECK(enter(health, 2) == WEFT_OK && !is_probe);
  fail_often(health, 10);
  CHECK(weft_health_breaker(health, 11) == WEFT_BREAKER_OPEN);
  CHECK(enter(health, 11) == WEFT_CLOSED && wait_ns == COOLDOWN - 1);
  weft_handle_release(&health->handle);
}

static void one_probe_decides(void) {
  weft_health *health = new_breaker();
  fail_often(health, 0);
  report(health, WEFT_HEALTH_GOOD, 50, 0); /* it started before */
  CHECK(enter(health, 99) == WEFT_CLOSED);
  CHECK(enter(health, 100) == WEFT_OK && is_probe);
  CHECK(weft_health_breaker(health, 100) == WEFT_BREAKER_HALF_OPEN);
  CHECK(enter(health, 101) == WEFT_CLOSED);
  report(health, WEFT_HEALTH_BAD, 110, 1);
  CHECK(enter(health, 209) == WEFT_CLOSED);
  CHECK(enter(health, 210) == WEFT_OK && is_probe);
  report(health, WEFT_HEALTH_UNKNOWN, 215, 1); /* cancelled: the next one is the probe */
  CHECK(enter(health, 215) == WEFT_OK && is_probe);
  report(health, WEFT_HEALTH_GOOD, 220, 1);
  CHECK(weft_health_breaker(health, 220) == WEFT_BREAKER_CLOSED);
  CHECK(enter(health, 220) == WEFT_OK && !is_probe);
  report(health, WEFT_HEALTH_BAD, 221, 0); /* counts anew */
  CHECK(enter(health, 221) == WEFT_OK);
  weft_handle_release(&health->handle);
}

static void a_lost_probe_gives_way(void) {
  weft_health *health = new_breaker();
  fail_often(health, 0);
  CHECK(enter(health, 100) == WEFT_OK && is_probe);
  CHECK(enter(health, 199) == WEFT_CLOSED);
  CHECK(enter(health, 200) == WEFT_OK && is_probe);
  weft_handle_release(&health->handle);
}

static void places_grow_and_shrink(void) {
  weft_semaphore *places = weft_semaphore_new(4);
  weft_health_config config = {.places = places, .least = 2, .most = 5, .slow_ns = 50};
  weft_health *health = weft_health_new(&config);
  CHECK(weft_semaphore_try_acquire(places, 3) == WEFT_OK);
  for (int i = 0; i < 20; i++)
    report(health, WEFT_HEALTH_GOOD, 10, 0);
  CHECK(weft_semaphore_size(places) == 4); /* nobody wanted the fourth */
  CHECK(weft_semaphore_try_acquire(places, 1) == WEFT_OK);
  for (int i = 0; i < 3; i++)
    report(health, WEFT_HEALTH_GOOD, 10, 0);
  CHECK(weft_semaphore_size(places) == 4);
  report(health, WEFT_HEALTH_GOOD, 10, 0);
  CHECK(weft_semaphore_size(places) == 5);
  CHECK(weft_semaphore_try_acquire(places, 1) == WEFT_OK);
  for (int i = 0; i < 20; i++)
    report(health, WEFT_HEALTH_GOOD, 10, 0);
  CHECK(weft_semaphore_size(places) == 5); /* the most */
  weft_health_report(health, WEFT_HEALTH_OVERLOAD, 20, 30, 0);
  CHECK(weft_semaphore_size(places) == 3);
  weft_health_report(health, WEFT_HEALTH_OVERLOAD, 29, 31, 0); /* started before the cut */
  CHECK(weft_semaphore_size(places) == 3);
  weft_health_report(health, WEFT_HEALTH_GOOD, 31, 82, 0); /* slow */
  CHECK(weft_semaphore_size(places) == 2);
  weft_health_report(health, WEFT_HEALTH_SICK, 90, 91, 0);
  CHECK(weft_semaphore_size(places) == 2); /* the least */
  weft_handle_release(&health->handle);
  weft_semaphore_release(places);
}

static void quantiles_are_of_the_latest(void) {
  weft_health_config config = {0};
  weft_health *health = weft_health_new(&config);
  CHECK(weft_health_quantile(health, 0, 0.5, 0) < 0);
  for (int i = 1; i <= 20; i++)
    weft_health_sample(health, 0, 21 - i);
  CHECK(weft_health_quantile(health, 0, 0.95, 21) < 0);
  CHECK(weft_health_quantile(health, 0, 0.95, 20) == 19);
  CHECK(weft_health_quantile(health, 0, 0, 1) == 1 && weft_health_quantile(health, 0, 1, 1) == 20);
  CHECK(weft_health_quantile(health, 1, 0.5, 1) < 0); /* the other series */
  for (int i = 0; i < WEFT_HEALTH_SAMPLES; i++)
    weft_health_sample(health, 0, 7);
  CHECK(weft_health_quantile(health, 0, 0, 20) == 7 && weft_health_quantile(health, 0, 1, 20) == 7);
  weft_handle_release(&health->handle);
}

static void without_memory_there_is_none(void) {
  weft_semaphore *places = weft_semaphore_new(1);
  weft_health_config config = {.places = places};
  weft_mem_fail_at(1);
  CHECK(weft_health_new(&config) == NULL);
  weft_mem_fail_at(0);
  weft_semaphore_release(places);
}

typedef struct caller {
  weft_health *health;
  weft_semaphore *places;
} caller;

static void *call(void *arg) {
  caller *self = arg;
  for (uint64_t i = 1; i <= 5000; i++) {
    int probe = 0;
    uint64_t wait = 0;
    CHECK(weft_semaphore_acquire(weft_background(), self->places, 1) == WEFT_OK);
    if (weft_health_enter(self->health, i, &probe, &wait) == WEFT_OK)
      weft_health_report(self->health, i % 7 ? WEFT_HEALTH_GOOD : WEFT_HEALTH_SICK, i, i, probe);
    weft_health_sample(self->health, 0, 1);
    CHECK(weft_semaphore_give_back(self->places, 1) == WEFT_OK);
  }
  return NULL;
}

static void threads_agree_on_the_places(void) {
  weft_semaphore *places = weft_semaphore_new(2);
  weft_health_config config = {
      .failures = 2, .cooldown_ns = 1, .places = places, .least = 1, .most = 4};
  caller self = {weft_health_new(&config), places};
  pthread_t threads[4];
  for (int i = 0; i < 4; i++)
    CHECK(pthread_create(&threads[i], NULL, call, &self) == 0);
  for (int i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  CHECK(weft_semaphore_size(places) == self.health->size && weft_semaphore_held(places) == 0);
  CHECK(self.health->size >= 1 && self.health->size <= 4);
  weft_handle_release(&self.health->handle);
  weft_semaphore_release(places);
}

int main(void) {
  check_run("health: failures in a row open the breaker", failures_in_a_row_open);
  check_run("health: one probe decides", one_probe_decides);
  check_run("health: a lost probe gives way", a_lost_probe_gives_way);
  check_run("health: places grow and shrink", places_grow_and_shrink);
  check_run("health: quantiles are of the latest", quantiles_are_of_the_latest);
  check_run("health: without memory there is none", without_memory_there_is_none);
  check_run("health: threads agree on the places", threads_agree_on_the_places);
  return check_end();
}
