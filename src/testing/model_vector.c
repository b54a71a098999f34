/* model_vector.c: embeddings: every word has a direction of its own, a text the sum of its words'.
 *
 * Owns nothing. Only the server thread enters. Invariant: a vector depends on its text and the
 * number of dimensions alone.
 */
#include <math.h>

#include "../core/mem.h"
#include "model_api.h"
#include "model_random.h"

static bool is_ink(char c) {
  return (unsigned char)c > ' ';
}

/* FNV-1a, without regard to case. */
static uint64_t hash_word(weft_json_span word) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < word.size; i++) {
    char c = word.text[i];
    hash = (hash ^ (uint8_t)(c >= 'A' && c <= 'Z' ? c | 0x20 : c)) * 0x100000001B3u;
  }
  return hash;
}

static void add_word(weft_json_span word, size_t dimensions, float *vector) {
  uint64_t state = hash_word(word);
  for (size_t i = 0; i < dimensions; i++)
    vector[i] += (float)(weft_model_random(&state) * 2 - 1);
}

static void add_words(weft_json_span text, size_t dimensions, float *vector) {
  const char *at = text.text, *end = text.text + text.size;
  while (at < end) {
    while (at < end && !is_ink(*at))
      at++;
    const char *start = at;
    while (at < end && is_ink(*at))
      at++;
    if (at > start)
      add_word((weft_json_span){start, (size_t)(at - start)}, dimensions, vector);
  }
}

static void normalize(size_t dimensions, float *vector) {
  double sum = 0;
  for (size_t i = 0; i < dimensions; i++)
    sum += (double)vector[i] * vector[i];
  if (sum == 0) {
    vector[0] = 1; /* no word */
    return;
  }
  for (size_t i = 0; i < dimensions; i++)
    vector[i] = (float)(vector[i] / sqrt(sum));
}

/* The nth input as it stands in the document: a string, or tokens. */
static weft_json_span input_text(const weft_model_turn *turn, size_t n) {
  bool one = turn->ask.task == WEFT_MODEL_TASK_EMBED_ONE;
  weft_json_value input = weft_json_get(turn->ask.body, one ? "prompt" : "input"), item;
  weft_json_span key;
  weft_json_walk walk = weft_json_walk_in(input);
  if (turn->ask.inputs == 1 &&
      (!weft_json_next(&walk, &key, &item) || item.kind == WEFT_JSON_NUMBER))
    item = input;
  else if (turn->ask.inputs > 1)
    for (size_t i = 0; i <= n && weft_json_next(&walk, &key, &item); i++)
      continue;
  weft_json_span string = weft_json_string(item);
  return string.text ? string : (weft_json_span){item.text, item.size};
}

void weft_model_vector(const weft_model_turn *turn, size_t n, float *vector) {
  memset(vector, 0, turn->dimensions * sizeof *vector);
  add_words(input_text(turn, n), turn->dimensions, vector);
  normalize(turn->dimensions, vector);
}

/* A number in [-1, 1] with six digits, whatever the locale's point is. */
static void put_fraction(float value, weft_json_writer *out) {
  long scaled = lroundf(fabsf(value) * 1e6f);
  weft_json_putf(out, "%s%ld.%06ld", value < 0 ? "-" : "", scaled / 1000000, scaled % 1000000);
}

int weft_model_put_vector(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  float *vector = weft_malloc(turn->dimensions * sizeof *vector);
  if (!vector)
    return out->rc = WEFT_BUF_NOMEM;
  weft_model_vector(turn, n, vector);
  weft_json_put(out, "[");
  for (size_t i = 0; i < turn->dimensions; i++) {
    weft_json_put(out, i ? "," : "");
    put_fraction(vector[i], out);
  }
  weft_json_put(out, "]");
  weft_free(vector);
  return out->rc;
}

static void put_base64(const uint8_t *bytes, size_t size, weft_json_writer *out) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < size; i += 3) {
    size_t left = size - i;
    uint32_t bits = (uint32_t)bytes[i] << 16;
    bits |= left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
    bits |= left > 2 ? bytes[i + 2] : 0;
    char text[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                    left > 1 ? digits[bits >> 6 & 63] : '=', left > 2 ? digits[bits & 63] : '='};
    weft_json_put_bytes(out, text, sizeof text);
  }
}

/* Little-endian floats, as this server's machines have them. */
int weft_model_put_vector_base64(const weft_model_turn *turn, size_t n, weft_json_writer *out) {
  float *vector = weft_malloc(turn->dimensions * sizeof *vector);
  if (!vector)
    return out->rc = WEFT_BUF_NOMEM;
  weft_model_vector(turn, n, vector);
  weft_json_put(out, "\"");
  put_base64((const uint8_t *)vector, turn->dimensions * sizeof *vector, out);
  weft_json_put(out, "\"");
  weft_free(vector);
  return out->rc;
}
