/* model_arena.c: a list of blocks, one a copy.
 *
 * Owns the blocks of each arena. One thread at a time enters with a given arena. Invariant: a
 * failed arena can be freed like a whole one.
 */
#include "model_arena.h"

#include <stddef.h>
#include <string.h>

#include "../core/mem.h"

typedef struct weft_model_block {
  struct weft_model_block *next;
  _Alignas(max_align_t) char bytes[];
} block;

void *weft_model_arena_copy(weft_model_arena *arena, const void *from, size_t size) {
  if (!from || size == 0 || arena->failed)
    return NULL;
  block *made = weft_malloc(sizeof *made + size);
  if (!made) {
    arena->failed = true;
    return NULL;
  }
  made->next = arena->blocks;
  arena->blocks = made;
  memcpy(made->bytes, from, size);
  return made->bytes;
}

const char *weft_model_arena_text(weft_model_arena *arena, const char *text) {
  return weft_model_arena_copy(arena, text, text ? strlen(text) + 1 : 0);
}

void weft_model_arena_join(weft_model_arena *arena, weft_model_arena *from) {
  block **last = (block **)&arena->blocks;
  while (*last)
    last = &(*last)->next;
  *last = from->blocks;
  arena->failed |= from->failed;
  *from = (weft_model_arena){0};
}

void weft_model_arena_free(weft_model_arena *arena) {
  for (block *at = arena->blocks, *next; at; at = next) {
    next = at->next;
    weft_free(at);
  }
  *arena = (weft_model_arena){0};
}
