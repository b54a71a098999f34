/* test_select.c: one case goes on; chance and order; closed channels; done contexts; choices that
 * meet. */
#include "check.h"
#include "random.h"
#include "select.h"

enum { THREADS = 4, ROUNDS = 3000, DRAWS = 4000, MANY = 90 };

static weft_select_case recv_of(weft_channel *channel, weft_parcel *slot) {
  return (weft_select_case){.kind = WEFT_SELECT_RECV, .channel = channel, .value = slot};
}

static weft_select_case send_of(weft_channel *channel, weft_parcel *value) {
  return (weft_select_case){.kind = WEFT_SELECT_SEND, .channel = channel, .value = value};
}

static weft_select_case done_of(weft_context *context) {
  return (weft_select_case){.kind = WEFT_SELECT_DONE, .context = context};
}

static void put(weft_parcel *parcel, uint32_t number) {
  weft_parcel_init(parcel);
  memcpy(parcel->data, &number, sizeof number);
  parcel->size = sizeof number;
}

static uint32_t take(weft_parcel *parcel) {
  uint32_t number = UINT32_MAX;
  if (parcel->size)
    memcpy(&number, parcel->data, sizeof number);
  weft_parcel_clear(parcel);
  return number;
}

static void send_number(weft_channel *channel, uint32_t number) {
  weft_parcel value;
  put(&value, number);
  CHECK(weft_channel_try_send(channel, &value) == WEFT_OK);
}

static int is_empty(weft_channel *channel) {
  pthread_mutex_lock(&channel->lock);
  int empty = !channel->receivers.head && !channel->senders.head;
  pthread_mutex_unlock(&channel->lock);
  return empty;
}

static void one_case_goes_on(void) {
  weft_channel *a = weft_channel_new(1), *b = weft_channel_new(1);
  weft_parcel slot, value;
  weft_parcel_init(&slot);
  put(&value, 5);
  weft_select_case cases[] = {recv_of(a, &slot), {.kind = WEFT_SELECT_NEVER}, recv_of(b, &slot)};
  weft_select select;
  uint32_t index;
  weft_select_init(&select, cases, 3, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_WOULD_WAIT);
  send_number(b, 7);
  CHECK(weft_select_try(&select, &index) == WEFT_OK && index == 2 && take(&slot) == 7);
  CHECK(weft_select_try(&select, &index) == WEFT_WOULD_WAIT);
  weft_select_case both[] = {recv_of(a, &slot), send_of(b, &value)};
  weft_select_init(&select, both, 2, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_OK && index == 1 && value.size == 0);
  CHECK(weft_channel_length(b) == 1);
  weft_select_init(&select, NULL, 0, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_WOULD_WAIT);
  weft_channel_release(a);
  weft_channel_release(b);
}

static void chance_is_fair(void) {
  weft_channel *channels[4];
  weft_parcel slot;
  weft_select_case cases[4];
  uint32_t counts[4] = {0};
  weft_parcel_init(&slot);
  weft_random_seed(20);
  for (int i = 0; i < 4; i++) {
    channels[i] = weft_channel_new(1);
    cases[i] = recv_of(channels[i], &slot);
    if (i != 1) /* a case that cannot go on must not favour its neighbour */
      send_number(channels[i], 0);
  }
  weft_select select;
  weft_select_init(&select, cases, 4, 0);
  for (int i = 0; i < DRAWS; i++) {
    uint32_t index;
    CHECK(weft_select_try(&select, &index) == WEFT_OK);
    counts[index]++;
    send_number(channels[index], take(&slot));
  }
  CHECK(counts[1] == 0);
  for (int i = 0; i < 4; i++)
    CHECK(i == 1 || (counts[i] > DRAWS / 3 * 9 / 10 && counts[i] < DRAWS / 3 * 11 / 10));
  weft_random_seed(0);
  for (int i = 0; i < 4; i++)
    weft_channel_release(channels[i]);
}

static void a_seed_repeats_chance(void) {
  weft_channel *channel = weft_channel_new(0);
  weft_select_case cases[10];
  uint32_t drawn[2][50];
  weft_select select;
  CHECK(weft_channel_close(channel) == WEFT_OK);
  weft_parcel slot;
  weft_parcel_init(&slot);
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 10; i++)
      cases[i] = recv_of(channel, &slot);
    weft_select_init(&select, cases, 10, 0);
    weft_random_seed(7);
    for (int i = 0; i < 50; i++)
      CHECK(weft_select_try(&select, &drawn[round][i]) == WEFT_CLOSED);
  }
  weft_random_seed(0);
  CHECK(memcmp(drawn[0], drawn[1], sizeof drawn[0]) == 0);
  weft_channel_release(channel);
}

/* By address, each once: whatever the order and number of the cases, nobody locks against another.
 */
static void locks_in_one_order(void) {
  static const uint32_t counts[] = {1, 2, 7, 32, 33, MANY};
  weft_channel *channels[MANY];
  weft_select_case cases[2 * MANY];
  weft_select select;
  for (int i = 0; i < MANY; i++)
    channels[i] = weft_channel_new(0);
  for (int round = 0; round < 100; round++)
    for (size_t n = 0; n < COUNT(counts); n++) {
      for (uint32_t i = 0; i < 2 * counts[n]; i++)
        cases[i] = recv_of(channels[(uint32_t)weft_random() % counts[n]], NULL);
      for (uint32_t i = 0; i < counts[n]; i++)
        cases[i] = recv_of(channels[i], NULL);
      weft_select_init(&select, cases, 2 * counts[n], 0);
      CHECK(select.lock_count == counts[n]);
      for (uint32_t i = 1; i < select.lock_count; i++)
        CHECK((uintptr_t)cases[cases[i - 1].locked].channel <
              (uintptr_t)cases[cases[i].locked].channel);
    }
  for (int i = 0; i < MANY; i++)
    weft_channel_release(channels[i]);
}

static void in_order_the_first_one_goes_on(void) {
  weft_channel *channels[MANY];
  weft_select_case cases[MANY];
  weft_parcel slot;
  weft_select select;
  uint32_t index;
  weft_parcel_init(&slot);
  for (int i = 0; i < MANY; i++) {
    channels[i] = i % 3 == 2 ? channels[i - 1] : weft_channel_new(1);
    cases[i] = recv_of(channels[i], &slot);
  }
  for (int i = 0; i < MANY; i++)
    if (i % 3 != 2)
      send_number(channels[i], (uint32_t)i);
  weft_select_init(&select, cases, MANY, 1);
  CHECK(select.lock_count == MANY * 2 / 3);
  for (uint32_t i = 0; i < MANY; i++)
    if (i % 3 != 2)
      CHECK(weft_select_try(&select, &index) == WEFT_OK && index == i && take(&slot) == i);
  CHECK(weft_select_try(&select, &index) == WEFT_WOULD_WAIT);
  for (int i = 0; i < MANY; i++)
    if (i % 3 != 2)
      weft_channel_release(channels[i]);
}

static void closed_channels(void) {
  weft_channel *channel = weft_channel_new(1);
  weft_parcel slot, value;
  weft_select select;
  uint32_t index;
  weft_parcel_init(&slot);
  send_number(channel, 1);
  CHECK(weft_channel_close(channel) == WEFT_OK);
  weft_select_case recv[] = {recv_of(channel, &slot)};
  weft_select_init(&select, recv, 1, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_OK && take(&slot) == 1); /* what it holds, first */
  CHECK(weft_select_try(&select, &index) == WEFT_CLOSED && index == 0);
  put(&value, 2);
  weft_select_case send[] = {send_of(channel, &value)};
  weft_select_init(&select, send, 1, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_CLOSED && take(&value) == 2);
  weft_channel_release(channel);
}

static int queue(weft_select *select, probe *party, uint32_t *index) {
  probe_init(party);
  return weft_select_or_wait(select, &party->wait, 5, index);
}

static void waiters_are_claimed_once_and_leave(void) {
  weft_channel *a = weft_channel_new(0), *b = weft_channel_new(0);
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_parcel slot, value, other;
  probe party;
  uint32_t index;
  weft_parcel_init(&slot);
  put(&value, 3);
  weft_select_case cases[] = {recv_of(a, &slot), send_of(b, &value), recv_of(a, &slot),
                              done_of(context)};
  weft_select select;
  weft_select_init(&select, cases, 4, 1);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  put(&other, 9);
  CHECK(weft_channel_try_send(a, &other) == WEFT_OK && party.wakes == 1);
  CHECK(weft_wait_winner(&party.wait) == 5 && weft_select_outcome(&select, 0) == WEFT_OK);
  put(&other, 8);
  CHECK(weft_channel_try_send(a, &other) == WEFT_WOULD_WAIT); /* the second one counts no more */
  weft_parcel got;
  weft_parcel_init(&got);
  CHECK(weft_channel_try_recv(b, &got) == WEFT_WOULD_WAIT);
  weft_context_cancel(context, NULL);
  weft_select_unwait(&select);
  CHECK(party.wakes == 1 && take(&slot) == 9 && take(&value) == 3);
  CHECK(is_empty(a) && is_empty(b));
  CHECK(queue(&select, &party, &index) == WEFT_OK && index == 3); /* it is done */
  CHECK(is_empty(a) && is_empty(b) && party.wakes == 0);
  weft_context_release(context);
  weft_channel_release(a);
  weft_channel_release(b);
}

static void never_meets_itself(void) {
  weft_channel *channel = weft_channel_new(0);
  weft_parcel slot, value, other;
  probe party;
  uint32_t index;
  weft_parcel_init(&slot);
  put(&value, 1);
  weft_select_case cases[] = {send_of(channel, &value), recv_of(channel, &slot)};
  weft_select select;
  weft_select_init(&select, cases, 2, 0);
  CHECK(weft_select_try(&select, &index) == WEFT_WOULD_WAIT);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT && party.wakes == 0);
  weft_parcel_init(&other);
  CHECK(weft_channel_try_recv(channel, &other) == WEFT_OK && take(&other) == 1);
  CHECK(party.wakes == 1 && weft_wait_winner(&party.wait) == 5);
  weft_select_unwait(&select);
  put(&value, 1);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  weft_parcel slot2, value2;
  weft_parcel_init(&slot2);
  put(&value2, 2);
  weft_select_case facing[] = {send_of(channel, &value2), recv_of(channel, &slot2)};
  weft_select other_select;
  weft_select_init(&other_select, facing, 2, 1);
  CHECK(weft_select_try(&other_select, &index) == WEFT_OK && index == 0); /* another one's */
  CHECK(party.wakes == 1 && weft_wait_winner(&party.wait) == 6 && take(&slot) == 2);
  weft_select_unwait(&select);
  CHECK(is_empty(channel));
  weft_channel_release(channel);
}

static void a_close_wakes_who_chose(void) {
  weft_channel *a = weft_channel_new(0), *b = weft_channel_new(0);
  weft_parcel slot, value;
  probe party;
  uint32_t index;
  weft_parcel_init(&slot);
  put(&value, 1);
  weft_select_case cases[] = {recv_of(a, &slot), send_of(b, &value)};
  weft_select select;
  weft_select_init(&select, cases, 2, 0);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  CHECK(weft_channel_close(b) == WEFT_OK);
  CHECK(party.wakes == 1 && weft_wait_winner(&party.wait) == 6);
  CHECK(weft_select_outcome(&select, 1) == WEFT_CLOSED && take(&value) == 1);
  weft_select_unwait(&select);
  CHECK(is_empty(a) && is_empty(b));
  weft_channel_release(a);
  weft_channel_release(b);
}

static weft_select_case acquire_of(weft_semaphore *semaphore, uint32_t weight) {
  return (weft_select_case){.kind = WEFT_SELECT_ACQUIRE, .semaphore = semaphore, .weight = weight};
}

static void semaphores_may_be_among_the_cases(void) {
  weft_semaphore *semaphore = weft_semaphore_new(4);
  weft_channel *channel = weft_channel_new(0);
  weft_parcel slot, value;
  probe party, other;
  uint32_t index;
  weft_select select;
  weft_parcel_init(&slot);
  weft_select_case cases[] = {recv_of(channel, &slot), acquire_of(semaphore, 3),
                              acquire_of(semaphore, 2)};
  weft_select_init(&select, cases, 3, 1);
  CHECK(select.lock_count == 2);
  CHECK(weft_select_try(&select, &index) == WEFT_OK && index == 1);
  CHECK(weft_semaphore_held(semaphore) == 3);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  probe_init(&other);
  other.waiter.weight = 1;
  CHECK(weft_semaphore_acquire_or_wait(semaphore, &other.waiter) == WEFT_WOULD_WAIT);
  put(&value, 5);
  CHECK(weft_channel_try_send(channel, &value) == WEFT_OK && party.wakes == 1);
  CHECK(other.wakes == 0);
  weft_select_unwait(&select); /* the others move up */
  CHECK(other.wakes == 1 && take(&slot) == 5 && weft_semaphore_held(semaphore) == 4);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  CHECK(weft_semaphore_give_back(semaphore, 4) == WEFT_OK);
  CHECK(party.wakes == 1 && weft_wait_winner(&party.wait) == 6);
  CHECK(weft_select_outcome(&select, 1) == WEFT_OK && weft_semaphore_held(semaphore) == 3);
  weft_select_unwait(&select);
  CHECK(queue(&select, &party, &index) == WEFT_WOULD_WAIT);
  weft_semaphore_resize(semaphore, 2);
  CHECK(party.wakes == 1 && weft_select_outcome(&select, 1) == WEFT_TOO_LARGE);
  weft_select_unwait(&select);
  CHECK(weft_select_try(&select, &index) == WEFT_TOO_LARGE && index == 1);
  CHECK(is_empty(channel));
  CHECK(weft_semaphore_give_back(semaphore, 3) == WEFT_OK);
  weft_semaphore_release(semaphore);
  weft_channel_release(channel);
}

/* ---- native threads ---- */

typedef struct shared {
  weft_channel *channels[4];
  weft_context *context;
  _Atomic uint64_t sent, received;
  _Atomic uint32_t number;
} shared;

/* Each sends ROUNDS numbers and receives as many, whichever goes: thus nobody is left alone. */
static void *send_and_receive(void *arg) {
  shared *shared = arg;
  uint32_t to_send = ROUNDS, to_receive = ROUNDS, index;
  weft_parcel slot, value;
  weft_parcel_init(&slot);
  while (to_send + to_receive > 0) {
    uint32_t number = atomic_fetch_add(&shared->number, 1);
    put(&value, number);
    weft_select_case cases[8];
    uint32_t count = 0;
    for (int i = 0; i < 4; i++) {
      if (to_send)
        cases[count++] = send_of(shared->channels[(i + number) % 4], &value);
      if (to_receive)
        cases[count++] = recv_of(shared->channels[(i * 3 + number) % 4], &slot);
    }
    weft_select select;
    weft_select_init(&select, cases, count, 0);
    CHECK(weft_select_wait(shared->context, &select, &index) == WEFT_OK);
    if (cases[index].kind == WEFT_SELECT_SEND) {
      to_send--;
      atomic_fetch_add(&shared->sent, number);
      CHECK(value.size == 0);
    } else {
      to_receive--;
      atomic_fetch_add(&shared->received, take(&slot));
    }
  }
  return NULL;
}

/* Who is left alone at the end sends to itself, through the channel that has room. */
static void nothing_is_lost_between_choices(void) {
  shared shared = {.context = weft_background()};
  pthread_t threads[THREADS];
  for (int i = 0; i < 4; i++)
    shared.channels[i] = weft_channel_new(i == 0 ? 8 : 0);
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, send_and_receive, &shared);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  CHECK(shared.sent == shared.received);
  for (int i = 0; i < 4; i++) {
    CHECK(is_empty(shared.channels[i]));
    weft_channel_release(shared.channels[i]);
  }
}

static weft_semaphore *semaphores[2];
static _Atomic uint32_t inside[2];

/* Of two semaphores whichever is free, with a context that cuts some off. */
static void *enter_either(void *arg) {
  (void)arg;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    uint32_t weight = i % 3 + 1, index;
    weft_context *context = i % 7 ? weft_context_retain(weft_background())
                                  : weft_context_with_timeout(weft_background(), 1e-5, NULL);
    weft_select_case cases[] = {acquire_of(semaphores[i % 2], weight),
                                acquire_of(semaphores[1 - i % 2], weight)};
    weft_select select;
    weft_select_init(&select, cases, 2, 0);
    int rc = weft_select_wait(context, &select, &index);
    weft_context_release(context);
    CHECK(rc == WEFT_OK || (rc == WEFT_CANCELED && i % 7 == 0));
    if (rc != WEFT_OK)
      continue;
    int which = cases[index].semaphore == semaphores[1];
    CHECK(atomic_fetch_add(&inside[which], weight) + weight <= 3);
    atomic_fetch_sub(&inside[which], weight);
    CHECK(weft_semaphore_give_back(cases[index].semaphore, weight) == WEFT_OK);
  }
  return NULL;
}

static void holds_no_more_than_there_is(void) {
  pthread_t threads[THREADS];
  for (int i = 0; i < 2; i++)
    semaphores[i] = weft_semaphore_new(3);
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, enter_either, NULL);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  for (int i = 0; i < 2; i++) {
    CHECK(weft_semaphore_held(semaphores[i]) == 0);
    weft_semaphore_release(semaphores[i]);
  }
}

static void *wait_on_two(void *arg) {
  shared *shared = arg;
  weft_parcel slot;
  weft_parcel_init(&slot);
  weft_select_case cases[] = {recv_of(shared->channels[0], &slot),
                              recv_of(shared->channels[1], &slot)};
  weft_select select;
  uint32_t index;
  weft_select_init(&select, cases, 2, 0);
  int rc = weft_select_wait(shared->context, &select, &index);
  CHECK(rc == WEFT_OK || rc == WEFT_CANCELED);
  if (rc == WEFT_OK)
    atomic_fetch_add(&shared->received, take(&slot));
  CHECK(slot.size == 0);
  return NULL;
}

static void a_cancel_meets_a_send(void) {
  for (int i = 0; i < 500; i++) {
    shared shared = {.context = weft_context_with_cancel(weft_background())};
    weft_channel *a = shared.channels[0] = weft_channel_new(0);
    weft_channel *b = shared.channels[1] = weft_channel_new(0);
    pthread_t thread;
    pthread_create(&thread, NULL, wait_on_two, &shared);
    AWAIT(!is_empty(a) && !is_empty(b));
    weft_parcel value;
    put(&value, 1);
    if (i % 2)
      weft_context_cancel(shared.context, NULL);
    int rc = weft_channel_try_send(i % 4 < 2 ? a : b, &value);
    weft_context_cancel(shared.context, NULL);
    pthread_join(thread, NULL);
    CHECK((rc == WEFT_OK) == (shared.received == 1) && (i % 2 || rc == WEFT_OK));
    CHECK(is_empty(a) && is_empty(b));
    weft_channel_release(a);
    weft_channel_release(b);
    weft_context_release(shared.context);
  }
}

int main(void) {
  check_run("select: one case goes on", one_case_goes_on);
  check_run("select: chance is fair", chance_is_fair);
  check_run("select: a seed repeats chance", a_seed_repeats_chance);
  check_run("select: locks in one order", locks_in_one_order);
  check_run("select: in order the first one goes on", in_order_the_first_one_goes_on);
  check_run("select: closed channels", closed_channels);
  check_run("select: waiters are claimed once and leave", waiters_are_claimed_once_and_leave);
  check_run("select: never meets itself", never_meets_itself);
  check_run("select: a close wakes who chose", a_close_wakes_who_chose);
  check_run("select: semaphores may be among the cases", semaphores_may_be_among_the_cases);
  check_run("select: holds no more than there is", holds_no_more_than_there_is);
  check_run("select: nothing is lost between choices", nothing_is_lost_between_choices);
  check_run("select: a cancel meets a send", a_cancel_meets_a_send);
  return check_end();
}
