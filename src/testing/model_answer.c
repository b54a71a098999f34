/* model_answer.c: frames an answer: its head, then the body in pieces, up to where a fault breaks
 * it.
 *
 * Owns the buffers of each answer. Only the server thread enters. Invariant: an answer never holds
 * more of a stream than FILL_SIZE and one event.
 */
#include "model_answer.h"

#include <math.h>

enum { FILL_SIZE = 16 * 1024 };

/* Ending -------------------------------------------------------------------------------------- */

/* The place of the break is reached. */
static void break_here(weft_model_answer *answer) {
  answer->brk.armed = false;
  if (answer->brk.ending == WEFT_MODEL_MORE) {
    answer->next_pause += answer->brk.seconds;
    return;
  }
  answer->ending = answer->brk.ending;
  answer->stall = answer->brk.seconds;
}

/* The body is framed to its last byte. */
static int finish(weft_model_answer *answer) {
  weft_model_break *brk = &answer->brk;
  if (brk->armed) {
    break_here(answer);
    return WEFT_BUF_OK;
  }
  answer->ending = answer->close || !answer->keeps_promise ? WEFT_MODEL_CLOSE : WEFT_MODEL_KEEP;
  return answer->chunked ? weft_buf_append(&answer->bytes, "0\r\n\r\n", 5) : WEFT_BUF_OK;
}

/* The head ------------------------------------------------------------------------------------ */

/* Where the part of the head ends that is sent next. */
static size_t head_end(const weft_model_answer *answer) {
  const weft_buf *head = &answer->head;
  if (answer->turn.style.head_delay < 0)
    return head->size;
  const uint8_t *at = head->data + answer->head_at;
  const uint8_t *line = memchr(at, '\n', head->size - answer->head_at);
  return line ? (size_t)(line + 1 - head->data) : head->size;
}

static int put_head(weft_model_answer *answer) {
  weft_model_break *brk = &answer->brk;
  size_t end = head_end(answer), limit = answer->head.size;
  if (brk->armed && brk->point <= WEFT_MODEL_AFTER_HEAD) {
    limit = brk->point == WEFT_MODEL_BEFORE    ? 0
            : brk->point == WEFT_MODEL_IN_HEAD ? answer->head.size / 2
                                               : answer->head.size;
    end = end < limit ? end : limit;
  }
  int rc =
      weft_buf_append(&answer->bytes, answer->head.data + answer->head_at, end - answer->head_at);
  answer->head_at = end;
  if (answer->turn.style.head_delay > 0 && end < answer->head.size)
    answer->next_pause = answer->turn.style.head_delay;
  if (brk->armed && brk->point <= WEFT_MODEL_AFTER_HEAD && end == limit)
    break_here(answer);
  return rc;
}

/* The body ------------------------------------------------------------------------------------ */

/* Where the next piece ends, of `size` bytes that there are. */
static size_t piece_end(const weft_model_answer *answer, size_t size) {
  const weft_model_style *style = &answer->turn.style;
  const uint8_t *bytes = answer->body.data + answer->body_at;
  if (style->piece > 0 && size > style->piece)
    size = (size_t)style->piece;
  if (weft_model_chosen(style->split_utf8, 0))
    for (size_t i = 0; i + 1 < size; i++)
      if (bytes[i] >= 0xC0)
        return i + 1; /* behind the first byte of a character */
  return size;
}

/* The size of a chunk, in hexadecimal. */
static void put_size(weft_json_writer *out, size_t size) {
  static const char digits[] = "0123456789abcdef";
  char text[18], *at = text + sizeof text;
  *--at = '\n';
  *--at = '\r';
  do
    *--at = digits[size & 15];
  while (size >>= 4);
  weft_json_put_bytes(out, at, (size_t)(text + sizeof text - at));
}

static int put_chunk(weft_model_answer *answer, size_t size, size_t sent) {
  weft_json_writer out = {&answer->bytes, WEFT_BUF_OK};
  if (answer->chunked)
    put_size(&out, size);
  weft_json_put_bytes(&out, answer->body.data + answer->body_at, sent);
  if (answer->chunked && sent == size)
    weft_json_put(&out, "\r\n");
  answer->body_at += sent;
  answer->framed += sent;
  return out.rc;
}

static int put_piece(weft_model_answer *answer) {
  weft_model_break *brk = &answer->brk;
  size_t size = piece_end(answer, answer->body.size - answer->body_at), sent = size;
  bool breaks = brk->armed && brk->byte - answer->framed <= size;
  if (breaks)
    sent = (size_t)(brk->byte - answer->framed);
  if (breaks && brk->ending == WEFT_MODEL_MORE)
    size = sent; /* the rest will come in a chunk of its own */
  int rc = sent ? put_chunk(answer, size, sent) : WEFT_BUF_OK;
  if (breaks)
    break_here(answer);
  else if (answer->body_at < answer->body.size && answer->turn.style.piece_delay > 0)
    answer->next_pause += answer->turn.style.piece_delay;
  return rc;
}

/* The event that was just made is the one where it breaks: a delta, or what comes after all of
 * them. */
static bool breaks_now(const weft_model_answer *answer, size_t deltas_before, bool delta) {
  const weft_model_break *brk = &answer->brk;
  bool halfway = brk->point == WEFT_MODEL_IN_BODY || brk->point == WEFT_MODEL_IN_EVENT;
  return brk->armed && halfway && brk->byte == UINT64_MAX && deltas_before >= brk->after &&
         (delta || answer->turn.at.stage >= WEFT_MODEL_CLOSING);
}

static int compress(weft_model_answer *answer) {
  return weft_model_chosen(answer->turn.style.gzip, 0)
             ? weft_gzip_pack(&answer->gzip, &answer->body, !answer->streams)
             : WEFT_BUF_OK;
}

/* Makes the next event of a stream, or sees that there is none. */
static int make_event(weft_model_answer *answer) {
  weft_json_writer out = {&answer->body, WEFT_BUF_OK};
  size_t deltas = answer->turn.at.deltas;
  bool delta;
  answer->body.size = answer->body_at = 0;
  answer->streams = weft_model_turn_next(&answer->turn, &out, &delta);
  int rc = out.rc == WEFT_BUF_OK ? compress(answer) : out.rc;
  if (answer->streams && breaks_now(answer, deltas, delta)) {
    bool inside = answer->brk.point == WEFT_MODEL_IN_EVENT;
    answer->brk.byte = answer->framed + (inside ? answer->body.size / 2 : 0);
  }
  if (delta && answer->turn.style.delay > 0)
    answer->next_pause = answer->turn.style.delay;
  return rc;
}

static int advance(weft_model_answer *answer) {
  if (answer->head_at < answer->head.size)
    return put_head(answer);
  if (answer->body_at < answer->body.size)
    return put_piece(answer);
  if (answer->streams)
    return make_event(answer);
  return finish(answer);
}

int weft_model_answer_fill(weft_model_answer *answer) {
  int rc = WEFT_BUF_OK;
  answer->bytes.size = 0;
  answer->pause = answer->next_pause;
  answer->next_pause = 0;
  while (rc == WEFT_BUF_OK && answer->ending == WEFT_MODEL_MORE && answer->bytes.size < FILL_SIZE &&
         answer->next_pause == 0)
    rc = advance(answer);
  return rc;
}

void weft_model_answer_free(weft_model_answer *answer) {
  weft_model_turn_free(&answer->turn);
  weft_buf_free(&answer->bytes);
  weft_buf_free(&answer->head);
  weft_buf_free(&answer->body);
  *answer = (weft_model_answer){0};
}
