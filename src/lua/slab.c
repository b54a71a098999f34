/* slab.c: size classes of 8 bytes up to 1 KiB; the system's malloc beyond.
 *
 * Owns its pages. One thread, the state's. Invariant: a block of n bytes comes from and returns to
 * the list of its class; pages go back to the system only with the state.
 */
#include "slab.h"

#include "mem.h"

#include <string.h>

enum { PAGE = 64 * 1024 };

static size_t class_of(size_t size) {
  return (size + WEFT_SLAB_GRAIN - 1) / WEFT_SLAB_GRAIN;
}

static int add_page(weft_slab *slab) {
  void **page = weft_malloc(PAGE);
  if (!page)
    return 0;
  *page = slab->pages;
  slab->pages = page;
  slab->at = (char *)page + 16;
  slab->end = (char *)page + PAGE;
  return 1;
}

static void *take(weft_slab *slab, size_t size) {
  size_t class = class_of(size);
  void *block = slab->free[class];
  if (block) {
    slab->free[class] = *(void **)block;
    return block;
  }
  size = class * WEFT_SLAB_GRAIN;
  if ((size_t)(slab->end - slab->at) < size && !add_page(slab))
    return NULL;
  block = slab->at;
  slab->at += size;
  return block;
}

static void give(weft_slab *slab, void *block, size_t size) {
  size_t class = class_of(size);
  *(void **)block = slab->free[class];
  slab->free[class] = block;
}

static void *take_any(weft_slab *slab, size_t size) {
  return size <= WEFT_SLAB_LARGEST ? take(slab, size) : weft_malloc(size);
}

static void give_any(weft_slab *slab, void *block, size_t size) {
  if (size <= WEFT_SLAB_LARGEST)
    give(slab, block, size);
  else
    weft_free(block);
}

void *weft_slab_alloc(void *ud, void *old, size_t old_size, size_t size) {
  weft_slab *slab = ud;
  if (!old)
    return size ? take_any(slab, size) : NULL;
  if (size == 0) {
    give_any(slab, old, old_size);
    return NULL;
  }
  if (old_size > WEFT_SLAB_LARGEST && size > WEFT_SLAB_LARGEST)
    return weft_realloc(old, size);
  if (old_size <= WEFT_SLAB_LARGEST && size <= WEFT_SLAB_LARGEST &&
      class_of(old_size) == class_of(size))
    return old;
  void *block = take_any(slab, size);
  if (!block)
    return NULL;
  memcpy(block, old, old_size < size ? old_size : size);
  give_any(slab, old, old_size);
  return block;
}

void weft_slab_free(weft_slab *slab) {
  while (slab->pages) {
    void *page = slab->pages;
    slab->pages = *(void **)page;
    weft_free(page);
  }
}
