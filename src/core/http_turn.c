/* http_turn.c: what the HTTP engine does in a turn of the loop: queue, launch, end.
 *
 * Owns the queue, the list of the doomed and the list of dirty shards. The I/O thread alone enters.
 * Invariants: a transfer is in the queue, in flight or ended; each ends exactly once; whatever is
 * left to do at the end of a turn has asked for another one, so that the loop never sleeps over it
 * and never does more than a slice at a time.
 */
#include "http_engine.h"

#include "clock.h"
#include "mem.h"

/* A list in the order of arrival, linked by `next`. */
typedef struct transfer_list {
  weft_http_transfer *head, *tail;
} transfer_list;

static transfer_list queue; /* doubly linked: an abort takes out of the middle */
static transfer_list ended; /* to be published when the turn ends */
static weft_http_transfer *doomed_head, *doomed_tail;
static weft_http_shard *dirty;
static int is_hooked;
static weft_io_job hook;

/* ---- lists ---- */

static void enqueue(weft_http_transfer *transfer) {
  transfer->next = NULL;
  transfer->previous = queue.tail;
  if (queue.tail)
    queue.tail->next = transfer;
  else
    queue.head = transfer;
  queue.tail = transfer;
  transfer->is_queued = 1;
  atomic_fetch_add_explicit(&weft_http_counts.queued, 1, memory_order_relaxed);
}

static void dequeue(weft_http_transfer *transfer) {
  if (transfer->previous)
    transfer->previous->next = transfer->next;
  else
    queue.head = transfer->next;
  if (transfer->next)
    transfer->next->previous = transfer->previous;
  else
    queue.tail = transfer->previous;
  transfer->next = transfer->previous = NULL;
  transfer->is_queued = 0;
  atomic_fetch_sub_explicit(&weft_http_counts.queued, 1, memory_order_relaxed);
}

/* ---- the end of a transfer ---- */

static uint64_t since_launch_ns(weft_http_transfer *transfer, CURLINFO info) {
  curl_off_t us = 0;
  curl_easy_getinfo(transfer->slot->easy, info, &us);
  return us > 0 ? transfer->times.launched_ns + (uint64_t)us * 1000u : 0;
}

static void read_times(weft_http_transfer *transfer) {
  CURL *easy = transfer->slot->easy;
  weft_http_times *times = &transfer->times;
  curl_off_t sent = 0, received = 0;
  long connects = 0;
  curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &sent);
  curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &received);
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
  times->sent = (uint64_t)sent;
  times->received = (uint64_t)received;
  times->first_byte_ns = since_launch_ns(transfer, CURLINFO_STARTTRANSFER_TIME_T);
  times->connected_ns = since_launch_ns(transfer, CURLINFO_PRETRANSFER_TIME_T);
  times->is_reused = connects == 0 && times->connected_ns != 0;
}

/* Takes the error over (NULL: success). The engine's reference goes to the list. */
static void end_transfer(weft_http_transfer *transfer, weft_error *error) {
  transfer->is_ended = 1;
  transfer->error = error;
  if (transfer->timeout_ms)
    weft_timer_stop(&transfer->timer);
  if (transfer->is_queued)
    dequeue(transfer);
  if (transfer->slot) {
    read_times(transfer);
    weft_http_unlaunch(transfer);
  }
  if (error)
    weft_http_drop_response(transfer);
  weft_http_drop_request(transfer);
  transfer->times.total_ns = weft_clock_now_ns() - transfer->started_ns;
  transfer->next = NULL;
  if (ended.tail)
    ended.tail->next = transfer;
  else
    ended.head = transfer;
  ended.tail = transfer;
}

void weft_http_completed(weft_http_transfer *transfer, CURLcode code) {
  end_transfer(transfer, code == CURLE_OK ? NULL : weft_http_error_of(transfer, code));
}

/* ---- doom: aborts and timeouts ---- */

static void hook_turn(void) {
  if (is_hooked)
    return;
  is_hooked = 1;
  weft_io_after_turn(&hook);
}

/* The list holds a reference: libcurl may finish the transfer while it stands there. */
void weft_http_doom(weft_http_transfer *transfer, uint8_t why) {
  if (transfer->is_ended || transfer->doom)
    return;
  transfer->doom = why;
  transfer->next_doomed = NULL;
  weft_http_transfer_retain(transfer);
  if (doomed_tail)
    doomed_tail->next_doomed = transfer;
  else
    doomed_head = transfer;
  doomed_tail = transfer;
  hook_turn();
}

static void end_doomed(void) {
  for (int left = WEFT_HTTP_SLICE; doomed_head && left > 0; left--) {
    weft_http_transfer *transfer = doomed_head;
    doomed_head = transfer->next_doomed;
    if (!doomed_head)
      doomed_tail = NULL;
    if (!transfer->is_ended)
      end_transfer(transfer, weft_http_error_of_doom(transfer));
    weft_http_transfer_release(transfer);
  }
}

/* ---- the total timeout: an own timer, so that it counts in the queue and costs libcurl nothing
 * ---- */

static weft_http_transfer *of_timer(weft_timer *timer) {
  return (weft_http_transfer *)((char *)timer - offsetof(weft_http_transfer, timer));
}

static int claim_timeout(weft_timer *timer) {
  return weft_handle_try_retain(&of_timer(timer)->handle);
}

static void fire_timeout(weft_timer *timer) {
  weft_http_doom(of_timer(timer), WEFT_HTTP_TIMED_OUT);
  weft_http_transfer_release(of_timer(timer));
}

static void start_timeout(weft_http_transfer *transfer) {
  uint64_t at_ns = transfer->started_ns + (uint64_t)transfer->timeout_ms * 1000000u;
  weft_timer_init(&transfer->timer, claim_timeout, fire_timeout);
  weft_timer_start(&transfer->timer, at_ns); /* cannot fail: the I/O thread runs */
}

/* ---- the turn ---- */

void weft_http_turn_take(weft_http_transfer *started, weft_http_transfer *aborted) {
  while (started) {
    weft_http_transfer *transfer = started;
    started = transfer->next;
    enqueue(transfer);
    if (transfer->timeout_ms)
      start_timeout(transfer);
  }
  while (aborted) {
    weft_http_transfer *transfer = aborted;
    aborted = transfer->next_aborted;
    weft_http_doom(transfer, WEFT_HTTP_ABORTED);
    weft_http_transfer_release(transfer);
  }
  hook_turn();
}

static int can_launch(void) {
  return queue.head && atomic_load(&weft_http_counts.in_flight) < weft_http_limit();
}

static void launch_queued(void) {
  for (int left = WEFT_HTTP_SLICE; left > 0 && can_launch(); left--) {
    weft_http_transfer *transfer = queue.head;
    dequeue(transfer);
    transfer->times.launched_ns = weft_clock_now_ns() - transfer->started_ns;
    if (!weft_http_launch(transfer))
      end_transfer(transfer, weft_http_error_nomem(transfer));
  }
}

void weft_http_mark(weft_http_shard *shard) {
  if (shard->is_dirty)
    return;
  shard->is_dirty = 1;
  shard->next_dirty = dirty;
  dirty = shard;
  hook_turn();
}

void weft_http_unmark(weft_http_shard *shard) {
  weft_http_shard **link = &dirty;
  while (*link && *link != shard)
    link = &(*link)->next_dirty;
  if (*link)
    *link = shard->next_dirty;
  shard->is_dirty = 0;
}

/* Those that get dirty meanwhile have their turn later. */
static void drive_dirty(void) {
  weft_http_shard *shard = dirty;
  dirty = NULL;
  while (shard) {
    weft_http_shard *next = shard->next_dirty;
    shard->is_dirty = 0;
    weft_http_shard_drive(shard);
    shard = next;
  }
}

static void publish_ended(void) {
  weft_http_transfer *list = ended.head;
  ended = (transfer_list){NULL, NULL};
  if (list)
    weft_http_publish(list);
}

static void end_turn(weft_io_job *job) {
  (void)job;
  is_hooked = 0;
  end_doomed();
  drive_dirty();
  launch_queued();
  drive_dirty();
  publish_ended();
  if (is_hooked || doomed_head || can_launch())
    weft_http_request_turn();
}

static weft_io_job hook = {.run = end_turn};

void weft_http_turn_forget(void) {
  queue = ended = (transfer_list){NULL, NULL};
  doomed_head = doomed_tail = NULL;
  dirty = NULL;
  is_hooked = 0;
}
