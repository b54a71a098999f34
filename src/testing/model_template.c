/* model_template.c: fills the places of a template.
 *
 * Owns nothing. Only the server thread enters. Invariant: what was filled in is not read again as a
 * template.
 */
#include "model_template.h"

static bool is_name(weft_json_span name, const char *text) {
  return name.size == strlen(text) && memcmp(name.text, text, name.size) == 0;
}

static bool has_prefix(weft_json_span name, const char *prefix) {
  size_t size = strlen(prefix);
  return name.size > size && memcmp(name.text, prefix, size) == 0;
}

static void put_optional(weft_json_writer *out, const char *text) {
  weft_json_put(out, text ? text : "");
}

static void put_member(const weft_model_turn *turn, weft_json_span path, weft_json_writer *out) {
  weft_json_value value = weft_json_find(turn->ask.body, path.text, path.size);
  weft_json_span string = weft_json_string(value);
  if (!string.text)
    weft_json_put_bytes(out, value.text, value.size);
  else if (out->rc == WEFT_BUF_OK)
    out->rc = weft_json_unescape(string, out->out);
}

static void put_header(const weft_model_turn *turn, weft_json_span name, weft_json_writer *out) {
  char text[128];
  if (name.size >= sizeof text)
    return;
  memcpy(text, name.text, name.size);
  text[name.size] = '\0';
  put_optional(out, weft_model_request_header(turn->ask.request, text));
}

/* Returns false when there is no such place. */
static bool put_place(const weft_model_turn *turn, weft_json_span name, weft_json_writer *out) {
  static const char header[] = "header.", body[] = "body.";
  const weft_model_request *request = turn->ask.request;
  if (is_name(name, "last"))
    weft_json_put_bytes(out, turn->ask.last.data, turn->ask.last.size);
  else if (is_name(name, "model"))
    put_optional(out, request->model);
  else if (is_name(name, "path"))
    weft_json_put(out, request->path);
  else if (is_name(name, "method"))
    weft_json_put(out, request->method);
  else if (is_name(name, "connection"))
    weft_json_put_number(out, request->connection);
  else if (is_name(name, "number"))
    weft_json_put_number(out, turn->serial);
  else if (has_prefix(name, header))
    put_header(turn, (weft_json_span){name.text + strlen(header), name.size - strlen(header)}, out);
  else if (has_prefix(name, body))
    put_member(turn, (weft_json_span){name.text + strlen(body), name.size - strlen(body)}, out);
  else
    return false;
  return true;
}

void weft_model_fill_template(const char *text, const weft_model_turn *turn,
                              weft_json_writer *out) {
  for (const char *open; (open = strstr(text, "{{")) != NULL;) {
    const char *close = strstr(open, "}}");
    if (!close)
      break;
    weft_json_put_bytes(out, text, (size_t)(open - text));
    weft_json_span name = {open + 2, (size_t)(close - open) - 2};
    text = close + 2;
    if (!put_place(turn, name, out)) {
      weft_json_put(out, "{{");
      text = open + 2;
    }
  }
  weft_json_put(out, text);
}
