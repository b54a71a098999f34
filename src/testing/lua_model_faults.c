/* lua_model_faults.c: the options of a fault.
 *
 * Owns nothing. Only the thread that runs the Lua state enters. Invariant: see lua_model_reader.c.
 * `field` is often the whole fault here, since several options say which kind it is.
 */
#include <math.h>
#include <string.h>

#include "lua_model_options.h"

#define KINDS "status, reset, truncate, stall, pause, garbage, redirect, gzip_bomb"

static weft_model_fault *set_kind(weft_lua_reader *r, void *field, weft_model_fault_kind kind) {
  weft_model_fault *fault = field;
  if (fault->kind != WEFT_MODEL_FAULT_NONE)
    weft_lua_option_error(r, r->name, "a fault has only one of " KINDS);
  fault->kind = kind;
  return fault;
}

static void read_status(weft_lua_reader *r, void *field) {
  double status = weft_lua_whole(r, 400, 599, "an HTTP status from 400 to 599");
  set_kind(r, field, WEFT_MODEL_FAULT_STATUS)->status = (int)status;
}

static void read_redirect(weft_lua_reader *r, void *field) {
  double status = weft_lua_whole(r, 300, 399, "an HTTP status from 300 to 399");
  set_kind(r, field, WEFT_MODEL_FAULT_REDIRECT)->status = (int)status;
}

static void read_to(weft_lua_reader *r, void *field) {
  const char *to = weft_lua_text(r);
  if (strpbrk(to, "\r\n"))
    weft_lua_expected(r, "a URL, \"same\" or \"other\"");
  *(const char **)field = to;
}

/* A place in an answer: its name, or so many bytes of the body. */
static void read_point(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"before", "headers", "after_headers", "body",
                                      "event",  "",        "end",           NULL};
  static const char what[] = "\"before\", \"headers\", \"after_headers\", \"body\", \"event\", "
                             "\"end\" or a whole number of bytes >= 0";
  weft_model_fault *fault = field;
  if (lua_type(r->L, -1) == LUA_TNUMBER) {
    fault->point = WEFT_MODEL_AT_BYTE;
    fault->byte = (size_t)weft_lua_whole(r, 0, 1e15, what);
  } else {
    fault->point = (weft_model_point)weft_lua_word(r, words, what);
    if (fault->point == WEFT_MODEL_AT_BYTE)
      weft_lua_expected(r, what);
  }
}

static void read_reset(weft_lua_reader *r, void *field) {
  read_point(r, set_kind(r, field, WEFT_MODEL_FAULT_RESET));
}

static void read_truncate(weft_lua_reader *r, void *field) {
  read_point(r, set_kind(r, field, WEFT_MODEL_FAULT_TRUNCATE));
}

static void read_silence(weft_lua_reader *r, void *field, weft_model_fault_kind kind) {
  static const char what[] = "a number of seconds >= 0 (math.huge: until the client closes)";
  weft_model_fault *fault = set_kind(r, field, kind);
  fault->seconds = weft_lua_seconds(r, INFINITY, what);
  fault->point = WEFT_MODEL_IN_BODY;
}

static void read_stall(weft_lua_reader *r, void *field) {
  read_silence(r, field, WEFT_MODEL_FAULT_STALL);
}

static void read_pause(weft_lua_reader *r, void *field) {
  read_silence(r, field, WEFT_MODEL_FAULT_PAUSE);
}

/* Comes after `stall` and `pause` in the list of options. */
static void read_at(weft_lua_reader *r, void *field) {
  weft_model_fault *fault = field;
  if (fault->kind != WEFT_MODEL_FAULT_STALL && fault->kind != WEFT_MODEL_FAULT_PAUSE)
    weft_lua_option_error(r, r->name, "it belongs to stall and pause");
  read_point(r, fault);
}

static void read_garbage(weft_lua_reader *r, void *field) {
  int garbage;
  weft_lua_read_flag(r, &garbage);
  if (garbage)
    set_kind(r, field, WEFT_MODEL_FAULT_GARBAGE);
}

static void read_bomb(weft_lua_reader *r, void *field) {
  static const char what[] = "a whole number of bytes from 1 to 2^30";
  uint64_t size = (uint64_t)weft_lua_whole(r, 1, 0x1p30, what);
  set_kind(r, field, WEFT_MODEL_FAULT_BOMB)->bomb = size;
}

static void read_inside(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"", "data", "event", "done", NULL};
  static const char what[] = "true, \"data\", \"event\" or \"done\"";
  if (lua_isboolean(r->L, -1)) {
    *(weft_model_inside *)field = lua_toboolean(r->L, -1) ? WEFT_MODEL_INSIDE : WEFT_MODEL_OUTSIDE;
    return;
  }
  *(weft_model_inside *)field = (weft_model_inside)weft_lua_word(r, words, what);
  if (*(weft_model_inside *)field == WEFT_MODEL_OUTSIDE)
    weft_lua_expected(r, what);
}

static void read_times(weft_lua_reader *r, void *field) {
  static const char what[] = "a whole number >= 1, or -1 or math.huge for ever";
  double times = weft_lua_number(r, what);
  bool forever = times == -1 || times == HUGE_VAL;
  *(int64_t *)field = forever ? WEFT_MODEL_FOREVER : (int64_t)weft_lua_whole(r, 1, 1e15, what);
}

static void read_after(weft_lua_reader *r, void *field) {
  *(int64_t *)field = (int64_t)weft_lua_whole(r, 0, 1e9, "a whole number of deltas >= 0");
}

static void read_only(weft_lua_reader *r, void *field) {
  static const char *const words[] = {"plain", "stream", NULL};
  *(int *)field = weft_lua_word(r, words, "\"plain\" or \"stream\"");
}

static void read_wrong_length(weft_lua_reader *r, void *field) {
  static const char what[] = "a whole number of bytes that is not 0";
  double bytes = weft_lua_whole(r, -1e9, 1e9, what);
  if (bytes == 0)
    weft_lua_expected(r, what);
  *(int64_t *)field = (int64_t)bytes;
}

static void read_milliseconds(weft_lua_reader *r, void *field) {
  *(double *)field = weft_lua_seconds(r, 1e12, "a number of milliseconds >= 0");
}

static void read_headers(weft_lua_reader *r, void *field) {
  weft_model_fault *fault = field;
  fault->headers = weft_lua_read_headers(r, &fault->header_count);
}

#define FIELD(name) offsetof(weft_model_fault, name)

static const weft_lua_option fault_options[] = {
    {"model", weft_lua_read_text, FIELD(model)},
    {"path", weft_lua_read_text, FIELD(path)},
    {"only", read_only, FIELD(stream)},
    {"times", read_times, FIELD(times)},
    {"delay", weft_lua_read_seconds, FIELD(delay)},
    {"status", read_status, 0},
    {"retry_after", weft_lua_read_seconds, FIELD(retry_after)},
    {"retry_after_ms", read_milliseconds, FIELD(retry_after_ms)},
    {"retry_after_date", weft_lua_read_seconds, FIELD(retry_after_date)},
    {"should_retry", weft_lua_read_flag, FIELD(should_retry)},
    {"message", weft_lua_read_text, FIELD(message)},
    {"type", weft_lua_read_text, FIELD(type)},
    {"code", weft_lua_read_text, FIELD(code)},
    {"body", weft_lua_read_text, FIELD(body)},
    {"inside", read_inside, FIELD(inside)},
    {"reset", read_reset, 0},
    {"truncate", read_truncate, 0},
    {"stall", read_stall, 0},
    {"pause", read_pause, 0},
    {"at", read_at, 0},
    {"after", read_after, FIELD(after)},
    {"garbage", read_garbage, 0},
    {"redirect", read_redirect, 0},
    {"to", read_to, FIELD(location)},
    {"gzip_bomb", read_bomb, 0},
    {"wrong_length", read_wrong_length, FIELD(length_off)},
    {"headers", read_headers, 0},
    {"stream", weft_lua_read_stream, FIELD(style)},
    {"wire", weft_lua_read_wire, FIELD(style)},
    {NULL, NULL, 0},
};

/* Which options belong to which kind. */
static void check_belonging(weft_lua_reader *r, const weft_model_fault *fault) {
  bool status = fault->kind == WEFT_MODEL_FAULT_STATUS;
  bool redirect = fault->kind == WEFT_MODEL_FAULT_REDIRECT;
  const struct {
    const char *name;
    bool set;
  } of_status[] = {
      {"retry_after", fault->retry_after >= 0},
      {"retry_after_ms", fault->retry_after_ms >= 0},
      {"retry_after_date", fault->retry_after_date >= 0},
      {"should_retry", fault->should_retry >= 0},
      {"message", fault->message},
      {"type", fault->type},
      {"code", fault->code},
      {"body", fault->body},
      {"inside", fault->inside},
  };
  for (size_t i = 0; i < sizeof of_status / sizeof *of_status; i++)
    if (of_status[i].set && !status)
      weft_lua_option_error(r, of_status[i].name, "it belongs to a status");
  if (fault->location && !redirect)
    weft_lua_option_error(r, "to", "it belongs to a redirect");
  if (redirect && !fault->location)
    weft_lua_option_error(r, "redirect", "it needs `to`: a URL, \"same\" or \"other\"");
}

/* Whether it does anything. */
static bool has_effect(const weft_model_fault *fault) {
  return fault->kind != WEFT_MODEL_FAULT_NONE || fault->delay > 0 || fault->length_off != 0 ||
         fault->header_count > 0 || !weft_model_style_is_none(&fault->style);
}

static void read_fault(weft_lua_reader *r, weft_model_fault *fault) {
  if (!lua_istable(r->L, -1))
    weft_lua_table_error(r, lua_pushfstring(r->L, "expected a table, got %s",
                                            lua_typename(r->L, lua_type(r->L, -1))));
  *fault = weft_model_no_fault();
  fault->times = 0;
  weft_lua_read_options(r, fault_options, fault);
  check_belonging(r, fault);
  if (!has_effect(fault))
    weft_lua_table_error(r,
                         "expected one of " KINDS ", delay, wrong_length, headers, stream, wire");
}

void weft_lua_read_scripted(weft_lua_reader *r, void *field) {
  weft_model_fault *fault = field;
  read_fault(r, fault);
  if (fault->times == 0)
    fault->times = 1;
}

void weft_lua_read_random(weft_lua_reader *r, void *field) {
  weft_model_fault *fault = field;
  read_fault(r, fault);
  if (fault->times != 0)
    weft_lua_option_error(r, "times", "a random fault has no times, only a fault_rate");
}

weft_model_fault weft_lua_model_fault(lua_State *L, int index, const char *function) {
  weft_model_fault fault;
  weft_lua_reader r = weft_lua_begin_reader(L, index, "fault", function);
  weft_lua_read_scripted(&r, &fault);
  return fault;
}
