/* http.c: the HTTP engine's face: starting, waiting and aborting from any thread.
 *
 * Owns the lists on which transfers go to the I/O thread, and their state. Any thread enters.
 * Invariants: a transfer is STARTED from weft_http_start to weft_http_publish, and the engine holds
 * a reference just as long; the turn's job is posted whenever one of the lists is not empty.
 *
 * Lock order: `lock` is a leaf but for the wait's claim. One for all transfers, so that a fork can
 * hold it still; the I/O thread takes it once for a batch.
 *
 * In the child of a fork the engine starts anew. libcurl's handles of the parent are left alone:
 * their connections are the parent's still.
 */
#include "http_engine.h"

#include "block.h"
#include "census.h"
#include "clock.h"
#include "error.h"
#include "platform.h"

#include <sys/resource.h>

weft_http_counters weft_http_counts;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static weft_http_transfer *started_head, *started_tail; /* linked by next */
static weft_http_transfer *aborted; /* linked by next_aborted; with references */
static int is_posted;

static _Atomic uint32_t limit = WEFT_HTTP_LIMIT;

/* ---- fork ---- */

static void before_fork(void) {
  pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void) {
  pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void) {
  pthread_mutex_init(&lock, NULL);
  started_head = started_tail = aborted = NULL;
  is_posted = 0;
  memset(&weft_http_counts, 0, sizeof weft_http_counts);
  weft_http_turn_forget();
  weft_http_lanes_forget();
  weft_http_stream_forget();
  weft_http_shards_forget();
  weft_http_sockets_forget();
  weft_http_spares_forget();
}

static void register_fork_handlers(void) {
  weft_process_watch_forks();
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- to the I/O thread ---- */

static void run_turn(weft_io_job *job) {
  (void)job;
  pthread_mutex_lock(&lock);
  weft_http_transfer *started = started_head, *to_abort = aborted;
  started_head = started_tail = aborted = NULL;
  is_posted = 0;
  pthread_mutex_unlock(&lock);
  weft_http_turn_take(started, to_abort);
}

static weft_io_job turn_job = {.run = run_turn};

/* 1 for the one who has to post the job, after unlocking. Called under lock. */
static int must_post(void) {
  int is_first = !is_posted;
  is_posted = 1;
  return is_first;
}

void weft_http_request_turn(void) {
  pthread_mutex_lock(&lock);
  int is_first = must_post();
  pthread_mutex_unlock(&lock);
  if (is_first)
    weft_io_post(&turn_job);
}

/* A quarter of the descriptors is left to the rest of the program. */
uint32_t weft_http_limit(void) {
  struct rlimit files;
  uint32_t wanted = atomic_load_explicit(&limit, memory_order_relaxed);
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 4 * 3 < wanted)
    wanted = (uint32_t)(files.rlim_cur / 4 * 3);
  return wanted ? wanted : 1;
}

void weft_http_set_limit(uint32_t wanted) {
  atomic_store(&limit, wanted ? wanted : 1);
  if (atomic_load(&weft_http_counts.queued)) /* so the I/O thread runs */
    weft_http_request_turn();
}

/* Called under lock. */
static int try_start(weft_http_transfer *transfer) {
  if (atomic_load(&transfer->state) != WEFT_HTTP_NEW)
    return 0;
  weft_http_transfer_retain(transfer);
  transfer->process = weft_process_generation();
  transfer->started_ns = weft_clock_outside_ns();
  transfer->next = NULL;
  transfer->holds_census = 1;
  weft_census_hold();
  atomic_fetch_add_explicit(&weft_http_counts.started, 1, memory_order_relaxed);
  if (started_tail)
    started_tail->next = transfer;
  else
    started_head = transfer;
  started_tail = transfer;
  atomic_store(&transfer->state, WEFT_HTTP_STARTED);
  return 1;
}

int weft_http_start(weft_http_transfer *transfer) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_fork_handlers);
  if (weft_io_start() != 0)
    return WEFT_NOTHREAD;
  pthread_mutex_lock(&lock);
  int is_new = try_start(transfer);
  int is_first = is_new && must_post();
  int was_aborted = !is_new && !transfer->started_ns; /* ended before it could start */
  pthread_mutex_unlock(&lock);
  if (is_first)
    weft_io_post(&turn_job);
  return is_new || was_aborted ? WEFT_OK : WEFT_CLOSED;
}

/* ---- waiting ---- */

/* A transfer of the parent's never ends here by itself. Called under lock. */
static void end_if_forked(weft_http_transfer *transfer) {
  if (atomic_load(&transfer->state) != WEFT_HTTP_STARTED ||
      transfer->process == weft_process_generation())
    return;
  weft_buf_init(&transfer->head, 0);
  weft_buf_init(&transfer->content, 0);
  transfer->has_final_head = 0;
  transfer->error = weft_error_new(
      "canceled", "HTTP transfer: the process forked meanwhile; start a new one in the child");
  atomic_store(&transfer->state, WEFT_HTTP_FINISHED);
}

int weft_http_wait(weft_http_transfer *transfer, weft_waiter *waiter) {
  pthread_mutex_lock(&lock);
  end_if_forked(transfer);
  int is_open = atomic_load(&transfer->state) != WEFT_HTTP_FINISHED;
  if (is_open)
    weft_waitlist_push(&transfer->waiters, waiter);
  pthread_mutex_unlock(&lock);
  return is_open;
}

void weft_http_unwait(weft_http_transfer *transfer, weft_waiter *waiter) {
  pthread_mutex_lock(&lock);
  weft_waitlist_remove(&transfer->waiters, waiter);
  pthread_mutex_unlock(&lock);
}

int weft_http_is_finished(weft_http_transfer *transfer) {
  return atomic_load_explicit(&transfer->state, memory_order_acquire) == WEFT_HTTP_FINISHED;
}

void weft_http_publish(weft_http_transfer *ended) {
  weft_wait *woken = NULL;
  pthread_mutex_lock(&lock);
  for (weft_http_transfer *transfer = ended; transfer; transfer = transfer->next) {
    if (transfer->error)
      atomic_fetch_add_explicit(&weft_http_counts.failed, 1, memory_order_relaxed);
    atomic_store(&transfer->state, WEFT_HTTP_FINISHED);
    weft_waitlist_claim_all(&transfer->waiters, &woken);
  }
  pthread_mutex_unlock(&lock);
  while (ended) {
    weft_http_transfer *next = ended->next;
    weft_http_census(ended, 0);
    if (ended->stream)
      weft_http_stream_end(ended);
    weft_http_transfer_release(ended);
    ended = next;
  }
  weft_wake(woken);
}

/* ---- aborting ---- */

/* One that was never started ends at once. Called under lock. */
static void abort_new(weft_http_transfer *transfer, weft_wait **woken) {
  transfer->doom = WEFT_HTTP_ABORTED;
  transfer->error = weft_http_error_of_doom(transfer);
  atomic_store(&transfer->state, WEFT_HTTP_FINISHED);
  weft_waitlist_claim_all(&transfer->waiters, woken);
}

/* Called under lock. */
static int abort_started(weft_http_transfer *transfer) {
  end_if_forked(transfer);
  if (atomic_load(&transfer->state) == WEFT_HTTP_FINISHED || transfer->is_aborting)
    return 0;
  transfer->is_aborting = 1;
  weft_http_transfer_retain(transfer);
  transfer->next_aborted = aborted;
  aborted = transfer;
  return must_post();
}

void weft_http_abort(weft_http_transfer *transfer) {
  weft_wait *woken = NULL;
  int is_first = 0;
  pthread_mutex_lock(&lock);
  if (atomic_load(&transfer->state) == WEFT_HTTP_NEW)
    abort_new(transfer, &woken);
  else
    is_first = abort_started(transfer);
  pthread_mutex_unlock(&lock);
  weft_wake(woken);
  if (is_first)
    weft_io_post(&turn_job);
}

/* ---- one call ---- */

/* Blocks until the transfer has finished: NULL, or the context's error when that was done first. */
static weft_error *wait_for(weft_context *context, weft_http_transfer *transfer) {
  weft_blocked blocked;
  weft_blocked_init(&blocked);
  if (!weft_http_wait(transfer, &blocked.on_source)) {
    weft_blocked_drop(&blocked);
    return NULL;
  }
  if (weft_blocked_wait(&blocked, context))
    return NULL;
  weft_http_unwait(transfer, &blocked.on_source);
  return weft_context_error(context);
}

static weft_error *run(weft_context *context, weft_http_transfer *transfer) {
  int rc = weft_http_start(transfer);
  if (rc != WEFT_OK)
    return weft_error_newf("nothread", "HTTP transfer: %s", weft_strerror(rc));
  weft_error *error = wait_for(context, transfer);
  if (error)
    weft_http_abort(transfer);
  return error ? error : weft_error_retain(weft_http_error(transfer));
}

weft_error *weft_http_perform(weft_context *context, const weft_http_request *request,
                              weft_http_transfer **transfer) {
  *transfer = NULL;
  weft_error *error = weft_context_error(context);
  if (error)
    return error;
  *transfer = weft_http_transfer_new(request, &error);
  if (!*transfer)
    return error;
  error = run(context, *transfer);
  if (error) {
    weft_http_transfer_release(*transfer);
    *transfer = NULL;
  }
  return error;
}

/* ---- the engine as a whole ---- */

typedef struct close_job {
  weft_io_job job; /* first */
  weft_thread_wait *party;
} close_job;

static void run_close(weft_io_job *job) {
  weft_wait *wait = &((close_job *)job)->party->wait;
  weft_http_shards_close_idle();
  weft_http_spares_free();
  wait->wake(wait);
}

void weft_http_close_idle(void) {
  weft_thread_wait party;
  close_job job = {{.run = run_close}, &party};
  weft_http_targets_drop();
  if (!atomic_load(&weft_http_counts.shards) || weft_io_start() != 0)
    return; /* nothing there, as in a child that has started nothing; or the process ends */
  weft_thread_wait_init(&party);
  weft_io_post(&job.job);
  weft_thread_wait_block(&party);
}

void weft_http_stats_read(weft_http_stats *stats) {
  *stats = (weft_http_stats){
      .in_flight = atomic_load(&weft_http_counts.in_flight),
      .started = atomic_load(&weft_http_counts.started),
      .failed = atomic_load(&weft_http_counts.failed),
      .queued = atomic_load(&weft_http_counts.queued),
      .sockets = atomic_load(&weft_http_counts.sockets),
      .shards = atomic_load(&weft_http_counts.shards),
      .handles = atomic_load(&weft_http_counts.handles),
  };
}
