/* health.h: what a client has learnt about its server, shared by all who have the client: a circuit
 * breaker, the latest latencies, and how many calls at once the server bears (AIMD).
 *
 * Every call is reported with how it came out. Any thread calls any function here; none blocks.
 *
 * The breaker: after `failures` failures in a row it opens, and calls are refused for
 * `cooldown_ns`. Then one call is let through, the probe; its success closes the breaker, its
 * failure opens it for as long again. A probe that is never reported gives way to another one after
 * the cooldown.
 *
 * AIMD: `places` grows by one place for each round of successes that used it, and shrinks to two
 * thirds with a sign of overload; what started before that cut was no reaction to it, and cuts no
 * more.
 */
#ifndef WEFT_CORE_HEALTH_H
#define WEFT_CORE_HEALTH_H

#include "handle.h"
#include "semaphore.h"

#include <pthread.h>

enum { WEFT_HEALTH_SAMPLES = 128, WEFT_HEALTH_SERIES = 2 };

typedef struct weft_health_config {
  uint32_t failures; /* in a row; 0: no breaker */
  uint64_t cooldown_ns;
  weft_semaphore *places; /* retained; NULL: no AIMD */
  uint32_t least, most;   /* places; nobody else resizes them */
  uint64_t slow_ns;       /* a success that took longer is a sign of overload; 0: none is */
} weft_health_config;

typedef struct weft_health {
  weft_handle handle;        /* first */
  weft_health_config config; /* constant */
  pthread_mutex_t lock;
  /* guarded by lock */
  uint32_t failures; /* in a row */
  uint8_t is_open;
  uint8_t is_probing; /* while open: one call is under way */
  uint64_t retry_ns;  /* while open: from when a probe is let through */
  uint32_t size;      /* how many places there should be */
  uint32_t successes; /* of this round */
  uint64_t cut_ns;    /* the latest cut of places */
  /* latencies in seconds: the latest ones, a ring for each series */
  float samples[WEFT_HEALTH_SERIES][WEFT_HEALTH_SAMPLES];
  uint32_t sampled[WEFT_HEALTH_SERIES];
} weft_health;

extern const weft_handle_type weft_health_type;

/* NULL: no memory. */
weft_health *weft_health_new(const weft_health_config *config);

/* Before a call: WEFT_OK, with *is_probe to be given back with the report; or WEFT_CLOSED, and
 * *wait_ns until it makes sense to ask again. */
int weft_health_enter(weft_health *health, uint64_t now_ns, int *is_probe, uint64_t *wait_ns);

typedef enum weft_health_outcome {
  WEFT_HEALTH_GOOD,
  WEFT_HEALTH_BAD,      /* the server failed, or could not be reached */
  WEFT_HEALTH_OVERLOAD, /* it is well, but wants fewer calls */
  WEFT_HEALTH_SICK,     /* both */
  WEFT_HEALTH_UNKNOWN,  /* the call was cancelled */
} weft_health_outcome;
/* After each call that was let in: how it came out, and when it began. */
void weft_health_report(weft_health *health, weft_health_outcome outcome, uint64_t started_ns,
                        uint64_t now_ns, int is_probe);

/* Keeps the latency of a success in one of the series. */
void weft_health_sample(weft_health *health, int series, double seconds);
/* The latency that a share (0 to 1) of the latest successes did not exceed, or a negative number
 * when fewer than `least` are known. */
double weft_health_quantile(weft_health *health, int series, double share, uint32_t least);

enum { WEFT_BREAKER_CLOSED, WEFT_BREAKER_OPEN, WEFT_BREAKER_HALF_OPEN };
/* What the breaker would say to a call now. */
int weft_health_breaker(weft_health *health, uint64_t now_ns);

#endif
