/* model_head.h: the heads of answers.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_HEAD_H
#define WEFT_TESTING_MODEL_HEAD_H

#include "model_json.h"
#include "model_server.h"

/* "name: value" and a line end. */
void weft_model_put_header(weft_json_writer *out, const char *name, const char *value);
void weft_model_put_number_header(weft_json_writer *out, const char *name, uint64_t value);
/* As "Sun, 06 Nov 1994 08:49:37 GMT"; seconds since 1970. */
void weft_model_put_date_header(weft_json_writer *out, const char *name, int64_t time);
/* "1994-11-06T08:49:37Z" */
void weft_model_put_utc(int64_t time, weft_json_writer *out);
/* The headers of the configuration or of a fault, as they were given. */
void weft_model_put_headers(weft_json_writer *out, const weft_model_header *headers, size_t count);

/* What a fault says about the next attempt. */
void weft_model_put_retry_headers(weft_json_writer *out, const weft_model_fault *fault,
                                  int64_t now);

#endif
