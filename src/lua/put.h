/* put.h: writing one plain value into a buffer: see encode.h for the shape of a message. Nothing
 * here raises. */
#ifndef WEFT_LUA_PUT_H
#define WEFT_LUA_PUT_H

#include "encode.h"

/* These return WEFT_BUF_ codes. */

static inline int weft_put_varint(weft_buf *out, uint64_t value) {
  int rc = weft_buf_reserve(out, 10);
  if (rc != WEFT_BUF_OK)
    return rc;
  while (value >= 128) {
    out->data[out->size++] = (uint8_t)(value | 128);
    value >>= 7;
  }
  out->data[out->size++] = (uint8_t)value;
  return WEFT_BUF_OK;
}

static inline int weft_put_tagged(weft_buf *out, uint8_t tag, uint64_t value) {
  int rc = weft_buf_putc(out, tag);
  return rc ? rc : weft_put_varint(out, value);
}

static inline int weft_put_bytes(weft_buf *out, uint8_t tag, const char *bytes, size_t size) {
  int rc = weft_put_tagged(out, tag, size);
  return rc ? rc : weft_buf_append(out, bytes, size);
}

static inline int weft_put_integer(weft_buf *out, int64_t value) {
  return weft_put_tagged(out, WEFT_TAG_INTEGER, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

static inline int weft_put_number(weft_buf *out, lua_State *L, int index) {
  if (weft_is_integer(L, index))
    return weft_put_integer(out, weft_to_integer(L, index));
  lua_Number number = lua_tonumber(L, index);
  int rc = weft_buf_putc(out, WEFT_TAG_FLOAT);
  return rc ? rc : weft_buf_append(out, &number, sizeof number);
}

enum { WEFT_NOT_PLAIN = 1 };

/* A WEFT_BUF_ code, or WEFT_NOT_PLAIN. */
static inline int weft_put_plain(weft_buf *out, lua_State *L, int index, int type) {
  size_t size;
  const char *bytes;
  switch (type) {
  case LUA_TNIL:
    return weft_buf_putc(out, WEFT_TAG_NIL);
  case LUA_TBOOLEAN:
    return weft_buf_putc(out, lua_toboolean(L, index) ? WEFT_TAG_TRUE : WEFT_TAG_FALSE);
  case LUA_TNUMBER:
    return weft_put_number(out, L, index);
  case LUA_TSTRING:
    bytes = lua_tolstring(L, index, &size);
    return weft_put_bytes(out, WEFT_TAG_STRING, bytes, size);
  default:
    return WEFT_NOT_PLAIN;
  }
}

#endif
