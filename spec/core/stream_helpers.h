/* stream_helpers.h: reading a stream on a native thread, and a pattern of bytes that shows what is
 * lost.
 *
 * Included by the C file of a test program, after http_helpers.h.
 */
#ifndef WEFT_SPEC_STREAM_HELPERS_H
#define WEFT_SPEC_STREAM_HELPERS_H

#include "http_helpers.h"

#include <fcntl.h>
#include <malloc.h>

static const char open_end[] = "HTTP/1.1 200 OK\r\nX-One: 1\r\n\r\n";
static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

static int listener, port; /* of the test's own server */

/* ---- both ends ---- */

/* Accepts the connection of a request and reads the head of that. */
static inline int accept_request(void) {
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

static inline void send_text(int fd, const char *text) {
  connection c = {.fd = fd};
  send_all(&c, text, strlen(text));
}

static inline void *answer_one(void *arg) {
  ((connection *)arg)->fd = accept_request();
  send_text(((connection *)arg)->fd, open_end);
  return NULL;
}

static inline weft_http_request stream_request(size_t buffer) {
  static char url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%d/path?query=secret", port);
  return (weft_http_request){.url = weft_http_text_of(url), .is_stream = 1, .buffer = buffer};
}

static inline weft_http_transfer *open_stream(size_t buffer) {
  weft_http_request request = stream_request(buffer);
  return start(&request);
}

/* The test's thread is the server. */
static inline void listen_here(void) {
  listener = listen_somewhere(&port);
  fcntl(listener, F_SETFL, 0);
}

static inline void wait_head(weft_http_transfer *transfer) {
  weft_thread_wait party;
  weft_waiter waiter;
  weft_thread_wait_init(&party);
  weft_waiter_init(&waiter, &party.wait, 0);
  if (weft_http_wait_head(transfer, &waiter))
    weft_thread_wait_block(&party);
  else
    weft_thread_wait_drop(&party);
}

/* Blocks until there is something: WEFT_OK or WEFT_CLOSED. */
static inline int read_some(weft_http_transfer *transfer, weft_http_text *bytes) {
  return weft_http_read_or_block(weft_background(), transfer, bytes);
}

static inline int next_is(weft_http_transfer *transfer, const char *expected) {
  char got[64] = "";
  weft_http_text bytes;
  while (strlen(got) < strlen(expected) && read_some(transfer, &bytes) == WEFT_OK)
    strncat(got, bytes.bytes, bytes.size < 32 ? bytes.size : 32);
  return strcmp(got, expected) == 0;
}

static inline int is_closed(weft_http_transfer *transfer) {
  weft_http_text bytes;
  return read_some(transfer, &bytes) == WEFT_CLOSED;
}

static inline void fill(char *bytes, uint64_t at, size_t size) {
  for (size_t i = 0; i < size; i++)
    bytes[i] = (char)((at + i) * 31 + ((at + i) >> 8));
}

/* Reads so many bytes of the pattern. Returns the largest piece, or 0 when something is wrong. */
static inline size_t read_pattern(weft_http_transfer *transfer, uint64_t from, uint64_t to) {
  static char expected[1 << 20];
  size_t largest = 0;
  while (from < to) {
    weft_http_text bytes;
    if (read_some(transfer, &bytes) != WEFT_OK || bytes.size > sizeof expected)
      return 0;
    fill(expected, from, bytes.size);
    if (memcmp(expected, bytes.bytes, bytes.size) != 0)
      return 0;
    from += bytes.size;
    largest = bytes.size > largest ? bytes.size : largest;
  }
  return from == to ? largest : 0;
}

static inline int ask_once(weft_http_request request) {
  weft_http_transfer *transfer = run(&request);
  int is_good = !weft_http_error(transfer);
  weft_http_transfer_release(transfer);
  return is_good;
}

#endif
