/* test_bytes.c: buffers, parcels, the clock's arithmetic and the failing allocator. */
#include "buf.h"
#include "check.h"
#include "clock.h"
#include "fingerprint.h"
#include "mem.h"
#include "parcel.h"

#include <math.h>

/* ---- a handle that counts its life ---- */

static _Atomic uint32_t live_tokens;

static void destroy_token(weft_handle *handle) {
  free(handle);
}

static const weft_handle_type token_type = {"token", destroy_token, &live_tokens};

static weft_handle *new_token(void) {
  weft_handle *handle = malloc(sizeof *handle);
  weft_handle_init(handle, &token_type);
  return handle;
}

/* ---- buffers ---- */

static void grows_and_keeps_bytes(void) {
  weft_buf buf;
  weft_buf_init(&buf, 0);
  for (int i = 0; i < 100000; i++)
    CHECK(weft_buf_putc(&buf, (uint8_t)i) == WEFT_BUF_OK);
  CHECK(buf.size == 100000 && buf.capacity >= buf.size);
  for (int i = 0; i < 100000; i++)
    CHECK(buf.data[i] == (uint8_t)i);
  weft_buf_free(&buf);
  CHECK(buf.size == 0 && buf.data == NULL);
}

static void never_exceeds_its_ceiling(void) {
  weft_buf buf;
  weft_buf_init(&buf, 1000);
  char bytes[999] = {0};
  CHECK(weft_buf_append(&buf, bytes, sizeof bytes) == WEFT_BUF_OK);
  CHECK(weft_buf_append(&buf, bytes, 2) == WEFT_BUF_LIMIT);
  CHECK(weft_buf_reserve(&buf, SIZE_MAX) == WEFT_BUF_LIMIT);
  CHECK(buf.size == 999 && buf.capacity <= 1000);
  CHECK(weft_buf_putc(&buf, 1) == WEFT_BUF_OK);
  weft_buf_free(&buf);
}

static void survives_a_failed_growth(void) {
  weft_buf buf;
  weft_buf_init(&buf, 0);
  CHECK(weft_buf_append(&buf, "kept", 4) == WEFT_BUF_OK);
  weft_mem_fail_at(1);
  CHECK(weft_buf_reserve(&buf, 100000) == WEFT_BUF_NOMEM);
  weft_mem_fail_at(0);
  CHECK(buf.size == 4 && memcmp(buf.data, "kept", 4) == 0);
  weft_buf_free(&buf);
}

/* ---- parcels ---- */

static void write_bytes(weft_parcel_writer *writer, size_t size) {
  for (size_t i = 0; i < size; i++)
    CHECK(weft_buf_putc(&writer->buf, (uint8_t)(i * 7)) == WEFT_BUF_OK);
}

static void check_bytes(const weft_parcel *parcel, size_t size) {
  CHECK(parcel->size == size);
  for (size_t i = 0; i < size; i++)
    CHECK(parcel->data[i] == (uint8_t)(i * 7));
}

static void keeps_bytes_of_any_size(void) {
  static const size_t sizes[] = {0, 1, WEFT_PARCEL_INLINE, WEFT_PARCEL_INLINE + 1, 4000, 300000};
  weft_parcel_writer writer;
  weft_parcel_writer_init(&writer);
  for (size_t i = 0; i < COUNT(sizes); i++) {
    weft_parcel parcel, other;
    weft_parcel_init(&parcel);
    write_bytes(&writer, sizes[i]);
    CHECK(weft_parcel_finish(&writer, &parcel) == WEFT_BUF_OK);
    check_bytes(&parcel, sizes[i]);
    CHECK((parcel.data == parcel.inline_bytes) == (sizes[i] <= WEFT_PARCEL_INLINE));
    weft_parcel_move(&other, &parcel);
    CHECK(parcel.size == 0 && parcel.data == parcel.inline_bytes);
    memset(&parcel, 0xdd, sizeof parcel);
    check_bytes(&other, sizes[i]);
    weft_parcel_clear(&other);
  }
  weft_parcel_writer_free(&writer);
}

static void gives_references_back(void) {
  weft_parcel_writer writer;
  weft_parcel parcel, other;
  weft_handle *token = new_token();
  weft_parcel_writer_init(&writer);
  weft_parcel_init(&parcel);
  for (int i = 0; i < 20; i++) {
    CHECK(weft_buf_putc(&writer.buf, 1) == WEFT_BUF_OK); /* records need no alignment */
    CHECK(weft_parcel_write_handle(&writer, token) == WEFT_BUF_OK);
  }
  weft_handle_release(token);
  CHECK(weft_parcel_finish(&writer, &parcel) == WEFT_BUF_OK);
  CHECK(weft_parcel_read_handle(parcel.data + 1) == token);
  weft_parcel_move(&other, &parcel);
  weft_parcel_clear(&parcel);
  CHECK(atomic_load(&live_tokens) == 1);
  weft_parcel_clear(&other);
  CHECK(atomic_load(&live_tokens) == 0);
  weft_parcel_writer_free(&writer);
}

static void drops_an_unfinished_parcel(void) {
  weft_parcel_writer writer;
  weft_parcel_writer_init(&writer);
  weft_handle *token = new_token();
  CHECK(weft_parcel_write_handle(&writer, token) == WEFT_BUF_OK);
  weft_handle_release(token);
  CHECK(atomic_load(&live_tokens) == 1);
  weft_parcel_writer_reset(&writer);
  CHECK(atomic_load(&live_tokens) == 0 && writer.buf.size == 0);
  weft_parcel_writer_free(&writer);
}

static void keeps_the_writer_without_memory(void) {
  weft_parcel_writer writer;
  weft_parcel parcel;
  weft_parcel_writer_init(&writer);
  weft_parcel_init(&parcel);
  weft_handle *token = new_token();
  weft_mem_fail_at(1);
  CHECK(weft_parcel_write_handle(&writer, token) == WEFT_BUF_NOMEM);
  weft_mem_fail_at(0);
  CHECK(atomic_load(&token->refs) == 1);
  CHECK(weft_parcel_write_handle(&writer, token) == WEFT_BUF_OK);
  weft_handle_release(token);
  write_bytes(&writer, 100);
  weft_mem_fail_at(1);
  CHECK(weft_parcel_finish(&writer, &parcel) == WEFT_BUF_NOMEM);
  weft_mem_fail_at(0);
  CHECK(atomic_load(&live_tokens) == 1 && writer.last_handle != 0);
  CHECK(weft_parcel_finish(&writer, &parcel) == WEFT_BUF_OK);
  weft_parcel_clear(&parcel);
  CHECK(atomic_load(&live_tokens) == 0);
  weft_parcel_writer_free(&writer);
}

/* ---- clock, allocator, codes ---- */

static void clock_arithmetic_saturates(void) {
  clock_freeze();
  uint64_t now_ns = weft_clock_now_ns();
  CHECK(weft_clock_after_s(1.5) == now_ns + 1500000000u);
  CHECK(weft_clock_after_s(0) == now_ns);
  CHECK(weft_clock_after_s(-5) == now_ns);
  CHECK(weft_clock_after_s(NAN) == now_ns);
  CHECK(weft_clock_after_s(INFINITY) == WEFT_NEVER_NS);
  CHECK(weft_clock_after_s(1e300) == WEFT_NEVER_NS);
  weft_clock_set(NULL);
  uint64_t first_ns = weft_clock_now_ns();
  CHECK(weft_clock_now_ns() >= first_ns && first_ns > 0);
}

static void fails_the_chosen_allocation_once(void) {
  void *blocks[4];
  weft_mem_fail_at(3);
  for (size_t i = 0; i < COUNT(blocks); i++)
    blocks[i] = weft_malloc(10);
  CHECK(blocks[0] && blocks[1] && !blocks[2] && blocks[3]);
  CHECK(weft_mem_fail_at(0) == 4);
  for (size_t i = 0; i < COUNT(blocks); i++)
    weft_free(blocks[i]);
}

static void every_code_has_a_sentence(void) {
  for (int code = WEFT_BELOW_ZERO; code <= WEFT_OK; code++)
    CHECK(strcmp(weft_strerror(code), "unknown code") != 0);
  CHECK(strcmp(weft_strerror(-1000), "unknown code") == 0);
}

static void errors_never_fail_to_be_made(void) {
  weft_error *error = weft_error_newf("broken", "%d of %d", 3, 4);
  CHECK(strcmp(weft_error_kind(error), "broken") == 0);
  CHECK(strcmp(weft_error_message(error), "3 of 4") == 0);
  weft_error_release(error);
  for (uint64_t nth = 1; nth <= 2; nth++) {
    weft_mem_fail_at(nth);
    error = weft_error_new("broken", "text");
    weft_mem_fail_at(0);
    CHECK(strcmp(weft_error_kind(error), "nomem") == 0);
    weft_error_release(error);
  }
}

/* ---- fingerprints ---- */

/* The values of the reference implementation, whose input is 00 01 02 …, and so is its key. */
static void fingerprints_are_siphash(void) {
  const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
  const struct {
    size_t size;
    uint64_t wanted;
  } cases[] = {{0, 0x726fdb47dd0e0e31u},
               {1, 0x74f839c593dc67fdu},
               {8, 0x93f5f5799a932462u},
               {15, 0xa129ca6149be45e5u}};
  uint8_t input[15];
  for (size_t i = 0; i < sizeof input; i++)
    input[i] = (uint8_t)i;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    CHECK(weft_fingerprint_by(key, input, cases[i].size) == cases[i].wanted);
  CHECK(weft_fingerprint("a key", 5) == weft_fingerprint("a key", 5));
  CHECK(weft_fingerprint("a key", 5) != weft_fingerprint("a kez", 5));
}

int main(void) {
  check_run("buf: grows and keeps its bytes", grows_and_keeps_bytes);
  check_run("buf: never exceeds its ceiling", never_exceeds_its_ceiling);
  check_run("buf: survives a failed growth", survives_a_failed_growth);
  check_run("parcel: keeps bytes of any size", keeps_bytes_of_any_size);
  check_run("parcel: gives its references back", gives_references_back);
  check_run("parcel: an unfinished one drops its references", drops_an_unfinished_parcel);
  check_run("parcel: without memory the writer is unchanged", keeps_the_writer_without_memory);
  check_run("clock: arithmetic saturates", clock_arithmetic_saturates);
  check_run("mem: fails the chosen allocation once", fails_the_chosen_allocation_once);
  check_run("fingerprint: is SipHash-2-4", fingerprints_are_siphash);
  check_run("error: every code has a sentence", every_code_has_a_sentence);
  check_run("error: making one never fails", errors_never_fail_to_be_made);
  return check_end();
}
