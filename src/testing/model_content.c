/* model_content.c: chooses an answer by the rules of the configuration, and counts its tokens.
 *
 * Owns the counters of the rules. Only the server thread enters. Invariant: a rule whose times are
 * used up answers no more; the last reply of a rule stays.
 */
#include "model_content.h"

#include "../core/mem.h"
#include "model_mock.h"
#include "model_template.h"

int weft_model_speaker_init(weft_model_speaker *speaker, const weft_model_config *config) {
  speaker->config = config;
  speaker->taken = weft_calloc(config->rule_count + 1, sizeof *speaker->taken);
  return speaker->taken ? 0 : -1;
}

void weft_model_speaker_free(weft_model_speaker *speaker) {
  weft_free(speaker->taken);
}

static bool matches(const weft_model_speaker *speaker, const weft_model_rule *rule,
                    const weft_model_ask *ask) {
  const weft_model_config *config = speaker->config;
  if (rule->model && strcmp(rule->model, ask->request->model) != 0)
    return false;
  const char *said = ask->last.data ? (const char *)ask->last.data : "";
  return !rule->pattern ||
         (config->matches && config->matches(config->matcher, rule->pattern, said, ask->last.size));
}

static const weft_model_canned *choose(const weft_model_speaker *speaker, weft_model_turn *turn) {
  for (size_t i = 0; i < speaker->config->rule_count; i++) {
    const weft_model_rule *rule = &speaker->config->rules[i];
    uint64_t taken = speaker->taken[i];
    bool used_up = rule->times >= 0 && taken >= (uint64_t)rule->times;
    if (used_up || !matches(speaker, rule, &turn->ask))
      continue;
    turn->rule = i + 1;
    return &rule->replies[taken < rule->reply_count ? taken : rule->reply_count - 1];
  }
  return NULL;
}

void weft_model_spoken(weft_model_speaker *speaker, const weft_model_turn *turn) {
  if (turn->rule)
    speaker->taken[turn->rule - 1]++;
}

/* So many tokens, by the count of weft_model_tokens. */
static void make_words(uint64_t tokens, weft_json_writer *out) {
  for (uint64_t i = 1; i < tokens && out->rc == WEFT_BUF_OK; i++)
    weft_json_put(out, "abc ");
  weft_json_put(out, "abc");
}

static int say_canned(weft_model_turn *turn, const weft_model_canned *canned) {
  weft_json_writer out = {&turn->text, WEFT_BUF_OK};
  turn->canned = canned;
  if (canned->tokens)
    make_words(canned->tokens, &out);
  else if (canned->text && canned->is_template)
    weft_model_fill_template(canned->text, turn, &out);
  else if (canned->text)
    weft_json_put(&out, canned->text);
  return out.rc;
}

static int say_own(weft_model_turn *turn) {
  weft_json_writer out = {&turn->text, WEFT_BUF_OK};
  const weft_buf *last = &turn->ask.last;
  const char *said = last->data ? (const char *)last->data : "";
  if (!weft_model_mock(turn->ask.request->model, said, last->size, &out)) {
    weft_json_put(&out, "echo: ");
    weft_json_put_bytes(&out, said, last->size);
  }
  return out.rc;
}

/* Ends a text that is longer than the client wants. */
static void heed_limit(weft_model_turn *turn) {
  uint64_t limit = turn->ask.max_tokens;
  if (limit == 0 || weft_model_tokens(turn->text.size) <= limit)
    return;
  size_t size = (size_t)limit * 4 - 1;
  while (size > 0 && (turn->text.data[size] & 0xC0) == 0x80)
    size--;
  turn->text.size = size;
  turn->finish = "length";
}

static void count_tokens(weft_model_turn *turn) {
  const weft_model_canned *canned = turn->canned;
  size_t said = turn->text.size;
  for (size_t i = 0; canned && i < canned->call_count; i++)
    said += strlen(canned->calls[i].name) + strlen(canned->calls[i].arguments);
  turn->input_tokens = weft_model_tokens(turn->ask.prompt_bytes);
  turn->output_tokens = weft_model_tokens(said);
  if (canned && canned->input_tokens >= 0)
    turn->input_tokens = (uint64_t)canned->input_tokens;
  if (canned && canned->output_tokens >= 0)
    turn->output_tokens = (uint64_t)canned->output_tokens;
}

static int talk(const weft_model_speaker *speaker, weft_model_turn *turn) {
  const weft_model_canned *canned = choose(speaker, turn);
  int rc = canned ? say_canned(turn, canned) : say_own(turn);
  turn->finish = canned && canned->call_count ? "tool_calls" : "stop";
  heed_limit(turn);
  if (canned && canned->finish)
    turn->finish = canned->finish;
  return rc;
}

int weft_model_speak(const weft_model_speaker *speaker, weft_model_turn *turn) {
  weft_model_task task = turn->ask.task;
  bool talks = task == WEFT_MODEL_TASK_CHAT || task == WEFT_MODEL_TASK_GENERATE;
  int rc = talks ? talk(speaker, turn) : WEFT_BUF_OK;
  count_tokens(turn);
  return rc;
}
