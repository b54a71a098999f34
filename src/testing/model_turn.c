/* model_turn.c: splits what a model says into the deltas of a stream, one at a time.
 *
 * Owns the texts of each turn. Only the server thread enters. Invariant: nothing of a stream is
 * made before it is its turn, so that a long stream holds no more memory than its text.
 */
#include "model_turn.h"

#include "model_api.h"

enum { CALL_DELTAS = 3 };

/* Cutting ------------------------------------------------------------------------------------- */

static bool is_continuation(char c) {
  return (c & 0xC0) == 0x80;
}

/* Where the word ends that begins at `at`, with the space before it. */
static size_t word_end(const char *text, size_t size, size_t at) {
  while (at < size && text[at] == ' ')
    at++;
  while (at < size && text[at] != ' ')
    at++;
  return at;
}

/* The end of the delta that begins at `at`. */
static size_t delta_end(const char *text, size_t size, size_t at, double chunks) {
  if (chunks < 0)
    return word_end(text, size, at);
  /* the first of `chunks` equal parts that ends behind `at` */
  double part = (double)size / chunks;
  size_t index = (size_t)((double)at / part) + 1;
  size_t end = (size_t)((double)index * part);
  while (end <= at)
    end = (size_t)((double)++index * part);
  if (end > size || index >= (size_t)chunks)
    end = size;
  while (end < size && is_continuation(text[end]))
    end++;
  return end;
}

/* Steps --------------------------------------------------------------------------------------- */

static size_t call_count(const weft_model_turn *turn) {
  return turn->canned ? turn->canned->call_count : 0;
}

static bool has_text(const weft_model_turn *turn) {
  return turn->text.size > 0 || call_count(turn) == 0;
}

static weft_json_span section_text(const weft_model_turn *turn, size_t section) {
  if (section == 0)
    return (weft_json_span){(const char *)turn->text.data, turn->text.size};
  const char *arguments = turn->canned->calls[section - 1].arguments;
  return (weft_json_span){arguments, strlen(arguments)};
}

static void end_section(weft_model_cursor *at) {
  at->section++;
  at->step = 0;
  at->offset = 0;
}

static void take_delta(const weft_model_turn *turn, weft_model_cursor *at, weft_json_span all,
                       weft_model_piece *piece) {
  double chunks = turn->style.chunks;
  if (at->section > 0 && chunks < 0)
    chunks = CALL_DELTAS;
  size_t end = delta_end(all.text, all.size, at->offset, chunks);
  piece->text = (weft_json_span){all.text + at->offset, end - at->offset};
  at->said += end - at->offset;
  at->offset = end;
  at->deltas++;
}

bool weft_model_turn_step(const weft_model_turn *turn, weft_model_cursor *at,
                          weft_model_piece *piece) {
  if (at->section == 0 && !has_text(turn))
    at->section = 1;
  if (at->section > call_count(turn))
    return false;
  weft_json_span all = section_text(turn, at->section);
  bool call = at->section > 0;
  *piece = (weft_model_piece){.call = call ? at->section - 1 : 0,
                              .block = at->section - !has_text(turn)};
  if (at->step++ == 0) {
    piece->kind = call ? WEFT_MODEL_CALL_START : WEFT_MODEL_TEXT_START;
  } else if (at->offset < all.size) {
    piece->kind = call ? WEFT_MODEL_CALL_ARGUMENTS : WEFT_MODEL_TEXT;
    take_delta(turn, at, all, piece);
  } else {
    piece->kind = call ? WEFT_MODEL_CALL_END : WEFT_MODEL_TEXT_END;
    end_section(at);
  }
  return true;
}

size_t weft_model_turn_deltas(const weft_model_turn *turn) {
  weft_model_cursor at = {0};
  weft_model_piece piece;
  while (weft_model_turn_step(turn, &at, &piece))
    continue;
  return at.deltas;
}

uint64_t weft_model_turn_said(const weft_model_turn *turn) {
  uint64_t said = weft_model_tokens(turn->at.said);
  return said < turn->output_tokens ? said : turn->output_tokens;
}

/* The stream ---------------------------------------------------------------------------------- */

static void interrupt(weft_model_turn *turn, weft_json_writer *out) {
  turn->api->interrupt(turn, out);
  turn->at.stage = WEFT_MODEL_OVER;
}

static bool is_interrupted(const weft_model_turn *turn) {
  const weft_model_interruption *by = &turn->interruption;
  return (by->failure || by->garbage) && turn->at.deltas >= by->after;
}

/* Goes on by one step, which may write nothing. */
static void say(weft_model_turn *turn, weft_json_writer *out) {
  weft_model_piece piece;
  if (is_interrupted(turn))
    interrupt(turn, out);
  else if (weft_model_turn_step(turn, &turn->at, &piece))
    turn->api->piece(turn, &piece, out);
  else
    turn->at.stage = WEFT_MODEL_CLOSING;
}

bool weft_model_turn_next(weft_model_turn *turn, weft_json_writer *out, bool *delta) {
  weft_model_cursor *at = &turn->at;
  size_t before = out->out->size, deltas = at->deltas;
  while (out->out->size == before && out->rc == WEFT_BUF_OK && at->stage != WEFT_MODEL_OVER) {
    if (at->stage == WEFT_MODEL_SAYING) {
      say(turn, out);
    } else if (at->stage == WEFT_MODEL_OPENING) {
      if (!turn->api->open(turn, at->event++, out))
        at->stage = WEFT_MODEL_SAYING, at->event = 0;
    } else if (!turn->api->close(turn, at->event++, out)) {
      at->stage = WEFT_MODEL_OVER;
    }
  }
  *delta = at->deltas > deltas;
  return out->out->size > before;
}

void weft_model_turn_free(weft_model_turn *turn) {
  if (turn->ask.request)
    weft_model_request_release(turn->ask.request);
  weft_model_ask_free(&turn->ask);
  weft_buf_free(&turn->text);
  *turn = (weft_model_turn){0};
}
