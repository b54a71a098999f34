/* model_fault.c: the script of faults, and the random ones.
 *
 * Owns copies of all faults and what they point to. Any thread appends, the server thread takes.
 * Invariant: what a fault points to is never freed before the end, so that the server thread may
 * read the strings of one that it took without the lock.
 */
#include "model_fault.h"

#include <string.h>

#include "../core/mem.h"
#include "model_config.h"
#include "model_random.h"

static weft_model_fault copy_fault(weft_model_arena *arena, const weft_model_fault *from) {
  weft_model_fault to = *from;
  to.model = weft_model_arena_text(arena, from->model);
  to.path = weft_model_arena_text(arena, from->path);
  to.message = weft_model_arena_text(arena, from->message);
  to.type = weft_model_arena_text(arena, from->type);
  to.code = weft_model_arena_text(arena, from->code);
  to.body = weft_model_arena_text(arena, from->body);
  to.location = weft_model_arena_text(arena, from->location);
  to.headers = weft_model_copy_headers(arena, from->headers, from->header_count);
  return to;
}

static int copy_random(weft_model_faults *faults, const weft_model_config *config) {
  size_t count = config->random_count;
  faults->random = weft_calloc(count + 1, sizeof *faults->random);
  if (!faults->random)
    return -1;
  for (size_t i = 0; i < count; i++)
    faults->random[i] = copy_fault(&faults->arena, &config->random[i]);
  faults->random_count = count;
  return faults->arena.failed ? -1 : 0;
}

int weft_model_faults_init(weft_model_faults *faults, const weft_model_config *config) {
  *faults = (weft_model_faults){.rate = config->fault_rate, .random_state = config->seed};
  pthread_mutex_init(&faults->lock, NULL);
  if (copy_random(faults, config) != 0)
    return -1;
  for (size_t i = 0; i < config->fault_count; i++)
    if (weft_model_faults_append(faults, &config->faults[i]) != 0)
      return -1;
  return 0;
}

void weft_model_faults_free(weft_model_faults *faults) {
  weft_free(faults->script);
  weft_free(faults->random);
  weft_model_arena_free(&faults->arena);
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
  weft_model_arena arena = {0};
  weft_model_fault copy = copy_fault(&arena, fault);
  if (arena.failed) {
    weft_model_arena_free(&arena);
    return -1;
  }
  pthread_mutex_lock(&faults->lock);
  int failed = reserve(faults);
  if (!failed) {
    faults->script[faults->count++] = copy;
    weft_model_arena_join(&arena, &faults->arena); /* the new ones are few: they go first */
    faults->arena = arena;
    arena = (weft_model_arena){0};
  }
  pthread_mutex_unlock(&faults->lock);
  weft_model_arena_free(&arena);
  return failed;
}

static bool ends_with(const char *path, const char *end) {
  size_t size = strcspn(path, "?"), tail = strlen(end);
  return size >= tail && memcmp(path + size - tail, end, tail) == 0;
}

static bool matches(const weft_model_fault *fault, const weft_model_request *request, bool stream) {
  if (fault->model && strcmp(fault->model, request->model) != 0)
    return false;
  if (fault->path && !ends_with(request->path, fault->path))
    return false;
  return fault->stream < 0 || fault->stream == stream;
}

static bool take_scripted(weft_model_faults *faults, const weft_model_request *request, bool stream,
                          weft_model_fault *fault) {
  bool taken = false;
  pthread_mutex_lock(&faults->lock);
  while (faults->first < faults->count && faults->script[faults->first].times == 0)
    faults->first++;
  for (size_t i = faults->first; i < faults->count && !taken; i++) {
    weft_model_fault *entry = &faults->script[i];
    if (entry->times == 0 || !matches(entry, request, stream))
      continue;
    *fault = *entry;
    if (entry->times > 0)
      entry->times--;
    taken = true;
  }
  pthread_mutex_unlock(&faults->lock);
  return taken;
}

/* One number says whether, and which: a row with one fault stays the same with several. */
static bool take_random(weft_model_faults *faults, const weft_model_request *request, bool stream,
                        weft_model_fault *fault) {
  if (faults->rate <= 0 || faults->random_count == 0)
    return false;
  double number = weft_model_random(&faults->random_state);
  if (number >= faults->rate)
    return false;
  size_t which = (size_t)(number / faults->rate * (double)faults->random_count);
  if (which >= faults->random_count || !matches(&faults->random[which], request, stream))
    return false;
  *fault = faults->random[which];
  return true;
}

bool weft_model_faults_take(weft_model_faults *faults, const weft_model_request *request,
                            bool stream, weft_model_fault *fault) {
  return take_scripted(faults, request, stream, fault) ||
         take_random(faults, request, stream, fault);
}
