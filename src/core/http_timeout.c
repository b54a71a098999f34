/* http_timeout.c: how long a transfer may take, as a whole and step by step.
 *
 * Owns the timer in each transfer. The I/O thread alone enters. Invariant: while a transfer with a
 * limit runs, its timer is set for its next deadline or for earlier: a deadline that moves back is
 * found when the timer fires, so that arriving bytes cost a look at the clock and nothing else.
 *
 * libcurl's own limits are not used: its low-speed limit averages over seconds, and the others do
 * not count the queue.
 */
#include "http_engine.h"

#include "census.h"
#include "clock.h"
#include "platform.h"

static weft_http_transfer *of_timer(weft_timer *timer) {
  return (weft_http_transfer *)((char *)timer - offsetof(weft_http_transfer, timer));
}

static uint64_t after(weft_http_transfer *transfer, uint64_t since_ns, uint8_t which) {
  uint32_t limit_ms = transfer->limits_ms[which];
  return limit_ms ? since_ns + (uint64_t)limit_ms * 1000000u : WEFT_NEVER_NS;
}

/* The next deadline, and which limit it comes from. */
static uint64_t deadline_of(weft_http_transfer *transfer, uint8_t *which) {
  static const uint8_t limit_of[] = {
      [WEFT_HTTP_QUEUED] = WEFT_HTTP_NO_LIMIT,  [WEFT_HTTP_CONNECTING] = WEFT_HTTP_CONNECT,
      [WEFT_HTTP_ASKED] = WEFT_HTTP_FIRST_BYTE, [WEFT_HTTP_ANSWERED] = WEFT_HTTP_IDLE,
      [WEFT_HTTP_PAUSED] = WEFT_HTTP_NO_LIMIT, /* its reader keeps it waiting */
  };
  uint64_t at_ns = after(transfer, transfer->started_ns, *which = WEFT_HTTP_TOTAL);
  uint64_t step_ns = after(transfer, transfer->step_ns, limit_of[transfer->step]);
  uint64_t attempt_ns = transfer->launched_ns
                            ? after(transfer, transfer->launched_ns, WEFT_HTTP_ATTEMPT)
                            : WEFT_NEVER_NS;
  if (attempt_ns < at_ns)
    at_ns = attempt_ns, *which = WEFT_HTTP_ATTEMPT;
  if (step_ns < at_ns)
    at_ns = step_ns, *which = limit_of[transfer->step];
  return at_ns;
}

/* The answer cannot come before the request is out: a body that still goes out starts the time
 * anew. */
static int still_sends(weft_http_transfer *transfer) {
  curl_off_t sent = 0;
  if (!transfer->body_size || !transfer->slot)
    return 0;
  curl_easy_getinfo(transfer->slot->easy, CURLINFO_SIZE_UPLOAD_T, &sent);
  int has_moved = (uint64_t)sent != transfer->sent_seen;
  transfer->sent_seen = (uint64_t)sent;
  return has_moved;
}

static int claim(weft_timer *timer) {
  return weft_handle_try_retain(&of_timer(timer)->handle);
}

static void look(weft_http_transfer *transfer) {
  uint64_t now_ns = weft_clock_outside_ns();
  uint8_t which;
  uint64_t at_ns = deadline_of(transfer, &which);
  if (at_ns <= now_ns && which == WEFT_HTTP_FIRST_BYTE && still_sends(transfer)) {
    transfer->step_ns = now_ns;
    at_ns = deadline_of(transfer, &which);
  }
  if (at_ns > now_ns) {
    weft_timer_start(&transfer->timer, at_ns); /* cannot fail: the I/O thread runs */
    return;
  }
  transfer->expired = which;
  weft_http_doom(transfer, WEFT_HTTP_TIMED_OUT);
}

static void fire(weft_timer *timer) {
  weft_http_transfer *transfer = of_timer(timer);
  if (!transfer->is_ended)
    look(transfer);
  weft_http_transfer_release(transfer);
}

static void set(weft_http_transfer *transfer) {
  uint8_t which;
  uint64_t at_ns = deadline_of(transfer, &which);
  if (at_ns == WEFT_NEVER_NS || (transfer->timer.is_queued && transfer->timer.at_ns <= at_ns))
    return;
  weft_http_timer_stop(transfer);
  weft_timer_start(&transfer->timer, at_ns);
}

void weft_http_census(weft_http_transfer *transfer, int holds) {
  if (transfer->holds_census == holds)
    return;
  transfer->holds_census = (uint8_t)holds;
  if (holds)
    weft_census_hold();
  else
    weft_census_release();
}

void weft_http_enter(weft_http_transfer *transfer, uint8_t step) {
  weft_http_census(transfer, step != WEFT_HTTP_PAUSED); /* paused it waits for its reader alone */
  transfer->step = step;
  transfer->step_ns = weft_clock_outside_ns();
  if (!transfer->timer.fire)
    weft_timer_init(&transfer->timer, claim, fire);
  transfer->timer.is_outside = 1;
  set(transfer);
}

void weft_http_arrived(weft_http_transfer *transfer) {
  if (transfer->step != WEFT_HTTP_ANSWERED) {
    weft_http_enter(transfer, WEFT_HTTP_ANSWERED);
    if (!transfer->times.first_byte_ns)
      transfer->times.first_byte_ns = transfer->step_ns - transfer->started_ns;
  } else if (transfer->limits_ms[WEFT_HTTP_IDLE]) {
    transfer->step_ns = weft_clock_outside_ns();
  }
}

void weft_http_timer_stop(weft_http_transfer *transfer) {
  if (transfer->timer.is_queued)
    weft_timer_stop(&transfer->timer);
}
