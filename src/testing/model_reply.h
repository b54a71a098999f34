/* model_reply.h: the answer to a request, as bytes and as a way to send them.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_REPLY_H
#define WEFT_TESTING_MODEL_REPLY_H

#include <stdbool.h>

#include "../core/buf.h"
#include "model_fault.h"
#include "model_server.h"

typedef struct weft_model_replier {
  const weft_model_config *config; /* not owned */
  weft_model_faults *faults;       /* not owned */
  uint64_t jitter_state;
  uint64_t serial;      /* answers so far: makes their ids */
  weft_buf content;     /* scratch: what the model says */
  weft_buf body;        /* scratch: the body around it */
} weft_model_replier;

typedef struct weft_model_answer {
  weft_buf bytes; /* owned: head and body */
  size_t cut;     /* only so many of them are sent */
  double delay;   /* seconds before the first byte */
  double stall;   /* seconds of silence after the last byte, then the connection ends; 0: none */
  bool reset;     /* no byte at all: the connection is reset */
  bool close;     /* the connection ends after the last byte */
  bool faulty;    /* a fault is in it */
} weft_model_answer;

void weft_model_replier_init(weft_model_replier *replier, const weft_model_config *config,
                             weft_model_faults *faults);
void weft_model_replier_free(weft_model_replier *replier);

/* Makes the answer to a request. The content is, in this order: the reply that is configured for
 * the model, the one for all models, what a built-in model says (model_mock.h), or "echo: " and the
 * last message. Returns WEFT_BUF_OK, or why not; `answer` is to be freed either way. */
int weft_model_reply(weft_model_replier *replier, const weft_model_request *request,
                     bool keep_alive, weft_model_answer *answer);

/* Makes the answer to something that is no valid request; the connection ends after it. */
int weft_model_refuse(weft_model_replier *replier, int status, weft_model_answer *answer);

void weft_model_answer_free(weft_model_answer *answer);

#endif
