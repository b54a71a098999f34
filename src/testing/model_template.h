/* model_template.h: texts with places that are filled from a request.
 *
 *   {{last}}            the text of the last message
 *   {{model}} {{path}} {{method}} {{connection}}
 *   {{number}}          of the answer, from 1
 *   {{header.NAME}}     as it was sent
 *   {{body.a.1.b}}      a member of the body, an item of a list from 1: a string as text, else JSON
 *
 * Anything else in braces stays as it is; what the request does not have is empty.
 */
#ifndef WEFT_TESTING_MODEL_TEMPLATE_H
#define WEFT_TESTING_MODEL_TEMPLATE_H

#include "model_turn.h"

/* Belongs to the server thread; does not block. */
void weft_model_fill_template(const char *text, const weft_model_turn *turn, weft_json_writer *out);

#endif
