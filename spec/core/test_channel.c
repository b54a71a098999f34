/* test_channel.c: Go's rules: rendezvous, order, closing, waiting, choices that face each other. */
#include "channel.h"
#include "check.h"
#include "context.h"
#include "parcel.h"

enum { MANY = 10001, DEEP = 100000, ROUNDS = 20000 };

static void put(weft_parcel *parcel, uint32_t number) {
  weft_parcel_init(parcel);
  parcel->size = sizeof number;
  memcpy(parcel->inline_bytes, &number, sizeof number);
}

static uint32_t get(weft_parcel *parcel) {
  uint32_t number = UINT32_MAX;
  CHECK(parcel->size == sizeof number);
  if (parcel->size == sizeof number)
    memcpy(&number, parcel->data, sizeof number);
  weft_parcel_clear(parcel);
  return number;
}

static int try_send(weft_channel *channel, uint32_t number) {
  weft_parcel value;
  put(&value, number);
  int rc = weft_channel_try_send(channel, &value);
  CHECK((rc == WEFT_OK) == (value.size == 0)); /* moved, or unchanged */
  return rc;
}

static int try_recv(weft_channel *channel, uint32_t *number) {
  weft_parcel out;
  weft_parcel_init(&out);
  int rc = weft_channel_try_recv(channel, &out);
  if (rc == WEFT_OK)
    *number = get(&out);
  return rc;
}

typedef struct party {
  probe probe;
  weft_parcel slot;
} party;

static int send_or_wait(weft_channel *channel, party *sender, uint32_t number) {
  probe_init(&sender->probe);
  put(&sender->slot, number);
  return weft_channel_send_or_wait(channel, &sender->slot, &sender->probe.waiter);
}

static int recv_or_wait(weft_channel *channel, party *receiver) {
  probe_init(&receiver->probe);
  weft_parcel_init(&receiver->slot);
  return weft_channel_recv_or_wait(channel, &receiver->slot, &receiver->probe.waiter);
}

/* ---- one thread ---- */

static void buffer_is_first_in_first_out(void) {
  weft_channel *channel = weft_channel_new(3);
  uint32_t number = 0, next_in = 0, next_out = 0;
  CHECK(weft_channel_capacity(channel) == 3);
  for (int round = 0; round < 10; round++) { /* the ring wraps */
    while (try_send(channel, next_in) == WEFT_OK)
      next_in++;
    CHECK(weft_channel_length(channel) == 3);
    for (int i = 0; i < 2; i++) {
      CHECK(try_recv(channel, &number) == WEFT_OK);
      CHECK(number == next_out++);
    }
  }
  CHECK(next_in == 21 && weft_channel_length(channel) == 1);
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 20);
  CHECK(try_recv(channel, &number) == WEFT_WOULD_WAIT);
  weft_channel_release(channel);
}

static void rendezvous_needs_a_receiver(void) {
  weft_channel *channel = weft_channel_new(0);
  uint32_t number;
  party receiver, sender;
  CHECK(try_send(channel, 1) == WEFT_WOULD_WAIT);
  CHECK(recv_or_wait(channel, &receiver) == WEFT_WOULD_WAIT);
  CHECK(try_send(channel, 2) == WEFT_OK);
  CHECK(receiver.probe.wakes == 1 && get(&receiver.slot) == 2);
  CHECK(weft_waiter_outcome(&receiver.probe.waiter) == WEFT_OK);
  CHECK(send_or_wait(channel, &sender, 3) == WEFT_WOULD_WAIT);
  CHECK(sender.probe.wakes == 0 && weft_channel_length(channel) == 0);
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 3);
  CHECK(sender.probe.wakes == 1 && sender.slot.size == 0);
  CHECK(weft_waiter_outcome(&sender.probe.waiter) == WEFT_OK);
  weft_channel_release(channel);
}

static void blocked_senders_follow_the_buffer(void) {
  weft_channel *channel = weft_channel_new(2);
  uint32_t number;
  party senders[3];
  for (uint32_t i = 0; i < 2; i++)
    CHECK(try_send(channel, i) == WEFT_OK);
  for (uint32_t i = 0; i < 3; i++)
    CHECK(send_or_wait(channel, &senders[i], 2 + i) == WEFT_WOULD_WAIT);
  for (uint32_t i = 0; i < 5; i++) {
    CHECK(try_recv(channel, &number) == WEFT_OK && number == i);
    for (uint32_t k = 0; k < 3; k++)
      CHECK(senders[k].probe.wakes == (k <= i ? 1u : 0u)); /* each freed place takes one */
  }
  CHECK(try_recv(channel, &number) == WEFT_WOULD_WAIT);
  weft_channel_release(channel);
}

static void closed_is_drained_then_ends(void) {
  weft_channel *channel = weft_channel_new(2);
  uint32_t number;
  CHECK(try_send(channel, 5) == WEFT_OK && try_send(channel, 6) == WEFT_OK);
  CHECK(weft_channel_close(channel) == WEFT_OK);
  CHECK(weft_channel_close(channel) == WEFT_CLOSED);
  CHECK(try_send(channel, 7) == WEFT_CLOSED);
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 5);
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 6);
  CHECK(try_recv(channel, &number) == WEFT_CLOSED);
  CHECK(try_recv(channel, &number) == WEFT_CLOSED);
  weft_channel_release(channel);
}

static void close_wakes_both_sides(void) {
  weft_channel *empty = weft_channel_new(0), *full = weft_channel_new(1);
  uint32_t number;
  party receiver, sender;
  CHECK(recv_or_wait(empty, &receiver) == WEFT_WOULD_WAIT);
  CHECK(try_send(full, 1) == WEFT_OK);
  CHECK(send_or_wait(full, &sender, 2) == WEFT_WOULD_WAIT);
  CHECK(weft_channel_close(empty) == WEFT_OK && weft_channel_close(full) == WEFT_OK);
  CHECK(receiver.probe.wakes == 1 && receiver.slot.size == 0);
  CHECK(weft_waiter_outcome(&receiver.probe.waiter) == WEFT_CLOSED);
  CHECK(sender.probe.wakes == 1 && get(&sender.slot) == 2); /* still the sender's */
  CHECK(weft_waiter_outcome(&sender.probe.waiter) == WEFT_CLOSED);
  CHECK(try_recv(full, &number) == WEFT_OK && number == 1);
  CHECK(try_recv(full, &number) == WEFT_CLOSED);
  CHECK(recv_or_wait(full, &receiver) == WEFT_CLOSED);
  CHECK(send_or_wait(full, &sender, 2) == WEFT_CLOSED);
  weft_channel_release(empty);
  weft_channel_release(full);
}

/* Parties whose wait another source has claimed keep their values, and are passed over. */
static void lost_waits_lose_no_value(void) {
  weft_channel *channel = weft_channel_new(0);
  uint32_t number;
  party lost, good;
  CHECK(recv_or_wait(channel, &lost) == WEFT_WOULD_WAIT);
  CHECK(recv_or_wait(channel, &good) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&lost.probe.wait, 1));
  CHECK(try_send(channel, 1) == WEFT_OK);
  CHECK(lost.probe.wakes == 0 && lost.slot.size == 0);
  CHECK(good.probe.wakes == 1 && get(&good.slot) == 1);
  CHECK(try_send(channel, 2) == WEFT_WOULD_WAIT);
  weft_channel_unwait_recv(channel, &lost.probe.waiter);
  CHECK(send_or_wait(channel, &lost, 3) == WEFT_WOULD_WAIT);
  CHECK(send_or_wait(channel, &good, 4) == WEFT_WOULD_WAIT);
  CHECK(weft_wait_claim(&lost.probe.wait, 1));
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 4);
  CHECK(get(&lost.slot) == 3);
  CHECK(try_recv(channel, &number) == WEFT_WOULD_WAIT);
  weft_channel_release(channel);
}

static void unwait_takes_out(void) {
  weft_channel *channel = weft_channel_new(0);
  uint32_t number;
  party first, second;
  CHECK(send_or_wait(channel, &first, 1) == WEFT_WOULD_WAIT);
  CHECK(send_or_wait(channel, &second, 2) == WEFT_WOULD_WAIT);
  weft_channel_unwait_send(channel, &first.probe.waiter);
  memset(&first, 0xdd, sizeof first);
  CHECK(try_recv(channel, &number) == WEFT_OK && number == 2);
  CHECK(recv_or_wait(channel, &first) == WEFT_WOULD_WAIT);
  weft_channel_unwait_recv(channel, &first.probe.waiter);
  CHECK(try_send(channel, 3) == WEFT_WOULD_WAIT);
  weft_channel_release(channel);
}

static void close_wakes_10001(void) {
  weft_channel *channel = weft_channel_new(0);
  party *parties = calloc(MANY, sizeof *parties);
  for (uint32_t i = 0; i < MANY; i++)
    CHECK(recv_or_wait(channel, &parties[i]) == WEFT_WOULD_WAIT);
  weft_channel_close(channel);
  for (uint32_t i = 0; i < MANY; i++) {
    CHECK(parties[i].probe.wakes == 1);
    CHECK(weft_waiter_outcome(&parties[i].probe.waiter) == WEFT_CLOSED);
  }
  free(parties);
  weft_channel_release(channel);
}

static weft_channel *put_inside(weft_channel *inner) {
  weft_channel *outer = weft_channel_new(1);
  weft_parcel_writer writer;
  weft_parcel value;
  weft_parcel_init(&value);
  weft_parcel_writer_init(&writer);
  CHECK(weft_parcel_write_handle(&writer, &inner->handle) == WEFT_BUF_OK);
  CHECK(weft_parcel_finish(&writer, &value) == WEFT_BUF_OK);
  weft_parcel_writer_free(&writer);
  CHECK(weft_channel_try_send(outer, &value) == WEFT_OK);
  weft_channel_release(inner);
  return outer;
}

static void a_deep_nest_is_dropped(void) {
  weft_channel *channel = weft_channel_new(1);
  for (int i = 0; i < DEEP; i++)
    channel = put_inside(channel);
  CHECK(check_stats().channels == DEEP + 1);
  weft_channel_release(channel);
  CHECK(check_stats().channels == 0);
}

static void bytes_are_cut_to_the_buffer(void) {
  weft_channel *channel = weft_channel_new(4);
  char big[5000], small[8] = {0};
  size_t size = 0;
  memset(big, 'x', sizeof big);
  CHECK(weft_channel_send(weft_background(), channel, big, sizeof big) == WEFT_OK);
  CHECK(weft_channel_send(weft_background(), channel, NULL, 0) == WEFT_OK);
  CHECK(weft_channel_recv(weft_background(), channel, small, sizeof small, &size) == WEFT_OK);
  CHECK(size == sizeof big && memcmp(small, big, sizeof small) == 0);
  CHECK(weft_channel_recv(weft_background(), channel, small, sizeof small, &size) == WEFT_OK);
  CHECK(size == 0);
  weft_channel_release(channel);
}

/* ---- native threads ---- */

typedef struct call {
  weft_channel *channel;
  weft_context *context;
  int rc;
} call;

static void *send_one(void *arg) {
  call *call = arg;
  uint32_t number = 1;
  call->rc = weft_channel_send(call->context, call->channel, &number, sizeof number);
  return NULL;
}

static void *recv_one(void *arg) {
  call *call = arg;
  uint32_t number;
  call->rc = weft_channel_recv(call->context, call->channel, &number, sizeof number, NULL);
  return NULL;
}

static int has_waiters(weft_channel *channel) {
  pthread_mutex_lock(&channel->lock);
  int found = channel->senders.head || channel->receivers.head;
  pthread_mutex_unlock(&channel->lock);
  return found;
}

static int end_of_blocked(void *(*blocks)(void *), int by_cancel) {
  call call = {weft_channel_new(0), weft_context_with_cancel(weft_background()), 1};
  pthread_t thread;
  pthread_create(&thread, NULL, blocks, &call);
  AWAIT(has_waiters(call.channel));
  if (by_cancel)
    weft_context_cancel(call.context, NULL);
  else
    weft_channel_close(call.channel);
  pthread_join(thread, NULL);
  CHECK(!has_waiters(call.channel));
  CHECK(blocks(&call) == NULL && call.rc != WEFT_OK); /* and again, without blocking */
  weft_channel_release(call.channel);
  weft_context_release(call.context);
  return call.rc;
}

static void cancel_and_close_end_blocked_calls(void) {
  CHECK(end_of_blocked(send_one, 1) == WEFT_CANCELED);
  CHECK(end_of_blocked(recv_one, 1) == WEFT_CANCELED);
  CHECK(end_of_blocked(send_one, 0) == WEFT_CLOSED);
  CHECK(end_of_blocked(recv_one, 0) == WEFT_CLOSED);
}

/* A send that says WEFT_OK was received, one that says WEFT_CANCELED was not. */
static void cancel_meets_rendezvous(void) {
  uint32_t met = 0;
  for (int round = 0; round < ROUNDS / 10; round++) {
    call sender = {weft_channel_new(0), weft_context_with_cancel(weft_background()), 1};
    call receiver = {sender.channel, weft_context_with_cancel(weft_background()), 1};
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, send_one, &sender);
    pthread_create(&threads[1], NULL, recv_one, &receiver);
    weft_context_cancel(round % 2 ? sender.context : receiver.context, NULL);
    weft_context_cancel(round % 2 ? receiver.context : sender.context, NULL);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK(sender.rc == receiver.rc);
    met += sender.rc == WEFT_OK;
    weft_channel_release(sender.channel);
    weft_context_release(sender.context);
    weft_context_release(receiver.context);
  }
  printf("# %u met\n", met);
}

/* ---- two choices that face each other, built from the locked steps ---- */

typedef struct chooser {
  weft_channel *sends_to, *receives_from;
  uint64_t sent, received; /* sums */
  uint32_t sent_count, received_count;
} chooser;

static weft_channel *a_channel, *b_channel; /* in the order of addresses */

static void lock_both(void) {
  pthread_mutex_lock(&a_channel->lock);
  pthread_mutex_lock(&b_channel->lock);
}

static void unlock_both(void) {
  pthread_mutex_unlock(&b_channel->lock);
  pthread_mutex_unlock(&a_channel->lock);
}

/* Returns 0 when it sent, 1 when it received, -1 at the end. */
static int choose(chooser *self, weft_parcel *value, weft_parcel *out) {
  weft_thread_wait party;
  weft_waiter sender, receiver;
  weft_wait *woken = NULL;
  weft_thread_wait_init(&party);
  weft_waiter_init(&sender, &party.wait, 0);
  weft_waiter_init(&receiver, &party.wait, 1);
  lock_both();
  int sent = weft_channel_send_locked(self->sends_to, value, &woken);
  int received = WEFT_WOULD_WAIT;
  if (sent == WEFT_WOULD_WAIT)
    received = weft_channel_recv_locked(self->receives_from, out, &woken);
  int must_wait = sent == WEFT_WOULD_WAIT && received == WEFT_WOULD_WAIT;
  if (must_wait) {
    weft_channel_queue_send_locked(self->sends_to, value, &sender);
    weft_channel_queue_recv_locked(self->receives_from, out, &receiver);
  }
  unlock_both();
  weft_wake(woken);
  if (!must_wait) {
    weft_thread_wait_drop(&party);
    return sent == WEFT_OK ? 0 : received == WEFT_OK ? 1 : -1;
  }
  weft_thread_wait_block(&party);
  weft_channel_unwait_send(self->sends_to, &sender);
  weft_channel_unwait_recv(self->receives_from, &receiver);
  int winner = weft_wait_winner(&party.wait);
  return weft_waiter_outcome(winner == 0 ? &sender : &receiver) == WEFT_OK ? winner : -1;
}

static void *choose_for_long(void *arg) {
  chooser *self = arg;
  for (uint32_t i = 1; i <= ROUNDS; i++) {
    weft_parcel value, out;
    put(&value, i);
    weft_parcel_init(&out);
    int which = choose(self, &value, &out);
    if (which == 0) {
      self->sent += i;
      self->sent_count++;
    } else if (which == 1) {
      self->received += get(&out);
      self->received_count++;
    }
    weft_parcel_clear(&value);
    if (which < 0)
      break;
  }
  weft_channel_close(a_channel); /* the other one must not wait for us */
  weft_channel_close(b_channel);
  return NULL;
}

static void facing_choices_lose_nothing(void) {
  pthread_t thread;
  a_channel = weft_channel_new(0);
  b_channel = weft_channel_new(0);
  if (a_channel > b_channel) {
    weft_channel *swap = a_channel;
    a_channel = b_channel;
    b_channel = swap;
  }
  chooser left = {.sends_to = a_channel, .receives_from = b_channel};
  chooser right = {.sends_to = b_channel, .receives_from = a_channel};
  pthread_create(&thread, NULL, choose_for_long, &left);
  choose_for_long(&right);
  pthread_join(thread, NULL);
  CHECK(left.sent == right.received && left.sent_count == right.received_count);
  CHECK(right.sent == left.received && right.sent_count == left.received_count);
  CHECK(left.sent_count + left.received_count > 0);
  printf("# left sent %u, right sent %u\n", left.sent_count, right.sent_count);
  weft_channel_release(a_channel);
  weft_channel_release(b_channel);
}

int main(void) {
  check_run("channel: the buffer is first in, first out", buffer_is_first_in_first_out);
  check_run("channel: capacity 0 needs a receiver", rendezvous_needs_a_receiver);
  check_run("channel: blocked senders follow the buffer", blocked_senders_follow_the_buffer);
  check_run("channel: closed, it is drained, then ends", closed_is_drained_then_ends);
  check_run("channel: close wakes both sides", close_wakes_both_sides);
  check_run("channel: a lost wait loses no value", lost_waits_lose_no_value);
  check_run("channel: unwait takes out", unwait_takes_out);
  check_run("channel: close wakes 10,001", close_wakes_10001);
  check_run("channel: 100,000 inside each other are dropped", a_deep_nest_is_dropped);
  check_run("channel: bytes are cut to the buffer", bytes_are_cut_to_the_buffer);
  check_run("channel: cancel and close end blocked calls", cancel_and_close_end_blocked_calls);
  check_run("channel: a cancel meets a rendezvous", cancel_meets_rendezvous);
  check_run("channel: facing choices lose nothing", facing_choices_lose_nothing);
  return check_end();
}
