/* model_config.c: defaults and copies of the configuration.
 *
 * Owns the strings of each copy. Any thread enters, each with its own configuration. Invariant: a
 * copy that failed half way can be freed like a whole one.
 */
#include "model_config.h"

#include <string.h>

#include "../core/mem.h"

void weft_model_config_init(weft_model_config *config) {
  *config = (weft_model_config){.record = 1000, .seed = 1};
}

static const char *copy_text(const char *text, int *failed) {
  const char *copy = text ? weft_strndup(text, strlen(text)) : NULL;
  if (text && !copy)
    *failed = -1;
  return copy;
}

static weft_model_canned *copy_replies(const weft_model_config *config, int *failed) {
  size_t count = config->reply_count;
  weft_model_canned *replies = weft_calloc(count ? count : 1, sizeof *replies);
  if (!replies) {
    *failed = -1;
    return NULL;
  }
  for (size_t i = 0; i < count; i++) {
    replies[i].model = copy_text(config->replies[i].model, failed);
    replies[i].text = copy_text(config->replies[i].text, failed);
  }
  return replies;
}

int weft_model_config_copy(weft_model_config *copy, const weft_model_config *config) {
  int failed = 0;
  *copy = *config;
  copy->faults = NULL;
  copy->fault_count = 0;
  copy->fault = (weft_model_fault){0};
  copy->api_key = copy_text(config->api_key, &failed);
  copy->reply = copy_text(config->reply, &failed);
  copy->replies = copy_replies(config, &failed);
  return failed;
}

void weft_model_config_free(weft_model_config *copy) {
  for (size_t i = 0; copy->replies && i < copy->reply_count; i++) {
    weft_free((char *)copy->replies[i].model);
    weft_free((char *)copy->replies[i].text);
  }
  weft_free((weft_model_canned *)copy->replies);
  weft_free((char *)copy->reply);
  weft_free((char *)copy->api_key);
}
