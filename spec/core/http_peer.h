/* http_peer.h: a server that the test plays by hand: it accepts, reads and writes when the test
 * says so.
 *
 * For what depends on the moment: the transfers run on the I/O thread meanwhile.
 */
#ifndef WEFT_SPEC_HTTP_PEER_H
#define WEFT_SPEC_HTTP_PEER_H

#include "http_helpers.h"

#include <poll.h>

typedef struct peer {
  int listener, port;
  char head[65536]; /* of the last request */
} peer;

static inline void peer_open(peer *peer) {
  peer->listener = listen_somewhere(&peer->port);
}

static inline void peer_close(peer *peer) {
  close(peer->listener);
}

static inline weft_http_request peer_get(const peer *peer, char *url, size_t size,
                                         const char *path) {
  snprintf(url, size, "http://127.0.0.1:%d%s", peer->port, path);
  return (weft_http_request){.url = weft_http_text_of(url)};
}

/* Whether it can be read within the time, in ms. */
static inline int readable(int fd, int ms) {
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  return poll(&entry, 1, ms) > 0;
}

/* -1 when nobody came. */
static inline int peer_accept(peer *peer) {
  return readable(peer->listener, 20000) ? accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC) : -1;
}

/* Reads one request without a body, or with one that came along. 0: the connection was closed. */
static inline int peer_read(peer *peer, int fd) {
  size_t size = 0;
  peer->head[0] = '\0';
  while (!strstr(peer->head, "\r\n\r\n")) {
    ssize_t got =
        readable(fd, 20000) ? recv(fd, peer->head + size, sizeof peer->head - 1 - size, 0) : -1;
    if (got <= 0)
      return 0;
    size += (size_t)got;
    peer->head[size] = '\0';
  }
  return 1;
}

static inline void peer_write(int fd, const char *text) {
  if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
    printf("# the peer could not write\n");
}

static inline void peer_reset(int fd) {
  set_reset(fd);
  close(fd);
}

#endif
