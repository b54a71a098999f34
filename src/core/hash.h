/* hash.h: a number for a string of bytes (FNV-1a, its halves folded). Any thread. */
#ifndef WEFT_CORE_HASH_H
#define WEFT_CORE_HASH_H

#include <stdint.h>

static inline uint32_t weft_hash_bytes(const void *bytes, uint32_t size) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < size; i++)
    hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
  return (uint32_t)(hash ^ hash >> 32);
}

#endif
