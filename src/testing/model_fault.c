/* model_fault.c: the script of faults, and the random ones.
 *
 * Owns copies of all faults and their strings. Any thread appends, the server thread takes.
 * Invariant: an entry is never removed before the end, so that the server thread may read the
 * strings of one that it took without the lock.
 */
#include "model_fault.h"

#include <string.h>

#include "../core/mem.h"
#include "model_random.h"

static void free_fault(weft_model_fault *fault) {
  weft_free((char *)fault->model);
  weft_free((char *)fault->message);
}

static int copy_text(const char **to, const char *from) {
  *to = from ? weft_strndup(from, strlen(from)) : NULL;
  return from && !*to ? -1 : 0;
}

static int copy_fault(weft_model_fault *to, const weft_model_fault *from) {
  *to = *from;
  int failed = copy_text(&to->model, from->model);
  failed |= copy_text(&to->message, from->message);
  if (failed) {
    free_fault(to);
    *to = (weft_model_fault){0};
  }
  return failed;
}

int weft_model_faults_init(weft_model_faults *faults, const weft_model_config *config) {
  *faults = (weft_model_faults){.rate = config->fault_rate, .random_state = config->seed};
  pthread_mutex_init(&faults->lock, NULL);
  if (copy_fault(&faults->random, &config->fault) != 0)
    return -1;
  for (size_t i = 0; i < config->fault_count; i++)
    if (weft_model_faults_append(faults, &config->faults[i]) != 0)
      return -1;
  return 0;
}

void weft_model_faults_free(weft_model_faults *faults) {
  for (size_t i = 0; i < faults->count; i++)
    free_fault(&faults->script[i]);
  weft_free(faults->script);
  free_fault(&faults->random);
  pthread_mutex_destroy(&faults->lock);
}

/* Called with the lock held. */
static int reserve(weft_model_faults *faults) {
  if (faults->count < faults->capacity)
    return 0;
  size_t capacity = faults->capacity ? faults->capacity * 2 : 8;
  weft_model_fault *script = weft_realloc(faults->script, capacity * sizeof *script);
  if (!script)
    return -1;
  faults->script = script;
  faults->capacity = capacity;
  return 0;
}

int weft_model_faults_append(weft_model_faults *faults, const weft_model_fault *fault) {
  weft_model_fault copy;
  if (copy_fault(&copy, fault) != 0)
    return -1;
  pthread_mutex_lock(&faults->lock);
  int failed = reserve(faults);
  if (!failed)
    faults->script[faults->count++] = copy;
  pthread_mutex_unlock(&faults->lock);
  if (failed)
    free_fault(&copy);
  return failed;
}

static bool matches(const weft_model_fault *fault, const char *model) {
  return !fault->model || (model && strcmp(fault->model, model) == 0);
}

static bool take_scripted(weft_model_faults *faults, const char *model, weft_model_fault *fault) {
  bool taken = false;
  pthread_mutex_lock(&faults->lock);
  while (faults->first < faults->count && faults->script[faults->first].times == 0)
    faults->first++;
  for (size_t i = faults->first; i < faults->count && !taken; i++) {
    weft_model_fault *entry = &faults->script[i];
    if (entry->times == 0 || !matches(entry, model))
      continue;
    *fault = *entry;
    if (entry->times > 0)
      entry->times--;
    taken = true;
  }
  pthread_mutex_unlock(&faults->lock);
  return taken;
}

bool weft_model_faults_take(weft_model_faults *faults, const char *model, weft_model_fault *fault) {
  if (take_scripted(faults, model, fault))
    return true;
  if (faults->rate <= 0 || weft_model_random(&faults->random_state) >= faults->rate ||
      !matches(&faults->random, model))
    return false;
  *fault = faults->random;
  return true;
}
