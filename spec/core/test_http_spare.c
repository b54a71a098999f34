/* test_http_spare.c: the buffers that go round between the I/O thread and who waits. */
#include "check.h"
#include "http_engine.h"

enum { MANY = 300, ROUNDS = 20000 };

static void what_was_given_is_taken(void) {
  weft_buf buf, other;
  weft_buf_init(&buf, 0);
  weft_http_spare_take(&buf, WEFT_HTTP_BODY_SPARE);
  uint8_t *memory = buf.data;
  CHECK(memory && buf.size == 0 && buf.capacity > 0);
  weft_http_spare_take(&buf, WEFT_HTTP_BODY_SPARE);
  CHECK(buf.data == memory); /* it has room */
  weft_buf_append(&buf, "x", 1);
  weft_http_spare_give(&buf, WEFT_HTTP_BODY_SPARE);
  CHECK(!buf.data && buf.size == 0 && buf.capacity == 0);
  weft_buf_init(&other, 0);
  weft_http_spare_take(&other, WEFT_HTTP_BODY_SPARE);
  CHECK(other.data == memory && other.size == 0);
  weft_http_spare_give(&other, WEFT_HTTP_BODY_SPARE);
}

static void a_ceiling_below_the_usual_room_holds(void) {
  weft_buf buf;
  weft_buf_init(&buf, 10);
  weft_http_spare_take(&buf, WEFT_HTTP_BODY_SPARE);
  CHECK(weft_buf_append(&buf, "eleven byte", 11) == WEFT_BUF_LIMIT);
  CHECK(weft_buf_append(&buf, "ten bytes.", 10) == WEFT_BUF_OK);
  weft_http_spare_give(&buf, WEFT_HTTP_BODY_SPARE);
  weft_buf_init(&buf, 3000);
  weft_http_spare_take(&buf, WEFT_HTTP_BODY_SPARE);
  CHECK(weft_buf_reserve(&buf, 3001) == WEFT_BUF_LIMIT &&
        weft_buf_reserve(&buf, 3000) == WEFT_BUF_OK);
  weft_http_spare_give(&buf, WEFT_HTTP_BODY_SPARE); /* of another size by now: freed */
}

/* More than are kept, of either kind: the rest is freed, and none is in two hands. */
static void many_may_be_given(void) {
  static weft_buf bufs[MANY];
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < MANY; i++) {
      weft_buf_init(&bufs[i], 0);
      weft_http_spare_take(&bufs[i], i % 2 ? WEFT_HTTP_HEAD_SPARE : WEFT_HTTP_BODY_SPARE);
      memset(bufs[i].data, i, bufs[i].capacity);
    }
    for (int i = 0; i < MANY; i++)
      CHECK(bufs[i].data[0] == (uint8_t)i && bufs[i].data[bufs[i].capacity - 1] == (uint8_t)i);
    for (int i = 0; i < MANY; i++)
      weft_http_spare_give(&bufs[i], i % 2 ? WEFT_HTTP_HEAD_SPARE : WEFT_HTTP_BODY_SPARE);
  }
}

static weft_buf handed[2][64];
static pthread_barrier_t barrier;

/* What the main thread takes, these two give back at the same time. */
static void *give_all(void *all) {
  for (int round = 0; round < ROUNDS / 64; round++) {
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 64; i++)
      weft_http_spare_give((weft_buf *)all + i, WEFT_HTTP_HEAD_SPARE);
    pthread_barrier_wait(&barrier);
  }
  return NULL;
}

static void any_thread_may_give(void) {
  pthread_t threads[2];
  pthread_barrier_init(&barrier, NULL, 3);
  for (int t = 0; t < 2; t++)
    pthread_create(&threads[t], NULL, give_all, handed[t]);
  for (int round = 0; round < ROUNDS / 64; round++) {
    weft_buf mine;
    for (int i = 0; i < 128; i++) {
      weft_buf_init(&handed[i / 64][i % 64], 0);
      weft_http_spare_take(&handed[i / 64][i % 64], WEFT_HTTP_HEAD_SPARE);
    }
    pthread_barrier_wait(&barrier);
    weft_buf_init(&mine, 0);
    weft_http_spare_take(&mine, WEFT_HTTP_HEAD_SPARE);
    CHECK(mine.data);
    weft_http_spare_give(&mine, WEFT_HTTP_HEAD_SPARE);
    pthread_barrier_wait(&barrier);
  }
  for (int t = 0; t < 2; t++)
    pthread_join(threads[t], NULL);
  pthread_barrier_destroy(&barrier);
}

int main(void) {
  check_run("spare: what was given is taken", what_was_given_is_taken);
  check_run("spare: a ceiling below the usual room holds", a_ceiling_below_the_usual_room_holds);
  check_run("spare: many may be given", many_may_be_given);
  check_run("spare: any thread may give", any_thread_may_give);
  weft_http_spares_free();
  return check_end();
}
