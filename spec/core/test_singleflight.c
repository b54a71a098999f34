/* test_singleflight.c: one leads, the others get its outcome; leads are handed over; races. */
#include "check.h"
#include "mem.h"
#include "singleflight.h"

enum { MANY = 10001, THREADS = 4, ROUNDS = 5000 };

static weft_shared_parcel *value_of(uint32_t number) {
  weft_parcel parcel;
  weft_parcel_init(&parcel);
  memcpy(parcel.data, &number, sizeof number);
  parcel.size = sizeof number;
  return weft_shared_parcel_new(&parcel);
}

static uint32_t number_of(const weft_shared_parcel *value) {
  uint32_t number = UINT32_MAX;
  if (value)
    memcpy(&number, value->parcel.data, sizeof number);
  return number;
}

static int join(weft_singleflight *owner, const char *key, probe *party, weft_flight **flight) {
  probe_init(party);
  return weft_singleflight_join(owner, key, (uint32_t)strlen(key), &party->waiter, flight);
}

static void finish_with(weft_flight *flight, uint32_t number) {
  weft_shared_parcel *value = value_of(number);
  weft_flight_finish(flight, value, NULL);
  weft_shared_parcel_release(value);
}

static void the_first_leads_for_all(void) {
  weft_singleflight *owner = weft_singleflight_new();
  probe a, b, c, other;
  weft_flight *leader, *second, *third, *others;
  CHECK(join(owner, "k", &a, &leader) == WEFT_OK);
  CHECK(join(owner, "k", &b, &second) == WEFT_WOULD_WAIT && second == leader);
  CHECK(join(owner, "other", &other, &others) == WEFT_OK && others != leader);
  CHECK(join(owner, "k", &c, &third) == WEFT_WOULD_WAIT);
  CHECK(weft_flight_land(leader) && !weft_flight_land(others));
  finish_with(leader, 7);
  weft_flight_release(leader);
  weft_flight_release(others);
  weft_singleflight_release(owner); /* flights keep it */
  CHECK(b.wakes == 1 && c.wakes == 1 && weft_waiter_outcome(&b.waiter) == WEFT_OK);
  CHECK(number_of(second->result) == 7 && third->result == second->result && !third->error);
  weft_flight_release(second);
  weft_flight_release(third);
}

static void what_has_ended_starts_anew(void) {
  weft_singleflight *owner = weft_singleflight_new();
  probe a, b, c;
  weft_flight *first, *second, *third;
  CHECK(join(owner, "k", &a, &first) == WEFT_OK);
  CHECK(!weft_flight_land(first)); /* nobody joins from here on */
  CHECK(join(owner, "k", &b, &second) == WEFT_OK && second != first);
  weft_error *error = weft_error_new("test", "failed");
  CHECK(join(owner, "k", &c, &third) == WEFT_WOULD_WAIT);
  weft_flight_finish(first, NULL, NULL); /* which leaves the second alone */
  CHECK(c.wakes == 0);
  weft_flight_finish(second, NULL, error);
  weft_error_release(error);
  CHECK(c.wakes == 1 && strcmp(weft_error_kind(third->error), "test") == 0 && !third->result);
  weft_flight_release(first);
  weft_flight_release(second);
  weft_flight_release(third);
  weft_singleflight_release(owner);
}

static void a_lead_is_handed_over(void) {
  weft_singleflight *owner = weft_singleflight_new();
  probe a, gone, heir, last;
  weft_flight *flight;
  CHECK(join(owner, "k", &a, &flight) == WEFT_OK);
  CHECK(join(owner, "k", &gone, &flight) == WEFT_WOULD_WAIT);
  CHECK(join(owner, "k", &heir, &flight) == WEFT_WOULD_WAIT);
  CHECK(join(owner, "k", &last, &flight) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&gone.wait, 1)); /* its context was first */
  weft_flight_hand_over(flight);
  CHECK(gone.wakes == 0 && heir.wakes == 1 && last.wakes == 0);
  CHECK(weft_waiter_outcome(&heir.waiter) == WEFT_CHANGED);
  weft_flight_unwait(flight, &gone.waiter);
  probe late;
  CHECK(join(owner, "k", &late, &flight) == WEFT_WOULD_WAIT); /* it is still in flight */
  weft_flight_unwait(flight, &late.waiter);
  finish_with(flight, 1);
  CHECK(last.wakes == 1 && weft_waiter_outcome(&last.waiter) == WEFT_OK && late.wakes == 0);
  for (int i = 0; i < 5; i++)
    weft_flight_release(flight);
  CHECK(join(owner, "k", &a, &flight) == WEFT_OK);
  weft_flight_hand_over(flight); /* nobody waits: over */
  weft_flight_release(flight);
  CHECK(join(owner, "k", &a, &flight) == WEFT_OK);
  weft_flight_hand_over(flight);
  weft_flight_release(flight);
  weft_singleflight_release(owner);
}

static void what_is_forgotten_still_ends(void) {
  weft_singleflight *owner = weft_singleflight_new();
  probe a, b, c;
  weft_flight *first, *second, *joined;
  weft_singleflight_forget(owner, "k", 1);
  CHECK(join(owner, "k", &a, &first) == WEFT_OK);
  CHECK(join(owner, "k", &b, &joined) == WEFT_WOULD_WAIT);
  weft_singleflight_forget(owner, "k", 1);
  CHECK(join(owner, "k", &c, &second) == WEFT_OK && second != first);
  weft_flight_hand_over(first);
  CHECK(b.wakes == 1 && weft_waiter_outcome(&b.waiter) == WEFT_CHANGED);
  finish_with(joined, 2);
  finish_with(second, 3);
  weft_flight_release(first);
  weft_flight_release(joined);
  weft_flight_release(second);
  weft_singleflight_release(owner);
}

static void wakes_10001(void) {
  weft_singleflight *owner = weft_singleflight_new();
  probe a, *parties = calloc(MANY, sizeof *parties);
  weft_flight *flight;
  CHECK(join(owner, "k", &a, &flight) == WEFT_OK);
  for (int i = 0; i < MANY; i++)
    CHECK(join(owner, "k", &parties[i], &flight) == WEFT_WOULD_WAIT);
  finish_with(flight, 1);
  for (int i = 0; i < MANY; i++) {
    CHECK(parties[i].wakes == 1);
    weft_flight_release(flight);
  }
  weft_flight_release(flight);
  weft_singleflight_release(owner);
  free(parties);
}

static void many_keys(void) {
  weft_singleflight *owner = weft_singleflight_new();
  weft_flight **flights = calloc(MANY, sizeof *flights);
  char key[16];
  probe party;
  for (int i = 0; i < MANY; i++) {
    snprintf(key, sizeof key, "%d", i);
    CHECK(join(owner, key, &party, &flights[i]) == WEFT_OK);
  }
  for (int i = 0; i < MANY; i++) {
    CHECK(!weft_flight_land(flights[i]));
    weft_flight_release(flights[i]);
  }
  CHECK(owner->count == 0);
  weft_singleflight_release(owner);
  free(flights);
}

static void survives_want_of_memory(void) {
  for (uint64_t nth = 1; nth < 6; nth++) {
    weft_mem_fail_at(nth);
    weft_singleflight *owner = weft_singleflight_new();
    probe party;
    weft_flight *flight = NULL;
    int rc = owner ? join(owner, "k", &party, &flight) : WEFT_NOMEM;
    weft_mem_fail_at(0);
    CHECK(rc == WEFT_OK || rc == WEFT_NOMEM);
    if (rc == WEFT_OK) {
      weft_flight_hand_over(flight);
      weft_flight_release(flight);
    }
    weft_singleflight_release(owner);
  }
}

/* ---- native threads ---- */

typedef struct thread_probe {
  weft_thread_wait party; /* first */
  weft_waiter waiter;
} thread_probe;

static _Atomic uint32_t inside, led, shared_results;

/* Leads or waits; every third leader gives up. */
static void *run_many(void *arg) {
  weft_singleflight *owner = arg;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    thread_probe self;
    weft_flight *flight;
    weft_thread_wait_init(&self.party);
    weft_waiter_init(&self.waiter, &self.party.wait, 0);
    int rc = weft_singleflight_join(owner, "key", 3, &self.waiter, &flight), leads = rc == WEFT_OK;
    if (leads) {
      weft_thread_wait_drop(&self.party);
    } else {
      CHECK(rc == WEFT_WOULD_WAIT);
      weft_thread_wait_block(&self.party);
      leads = weft_waiter_outcome(&self.waiter) == WEFT_CHANGED;
    }
    if (!leads) {
      CHECK(number_of(flight->result) == 42);
      atomic_fetch_add(&shared_results, 1);
    } else if (i % 3 == 0) {
      weft_flight_hand_over(flight);
    } else {
      CHECK(atomic_fetch_add(&inside, 1) == 0);
      atomic_fetch_add(&led, 1);
      sched_yield();
      atomic_fetch_sub(&inside, 1);
      finish_with(flight, 42);
    }
    weft_flight_release(flight);
  }
  return NULL;
}

static void one_at_a_time_runs(void) {
  weft_singleflight *owner = weft_singleflight_new();
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, run_many, owner);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  CHECK(led + shared_results >= THREADS * ROUNDS * 2 / 3 - THREADS && led > 0);
  weft_singleflight_release(owner);
}

int main(void) {
  check_run("singleflight: the first leads for all", the_first_leads_for_all);
  check_run("singleflight: what has ended starts anew", what_has_ended_starts_anew);
  check_run("singleflight: a lead is handed over", a_lead_is_handed_over);
  check_run("singleflight: what is forgotten still ends", what_is_forgotten_still_ends);
  check_run("singleflight: wakes 10,001", wakes_10001);
  check_run("singleflight: many keys", many_keys);
  check_run("singleflight: survives want of memory", survives_want_of_memory);
  check_run("singleflight: one at a time runs", one_at_a_time_runs);
  return check_end();
}
