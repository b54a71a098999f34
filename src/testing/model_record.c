/* model_record.c: a ring of the last requests, and counters, behind one lock.
 *
 * Owns one reference to each request in the ring. The server thread writes, any thread reads.
 * Invariant: count <= capacity, `bytes` is the sum of the sizes in the ring, and no memory is freed
 * while the lock is held.
 */
#include "model_record.h"

#include "../core/mem.h"
#include "model_http.h"

int weft_model_record_init(weft_model_record *record, size_t capacity) {
  *record = (weft_model_record){.capacity = capacity};
  pthread_mutex_init(&record->lock, NULL);
  record->ring = weft_calloc(capacity ? capacity : 1, sizeof *record->ring);
  return record->ring ? 0 : -1;
}

/* Takes the oldest request out of the ring; the reference goes to the caller. */
static const weft_model_request *take_oldest(weft_model_record *record) {
  const weft_model_request *request = record->ring[record->first];
  record->first = (record->first + 1) % record->capacity;
  record->count--;
  record->bytes -= weft_model_request_size(request);
  return request;
}

void weft_model_record_free(weft_model_record *record) {
  while (record->count)
    weft_model_request_release(take_oldest(record));
  weft_free(record->ring);
  pthread_mutex_destroy(&record->lock);
}

void weft_model_record_opened(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.connections++;
  record->stats.open++;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_closed(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.open--;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_rejected(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.rejected++;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_fault(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.faults++;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_starved(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.starved++;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_answered(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.in_flight--;
  pthread_mutex_unlock(&record->lock);
}

void weft_model_record_abandoned(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stats.in_flight--;
  record->stats.abandoned++;
  pthread_mutex_unlock(&record->lock);
}

/* Called with the lock held, when there is room. */
static void keep(weft_model_record *record, const weft_model_request *request) {
  weft_model_request_retain(request);
  record->ring[(record->first + record->count) % record->capacity] = request;
  record->count++;
  record->bytes += weft_model_request_size(request);
}

/* Makes room for one more; returns what the caller must release, NULL when there is room. */
static const weft_model_request *evict(weft_model_record *record, size_t size) {
  const weft_model_request *oldest = NULL;
  pthread_mutex_lock(&record->lock);
  if (record->count == record->capacity ||
      (record->count && record->bytes + size > WEFT_MODEL_RECORD_BYTES))
    oldest = take_oldest(record);
  pthread_mutex_unlock(&record->lock);
  return oldest;
}

void weft_model_record_received(weft_model_record *record, const weft_model_request *request) {
  const weft_model_request *oldest;
  size_t size = weft_model_request_size(request);
  while (record->capacity && (oldest = evict(record, size)) != NULL)
    weft_model_request_release(oldest);
  pthread_mutex_lock(&record->lock);
  if (record->capacity)
    keep(record, request);
  weft_model_stats *stats = &record->stats;
  stats->requests++;
  stats->in_flight++;
  if (stats->max_in_flight < stats->in_flight)
    stats->max_in_flight = stats->in_flight;
  pthread_mutex_unlock(&record->lock);
}

weft_model_stats weft_model_record_stats(weft_model_record *record) {
  pthread_mutex_lock(&record->lock);
  weft_model_stats stats = record->stats;
  pthread_mutex_unlock(&record->lock);
  return stats;
}

const weft_model_request **weft_model_record_list(weft_model_record *record, size_t *count) {
  const weft_model_request **list = weft_calloc(record->capacity + 1, sizeof *list);
  *count = 0;
  if (!list)
    return NULL;
  pthread_mutex_lock(&record->lock);
  for (size_t i = 0; i < record->count; i++) {
    list[i] = record->ring[(record->first + i) % record->capacity];
    weft_model_request_retain(list[i]);
  }
  *count = record->count;
  pthread_mutex_unlock(&record->lock);
  return list;
}

void weft_model_requests_free(const weft_model_request **requests, size_t count) {
  for (size_t i = 0; requests && i < count; i++)
    weft_model_request_release(requests[i]);
  weft_free(requests);
}
