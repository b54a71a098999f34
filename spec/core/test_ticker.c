/* test_ticker.c: ticks on time, missed ones, stopping; channels that drop when they are full. */
#include "check.h"
#include "mem.h"
#include "ticker.h"

#include <math.h>

enum { RACES = 300 };

static void stamp(weft_parcel *value, uint64_t at_ns) {
  memcpy(value->data, &at_ns, sizeof at_ns);
  value->size = sizeof at_ns;
}

static weft_channel *make(double delay, double period) {
  int error;
  return weft_ticker_channel(delay, period, stamp, &error);
}

static uint64_t take(weft_channel *channel) {
  uint64_t at_ns = 0;
  CHECK(weft_channel_recv(weft_background(), channel, &at_ns, sizeof at_ns, NULL) == WEFT_OK);
  return at_ns;
}

/* The next tick is under way: time may go on. */
#define AWAIT_NEXT() AWAIT(check_stats().timers == 1)

static void ticks_on_time(void) {
  clock_freeze();
  uint64_t start_ns = weft_clock_now_ns();
  weft_channel *channel = make(2, 3);
  clock_advance(1);
  CHECK(weft_channel_length(channel) == 0);
  for (uint64_t at = 2; at < 12; at += 3) {
    clock_advance(at == 2 ? 1 : 3);
    CHECK(take(channel) == start_ns + at * 1000000000u);
    AWAIT_NEXT();
  }
  CHECK(weft_ticker_stop(channel->ticker) == 1 && weft_ticker_stop(channel->ticker) == 0);
  CHECK(check_stats().timers == 0 && check_stats().tickers == 1);
  weft_channel_release(channel);
  weft_clock_set(NULL);
}

static void who_is_slow_misses_ticks(void) {
  clock_freeze();
  uint64_t start_ns = weft_clock_now_ns();
  weft_channel *channel = make(1, 1);
  for (int i = 1; i <= 4; i++) {
    clock_advance(1);
    AWAIT(weft_channel_dropped(channel) == (uint64_t)i - 1 && weft_channel_length(channel) == 1);
    AWAIT_NEXT();
  }
  CHECK(take(channel) == start_ns + 1000000000u);
  clock_advance(7.5); /* six in one go: one comes, late, and the next in its old place */
  CHECK(take(channel) == start_ns + 11500000000u);
  AWAIT_NEXT();
  CHECK(weft_channel_dropped(channel) == 3); /* as before: what was missed is not made up for */
  clock_advance(0.5);
  CHECK(take(channel) == start_ns + 12000000000u);
  weft_channel_release(channel);
  CHECK(check_stats().timers == 0);
  weft_clock_set(NULL);
}

static void once_is_once(void) {
  clock_freeze();
  weft_channel *channel = make(1, 0), *never = make(HUGE_VAL, 0), *now = make(0, 0);
  take(now);
  clock_advance(1);
  take(channel);
  clock_advance(1e6);
  AWAIT(check_stats().timers == 1);
  CHECK(weft_channel_length(channel) == 0 && weft_channel_length(now) == 0);
  CHECK(weft_ticker_stop(channel->ticker) == 0 && weft_ticker_stop(never->ticker) == 1);
  CHECK(check_stats().timers == 0);
  weft_channel_release(channel);
  weft_channel_release(never);
  weft_channel_release(now);
  weft_clock_set(NULL);
}

static void closing_stops(void) {
  weft_channel *channel = make(1e-4, 1e-4);
  take(channel);
  CHECK(weft_channel_close(channel) == WEFT_OK);
  AWAIT(check_stats().timers == 0);
  weft_channel_release(channel);
}

static void *stop_soon(void *arg) {
  weft_ticker_stop(((weft_channel *)arg)->ticker);
  return NULL;
}

static void a_stop_meets_a_tick(void) {
  for (int i = 0; i < RACES; i++) {
    pthread_t thread;
    weft_channel *channel = make(1e-5, 1e-5);
    if (i % 2)
      take(channel);
    pthread_create(&thread, NULL, stop_soon, channel);
    pthread_join(thread, NULL);
    AWAIT(check_stats().timers == 0);
    weft_channel_release(channel);
  }
  for (int i = 0; i < RACES; i++) /* it goes while it fires */
    weft_channel_release(make(1e-6, 1e-6));
  AWAIT(check_stats().timers == 0 && check_stats().tickers == 0);
}

static void survives_want_of_memory(void) {
  int error;
  for (uint64_t nth = 1; nth <= 2; nth++) {
    weft_mem_fail_at(nth);
    CHECK(!weft_ticker_channel(1, 1, stamp, &error) && error != 0);
  }
  weft_mem_fail_at(0);
  CHECK(check_stats().tickers == 0 && check_stats().channels == 0);
}

/* ---- channels that drop ---- */

static int send_number(weft_channel *channel, uint32_t number) {
  return weft_channel_send(weft_background(), channel, &number, sizeof number);
}

static uint32_t recv_number(weft_channel *channel) {
  uint32_t number = UINT32_MAX;
  CHECK(weft_channel_recv(weft_background(), channel, &number, sizeof number, NULL) == WEFT_OK);
  return number;
}

static void drops_the_oldest(void) {
  weft_channel *channel = weft_channel_new_with(3, WEFT_DROP_OLD);
  for (uint32_t i = 0; i < 10; i++)
    CHECK(send_number(channel, i) == WEFT_OK);
  CHECK(weft_channel_length(channel) == 3 && weft_channel_dropped(channel) == 7);
  for (uint32_t i = 7; i < 10; i++)
    CHECK(recv_number(channel) == i);
  weft_channel_release(channel);
}

static void drops_the_newest(void) {
  weft_channel *channel = weft_channel_new_with(3, WEFT_DROP_NEW);
  for (uint32_t i = 0; i < 10; i++)
    CHECK(send_number(channel, i) == (i < 3 ? WEFT_OK : WEFT_FULL));
  CHECK(weft_channel_dropped(channel) == 7);
  for (uint32_t i = 0; i < 3; i++)
    CHECK(recv_number(channel) == i);
  CHECK(weft_channel_close(channel) == WEFT_OK && send_number(channel, 1) == WEFT_CLOSED);
  weft_channel_release(channel);
  weft_channel *nobody = weft_channel_new_with(0, WEFT_DROP_NEW);
  CHECK(send_number(nobody, 1) == WEFT_FULL);
  weft_channel_release(nobody);
}

/* A dropped value may hold the last reference to something: it goes with the sender, not under the
 * lock. */
static void what_is_dropped_is_freed(void) {
  weft_channel *channel = weft_channel_new_with(1, WEFT_DROP_OLD);
  for (int i = 0; i < 3; i++) {
    weft_channel *inner = weft_channel_new(0);
    weft_parcel value;
    weft_parcel_writer writer;
    weft_parcel_init(&value);
    weft_parcel_writer_init(&writer);
    CHECK(weft_parcel_write_handle(&writer, &inner->handle) == WEFT_BUF_OK);
    CHECK(weft_parcel_finish(&writer, &value) == WEFT_BUF_OK);
    weft_parcel_writer_free(&writer);
    weft_channel_release(inner);
    CHECK(weft_channel_send_parcel(weft_background(), channel, &value) == WEFT_OK);
    weft_parcel_clear(&value);
    CHECK(check_stats().channels == 2);
  }
  weft_channel_release(channel);
  CHECK(check_stats().channels == 0);
}

int main(void) {
  check_run("ticker: ticks on time", ticks_on_time);
  check_run("ticker: who is slow misses ticks", who_is_slow_misses_ticks);
  check_run("ticker: once is once", once_is_once);
  check_run("ticker: closing stops", closing_stops);
  check_run("ticker: a stop meets a tick", a_stop_meets_a_tick);
  check_run("ticker: survives want of memory", survives_want_of_memory);
  check_run("channel: drops the oldest", drops_the_oldest);
  check_run("channel: drops the newest", drops_the_newest);
  check_run("channel: what is dropped is freed", what_is_dropped_is_freed);
  return check_end();
}
