/* model_api.h: the shapes of the three APIs: what a turn looks like in each of them.
 *
 * Belongs to the server thread. Nothing here keeps state or blocks.
 */
#ifndef WEFT_TESTING_MODEL_API_H
#define WEFT_TESTING_MODEL_API_H

#include "model_turn.h"

typedef struct weft_model_api {
  const char *stream_type; /* Content-Type of a stream */
  /* Writes a whole answer. */
  void (*plain)(const weft_model_turn *turn, weft_json_writer *out);
  void (*embed)(const weft_model_turn *turn, weft_json_writer *out);
  /* Write the nth event before the first delta and after the last; false when there is none. One
   * that the style leaves out writes nothing. */
  bool (*open)(const weft_model_turn *turn, size_t n, weft_json_writer *out);
  bool (*close)(const weft_model_turn *turn, size_t n, weft_json_writer *out);
  /* Writes one event, or nothing. */
  void (*piece)(const weft_model_turn *turn, const weft_model_piece *piece, weft_json_writer *out);
  /* Writes the interruption of a turn. */
  void (*interrupt)(const weft_model_turn *turn, weft_json_writer *out);
  /* Writes the body of an error. */
  void (*error)(const weft_model_failure *failure, uint64_t serial, weft_json_writer *out);
} weft_model_api;

extern const weft_model_api weft_model_openai_api;
extern const weft_model_api weft_model_anthropic_api;
extern const weft_model_api weft_model_ollama_api;

/* The one that a family of paths speaks; constant. */
const weft_model_api *weft_model_api_of(weft_model_family family);

/* "Not Found" */
const char *weft_model_status_name(int status);

/* Shared by the APIs -------------------------------------------------------------------------- */

/* An event of SSE, whose data is one JSON object: begins with its brace, `name` may be NULL. */
void weft_model_begin_event(const weft_model_turn *turn, const char *name, weft_json_writer *out);
void weft_model_end_event(const weft_model_turn *turn, weft_json_writer *out);
/* An event with any data. */
void weft_model_put_event(const weft_model_turn *turn, const char *name, const char *data,
                          weft_json_writer *out);

/* The text of an error: its own, or the name of its status. */
const char *weft_model_failure_text(const weft_model_failure *failure);
/* The id of a call of a tool, as a JSON string. */
void weft_model_put_call_id(const weft_model_turn *turn, size_t call, const char *prefix,
                            weft_json_writer *out);
/* Arguments of a tool as JSON; as a string when they are none. */
void weft_model_put_arguments(const char *arguments, weft_json_writer *out);
void weft_model_put_model(const weft_model_turn *turn, weft_json_writer *out);
void weft_model_put_said(const weft_model_turn *turn, weft_json_writer *out);
/* The vector of the nth input, of unit length: the same for the same text, and close for texts that
 * share words. */
void weft_model_vector(const weft_model_turn *turn, size_t n, float *vector);
/* As a list of numbers. */
int weft_model_put_vector(const weft_model_turn *turn, size_t n, weft_json_writer *out);
/* As a string of base64. */
int weft_model_put_vector_base64(const weft_model_turn *turn, size_t n, weft_json_writer *out);

#endif
