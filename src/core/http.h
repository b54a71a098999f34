/* http.h: HTTP transfers by the thousand: libcurl on the I/O thread behind a queue.
 *
 * A transfer is one request and its answer. It is a refcounted handle: made, started and waited for
 * by any thread, and run on the I/O thread. Nothing here blocks, except where it says so. TLS
 * certificates are always verified. Redirects are followed only when they are asked for, and never
 * to another scheme, host or port. Proxies come from the environment (http_proxy, https_proxy,
 * all_proxy, no_proxy), which is read once, unless the request names one.
 *
 * A request that finds its kept connection reset before a byte of the answer came is sent again on
 * a new one, if that does no harm: GET, HEAD, PUT, DELETE, OPTIONS, TRACE, or any with an
 * Idempotency-Key. Another one that the server may have seen fails instead.
 */
#ifndef WEFT_CORE_HTTP_H
#define WEFT_CORE_HTTP_H

#include "waiter.h"
#include "weft.h"

#include <string.h>

/* Bytes with their length, so that a NUL among them is seen (and refused where it must be). */
typedef struct weft_http_text {
  const char *bytes;
  size_t size;
} weft_http_text;

static inline weft_http_text weft_http_text_of(const char *string) {
  return (weft_http_text){string, strlen(string)};
}

typedef struct weft_http_header {
  weft_http_text name, value;
} weft_http_header;

/* The times that a transfer may take. All are exact, whatever the others are. */
enum {
  WEFT_HTTP_NO_LIMIT,
  WEFT_HTTP_CONNECT,    /* from the queue to a connection: name, TCP, proxy, TLS */
  WEFT_HTTP_FIRST_BYTE, /* from then to the first byte of the answer; anew while the body goes out
                         */
  WEFT_HTTP_IDLE,       /* from then on: between two arrivals of bytes */
  WEFT_HTTP_ATTEMPT,    /* from the queue to the last byte */
  WEFT_HTTP_TOTAL,      /* from the start, so with the time in the queue, to the last byte */
  WEFT_HTTP_LIMITS
};

enum {
  WEFT_HTTP_CONNECT_TIMEOUT_MS = 30000,
  WEFT_HTTP_MAX_BODY = 64 << 20,
  WEFT_HTTP_MAX_HEADER = 256 << 10,
  WEFT_HTTP_BUFFER = 64 << 10,
  WEFT_HTTP_LIMIT = 10000,
};

/* Limits that transfers share, beside the engine's own: how many are in flight at once, in total
 * and to one host. A refcounted handle. 0: no limit. NULL: no memory. */
typedef struct weft_http_quota weft_http_quota;
extern const struct weft_handle_type weft_http_quota_type;
weft_http_quota *weft_http_quota_new(uint32_t total, uint32_t per_host);
weft_http_quota *weft_http_quota_retain(weft_http_quota *quota); /* NULL is allowed */
void weft_http_quota_release(weft_http_quota *quota);

/* What to send. All zero but for the URL is a plain GET without decompression. */
typedef struct weft_http_request {
  weft_http_text method; /* empty: GET. The usual methods are taken in any case */
  weft_http_text url;    /* http:// or https://, already percent-encoded */
  const weft_http_header *headers;
  size_t header_count;
  weft_http_text body;         /* bytes NULL: none */
  weft_http_text ca_file;      /* PEM bundle to trust instead of the system's; empty: that */
  weft_http_text cert_file;    /* PEM file with the client's certificate; empty: none */
  weft_http_text key_file;     /* PEM file with its key; empty: it is in cert_file */
  weft_http_text key_password; /* empty: none */
  weft_http_text proxy;        /* a URL; empty: none; bytes NULL: the environment's */
  weft_http_quota *quota;      /* NULL: the engine's limit alone */
  /* 0: none, but for WEFT_HTTP_CONNECT: WEFT_HTTP_CONNECT_TIMEOUT_MS */
  uint32_t limits_ms[WEFT_HTTP_LIMITS];
  size_t max_body;    /* bytes after decompression; 0: WEFT_HTTP_MAX_BODY */
  size_t max_header;  /* bytes of the answer's headers; 0: WEFT_HTTP_MAX_HEADER */
  uint8_t decompress; /* offers every coding that libcurl knows, and decodes the answer */
  uint8_t is_stream;  /* the body is read while it arrives, and max_body does not hold */
  size_t buffer;      /* of a stream: bytes that wait for the reader; 0: WEFT_HTTP_BUFFER */
  uint8_t no_http2;   /* else it is used over TLS, where the server offers it */
  uint8_t redirects;  /* how many are followed, within the origin; beyond: an error. 0: none is, and
                         they are answers */
} weft_http_request;

typedef struct weft_http_transfer weft_http_transfer;

/* Checks the request and copies all of it. NULL: `*error` says why, and is the caller's: kind
 * "invalid" (its message never holds a header's value or a part of the URL) or "nomem". */
weft_http_transfer *weft_http_transfer_new(const weft_http_request *request, weft_error **error);
weft_http_transfer *weft_http_transfer_retain(weft_http_transfer *transfer);
/* The last release of a transfer that runs does not abort it. */
void weft_http_transfer_release(weft_http_transfer *transfer);

/* Hands it to the I/O thread; transfers beyond the limit wait in the order of starting. WEFT_OK,
 * WEFT_NOTHREAD, or WEFT_CLOSED when it was started before. */
int weft_http_start(weft_http_transfer *transfer);
/* Queues the waiter for the end: 1. When it has finished already: 0, nothing queued. */
int weft_http_wait(weft_http_transfer *transfer, weft_waiter *waiter);
/* Takes it out again; nothing when it was claimed. */
void weft_http_unwait(weft_http_transfer *transfer, weft_waiter *waiter);
/* Ends it soon with the error "canceled", unless it finishes first. The I/O thread aborts in
 * slices, so the end still comes through weft_http_wait. */
void weft_http_abort(weft_http_transfer *transfer);
int weft_http_is_finished(weft_http_transfer *transfer);

/* ---- the outcome: valid once finished, borrowed from the transfer ---- */

/* NULL: there is an answer, whatever its status. Else one line with the method and the URL (without
 * userinfo and query), and the kind: "timeout", "network" (name, connection, reset, cut short),
 * "tls", "too_large", "protocol", "redirect" (that may not be followed), "canceled" or "nomem". */
weft_error *weft_http_error(weft_http_transfer *transfer);
typedef struct weft_http_failure {
  int code;        /* libcurl's, also where it only comes nearest: 28 for every timeout; 0: none */
  uint8_t expired; /* the WEFT_HTTP_ limit that was reached; WEFT_HTTP_NO_LIMIT: none */
  uint8_t is_sent; /* the server may have seen the request */
  uint16_t proxy_status; /* with which a proxy refused to connect; 0: none did */
  uint32_t limit_ms;     /* of `expired` */
  uint64_t received;     /* bytes of the answer's body, as they came out of the decompression */
} weft_http_failure;
/* More about the error, when there is one. */
const weft_http_failure *weft_http_failure_of(weft_http_transfer *transfer);
/* "connect", "first_byte", …; "" for WEFT_HTTP_NO_LIMIT. */
const char *weft_http_limit_name(uint8_t limit);
/* 0: no final status line arrived. */
int weft_http_status(weft_http_transfer *transfer);
/* Walks the headers in the order of their arrival, from `*position` 0 on: 1 with the next header,
 * or 0. Interim answers, trailers and a proxy's own headers are not among them. */
int weft_http_next_header(weft_http_transfer *transfer, size_t *position, weft_http_header *header);
/* All of them as they came, a line each, ended by LF; and the same walk through such a text. */
weft_http_text weft_http_head(weft_http_transfer *transfer);
int weft_http_next_in(weft_http_text head, size_t *position, weft_http_header *header);
/* The first header of that name in any case: 1, or 0. */
int weft_http_find_header(weft_http_transfer *transfer, const char *name, weft_http_text *value);
/* Empty after an error: what arrived by halves is not passed for whole. */
weft_http_text weft_http_body(weft_http_transfer *transfer);

/* "https://host:port" of the request; constant. */
const char *weft_http_origin(weft_http_transfer *transfer);
/* How the end of the body shows: "length", "chunked", "h2" (or later), "close" (the server closes
 * the connection: a body that was cut short looks whole), or "none" (the answer has no body).
 * Constant. */
const char *weft_http_framing(weft_http_transfer *transfer);

/* ---- an answer that is read while it arrives: is_stream ---- */

/* Status, headers and framing are valid from the head on. What has arrived is read before the end,
 * or the error, is seen. When more than `buffer` bytes wait the transfer pauses until they are
 * read; as many are with the reader, and libcurl keeps up to 64 KiB more, or what 4 KiB decompress
 * to. A stream has a connection of its own, over HTTP/1.1: in libcurl one that pauses on a shared
 * HTTP/2 connection stops all others there. */

/* Queues the waiter for the final headers, or the end: 1. When either is there: 0, nothing queued.
 */
int weft_http_wait_head(weft_http_transfer *transfer, weft_waiter *waiter);
/* The headers are there, even if the transfer failed since. 0 for what is no stream. */
int weft_http_has_head(weft_http_transfer *transfer);
/* All that has arrived, borrowed until the next call: WEFT_OK. WEFT_CLOSED: nothing is left, and
 * weft_http_error tells whether the body is whole. WEFT_WOULD_WAIT: the waiter was queued for news;
 * WEFT_FORKED. One caller at a time. */
int weft_http_read(weft_http_transfer *transfer, weft_http_text *bytes, weft_waiter *waiter);
/* It waits for its reader. */
int weft_http_is_paused(weft_http_transfer *transfer);
/* Frees what has arrived and was not read, and what weft_http_read gave. */
void weft_http_discard(weft_http_transfer *transfer);
/* Takes the waiter of either out again; nothing when it was claimed. 0 for what is no stream. */
int weft_http_unread(weft_http_transfer *transfer, weft_waiter *waiter);
/* For C users, blocking the calling native thread. The first makes and starts a stream, and waits
 * for its headers: NULL, or an error, the caller's, with `*transfer` NULL. The caller aborts and
 * releases it. The second is weft_http_read, but WEFT_CANCELED, when the context is done first,
 * instead of WEFT_WOULD_WAIT. */
weft_error *weft_http_open(weft_context *context, const weft_http_request *request,
                           weft_http_transfer **transfer);
int weft_http_read_or_block(weft_context *context, weft_http_transfer *transfer,
                            weft_http_text *bytes);
/* Aborts the transfer when the context is done; once, after its start. Undone by weft_http_unbind,
 * on the same thread, without which the transfer is never freed. */
void weft_http_bind(weft_http_transfer *transfer, weft_context *context);
void weft_http_unbind(weft_http_transfer *transfer);

/* Since the start, in nanoseconds; 0: it did not get so far. */
typedef struct weft_http_times {
  uint64_t launched_ns;   /* left the queue */
  uint64_t connected_ns;  /* TLS included; as launched_ns when the connection was open */
  uint64_t first_byte_ns; /* of the answer */
  uint64_t total_ns;
  uint64_t sent, received; /* bytes of the bodies as they crossed the network */
  uint8_t is_reused;       /* no connection had to be opened */
  uint8_t redirects;       /* that were followed */
} weft_http_times;
const weft_http_times *weft_http_times_of(weft_http_transfer *transfer);

/* ---- for C users: one call ---- */

/* Blocks the calling native thread until the answer is there or the context is done. NULL with
 * `*transfer` finished and the caller's; or an error, the caller's, with `*transfer` NULL. */
weft_error *weft_http_perform(weft_context *context, const weft_http_request *request,
                              weft_http_transfer **transfer);

/* ---- the engine of this process ---- */

/* How many transfers may be in flight; 0 means 1. Those that run are not touched. There are never
 * more than three quarters of the descriptors that the process may open (RLIMIT_NOFILE). */
void weft_http_set_limit(uint32_t limit);
/* Closes all idle connections and frees what no transfer uses. Blocks until the I/O thread has done
 * so; not for the I/O thread itself. */
void weft_http_close_idle(void);

typedef struct weft_http_stats {
  uint32_t in_flight, queued;
  uint32_t sockets;         /* that are open, the idle ones too */
  uint32_t shards;          /* multi handles */
  uint32_t handles;         /* easy handles */
  uint64_t started, failed; /* transfers since the process began; failed: without an answer */
} weft_http_stats;
/* Each count is right; together they are of no one moment. Any thread. */
void weft_http_stats_read(weft_http_stats *stats);

#endif
