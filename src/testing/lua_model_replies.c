/* lua_model_replies.c: the options `reply` and `replies`: what a model says.
 *
 * Owns nothing. Only the thread that runs the Lua state enters. Invariant: see lua_model_reader.c;
 * Lua values that stand for JSON are text from here on.
 */
#include <lauxlib.h>

#include <math.h>
#include <string.h>

#include "lua_model_options.h"

/* JSON ---------------------------------------------------------------------------------------- */

/* The value on top of the stack as JSON, by weft.json; the text is kept for the time of the call.
 */
static const char *encode(weft_lua_reader *r) {
  lua_State *L = r->L;
  lua_getglobal(L, "require");
  lua_pushstring(L, "weft.json");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "try_encode");
  lua_remove(L, -2);
  lua_pushvalue(L, -2);
  lua_call(L, 1, 3);
  if (!lua_isstring(L, -3)) {
    const char *path = lua_tostring(L, -2), *what = lua_tostring(L, -1);
    weft_lua_option_error(
        r, r->name, lua_pushfstring(L, "JSON cannot hold %s%s%s", what, *path ? " at " : "", path));
  }
  lua_pop(L, 2);
  const char *text = lua_tostring(L, -1);
  weft_lua_anchor(r);
  return text;
}

/* A reply ------------------------------------------------------------------------------------- */

static void set_text(weft_lua_reader *r, weft_model_canned *canned, const char *text) {
  if (canned->text || canned->tokens)
    weft_lua_option_error(r, r->name, "a reply has only one of text, template, json, tokens");
  canned->text = text;
}

static void read_plain(weft_lua_reader *r, void *field) {
  set_text(r, field, weft_lua_text(r));
}

static void read_template(weft_lua_reader *r, void *field) {
  weft_model_canned *canned = field;
  set_text(r, canned, weft_lua_text(r));
  canned->is_template = true;
}

static void read_json(weft_lua_reader *r, void *field) {
  set_text(r, field, encode(r));
}

static void read_tokens(weft_lua_reader *r, void *field) {
  weft_model_canned *canned = field;
  set_text(r, canned, NULL);
  canned->tokens = (uint64_t)weft_lua_whole(r, 1, 1e7, "a whole number from 1 to 10000000");
}

/* A table is encoded; a string is taken as it is, also when it is no JSON. */
static void read_arguments(weft_lua_reader *r, void *field) {
  *(const char **)field = lua_istable(r->L, -1) ? encode(r) : weft_lua_text(r);
}

static const weft_lua_option call_options[] = {
    {"id", weft_lua_read_text, offsetof(weft_model_call, id)},
    {"name", weft_lua_read_text, offsetof(weft_model_call, name)},
    {"arguments", read_arguments, offsetof(weft_model_call, arguments)},
    {NULL, NULL, 0},
};

static void check_item(weft_lua_reader *r) {
  if (!lua_istable(r->L, -1))
    weft_lua_table_error(
        r, lua_pushfstring(r->L, "expected a table, got %s", luaL_typename(r->L, -1)));
}

static void read_call(weft_lua_reader *r, void *field) {
  weft_model_call *call = field;
  check_item(r);
  weft_lua_read_options(r, call_options, call);
  if (!call->name)
    weft_lua_option_error(r, "name", "a call of a tool needs the name of the tool");
  if (!call->arguments)
    call->arguments = "{}";
}

static void read_calls(weft_lua_reader *r, void *field) {
  weft_model_canned *canned = field;
  canned->calls = weft_lua_read_list(r, "a list of calls", sizeof *canned->calls, read_call,
                                     &canned->call_count);
}

static void read_count(weft_lua_reader *r, void *field) {
  *(int64_t *)field = (int64_t)weft_lua_whole(r, 0, 1e15, "a whole number of tokens >= 0");
}

static const weft_lua_option usage_options[] = {
    {"input", read_count, offsetof(weft_model_canned, input_tokens)},
    {"output", read_count, offsetof(weft_model_canned, output_tokens)},
    {NULL, NULL, 0},
};

static void read_usage(weft_lua_reader *r, void *field) {
  weft_lua_read_nested(r, usage_options, field);
}

static const weft_lua_option reply_options[] = {
    {"text", read_plain, 0},
    {"template", read_template, 0},
    {"json", read_json, 0},
    {"tokens", read_tokens, 0},
    {"tool_calls", read_calls, 0},
    {"refusal", weft_lua_read_text, offsetof(weft_model_canned, refusal)},
    {"finish", weft_lua_read_text, offsetof(weft_model_canned, finish)},
    {"usage", read_usage, 0},
    {NULL, NULL, 0},
};

/* One reply: a text, or a table. */
static void read_canned(weft_lua_reader *r, void *field) {
  weft_model_canned *canned = field;
  *canned = (weft_model_canned){.input_tokens = -1, .output_tokens = -1};
  if (lua_istable(r->L, -1))
    weft_lua_read_options(r, reply_options, canned);
  else if (lua_type(r->L, -1) == LUA_TSTRING)
    canned->text = weft_lua_text(r);
  else
    weft_lua_table_error(
        r, lua_pushfstring(r->L, "expected a string or a table, got %s", luaL_typename(r->L, -1)));
}

static bool is_list(lua_State *L) {
  if (!lua_istable(L, -1))
    return false;
  lua_rawgeti(L, -1, 1);
  bool list = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return list;
}

/* One reply, or a list of them: the option `r->name`. */
static void read_sequence(weft_lua_reader *r, void *field) {
  weft_model_rule *rule = field;
  if (is_list(r->L)) {
    rule->replies = weft_lua_read_list(r, "a list of replies", sizeof *rule->replies, read_canned,
                                       &rule->reply_count);
    return;
  }
  weft_lua_reader inner = weft_lua_nested(r, weft_lua_name(r, "%s%s", r->prefix, r->name));
  inner.name = r->name;
  weft_model_canned *canned = weft_lua_scratch(r, 1, sizeof *canned);
  if (!lua_istable(r->L, -1) && lua_type(r->L, -1) != LUA_TSTRING)
    weft_lua_expected(r, "a string, a table or a list of them");
  if (lua_type(r->L, -1) == LUA_TSTRING)
    weft_lua_text(r);
  read_canned(&inner, canned);
  rule->replies = canned;
  rule->reply_count = 1;
}

/* Rules --------------------------------------------------------------------------------------- */

/* Tries the pattern, so that the server never meets a malformed one. */
static void read_pattern(weft_lua_reader *r, void *field) {
  lua_State *L = r->L;
  *(const char **)field = weft_lua_text(r);
  lua_getglobal(L, "string");
  lua_getfield(L, -1, "find");
  lua_remove(L, -2);
  lua_pushliteral(L, "");
  lua_pushvalue(L, -3);
  if (lua_pcall(L, 2, 0, 0) != 0)
    weft_lua_option_error(r, r->name, lua_tostring(L, -1));
}

static void read_times(weft_lua_reader *r, void *field) {
  static const char what[] = "a whole number >= 1, or math.huge for ever";
  double times = weft_lua_number(r, what);
  *(int64_t *)field =
      times == HUGE_VAL ? WEFT_MODEL_FOREVER : (int64_t)weft_lua_whole(r, 1, 1e15, what);
}

static const weft_lua_option rule_options[] = {
    {"model", weft_lua_read_text, offsetof(weft_model_rule, model)},
    {"pattern", read_pattern, offsetof(weft_model_rule, pattern)},
    {"times", read_times, offsetof(weft_model_rule, times)},
    {"reply", read_sequence, 0},
    {NULL, NULL, 0},
};

static void read_rule(weft_lua_reader *r, weft_model_rule *rule) {
  check_item(r);
  rule->times = WEFT_MODEL_FOREVER;
  weft_lua_read_options(r, rule_options, rule);
  if (rule->reply_count == 0)
    weft_lua_option_error(r, "reply", "a rule needs a reply");
}

static weft_model_rule *add_rules(weft_lua_reader *r, weft_model_config *config, size_t count) {
  weft_model_rule *rules = weft_lua_scratch(r, config->rule_count + count, sizeof *rules);
  if (config->rule_count)
    memcpy(rules, config->rules, config->rule_count * sizeof *rules);
  config->rules = rules;
  rules += config->rule_count;
  config->rule_count += count;
  return rules;
}

/* The list of rules in `replies`: its items from 1. */
static void read_rules(weft_lua_reader *r, weft_model_rule *rules, size_t count) {
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(r->L, -1, (int)i + 1);
    weft_lua_reader inner = weft_lua_nested(r, weft_lua_name(r, "replies[%d]", (int)i + 1));
    read_rule(&inner, &rules[i]);
    lua_pop(r->L, 1);
  }
}

/* Replies by the name of a model. */
static void read_by_model(weft_lua_reader *r, weft_model_rule *rules, size_t list) {
  lua_State *L = r->L;
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    bool item = lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) >= 1 &&
                lua_tonumber(L, -2) <= (double)list;
    if (item)
      continue;
    lua_pushvalue(L, -2);
    const char *model = weft_lua_text(r);
    lua_pop(L, 1);
    weft_lua_reader inner = *r;
    inner.prefix = "replies.";
    inner.name = model;
    rules[count] = (weft_model_rule){.model = model, .times = WEFT_MODEL_FOREVER};
    read_sequence(&inner, &rules[count++]);
  }
}

static size_t count_list(lua_State *L) {
  size_t count = 0;
  for (;; count++) {
    lua_rawgeti(L, -1, (int)count + 1);
    bool end = lua_isnil(L, -1);
    lua_pop(L, 1);
    if (end)
      return count;
  }
}

void weft_lua_read_replies(weft_lua_reader *r, void *field) {
  if (!lua_istable(r->L, -1))
    weft_lua_expected(r, "a table of replies by model name, or a list of rules");
  size_t list = count_list(r->L), all = weft_lua_count_pairs(r->L);
  weft_model_rule *rules = add_rules(r, field, all);
  read_rules(r, rules, list);
  read_by_model(r, rules + list, list);
}

/* Comes after `replies` in the list of options: it is for all models. */
void weft_lua_read_reply(weft_lua_reader *r, void *field) {
  weft_model_rule *rule = add_rules(r, field, 1);
  *rule = (weft_model_rule){.times = WEFT_MODEL_FOREVER};
  read_sequence(r, rule);
}
