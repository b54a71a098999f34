/* model_quota.c: counts requests and tokens in fixed windows.
 *
 * Owns nothing. Only the server thread enters. Invariant: what is used never exceeds a limit,
 * unless one request alone does.
 */
#include "model_quota.h"

#include <math.h>

#include "model_head.h"

void weft_model_quota_init(weft_model_quota *quota, const weft_model_config *config) {
  *quota = (weft_model_quota){.requests = config->requests_per_window,
                              .tokens = config->tokens_per_window,
                              .window = config->window,
                              .start = -1};
}

double weft_model_quota_reset(const weft_model_quota *quota, double now) {
  double left = quota->start + quota->window - now;
  return quota->start < 0 || left < 0 ? 0 : left;
}

bool weft_model_quota_take(weft_model_quota *quota, const weft_model_turn *turn, double now) {
  double tokens = (double)(turn->input_tokens + turn->output_tokens);
  if (quota->start < 0 || now >= quota->start + quota->window) {
    quota->start = now;
    quota->used_requests = quota->used_tokens = 0;
  }
  if (quota->requests >= 0 && quota->used_requests + 1 > quota->requests)
    return false;
  if (quota->tokens >= 0 && quota->used_tokens > 0 && quota->used_tokens + tokens > quota->tokens)
    return false;
  quota->used_requests++;
  quota->used_tokens += tokens;
  return true;
}

/* One limit: how high, what is left, when it is whole again. */
static void put_openai(const char *what, double limit, double used, double reset,
                       weft_json_writer *out) {
  double left = used < limit ? limit - used : 0;
  weft_json_putf(out, "x-ratelimit-limit-%s: %.0f\r\nx-ratelimit-remaining-%s: %.0f\r\n", what,
                 limit, what, left);
  weft_json_putf(out, "x-ratelimit-reset-%s: %.0fms\r\n", what, ceil(reset * 1e3));
}

static void put_anthropic(const char *what, double limit, double used, int64_t date,
                          weft_json_writer *out) {
  double left = used < limit ? limit - used : 0;
  weft_json_putf(out, "anthropic-ratelimit-%s-limit: %.0f\r\n", what, limit);
  weft_json_putf(out, "anthropic-ratelimit-%s-remaining: %.0f\r\n", what, left);
  weft_json_putf(out, "anthropic-ratelimit-%s-reset: ", what);
  weft_model_put_utc(date, out);
  weft_json_put(out, "\r\n");
}

static void put_limit(weft_model_family family, const char *what, double limit, double used,
                      double reset, int64_t date, weft_json_writer *out) {
  if (limit < 0)
    return;
  if (family == WEFT_MODEL_ANTHROPIC)
    put_anthropic(what, limit, used, date + (int64_t)ceil(reset), out);
  else
    put_openai(what, limit, used, reset, out);
}

void weft_model_put_quota(const weft_model_quota *quota, weft_model_family family, double now,
                          int64_t date, weft_json_writer *out) {
  double reset = weft_model_quota_reset(quota, now);
  put_limit(family, "requests", quota->requests, quota->used_requests, reset, date, out);
  put_limit(family, "tokens", quota->tokens, quota->used_tokens, reset, date, out);
}
