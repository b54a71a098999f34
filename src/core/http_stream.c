/* http_stream.c: answers that are read while they arrive.
 *
 * Owns the bytes that have arrived and were not read yet. The I/O thread appends; one reader at a
 * time takes, on any thread; a context's end aborts. Invariants: what has arrived is read before
 * the end or the error is seen; at most `ceiling` bytes wait, and as many are with the reader; a
 * transfer that is paused goes on when its reader has taken what was there.
 *
 * Lock order: a stream's lock is a leaf but for the wait's claim. Readers are woken at the end of
 * the turn, so that many arrivals cost one wake.
 */
#include "http_engine.h"

#include "block.h"
#include "context.h"
#include "mem.h"
#include "platform.h"

enum { KEPT_CAPACITY = 16384 }; /* of the reader's buffer, while it waits */

struct weft_http_stream {
  weft_http_transfer *transfer; /* the owner */
  size_t ceiling;
  pthread_mutex_t lock;
  /* guarded by lock */
  weft_buf arrived;
  weft_waitlist readers;
  uint8_t has_head, is_paused, is_resuming;
  /* the reader's */
  weft_buf taken;
  /* its job holds a reference to the transfer while it is posted */
  weft_io_job resume;
  /* the bond to a context, which holds one too */
  weft_context *context; /* retained; NULL: none. Of the thread that bound it */
  weft_wait bond;
  weft_waiter on_context;
};

static weft_wait *woken; /* the I/O thread's: claimed in this turn */

/* ---- life ---- */

static void resume(weft_io_job *job);

int weft_http_stream_new(weft_http_transfer *transfer, size_t buffer) {
  weft_http_stream *stream = weft_calloc(1, sizeof *stream);
  if (!stream)
    return 0;
  stream->transfer = transfer;
  stream->ceiling = buffer ? buffer : WEFT_HTTP_BUFFER;
  pthread_mutex_init(&stream->lock, NULL);
  weft_buf_init(&stream->arrived, stream->ceiling + CURL_MAX_WRITE_SIZE);
  weft_buf_init(&stream->taken, stream->arrived.limit);
  stream->resume.run = resume;
  transfer->stream = stream;
  return 1;
}

void weft_http_stream_free(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  if (!stream)
    return;
  weft_buf_free(&stream->arrived);
  weft_buf_free(&stream->taken);
  pthread_mutex_destroy(&stream->lock);
  weft_free(stream);
  transfer->stream = NULL;
}

/* ---- arriving: the I/O thread ---- */

void weft_http_stream_head(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  pthread_mutex_lock(&stream->lock);
  stream->has_head = 1;
  weft_waitlist_claim_all(&stream->readers, &woken);
  pthread_mutex_unlock(&stream->lock);
}

/* Called under lock. */
static int append(weft_http_stream *stream, const char *bytes, size_t size) {
  if (stream->arrived.size >= stream->ceiling)
    return WEFT_BUF_LIMIT;
  int rc = weft_buf_append(&stream->arrived, bytes, size);
  if (rc == WEFT_BUF_OK)
    weft_waitlist_claim_all(&stream->readers, &woken);
  return rc;
}

size_t weft_http_stream_take(weft_http_transfer *transfer, const char *bytes, size_t size) {
  weft_http_stream *stream = transfer->stream;
  pthread_mutex_lock(&stream->lock);
  int rc = append(stream, bytes, size);
  if (rc == WEFT_BUF_LIMIT)
    stream->is_paused = 1;
  pthread_mutex_unlock(&stream->lock);
  if (rc == WEFT_BUF_LIMIT)
    return CURL_WRITEFUNC_PAUSE;
  return rc == WEFT_BUF_OK ? size : 0;
}

void weft_http_stream_end(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  pthread_mutex_lock(&stream->lock);
  weft_waitlist_claim_all(&stream->readers, &woken);
  pthread_mutex_unlock(&stream->lock);
}

void weft_http_stream_flush(void) {
  weft_wait *list = woken;
  woken = NULL;
  weft_wake(list);
}

void weft_http_stream_forget(void) {
  woken = NULL;
}

/* libcurl may have ended it, or given what it kept, before this returns. */
static void resume(weft_io_job *job) {
  weft_http_stream *stream = (weft_http_stream *)((char *)job - offsetof(weft_http_stream, resume));
  weft_http_transfer *transfer = stream->transfer;
  pthread_mutex_lock(&stream->lock);
  stream->is_paused = stream->is_resuming = 0;
  pthread_mutex_unlock(&stream->lock);
  if (transfer->slot && !transfer->is_ended) {
    weft_http_mark(transfer->slot->shard);
    weft_http_enter(transfer, WEFT_HTTP_ANSWERED);
    if (curl_easy_pause(transfer->slot->easy, CURLPAUSE_CONT) != CURLE_OK)
      weft_http_doom(transfer, WEFT_HTTP_REFUSED);
  }
  weft_http_transfer_release(transfer);
}

/* ---- reading ---- */

static int is_forked(const weft_http_transfer *transfer) {
  return transfer->process != weft_process_generation();
}

int weft_http_wait_head(weft_http_transfer *transfer, weft_waiter *waiter) {
  weft_http_stream *stream = transfer->stream;
  pthread_mutex_lock(&stream->lock);
  int must_wait = !stream->has_head && !weft_http_is_finished(transfer);
  if (must_wait)
    weft_waitlist_push(&stream->readers, waiter);
  pthread_mutex_unlock(&stream->lock);
  return must_wait;
}

int weft_http_has_head(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  if (!stream || is_forked(transfer))
    return 0;
  pthread_mutex_lock(&stream->lock);
  int has_head = stream->has_head;
  pthread_mutex_unlock(&stream->lock);
  return has_head;
}

static void swap(weft_http_stream *stream) {
  weft_buf taken = stream->taken;
  stream->taken = stream->arrived;
  stream->arrived = taken;
}

/* Called under lock. */
static int take_or_wait(weft_http_stream *stream, weft_waiter *waiter) {
  if (stream->arrived.size) {
    swap(stream);
    return WEFT_OK;
  }
  if (weft_http_is_finished(stream->transfer))
    return WEFT_CLOSED;
  weft_waitlist_push(&stream->readers, waiter);
  return WEFT_WOULD_WAIT;
}

int weft_http_read(weft_http_transfer *transfer, weft_http_text *bytes, weft_waiter *waiter) {
  weft_http_stream *stream = transfer->stream;
  if (is_forked(transfer))
    return WEFT_FORKED;
  stream->taken.size = 0;
  pthread_mutex_lock(&stream->lock);
  int rc = take_or_wait(stream, waiter);
  int must_resume = rc == WEFT_OK && stream->is_paused && !stream->is_resuming;
  if (must_resume)
    stream->is_resuming = 1;
  pthread_mutex_unlock(&stream->lock);
  if (must_resume) {
    weft_http_transfer_retain(transfer);
    weft_io_post(&stream->resume);
  }
  if (rc == WEFT_OK)
    *bytes = (weft_http_text){(const char *)stream->taken.data, stream->taken.size};
  else if (stream->taken.capacity > KEPT_CAPACITY)
    weft_buf_free(&stream->taken);
  return rc;
}

int weft_http_unread(weft_http_transfer *transfer, weft_waiter *waiter) {
  weft_http_stream *stream = transfer->stream;
  if (!stream)
    return 0;
  if (is_forked(transfer))
    return 1;
  pthread_mutex_lock(&stream->lock);
  weft_waitlist_remove(&stream->readers, waiter);
  pthread_mutex_unlock(&stream->lock);
  return 1;
}

int weft_http_is_paused(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  pthread_mutex_lock(&stream->lock);
  int is_paused = stream->is_paused;
  pthread_mutex_unlock(&stream->lock);
  return is_paused;
}

/* ---- for C users ---- */

/* NULL once the headers are there. */
static weft_error *wait_for_head(weft_context *context, weft_http_transfer *transfer) {
  weft_blocked blocked;
  weft_blocked_init(&blocked);
  if (!weft_http_wait_head(transfer, &blocked.on_source)) {
    weft_blocked_drop(&blocked);
  } else if (!weft_blocked_wait(&blocked, context)) {
    weft_http_unread(transfer, &blocked.on_source);
    weft_http_abort(transfer);
    return weft_context_error(context);
  }
  return weft_http_has_head(transfer) ? NULL : weft_error_retain(weft_http_error(transfer));
}

weft_error *weft_http_open(weft_context *context, const weft_http_request *request,
                           weft_http_transfer **transfer) {
  weft_http_request stream = *request;
  weft_error *error = weft_context_error(context);
  stream.is_stream = 1;
  *transfer = error ? NULL : weft_http_transfer_new(&stream, &error);
  if (!*transfer)
    return error;
  int rc = weft_http_start(*transfer);
  error = rc == WEFT_OK ? wait_for_head(context, *transfer)
                        : weft_error_newf("nothread", "HTTP transfer: %s", weft_strerror(rc));
  if (error) {
    weft_http_transfer_release(*transfer);
    *transfer = NULL;
  }
  return error;
}

int weft_http_read_or_block(weft_context *context, weft_http_transfer *transfer,
                            weft_http_text *bytes) {
  for (;;) {
    weft_blocked blocked;
    weft_blocked_init(&blocked);
    int rc = weft_http_read(transfer, bytes, &blocked.on_source);
    if (rc != WEFT_WOULD_WAIT) {
      weft_blocked_drop(&blocked);
      return rc;
    }
    if (!weft_blocked_wait(&blocked, context)) {
      weft_http_unread(transfer, &blocked.on_source);
      return WEFT_CANCELED;
    }
  }
}

/* ---- the reader's memory ---- */

void weft_http_discard(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  if (is_forked(transfer))
    return;
  pthread_mutex_lock(&stream->lock);
  weft_buf_free(&stream->arrived);
  pthread_mutex_unlock(&stream->lock);
  weft_buf_free(&stream->taken);
}

/* ---- the bond to a context ---- */

static void break_bond(weft_wait *bond) {
  weft_http_stream *stream = (weft_http_stream *)((char *)bond - offsetof(weft_http_stream, bond));
  weft_http_transfer *transfer = stream->transfer;
  weft_http_abort(transfer);
  weft_http_transfer_release(transfer);
}

void weft_http_bind(weft_http_transfer *transfer, weft_context *context) {
  weft_http_stream *stream = transfer->stream;
  weft_wait_init(&stream->bond, break_bond);
  weft_waiter_init(&stream->on_context, &stream->bond, 0);
  weft_http_transfer_retain(transfer);
  if (weft_context_wait(context, &stream->on_context))
    stream->context = weft_context_retain(context);
  else
    break_bond(&stream->bond);
}

void weft_http_unbind(weft_http_transfer *transfer) {
  weft_http_stream *stream = transfer->stream;
  weft_context *context = stream->context;
  if (!context)
    return;
  stream->context = NULL;
  weft_context_unwait(context, &stream->on_context);
  if (weft_wait_winner(&stream->bond) < 0) /* else break_bond has the reference */
    weft_http_transfer_release(transfer);
  weft_context_release(context);
}
