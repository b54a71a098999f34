/* mem.h: every allocation of the core goes through here, so that tests can fail the nth one.
 *
 * Thread-safe: any thread may call any function here; none blocks.
 */
#ifndef WEFT_CORE_MEM_H
#define WEFT_CORE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Each returns memory that the caller owns and gives back with weft_free, or NULL. */
void *weft_malloc(size_t size);
void *weft_calloc(size_t count, size_t size);
/* `alignment` is a power of two. */
void *weft_malloc_aligned(size_t alignment, size_t size);
/* On failure returns NULL and `old` stays valid and owned by the caller. */
void *weft_realloc(void *old, size_t size);
char *weft_strndup(const char *text, size_t size);
void weft_free(void *memory); /* NULL is allowed */

/* Fault injection for tests: the nth allocation from now (1 is the next) fails, once; 0 turns it
 * off. Returns how many allocations were made since the last call. */
uint64_t weft_mem_fail_at(uint64_t nth);

#endif
