/* test_http_stream.c: answers that are read while they arrive. The test's thread is the server too:
 * it accepts, and sends what the test says, so that each state is reached on purpose. */
#include "stream_helpers.h"

#include "context.h"
#include "mem.h"

#include <fcntl.h>
#include <sys/wait.h>

enum { PIECE = 8192 };

static const char open_end[] = "HTTP/1.1 200 OK\r\nX-One: 1\r\n\r\n";
static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

static int listener, port;

/* ---- both ends ---- */

/* Accepts the connection of a request and reads the head of that. */
static int accept_request(void) {
  char head[4096];
  size_t size = 0;
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  head[0] = '\0';
  while (!strstr(head, "\r\n\r\n")) {
    ssize_t got = recv(fd, head + size, sizeof head - 1 - size, 0);
    if (got <= 0)
      break;
    size += (size_t)got;
    head[size] = '\0';
  }
  return fd;
}

static void send_text(int fd, const char *text) {
  connection c = {.fd = fd};
  send_all(&c, text, strlen(text));
}

static weft_http_request stream_request(size_t buffer) {
  static char url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%d/path?query=secret", port);
  return (weft_http_request){.url = weft_http_text_of(url), .is_stream = 1, .buffer = buffer};
}

static weft_http_transfer *open_stream(size_t buffer) {
  weft_http_request request = stream_request(buffer);
  return start(&request);
}

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
  request.limits_ms[WEFT_HTTP_IDLE] = 100;
  weft_http_transfer *transfer = start(&request);
  int fd = accept_request();
  send_text(fd, open_end);
  wait_head(transfer);
  uint64_t sent = 0, read = 0;
  size_t largest = 0;
  for (int round = 0; round < 5; round++) {
    sent = flood(fd, transfer, sent);
    if (round == 0)
      usleep(300000); /* longer than the idle limit, which must not count */
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
  request.limits_ms[WEFT_HTTP_TOTAL] = 300;
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

/* ---- contexts ---- */

static void test_bond(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  send_text(fd, open_end);
  wait_head(transfer);
  weft_http_bind(transfer, context);
  weft_context_cancel(context, NULL);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "canceled"),
        "a context's end aborts");
  weft_http_unbind(transfer);
  weft_http_transfer_release(transfer);
  close(fd);
  transfer = open_stream(0);
  fd = accept_request();
  weft_http_bind(transfer, context);
  check(is_closed(transfer) && is_kind(weft_http_error(transfer), "canceled"),
        "so does one that is done already");
  weft_http_unbind(transfer);
  weft_http_transfer_release(transfer);
  weft_context_release(context);
  close(fd);
}

static void test_unbind(void) {
  weft_context *context = weft_context_with_cancel(weft_background());
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request();
  send_text(fd, open_end);
  weft_http_bind(transfer, context);
  weft_http_unbind(transfer);
  weft_http_unbind(transfer);
  weft_context_cancel(context, NULL);
  send_text(fd, "still");
  check(next_is(transfer, "still"), "an undone bond aborts nothing");
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
  weft_context_release(context);
  close(fd);
}

static void *cancel(void *context) {
  weft_context_cancel(context, NULL);
  return NULL;
}

/* The bond is broken and undone at the same time; the end comes at any time. */
static void test_bond_races(void) {
  for (int i = 0; i < 300; i++) {
    pthread_t thread;
    weft_context *context = weft_context_with_cancel(weft_background());
    weft_http_transfer *transfer = open_stream(0);
    int fd = accept_request();
    send_text(fd, open_end);
    weft_http_bind(transfer, context);
    if (i % 3 == 0)
      close(fd);
    pthread_create(&thread, NULL, cancel, context);
    if (i % 2)
      weft_http_discard(transfer);
    weft_http_unbind(transfer);
    weft_http_abort(transfer);
    weft_http_transfer_release(transfer);
    pthread_join(thread, NULL);
    weft_context_release(context);
    if (i % 3)
      close(fd);
  }
  check(all_gone(), "nothing is left of 300 races");
}

/* ---- failing memory ---- */

/* One stream with all that may happen; the kind of its failure, or NULL. */
static const char *run_one(void) {
  weft_error *error = NULL;
  weft_http_request request = stream_request(1000);
  weft_http_transfer *transfer = weft_http_transfer_new(&request, &error);
  static char kind[32];
  if (!transfer) {
    snprintf(kind, sizeof kind, "%s", weft_error_kind(error));
    weft_error_release(error);
    return kind;
  }
  weft_http_start(transfer);
  /* without memory it may never connect */
  struct timeval patience = {0, 200000};
  setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  int fd = accept_request();
  if (fd >= 0) {
    char body[20000];
    connection c = {.fd = fd};
    memset(body, 'x', sizeof body);
    send_text(fd, open_end);
    send_all(&c, body, sizeof body);
    close(fd);
  }
  weft_http_text bytes;
  size_t total = 0;
  while (read_some(transfer, &bytes) == WEFT_OK)
    total += bytes.size;
  error = weft_http_error(transfer);
  snprintf(kind, sizeof kind, "%s", error ? weft_error_kind(error) : "");
  if (!error && total != 20000)
    snprintf(kind, sizeof kind, "lost bytes");
  weft_http_transfer_release(transfer);
  return error || *kind ? kind : NULL;
}

static void test_torture(void) {
  int failures = 0, odd = 0, is_good = 0;
  for (uint64_t nth = 1; nth <= 60; nth++) {
    weft_mem_fail_at(nth);
    const char *kind = run_one();
    weft_mem_fail_at(0);
    failures += kind != NULL;
    odd += kind && strcmp(kind, "nomem") != 0;
    if (odd == 1 && kind && strcmp(kind, "nomem") != 0)
      printf("# allocation %d: %s\n", (int)nth, kind);
    is_good |= kind == NULL;
  }
  struct timeval forever = {0, 0};
  setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
  check(failures > 3 && !odd && is_good, "%d lacks of memory, all told", failures);
  check(run_one() == NULL && all_gone(), "and afterwards it works");
}

/* ---- forks ---- */

static void test_fork(void) {
  weft_http_transfer *transfer = open_stream(0);
  int fd = accept_request(), status = 1;
  send_text(fd, open_end);
  wait_head(transfer);
  pid_t child = fork();
  if (child == 0) {
    weft_http_text bytes;
    weft_waiter waiter = {0};
    int rc = weft_http_read(transfer, &bytes, &waiter);
    weft_http_unread(transfer, &waiter);
    weft_http_discard(transfer);
    weft_http_abort(transfer);
    _exit(rc == WEFT_FORKED ? 0 : 1);
  }
  waitpid(child, &status, 0);
  check(status == 0, "a child of a fork is told");
  send_text(fd, "parent");
  check(next_is(transfer, "parent"), "the parent reads on");
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
  close(fd);
}

/* ---- many ---- */

enum { MANY = UNDER_TSAN ? 200 : 1000, ROUNDS = 30 };

static void test_many(void) {
  static weft_http_transfer *transfers[MANY];
  static int fds[MANY];
  size_t used[ROUNDS];
  int good = 0;
  for (int i = 0; i < MANY; i++) {
    transfers[i] = open_stream(0);
    fds[i] = accept_request();
    send_text(fds[i], open_end);
  }
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < MANY; i++)
      send_text(fds[i], "data: event\n\n");
    for (int i = 0; i < MANY; i++)
      good += next_is(transfers[i], "data: event\n\n");
    used[round] = mallinfo2().uordblks;
  }
  check(good == MANY * ROUNDS, "%d events of %d streams at once", good, MANY);
  check(used[ROUNDS - 1] < used[1] + 64 * 1024, "in flat memory: %zu KB, then %zu KB",
        used[1] >> 10, used[ROUNDS - 1] >> 10);
  for (int i = 0; i < MANY; i++)
    close(fds[i]);
  good = 0;
  for (int i = 0; i < MANY; i++) {
    good += is_closed(transfers[i]) && !weft_http_error(transfers[i]);
    weft_http_transfer_release(transfers[i]);
  }
  check(good == MANY, "all end");
}

static void tests(void) {
  listener = listen_somewhere(&port);
  fcntl(listener, F_SETFL, 0);
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
  test_bond();
  test_unbind();
  test_bond_races();
  test_torture();
  test_fork();
  test_many();
  close(listener);
}

int main(void) {
  return run_all(tests);
}
