/* model_json.c: a strict check of JSON documents, and ways through one that passed.
 *
 * Owns nothing. Any thread enters, each with its own document. Invariant: the check reads each byte
 * once and never outside of the document, however broken it is; the walks trust a checked document.
 */
#include "model_json.h"

#include <stdlib.h>

/* Checking ------------------------------------------------------------------------------------ */

typedef struct checker {
  const char *at, *end;
  size_t depth;
  bool objects[WEFT_JSON_DEPTH_MAX]; /* which of the open containers are objects */
} checker;

size_t weft_json_utf8_size(const char *text, size_t left) {
  static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t *bytes = (const uint8_t *)text;
  uint8_t c = bytes[0];
  if (c < 0x80)
    return 1;
  size_t size = c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
  if (size == 0 || size > left)
    return 0;
  uint32_t code = c & (0x7Fu >> size);
  for (size_t i = 1; i < size; i++) {
    if ((bytes[i] & 0xC0) != 0x80)
      return 0;
    code = code << 6 | (bytes[i] & 0x3Fu);
  }
  bool valid = code >= smallest[size] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  return valid ? size : 0;
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static void skip_space(const char **at, const char *end) {
  while (*at < end && is_space(**at))
    (*at)++;
}

static bool check_escape(checker *c) {
  if (c->end - c->at < 2)
    return false;
  char name = c->at[1];
  if (name != 'u') {
    c->at += 2;
    return name != '\0' && strchr("\"\\/bfnrt", name) != NULL;
  }
  for (int i = 2; i < 6; i++)
    if (c->end - c->at <= i || weft_json_hex_value(c->at[i]) < 0)
      return false;
  c->at += 6;
  return true;
}

/* `at` stands on the opening quote; leaves behind the closing one. */
static bool check_string(checker *c) {
  if (c->at == c->end || *c->at++ != '"')
    return false;
  while (c->at < c->end && *c->at != '"') {
    if (*c->at == '\\') {
      if (!check_escape(c))
        return false;
      continue;
    }
    size_t size = weft_json_utf8_size(c->at, (size_t)(c->end - c->at));
    if (size == 0 || (unsigned char)*c->at < 0x20)
      return false;
    c->at += size;
  }
  if (c->at == c->end)
    return false;
  c->at++;
  return true;
}

static bool check_digits(checker *c) {
  const char *start = c->at;
  while (c->at < c->end && is_digit(*c->at))
    c->at++;
  return c->at > start;
}

static bool check_number(checker *c) {
  if (*c->at == '-')
    c->at++;
  const char *start = c->at;
  if (!check_digits(c) || (*start == '0' && c->at > start + 1))
    return false;
  if (c->at < c->end && *c->at == '.') {
    c->at++;
    if (!check_digits(c))
      return false;
  }
  if (c->at == c->end || (*c->at | 0x20) != 'e')
    return true;
  c->at++;
  if (c->at < c->end && (*c->at == '+' || *c->at == '-'))
    c->at++;
  return check_digits(c);
}

static bool check_word(checker *c, const char *word) {
  size_t size = strlen(word);
  if ((size_t)(c->end - c->at) < size || memcmp(c->at, word, size) != 0)
    return false;
  c->at += size;
  return true;
}

static bool check_scalar(checker *c) {
  switch (*c->at) {
  case '"':
    return check_string(c);
  case 't':
    return check_word(c, "true");
  case 'f':
    return check_word(c, "false");
  case 'n':
    return check_word(c, "null");
  default:
    return check_number(c);
  }
}

static bool check_key(checker *c) {
  skip_space(&c->at, c->end);
  if (!check_string(c))
    return false;
  skip_space(&c->at, c->end);
  return check_word(c, ":");
}

/* Opens a container; sets `*closed` when it is empty. */
static bool open_container(checker *c, bool *closed) {
  bool object = *c->at++ == '{';
  if (c->depth == WEFT_JSON_DEPTH_MAX)
    return false;
  skip_space(&c->at, c->end);
  *closed = c->at < c->end && *c->at == (object ? '}' : ']');
  if (*closed) {
    c->at++;
    return true;
  }
  c->objects[c->depth++] = object;
  return !object || check_key(c);
}

/* Behind a value: closes what ends here. Leaves at the next value, or at depth 0. */
static bool check_next(checker *c) {
  while (c->depth > 0) {
    skip_space(&c->at, c->end);
    if (c->at == c->end)
      return false;
    bool object = c->objects[c->depth - 1];
    char found = *c->at;
    if (found == ',') {
      c->at++;
      return !object || check_key(c);
    }
    if (found != (object ? '}' : ']'))
      return false;
    c->at++;
    c->depth--;
  }
  return true;
}

static bool check_value(checker *c) {
  do {
    skip_space(&c->at, c->end);
    if (c->at == c->end)
      return false;
    bool closed = true;
    bool container = *c->at == '{' || *c->at == '[';
    if (container ? !open_container(c, &closed) : !check_scalar(c))
      return false;
    if (closed && !check_next(c))
      return false;
  } while (c->depth > 0);
  return true;
}

static weft_json_kind kind_of(char first) {
  switch (first) {
  case '{':
    return WEFT_JSON_OBJECT;
  case '[':
    return WEFT_JSON_ARRAY;
  case '"':
    return WEFT_JSON_STRING;
  case 't':
    return WEFT_JSON_TRUE;
  case 'f':
    return WEFT_JSON_FALSE;
  case 'n':
    return WEFT_JSON_NULL;
  default:
    return WEFT_JSON_NUMBER;
  }
}

weft_json_value weft_json_check(const char *text, size_t size, size_t *wrong) {
  checker c = {.at = text, .end = text + size};
  skip_space(&c.at, c.end);
  const char *start = c.at;
  bool valid = check_value(&c);
  const char *stop = c.at;
  skip_space(&c.at, c.end);
  if (!valid || c.at < c.end) {
    *wrong = (size_t)(c.at - text);
    return (weft_json_value){0};
  }
  return (weft_json_value){kind_of(*start), start, (size_t)(stop - start)};
}

/* Walking ------------------------------------------------------------------------------------- */

/* `at` stands on the opening quote. */
static const char *string_end(const char *at) {
  for (at++; *at != '"'; at++)
    if (*at == '\\')
      at++;
  return at + 1;
}

static const char *value_end(const char *at, const char *end) {
  size_t depth = 0;
  do {
    if (*at == '"') {
      at = string_end(at);
      continue;
    }
    if (*at == '{' || *at == '[')
      depth++;
    else if (*at == '}' || *at == ']')
      depth--;
    at++;
  } while (depth > 0);
  if (at[-1] == '"' || at[-1] == '}' || at[-1] == ']')
    return at;
  while (at < end && !is_space(*at) && *at != ',' && *at != '}' && *at != ']')
    at++;
  return at;
}

weft_json_walk weft_json_walk_in(weft_json_value container) {
  bool keys = container.kind == WEFT_JSON_OBJECT;
  if (!keys && container.kind != WEFT_JSON_ARRAY)
    return (weft_json_walk){0};
  return (weft_json_walk){container.text + 1, container.text + container.size - 1, keys};
}

bool weft_json_next(weft_json_walk *walk, weft_json_span *key, weft_json_value *value) {
  *key = (weft_json_span){0};
  while (walk->at < walk->end && (is_space(*walk->at) || *walk->at == ','))
    walk->at++;
  if (walk->at == walk->end)
    return false;
  if (walk->keys) {
    const char *stop = string_end(walk->at);
    *key = (weft_json_span){walk->at + 1, (size_t)(stop - walk->at) - 2};
    walk->at = stop;
    while (is_space(*walk->at) || *walk->at == ':')
      walk->at++;
  }
  const char *stop = value_end(walk->at, walk->end);
  *value = (weft_json_value){kind_of(*walk->at), walk->at, (size_t)(stop - walk->at)};
  walk->at = stop;
  return true;
}

static bool span_is(weft_json_span span, const char *text, size_t size) {
  if (!span.text)
    return false;
  if (!memchr(span.text, '\\', span.size))
    return span.size == size && memcmp(span.text, text, size) == 0;
  weft_buf plain;
  weft_buf_init(&plain, 0);
  bool same = weft_json_unescape(span, &plain) == WEFT_BUF_OK && plain.size == size &&
              (size == 0 || memcmp(plain.data, text, size) == 0);
  weft_buf_free(&plain);
  return same;
}

static weft_json_value get_member(weft_json_value object, const char *name, size_t size) {
  weft_json_value found = {0}, value;
  weft_json_span key;
  if (object.kind != WEFT_JSON_OBJECT)
    return found;
  for (weft_json_walk walk = weft_json_walk_in(object); weft_json_next(&walk, &key, &value);)
    if (span_is(key, name, size))
      found = value;
  return found;
}

static weft_json_value get_item(weft_json_value array, size_t index) {
  weft_json_value value;
  weft_json_span key;
  weft_json_walk walk = weft_json_walk_in(array);
  while (weft_json_next(&walk, &key, &value))
    if (--index == 0)
      return value;
  return (weft_json_value){0};
}

weft_json_value weft_json_get(weft_json_value object, const char *key) {
  return get_member(object, key, strlen(key));
}

void weft_json_get_all(weft_json_value object, const char *const *names, weft_json_value *values) {
  weft_json_value value;
  weft_json_span key;
  size_t count = 0;
  while (names[count])
    values[count++] = (weft_json_value){0};
  if (object.kind != WEFT_JSON_OBJECT)
    return;
  for (weft_json_walk walk = weft_json_walk_in(object); weft_json_next(&walk, &key, &value);)
    for (size_t i = 0; i < count; i++)
      if (span_is(key, names[i], strlen(names[i])))
        values[i] = value;
}

weft_json_value weft_json_find(weft_json_value value, const char *path, size_t size) {
  const char *end = path + size;
  while (path < end && value.kind != WEFT_JSON_NONE) {
    const char *dot = memchr(path, '.', (size_t)(end - path));
    const char *stop = dot ? dot : end;
    size_t index = 0;
    for (const char *at = path; at < stop && is_digit(*at); at++)
      index = index * 10 + (size_t)(*at - '0');
    if (value.kind == WEFT_JSON_ARRAY)
      value = index ? get_item(value, index) : (weft_json_value){0};
    else
      value = get_member(value, path, (size_t)(stop - path));
    path = dot ? dot + 1 : end;
  }
  return value;
}

size_t weft_json_count(weft_json_value container) {
  weft_json_value value;
  weft_json_span key;
  size_t count = 0;
  for (weft_json_walk walk = weft_json_walk_in(container); weft_json_next(&walk, &key, &value);)
    count++;
  return count;
}

weft_json_span weft_json_string(weft_json_value value) {
  if (value.kind != WEFT_JSON_STRING)
    return (weft_json_span){0};
  return (weft_json_span){value.text + 1, value.size - 2};
}

bool weft_json_is(weft_json_value value, const char *text) {
  return span_is(weft_json_string(value), text, strlen(text));
}

double weft_json_number(weft_json_value value, double otherwise) {
  char digits[64];
  if (value.kind != WEFT_JSON_NUMBER || value.size >= sizeof digits)
    return otherwise;
  memcpy(digits, value.text, value.size);
  digits[value.size] = '\0';
  return strtod(digits, NULL);
}
