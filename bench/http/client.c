/* client.c: HTTP calls through weft's C API: what a call costs, and what cancelling many costs.
 *
 * usage: client calls  URL IN_FLIGHT CALLS [CA_FILE [h1]]   prints "cpu<TAB>microseconds a call", …
 *        client cancel URL COUNT                            aborts COUNT calls that are in flight
 *
 * A URL with /chat/ in it is asked as a model is: by POST, with a key, and for `calls` with a
 * prompt that makes the body 1 KB. One thread starts transfers and takes what has finished, as a
 * scheduler does: through an inbox.
 */
#include "clock.h"
#include "http.h"
#include "inbox.h"
#include "io.h"
#include "timer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct call {
  weft_wait wait; /* first */
  weft_waiter waiter;
  weft_http_transfer *transfer;
} call;

enum { PROMPT = 966 };
static char chat[1100];
static weft_http_header headers[2];
static weft_inbox *inbox;
static weft_http_request request;
static long failed;

static void on_end(weft_wait *wait) {
  weft_inbox_push(inbox, wait);
}

static void start(call *call) {
  weft_error *error = NULL;
  weft_wait_init(&call->wait, on_end);
  weft_waiter_init(&call->waiter, &call->wait, 0);
  call->transfer = weft_http_transfer_new(&request, &error);
  if (!call->transfer) {
    fprintf(stderr, "%s\n", weft_error_message(error));
    exit(1);
  }
  weft_http_start(call->transfer);
  if (!weft_http_wait(call->transfer, &call->waiter))
    on_end(&call->wait);
}

static void finish(call *call) {
  weft_error *error = weft_http_error(call->transfer);
  if (error && failed++ == 0)
    fprintf(stderr, "%s\n", weft_error_message(error));
  weft_http_transfer_release(call->transfer);
}

static weft_wait *take(void) {
  weft_wait *list;
  while (!(list = weft_inbox_take(inbox)))
    weft_parker_park(&inbox->parker, WEFT_NEVER_NS);
  return list;
}

/* `calls` calls, so many of them at once. */
static void run(call *all, long in_flight, long calls) {
  long started = in_flight < calls ? in_flight : calls, ended = 0;
  for (long i = 0; i < started; i++)
    start(&all[i]);
  while (ended < calls)
    for (weft_wait *wait = take(), *next; wait; wait = next) {
      next = wait->next;
      finish((call *)wait);
      ended++;
      if (started < calls && started++)
        start((call *)wait);
    }
}

static double cpu_us(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double peak_kb(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)usage.ru_maxrss;
}

static double seconds(void) {
  return (double)weft_clock_now_ns() / 1e9;
}

static int measure_calls(long in_flight, long calls, int is_cold) {
  double before_kb = peak_kb();
  call *all = calloc((size_t)in_flight, sizeof *all);
  if (!is_cold)
    run(all, in_flight, in_flight * 2); /* opens the connections */
  double cpu = cpu_us(), began = seconds();
  run(all, in_flight, calls);
  printf("cpu\t%.2f\nwall\t%.3f\nmemory\t%.1f\nfailed\t%ld\n", (cpu_us() - cpu) / (double)calls,
         seconds() - began, (peak_kb() - before_kb) / (double)in_flight, failed);
  free(all);
  return 0;
}

/* ---- cancelling: how late does a timer on the I/O thread get meanwhile? ---- */

static weft_timer tick;
static _Atomic uint64_t worst_ns;

static int claim_tick(weft_timer *timer) {
  (void)timer;
  return 1;
}

static void fire_tick(weft_timer *timer) {
  uint64_t now = weft_clock_now_ns(), late = now - timer->at_ns;
  if (late > worst_ns)
    worst_ns = late;
  weft_timer_start(timer, now + 200000);
}

static int measure_cancel(long count) {
  call *all = calloc((size_t)count, sizeof *all);
  weft_http_stats stats = {0};
  for (long i = 0; i < count; i++)
    start(&all[i]);
  while (stats.in_flight < (uint32_t)count || stats.sockets < (uint32_t)count) {
    usleep(10000);
    weft_http_stats_read(&stats);
  }
  usleep(1000000); /* until the requests are out */
  weft_timer_init(&tick, claim_tick, fire_tick);
  weft_timer_start(&tick, weft_clock_now_ns());
  usleep(20000);
  worst_ns = 0;
  double began = seconds();
  for (long i = 0; i < count; i++)
    weft_http_abort(all[i].transfer);
  for (long ended = 0; ended < count;)
    for (weft_wait *wait = take(), *next; wait; wait = next, ended++) {
      next = wait->next;
      weft_http_transfer_release(((call *)wait)->transfer);
    }
  printf("wall\t%.4f\npause\t%.5f\n", seconds() - began, (double)worst_ns / 1e9);
  fflush(stdout);
  _exit(0); /* the tick goes on for ever */
}

static void set_chat(int is_large) {
  char prompt[PROMPT + 1];
  memset(prompt, 'x', PROMPT);
  snprintf(chat, sizeof chat,
           "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"%.*s\"}]}",
           is_large ? PROMPT : 1, prompt);
  headers[0] = (weft_http_header){weft_http_text_of("Authorization"),
                                  weft_http_text_of("Bearer sk-0123456789abcdef0123456789abcdef")};
  headers[1] =
      (weft_http_header){weft_http_text_of("Content-Type"), weft_http_text_of("application/json")};
  request.body = weft_http_text_of(chat);
  request.headers = headers;
  request.header_count = 2;
}

int main(int argc, char **argv) {
  if (argc < 4)
    return 2;
  inbox = weft_inbox_acquire(WEFT_INBOX_WORKER);
  request.url = weft_http_text_of(argv[2]);
  if (argc > 5 && *argv[5])
    request.ca_file = weft_http_text_of(argv[5]);
  if (strstr(argv[2], "/chat/"))
    set_chat(strcmp(argv[1], "calls") == 0);
  request.method = weft_http_text_of(request.body.size ? "POST" : "GET");
  request.no_http2 = argc > 6 && strcmp(argv[6], "h1") == 0;
  if (strcmp(argv[1], "cancel") == 0)
    return measure_cancel(atol(argv[3]));
  return measure_calls(atol(argv[3]), atol(argv[4]), strcmp(argv[1], "cold") == 0);
}
