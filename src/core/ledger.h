/* ledger.h: which objects are alive and where scripts made them, while a leak check asks for it.
 *
 * Any thread enters; a leaf lock is taken. While nobody asks, an object costs one branch at its
 * end.
 */
#ifndef WEFT_CORE_LEDGER_H
#define WEFT_CORE_LEDGER_H

#include <stdatomic.h>
#include <stdint.h>

extern _Atomic uint32_t weft_ledger_users; /* leak checks under way */

static inline int weft_ledger_is_on(void) {
  return __builtin_expect(atomic_load_explicit(&weft_ledger_users, memory_order_relaxed), 0) != 0;
}

/* One more check, and its end; with the last one the ledger is emptied. */
void weft_ledger_open(void);
void weft_ledger_close(void);
/* An object was made at `where`, which is copied; `kind` is constant. Without memory it is not
 * noted. */
void weft_ledger_note(const void *object, const char *kind, const char *where);
/* It is gone; nothing when it was not noted. */
void weft_ledger_forget(const void *object);
/* The number of the last object that was noted: what is noted later has a larger one. */
uint64_t weft_ledger_last(void);
/* Calls visit for each object that was noted after `since`, under the lock. */
void weft_ledger_each(uint64_t since, void (*visit)(const char *kind, const char *where, void *arg),
                      void *arg);

#endif
