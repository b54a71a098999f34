/* model_openai.c: OpenAI's shapes: chat completions, their chunks, embeddings, errors.
 *
 * Owns nothing. Only the server thread enters. Invariant: a chunk is one event of SSE.
 */
#include "model_api.h"

/* Parts --------------------------------------------------------------------------------------- */

static void put_usage(const weft_model_turn *turn, uint64_t output, weft_json_writer *out) {
  weft_json_put_pair(out, "{\"prompt_tokens\":", turn->input_tokens);
  weft_json_put_pair(out, ",\"completion_tokens\":", output);
  weft_json_put_pair(out, ",\"total_tokens\":", turn->input_tokens + output);
  weft_json_put(out, "}");
}

/* What each answer and each chunk begins with, without the brace. */
static void put_identity(const weft_model_turn *turn, const char *object, weft_json_writer *out) {
  weft_json_put_pair(out, "\"id\":\"chatcmpl-", turn->serial);
  weft_json_put(out, "\",\"object\":\"");
  weft_json_put(out, object);
  weft_json_put_pair(out, "\",\"created\":", (uint64_t)turn->created);
  weft_json_put(out, ",\"model\":");
  weft_model_put_model(turn, out);
}

static void put_finish(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put_text(out, weft_model_chosen(turn->style.finish, 1) ? turn->finish : NULL);
}

/* All of a call, or (streamed) what comes before its arguments. */
static void put_call(const weft_model_turn *turn, size_t call, bool streamed,
                     weft_json_writer *out) {
  weft_json_put(out, "{");
  if (streamed)
    weft_json_putf(out, "\"index\":%zu,", call);
  weft_json_put(out, "\"id\":");
  weft_model_put_call_id(turn, call, "call", out);
  weft_json_put(out, ",\"type\":\"function\",\"function\":{\"name\":");
  weft_json_put_text(out, turn->canned->calls[call].name);
  weft_json_put(out, ",\"arguments\":");
  weft_json_put_text(out, streamed ? "" : turn->canned->calls[call].arguments);
  weft_json_put(out, "}}");
}

/* Plain --------------------------------------------------------------------------------------- */

static void put_message(const weft_model_turn *turn, weft_json_writer *out) {
  const weft_model_canned *canned = turn->canned;
  size_t calls = canned ? canned->call_count : 0;
  const char *refusal = canned ? canned->refusal : NULL;
  weft_json_put(out, "{\"role\":\"assistant\",\"content\":");
  if (turn->text.size == 0 && (calls || refusal))
    weft_json_put(out, "null");
  else
    weft_model_put_said(turn, out);
  weft_json_put(out, ",\"refusal\":");
  weft_json_put_text(out, refusal);
  for (size_t i = 0; i < calls; i++) {
    weft_json_put(out, i ? "," : ",\"tool_calls\":[");
    put_call(turn, i, false, out);
  }
  weft_json_put(out, calls ? "]}" : "}");
}

static void put_plain(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "{");
  put_identity(turn, "chat.completion", out);
  weft_json_put(out, ",\"choices\":[{\"index\":0,\"message\":");
  put_message(turn, out);
  weft_json_put(out, ",\"logprobs\":null,\"finish_reason\":");
  put_finish(turn, out);
  weft_json_put(out, "}]");
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING) {
    weft_json_put(out, ",\"usage\":");
    put_usage(turn, turn->output_tokens, out);
  }
  weft_json_put(out, "}");
}

/* Streamed ------------------------------------------------------------------------------------ */

static void begin_chunk(const weft_model_turn *turn, weft_json_writer *out) {
  weft_model_begin_event(turn, NULL, out);
  put_identity(turn, "chat.completion.chunk", out);
}

static void end_chunk(const weft_model_turn *turn, weft_json_writer *out) {
  if (turn->style.usage == WEFT_MODEL_USAGE_CUMULATIVE) {
    weft_json_put(out, ",\"usage\":");
    put_usage(turn, weft_model_turn_said(turn), out);
  } else if (turn->ask.include_usage && turn->style.usage != WEFT_MODEL_USAGE_MISSING) {
    weft_json_put(out, ",\"usage\":null");
  }
  weft_json_put(out, "}");
  weft_model_end_event(turn, out);
}

static void begin_delta(const weft_model_turn *turn, weft_json_writer *out) {
  begin_chunk(turn, out);
  weft_json_put(out, ",\"choices\":[{\"index\":0,\"delta\":{");
}

static void end_delta(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "},\"logprobs\":null,\"finish_reason\":null}]");
  end_chunk(turn, out);
}

static bool put_open(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  const char *refusal = turn->canned ? turn->canned->refusal : NULL;
  if (n > (refusal ? 1 : 0))
    return false;
  begin_delta(turn, out);
  if (n == 0) {
    weft_json_put(out, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null");
  } else {
    weft_json_put(out, "\"refusal\":");
    weft_json_put_text(out, refusal);
  }
  end_delta(turn, out);
  return true;
}

static void put_piece(const weft_model_turn *turn, const weft_model_piece *piece,
                      weft_json_writer *out) {
  switch (piece->kind) {
  case WEFT_MODEL_TEXT:
    begin_delta(turn, out);
    weft_json_put(out, "\"content\":");
    weft_json_put_string(out, piece->text.text, piece->text.size);
    break;
  case WEFT_MODEL_CALL_START:
    begin_delta(turn, out);
    weft_json_put(out, "\"tool_calls\":[");
    put_call(turn, piece->call, true, out);
    weft_json_put(out, "]");
    break;
  case WEFT_MODEL_CALL_ARGUMENTS:
    begin_delta(turn, out);
    weft_json_putf(out, "\"tool_calls\":[{\"index\":%zu,\"function\":{\"arguments\":", piece->call);
    weft_json_put_string(out, piece->text.text, piece->text.size);
    weft_json_put(out, "}}]");
    break;
  default:
    return;
  }
  end_delta(turn, out);
}

static void put_last_delta(const weft_model_turn *turn, weft_json_writer *out) {
  if (!weft_model_chosen(turn->style.finish, 1))
    return;
  begin_chunk(turn, out);
  weft_json_put(out,
                ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":");
  put_finish(turn, out);
  weft_json_put(out, "}]");
  end_chunk(turn, out);
}

static void put_usage_chunk(const weft_model_turn *turn, weft_json_writer *out) {
  if (!turn->ask.include_usage || weft_model_chosen(turn->style.usage, 0) != WEFT_MODEL_USAGE_USUAL)
    return;
  begin_chunk(turn, out);
  weft_json_put(out, ",\"choices\":[],\"usage\":");
  put_usage(turn, turn->output_tokens, out);
  weft_json_put(out, "}");
  weft_model_end_event(turn, out);
}

static bool put_close(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  if (n == 0)
    put_last_delta(turn, out);
  else if (n == 1)
    put_usage_chunk(turn, out);
  else if (n == 2 && weft_model_chosen(turn->style.done, 1))
    weft_model_put_event(turn, NULL, "[DONE]", out);
  return n <= 2;
}

/* Errors -------------------------------------------------------------------------------------- */

static const struct error_kind {
  int status;
  const char *type, *code;
} error_kinds[] = {
    {401, "invalid_request_error", "invalid_api_key"},
    {402, "insufficient_quota", "insufficient_quota"},
    {403, "invalid_request_error", "unsupported_country_region_territory"},
    {405, "invalid_request_error", "method_not_supported"},
    {429, "requests", "rate_limit_exceeded"},
    {529, "server_error", "overloaded"},
};

static struct error_kind kind_of(const weft_model_failure *failure) {
  int status = failure->status;
  struct error_kind kind = {status, status < 500 ? "invalid_request_error" : "server_error", NULL};
  for (size_t i = 0; i < sizeof error_kinds / sizeof *error_kinds; i++)
    if (error_kinds[i].status == status)
      kind = error_kinds[i];
  if (failure->code && strcmp(failure->code, "insufficient_quota") == 0)
    kind.type = failure->code;
  if (failure->type)
    kind.type = failure->type;
  if (failure->code)
    kind.code = failure->code;
  return kind;
}

/* Without the opening brace. */
static void put_error_members(const weft_model_failure *failure, weft_json_writer *out) {
  struct error_kind kind = kind_of(failure);
  weft_json_put(out, "\"error\":{\"message\":");
  weft_json_put_text(out, weft_model_failure_text(failure));
  weft_json_put(out, ",\"type\":");
  weft_json_put_text(out, kind.type);
  weft_json_put(out, ",\"param\":");
  weft_json_put_text(out, failure->param);
  weft_json_put(out, ",\"code\":");
  weft_json_put_text(out, kind.code);
  weft_json_put(out, "}}");
}

static void put_error(const weft_model_failure *failure, uint64_t serial, weft_json_writer *out) {
  (void)serial;
  weft_json_put(out, "{");
  put_error_members(failure, out);
}

static void put_interruption(const weft_model_turn *turn, weft_json_writer *out) {
  const weft_model_interruption *by = &turn->interruption;
  if (by->garbage) {
    weft_model_put_event(turn, NULL, "{\"choices\":[{\"delta\":<html>", out);
    return;
  }
  weft_model_begin_event(turn, by->named ? "error" : NULL, out);
  put_error_members(by->failure, out);
  weft_model_end_event(turn, out);
  if (by->done)
    weft_model_put_event(turn, NULL, "[DONE]", out);
}

/* Embeddings ---------------------------------------------------------------------------------- */

static void put_embeddings(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "{\"object\":\"list\",\"data\":[");
  for (size_t i = 0; i < turn->ask.inputs && out->rc == WEFT_BUF_OK; i++) {
    weft_json_putf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "",
                   i);
    if (turn->ask.base64)
      weft_model_put_vector_base64(turn, i, out);
    else
      weft_model_put_vector(turn, i, out);
    weft_json_put(out, "}");
  }
  weft_json_put(out, "],\"model\":");
  weft_model_put_model(turn, out);
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING)
    weft_json_putf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}",
                   (unsigned long long)turn->input_tokens, (unsigned long long)turn->input_tokens);
  weft_json_put(out, "}");
}

const weft_model_api weft_model_openai_api = {
    .stream_type = "text/event-stream; charset=utf-8",
    .plain = put_plain,
    .embed = put_embeddings,
    .open = put_open,
    .close = put_close,
    .piece = put_piece,
    .interrupt = put_interruption,
    .error = put_error,
};
