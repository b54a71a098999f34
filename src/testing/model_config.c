/* model_config.c: defaults and copies of the configuration.
 *
 * Owns nothing: the copies belong to arenas. Any thread enters, each with its own configuration.
 * Invariant: a copy that failed half way is not read.
 */
#include "model_config.h"

void weft_model_config_init(weft_model_config *config) {
  *config = (weft_model_config){.record = 1000,
                                .seed = 1,
                                .dimensions = 16,
                                .requests_per_window = -1,
                                .tokens_per_window = -1,
                                .window = 60,
                                .style = weft_model_style_none()};
}

weft_model_fault weft_model_no_fault(void) {
  return (weft_model_fault){.stream = -1,
                            .times = 1,
                            .retry_after = -1,
                            .retry_after_ms = -1,
                            .retry_after_date = -1,
                            .should_retry = -1,
                            .after = -1,
                            .style = weft_model_style_none()};
}

const weft_model_header *weft_model_copy_headers(weft_model_arena *arena,
                                                 const weft_model_header *headers, size_t count) {
  weft_model_header *copy = weft_model_arena_copy(arena, headers, count * sizeof *copy);
  for (size_t i = 0; copy && i < count; i++) {
    copy[i].name = weft_model_arena_text(arena, headers[i].name);
    copy[i].value = weft_model_arena_text(arena, headers[i].value);
  }
  return copy;
}

static const weft_model_call *copy_calls(weft_model_arena *arena, const weft_model_call *calls,
                                         size_t count) {
  weft_model_call *copy = weft_model_arena_copy(arena, calls, count * sizeof *copy);
  for (size_t i = 0; copy && i < count; i++) {
    copy[i].id = weft_model_arena_text(arena, calls[i].id);
    copy[i].name = weft_model_arena_text(arena, calls[i].name);
    copy[i].arguments = weft_model_arena_text(arena, calls[i].arguments);
  }
  return copy;
}

static const weft_model_canned *copy_replies(weft_model_arena *arena,
                                             const weft_model_canned *replies, size_t count) {
  weft_model_canned *copy = weft_model_arena_copy(arena, replies, count * sizeof *copy);
  for (size_t i = 0; copy && i < count; i++) {
    copy[i].text = weft_model_arena_text(arena, replies[i].text);
    copy[i].refusal = weft_model_arena_text(arena, replies[i].refusal);
    copy[i].finish = weft_model_arena_text(arena, replies[i].finish);
    copy[i].calls = copy_calls(arena, replies[i].calls, replies[i].call_count);
  }
  return copy;
}

static const weft_model_rule *copy_rules(weft_model_arena *arena, const weft_model_rule *rules,
                                         size_t count) {
  weft_model_rule *copy = weft_model_arena_copy(arena, rules, count * sizeof *copy);
  for (size_t i = 0; copy && i < count; i++) {
    copy[i].model = weft_model_arena_text(arena, rules[i].model);
    copy[i].pattern = weft_model_arena_text(arena, rules[i].pattern);
    copy[i].replies = copy_replies(arena, rules[i].replies, rules[i].reply_count);
  }
  return copy;
}

static const char *const *copy_models(weft_model_arena *arena, const char *const *models,
                                      size_t count) {
  const char **copy = weft_model_arena_copy(arena, models, count * sizeof *copy);
  for (size_t i = 0; copy && i < count; i++)
    copy[i] = weft_model_arena_text(arena, models[i]);
  return copy;
}

int weft_model_config_copy(weft_model_arena *arena, weft_model_config *copy,
                           const weft_model_config *config) {
  *copy = *config;
  copy->faults = copy->random = NULL;
  copy->fault_count = copy->random_count = 0;
  copy->api_key = weft_model_arena_text(arena, config->api_key);
  copy->rules = copy_rules(arena, config->rules, config->rule_count);
  copy->models = copy_models(arena, config->models, config->model_count);
  copy->headers = weft_model_copy_headers(arena, config->headers, config->header_count);
  return arena->failed ? -1 : 0;
}
