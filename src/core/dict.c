/* dict.c: hash tables with a lock each.
 *
 * Owns entries and a reference to each value. Any thread enters. Invariants: `count` is the number
 * of entries in all shards, or counts one in that is about to be linked, and never exceeds `max`;
 * an entry whose time has passed is as good as none, and goes when its shard is next written or
 * counted.
 *
 * Lock order: a shard's lock is a leaf; two shards' are never held together. Values are released
 * after unlocking, since that may destroy handles of any kind.
 */
#include "dict.h"

#include "clock.h"
#include "hash.h"
#include "mem.h"
#include "platform.h"
#include "stats.h"

enum { FIRST_BUCKETS = 8 };

struct weft_dict_entry {
  weft_dict_entry *next; /* in its bucket, or of those that were unlinked */
  weft_dict_entry *older, *newer;
  weft_shared_parcel *value;
  uint64_t expires_ns;
  uint32_t hash, size;
  uint8_t key[];
};

static void destroy(weft_handle *handle);
const weft_handle_type weft_dict_type = {"dict", destroy, &weft_live.dicts};

/* ---- life ---- */

weft_dict *weft_dict_new(uint32_t max, double ttl) {
  weft_dict *dict = weft_malloc_aligned(64, sizeof *dict);
  if (!dict)
    return NULL;
  *dict = (weft_dict){.max = max, .ttl_ns = ttl < 9e9 ? (uint64_t)(ttl * 1e9) : 0};
  for (int i = 0; i < WEFT_DICT_SHARDS; i++)
    pthread_mutex_init(&dict->shards[i].lock, NULL);
  weft_handle_init(&dict->handle, &weft_dict_type);
  return dict;
}

weft_dict *weft_dict_retain(weft_dict *dict) {
  weft_handle_retain(&dict->handle);
  return dict;
}

void weft_dict_release(weft_dict *dict) {
  if (dict)
    weft_handle_release(&dict->handle);
}

static void free_entries(weft_dict_entry *entry) {
  while (entry) {
    weft_dict_entry *next = entry->next;
    weft_shared_parcel_release(entry->value);
    weft_free(entry);
    entry = next;
  }
}

static void destroy(weft_handle *handle) {
  weft_dict *dict = (weft_dict *)handle;
  weft_dict_clear(dict);
  for (int i = 0; i < WEFT_DICT_SHARDS; i++) {
    pthread_mutex_destroy(&dict->shards[i].lock);
    weft_free(dict->shards[i].buckets);
  }
  weft_free(dict);
}

/* ---- one shard, under its lock ---- */

/* The low bits choose the shard, the others the bucket. */
static weft_dict_shard *shard_of(weft_dict *dict, uint32_t hash) {
  return &dict->shards[hash % WEFT_DICT_SHARDS];
}

static weft_dict_entry **bucket_of(const weft_dict_shard *shard, uint32_t hash) {
  return &shard->buckets[(hash / WEFT_DICT_SHARDS) & (shard->bucket_count - 1)];
}

/* The link to the entry; NULL when there is none. */
static weft_dict_entry **find(const weft_dict_shard *shard, uint32_t hash, const void *key,
                              uint32_t size) {
  if (!shard->bucket_count)
    return NULL;
  weft_dict_entry **link = bucket_of(shard, hash);
  for (; *link; link = &(*link)->next)
    if ((*link)->hash == hash && (*link)->size == size && memcmp((*link)->key, key, size) == 0)
      return link;
  return NULL;
}

static void leave_order(weft_dict_shard *shard, weft_dict_entry *entry) {
  *(entry->older ? &entry->older->newer : &shard->oldest) = entry->newer;
  *(entry->newer ? &entry->newer->older : &shard->newest) = entry->older;
}

static void become_newest(weft_dict *dict, weft_dict_shard *shard, weft_dict_entry *entry) {
  entry->expires_ns = dict->ttl_ns ? weft_clock_now_ns() + dict->ttl_ns : WEFT_NEVER_NS;
  entry->newer = NULL;
  entry->older = shard->newest;
  *(shard->newest ? &shard->newest->newer : &shard->oldest) = entry;
  shard->newest = entry;
}

static void unlink_entry(weft_dict *dict, weft_dict_shard *shard, weft_dict_entry **link,
                         weft_dict_entry **gone) {
  weft_dict_entry *entry = *link;
  leave_order(shard, entry);
  *link = entry->next;
  entry->next = *gone;
  *gone = entry;
  shard->count--;
  atomic_fetch_sub(&dict->count, 1);
}

/* Unlinks what has expired. */
static void sweep(weft_dict *dict, weft_dict_shard *shard, weft_dict_entry **gone) {
  if (!dict->ttl_ns || !shard->oldest)
    return;
  uint64_t now_ns = weft_clock_now_ns();
  while (shard->oldest && shard->oldest->expires_ns <= now_ns) {
    weft_dict_entry **link = bucket_of(shard, shard->oldest->hash);
    while (*link != shard->oldest)
      link = &(*link)->next;
    unlink_entry(dict, shard, link, gone);
  }
}

/* Without memory the chains get longer instead. */
static int grow(weft_dict_shard *shard) {
  uint32_t count = shard->bucket_count ? shard->bucket_count * 2 : FIRST_BUCKETS;
  weft_dict_entry **old = shard->buckets, **buckets = weft_calloc(count, sizeof *buckets);
  uint32_t old_count = shard->bucket_count;
  if (!buckets)
    return old != NULL;
  shard->buckets = buckets;
  shard->bucket_count = count;
  for (uint32_t i = 0; i < old_count; i++)
    for (weft_dict_entry *entry = old[i], *next; entry; entry = next) {
      next = entry->next;
      weft_dict_entry **bucket = bucket_of(shard, entry->hash);
      entry->next = *bucket;
      *bucket = entry;
    }
  weft_free(old);
  return 1;
}

static int count_in(weft_dict *dict) {
  uint32_t count = atomic_load(&dict->count);
  do
    if (dict->max && count >= dict->max)
      return 0;
  while (!atomic_compare_exchange_weak(&dict->count, &count, count + 1));
  return 1;
}

static int add(weft_dict *dict, weft_dict_shard *shard, uint32_t hash, const void *key,
               uint32_t size, weft_shared_parcel *value) {
  weft_dict_entry *entry = weft_malloc(sizeof *entry + size);
  if (!entry || (shard->count >= shard->bucket_count && !grow(shard))) {
    weft_free(entry);
    return WEFT_NOMEM;
  }
  if (!count_in(dict)) {
    weft_free(entry);
    return WEFT_FULL;
  }
  *entry = (weft_dict_entry){.hash = hash, .size = size};
  memcpy(entry->key, key, size);
  entry->value = weft_shared_parcel_retain(value);
  become_newest(dict, shard, entry);
  weft_dict_entry **bucket = bucket_of(shard, hash);
  entry->next = *bucket;
  *bucket = entry;
  shard->count++;
  return WEFT_OK;
}

/* ---- for all ---- */

weft_shared_parcel *weft_dict_get(weft_dict *dict, const void *key, uint32_t size) {
  uint32_t hash = weft_hash_bytes(key, size);
  weft_dict_shard *shard = shard_of(dict, hash);
  weft_shared_parcel *value = NULL;
  pthread_mutex_lock(&shard->lock);
  weft_dict_entry **link = find(shard, hash, key, size);
  if (link && (!dict->ttl_ns || (*link)->expires_ns > weft_clock_now_ns()))
    value = weft_shared_parcel_retain((*link)->value);
  pthread_mutex_unlock(&shard->lock);
  return value;
}

typedef struct change {
  const void *key;
  uint32_t size;
  int is_conditional;
  weft_shared_parcel *expected, *value;
} change;

/* Under the shard's lock. What is to be released comes back in `gone` and `old`. */
static int apply(weft_dict *dict, weft_dict_shard *shard, uint32_t hash, const change *change,
                 weft_dict_entry **gone, weft_shared_parcel **old) {
  sweep(dict, shard, gone);
  weft_dict_entry **link = find(shard, hash, change->key, change->size);
  if (change->is_conditional && (link ? (*link)->value : NULL) != change->expected)
    return WEFT_CHANGED;
  if (!link)
    return change->value ? add(dict, shard, hash, change->key, change->size, change->value)
                         : WEFT_OK;
  if (!change->value) {
    unlink_entry(dict, shard, link, gone);
    return WEFT_OK;
  }
  *old = (*link)->value;
  (*link)->value = weft_shared_parcel_retain(change->value);
  leave_order(shard, *link);
  become_newest(dict, shard, *link);
  return WEFT_OK;
}

/* What has expired anywhere makes room. */
static void sweep_all(weft_dict *dict) {
  for (int i = 0; dict->ttl_ns && i < WEFT_DICT_SHARDS; i++) {
    weft_dict_entry *gone = NULL;
    pthread_mutex_lock(&dict->shards[i].lock);
    sweep(dict, &dict->shards[i], &gone);
    pthread_mutex_unlock(&dict->shards[i].lock);
    free_entries(gone);
  }
}

static int write_once(weft_dict *dict, const change *change) {
  uint32_t hash = weft_hash_bytes(change->key, change->size);
  weft_dict_shard *shard = shard_of(dict, hash);
  weft_dict_entry *gone = NULL;
  weft_shared_parcel *old = NULL;
  pthread_mutex_lock(&shard->lock);
  int rc = apply(dict, shard, hash, change, &gone, &old);
  pthread_mutex_unlock(&shard->lock);
  free_entries(gone);
  weft_shared_parcel_release(old);
  return rc;
}

static int write_change(weft_dict *dict, const change *change) {
  int rc = write_once(dict, change);
  if (rc != WEFT_FULL || !dict->ttl_ns)
    return rc;
  sweep_all(dict);
  return write_once(dict, change);
}

int weft_dict_set(weft_dict *dict, const void *key, uint32_t size, weft_shared_parcel *value) {
  return write_change(dict, &(change){.key = key, .size = size, .value = value});
}

int weft_dict_replace(weft_dict *dict, const void *key, uint32_t size, weft_shared_parcel *expected,
                      weft_shared_parcel *value) {
  return write_change(dict, &(change){key, size, 1, expected, value});
}

static int append_keys(const weft_dict_shard *shard, weft_buf *keys) {
  int rc = WEFT_BUF_OK;
  for (const weft_dict_entry *entry = shard->oldest; entry && rc == WEFT_BUF_OK;
       entry = entry->newer) {
    rc = weft_buf_append(keys, &entry->size, sizeof entry->size);
    if (rc == WEFT_BUF_OK)
      rc = weft_buf_append(keys, entry->key, entry->size);
  }
  return rc;
}

int weft_dict_keys(weft_dict *dict, weft_buf *keys) {
  int rc = WEFT_BUF_OK;
  sweep_all(dict);
  for (int i = 0; i < WEFT_DICT_SHARDS && rc == WEFT_BUF_OK; i++) {
    pthread_mutex_lock(&dict->shards[i].lock);
    rc = append_keys(&dict->shards[i], keys);
    pthread_mutex_unlock(&dict->shards[i].lock);
  }
  return rc;
}

uint32_t weft_dict_length(weft_dict *dict) {
  sweep_all(dict);
  return atomic_load(&dict->count);
}

static weft_dict_entry *take_all(weft_dict *dict, weft_dict_shard *shard) {
  weft_dict_entry *gone = NULL;
  pthread_mutex_lock(&shard->lock);
  for (uint32_t i = 0; i < shard->bucket_count; i++)
    while (shard->buckets[i])
      unlink_entry(dict, shard, &shard->buckets[i], &gone);
  pthread_mutex_unlock(&shard->lock);
  return gone;
}

void weft_dict_clear(weft_dict *dict) {
  for (int i = 0; i < WEFT_DICT_SHARDS; i++)
    free_entries(take_all(dict, &dict->shards[i]));
}
