/* model_answer.h: an answer on its way: made piece by piece, as the connection can take more.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_ANSWER_H
#define WEFT_TESTING_MODEL_ANSWER_H

#include "model_gzip.h"
#include "model_turn.h"

typedef enum weft_model_ending {
  WEFT_MODEL_MORE,  /* it is not made to its end yet */
  WEFT_MODEL_KEEP,  /* the connection goes on after the last byte */
  WEFT_MODEL_CLOSE, /* it ends */
  WEFT_MODEL_RESET, /* it is reset */
  WEFT_MODEL_STALL, /* silence for `stall` seconds, then it ends */
} weft_model_ending;

/* Where an answer breaks, and how. */
typedef struct weft_model_break {
  weft_model_ending ending; /* MORE: a pause of `seconds`, once */
  bool armed;
  weft_model_point point;
  uint64_t byte; /* of the body, where it is known already; else UINT64_MAX */
  size_t after;  /* deltas */
  double seconds;
} weft_model_break;

typedef struct weft_model_answer {
  weft_buf bytes;           /* owned: to be sent next */
  double pause;             /* seconds of silence before them */
  weft_model_ending ending; /* what comes after them */
  double stall;
  bool faulty; /* a fault is in it */
  /* how it is made */
  weft_model_turn turn; /* owned */
  weft_buf head, body;  /* owned: made, not framed yet; the body of a stream is its last event */
  size_t head_at, body_at;
  bool streams;        /* the turn goes on */
  bool chunked, close; /* how the body ends */
  bool keeps_promise;  /* false: the connection ends although its head says that it stays */
  weft_gzip gzip;      /* of a stream that is compressed */
  uint64_t framed;     /* bytes of the body so far */
  weft_model_break brk;
  double next_pause;
} weft_model_answer;

/* Makes the next bytes. Called when all earlier ones are sent and the ending is MORE. Returns
 * WEFT_BUF_OK, or why not. */
int weft_model_answer_fill(weft_model_answer *answer);
void weft_model_answer_free(weft_model_answer *answer);

#endif
