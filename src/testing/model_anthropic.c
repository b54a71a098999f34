/* model_anthropic.c: Anthropic's shapes: messages, their events, errors.
 *
 * Owns nothing. Only the server thread enters. Invariant: every event has its name, and a "type"
 * that is the same.
 */
#include "model_api.h"

/* Parts --------------------------------------------------------------------------------------- */

static const char *stop_reason(const weft_model_turn *turn) {
  static const char *const names[][2] = {{"stop", "end_turn"},
                                         {"length", "max_tokens"},
                                         {"tool_calls", "tool_use"},
                                         {"content_filter", "refusal"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(turn->finish, names[i][0]) == 0)
      return names[i][1];
  return turn->finish;
}

static void put_stop(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "\"stop_reason\":");
  weft_json_put_text(out, weft_model_chosen(turn->style.finish, 1) ? stop_reason(turn) : NULL);
  weft_json_put(out, ",\"stop_sequence\":null");
}

static void put_call(const weft_model_turn *turn, size_t call, const char *arguments,
                     weft_json_writer *out) {
  weft_json_put(out, "{\"type\":\"tool_use\",\"id\":");
  weft_model_put_call_id(turn, call, "toolu", out);
  weft_json_put(out, ",\"name\":");
  weft_json_put_text(out, turn->canned->calls[call].name);
  weft_json_put(out, ",\"input\":");
  weft_model_put_arguments(arguments, out);
  weft_json_put(out, "}");
}

static void put_message_head(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_putf(out, "\"id\":\"msg_%llu\",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                 (unsigned long long)turn->serial);
  weft_model_put_model(turn, out);
  weft_json_put(out, ",\"content\":[");
}

static void put_usage(const weft_model_turn *turn, uint64_t output, weft_json_writer *out) {
  weft_json_putf(out,
                 "{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,"
                 "\"cache_read_input_tokens\":0,\"output_tokens\":%llu}",
                 (unsigned long long)turn->input_tokens, (unsigned long long)output);
}

/* Plain --------------------------------------------------------------------------------------- */

static void put_plain(const weft_model_turn *turn, weft_json_writer *out) {
  if (turn->ask.task == WEFT_MODEL_TASK_COUNT) {
    weft_json_putf(out, "{\"input_tokens\":%llu}", (unsigned long long)turn->input_tokens);
    return;
  }
  size_t calls = turn->canned ? turn->canned->call_count : 0;
  weft_json_put(out, "{");
  put_message_head(turn, out);
  if (turn->text.size || !calls) {
    weft_json_put(out, "{\"type\":\"text\",\"text\":");
    weft_model_put_said(turn, out);
    weft_json_put(out, calls ? "}," : "}");
  }
  for (size_t i = 0; i < calls; i++) {
    weft_json_put(out, i ? "," : "");
    put_call(turn, i, turn->canned->calls[i].arguments, out);
  }
  weft_json_put(out, "],");
  put_stop(turn, out);
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING) {
    weft_json_put(out, ",\"usage\":");
    put_usage(turn, turn->output_tokens, out);
  }
  weft_json_put(out, "}");
}

/* Streamed ------------------------------------------------------------------------------------ */

static void begin(const weft_model_turn *turn, const char *name, weft_json_writer *out) {
  weft_model_begin_event(turn, name, out);
  weft_json_put(out, "\"type\":");
  weft_json_put_text(out, name);
}

static void end(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "}");
  weft_model_end_event(turn, out);
}

static void put_start(const weft_model_turn *turn, weft_json_writer *out) {
  begin(turn, "message_start", out);
  weft_json_put(out, ",\"message\":{");
  put_message_head(turn, out);
  weft_json_put(out, "],\"stop_reason\":null,\"stop_sequence\":null");
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING) {
    weft_json_put(out, ",\"usage\":");
    put_usage(turn, 1, out);
  }
  weft_json_put(out, "}");
  end(turn, out);
}

static bool put_open(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  if (n == 0)
    put_start(turn, out);
  return n == 0;
}

static void put_ping(const weft_model_turn *turn, weft_json_writer *out) {
  if (!weft_model_chosen(turn->style.pings, 1))
    return;
  begin(turn, "ping", out);
  end(turn, out);
}

static void put_block_start(const weft_model_turn *turn, const weft_model_piece *piece,
                            weft_json_writer *out) {
  begin(turn, "content_block_start", out);
  weft_json_putf(out, ",\"index\":%zu,\"content_block\":", piece->block);
  if (piece->kind == WEFT_MODEL_TEXT_START)
    weft_json_put(out, "{\"type\":\"text\",\"text\":\"\"}");
  else
    put_call(turn, piece->call, "{}", out);
  end(turn, out);
  if (piece->block == 0)
    put_ping(turn, out);
}

/* Usage that grows comes in a message_delta of its own. */
static void put_growth(const weft_model_turn *turn, weft_json_writer *out) {
  if (turn->style.usage != WEFT_MODEL_USAGE_CUMULATIVE)
    return;
  begin(turn, "message_delta", out);
  weft_json_putf(out,
                 ",\"delta\":{\"stop_reason\":null,\"stop_sequence\":null},"
                 "\"usage\":{\"output_tokens\":%llu}",
                 (unsigned long long)weft_model_turn_said(turn));
  end(turn, out);
}

static void put_delta(const weft_model_turn *turn, const weft_model_piece *piece,
                      weft_json_writer *out) {
  bool text = piece->kind == WEFT_MODEL_TEXT;
  begin(turn, "content_block_delta", out);
  weft_json_putf(out, ",\"index\":%zu,\"delta\":{\"type\":\"%s\",\"%s\":", piece->block,
                 text ? "text_delta" : "input_json_delta", text ? "text" : "partial_json");
  weft_json_put_string(out, piece->text.text, piece->text.size);
  weft_json_put(out, "}");
  end(turn, out);
  put_growth(turn, out);
}

static void put_piece(const weft_model_turn *turn, const weft_model_piece *piece,
                      weft_json_writer *out) {
  switch (piece->kind) {
  case WEFT_MODEL_TEXT_START:
  case WEFT_MODEL_CALL_START:
    put_block_start(turn, piece, out);
    break;
  case WEFT_MODEL_TEXT:
  case WEFT_MODEL_CALL_ARGUMENTS:
    put_delta(turn, piece, out);
    break;
  default:
    begin(turn, "content_block_stop", out);
    weft_json_putf(out, ",\"index\":%zu", piece->block);
    end(turn, out);
  }
}

static void put_message_delta(const weft_model_turn *turn, weft_json_writer *out) {
  if (!weft_model_chosen(turn->style.finish, 1))
    return;
  begin(turn, "message_delta", out);
  weft_json_put(out, ",\"delta\":{");
  put_stop(turn, out);
  weft_json_put(out, "}");
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING)
    weft_json_putf(out, ",\"usage\":{\"output_tokens\":%llu}",
                   (unsigned long long)turn->output_tokens);
  end(turn, out);
}

static bool put_close(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  if (n == 0) {
    put_message_delta(turn, out);
  } else if (n == 1 && weft_model_chosen(turn->style.done, 1)) {
    begin(turn, "message_stop", out);
    end(turn, out);
  }
  return n <= 1;
}

/* Errors -------------------------------------------------------------------------------------- */

static const char *error_type(const weft_model_failure *failure) {
  static const struct {
    int status;
    const char *type;
  } types[] = {
      {401, "authentication_error"}, {402, "billing_error"},     {403, "permission_error"},
      {404, "not_found_error"},      {413, "request_too_large"}, {429, "rate_limit_error"},
      {504, "timeout_error"},        {529, "overloaded_error"},
  };
  if (failure->type)
    return failure->type;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].status == failure->status)
      return types[i].type;
  return failure->status < 500 ? "invalid_request_error" : "api_error";
}

/* Without the opening brace. */
static void put_error_members(const weft_model_failure *failure, uint64_t serial,
                              weft_json_writer *out) {
  weft_json_put(out, "\"type\":\"error\",\"error\":{\"type\":");
  weft_json_put_text(out, error_type(failure));
  weft_json_put(out, ",\"message\":");
  weft_json_put_text(out, weft_model_failure_text(failure));
  weft_json_putf(out, "},\"request_id\":\"req_%llu\"}", (unsigned long long)serial);
}

static void put_error(const weft_model_failure *failure, uint64_t serial, weft_json_writer *out) {
  weft_json_put(out, "{");
  put_error_members(failure, serial, out);
}

static void put_interruption(const weft_model_turn *turn, weft_json_writer *out) {
  const weft_model_interruption *by = &turn->interruption;
  if (by->garbage) {
    weft_model_put_event(turn, "content_block_delta", "{\"type\":\"content_block_delta\",<html>",
                         out);
    return;
  }
  weft_model_begin_event(turn, by->named ? "error" : NULL, out);
  put_error_members(by->failure, turn->serial, out);
  weft_model_end_event(turn, out);
  if (by->done) {
    begin(turn, "message_stop", out);
    end(turn, out);
  }
}

const weft_model_api weft_model_anthropic_api = {
    .stream_type = "text/event-stream; charset=utf-8",
    .plain = put_plain,
    .open = put_open,
    .close = put_close,
    .piece = put_piece,
    .interrupt = put_interruption,
    .error = put_error,
};
