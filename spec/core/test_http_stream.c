/* test_http_stream.c: answers that are read while they arrive: order, cuts, backpressure,
 * compression. The test's thread is the server too: it accepts, and sends what the test says, so
 * that each state is reached on purpose. */
#include "stream_helpers.h"

enum { PIECE = 8192 };

/* ---- what arrives ---- */

static void test_order(void) {
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  check(!weft_http_has_head(transfer), "no head yet");
  send_text(fd, chunked);
  wait_head(transfer);
  check(weft_http_has_head(transfer) && weft_http_status(transfer) == 200, "the head is there");
  check(!weft_http_is_finished(transfer), "the transfer goes on");
  check(strcmp(weft_http_framing(transfer), "chunked") == 0, "the framing is known");
  send_text(fd, "5\r\nfirst\r\n");
  check(next_is(transfer, "first"), "the first piece");
  send_text(fd, "6\r\nsecond\r\n0\r\n\r\n");
  check(next_is(transfer, "second"), "the second piece");
  check(is_closed(transfer) && !weft_http_error(transfer), "a proper end");
  check(is_closed(transfer), "it stays ended");
  weft_http_transfer_release(transfer);
  close(fd);
}

static void test_cut(void) {
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
  close(fd);
  finish(transfer);
  check(weft_http_has_head(transfer), "a head that came before the failure is there");
  check(next_is(transfer, "half"), "what came before the failure is read first");
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "network"), "then the failure");
  check(strstr(weft_error_message(weft_http_error(transfer)), "4 bytes of the body") != NULL, "%s",
        weft_error_message(weft_http_error(transfer)));
  check(weft_http_failure_of(transfer)->received == 4, "with the count of bytes");
  weft_http_transfer_release(transfer);
}

static void test_no_head(void) {
  weft_http_transfer *transfer = open_stream(0);
  close(accept_request());
  wait_head(transfer);
  check(!weft_http_has_head(transfer) && weft_http_error(transfer), "an end without a head");
  check(is_closed(transfer), "nothing can be read");
  weft_http_transfer_release(transfer);
}

/* ---- backpressure ---- */

/* Sends a pattern until the transfer pauses: how many bytes went out. The sockets hold more than
 * the stream does. */
static uint64_t flood(int fd, weft_http_transfer *transfer, uint64_t sent) {
  char bytes[PIECE];
  while (!weft_http_is_paused(transfer)) {
    fill(bytes, sent, sizeof bytes);
    ssize_t count = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0)
      sent += (uint64_t)count;
    else
      usleep(1000);
  }
  return sent;
}

static void test_pause(size_t buffer) {
  weft_http_request request = stream_request(buffer);
  request.limits_ms[WEFT_HTTP_IDLE] = 500;
  weft_http_transfer *transfer = start(&request);
  int fd = accept_request();
  send_text(fd, open_end);
  wait_head(transfer);
  uint64_t sent = 0, read = 0;
  size_t largest = 0;
  for (int round = 0; round < 5; round++) {
    sent = flood(fd, transfer, sent);
    if (round == 0)
      usleep(800000); /* longer than the idle limit, which must not count */
    check(!weft_http_is_finished(transfer), "a paused transfer stays (%zu bytes)", buffer);
    size_t piece = read_pattern(transfer, read, sent);
    check(piece > 0, "all of it arrives, in order");
    largest = piece > largest ? piece : largest;
    read = sent;
  }
  check(largest <= buffer + 16384, "at most %zu bytes wait: %zu", buffer, largest);
  close(fd);
  check(is_closed(transfer) && !weft_http_error(transfer), "a proper end");
  weft_http_transfer_release(transfer);
}

static void test_idle_after_pause(void) {
  weft_http_request request = stream_request(1000);
  request.limits_ms[WEFT_HTTP_IDLE] = 100;
  weft_http_transfer *transfer = start(&request);
  int fd = accept_request();
  send_text(fd, open_end);
  uint64_t sent = flood(fd, transfer, 0);
  read_pattern(transfer, 0, sent);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "timeout"),
        "once it goes on the idle limit holds again");
  weft_http_transfer_release(transfer);
  close(fd);
}

static void test_end_while_paused(void) {
  weft_http_transfer *transfer = open_stream(1000);
  int fd = accept_request();
  send_text(fd, open_end);
  uint64_t sent = flood(fd, transfer, 0);
  close(fd);
  check(read_pattern(transfer, 0, sent) > 0, "what was sent before the close arrives");
  check(is_closed(transfer) && !weft_http_error(transfer), "then the end");
  weft_http_transfer_release(transfer);
}

static void test_abort_while_paused(void) {
  weft_http_transfer *transfer = open_stream(1000);
  int fd = accept_request();
  send_text(fd, open_end);
  flood(fd, transfer, 0);
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_discard(transfer);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "canceled"), "aborted");
  weft_http_transfer_release(transfer);
  close(fd);
}

static void test_total_while_paused(void) {
  weft_http_request request = stream_request(1000);
  request.limits_ms[WEFT_HTTP_TOTAL] = 1000;
  weft_http_transfer *transfer = start(&request);
  int fd = accept_request();
  send_text(fd, open_end);
  flood(fd, transfer, 0);
  finish(transfer);
  check(is_kind(weft_http_error(transfer), "timeout"), "the total limit holds while it is paused");
  weft_http_transfer_release(transfer);
  close(fd);
}

/* ---- compressed ---- */

static size_t deflate_some(z_stream *stream, const void *bytes, size_t size, char *out,
                           size_t room) {
  stream->next_in = (Bytef *)bytes;
  stream->avail_in = (uInt)size;
  stream->next_out = (Bytef *)out;
  stream->avail_out = (uInt)room;
  deflate(stream, Z_SYNC_FLUSH);
  return room - stream->avail_out;
}

static void test_gzip_pieces(void) {
  weft_http_request request = stream_request(0);
  char packed[256];
  z_stream z = {0};
  request.decompress = 1;
  weft_http_transfer *transfer = start(&request);
  connection c = {.fd = accept_request()};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  send_text(c.fd, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n");
  send_all(&c, packed, deflate_some(&z, "data: one\n\n", 11, packed, sizeof packed));
  check(next_is(transfer, "data: one\n\n"), "a flushed piece arrives at once");
  send_all(&c, packed, deflate_some(&z, "data: two\n\n", 11, packed, sizeof packed));
  check(next_is(transfer, "data: two\n\n"), "and the next");
  deflateEnd(&z);
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
  close(c.fd);
}

/* 64 MB of zeros in 64 KB: read bit by bit, with little memory. */
static void test_bomb(void) {
  weft_http_request request = stream_request(10000);
  request.decompress = 1;
  weft_http_transfer *transfer = start(&request);
  connection c = {.fd = accept_request()};
  send_text(c.fd, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n");
  send_all(&c, server->bomb, server->bomb_size);
  close(c.fd);
  uint64_t total = 0;
  size_t largest = 0, most = 0, before = mallinfo2().uordblks;
  weft_http_text bytes;
  while (read_some(transfer, &bytes) == WEFT_OK) {
    size_t used = mallinfo2().uordblks;
    total += bytes.size;
    largest = bytes.size > largest ? bytes.size : largest;
    most = used > before && used - before > most ? used - before : most;
  }
  check(total == BOMB_SIZE && !weft_http_error(transfer), "all of it: %llu bytes",
        (unsigned long long)total);
  check(largest <= 10000 + 16384, "in pieces of at most %zu bytes", largest);
  check(most < 16 << 20, "with %zu KB of memory", most >> 10);
  weft_http_transfer_release(transfer);
}

/* How a compressed body ends that was cut or damaged. */
static void expect_bad_gzip(const char *framing, int damage, const char *kind) {
  weft_http_request request = stream_request(0);
  char *packed, body[8192];
  connection c;
  weft_http_text bytes;
  request.decompress = 1;
  for (size_t i = 0; i < sizeof body; i++)
    body[i] = (char)(i * i >> 3);
  size_t size = gzip(body, sizeof body, &packed);
  weft_http_transfer *transfer = start(&request);
  c.fd = accept_request();
  dprintf(c.fd, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n%s: %zu\r\n\r\n", framing, size);
  if (damage)
    memset(packed + size / 2, damage, 16);
  send_all(&c, packed, damage ? size : size / 2);
  close(c.fd);
  while (read_some(transfer, &bytes) == WEFT_OK)
    ;
  weft_error *error = weft_http_error(transfer);
  check(kind ? is_kind(error, kind) : !error, "%s: %s", framing,
        error ? weft_error_message(error) : "no error");
  weft_http_transfer_release(transfer);
  free(packed);
}

static void test_bad_gzip(void) {
  expect_bad_gzip("Content-Length", 0, "network");
  expect_bad_gzip("Content-Length", 0x55, "protocol");
  expect_bad_gzip("X-Nothing", 0x55, "protocol");
  expect_bad_gzip("X-Nothing", 0, NULL); /* nothing shows it: the framing is "close" */
}

/* ---- all of it at once: framings, compression and pauses by chance ---- */

enum { CHANCES = 150, BODY = 700000 };

typedef struct answer_plan {
  const char *body; /* as it is sent */
  size_t size;
  int framing; /* 0: length, 1: chunked, 2: close */
  uint64_t seed;
  uint8_t is_packed;
} answer_plan;

static uint64_t chance(uint64_t *seed, uint64_t below) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return (*seed >> 33) % below;
}

static void *answer_as_planned(void *arg) {
  answer_plan *plan = arg;
  connection c = {.fd = accept_request()};
  dprintf(c.fd, "HTTP/1.1 200 OK\r\n%s", plan->is_packed ? "Content-Encoding: gzip\r\n" : "");
  if (plan->framing == 0)
    dprintf(c.fd, "Content-Length: %zu\r\n", plan->size);
  send_text(c.fd, plan->framing == 1 ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
  for (size_t at = 0; at < plan->size;) {
    size_t piece = 1 + chance(&plan->seed, 40000);
    piece = piece < plan->size - at ? piece : plan->size - at;
    if (plan->framing == 1)
      dprintf(c.fd, "%zx\r\n", piece);
    send_all(&c, plan->body + at, piece);
    if (plan->framing == 1)
      send_text(c.fd, "\r\n");
    at += piece;
  }
  if (plan->framing == 1)
    send_text(c.fd, "0\r\n\r\n");
  close(c.fd);
  return NULL;
}

static int run_by_chance(uint64_t seed, answer_plan *plan, const char *body) {
  weft_http_request request = stream_request(1 + chance(&seed, 100000));
  weft_http_text bytes;
  pthread_t thread;
  size_t total = 0;
  int is_same = 1;
  request.decompress = 1;
  plan->framing = (int)chance(&seed, 3);
  plan->seed = seed;
  pthread_create(&thread, NULL, answer_as_planned, plan);
  weft_http_transfer *transfer = start(&request);
  while (read_some(transfer, &bytes) == WEFT_OK) {
    is_same &= total + bytes.size <= BODY && memcmp(body + total, bytes.bytes, bytes.size) == 0;
    total += bytes.size;
    if (chance(&seed, 4) == 0)
      usleep((useconds_t)chance(&seed, 2000));
  }
  pthread_join(thread, NULL);
  int is_good = is_same && total == BODY && !weft_http_error(transfer);
  if (!is_good)
    printf("# framing %d, packed %d, %zu bytes, %s\n", plan->framing, plan->is_packed, total,
           weft_http_error(transfer) ? weft_error_message(weft_http_error(transfer)) : "no error");
  weft_http_transfer_release(transfer);
  return is_good;
}

static void test_chances(void) {
  char *body = malloc(BODY), *packed;
  uint64_t seed = 7;
  int good = 0;
  for (size_t i = 0; i < BODY; i++) /* of parts that pack well and parts that do not */
    body[i] = (char)(i / 50000 % 2 ? 'x' : chance(&seed, 256));
  size_t size = gzip(body, BODY, &packed);
  for (int i = 0; i < CHANCES; i++) {
    answer_plan plan = {.is_packed = i % 2};
    plan.body = plan.is_packed ? packed : body;
    plan.size = plan.is_packed ? size : BODY;
    good += run_by_chance((uint64_t)i, &plan, body);
  }
  check(good == CHANCES, "%d of %d bodies by chance", good, CHANCES);
  free(body);
  free(packed);
}

/* The body of a redirect that is followed is not the stream's. */
static void test_redirect(void) {
  weft_http_request request = stream_request(0);
  request.redirects = 3;
  weft_http_transfer *transfer = start(&request);
  int fd = accept_request();
  send_text(fd, "HTTP/1.1 307 Over there\r\nLocation: /other\r\nContent-Length: 5\r\n"
                "Connection: close\r\n\r\nthere");
  close(fd);
  fd = accept_request();
  check(!weft_http_has_head(transfer), "a redirect's headers are not the answer's");
  send_text(fd, open_end);
  send_text(fd, "here");
  wait_head(transfer);
  check(weft_http_status(transfer) == 200, "those of its target are");
  check(next_is(transfer, "here"), "and its body alone is read");
  close(fd);
  check(is_closed(transfer) && !weft_http_error(transfer), "a proper end");
  weft_http_transfer_release(transfer);
}

static void tests(void) {
  listen_here();
  test_order();
  test_cut();
  test_no_head();
  test_pause(1);
  test_pause(20000);
  test_pause(300000);
  test_idle_after_pause();
  test_end_while_paused();
  test_abort_while_paused();
  test_total_while_paused();
  test_gzip_pieces();
  test_bomb();
  test_bad_gzip();
  test_redirect();
  test_chances();
  close(listener);
}

int main(void) {
  return run_all(tests);
}
