/* model_turn.h: one exchange with a model: what was asked, what is said, and how far a stream is.
 *
 * A turn belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_TURN_H
#define WEFT_TESTING_MODEL_TURN_H

#include "model_ask.h"
#include "model_style.h"

typedef enum weft_model_piece_kind {
  WEFT_MODEL_TEXT_START,
  WEFT_MODEL_TEXT, /* a delta */
  WEFT_MODEL_TEXT_END,
  WEFT_MODEL_CALL_START,
  WEFT_MODEL_CALL_ARGUMENTS, /* a delta */
  WEFT_MODEL_CALL_END,
} weft_model_piece_kind;

/* A step of what is said; its text points into the turn. */
typedef struct weft_model_piece {
  weft_model_piece_kind kind;
  size_t call;         /* which call of a tool, from 0 */
  size_t block;        /* which block of the content, from 0 */
  weft_json_span text; /* of a delta */
} weft_model_piece;

typedef enum weft_model_stage {
  WEFT_MODEL_OPENING,
  WEFT_MODEL_SAYING,
  WEFT_MODEL_CLOSING,
  WEFT_MODEL_OVER,
} weft_model_stage;

/* How far a stream has come. */
typedef struct weft_model_cursor {
  weft_model_stage stage;
  size_t event;   /* of OPENING or CLOSING, from 0 */
  size_t section; /* 0: the text; n: the nth call of a tool */
  size_t step;    /* inside of the section: its start, its deltas, its end */
  size_t offset;  /* bytes of the section that are said */
  size_t deltas;  /* so far, of all sections */
  size_t said;    /* bytes so far, of all sections */
} weft_model_cursor;

/* The error that ends a stream, after so many deltas. */
typedef struct weft_model_interruption {
  const weft_model_failure *failure; /* not owned; NULL: none */
  size_t after;
  bool named;   /* with `event: error` */
  bool done;    /* [DONE] follows */
  bool garbage; /* no error, but bytes that are no JSON */
} weft_model_interruption;

struct weft_model_api;

typedef struct weft_model_turn {
  weft_model_ask ask;
  const struct weft_model_api *api;
  weft_model_style style;
  weft_model_interruption interruption;
  weft_model_failure failure;      /* of a fault: what the interruption points to */
  const weft_model_canned *canned; /* not owned; NULL: only `text` */
  size_t rule;                     /* that it comes from, from 1; 0: none */
  weft_buf text;                   /* owned: what is said */
  const char *finish;              /* why it ends, in OpenAI's words */
  uint64_t serial;                 /* makes the ids */
  int64_t created;                 /* seconds since 1970 */
  uint64_t input_tokens, output_tokens;
  size_t dimensions;
  weft_model_cursor at;
} weft_model_turn;

/* The next step of what is said; false after the last. */
bool weft_model_turn_step(const weft_model_turn *turn, weft_model_cursor *at,
                          weft_model_piece *piece);
/* How many deltas the whole stream has. */
size_t weft_model_turn_deltas(const weft_model_turn *turn);

/* Writes the next event of a stream. Returns false at its end, when nothing was written; sets
 * `*delta` when the event was a delta. */
bool weft_model_turn_next(weft_model_turn *turn, weft_json_writer *out, bool *delta);

/* Tokens that are said so far, or all of them. */
uint64_t weft_model_turn_said(const weft_model_turn *turn);

/* Frees what the turn owns, and leaves it empty. */
void weft_model_turn_free(weft_model_turn *turn);

#endif
