/* stats.h: counters of live objects, one a kind. Any thread counts and reads. */
#ifndef WEFT_CORE_STATS_H
#define WEFT_CORE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct weft_live_counters {
  _Atomic uint32_t contexts, errors, pools, groups, channels, semaphores, waitgroups, codes;
  _Atomic uint32_t dicts, flights, tickers;
  _Atomic uint32_t transfers, http_quotas, limiters, budgets, healths;
} weft_live_counters;

extern weft_live_counters weft_live;

#endif
