/* model_server.h: a model server for tests and demos: HTTP/1.1 on a loopback port, answers in the
 * shape of OpenAI's chat completions, scripted faults, and a record of what it received.
 *
 * A server runs in a thread of its own, in which every signal is blocked; all its descriptors are
 * close-on-exec. Unless a function says otherwise, any thread may call it, and it blocks for no
 * longer than a short critical section. Times are seconds, sizes are bytes.
 */
#ifndef WEFT_TESTING_MODEL_SERVER_H
#define WEFT_TESTING_MODEL_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum {
  WEFT_MODEL_ERROR_SIZE = 256,
  WEFT_MODEL_FOREVER = -1, /* weft_model_fault.times: every matching request */
};

typedef enum weft_model_fault_kind {
  WEFT_MODEL_FAULT_NONE,     /* a good answer; useful with a delay */
  WEFT_MODEL_FAULT_STATUS,   /* an error status, with an error body */
  WEFT_MODEL_FAULT_RESET,    /* a TCP reset before the first byte of the answer */
  WEFT_MODEL_FAULT_TRUNCATE, /* the full Content-Length, a part of the body, then a close */
  WEFT_MODEL_FAULT_STALL,    /* half of the body, silence, then a close */
  WEFT_MODEL_FAULT_GARBAGE,  /* status 200 with a body that is not JSON */
} weft_model_fault_kind;

typedef struct weft_model_fault {
  weft_model_fault_kind kind;
  const char *model;   /* takes only requests for this model; NULL: any */
  int64_t times;       /* how many requests it takes: at least 1, or WEFT_MODEL_FOREVER */
  double delay;        /* before the first byte, on top of the latency; finite, >= 0 */
  int status;          /* STATUS: 400 to 599 */
  double retry_after;  /* STATUS: sent as Retry-After; negative: no such header */
  const char *message; /* STATUS: the error's text; NULL: the name of the status */
  size_t truncate;     /* TRUNCATE: bytes of the body that are sent */
  double stall;        /* STALL: length of the silence; INFINITY: until the client closes */
} weft_model_fault;

typedef struct weft_model_canned {
  const char *model;
  const char *text;
} weft_model_canned;

typedef struct weft_model_config {
  uint16_t port;                    /* 0: the system chooses a free one */
  const char *api_key;              /* NULL: none is needed */
  const char *reply;                /* the content of every answer; NULL: see model_reply.h */
  const weft_model_canned *replies; /* contents by model name; they win over `reply` */
  size_t reply_count;
  double latency, jitter; /* an answer takes latency + [0, 1) * jitter; finite, >= 0 */
  uint64_t seed;          /* of the jitter and of the random faults */
  const weft_model_fault *faults; /* scripted: the first that matches takes the request */
  size_t fault_count;
  double fault_rate;      /* 0 to 1: how often a request that no script took meets `fault` */
  weft_model_fault fault; /* its `times` is not used */
  size_t record;          /* how many of the last requests are kept */
} weft_model_config;

typedef struct weft_model_header {
  const char *name, *value; /* as they were sent */
} weft_model_header;

/* A request as it was received. Immutable and counted: it lives while a list holds it. */
typedef struct weft_model_request {
  const char *method, *path; /* the path as it was sent, with its query */
  const char *model;         /* as the body names it; NULL when it does not */
  const weft_model_header *headers;
  size_t header_count;
  const char *body;
  size_t body_size;
} weft_model_request;

typedef struct weft_model_stats {
  uint64_t connections;   /* accepted so far */
  uint64_t open;          /* connections that are open now */
  uint64_t requests;      /* received completely, whatever was answered */
  uint64_t rejected;      /* malformed or too large: answered with an error, not recorded */
  uint64_t faults;        /* requests that met a fault, scripted or random */
  uint64_t abandoned;     /* requests whose client closed its side before the answer */
  uint64_t in_flight;     /* received; the last piece of the answer is not on its way yet */
  uint64_t max_in_flight; /* the highest `in_flight` so far */
} weft_model_stats;

typedef struct weft_model_server weft_model_server;

/* Defaults: a chosen port, no key, no latency, no faults, the last 1000 requests are kept. */
void weft_model_config_init(weft_model_config *config);

/* Starts a server, which listens when this returns. Copies all of `config`. Returns a server that
 * the caller gives back with weft_model_server_stop, or NULL with the reason in `error`. */
weft_model_server *weft_model_server_start(const weft_model_config *config,
                                           char error[WEFT_MODEL_ERROR_SIZE]);

/* Closes the port and all connections, waits for the thread to end (which never waits for a
 * client), and frees the server. No other call may use the server any more. NULL is allowed. */
void weft_model_server_stop(weft_model_server *server);

uint16_t weft_model_server_port(const weft_model_server *server);
weft_model_stats weft_model_server_stats(weft_model_server *server);

/* Appends to the script of faults; copies `fault`. Returns 0, or -1 when there is no memory. */
int weft_model_server_add_fault(weft_model_server *server, const weft_model_fault *fault);

/* What was received, oldest first. The caller owns the list, which outlives the server, and gives
 * it back with weft_model_requests_free. Returns NULL when there is no memory. */
const weft_model_request **weft_model_server_requests(weft_model_server *server, size_t *count);
void weft_model_requests_free(const weft_model_request **requests, size_t count);

/* Blocks until SIGINT, SIGTERM or SIGHUP arrives or `seconds` have passed (INFINITY: no limit).
 * Takes the signal off the process, so that its handler does not run, and returns its number; 0
 * when the time is up. A signal that the process ignores stays ignored. Expects that the other
 * threads of the process block these signals. */
int weft_model_server_join(double seconds);

#endif
