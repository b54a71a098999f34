/* test_waiter.c: lists of waiters, claims, threads as parties, the inbox and the parker. */
#include "check.h"
#include "inbox.h"
#include "waiter.h"

enum { MANY = 10001, PUSHERS = 3, PUSHES = 20000 };

static void list_is_first_in_first_out(void) {
  weft_waitlist list = {0};
  weft_wait *woken = NULL;
  probe probes[4];
  for (size_t i = 0; i < COUNT(probes); i++) {
    probe_init(&probes[i]);
    weft_waitlist_push(&list, &probes[i].waiter);
  }
  weft_waitlist_remove(&list, &probes[1].waiter);
  weft_waitlist_remove(&list, &probes[1].waiter); /* nothing when it is not in it */
  CHECK(weft_waitlist_claim_first(&list, &woken) == &probes[0].waiter);
  CHECK(weft_waitlist_claim_first(&list, &woken) == &probes[2].waiter);
  CHECK(weft_waitlist_claim_first(&list, &woken) == &probes[3].waiter);
  CHECK(weft_waitlist_claim_first(&list, &woken) == NULL);
  CHECK(list.head == NULL && list.tail == NULL);
  weft_wake(woken);
  CHECK(probes[0].wakes == 1 && probes[1].wakes == 0 && probes[2].wakes == 1);
}

static void claimed_by_another_source_is_skipped(void) {
  weft_waitlist list = {0};
  weft_wait *woken = NULL;
  probe first, second;
  probe_init(&first);
  probe_init(&second);
  weft_waitlist_push(&list, &first.waiter);
  weft_waitlist_push(&list, &second.waiter);
  CHECK(weft_wait_claim(&first.wait, 7));
  CHECK(!weft_wait_claim(&first.wait, 3));
  CHECK(weft_waitlist_claim_first(&list, &woken) == &second.waiter);
  CHECK(!first.waiter.is_queued && list.head == NULL);
  weft_wake(woken);
  CHECK(first.wakes == 0 && second.wakes == 1);
  CHECK(weft_wait_winner(&first.wait) == 7 && weft_wait_winner(&second.wait) == 0);
}

static void outcome_is_a_code(void) {
  probe party;
  probe_init(&party);
  CHECK(weft_waiter_outcome(&party.waiter) == WEFT_OK);
  weft_waiter_set_outcome(&party.waiter, WEFT_BELOW_ZERO);
  CHECK(weft_waiter_outcome(&party.waiter) == WEFT_BELOW_ZERO);
}

static void all_waiters_wake(void) {
  weft_waitlist list = {0};
  weft_wait *woken = NULL;
  probe *probes = calloc(MANY, sizeof *probes);
  for (int i = 0; i < MANY; i++) {
    probe_init(&probes[i]);
    weft_waitlist_push(&list, &probes[i].waiter);
  }
  weft_waitlist_claim_all(&list, &woken);
  weft_wake(woken);
  for (int i = 0; i < MANY; i++)
    CHECK(probes[i].wakes == 1);
  free(probes);
}

static void *wake_party(void *arg) {
  weft_thread_wait *party = arg;
  if (weft_wait_claim(&party->wait, 0))
    weft_wake(&party->wait);
  return NULL;
}

static void thread_blocks_until_woken(void) {
  for (int i = 0; i < 2000; i++) {
    weft_thread_wait party; /* leaves the stack as soon as it is woken */
    pthread_t waker;
    weft_thread_wait_init(&party);
    pthread_create(&waker, NULL, wake_party, &party);
    weft_thread_wait_block(&party);
    CHECK(weft_wait_winner(&party.wait) == 0);
    pthread_join(waker, NULL);
  }
}

/* ---- inbox ---- */

typedef struct letter {
  weft_wait wait; /* first */
  uint32_t sender, number;
} letter;

static weft_inbox *inbox, *boxes[2];
static letter *letters;

static void *push_letters(void *arg) {
  letter *mine = arg;
  for (uint32_t i = 0; i < PUSHES; i++)
    weft_inbox_push(inbox, &mine[i].wait);
  return NULL;
}

static void fill_letters(void) {
  letters = calloc(PUSHERS * PUSHES, sizeof *letters);
  for (uint32_t i = 0; i < PUSHERS * PUSHES; i++) {
    letters[i].sender = i / PUSHES;
    letters[i].number = i % PUSHES;
  }
}

static void receive_letters(void) {
  uint32_t received = 0, next_number[PUSHERS] = {0};
  while (received < PUSHERS * PUSHES) {
    weft_wait *wait = weft_inbox_take(inbox);
    if (!wait)
      weft_parker_park(&inbox->parker, WEFT_NEVER_NS);
    for (; wait; wait = wait->next, received++) {
      letter *got = (letter *)wait;
      CHECK(got->number == next_number[got->sender]++);
    }
  }
}

static void deliver_all(int interruptible) {
  pthread_t threads[PUSHERS];
  inbox = weft_inbox_acquire(interruptible);
  fill_letters();
  for (int i = 0; i < PUSHERS; i++)
    pthread_create(&threads[i], NULL, push_letters, letters + i * PUSHES);
  receive_letters();
  for (int i = 0; i < PUSHERS; i++)
    pthread_join(threads[i], NULL);
  CHECK(weft_inbox_is_empty(inbox) && weft_inbox_take(inbox) == NULL);
  weft_inbox_release(inbox);
  free(letters);
}

static void inbox_loses_nothing(void) {
  deliver_all(0);
}

static void interruptible_inbox_loses_nothing(void) {
  deliver_all(1);
}

static void inboxes_are_recycled(void) {
  weft_inbox *first = weft_inbox_acquire(0), *second = weft_inbox_acquire(1);
  CHECK(first && second && first != second && (uintptr_t)first % 64 == 0);
  weft_inbox_release(first);
  weft_inbox_release(second);
  CHECK(weft_inbox_acquire(1) == second);
  CHECK(weft_inbox_acquire(0) == first);
  weft_inbox_release(first);
  weft_inbox_release(second);
}

/* The first time may meet what a recycled inbox was told before. */
static void arm(weft_inbox *box) {
  if (!weft_parker_arm(&box->parker))
    CHECK(weft_parker_arm(&box->parker));
}

/* How often the driver of an armed inbox was unparked since the last look. */
static uint64_t unparks(weft_inbox *box) {
  uint64_t count, all = 0;
  while (read(box->parker.sleep_fd, &count, sizeof count) == (ssize_t)sizeof count)
    all += count;
  return all;
}

static void push_to(weft_wait *wait) {
  weft_inbox_push(boxes[((letter *)wait)->sender], wait);
}

/* As claims build it: the newest first. */
static weft_wait *chain(letter *all, size_t count) {
  weft_wait *woken = NULL;
  for (size_t i = 0; i < count; i++) {
    weft_wait_init(&all[i].wait, push_to);
    all[i].wait.next = woken;
    woken = &all[i].wait;
  }
  return woken;
}

static void a_chain_wakes_each_driver_once(void) {
  letter all[] = {{.sender = 0}, {.sender = 0}, {.sender = 1}, {.sender = 1}, {.sender = 0}};
  for (int i = 0; i < 2; i++) {
    boxes[i] = weft_inbox_acquire(WEFT_INBOX_SCRIPT);
    arm(boxes[i]);
  }
  weft_wake(chain(all, COUNT(all)));
  for (int i = 0; i < 2; i++) {
    CHECK(unparks(boxes[i]) == 1);
    for (weft_wait *wait = weft_inbox_take(boxes[i]); wait; wait = wait->next)
      CHECK((int)((letter *)wait)->sender == i);
    weft_parker_disarm(&boxes[i]->parker);
    arm(boxes[i]);
  }
  weft_wake(chain(all, 1));
  CHECK(unparks(boxes[0]) == 1 && unparks(boxes[1]) == 0);
  for (int i = 0; i < 2; i++) {
    weft_inbox_take(boxes[i]);
    weft_parker_disarm(&boxes[i]->parker);
    weft_inbox_release(boxes[i]);
  }
}

/* A driver that sleeps is not woken before the rest of the batch is there. */
static void a_batch_unparks_at_its_end(void) {
  letter all[3];
  weft_inbox *box = weft_inbox_acquire(WEFT_INBOX_SCRIPT);
  arm(box);
  weft_inbox_begin_batch();
  for (size_t i = 0; i < COUNT(all); i++)
    weft_inbox_push(box, &all[i].wait);
  CHECK(unparks(box) == 0);
  weft_inbox_end_batch();
  CHECK(unparks(box) == 1);
  weft_inbox_take(box);
  weft_parker_disarm(&box->parker);
  weft_inbox_release(box);
}

static void an_early_unpark_is_kept(void) {
  for (int interruptible = 0; interruptible < 2; interruptible++) {
    weft_parker parker;
    CHECK(weft_parker_init(&parker, interruptible) == 0);
    weft_parker_unpark(&parker);
    CHECK(weft_parker_park(&parker, WEFT_NEVER_NS) == 0);
    uint64_t until_ns = weft_clock_now_ns() + 2000000;
    while (weft_clock_now_ns() < until_ns)
      CHECK(weft_parker_park(&parker, until_ns) == 0);
    if (parker.fd >= 0)
      close(parker.fd);
  }
}

int main(void) {
  check_run("waiter: a list is first in, first out", list_is_first_in_first_out);
  check_run("waiter: one claimed elsewhere is skipped", claimed_by_another_source_is_skipped);
  check_run("waiter: the outcome is a code", outcome_is_a_code);
  check_run("waiter: 10,001 all wake", all_waiters_wake);
  check_run("waiter: a thread blocks until woken", thread_blocks_until_woken);
  check_run("inbox: loses nothing, keeps each sender's order", inbox_loses_nothing);
  check_run("inbox: the same when interruptible", interruptible_inbox_loses_nothing);
  check_run("inbox: recycled by kind", inboxes_are_recycled);
  check_run("inbox: a chain of wakes unparks each driver once", a_chain_wakes_each_driver_once);
  check_run("inbox: a batch unparks at its end", a_batch_unparks_at_its_end);
  check_run("parker: an early unpark is kept, a deadline ends the sleep", an_early_unpark_is_kept);
  return check_end();
}
