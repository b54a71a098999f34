/* ptrmap.h: a small map from addresses to numbers: what an encoder has seen. One thread. */
#ifndef WEFT_LUA_PTRMAP_H
#define WEFT_LUA_PTRMAP_H

#include "mem.h"

#include <stdint.h>
#include <string.h>

enum { WEFT_PTRMAP_SMALL = 8 };

typedef struct weft_ptrmap {
  uint32_t count, capacity; /* capacity 0: only `small` is used, in order of insertion */
  const void *small[WEFT_PTRMAP_SMALL];
  const void **keys; /* owned; open addressing, at most half full */
  uint32_t *values;  /* owned */
} weft_ptrmap;

static inline uint32_t weft_ptr_hash(const void *key) {
  return (uint32_t)(((uintptr_t)key * 0x9E3779B97F4A7C15ull) >> 32);
}

static inline void weft_ptrmap_put(weft_ptrmap *map, const void *key, uint32_t value) {
  uint32_t i = weft_ptr_hash(key) & (map->capacity - 1);
  while (map->keys[i])
    i = (i + 1) & (map->capacity - 1);
  map->keys[i] = key;
  map->values[i] = value;
}

static inline int weft_ptrmap_grow(weft_ptrmap *map) {
  weft_ptrmap old = *map;
  map->capacity = old.capacity ? old.capacity * 2 : 64;
  map->keys = weft_calloc(map->capacity, sizeof *map->keys);
  map->values = weft_malloc(map->capacity * sizeof *map->values);
  if (!map->keys || !map->values) {
    weft_free(map->keys);
    weft_free(map->values);
    *map = old;
    return 0;
  }
  for (uint32_t i = 0; i < old.capacity; i++)
    if (old.keys[i])
      weft_ptrmap_put(map, old.keys[i], old.values[i]);
  for (uint32_t i = 0; !old.capacity && i < old.count; i++)
    weft_ptrmap_put(map, old.small[i], i);
  weft_free(old.keys);
  weft_free(old.values);
  return 1;
}

enum { WEFT_PTRMAP_NEW = -1, WEFT_PTRMAP_NOMEM = -2 };

/* The number of `key`, counted from 0 in the order of first sight; WEFT_PTRMAP_NEW when this was
 * the first. */
static inline int64_t weft_ptrmap_see(weft_ptrmap *map, const void *key) {
  if (!map->capacity) {
    for (uint32_t i = 0; i < map->count; i++)
      if (map->small[i] == key)
        return i;
    if (map->count < WEFT_PTRMAP_SMALL) {
      map->small[map->count++] = key;
      return WEFT_PTRMAP_NEW;
    }
  } else {
    uint32_t i = weft_ptr_hash(key) & (map->capacity - 1);
    for (; map->keys[i]; i = (i + 1) & (map->capacity - 1))
      if (map->keys[i] == key)
        return map->values[i];
  }
  if (map->count * 2 >= map->capacity && !weft_ptrmap_grow(map))
    return WEFT_PTRMAP_NOMEM;
  weft_ptrmap_put(map, key, map->count++);
  return WEFT_PTRMAP_NEW;
}

static inline void weft_ptrmap_clear(weft_ptrmap *map) {
  weft_free(map->keys);
  weft_free(map->values);
  map->keys = NULL;
  map->values = NULL;
  map->count = map->capacity = 0;
}

#endif
