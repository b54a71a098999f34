/* http_engine.h: the inside of the HTTP engine, shared by the http_*.c files and nobody else.
 *
 * Way of a transfer: http_request.c makes it, for what http_target.c knows; http.c takes it from
 * any thread to the I/O thread; http_lane.c queues it; http_turn.c launches and ends it;
 * http_shard.c owns the libcurl handles that run it; http_socket.c ties these to the loop;
 * http_timeout.c watches its time; http_response.c gathers the answer, http_stream.c hands it on
 * while it arrives; http_error.c says why it failed. Functions marked [I/O] are called on the I/O
 * thread only.
 */
#ifndef WEFT_CORE_HTTP_ENGINE_H
#define WEFT_CORE_HTTP_ENGINE_H

#include "buf.h"
#include "handle.h"
#include "http.h"
#include "io.h"
#include "timer.h"

#include <curl/curl.h>

typedef struct weft_http_shard weft_http_shard;
typedef struct weft_http_slot weft_http_slot;
typedef struct weft_http_lane weft_http_lane;
typedef struct weft_http_stream weft_http_stream;

enum {
  WEFT_HTTP_SHARD_SIZE = 64,  /* transfers in flight; libcurl walks lists of this length */
  WEFT_HTTP_SLICE = 64,       /* launches a turn, so that the loop never pauses long */
  WEFT_HTTP_ABORT_SLICE = 32, /* aborts a turn, each of which closes a connection */
};

/* A URL, and what follows from it. Constant. */
typedef struct weft_http_target {
  _Atomic uint32_t references;
  uint8_t is_tls;
  uint8_t needs_name; /* its host is no address */
  CURLU *url;
  const char *origin; /* "https://host:port" as in the URL, in lower case; behind the text */
  size_t size;
  char text[]; /* the URL, terminated */
} weft_http_target;

/* A transfer's state only rises. */
enum { WEFT_HTTP_NEW, WEFT_HTTP_STARTED, WEFT_HTTP_FINISHED };
enum { WEFT_HTTP_GET, WEFT_HTTP_HEAD, WEFT_HTTP_POST, WEFT_HTTP_CUSTOM }; /* methods to libcurl */
/* Why the engine ends a transfer that libcurl would go on with. */
enum {
  WEFT_HTTP_GO_ON,
  WEFT_HTTP_ABORTED,
  WEFT_HTTP_TIMED_OUT,
  WEFT_HTTP_NO_WATCH,
  WEFT_HTTP_REFUSED
};
/* How far a transfer is. */
enum {
  WEFT_HTTP_QUEUED,
  WEFT_HTTP_CONNECTING,
  WEFT_HTTP_ASKED,
  WEFT_HTTP_ANSWERED,
  WEFT_HTTP_PAUSED
};
/* Why a callback refused to go on. */
enum {
  WEFT_HTTP_FITS,
  WEFT_HTTP_NOT_REPEATED,
  WEFT_HTTP_HEAD_OVERFLOW,
  WEFT_HTTP_LINE_OVERFLOW,
  WEFT_HTTP_BODY_OVERFLOW,
  WEFT_HTTP_NO_MEMORY,
  WEFT_HTTP_ODD_LENGTH,
  WEFT_HTTP_FAR_REDIRECT,
  WEFT_HTTP_ODD_REDIRECT,
  WEFT_HTTP_MANY_REDIRECTS,
};

struct weft_http_transfer {
  weft_handle handle; /* first; the engine holds a reference from start to finish */
  /* the request, constant but for redirects: texts and list lie behind the struct, `url` and `body`
   * go at the end */
  weft_http_target *target; /* a reference; its origin names the lane */
  CURLU *url;               /* the target's, or owned: where a redirect leads */
  weft_http_quota *quota;   /* a reference, or NULL */
  uint8_t *body;            /* owned; NULL: none or empty */
  size_t body_size;
  const char *method;
  char *proxy; /* owned; NULL: the environment's, "": none */
  const char *ca_file, *cert_file, *key_file, *key_password; /* NULL: the system's, none */
  struct curl_slist *headers;
  size_t max_body, max_header;
  uint32_t limits_ms[WEFT_HTTP_LIMITS]; /* 0: none */
  uint8_t method_kind, has_body, decompress;
  uint8_t needs_name;    /* a name must be looked up before anything can be connected */
  uint8_t is_repeatable; /* to send it twice does no harm */
  uint8_t no_http2, max_redirects;
  _Atomic uint8_t state; /* written under the engine's lock */
  /* guarded by the engine's lock */
  uint8_t is_aborting;
  uint32_t process; /* the fork generation that it was started in */
  weft_waitlist waiters;
  weft_http_transfer *next; /* of the list it is in; the I/O thread's once that took it */
  weft_http_transfer *next_aborted;
  uint64_t started_ns;  /* constant once started */
  uint8_t holds_census; /* the I/O thread's, from start to publish */
  /* the I/O thread's until finished, then constant */
  weft_http_transfer *previous; /* in the lane's queue */
  weft_http_transfer *next_doomed;
  weft_http_lane *lane; /* from queue to end */
  uint64_t sequence;    /* of its queueing */
  weft_http_slot *slot; /* NULL: not in flight */
  weft_timer timer;     /* of the next limit */
  uint64_t launched_ns; /* left the queue */
  uint64_t step_ns;     /* when the step began; while the answer arrives, when bytes last did */
  uint64_t sent_seen;   /* of the body, when the limit of the first byte was last looked at */
  uint8_t is_queued, is_ended, doom, refusal, step;
  uint8_t expired;        /* the limit that was reached */
  uint8_t has_final_head; /* the blank line after the final answer's headers has been seen */
  uint8_t is_multiplexed; /* the answer came over HTTP/2 or later */
  size_t header_bytes;    /* of interim answers too */
  uint8_t redirects;      /* that were followed */
  CURLU *next_url;        /* owned: the answer is a redirect that will be followed */
  int status;
  weft_buf head;            /* the header lines, each ended by LF */
  weft_buf content;         /* the answer's body; empty for a stream */
  weft_http_stream *stream; /* NULL: the body is gathered; constant */
  weft_error *error;
  weft_http_failure failure;
  weft_http_times times;
};

/* An easy handle that goes from transfer to transfer; the I/O thread's. */
struct weft_http_slot {
  CURL *easy;
  weft_http_shard *shard;
  weft_http_slot *next_idle;
  weft_http_transfer *transfer;                         /* NULL while idle */
  const char *proxy;                                    /* as set in the handle */
  uint8_t wants_http2, has_method, has_coding, has_log; /* as set in the handle */
  uint8_t has_own; /* a proxy, a bundle or a certificate of one transfer */
  uint8_t has_certificate;
  uint8_t is_http2; /* the request went over HTTP/2; known only with a log */
  uint8_t is_spent; /* libcurl has repeated a request: it never forgets how often it has, and at the
                       sixth time it gives up */
  long preface;     /* bytes that went to a proxy before the request: CONNECT and its headers */
  int system_error; /* errno of a socket that could not be made or watched; 0: none */
  char reason[CURL_ERROR_SIZE];
};

/* A multi handle with its connections; the I/O thread's. */
struct weft_http_shard {
  CURLM *multi;
  weft_http_slot *idle; /* the last one used first */
  uint32_t index, in_flight;
  uint8_t version;  /* 1: HTTP/2 where it is offered; constant */
  uint64_t due_ns;  /* when libcurl wants to be called: 0 now, WEFT_NEVER_NS not at all */
  weft_timer timer; /* may be set for earlier than due_ns, never for later */
  weft_http_shard *next_dirty;
  uint8_t is_dirty;
};

/* What holds for the whole process, read once. */
typedef struct weft_http_settings {
  const char *http_proxy, *https_proxy; /* "": none */
  const char *no_proxy;
  const char *ca_bundle; /* "": none was found, libcurl's own defaults hold */
  char codings[64];      /* the header that offers what libcurl can decompress; "": nothing */
} weft_http_settings;

typedef struct weft_http_counters {
  _Atomic uint32_t in_flight, queued, sockets, shards, handles;
  _Atomic uint64_t started, failed; /* since the process began */
} weft_http_counters;
extern weft_http_counters weft_http_counts;

/* ---- http_settings.c ---- */

/* Initialises libcurl on the first call. NULL: no memory. Any thread. */
const weft_http_settings *weft_http_settings_get(void);

/* ---- http_proxy.c ---- */

/* Checks and copies a proxy's URL, or "": WEFT_OK; WEFT_CLOSED: it is none; WEFT_NOMEM. */
int weft_http_proxy_copy(weft_http_text text, char **proxy);
/* "": none. */
const char *weft_http_proxy_of(const weft_http_transfer *transfer);
/* Blackens the proxy's credentials in a message. */
void weft_http_proxy_redact(const weft_http_transfer *transfer, char *text);

/* ---- http_target.c ---- */

/* A reference. NULL: `*error`, the caller's, says why: "invalid" or "nomem". Any thread. */
weft_http_target *weft_http_target_of(weft_http_text url, weft_error **error);
void weft_http_target_release(weft_http_target *target); /* NULL is allowed */
/* Forgets the URLs that were asked for last. */
void weft_http_targets_drop(void);

/* ---- http_request.c ---- */

/* "POST https://host:443/path" without userinfo and query, cut to `size`, always terminated. */
void weft_http_describe(weft_http_transfer *transfer, char *text, size_t size);
/* Frees the URL that is the transfer's own, if it has one. */
void weft_http_drop_url(weft_http_transfer *transfer);
/* Frees what only sending needs. */
void weft_http_drop_request(weft_http_transfer *transfer);

/* ---- http_error.c ---- */

/* Why libcurl, or a callback, gave the transfer up; it has its slot still. Never NULL. */
weft_error *weft_http_error_of(weft_http_transfer *transfer, CURLcode code);
/* Why the engine did: transfer->doom says. */
weft_error *weft_http_error_of_doom(weft_http_transfer *transfer);
weft_error *weft_http_error_nomem(weft_http_transfer *transfer);
/* It could not be put in flight. */
weft_error *weft_http_error_of_launch(weft_http_transfer *transfer, CURLcode code);
/* Another transfer to the same host could not find its address. */
weft_error *weft_http_error_of_name(weft_http_transfer *transfer, CURLcode code,
                                    const char *reason);

/* ---- http_response.c [I/O] ---- */

/* libcurl's callbacks; `slot` is a weft_http_slot. Taking less than `size` ends the transfer, and
 * its refusal says why. */
size_t weft_http_on_head(char *line, size_t one, size_t size, void *slot);
size_t weft_http_on_body(char *bytes, size_t one, size_t size, void *slot);
/* Frees the content that has come so far. Any thread. */
void weft_http_drop_response(weft_http_transfer *transfer);

/* ---- http_spare.c ---- */

enum { WEFT_HTTP_HEAD_SPARE, WEFT_HTTP_BODY_SPARE };
/* [I/O] Gives an empty buffer its usual room, where its ceiling and memory allow. */
void weft_http_spare_take(weft_buf *buf, int which);
/* Empties the buffer; its memory is kept for others or freed. Any thread. */
void weft_http_spare_give(weft_buf *buf, int which);
void weft_http_spares_free(void);   /* [I/O] */
void weft_http_spares_forget(void); /* in the child of a fork */

/* ---- http_stream.c ---- */

/* Makes the transfer's stream: 1, or 0 without memory. Any thread. */
int weft_http_stream_new(weft_http_transfer *transfer, size_t buffer);
void weft_http_stream_free(weft_http_transfer *transfer); /* nothing for what is no stream */
/* [I/O] The final headers are complete. */
void weft_http_stream_head(weft_http_transfer *transfer);
/* [I/O] What libcurl's write callback returns. */
size_t weft_http_stream_take(weft_http_transfer *transfer, const char *bytes, size_t size);
/* [I/O] The transfer is finished. */
void weft_http_stream_end(weft_http_transfer *transfer);
/* [I/O] Wakes the readers of what has come in this turn. */
void weft_http_stream_flush(void);
void weft_http_stream_forget(void); /* in the child of a fork */

/* ---- http_redirect.c [I/O] ---- */

/* The final headers are there: 0 when they are of a redirect that may not be followed
 * (transfer->refusal says why). When it will be, next_url is set, and the body is of no interest.
 */
int weft_http_redirect_plan(weft_http_transfer *transfer);
/* Makes the transfer the next request. */
void weft_http_redirect_turn(weft_http_transfer *transfer);

/* ---- http_socket.c [I/O] ---- */

/* libcurl's callbacks: what it waits for, and until when; how its sockets are opened and closed. */
int weft_http_on_socket(CURL *easy, curl_socket_t fd, int what, void *shard, void *unused);
int weft_http_on_timer(CURLM *multi, long ms, void *shard);
curl_socket_t weft_http_open_socket(void *slot, curlsocktype purpose,
                                    struct curl_sockaddr *address);
int weft_http_close_socket(void *unused, curl_socket_t fd);
/* Frees the table, when no socket is left. */
void weft_http_sockets_free(void);
void weft_http_sockets_forget(void); /* in the child of a fork */

/* ---- http_lane.c [I/O] ---- */

/* Queues it behind the others of its host and quota, or before them: 1, or 0 without memory. */
int weft_http_lane_push(weft_http_transfer *transfer, int is_first);
/* 0: nothing could be launched. */
int weft_http_lane_is_ready(void);
/* Takes the next transfer out, hosts by turns; NULL when this lane has none just now. */
weft_http_transfer *weft_http_lane_next(void);
/* What one that was taken shares with others of its lane, that failed to find the host. */
CURLcode weft_http_lane_failure(weft_http_transfer *transfer, const char **reason);
void weft_http_lane_asks(weft_http_transfer *transfer);  /* libcurl looks the name up */
void weft_http_lane_knows(weft_http_transfer *transfer); /* it has an address */
/* Out of the queue, or out of flight. */
void weft_http_lane_leave(weft_http_transfer *transfer, CURLcode code, const char *reason);
void weft_http_lanes_forget(void); /* in the child of a fork */

/* ---- http_timeout.c [I/O] ---- */

/* A step begins. */
void weft_http_enter(weft_http_transfer *transfer, uint8_t step);
/* Whether the census counts on it to wake somebody. */
void weft_http_census(weft_http_transfer *transfer, int holds);
/* Bytes of the answer did. */
void weft_http_arrived(weft_http_transfer *transfer);
void weft_http_timer_stop(weft_http_transfer *transfer);

/* ---- http_shard.c [I/O] ---- */

/* Puts the transfer in flight, or says why not. */
CURLcode weft_http_launch(weft_http_transfer *transfer);
/* Takes it out of libcurl; its slot is idle again. */
void weft_http_unlaunch(weft_http_transfer *transfer);
/* Calls libcurl where it is due, ends what has finished, sets the shard's timer. */
void weft_http_shard_drive(weft_http_shard *shard);
void weft_http_shards_close_idle(void);
void weft_http_shards_forget(void); /* in the child of a fork */

/* ---- http_turn.c [I/O] ---- */

/* Takes over a list of started transfers, oldest first, and one of aborted ones with references. */
void weft_http_turn_take(weft_http_transfer *started, weft_http_transfer *aborted);
/* Drives the shard at the end of this turn. */
void weft_http_mark(weft_http_shard *shard);
void weft_http_unmark(weft_http_shard *shard); /* it is about to be freed */
/* Ends the transfer at the end of this or a later turn. Nothing when it has been doomed before. */
void weft_http_doom(weft_http_transfer *transfer, uint8_t why);
/* libcurl is through with it. */
void weft_http_completed(weft_http_transfer *transfer, CURLcode code);
int weft_http_on_ready(void *slot, char *remote_ip, char *local_ip, int remote_port,
                       int local_port);
int weft_http_on_log(CURL *easy, curl_infotype kind, char *text, size_t size, void *slot);
int weft_http_on_lookup(void *resolver, void *reserved, void *slot);
void weft_http_turn_forget(void); /* in the child of a fork */

/* ---- http.c ---- */

/* Makes the loop call weft_http_turn_take soon, even with empty lists. Any thread. */
void weft_http_request_turn(void);
/* [I/O] Ends a list of transfers linked by next: wakes who waits, gives the engine's references
 * back. */
void weft_http_publish(weft_http_transfer *ended);
uint32_t weft_http_limit(void);

#endif
