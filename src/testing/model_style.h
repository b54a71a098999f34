/* model_style.h: how answers are cut into pieces and dressed up on their way: each choice is one
 * number, which the server sets for all answers and a fault for those that it meets.
 *
 * A style is a plain value. Nothing here keeps state or blocks.
 */
#ifndef WEFT_TESTING_MODEL_STYLE_H
#define WEFT_TESTING_MODEL_STYLE_H

#include <stdbool.h>

typedef enum weft_model_line_end {
  WEFT_MODEL_LF,
  WEFT_MODEL_CRLF,
  WEFT_MODEL_CR,
} weft_model_line_end;

typedef enum weft_model_usage {
  WEFT_MODEL_USAGE_USUAL,
  WEFT_MODEL_USAGE_MISSING,
  WEFT_MODEL_USAGE_CUMULATIVE, /* with every delta, growing */
} weft_model_usage;

typedef enum weft_model_framing {
  WEFT_MODEL_FRAMING_USUAL, /* Content-Length, or chunks for a stream */
  WEFT_MODEL_FRAMING_CHUNKED,
  WEFT_MODEL_FRAMING_CLOSE, /* the body ends with the connection */
} weft_model_framing;

/* Every field is -1 when it is not chosen; booleans are 0 or 1. */
typedef struct weft_model_style {
  /* streams of events */
  double chunks;   /* into how many deltas a text is split; not chosen: one for each word */
  double delay;    /* seconds between two deltas */
  int line_end;    /* of SSE: a weft_model_line_end */
  int bom;         /* a byte order mark first */
  int comments;    /* a comment before each event, as keep-alives are */
  int space;       /* after the colon; not chosen: yes */
  int split_lines; /* the data of an event on several lines */
  int pings;       /* Anthropic's ping; not chosen: yes */
  int done;        /* the last mark: [DONE], message_stop, "done":true; not chosen: yes */
  int finish;      /* the reason why it ended; not chosen: yes */
  int usage;       /* a weft_model_usage, of plain answers too */
  /* bytes */
  int framing;        /* a weft_model_framing */
  double piece;       /* bytes of the body that are sent at once, as one chunk */
  int split_utf8;     /* a piece ends inside of each character that has more than one byte */
  double piece_delay; /* seconds between two pieces */
  int gzip;           /* the body is compressed */
  double interim;     /* how many 1xx answers come first */
  double head_delay;  /* seconds between two lines of the head */
  int hang_up;        /* keep-alive is promised, and the connection closed after the answer */
} weft_model_style;

/* Nothing is chosen. */
weft_model_style weft_model_style_none(void);
/* What `over` chooses wins over `under`. */
weft_model_style weft_model_style_merge(weft_model_style under, const weft_model_style *over);

/* Whether nothing is chosen. */
bool weft_model_style_is_none(const weft_model_style *style);

/* A choice, or what is usual. */
static inline int weft_model_chosen(int choice, int usual) {
  return choice < 0 ? usual : choice;
}

#endif
