/* model_ollama.c: Ollama's shapes: chat and generate, plain and as lines of JSON, embeddings,
 * errors.
 *
 * Owns nothing. Only the server thread enters. Invariant: a streamed event is one line.
 */
#include "model_api.h"
#include "model_head.h"

/* Parts --------------------------------------------------------------------------------------- */

/* Without the closing brace. */
static void put_head(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put(out, "{\"model\":");
  weft_model_put_model(turn, out);
  weft_json_put(out, ",\"created_at\":\"");
  weft_model_put_utc(turn->created, out);
  weft_json_put(out, "\"");
}

static void put_counts(const weft_model_turn *turn, uint64_t output, weft_json_writer *out) {
  weft_json_putf(out, ",\"prompt_eval_count\":%llu,\"eval_count\":%llu",
                 (unsigned long long)turn->input_tokens, (unsigned long long)output);
}

/* What only the last line has. */
static void put_end(const weft_model_turn *turn, weft_json_writer *out) {
  if (weft_model_chosen(turn->style.finish, 1)) {
    weft_json_put(out, ",\"done\":true,\"done_reason\":");
    weft_json_put_text(out, strcmp(turn->finish, "tool_calls") == 0 ? "stop" : turn->finish);
  } else {
    weft_json_put(out, ",\"done\":true");
  }
  weft_json_put(out, ",\"total_duration\":3000000,\"load_duration\":1000000,"
                     "\"prompt_eval_duration\":1000000,\"eval_duration\":1000000");
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING)
    put_counts(turn, turn->output_tokens, out);
  weft_json_put(out, "}");
}

static bool is_generate(const weft_model_turn *turn) {
  return turn->ask.task == WEFT_MODEL_TASK_GENERATE;
}

static void put_text(const weft_model_turn *turn, weft_json_span text, weft_json_writer *out) {
  weft_json_put(out, is_generate(turn) ? ",\"response\":"
                                       : ",\"message\":{\"role\":\"assistant\",\"content\":");
  weft_json_put_string(out, text.text, text.size);
}

static void put_call(const weft_model_turn *turn, size_t call, weft_json_writer *out) {
  weft_json_put(out, "{\"function\":{\"name\":");
  weft_json_put_text(out, turn->canned->calls[call].name);
  weft_json_put(out, ",\"arguments\":");
  weft_model_put_arguments(turn->canned->calls[call].arguments, out);
  weft_json_put(out, "}}");
}

/* Plain --------------------------------------------------------------------------------------- */

static void put_plain(const weft_model_turn *turn, weft_json_writer *out) {
  size_t calls = turn->canned && !is_generate(turn) ? turn->canned->call_count : 0;
  put_head(turn, out);
  put_text(turn, (weft_json_span){(const char *)turn->text.data, turn->text.size}, out);
  for (size_t i = 0; i < calls; i++) {
    weft_json_put(out, i ? "," : ",\"tool_calls\":[");
    put_call(turn, i, out);
  }
  weft_json_put(out, calls ? "]" : "");
  weft_json_put(out, is_generate(turn) ? "" : "}");
  put_end(turn, out);
}

/* Streamed ------------------------------------------------------------------------------------ */

static bool put_open(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  (void)turn, (void)n, (void)out;
  return false;
}

static void put_piece(const weft_model_turn *turn, const weft_model_piece *piece,
                      weft_json_writer *out) {
  bool call = piece->kind == WEFT_MODEL_CALL_START && !is_generate(turn);
  if (piece->kind != WEFT_MODEL_TEXT && !call)
    return;
  put_head(turn, out);
  put_text(turn, piece->text, out);
  if (call) {
    weft_json_put(out, ",\"tool_calls\":[");
    put_call(turn, piece->call, out);
    weft_json_put(out, "]");
  }
  weft_json_put(out, is_generate(turn) ? ",\"done\":false" : "},\"done\":false");
  if (turn->style.usage == WEFT_MODEL_USAGE_CUMULATIVE)
    put_counts(turn, weft_model_turn_said(turn), out);
  weft_json_put(out, "}\n");
}

static bool put_close(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  if (n > 0)
    return false;
  if (!weft_model_chosen(turn->style.done, 1))
    return true;
  put_head(turn, out);
  put_text(turn, (weft_json_span){"", 0}, out);
  weft_json_put(out, is_generate(turn) ? "" : "}");
  put_end(turn, out);
  weft_json_put(out, "\n");
  return true;
}

/* Errors -------------------------------------------------------------------------------------- */

static void put_error(const weft_model_failure *failure, uint64_t serial, weft_json_writer *out) {
  (void)serial;
  weft_json_put(out, "{\"error\":");
  weft_json_put_text(out, weft_model_failure_text(failure));
  weft_json_put(out, "}");
}

static void put_interruption(const weft_model_turn *turn, weft_json_writer *out) {
  if (turn->interruption.garbage) {
    weft_json_put(out, "{\"model\":\"<html>\n");
    return;
  }
  put_error(turn->interruption.failure, turn->serial, out);
  weft_json_put(out, "\n");
}

/* Embeddings ---------------------------------------------------------------------------------- */

static void put_embeddings(const weft_model_turn *turn, weft_json_writer *out) {
  if (turn->ask.task == WEFT_MODEL_TASK_EMBED_ONE) {
    weft_json_put(out, "{\"embedding\":");
    weft_model_put_vector(turn, 0, out);
    weft_json_put(out, "}");
    return;
  }
  weft_json_put(out, "{\"model\":");
  weft_model_put_model(turn, out);
  weft_json_put(out, ",\"embeddings\":[");
  for (size_t i = 0; i < turn->ask.inputs && out->rc == WEFT_BUF_OK; i++) {
    weft_json_put(out, i ? "," : "");
    weft_model_put_vector(turn, i, out);
  }
  weft_json_put(out, "],\"total_duration\":2000000,\"load_duration\":1000000");
  if (turn->style.usage != WEFT_MODEL_USAGE_MISSING)
    weft_json_putf(out, ",\"prompt_eval_count\":%llu", (unsigned long long)turn->input_tokens);
  weft_json_put(out, "}");
}

const weft_model_api weft_model_ollama_api = {
    .stream_type = "application/x-ndjson",
    .plain = put_plain,
    .embed = put_embeddings,
    .open = put_open,
    .close = put_close,
    .piece = put_piece,
    .interrupt = put_interruption,
    .error = put_error,
};
