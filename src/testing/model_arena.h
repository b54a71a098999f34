/* model_arena.h: memory that is freed all at once, for copies of configurations.
 *
 * An arena belongs to one thread at a time. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_ARENA_H
#define WEFT_TESTING_MODEL_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct weft_model_arena {
  struct weft_model_block *blocks; /* owned; NULL: empty */
  bool failed;                     /* some allocation did: then all later ones do nothing */
} weft_model_arena;

/* Copies belong to the arena. Each returns NULL for NULL or nothing, and once memory was out. */
void *weft_model_arena_copy(weft_model_arena *arena, const void *from, size_t size);
const char *weft_model_arena_text(weft_model_arena *arena, const char *text);
/* Moves all that `from` holds. */
void weft_model_arena_join(weft_model_arena *arena, weft_model_arena *from);
void weft_model_arena_free(weft_model_arena *arena);

#endif
