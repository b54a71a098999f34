/* test_trace.c: traces by many threads at once, starting and stopping meanwhile; the ledger of
 * objects. */
#include "check.h"
#include "handle.h"
#include "ledger.h"
#include "mem.h"
#include "trace.h"

#include <errno.h>

enum { THREADS = 4, EVENTS = 3000, ROUNDS = 30 };

static char path[64];

static char *read_file(void) {
  FILE *file = fopen(path, "rb");
  char *text = calloc(1, 64 << 20);
  CHECK(file != NULL);
  if (file) {
    size_t size = fread(text, 1, (64 << 20) - 1, file);
    text[size] = 0;
    fclose(file);
  }
  return text;
}

/* Not strstr, which measures the whole text each time under a sanitizer. */
static uint32_t count_of(const char *text, const char *what) {
  uint32_t count = 0;
  for (; *text; text++) {
    size_t same = 0;
    while (what[same] && text[same] == what[same])
      same++;
    count += !what[same];
  }
  return count;
}

/* The array's beginning and end, and one object a line. The specs read it with a JSON parser. */
static void check_whole(const char *text) {
  size_t size = strlen(text);
  CHECK(size > 6 && memcmp(text, "[\n{", 3) == 0 && strcmp(text + size - 4, "}\n]\n") == 0);
  CHECK(count_of(text, "\n{") == count_of(text, "},\n") + 1);
}

static gate started = GATE;
static _Atomic int may_end;
static _Atomic uint32_t running;

static void add_events(void *arg) {
  for (uint32_t i = 0; i < EVENTS; i++) {
    weft_trace_begin("outer", arg);
    uint64_t since_ns = weft_trace_now_ns();
    weft_trace_did("inner", since_ns);
    weft_trace_end("outer", arg);
  }
  atomic_fetch_sub(&running, 1);
}

static void start_threads(void (*main)(void *)) {
  static int ids[THREADS];
  atomic_store(&running, THREADS);
  for (int i = 0; i < THREADS; i++)
    CHECK(weft_thread_start(main, &ids[i], "adder") == 0);
}

static void has_all_events_of_all_threads(void) {
  CHECK(weft_trace_start(path) == 0);
  CHECK(weft_trace_start(path) == EBUSY);
  start_threads(add_events);
  AWAIT(atomic_load(&running) == 0);
  uint64_t dropped = weft_trace_stop();
  char *text = read_file();
  check_whole(text);
  CHECK(count_of(text, "\"ph\":\"") + dropped ==
        3 * EVENTS * THREADS + 1 + count_of(text, "thread_name"));
  CHECK(count_of(text, "thread_name") >= 1 && count_of(text, "thread_name") <= THREADS);
  free(text);
  CHECK(weft_trace_stop() == 0);
}

static void add_until_told(void *arg) {
  gate_add(&started, 1);
  while (!atomic_load(&may_end))
    if (weft_trace_is_on()) {
      weft_trace_begin("span", arg);
      weft_trace_end("span", arg);
    } else {
      sched_yield();
    }
  atomic_fetch_sub(&running, 1);
}

static void starts_and_stops_while_threads_add(void) {
  atomic_store(&may_end, 0);
  started.count = 0;
  start_threads(add_until_told);
  gate_await(&started, THREADS);
  for (int round = 0; round < ROUNDS; round++) {
    CHECK(weft_trace_start(path) == 0);
    sched_yield();
    weft_trace_stop();
    char *text = read_file();
    check_whole(text);
    free(text);
  }
  atomic_store(&may_end, 1);
  AWAIT(atomic_load(&running) == 0);
}

static void says_why_it_cannot_start(void) {
  CHECK(weft_trace_start("/nowhere/at/all") == ENOENT);
  CHECK(!weft_trace_is_on());
  weft_thread_fail_at(1);
  CHECK(weft_trace_start(path) == EAGAIN);
  CHECK(!weft_trace_is_on());
  CHECK(weft_trace_start(path) == 0);
  weft_trace_stop();
}

/* ---- the ledger ---- */

static uint32_t seen;

static void see(const char *kind, const char *where, void *arg) {
  (void)arg;
  CHECK(strcmp(kind, "thing") == 0 && strncmp(where, "file:", 5) == 0);
  seen++;
}

static uint32_t count_since(uint64_t mark) {
  seen = 0;
  weft_ledger_each(mark, see, NULL);
  return seen;
}

static void ledger_lists_what_is_alive(void) {
  char things[100];
  CHECK(!weft_ledger_is_on());
  weft_ledger_open();
  CHECK(weft_ledger_is_on());
  for (int i = 0; i < 50; i++)
    weft_ledger_note(&things[i], "thing", "file:1");
  uint64_t mark = weft_ledger_last();
  for (int i = 50; i < 100; i++)
    weft_ledger_note(&things[i], "thing", "file:2");
  CHECK(count_since(0) == 100 && count_since(mark) == 50);
  for (int i = 40; i < 60; i++)
    weft_ledger_forget(&things[i]);
  weft_ledger_forget(&mark); /* never noted */
  CHECK(count_since(0) == 80 && count_since(mark) == 40);
  weft_ledger_note(&things[0], "thing", "file:3"); /* the same address again */
  CHECK(count_since(0) == 80 && count_since(mark) == 41);
  weft_ledger_close();
  CHECK(!weft_ledger_is_on() && count_since(0) == 0);
}

static void ledger_goes_without_memory(void) {
  char thing;
  weft_ledger_open();
  for (uint64_t nth = 1; nth <= 2; nth++) {
    weft_mem_fail_at(nth);
    weft_ledger_note(&thing, "thing", "file:1");
    weft_mem_fail_at(0);
    CHECK(count_since(0) == 0);
  }
  weft_ledger_close();
}

static void ledger_forgets_handles_that_go(void) {
  weft_ledger_open();
  weft_semaphore *semaphore = weft_semaphore_new(1);
  weft_ledger_note(semaphore, "thing", "file:1");
  weft_semaphore_retain(semaphore);
  weft_semaphore_release(semaphore);
  CHECK(count_since(0) == 1);
  weft_semaphore_release(semaphore);
  CHECK(count_since(0) == 0);
  weft_ledger_close();
}

int main(void) {
  snprintf(path, sizeof path, "/tmp/weft-trace-%d.json", (int)getpid());
  check_run("trace: has all events of all threads", has_all_events_of_all_threads);
  check_run("trace: starts and stops while threads add", starts_and_stops_while_threads_add);
  check_run("trace: says why it cannot start", says_why_it_cannot_start);
  check_run("ledger: lists what is alive", ledger_lists_what_is_alive);
  check_run("ledger: goes without memory", ledger_goes_without_memory);
  check_run("ledger: forgets handles that go", ledger_forgets_handles_that_go);
  unlink(path);
  return check_end();
}
