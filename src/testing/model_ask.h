/* model_ask.h: what a request asks for, checked as the real service would.
 *
 * An ask belongs to one thread at a time and points into its request. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_ASK_H
#define WEFT_TESTING_MODEL_ASK_H

#include "model_http.h"

typedef enum weft_model_family {
  WEFT_MODEL_OPENAI,
  WEFT_MODEL_ANTHROPIC,
  WEFT_MODEL_OLLAMA,
} weft_model_family;

typedef enum weft_model_task {
  WEFT_MODEL_TASK_NONE, /* nothing to generate: the answer is made elsewhere */
  WEFT_MODEL_TASK_CHAT,
  WEFT_MODEL_TASK_GENERATE, /* Ollama: one prompt instead of messages */
  WEFT_MODEL_TASK_EMBED,
  WEFT_MODEL_TASK_EMBED_ONE, /* Ollama's older call: "prompt" in, one vector out */
  WEFT_MODEL_TASK_COUNT,     /* Anthropic: counts the tokens of the input */
} weft_model_task;

enum { WEFT_MODEL_INPUTS_MAX = 2048, WEFT_MODEL_DIMENSIONS_MAX = 4096 };

/* Why a request is refused, or a fault says so. NULL: what is usual for the status. */
typedef struct weft_model_failure {
  int status; /* 0: none */
  const char *message, *type, *code, *param;
} weft_model_failure;

typedef struct weft_model_ask {
  weft_model_family family;
  weft_model_task task;
  const weft_model_request *request; /* not owned */
  weft_json_value body;
  bool stream, include_usage;
  bool base64;         /* EMBED: vectors as base64 of little-endian floats */
  size_t inputs;       /* EMBED: how many vectors */
  size_t dimensions;   /* EMBED: as asked for; 0: not */
  uint64_t max_tokens; /* 0: no limit */
  size_t prompt_bytes; /* of all texts, as they stand in the document */
  weft_buf last;       /* owned: the text of the last message */
} weft_model_ask;

/* Reads the body of a request to a model. Returns WEFT_BUF_OK or WEFT_BUF_NOMEM; a request that is
 * refused sets `failure` (whose texts live for ever). The ask is to be freed either way. */
int weft_model_ask_read(weft_model_ask *ask, weft_model_failure *failure);
void weft_model_ask_free(weft_model_ask *ask);

/* About what a tokenizer makes of a text: four bytes each. */
static inline uint64_t weft_model_tokens(size_t bytes) {
  return bytes / 4 + 1;
}

#endif
