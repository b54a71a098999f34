/* model_fault.h: which fault meets a request: a script first, then chance.
 *
 * Any thread may append; only the server thread takes. Each call holds the lock for a moment.
 */
#ifndef WEFT_TESTING_MODEL_FAULT_H
#define WEFT_TESTING_MODEL_FAULT_H

#include <pthread.h>
#include <stdbool.h>

#include "model_arena.h"
#include "model_server.h"

typedef struct weft_model_faults {
  pthread_mutex_t lock;
  /* protected by `lock` */
  weft_model_fault *script; /* `times` counts down to 0 */
  size_t count, capacity;
  size_t first;           /* the entries before it are used up */
  weft_model_arena arena; /* what the faults point to */
  /* written before the server thread starts, then its own */
  weft_model_fault *random; /* owned */
  size_t random_count;
  double rate;
  uint64_t random_state;
} weft_model_faults;

/* Copies the faults of `config`. Returns 0, or -1 when there is no memory: then, too, the caller
 * gives it back with weft_model_faults_free. */
int weft_model_faults_init(weft_model_faults *faults, const weft_model_config *config);
void weft_model_faults_free(weft_model_faults *faults);

/* Copies `fault` to the end of the script. Returns 0, or -1 when there is no memory. */
int weft_model_faults_append(weft_model_faults *faults, const weft_model_fault *fault);

/* Chooses the fault for a request. Returns false for a good answer, and leaves `fault` alone. What
 * it points to belongs to `faults` and lives as long. */
bool weft_model_faults_take(weft_model_faults *faults, const weft_model_request *request,
                            bool stream, weft_model_fault *fault);

#endif
