/* http_turn.c: what the HTTP engine does in a turn of the loop: queue, launch, end.
 *
 * Owns the lists of the ended and the doomed, and that of dirty shards. The I/O thread alone
 * enters. Invariants: a transfer is in a lane, in flight or ended; each ends exactly once; whatever
 * is left to do at the end of a turn has asked for another one, so that the loop never sleeps over
 * it and never does more than a slice at a time.
 */
#include "http_engine.h"

#include "clock.h"
#include "mem.h"

/* A list in the order of arrival, linked by `next`. */
typedef struct transfer_list {
  weft_http_transfer *head, *tail;
} transfer_list;

static transfer_list ended; /* to be published when the turn ends */
static weft_http_transfer *doomed_head, *doomed_tail;
static weft_http_shard *dirty;
static int is_hooked;
static weft_io_job hook;

static void hook_turn(void) {
  if (is_hooked)
    return;
  is_hooked = 1;
  weft_io_after_turn(&hook);
}

/* ---- the end of a transfer ---- */

static void read_times(weft_http_transfer *transfer) {
  CURL *easy = transfer->slot->easy;
  weft_http_times *times = &transfer->times;
  curl_off_t sent = 0, received = 0;
  long connects = 0, size = 0;
  curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &sent);
  curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &received);
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
  curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &size);
  times->sent = (uint64_t)sent;
  times->received = (uint64_t)received;
  times->redirects = transfer->redirects;
  times->is_reused = connects == 0 && times->connected_ns != 0;
  transfer->failure.is_sent =
      transfer->redirects || (transfer->step >= WEFT_HTTP_ASKED && size > transfer->slot->preface);
}

/* Out of libcurl and out of its lane; `code` is how it ended there. */
static void leave(weft_http_transfer *transfer, CURLcode code) {
  const char *reason = transfer->slot ? transfer->slot->reason : "";
  if (transfer->lane)
    weft_http_lane_leave(transfer, code, reason);
  if (transfer->slot) {
    read_times(transfer);
    weft_http_unlaunch(transfer);
  }
}

/* Takes the error over (NULL: success). The engine's reference goes to the list. */
static void end_transfer(weft_http_transfer *transfer, CURLcode code, weft_error *error) {
  transfer->is_ended = 1;
  transfer->error = error;
  weft_http_timer_stop(transfer);
  leave(transfer, code);
  if (error)
    weft_http_drop_response(transfer);
  weft_http_drop_request(transfer);
  transfer->times.total_ns = weft_clock_outside_ns() - transfer->started_ns;
  transfer->next = NULL;
  if (ended.tail)
    ended.tail->next = transfer;
  else
    ended.head = transfer;
  ended.tail = transfer;
}

/* Goes on with the redirect's target, as one that has waited for its turn already. */
static void follow(weft_http_transfer *transfer) {
  leave(transfer, CURLE_OK);
  weft_http_redirect_turn(transfer);
  if (weft_http_lane_push(transfer, 1))
    hook_turn();
  else
    end_transfer(transfer, CURLE_OUT_OF_MEMORY, weft_http_error_nomem(transfer));
}

/* libcurl takes a connection that was closed within the headers for a good end. */
static CURLcode check_head(weft_http_transfer *transfer) {
  if (transfer->has_final_head)
    return CURLE_OK;
  snprintf(transfer->slot->reason, sizeof transfer->slot->reason,
           "the server closed the connection before the end of its headers");
  return CURLE_GOT_NOTHING;
}

void weft_http_completed(weft_http_transfer *transfer, CURLcode code) {
  if (code == CURLE_OK)
    code = check_head(transfer);
  if (code == CURLE_OK && transfer->next_url) {
    follow(transfer);
    return;
  }
  end_transfer(transfer, code, code == CURLE_OK ? NULL : weft_http_error_of(transfer, code));
}

/* ---- doom: aborts and timeouts ---- */

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

static CURLcode code_of_doom(const weft_http_transfer *transfer) {
  return transfer->doom == WEFT_HTTP_TIMED_OUT ? CURLE_OPERATION_TIMEDOUT
                                               : CURLE_ABORTED_BY_CALLBACK;
}

static void end_doomed(void) {
  for (int left = WEFT_HTTP_ABORT_SLICE; doomed_head && left > 0; left--) {
    weft_http_transfer *transfer = doomed_head;
    doomed_head = transfer->next_doomed;
    if (!doomed_head)
      doomed_tail = NULL;
    if (!transfer->is_ended)
      end_transfer(transfer, code_of_doom(transfer), weft_http_error_of_doom(transfer));
    weft_http_transfer_release(transfer);
  }
}

/* ---- what libcurl tells on the way ---- */

/* A server that closes an HTTP/2 connection in good order says which requests it has not begun
 * with: to send those again is safe. libcurl does not tell them from those whose connection broke,
 * but for the latter it has an error, and that the request went over HTTP/2 stands in its log
 * alone. */
int weft_http_on_log(CURL *easy, curl_infotype kind, char *text, size_t size, void *slot) {
  static const char stream[] = "Using Stream ID";
  (void)easy;
  if (kind == CURLINFO_TEXT && size > sizeof stream && memcmp(text, stream, sizeof stream - 1) == 0)
    ((weft_http_slot *)slot)->is_http2 = 1;
  return 0;
}

static int is_refused(const weft_http_slot *slot) {
  return slot->is_http2 && !*slot->reason;
}

static void watch_refusals(weft_http_slot *slot) {
  uint8_t must_log = slot->wants_http2 && !slot->transfer->is_repeatable;
  slot->is_http2 = 0;
  if (slot->has_log != must_log)
    curl_easy_setopt(slot->easy, CURLOPT_VERBOSE, (long)must_log);
  slot->has_log = must_log;
}

/* The connection is there, and the request is about to be sent: again, when a kept connection was
 * closed without a byte of an answer. What may have been processed must not be sent twice. */
int weft_http_on_ready(void *arg, char *remote_ip, char *local_ip, int remote_port,
                       int local_port) {
  weft_http_slot *slot = arg;
  weft_http_transfer *transfer = slot->transfer;
  long sent = 0;
  (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
  curl_easy_getinfo(slot->easy, CURLINFO_REQUEST_SIZE, &sent);
  slot->is_spent = transfer->step != WEFT_HTTP_CONNECTING;
  if (!slot->is_spent)
    slot->preface = sent;
  if (sent > slot->preface && !transfer->is_repeatable && !is_refused(slot)) {
    transfer->refusal = WEFT_HTTP_NOT_REPEATED;
    return CURL_PREREQFUNC_ABORT;
  }
  watch_refusals(slot);
  weft_http_lane_knows(transfer);
  weft_http_enter(transfer, WEFT_HTTP_ASKED);
  transfer->times.connected_ns = transfer->step_ns - transfer->started_ns;
  return CURL_PREREQFUNC_OK;
}

int weft_http_on_lookup(void *resolver, void *reserved, void *slot) {
  (void)resolver, (void)reserved;
  weft_http_lane_asks(((weft_http_slot *)slot)->transfer);
  return 0;
}

/* ---- the turn ---- */

void weft_http_turn_take(weft_http_transfer *started, weft_http_transfer *aborted) {
  while (started) {
    weft_http_transfer *transfer = started;
    started = transfer->next;
    if (weft_http_lane_push(transfer, 0))
      weft_http_enter(transfer, WEFT_HTTP_QUEUED);
    else
      end_transfer(transfer, CURLE_OUT_OF_MEMORY, weft_http_error_nomem(transfer));
  }
  while (aborted) {
    weft_http_transfer *transfer = aborted;
    aborted = transfer->next_aborted;
    weft_http_doom(transfer, WEFT_HTTP_ABORTED);
    weft_http_transfer_release(transfer);
  }
  hook_turn();
}

static int can_launch(uint32_t limit) {
  return weft_http_lane_is_ready() && atomic_load(&weft_http_counts.in_flight) < limit;
}

static void launch(weft_http_transfer *transfer) {
  const char *reason;
  CURLcode code = weft_http_lane_failure(transfer, &reason);
  if (code != CURLE_OK) {
    end_transfer(transfer, code, weft_http_error_of_name(transfer, code, reason));
    return;
  }
  weft_http_enter(transfer, WEFT_HTTP_CONNECTING);
  if (!transfer->launched_ns) { /* a redirect is a part of the same attempt */
    transfer->launched_ns = transfer->step_ns;
    transfer->times.launched_ns = transfer->step_ns - transfer->started_ns;
  }
  code = weft_http_launch(transfer);
  if (code)
    end_transfer(transfer, code, weft_http_error_of_launch(transfer, code));
}

/* Returns whether there is more to launch in another turn. */
static int launch_queued(void) {
  uint32_t limit = weft_http_limit();
  for (int left = WEFT_HTTP_SLICE; left > 0 && can_launch(limit); left--) {
    weft_http_transfer *transfer = weft_http_lane_next();
    if (transfer)
      launch(transfer);
  }
  return can_launch(limit);
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
  int is_more_queued = launch_queued();
  drive_dirty();
  publish_ended();
  weft_http_stream_flush();
  if (is_hooked || doomed_head || is_more_queued)
    weft_http_request_turn();
}

static weft_io_job hook = {.run = end_turn};

void weft_http_turn_forget(void) {
  ended = (transfer_list){NULL, NULL};
  doomed_head = doomed_tail = NULL;
  dirty = NULL;
  is_hooked = 0;
}
