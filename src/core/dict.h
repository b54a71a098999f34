/* dict.h: a map from bytes to constant parcels that any thread reads and writes.
 *
 * Keys are spread over shards with a lock each. Values are never copied under a lock: a reader gets
 * a reference. Who holds one also knows whether the entry has changed since: weft_dict_replace
 * compares the value's identity, so "read, compute, replace if unchanged" is atomic without a lock.
 *
 * Any thread calls any function here; none blocks for longer than another one's step.
 */
#ifndef WEFT_CORE_DICT_H
#define WEFT_CORE_DICT_H

#include "buf.h"
#include "handle.h"
#include "parcel.h"
#include "weft.h"

#include <pthread.h>

enum { WEFT_DICT_SHARDS = 16 };

typedef struct weft_dict_entry weft_dict_entry;

typedef struct weft_dict_shard {
  pthread_mutex_t lock __attribute__((aligned(64)));
  /* guarded by lock */
  weft_dict_entry **buckets; /* owned; a power of two, 0 before the first entry */
  uint32_t bucket_count, count;
  weft_dict_entry *oldest, *newest; /* in the order of writing, and so of expiry */
} weft_dict_shard;

struct weft_dict {
  weft_handle handle; /* first */
  uint32_t max;       /* constant; entries at the most, 0: no limit */
  uint64_t ttl_ns;    /* constant; after its last write an entry lives so long; 0: for ever */
  _Atomic uint32_t count;
  weft_dict_shard shards[WEFT_DICT_SHARDS];
};

extern const weft_handle_type weft_dict_type;

/* The value under a key, with a reference for the caller, or NULL. */
weft_shared_parcel *weft_dict_get(weft_dict *dict, const void *key, uint32_t size);
/* Puts `value`, of which the dict takes a reference of its own; NULL removes the entry. WEFT_OK,
 * WEFT_NOMEM; WEFT_FULL when the key is new and there is no room. */
int weft_dict_set(weft_dict *dict, const void *key, uint32_t size, weft_shared_parcel *value);
/* The same if the entry's value is still `expected`, to which the caller holds a reference (NULL:
 * if there is no entry); else WEFT_CHANGED and nothing is done. */
int weft_dict_replace(weft_dict *dict, const void *key, uint32_t size, weft_shared_parcel *expected,
                      weft_shared_parcel *value);
/* Appends each key to `keys` as its size, a uint32_t, and its bytes; shard by shard, so not a
 * snapshot of one moment. Returns a WEFT_BUF_ code. */
int weft_dict_keys(weft_dict *dict, weft_buf *keys);
uint32_t weft_dict_length(weft_dict *dict);
void weft_dict_clear(weft_dict *dict);

#endif
