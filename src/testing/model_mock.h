/* model_mock.h: models with a behaviour of their own, so that demos have answers that make sense.
 *
 * Nothing here keeps state or blocks.
 */
#ifndef WEFT_TESTING_MODEL_MOCK_H
#define WEFT_TESTING_MODEL_MOCK_H

#include <stdbool.h>

#include "model_json.h"

/* Writes what a built-in model says to `text`; false when there is no such model:
 *   mock-sentiment  {"label":"positive"|"neutral"|"negative","score":0.50 to 0.99}
 *   mock-topic      {"label":"library"|"tool"|"daemon"|"font"|"game"|"documentation"|"other", …}
 *   mock-summary    {"summary":"the first twelve words"}
 * They count keywords; the same text always gives the same answer. */
bool weft_model_mock(const char *model, const char *text, size_t size, weft_json_writer *out);

#endif
