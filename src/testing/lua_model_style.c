/* lua_model_style.c: the options `stream`, `wire` and `headers`, of a server and of a fault.
 *
 * Owns nothing. Only the thread that runs the Lua state enters. Invariant: see lua_model_reader.c.
 */
#include <string.h>

#include "lua_model_options.h"

static void read_line_end(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"lf", "crlf", "cr", NULL};
  *(int *)field = weft_lua_word(r, words, "\"lf\", \"crlf\" or \"cr\"");
}

/* true: as is usual. */
static void read_usage(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"usual", "missing", "cumulative", NULL};
  if (lua_isboolean(r->L, -1))
    *(int *)field = lua_toboolean(r->L, -1) ? WEFT_MODEL_USAGE_USUAL : WEFT_MODEL_USAGE_MISSING;
  else
    *(int *)field = weft_lua_word(r, words, "a boolean or \"cumulative\"");
}

static void read_framing(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"usual", "chunked", "close", NULL};
  *(int *)field = weft_lua_word(r, words, "\"usual\", \"chunked\" or \"close\"");
}

static void read_interim(weft_lua_reader *r, void *field) {
  *(double *)field = weft_lua_whole(r, 0, 1e5, "a whole number from 0 to 100000");
}

static const weft_lua_option stream_options[] = {
    {"chunks", weft_lua_read_some, offsetof(weft_model_style, chunks)},
    {"delay", weft_lua_read_seconds, offsetof(weft_model_style, delay)},
    {"line_end", read_line_end, offsetof(weft_model_style, line_end)},
    {"bom", weft_lua_read_flag, offsetof(weft_model_style, bom)},
    {"comments", weft_lua_read_flag, offsetof(weft_model_style, comments)},
    {"space", weft_lua_read_flag, offsetof(weft_model_style, space)},
    {"split_lines", weft_lua_read_flag, offsetof(weft_model_style, split_lines)},
    {"pings", weft_lua_read_flag, offsetof(weft_model_style, pings)},
    {"done", weft_lua_read_flag, offsetof(weft_model_style, done)},
    {"finish", weft_lua_read_flag, offsetof(weft_model_style, finish)},
    {"usage", read_usage, offsetof(weft_model_style, usage)},
    {NULL, NULL, 0},
};

static const weft_lua_option wire_options[] = {
    {"framing", read_framing, offsetof(weft_model_style, framing)},
    {"piece", weft_lua_read_some, offsetof(weft_model_style, piece)},
    {"split_utf8", weft_lua_read_flag, offsetof(weft_model_style, split_utf8)},
    {"piece_delay", weft_lua_read_seconds, offsetof(weft_model_style, piece_delay)},
    {"gzip", weft_lua_read_flag, offsetof(weft_model_style, gzip)},
    {"interim", read_interim, offsetof(weft_model_style, interim)},
    {"head_delay", weft_lua_read_seconds, offsetof(weft_model_style, head_delay)},
    {"hang_up", weft_lua_read_flag, offsetof(weft_model_style, hang_up)},
    {NULL, NULL, 0},
};

void weft_lua_read_stream(weft_lua_reader *r, void *style) {
  weft_lua_read_nested(r, stream_options, style);
}

void weft_lua_read_wire(weft_lua_reader *r, void *style) {
  weft_lua_read_nested(r, wire_options, style);
}

/* Headers ------------------------------------------------------------------------------------- */

static const char *header_text(weft_lua_reader *r, const char *forbidden) {
  static const char what[] = "a table of header values by name";
  if (lua_type(r->L, -1) != LUA_TSTRING)
    weft_lua_expected(r, what);
  const char *text = weft_lua_text(r);
  if (strpbrk(text, forbidden))
    weft_lua_expected(r, "headers without line ends, and names without spaces and colons");
  return text;
}

const weft_model_header *weft_lua_read_headers(weft_lua_reader *r, size_t *count) {
  lua_State *L = r->L;
  if (!lua_istable(L, -1))
    weft_lua_expected(r, "a table of header values by name");
  weft_model_header *headers = weft_lua_scratch(r, weft_lua_count_pairs(L), sizeof *headers);
  *count = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1), ++*count) {
    lua_pushvalue(L, -2);
    headers[*count].name = header_text(r, "\r\n: ");
    lua_pop(L, 1);
    headers[*count].value = header_text(r, "\r\n");
  }
  return headers;
}
