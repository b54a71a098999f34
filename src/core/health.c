/* health.c: a breaker, a ring of latencies and a window, behind one lock.
 *
 * Owns a reference to the semaphore whose size it changes. Any thread enters. Invariant: while the
 * breaker is open at most one call, the probe, is under way that was let through since.
 *
 * Lock order: a health's lock is a leaf; the semaphore is resized after unlocking.
 */
#include "health.h"

#include "mem.h"
#include "stats.h"

#include <stdlib.h>
#include <string.h>

static void destroy(weft_handle *handle) {
  weft_health *health = (weft_health *)handle;
  weft_semaphore_release(health->config.places);
  pthread_mutex_destroy(&health->lock);
  weft_free(health);
}

const weft_handle_type weft_health_type = {"health", destroy, &weft_live.healths};

weft_health *weft_health_new(const weft_health_config *config) {
  weft_health *health = weft_calloc(1, sizeof *health);
  if (!health)
    return NULL;
  health->config = *config;
  if (config->places) {
    weft_semaphore_retain(config->places);
    health->size = weft_semaphore_size(config->places);
  }
  pthread_mutex_init(&health->lock, NULL);
  weft_handle_init(&health->handle, &weft_health_type);
  return health;
}

/* ---- the breaker ---- */

static int enter_locked(weft_health *health, uint64_t now_ns, int *is_probe, uint64_t *wait_ns) {
  *is_probe = 0;
  if (!health->is_open)
    return WEFT_OK;
  if (now_ns < health->retry_ns) {
    *wait_ns = health->retry_ns - now_ns;
    return WEFT_CLOSED;
  }
  *is_probe = health->is_probing = 1;
  health->retry_ns = now_ns + health->config.cooldown_ns; /* for another, should this one vanish */
  return WEFT_OK;
}

int weft_health_enter(weft_health *health, uint64_t now_ns, int *is_probe, uint64_t *wait_ns) {
  pthread_mutex_lock(&health->lock);
  int rc = enter_locked(health, now_ns, is_probe, wait_ns);
  pthread_mutex_unlock(&health->lock);
  return rc;
}

static void open_breaker(weft_health *health, uint64_t now_ns) {
  health->is_open = 1;
  health->is_probing = 0;
  health->retry_ns = now_ns + health->config.cooldown_ns;
}

static void break_locked(weft_health *health, weft_health_outcome outcome, uint64_t now_ns,
                         int is_probe) {
  if (health->is_open && !is_probe)
    return; /* it started before */
  switch (outcome) {
  case WEFT_HEALTH_UNKNOWN:
    if (is_probe) {
      health->retry_ns = now_ns; /* the next call is the probe */
      health->is_probing = 0;
    }
    return;
  case WEFT_HEALTH_BAD:
  case WEFT_HEALTH_SICK:
    health->failures++;
    if (is_probe || health->failures >= health->config.failures)
      open_breaker(health, now_ns);
    return;
  default:
    health->failures = 0;
    health->is_open = health->is_probing = 0;
  }
}

int weft_health_breaker(weft_health *health, uint64_t now_ns) {
  pthread_mutex_lock(&health->lock);
  int state = !health->is_open                                   ? WEFT_BREAKER_CLOSED
              : health->is_probing || now_ns >= health->retry_ns ? WEFT_BREAKER_HALF_OPEN
                                                                 : WEFT_BREAKER_OPEN;
  pthread_mutex_unlock(&health->lock);
  return state;
}

/* ---- places ---- */

static uint32_t clamp(const weft_health_config *config, uint32_t size) {
  return size < config->least ? config->least : size > config->most ? config->most : size;
}

static void cut(weft_health *health, uint64_t started_ns, uint64_t now_ns) {
  if (started_ns < health->cut_ns)
    return;
  health->cut_ns = now_ns;
  health->successes = 0;
  health->size = clamp(&health->config, (uint32_t)((uint64_t)health->size * 2 / 3));
}

/* Places that nobody wants are no reason for more. `held` includes that of the call reported. */
static void grow(weft_health *health, uint32_t held) {
  if (held != health->size || ++health->successes < health->size)
    return;
  health->successes = 0;
  health->size = clamp(&health->config, health->size + 1);
}

/* Until nobody has changed the size meanwhile: resizes may overtake each other. */
static void resize(weft_health *health, uint32_t size) {
  int is_stale;
  do {
    weft_semaphore_resize(health->config.places, size);
    pthread_mutex_lock(&health->lock);
    is_stale = health->size != size;
    size = health->size;
    pthread_mutex_unlock(&health->lock);
  } while (is_stale);
}

static int is_overload(const weft_health_config *config, weft_health_outcome outcome,
                       uint64_t took_ns) {
  return outcome == WEFT_HEALTH_OVERLOAD || outcome == WEFT_HEALTH_SICK ||
         (outcome == WEFT_HEALTH_GOOD && config->slow_ns && took_ns > config->slow_ns);
}

void weft_health_report(weft_health *health, weft_health_outcome outcome, uint64_t started_ns,
                        uint64_t now_ns, int is_probe) {
  const weft_health_config *config = &health->config;
  int overloaded = is_overload(config, outcome, now_ns - started_ns);
  uint32_t held = config->places ? weft_semaphore_held(config->places) : 0;
  pthread_mutex_lock(&health->lock);
  uint32_t size = health->size;
  if (config->failures)
    break_locked(health, outcome, now_ns, is_probe);
  if (config->places && overloaded)
    cut(health, started_ns, now_ns);
  else if (config->places && outcome == WEFT_HEALTH_GOOD)
    grow(health, held);
  uint32_t wanted = health->size;
  pthread_mutex_unlock(&health->lock);
  if (wanted != size)
    resize(health, wanted);
}

/* ---- latencies ---- */

void weft_health_sample(weft_health *health, int series, double seconds) {
  pthread_mutex_lock(&health->lock);
  uint32_t at = health->sampled[series]++;
  health->samples[series][at % WEFT_HEALTH_SAMPLES] = (float)seconds;
  pthread_mutex_unlock(&health->lock);
}

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

double weft_health_quantile(weft_health *health, int series, double share, uint32_t least) {
  float copy[WEFT_HEALTH_SAMPLES];
  pthread_mutex_lock(&health->lock);
  uint32_t count = health->sampled[series];
  memcpy(copy, health->samples[series], sizeof copy);
  pthread_mutex_unlock(&health->lock);
  if (count == 0 || count < least)
    return -1;
  if (count > WEFT_HEALTH_SAMPLES)
    count = WEFT_HEALTH_SAMPLES;
  qsort(copy, count, sizeof *copy, compare);
  uint32_t rank = (uint32_t)(share * count + 0.999999);
  return copy[rank == 0 ? 0 : rank > count ? count - 1 : rank - 1];
}
