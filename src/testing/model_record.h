/* model_record.h: what the model server received, and its counters.
 *
 * Any thread may read; only the server thread writes. Each call holds the lock for a moment.
 */
#ifndef WEFT_TESTING_MODEL_RECORD_H
#define WEFT_TESTING_MODEL_RECORD_H

#include <pthread.h>

#include "model_server.h"

/* The oldest requests go when those that are kept hold more than this. */
#define WEFT_MODEL_RECORD_BYTES ((size_t)256 * 1024 * 1024)

typedef struct weft_model_record {
  size_t capacity; /* fixed */
  pthread_mutex_t lock;
  /* protected by `lock` */
  weft_model_stats stats;
  const weft_model_request **ring; /* one reference each */
  size_t first, count, bytes;
} weft_model_record;

/* Returns 0, or -1 when there is no memory: then, too, the caller gives it back. */
int weft_model_record_init(weft_model_record *record, size_t capacity);
void weft_model_record_free(weft_model_record *record);

/* Each notes one event; what is counted: see weft_model_stats. */
void weft_model_record_opened(weft_model_record *record);
void weft_model_record_closed(weft_model_record *record);
void weft_model_record_rejected(weft_model_record *record);
void weft_model_record_fault(weft_model_record *record);
void weft_model_record_starved(weft_model_record *record);
/* A request is in flight from here on; the ring keeps a reference of its own. */
void weft_model_record_received(weft_model_record *record, const weft_model_request *request);
void weft_model_record_answered(weft_model_record *record);
/* The same as answered, for a request whose client went away. */
void weft_model_record_abandoned(weft_model_record *record);

/* All counts as they are at one moment. */
weft_model_stats weft_model_record_stats(weft_model_record *record);
/* As weft_model_server_requests. */
const weft_model_request **weft_model_record_list(weft_model_record *record, size_t *count);

#endif
