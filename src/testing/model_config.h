/* model_config.h: a server's own copy of its configuration.
 *
 * A copy is immutable while its server runs: any thread may read it. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_CONFIG_H
#define WEFT_TESTING_MODEL_CONFIG_H

#include "model_server.h"

/* Copies the key and the replies; the faults are not copied (see model_fault.h), the copy has none.
 * Returns 0, or -1 when there is no memory: then, too, the copy is to be freed. */
int weft_model_config_copy(weft_model_config *copy, const weft_model_config *config);
void weft_model_config_free(weft_model_config *copy);

#endif
