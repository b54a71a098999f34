/* model_json_write.c: JSON text out of strings and numbers, and strings out of JSON text.
 *
 * Owns nothing. Any thread enters, each with its own writer. Invariant: what is written is UTF-8,
 * whatever bytes came in.
 */
#include "model_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* Unescaping ---------------------------------------------------------------------------------- */

static int append_utf8(weft_buf *out, uint32_t code) {
  uint8_t bytes[4];
  size_t size;
  if (code < 0x80) {
    bytes[0] = (uint8_t)code;
    size = 1;
  } else if (code < 0x800) {
    bytes[0] = (uint8_t)(0xC0 | code >> 6);
    size = 2;
  } else if (code < 0x10000) {
    bytes[0] = (uint8_t)(0xE0 | code >> 12);
    size = 3;
  } else {
    bytes[0] = (uint8_t)(0xF0 | code >> 18);
    size = 4;
  }
  for (size_t i = 1; i < size; i++)
    bytes[i] = (uint8_t)(0x80 | (code >> 6 * (size - 1 - i) & 0x3F));
  return weft_buf_append(out, bytes, size);
}

int weft_json_hex_value(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits at `at`, or -1 when there are no four hexadecimal digits. */
static int32_t read_unit(const char *at, const char *end) {
  if (end - at < 4)
    return -1;
  int32_t unit = 0;
  for (int i = 0; i < 4; i++) {
    int digit = weft_json_hex_value(at[i]);
    if (digit < 0)
      return -1;
    unit = unit << 4 | digit;
  }
  return unit;
}

/* `*at` stands behind "\u"; leaves behind what it used. */
static uint32_t read_code_point(const char **at, const char *end) {
  int32_t high = read_unit(*at, end);
  if (high < 0)
    return 0xFFFD;
  *at += 4;
  if (high < 0xD800 || high > 0xDFFF)
    return (uint32_t)high;
  bool pair = high < 0xDC00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u';
  int32_t low = pair ? read_unit(*at + 2, end) : -1;
  if (low < 0xDC00 || low > 0xDFFF)
    return 0xFFFD;
  *at += 6;
  return 0x10000 + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
}

/* `*at` stands behind a backslash. */
static int append_escape(weft_buf *out, const char **at, const char *end) {
  static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
  char c = *(*at)++;
  if (c == 'u')
    return append_utf8(out, read_code_point(at, end));
  const char *name = c ? strchr(names, c) : NULL;
  return weft_buf_putc(out, (uint8_t)(name ? values[name - names] : c));
}

int weft_json_unescape(weft_json_span span, weft_buf *out) {
  if (!span.text)
    return WEFT_BUF_OK;
  const char *at = span.text, *end = span.text + span.size;
  int rc = WEFT_BUF_OK;
  while (at < end && rc == WEFT_BUF_OK) {
    const char *backslash = memchr(at, '\\', (size_t)(end - at));
    const char *stop = backslash ? backslash : end;
    rc = weft_buf_append(out, at, (size_t)(stop - at));
    at = stop;
    if (rc == WEFT_BUF_OK && end - at > 1) {
      at++;
      rc = append_escape(out, &at, end);
    } else {
      break;
    }
  }
  return rc;
}

/* Writing ------------------------------------------------------------------------------------- */

void weft_json_put_bytes(weft_json_writer *writer, const void *bytes, size_t size) {
  if (writer->rc == WEFT_BUF_OK)
    writer->rc = weft_buf_append(writer->out, bytes, size);
}

void weft_json_put(weft_json_writer *writer, const char *text) {
  weft_json_put_bytes(writer, text, strlen(text));
}

void weft_json_put_number(weft_json_writer *writer, uint64_t number) {
  char digits[24], *at = digits + sizeof digits;
  do {
    *--at = (char)('0' + number % 10);
    number /= 10;
  } while (number);
  weft_json_put_bytes(writer, at, (size_t)(digits + sizeof digits - at));
}

void weft_json_put_pair(weft_json_writer *writer, const char *text, uint64_t number) {
  weft_json_put(writer, text);
  weft_json_put_number(writer, number);
}

static bool is_plain(uint8_t c) {
  return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Writes what no plain byte starts: an escape, a longer sequence or a replacement. */
static size_t put_special(weft_json_writer *writer, const uint8_t *at, size_t left) {
  static const char names[] = "\b\f\n\r\t\"\\", values[] = "bfnrt\"\\";
  char escape[8];
  uint8_t c = *at;
  if (c >= 0x80) {
    size_t size = weft_json_utf8_size((const char *)at, left);
    weft_json_put_bytes(writer, size ? (const char *)at : replacement, size ? size : 3);
    return size ? size : 1;
  }
  const char *name = c ? strchr(names, c) : NULL;
  if (name)
    snprintf(escape, sizeof escape, "\\%c", values[name - names]);
  else
    snprintf(escape, sizeof escape, "\\u%04x", c);
  weft_json_put(writer, escape);
  return 1;
}

void weft_json_put_string(weft_json_writer *writer, const char *text, size_t size) {
  const uint8_t *at = (const uint8_t *)(text ? text : ""), *end = at + size;
  weft_json_put(writer, "\"");
  while (at < end) {
    const uint8_t *start = at;
    while (at < end && is_plain(*at))
      at++;
    weft_json_put_bytes(writer, start, (size_t)(at - start));
    if (at < end)
      at += put_special(writer, at, (size_t)(end - at));
  }
  weft_json_put(writer, "\"");
}

void weft_json_put_text(weft_json_writer *writer, const char *text) {
  if (text)
    weft_json_put_string(writer, text, strlen(text));
  else
    weft_json_put(writer, "null");
}

void weft_json_putf(weft_json_writer *writer, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (size < 0 || (size_t)size >= sizeof text)
    abort(); /* such a format is a mistake here */
  weft_json_put_bytes(writer, text, (size_t)size);
}
