/* fingerprint.c: SipHash-2-4, by Aumasson and Bernstein.
 *
 * Owns the process's key. Any thread enters. Invariant: the key is drawn before the first number is
 * made, and never leaves this file: without it a number says nothing about the bytes.
 */
#include "fingerprint.h"

#include "clock.h"
#include "platform.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static uint64_t rotated(uint64_t x, int bits) {
  return x << bits | x >> (64 - bits);
}

static void mix(uint64_t v[4], int rounds) {
  for (int i = 0; i < rounds; i++) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0], v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotated(v[1], 17) ^ v[2], v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
  }
}

static void take_word(uint64_t v[4], uint64_t word) {
  v[3] ^= word;
  mix(v, 2);
  v[0] ^= word;
}

/* Up to eight bytes, the lowest first. */
static uint64_t word_of(const uint8_t *bytes, size_t size) {
  uint64_t word = 0;
  for (size_t i = 0; i < size; i++)
    word |= (uint64_t)bytes[i] << (8 * i);
  return word;
}

uint64_t weft_fingerprint_by(const uint64_t key[2], const void *bytes, size_t size) {
  uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                   key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};
  const uint8_t *cursor = bytes, *last = cursor + size / 8 * 8;
  for (; cursor < last; cursor += 8)
    take_word(v, word_of(cursor, 8));
  take_word(v, (uint64_t)size << 56 | word_of(last, size % 8));
  v[2] ^= 0xff;
  mix(v, 4);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- the process's key ---- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t process_key[2];

/* Without a source of chance two processes still differ, and it is no more than hard to guess. */
static void draw_key(void) {
  FILE *source = fopen("/dev/urandom", "rbe");
  size_t got = source ? fread(process_key, sizeof process_key, 1, source) : 0;
  if (source)
    fclose(source);
  if (got == 1)
    return;
  process_key[0] = weft_mix(weft_clock_real_ns());
  process_key[1] = weft_mix(process_key[0] ^ (uint64_t)(uintptr_t)&source);
}

uint64_t weft_fingerprint(const void *bytes, size_t size) {
  pthread_once(&once, draw_key);
  return weft_fingerprint_by(process_key, bytes, size);
}
