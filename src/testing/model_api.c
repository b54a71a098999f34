/* model_api.c: what the shapes of the three APIs have in common.
 *
 * Owns only constant tables. Only the server thread enters. Invariant: events of SSE are written
 * here alone, so that each choice of a style holds for all of them.
 */
#include "model_api.h"

const weft_model_api *weft_model_api_of(weft_model_family family) {
  static const weft_model_api *const apis[] = {&weft_model_openai_api, &weft_model_anthropic_api,
                                               &weft_model_ollama_api};
  return apis[family];
}

/* Statuses ------------------------------------------------------------------------------------ */

static const struct status {
  int status;
  const char *name;
} statuses[] = {
    {200, "OK"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {402, "Payment Required"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {529, "Overloaded"},
};

const char *weft_model_status_name(int status) {
  for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
    if (statuses[i].status == status)
      return statuses[i].name;
  return status < 400 ? "Redirect" : status < 500 ? "Client Error" : "Server Error";
}

const char *weft_model_failure_text(const weft_model_failure *failure) {
  return failure->message ? failure->message : weft_model_status_name(failure->status);
}

/* Events -------------------------------------------------------------------------------------- */

static void put_line_end(const weft_model_turn *turn, weft_json_writer *out) {
  static const char *const ends[] = {"\n", "\r\n", "\r"};
  weft_json_put(out, ends[weft_model_chosen(turn->style.line_end, WEFT_MODEL_LF)]);
}

static void put_field(const weft_model_turn *turn, const char *name, weft_json_writer *out) {
  weft_json_put(out, name);
  weft_json_put(out, weft_model_chosen(turn->style.space, 1) ? ": " : ":");
}

static void begin_data(const weft_model_turn *turn, const char *name, weft_json_writer *out) {
  bool first = turn->at.stage == WEFT_MODEL_OPENING && turn->at.event == 1;
  if (first && weft_model_chosen(turn->style.bom, 0))
    weft_json_put(out, "\xEF\xBB\xBF");
  if (weft_model_chosen(turn->style.comments, 0)) {
    weft_json_put(out, ": keep-alive");
    put_line_end(turn, out);
    put_line_end(turn, out);
  }
  if (name) {
    put_field(turn, "event", out);
    weft_json_put(out, name);
    put_line_end(turn, out);
  }
  put_field(turn, "data", out);
}

void weft_model_begin_event(const weft_model_turn *turn, const char *name, weft_json_writer *out) {
  begin_data(turn, name, out);
  weft_json_put(out, "{");
  if (weft_model_chosen(turn->style.split_lines, 0)) {
    put_line_end(turn, out);
    put_field(turn, "data", out);
  }
}

void weft_model_end_event(const weft_model_turn *turn, weft_json_writer *out) {
  put_line_end(turn, out);
  put_line_end(turn, out);
}

void weft_model_put_event(const weft_model_turn *turn, const char *name, const char *data,
                          weft_json_writer *out) {
  begin_data(turn, name, out);
  weft_json_put(out, data);
  weft_model_end_event(turn, out);
}

/* Parts of answers ---------------------------------------------------------------------------- */

void weft_model_put_call_id(const weft_model_turn *turn, size_t call, const char *prefix,
                            weft_json_writer *out) {
  const char *id = turn->canned->calls[call].id;
  if (id)
    weft_json_put_text(out, id);
  else
    weft_json_putf(out, "\"%s_%llu_%zu\"", prefix, (unsigned long long)turn->serial, call + 1);
}

void weft_model_put_arguments(const char *arguments, weft_json_writer *out) {
  size_t wrong, size = strlen(arguments);
  if (weft_json_check(arguments, size, &wrong).kind != WEFT_JSON_NONE)
    weft_json_put(out, arguments);
  else
    weft_json_put_string(out, arguments, size);
}

void weft_model_put_model(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put_text(out, turn->ask.request->model);
}

void weft_model_put_said(const weft_model_turn *turn, weft_json_writer *out) {
  weft_json_put_string(out, (const char *)turn->text.data, turn->text.size);
}
