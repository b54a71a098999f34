/* model_gzip.c: gzip (RFC 1952) of stored blocks, and of long runs of one letter.
 *
 * Owns nothing. Any thread enters, each with its own stream. Invariant: every block that is written
 * here ends at a whole byte.
 */
#include "model_gzip.h"

/* Checksum ------------------------------------------------------------------------------------ */

static uint32_t crc_byte(uint32_t crc, uint8_t byte) {
  crc ^= byte;
  for (int i = 0; i < 8; i++)
    crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  return crc;
}

static uint32_t crc_text(uint32_t crc, const uint8_t *text, size_t size) {
  crc = ~crc;
  for (size_t i = 0; i < size; i++)
    crc = crc_byte(crc, text[i]);
  return ~crc;
}

/* What one byte does to the checksum is affine: a matrix of 32 columns, and a constant. */
typedef struct step {
  uint32_t columns[32], constant;
} step;

static uint32_t apply(const step *s, uint32_t crc) {
  uint32_t result = s->constant;
  for (int i = 0; i < 32; i++)
    if (crc >> i & 1)
      result ^= s->columns[i];
  return result;
}

/* First `a`, then `b`. */
static step chain(const step *a, const step *b) {
  step both = {.constant = apply(b, a->constant)};
  for (int i = 0; i < 32; i++)
    both.columns[i] = apply(b, a->columns[i]) ^ b->constant;
  return both;
}

/* The checksum after `count` times the same byte, by squaring. */
static uint32_t crc_run(uint32_t crc, uint8_t byte, uint64_t count) {
  step power = {.constant = crc_byte(0, byte)};
  for (int i = 0; i < 32; i++)
    power.columns[i] = crc_byte(1u << i, byte) ^ power.constant;
  crc = ~crc;
  for (; count; count >>= 1) {
    if (count & 1)
      crc = apply(&power, crc);
    power = chain(&power, &power);
  }
  return ~crc;
}

/* Blocks -------------------------------------------------------------------------------------- */

static const uint8_t header[] = {0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255};

static void put_little(weft_json_writer *out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; i++) {
    uint8_t byte = (uint8_t)(value >> 8 * i);
    weft_json_put_bytes(out, &byte, 1);
  }
}

static void put_stored(weft_json_writer *out, const uint8_t *text, size_t size, bool last) {
  do {
    uint32_t part = size < 0xFFFF ? (uint32_t)size : 0xFFFF;
    uint8_t type = last && part == size;
    weft_json_put_bytes(out, &type, 1);
    put_little(out, part, 2);
    put_little(out, ~part, 2);
    weft_json_put_bytes(out, text, part);
    text += part;
    size -= part;
  } while (size);
}

static void put_trailer(weft_json_writer *out, const weft_gzip *gzip) {
  put_little(out, gzip->crc, 4);
  put_little(out, (uint32_t)gzip->size, 4);
}

int weft_gzip_pack(weft_gzip *gzip, weft_buf *buf, bool last) {
  weft_buf packed;
  weft_buf_init(&packed, 0);
  weft_json_writer out = {&packed, WEFT_BUF_OK};
  if (!gzip->begun)
    weft_json_put_bytes(&out, header, sizeof header);
  gzip->begun = true;
  gzip->crc = crc_text(gzip->crc, buf->data, buf->size);
  gzip->size += buf->size;
  if (buf->size || last)
    put_stored(&out, buf->data, buf->size, last);
  if (last)
    put_trailer(&out, gzip);
  weft_buf_free(buf);
  *buf = packed;
  return out.rc;
}

/* Bombs --------------------------------------------------------------------------------------- */

typedef struct bits {
  weft_json_writer *out;
  uint32_t held;
  int count;
} bits;

/* Lowest bit first. */
static void put_bits(bits *b, uint32_t value, int count) {
  b->held |= value << b->count;
  for (b->count += count; b->count >= 8; b->count -= 8, b->held >>= 8) {
    uint8_t byte = (uint8_t)b->held;
    weft_json_put_bytes(b->out, &byte, 1);
  }
}

/* The codes of a block: a run of 258 is 0, the letter a is 10, the end is 11; and the only
 * distance, one byte back, is 0. Told in the code for lengths, where a run of zeros is 0, one is
 * 10, two is 11. */
static void put_codes(bits *b) {
  static const uint8_t lengths[18] = {[2] = 1, [15] = 2, [17] = 2}; /* of 18, 2 and 1 */
  put_bits(b, 286 - 257, 5);
  put_bits(b, 1 - 1, 5);
  put_bits(b, 18 - 4, 4);
  for (int i = 0; i < 18; i++)
    put_bits(b, lengths[i], 3);
  put_bits(b, 0 | ('a' - 11) << 1, 8);
  put_bits(b, 3, 2); /* a: two bits */
  put_bits(b, 0 | (138 - 11) << 1, 8);
  put_bits(b, 0 | (255 - 'a' - 138 - 11) << 1, 8);
  put_bits(b, 3, 2); /* the end: two bits */
  put_bits(b, 0 | (284 - 256 - 11) << 1, 8);
  put_bits(b, 1, 2); /* a run: one bit */
  put_bits(b, 1, 2); /* the distance: one bit */
}

static void put_run(bits *b, uint64_t size) {
  put_bits(b, 2 << 1, 3); /* not the last block, with codes of its own */
  put_codes(b);
  uint64_t runs = size ? (size - 1) / 258 : 0;
  uint64_t letters = size - runs * 258;
  for (uint64_t i = 0; i < letters; i++)
    put_bits(b, 1, 2);
  for (uint64_t i = 0; i < runs; i++)
    put_bits(b, 0, 2);
  put_bits(b, 3, 2);
}

/* The last block; its head need not begin at a whole byte. */
static void put_rest(bits *b, const char *text) {
  uint32_t size = (uint32_t)strlen(text);
  put_bits(b, 1, 3);
  put_bits(b, 0, (8 - b->count) % 8);
  put_little(b->out, size, 2);
  put_little(b->out, ~size, 2);
  weft_json_put(b->out, text);
}

void weft_gzip_bomb(const char *before, uint64_t size, const char *after, weft_json_writer *out) {
  weft_gzip gzip = {.size = strlen(before) + size + strlen(after)};
  bits b = {out, 0, 0};
  weft_json_put_bytes(out, header, sizeof header);
  put_stored(out, (const uint8_t *)before, strlen(before), false);
  put_run(&b, size);
  put_rest(&b, after);
  gzip.crc = crc_text(0, (const uint8_t *)before, strlen(before));
  gzip.crc = crc_run(gzip.crc, 'a', size);
  gzip.crc = crc_text(gzip.crc, (const uint8_t *)after, strlen(after));
  put_trailer(out, &gzip);
}
