/* model_ask.c: reads and checks the bodies of the three APIs.
 *
 * Owns the text of the last message of each ask. Only the server thread enters. Invariant:
 * `failure` is set at most once, by the first thing that is wrong.
 */
#include "model_ask.h"

#include <math.h>

/* The checks ---------------------------------------------------------------------------------- */

/* The members of a body that mean something here. */
typedef enum member {
  MESSAGES,
  TOOLS,
  SYSTEM,
  STREAM,
  TEMPERATURE,
  TOP_P,
  STREAM_OPTIONS,
  MAX_TOKENS,
  MAX_COMPLETION_TOKENS,
  OPTIONS,
  PROMPT,
  INPUT,
  ENCODING_FORMAT,
  DIMENSIONS,
  MEMBERS,
} member;

static const char *const member_names[MEMBERS + 1] = {
    [MESSAGES] = "messages",
    [TOOLS] = "tools",
    [SYSTEM] = "system",
    [STREAM] = "stream",
    [TEMPERATURE] = "temperature",
    [TOP_P] = "top_p",
    [STREAM_OPTIONS] = "stream_options",
    [MAX_TOKENS] = "max_tokens",
    [MAX_COMPLETION_TOKENS] = "max_completion_tokens",
    [OPTIONS] = "options",
    [PROMPT] = "prompt",
    [INPUT] = "input",
    [ENCODING_FORMAT] = "encoding_format",
    [DIMENSIONS] = "dimensions",
};

/* The state of one reading. */
typedef struct reader {
  weft_model_ask *ask;
  weft_json_value members[MEMBERS];
  weft_model_failure *failure;
  int rc;
} reader;

static void refuse(reader *r, const char *message, const char *param) {
  if (r->failure->status == 0)
    *r->failure = (weft_model_failure){.status = 400, .message = message, .param = param};
}

static bool is_bool(weft_json_value value) {
  return value.kind == WEFT_JSON_TRUE || value.kind == WEFT_JSON_FALSE;
}

static bool is_absent(weft_json_value value) {
  return value.kind == WEFT_JSON_NONE || value.kind == WEFT_JSON_NULL;
}

/* A boolean that may be missing. */
static bool read_flag(reader *r, weft_json_value value, bool usual, const char *name) {
  if (is_absent(value))
    return usual;
  if (!is_bool(value))
    refuse(r, "expected a boolean", name);
  return value.kind == WEFT_JSON_TRUE;
}

/* A whole number >= 1 that may be missing. */
static uint64_t read_count(reader *r, member which) {
  weft_json_value value = r->members[which];
  double number = weft_json_number(value, -1);
  if (is_absent(value))
    return 0;
  if (!(number >= 1 && number <= 1e9) || floor(number) != number) {
    refuse(r, "expected a whole number above 0", member_names[which]);
    return 0;
  }
  return (uint64_t)number;
}

static void check_range(reader *r, member which, double low, double high) {
  weft_json_value value = r->members[which];
  double number = weft_json_number(value, NAN);
  if (!is_absent(value) && !(number >= low && number <= high))
    refuse(r, "the number is missing or out of its range", member_names[which]);
}

/* Texts --------------------------------------------------------------------------------------- */

/* Adds a text to the prompt; that of the last message is kept. */
static void take_text(reader *r, weft_json_span text, bool last) {
  r->ask->prompt_bytes += text.size;
  if (last && text.text && r->rc == WEFT_BUF_OK)
    r->rc = weft_json_unescape(text, &r->ask->last);
}

/* A string, or a list of parts: {"text"}, or the result of a tool with a content of its own. */
static void take_content(reader *r, weft_json_value content, bool last, bool nested) {
  weft_json_value part;
  weft_json_span key;
  take_text(r, weft_json_string(content), last);
  if (content.kind != WEFT_JSON_ARRAY)
    return;
  for (weft_json_walk walk = weft_json_walk_in(content); weft_json_next(&walk, &key, &part);) {
    weft_json_span type = weft_json_string(weft_json_get(part, "type"));
    if (part.kind != WEFT_JSON_OBJECT || (!type.text && r->ask->family != WEFT_MODEL_OLLAMA))
      refuse(r, "each content part must be an object with a type", "messages");
    take_text(r, weft_json_string(weft_json_get(part, "text")), last);
    if (!nested)
      take_content(r, weft_json_get(part, "content"), last, true);
  }
}

static bool is_role(const reader *r, weft_json_value role) {
  static const char *const openai[] = {"developer", "system",   "user", "assistant",
                                       "tool",      "function", NULL};
  static const char *const anthropic[] = {"user", "assistant", NULL};
  static const char *const ollama[] = {"system", "user", "assistant", "tool", NULL};
  static const char *const *const lists[] = {openai, anthropic, ollama};
  for (const char *const *name = lists[r->ask->family]; *name; name++)
    if (weft_json_is(role, *name))
      return true;
  return false;
}

static bool is_text(weft_json_value object, const char *name) {
  return weft_json_get(object, name).kind == WEFT_JSON_STRING;
}

/* A call of a tool that a message repeats. Ollama's have no ids, and objects as arguments. */
static bool is_call(const reader *r, weft_json_value call) {
  weft_json_value function = weft_json_get(call, "function");
  weft_json_value arguments = weft_json_get(function, "arguments");
  if (!is_text(function, "name"))
    return false;
  if (r->ask->family == WEFT_MODEL_OLLAMA)
    return is_absent(arguments) || arguments.kind == WEFT_JSON_OBJECT;
  return is_text(call, "id") && weft_json_is(weft_json_get(call, "type"), "function") &&
         arguments.kind == WEFT_JSON_STRING;
}

/* Calls and results of tools, which are parts of the content for Anthropic. */
static void check_tool_part(reader *r, weft_json_value part) {
  weft_json_value type = weft_json_get(part, "type");
  if (weft_json_is(type, "tool_use") && (!is_text(part, "id") || !is_text(part, "name") ||
                                         weft_json_get(part, "input").kind != WEFT_JSON_OBJECT))
    refuse(r, "each tool_use block needs an id, a name and an input that is an object", "messages");
  else if (weft_json_is(type, "tool_result") && !is_text(part, "tool_use_id"))
    refuse(r, "each tool_result block needs a tool_use_id", "messages");
}

static void check_tools_of(reader *r, weft_json_value message) {
  weft_json_value item;
  weft_json_span key;
  if (r->ask->family == WEFT_MODEL_ANTHROPIC) {
    weft_json_walk parts = weft_json_walk_in(weft_json_get(message, "content"));
    while (weft_json_next(&parts, &key, &item))
      check_tool_part(r, item);
    return;
  }
  weft_json_walk calls = weft_json_walk_in(weft_json_get(message, "tool_calls"));
  while (weft_json_next(&calls, &key, &item))
    if (!is_call(r, item))
      refuse(r,
             "each of tool_calls needs a function with name and arguments, and OpenAI's an id and "
             "a type",
             "messages");
  if (r->ask->family == WEFT_MODEL_OPENAI && weft_json_is(weft_json_get(message, "role"), "tool") &&
      !is_text(message, "tool_call_id"))
    refuse(r, "a message of the role 'tool' needs the tool_call_id that it answers", "messages");
}

static void check_message(reader *r, weft_json_value message) {
  weft_json_value content = weft_json_get(message, "content");
  bool calls = weft_json_get(message, "tool_calls").kind == WEFT_JSON_ARRAY;
  if (message.kind != WEFT_JSON_OBJECT)
    refuse(r, "each message must be an object", "messages");
  else if (!is_role(r, weft_json_get(message, "role")))
    refuse(r, "a message has no role, or one that is not known", "messages");
  else if (content.kind != WEFT_JSON_STRING && content.kind != WEFT_JSON_ARRAY &&
           !(is_absent(content) && (calls || r->ask->family == WEFT_MODEL_OLLAMA)))
    refuse(r, "the content of a message must be a string or a list of parts", "messages");
  else
    check_tools_of(r, message);
}

static void read_messages(reader *r) {
  weft_json_value messages = r->members[MESSAGES], message;
  weft_json_span key;
  size_t left = weft_json_count(messages);
  if (messages.kind != WEFT_JSON_ARRAY)
    refuse(r, "missing required parameter: 'messages'", "messages");
  else if (left == 0 && r->ask->family != WEFT_MODEL_OLLAMA)
    refuse(r, "messages: at least one message is required", "messages");
  for (weft_json_walk walk = weft_json_walk_in(messages); weft_json_next(&walk, &key, &message);) {
    check_message(r, message);
    take_content(r, weft_json_get(message, "content"), --left == 0, false);
  }
}

static void read_tools(reader *r) {
  weft_json_value tools = r->members[TOOLS], tool;
  weft_json_span key;
  bool flat = r->ask->family == WEFT_MODEL_ANTHROPIC;
  if (!is_absent(tools) && tools.kind != WEFT_JSON_ARRAY)
    refuse(r, "tools must be a list", "tools");
  for (weft_json_walk walk = weft_json_walk_in(tools); weft_json_next(&walk, &key, &tool);) {
    weft_json_value holder = flat ? tool : weft_json_get(tool, "function");
    if (weft_json_get(holder, "name").kind != WEFT_JSON_STRING)
      refuse(r, "each tool needs a name", "tools");
    r->ask->prompt_bytes += tool.size;
  }
}

/* Tasks --------------------------------------------------------------------------------------- */

static void read_chat(reader *r) {
  weft_model_ask *ask = r->ask;
  read_messages(r);
  read_tools(r);
  take_content(r, r->members[SYSTEM], false, false);
  ask->stream = read_flag(r, r->members[STREAM], ask->family == WEFT_MODEL_OLLAMA, "stream");
  check_range(r, TEMPERATURE, 0, ask->family == WEFT_MODEL_ANTHROPIC ? 1 : 2);
  check_range(r, TOP_P, 0, 1);
}

static void read_openai_chat(reader *r) {
  read_chat(r);
  weft_json_value options = r->members[STREAM_OPTIONS];
  r->ask->max_tokens = read_count(r, MAX_TOKENS);
  uint64_t completion = read_count(r, MAX_COMPLETION_TOKENS);
  if (completion)
    r->ask->max_tokens = completion;
  if (!is_absent(options) && !r->ask->stream)
    refuse(r, "stream_options is only allowed when stream is enabled", "stream_options");
  r->ask->include_usage =
      read_flag(r, weft_json_get(options, "include_usage"), false, "stream_options");
}

static void read_anthropic_chat(reader *r) {
  read_chat(r);
  r->ask->max_tokens = read_count(r, MAX_TOKENS);
  if (r->ask->task == WEFT_MODEL_TASK_COUNT)
    r->ask->stream = false;
  else if (is_absent(r->members[MAX_TOKENS]))
    refuse(r, "max_tokens: Field required", "max_tokens");
}

static void read_ollama_options(reader *r) {
  double limit = weft_json_number(weft_json_get(r->members[OPTIONS], "num_predict"), 0);
  r->ask->max_tokens = limit >= 1 && limit < 1e9 ? (uint64_t)limit : 0;
}

static void read_generate(reader *r) {
  weft_json_value prompt = r->members[PROMPT];
  if (!is_absent(prompt) && prompt.kind != WEFT_JSON_STRING)
    refuse(r, "prompt must be a string", "prompt");
  take_text(r, weft_json_string(prompt), true);
  take_text(r, weft_json_string(r->members[SYSTEM]), false);
  r->ask->stream = read_flag(r, r->members[STREAM], true, "stream");
  read_ollama_options(r);
}

/* One text, a list of texts, or (OpenAI) texts that are tokens already. */
static void read_input(reader *r, weft_json_value input) {
  weft_json_value item;
  weft_json_span key;
  size_t numbers = 0, others = 0;
  for (weft_json_walk walk = weft_json_walk_in(input); weft_json_next(&walk, &key, &item);) {
    take_text(r, weft_json_string(item), true);
    numbers += item.kind == WEFT_JSON_NUMBER;
    others += item.kind != WEFT_JSON_NUMBER;
    if (item.kind != WEFT_JSON_STRING && item.kind != WEFT_JSON_ARRAY &&
        item.kind != WEFT_JSON_NUMBER)
      refuse(r, "'input' must be a string or a list of strings", "input");
  }
  take_text(r, weft_json_string(input), true);
  r->ask->inputs = others ? others : 1;
  if (others > WEFT_MODEL_INPUTS_MAX)
    refuse(r, "'input' has more than 2048 items", "input");
  if (input.kind != WEFT_JSON_STRING && input.kind != WEFT_JSON_ARRAY)
    refuse(r, "missing required parameter: 'input'", "input");
  else if (input.kind == WEFT_JSON_ARRAY && numbers + others == 0)
    refuse(r, "'input' must not be empty", "input");
  else if (numbers && others)
    refuse(r, "'input' must not mix tokens and texts", "input");
}

static void read_embed(reader *r) {
  weft_json_value format = r->members[ENCODING_FORMAT];
  read_input(r, r->members[INPUT]);
  r->ask->dimensions = (size_t)read_count(r, DIMENSIONS);
  if (r->ask->dimensions > WEFT_MODEL_DIMENSIONS_MAX)
    refuse(r, "too many dimensions", "dimensions");
  r->ask->base64 = weft_json_is(format, "base64");
  if (!is_absent(format) && !r->ask->base64 && !weft_json_is(format, "float"))
    refuse(r, "encoding_format must be float or base64", "encoding_format");
}

static void read_task(reader *r) {
  switch (r->ask->task) {
  case WEFT_MODEL_TASK_NONE:
    break;
  case WEFT_MODEL_TASK_CHAT:
  case WEFT_MODEL_TASK_COUNT:
    if (r->ask->family == WEFT_MODEL_OPENAI) {
      read_openai_chat(r);
    } else if (r->ask->family == WEFT_MODEL_ANTHROPIC) {
      read_anthropic_chat(r);
    } else {
      read_chat(r);
      read_ollama_options(r);
    }
    break;
  case WEFT_MODEL_TASK_GENERATE:
    read_generate(r);
    break;
  case WEFT_MODEL_TASK_EMBED:
    read_embed(r);
    break;
  case WEFT_MODEL_TASK_EMBED_ONE:
    r->ask->inputs = 1;
    take_text(r, weft_json_string(r->members[PROMPT]), true);
    break;
  }
}

int weft_model_ask_read(weft_model_ask *ask, weft_model_failure *failure) {
  size_t wrong = 0;
  reader r = {.ask = ask, .failure = failure};
  ask->body = weft_model_request_json(ask->request, &wrong);
  if (ask->body.kind == WEFT_JSON_NONE)
    refuse(&r, "We could not parse the JSON body of your request.", NULL);
  else if (ask->body.kind != WEFT_JSON_OBJECT)
    refuse(&r, "the body must be a JSON object", NULL);
  else if (!ask->request->model)
    refuse(&r, "you must provide a model parameter", "model");
  else {
    weft_json_get_all(ask->body, member_names, r.members);
    read_task(&r);
  }
  return r.rc;
}

void weft_model_ask_free(weft_model_ask *ask) {
  weft_buf_free(&ask->last);
}
