/* model_head.c: writes headers.
 *
 * Owns nothing. Only the server thread enters. Invariant: nothing here depends on the locale.
 */
#include "model_head.h"

#include <time.h>

void weft_model_put_header(weft_json_writer *out, const char *name, const char *value) {
  weft_json_put(out, name);
  weft_json_put(out, ": ");
  weft_json_put(out, value);
  weft_json_put(out, "\r\n");
}

void weft_model_put_number_header(weft_json_writer *out, const char *name, uint64_t value) {
  weft_json_put(out, name);
  weft_json_put(out, ": ");
  weft_json_put_number(out, value);
  weft_json_put(out, "\r\n");
}

void weft_model_put_date_header(weft_json_writer *out, const char *name, int64_t when) {
  static const char days[] = "SunMonTueWedThuFriSat";
  static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  time_t seconds = (time_t)when;
  struct tm utc;
  gmtime_r(&seconds, &utc);
  weft_json_put(out, name);
  weft_json_putf(out, ": %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n", days + utc.tm_wday * 3,
                 utc.tm_mday, months + utc.tm_mon * 3, utc.tm_year + 1900, utc.tm_hour, utc.tm_min,
                 utc.tm_sec);
}

void weft_model_put_utc(int64_t when, weft_json_writer *out) {
  time_t seconds = (time_t)when;
  struct tm utc;
  gmtime_r(&seconds, &utc);
  weft_json_putf(out, "%04d-%02d-%02dT%02d:%02d:%02dZ", utc.tm_year + 1900, utc.tm_mon + 1,
                 utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

void weft_model_put_headers(weft_json_writer *out, const weft_model_header *headers, size_t count) {
  for (size_t i = 0; i < count; i++)
    weft_model_put_header(out, headers[i].name, headers[i].value);
}

void weft_model_put_retry_headers(weft_json_writer *out, const weft_model_fault *fault,
                                  int64_t now) {
  if (fault->retry_after >= 0) {
    uint64_t milliseconds = (uint64_t)(fault->retry_after * 1e3 + 0.5);
    weft_model_put_number_header(out, "Retry-After", (milliseconds + 999) / 1000);
    weft_model_put_number_header(out, "retry-after-ms", milliseconds);
  }
  if (fault->retry_after_ms >= 0)
    weft_model_put_number_header(out, "retry-after-ms", (uint64_t)(fault->retry_after_ms + 0.5));
  if (fault->retry_after_date >= 0)
    weft_model_put_date_header(out, "Retry-After", now + (int64_t)(fault->retry_after_date + 0.5));
  if (fault->should_retry >= 0)
    weft_model_put_header(out, "x-should-retry", fault->should_retry ? "true" : "false");
}
