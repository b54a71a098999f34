/* http_spare.c: buffers of usual size that go round.
 *
 * The I/O thread fills the buffers of an answer, and another thread is done with them: freed
 * there, each would take the lock of the memory that the I/O thread works in. So they are given
 * back to it instead, up to a number. Owns what was given. Any thread gives, the I/O thread alone
 * takes. Invariant: a spare has exactly the size of its kind.
 */
#include "http_engine.h"

#include "mem.h"

enum { MOST_SPARES = 64 };

typedef struct spare { /* in the first bytes of the memory itself */
  struct spare *next;
} spare;

static struct kind {
  size_t size;
  _Atomic(spare *) given;
  _Atomic uint32_t count; /* of the given, nearly */
  spare *mine;            /* the I/O thread's */
} kinds[] = {[WEFT_HTTP_HEAD_SPARE] = {.size = 512}, [WEFT_HTTP_BODY_SPARE] = {.size = 2048}};

static spare *take_given(struct kind *kind) {
  if (!atomic_load_explicit(&kind->given, memory_order_relaxed))
    return NULL;
  atomic_store_explicit(&kind->count, 0, memory_order_relaxed);
  return atomic_exchange_explicit(&kind->given, NULL, memory_order_acquire);
}

void weft_http_spare_take(weft_buf *buf, int which) {
  struct kind *kind = &kinds[which];
  if (buf->data || (buf->limit && buf->limit < kind->size))
    return;
  if (!kind->mine)
    kind->mine = take_given(kind);
  spare *block = kind->mine;
  if (block)
    kind->mine = block->next;
  else
    block = weft_malloc(kind->size);
  buf->data = (uint8_t *)block;
  buf->capacity = block ? kind->size : 0;
}

void weft_http_spare_give(weft_buf *buf, int which) {
  struct kind *kind = &kinds[which];
  spare *block = (spare *)buf->data;
  if (buf->capacity != kind->size ||
      atomic_fetch_add_explicit(&kind->count, 1, memory_order_relaxed) >= MOST_SPARES) {
    weft_buf_free(buf);
    return;
  }
  weft_buf_init(buf, buf->limit);
  block->next = atomic_load_explicit(&kind->given, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&kind->given, &block->next, block,
                                                memory_order_release, memory_order_relaxed)) {
  }
}

static void free_all(spare *block) {
  while (block) {
    spare *next = block->next;
    weft_free(block);
    block = next;
  }
}

void weft_http_spares_free(void) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    free_all(take_given(&kinds[i]));
    free_all(kinds[i].mine);
    kinds[i].mine = NULL;
  }
}

void weft_http_spares_forget(void) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    atomic_store(&kinds[i].given, NULL);
    atomic_store(&kinds[i].count, 0);
    kinds[i].mine = NULL;
  }
}
