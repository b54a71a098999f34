/* encode_plain.c: the short ways of the encoder, for messages of plain values.
 *
 * Owns nothing. Entered by the state's thread alone. Invariant: nothing here raises; what does not
 * fit or is not plain is left to encode.c.
 */
#include "put.h"

enum {
  FEW_VALUES = 8, /* fit on the stack of any C function */
  LONGEST_NUMBER = 12,
};

/* A buffer over the memory that an empty parcel has. */
static weft_buf buf_of(weft_parcel *parcel) {
  return (weft_buf){.data = parcel->data,
                    .capacity = parcel->capacity ? parcel->capacity : WEFT_PARCEL_INLINE};
}

/* 0: it is not plain, or longer than what is left; the buffer never grows. */
static inline int put_if_it_fits(weft_buf *out, lua_State *L, int index) {
  int type = lua_type(L, index);
  size_t most = LONGEST_NUMBER + (type == LUA_TSTRING ? weft_rawlen(L, index) : 0);
  return out->capacity - out->size >= most && weft_put_plain(out, L, index, type) == WEFT_BUF_OK;
}

int weft_encode_small(lua_State *L, int index, weft_parcel *parcel) {
  weft_buf out = buf_of(parcel);
  out.data[out.size++] = 0;
  if (!put_if_it_fits(&out, L, index))
    return 0;
  parcel->size = (uint32_t)out.size;
  parcel->count = 1;
  return 1;
}

static int put_captures(weft_buf *out, lua_State *L, int function, const weft_code *code) {
  int top = lua_gettop(L), ok = 1;
  for (int i = 1; i <= code->upvalue_count && ok; i++) {
    lua_getupvalue(L, function, i);
    if (weft_ship_is_env(code, i))
      out->data[out->size++] = WEFT_TAG_GLOBALS;
    else
      ok = put_if_it_fits(out, L, top + i);
  }
  lua_settop(L, top);
  return ok;
}

int weft_encode_task(weft_state *state, lua_State *L, int first, int count,
                     weft_code_keeper *keeper, weft_parcel *parcel) {
  weft_code *code = weft_ship_find(state, L, first);
  if (!code || code->upvalue_count + count > FEW_VALUES ||
      atomic_load_explicit(&code->is_rich, memory_order_relaxed) || !keeper->keep(keeper, code))
    return 0;
  weft_buf out = buf_of(parcel);
  out.data[0] = 0;
  out.data[1] = WEFT_TAG_FUNCTION;
  memcpy(out.data + 2, &code, sizeof code);
  out.size = 2 + sizeof code;
  int ok = code->upvalue_count == 0 || put_captures(&out, L, first, code);
  for (int i = 1; i < count && ok; i++)
    ok = put_if_it_fits(&out, L, first + i);
  if (!ok) {
    atomic_store_explicit(&code->is_rich, 1, memory_order_relaxed); /* not tried again */
    return 0;
  }
  parcel->size = (uint32_t)out.size;
  parcel->count = (uint32_t)count;
  return 1;
}

int weft_encode_plain(weft_state *state, lua_State *L, int first, int count) {
  weft_parcel_writer *writer = &state->writer;
  weft_parcel_writer_reset(writer);
  int rc = weft_buf_putc(&writer->buf, 0);
  for (int i = 0; i < count && rc == WEFT_BUF_OK; i++)
    rc = weft_put_plain(&writer->buf, L, first + i, lua_type(L, first + i));
  if (rc == WEFT_BUF_OK)
    return 1;
  weft_parcel_writer_reset(writer);
  return 0;
}
