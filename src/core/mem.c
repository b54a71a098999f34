/* mem.c: the core's allocator: malloc with a counter for fault injection.
 *
 * Owns nothing but two counters. Any thread enters. Invariant: with injection off, a call costs
 * one relaxed load more than malloc.
 */
#include "mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t fail_at;   /* 0: injection is off */
static _Atomic uint64_t allocated; /* counted only while injection is on */

static int injected_failure(void) {
  uint64_t target = atomic_load_explicit(&fail_at, memory_order_relaxed);
  return target != 0 && atomic_fetch_add(&allocated, 1) + 1 == target;
}

void *weft_malloc(size_t size) {
  return injected_failure() ? NULL : malloc(size);
}

void *weft_calloc(size_t count, size_t size) {
  return injected_failure() ? NULL : calloc(count, size);
}

void *weft_malloc_aligned(size_t alignment, size_t size) {
  void *memory = NULL;
  return injected_failure() || posix_memalign(&memory, alignment, size) != 0 ? NULL : memory;
}

void *weft_realloc(void *old, size_t size) {
  return injected_failure() ? NULL : realloc(old, size);
}

char *weft_strndup(const char *text, size_t size) {
  char *copy = weft_malloc(size + 1);
  if (copy) {
    memcpy(copy, text, size);
    copy[size] = '\0';
  }
  return copy;
}

void weft_free(void *memory) {
  free(memory);
}

uint64_t weft_mem_fail_at(uint64_t nth) {
  uint64_t count = atomic_exchange(&allocated, 0);
  atomic_store(&fail_at, nth);
  return count;
}
