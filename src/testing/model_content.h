/* model_content.h: what a model says to a request.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_CONTENT_H
#define WEFT_TESTING_MODEL_CONTENT_H

#include "model_turn.h"

typedef struct weft_model_speaker {
  const weft_model_config *config; /* not owned */
  uint64_t *taken;                 /* owned: how many requests each rule has answered */
} weft_model_speaker;

/* Returns 0, or -1 when there is no memory: then, too, it is to be freed. */
int weft_model_speaker_init(weft_model_speaker *speaker, const weft_model_config *config);
void weft_model_speaker_free(weft_model_speaker *speaker);

/* Fills the turn's text, canned answer, finish and tokens from its ask, which was read already: by
 * the first rule that matches; by a built-in model (model_mock.h); or "echo: " and the last
 * message. A task that is no talk gets its tokens alone. Returns WEFT_BUF_OK, or why not. */
int weft_model_speak(const weft_model_speaker *speaker, weft_model_turn *turn);
/* The client gets what was said: the next request that the same rule matches is one later. */
void weft_model_spoken(weft_model_speaker *speaker, const weft_model_turn *turn);

#endif
