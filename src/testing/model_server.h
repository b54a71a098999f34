/* model_server.h: a model server for tests and demos: HTTP/1.1 on a loopback port, answers in the
 * shapes of OpenAI, Anthropic and Ollama, faults, and a record of what it received.
 *
 * A server runs in a thread of its own, in which every signal is blocked; all its descriptors are
 * close-on-exec. Unless a function says otherwise, any thread may call it, and it blocks for no
 * longer than a short critical section. Times are seconds, sizes are bytes.
 */
#ifndef WEFT_TESTING_MODEL_SERVER_H
#define WEFT_TESTING_MODEL_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model_style.h"

enum {
  WEFT_MODEL_ERROR_SIZE = 256,
  WEFT_MODEL_FOREVER = -1, /* weft_model_fault.times: every matching request */
};

/* What a server says ------------------------------------------------------------------------- */

typedef struct weft_model_header {
  const char *name, *value; /* as they were sent, or are to be sent */
} weft_model_header;

/* A call of a tool by the model. */
typedef struct weft_model_call {
  const char *id; /* NULL: made up */
  const char *name;
  const char *arguments; /* JSON, unless the model is to be wrong */
} weft_model_call;

/* One answer of a model. */
typedef struct weft_model_canned {
  const char *text; /* NULL: none */
  bool is_template; /* {{…}} in the text stands for parts of the request: model_template.h */
  uint64_t tokens;  /* above 0: so many words are made up instead */
  const weft_model_call *calls;
  size_t call_count;
  const char *refusal; /* OpenAI's; NULL: none */
  const char *finish;  /* why it ends, in OpenAI's words; NULL: "stop" or "tool_calls" */
  int64_t input_tokens, output_tokens; /* -1: counted */
} weft_model_canned;

/* Which requests get which answers. */
typedef struct weft_model_rule {
  const char *model;   /* NULL: any */
  const char *pattern; /* that the last message matches: weft_model_config.matches; NULL: any */
  const weft_model_canned *replies; /* one after the other; the last one stays */
  size_t reply_count;               /* at least 1 */
  int64_t times;                    /* how many requests it takes, or WEFT_MODEL_FOREVER */
} weft_model_rule;

/* Faults -------------------------------------------------------------------------------------- */

typedef enum weft_model_fault_kind {
  WEFT_MODEL_FAULT_NONE,     /* a good answer; useful with a delay or a style */
  WEFT_MODEL_FAULT_STATUS,   /* an error status, with an error body */
  WEFT_MODEL_FAULT_RESET,    /* a TCP reset */
  WEFT_MODEL_FAULT_TRUNCATE, /* a close */
  WEFT_MODEL_FAULT_STALL,    /* silence, then a close */
  WEFT_MODEL_FAULT_PAUSE,    /* silence, then the rest */
  WEFT_MODEL_FAULT_GARBAGE,  /* status 200 with a body that is not JSON */
  WEFT_MODEL_FAULT_REDIRECT, /* a status of the 300s with a Location */
  WEFT_MODEL_FAULT_BOMB,     /* a small body that becomes a huge one */
} weft_model_fault_kind;

/* Where in an answer RESET, TRUNCATE, STALL and PAUSE happen. */
typedef enum weft_model_point {
  WEFT_MODEL_BEFORE,     /* no byte is sent */
  WEFT_MODEL_IN_HEAD,    /* half of the head is */
  WEFT_MODEL_AFTER_HEAD, /* all of the head is */
  WEFT_MODEL_IN_BODY,  /* half of the body; of a stream: after `after` deltas, between two events */
  WEFT_MODEL_IN_EVENT, /* the same, in the middle of the next event */
  WEFT_MODEL_AT_BYTE,  /* `byte` bytes of the body */
  WEFT_MODEL_AT_END,   /* all of the body, but not the end of its framing */
} weft_model_point;

/* How the error of a STATUS is sent. */
typedef enum weft_model_inside {
  WEFT_MODEL_OUTSIDE,      /* with its status */
  WEFT_MODEL_INSIDE,       /* inside of a 200: a stream ends with it */
  WEFT_MODEL_INSIDE_NAMED, /* the same, as `event: error` */
  WEFT_MODEL_INSIDE_DONE,  /* the same, and the usual last mark follows */
} weft_model_inside;

typedef struct weft_model_fault {
  weft_model_fault_kind kind;
  const char *model;  /* takes only requests for this model; NULL: any */
  const char *path;   /* takes only requests whose path ends so; NULL: any */
  int stream;         /* 1: takes only streams, 0: only plain requests, -1: both */
  int64_t times;      /* how many requests it takes: at least 1, or WEFT_MODEL_FOREVER */
  double delay;       /* before the first byte, on top of the latency; finite, >= 0 */
  int status;         /* STATUS: 400 to 599; REDIRECT: 300 to 399 */
  double retry_after; /* STATUS: as Retry-After in seconds and retry-after-ms; negative: neither */
  double retry_after_ms;   /* STATUS: only this header, in milliseconds; negative: not */
  double retry_after_date; /* STATUS: Retry-After as a date, so many seconds ahead; negative: not */
  int should_retry;        /* STATUS: x-should-retry; negative: no such header */
  const char *message, *type, *code; /* STATUS: of the error; NULL: as is usual for the status */
  const char *body; /* STATUS: instead of an error in the API's shape; NULL: that */
  weft_model_inside inside;
  weft_model_point point;
  size_t byte;          /* AT_BYTE */
  int64_t after;        /* deltas of a stream before it happens; -1: half of them */
  double seconds;       /* STALL, PAUSE: of silence; INFINITY: until the client closes */
  const char *location; /* REDIRECT: a URL, "same" or "other" (the origin) */
  uint64_t bomb;        /* BOMB: bytes that come out */
  int64_t length_off;   /* is added to Content-Length */
  const weft_model_header *headers; /* more of them */
  size_t header_count;
  weft_model_style style; /* wins over the server's */
} weft_model_fault;

/* The server ---------------------------------------------------------------------------------- */

typedef struct weft_model_config {
  uint16_t port;                /* 0: the system chooses a free one */
  const char *api_key;          /* NULL: none is needed */
  const weft_model_rule *rules; /* the first that matches answers; else see model_reply.h */
  size_t rule_count;
  const char *const *models; /* all that there are; NULL: any name is one */
  size_t model_count;
  size_t dimensions;                /* of embeddings, unless the request says it */
  const weft_model_header *headers; /* more of them, in every answer of a model */
  size_t header_count;
  double requests_per_window, tokens_per_window; /* negative: no limit */
  double window;                                 /* seconds */
  weft_model_style style;
  double latency, jitter;         /* an answer takes latency + [0, 1) * jitter; finite, >= 0 */
  uint64_t seed;                  /* of the jitter and of the random faults */
  const weft_model_fault *faults; /* scripted: the first that matches takes the request */
  size_t fault_count;
  double fault_rate; /* 0 to 1: how often a request that no script took meets a random one */
  const weft_model_fault *random; /* one of them, each as often; their `times` are not used */
  size_t random_count;
  size_t record;      /* how many of the last requests are kept */
  size_t connections; /* how many at once it must be able to hold; 0: as many as it can */
  /* Whether a text matches a pattern; called by the server thread alone. NULL: none does. */
  bool (*matches)(void *matcher, const char *pattern, const char *text, size_t size);
  void *matcher; /* not owned; used by the server thread until the server has stopped */
} weft_model_config;

/* A request as it was received. Immutable and counted: it lives while a list holds it. */
typedef struct weft_model_request {
  const char *method, *path; /* the path as it was sent, with its query */
  const char *model;         /* as the body names it; NULL when it does not */
  const weft_model_header *headers;
  size_t header_count;
  const char *body;
  size_t body_size;
  uint64_t connection; /* which one, from 1 */
  double time;         /* when it was complete: seconds on the monotonic clock */
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
  uint64_t starved;       /* how often no descriptor was left for a connection, which then waited */
} weft_model_stats;

typedef struct weft_model_server weft_model_server;

/* Defaults: a chosen port, no key, no latency, no faults, the last 1000 requests are kept. */
void weft_model_config_init(weft_model_config *config);

/* A fault that does nothing yet, once: for the fields that are not set. */
weft_model_fault weft_model_no_fault(void);

/* Starts a server, which listens when this returns. Copies all of `config` but the
 * matcher. Returns a server that
 * the caller gives back with weft_model_server_stop, or NULL with the reason in `error`. */
weft_model_server *weft_model_server_start(const weft_model_config *config,
                                           char error[WEFT_MODEL_ERROR_SIZE]);

/* Closes the port and all connections, waits for the thread to end (which never waits for a
 * client), and frees the server. No other call may use the server any more. NULL is allowed. */
void weft_model_server_stop(weft_model_server *server);

/* The port that it listens on; what it has counted so far. */
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
