/* model_config.h: a server's own copy of its configuration.
 *
 * A copy is immutable while its server runs: any thread may read it. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_CONFIG_H
#define WEFT_TESTING_MODEL_CONFIG_H

#include "model_arena.h"
#include "model_server.h"

/* Copies all but the faults (see model_fault.h), of which the copy has none, and the matcher. What
 * the copy points to belongs to `arena`. Returns 0, or -1 when there is no memory. */
int weft_model_config_copy(weft_model_arena *arena, weft_model_config *copy,
                           const weft_model_config *config);
const weft_model_header *weft_model_copy_headers(weft_model_arena *arena,
                                                 const weft_model_header *headers, size_t count);

#endif
