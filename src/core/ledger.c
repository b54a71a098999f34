/* ledger.c: a table of objects by address.
 *
 * Owns its entries. Any thread enters. Invariant: an entry is there from its note to its forget, at
 * the longest while a check is under way.
 *
 * Lock order: `lock` is a leaf.
 */
#include "ledger.h"

#include "mem.h"
#include "platform.h"

#include <pthread.h>
#include <string.h>

enum { BUCKETS = 4096 };

typedef struct entry {
  struct entry *next;
  const void *object;
  const char *kind;
  char *where; /* owned */
  uint64_t number;
} entry;

_Atomic uint32_t weft_ledger_users;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static entry *buckets[BUCKETS];
static uint64_t last_number;

static entry **bucket_of(const void *object) {
  return &buckets[weft_mix((uint64_t)(uintptr_t)object) % BUCKETS];
}

static void free_entry(entry *entry) {
  weft_free(entry->where);
  weft_free(entry);
}

/* Called under lock. */
static void remove_entry(const void *object) {
  entry **link = bucket_of(object);
  while (*link && (*link)->object != object)
    link = &(*link)->next;
  entry *found = *link;
  if (!found)
    return;
  *link = found->next;
  free_entry(found);
}

static void renew_lock(void) {
  weft_process_renew_lock(&lock);
}

void weft_ledger_open(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, renew_lock);
  atomic_fetch_add(&weft_ledger_users, 1);
}

void weft_ledger_close(void) {
  pthread_mutex_lock(&lock);
  if (atomic_fetch_sub(&weft_ledger_users, 1) == 1)
    for (int i = 0; i < BUCKETS; i++)
      while (buckets[i])
        remove_entry(buckets[i]->object);
  pthread_mutex_unlock(&lock);
}

void weft_ledger_note(const void *object, const char *kind, const char *where) {
  entry *made = weft_malloc(sizeof *made);
  char *text = made ? weft_strndup(where, strlen(where)) : NULL;
  if (!text) {
    weft_free(made);
    return;
  }
  pthread_mutex_lock(&lock);
  remove_entry(object);
  entry **bucket = bucket_of(object);
  *made = (entry){*bucket, object, kind, text, ++last_number};
  *bucket = made;
  pthread_mutex_unlock(&lock);
}

void weft_ledger_forget(const void *object) {
  pthread_mutex_lock(&lock);
  remove_entry(object);
  pthread_mutex_unlock(&lock);
}

uint64_t weft_ledger_last(void) {
  pthread_mutex_lock(&lock);
  uint64_t number = last_number;
  pthread_mutex_unlock(&lock);
  return number;
}

void weft_ledger_each(uint64_t since, void (*visit)(const char *, const char *, void *),
                      void *arg) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < BUCKETS; i++)
    for (entry *entry = buckets[i]; entry; entry = entry->next)
      if (entry->number > since)
        visit(entry->kind, entry->where, arg);
  pthread_mutex_unlock(&lock);
}
