/* stats.c: reads the counters of live objects.
 *
 * Owns the counters. Any thread enters. Invariant: a counter is raised when an object is born and
 * lowered before its memory goes.
 */
#include "stats.h"

#include "platform.h"
#include "timer.h"
#include "weft.h"

weft_live_counters weft_live;

void weft_stats_read(weft_stats *stats) {
  *stats = (weft_stats){
      .threads = weft_threads_live(),
      .contexts = atomic_load(&weft_live.contexts),
      .errors = atomic_load(&weft_live.errors),
      .pools = atomic_load(&weft_live.pools),
      .groups = atomic_load(&weft_live.groups),
      .channels = atomic_load(&weft_live.channels),
      .semaphores = atomic_load(&weft_live.semaphores),
      .waitgroups = atomic_load(&weft_live.waitgroups),
      .dicts = atomic_load(&weft_live.dicts),
      .flights = atomic_load(&weft_live.flights),
      .tickers = atomic_load(&weft_live.tickers),
      .timers = weft_timers_live(),
      .transfers = atomic_load(&weft_live.transfers),
      .http_quotas = atomic_load(&weft_live.http_quotas),
      .limiters = atomic_load(&weft_live.limiters),
      .budgets = atomic_load(&weft_live.budgets),
      .healths = atomic_load(&weft_live.healths),
  };
}
