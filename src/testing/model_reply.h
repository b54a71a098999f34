/* model_reply.h: the answer to a request: where it goes, who may ask, what meets it.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_REPLY_H
#define WEFT_TESTING_MODEL_REPLY_H

#include "model_answer.h"
#include "model_content.h"
#include "model_fault.h"
#include "model_quota.h"

typedef struct weft_model_replier {
  const weft_model_config *config; /* not owned */
  weft_model_faults *faults;       /* not owned */
  weft_model_speaker speaker;      /* owned */
  weft_model_quota quota;
  uint16_t port;
  uint64_t jitter_state;
  uint64_t serial;    /* answers so far: makes their ids */
  int64_t date;       /* the second that `date_line` tells */
  weft_buf date_line; /* owned: the Date header */
} weft_model_replier;

/* Returns 0, or -1 when there is no memory: then, too, it is to be freed. */
int weft_model_replier_init(weft_model_replier *replier, const weft_model_config *config,
                            weft_model_faults *faults);
void weft_model_replier_free(weft_model_replier *replier);

/* Makes the answer to a request, of which it takes one reference; `old` is HTTP/1.0. Returns
 * WEFT_BUF_OK, or why not; `answer`, which was zeroed, is to be freed either way. */
int weft_model_reply(weft_model_replier *replier, const weft_model_request *request,
                     bool keep_alive, bool old, weft_model_answer *answer);

/* Makes the answer to something that is no valid request; the connection ends after it. */
int weft_model_refuse(weft_model_replier *replier, int status, weft_model_answer *answer);

#endif
