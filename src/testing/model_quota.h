/* model_quota.h: the rate limits that the server keeps, and tells in headers.
 *
 * Belongs to the server thread. Nothing here blocks. Windows are fixed: each begins with its first
 * request.
 */
#ifndef WEFT_TESTING_MODEL_QUOTA_H
#define WEFT_TESTING_MODEL_QUOTA_H

#include "model_turn.h"

typedef struct weft_model_quota {
  double requests, tokens; /* a window; negative: no limit */
  double window;           /* seconds */
  double start;            /* of this window, on the monotonic clock; negative: there was none */
  double used_requests, used_tokens;
} weft_model_quota;

/* The limits of the configuration; no window has begun. */
void weft_model_quota_init(weft_model_quota *quota, const weft_model_config *config);
/* Counts a turn. Returns false when a limit is reached: it is not counted then. */
bool weft_model_quota_take(weft_model_quota *quota, const weft_model_turn *turn, double now);
/* Seconds until the next window. */
double weft_model_quota_reset(const weft_model_quota *quota, double now);
/* The headers of the API that was asked; nothing without limits. */
void weft_model_put_quota(const weft_model_quota *quota, weft_model_family family, double now,
                          int64_t date, weft_json_writer *out);

#endif
