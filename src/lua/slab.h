/* slab.h: an allocator for one Lua state: no locks, no headers, since Lua passes the old size. */
#ifndef WEFT_LUA_SLAB_H
#define WEFT_LUA_SLAB_H

#include <stddef.h>

enum { WEFT_SLAB_GRAIN = 8, WEFT_SLAB_LARGEST = 1024 };

typedef struct weft_slab {
  void *free[WEFT_SLAB_LARGEST / WEFT_SLAB_GRAIN + 1]; /* lists by size */
  char *at, *end;                                      /* the rest of the newest page */
  void *pages;                                         /* all of them, to free them in the end */
} weft_slab;

/* A lua_Alloc; `slab` starts as zeros. */
void *weft_slab_alloc(void *slab, void *old, size_t old_size, size_t size);
/* After lua_close: frees the pages. */
void weft_slab_free(weft_slab *slab);

#endif
