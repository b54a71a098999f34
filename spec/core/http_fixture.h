/* http_fixture.h: a small HTTP/1.1 server in a thread of the test program, and helpers around it.
 *
 * The path says what happens: see `routes`. The server thread owns the connections; the test's
 * thread reads the counters, and the last request under its lock. Included by one C file.
 */
#ifndef WEFT_SPEC_HTTP_FIXTURE_H
#define WEFT_SPEC_HTTP_FIXTURE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

enum { REQUEST_MAX = 1 << 20, BOMB_SIZE = 64 << 20, CONNECTIONS_MAX = 32768 };

typedef struct connection {
  int fd;
  size_t size, capacity;
  char *bytes; /* of the request so far, terminated */
  double answer_at;
} connection;

typedef struct fixture {
  pthread_t thread;
  int listener, epoll, port;
  _Atomic int stop, close_all, answer_all;     /* the test's orders; all but stop are taken back */
  _Atomic long accepted, open, held, max_held; /* held: requests of /wait and /never */
  pthread_mutex_t lock;
  char *last; /* the last request, terminated; guarded by lock */
  connection *connections[CONNECTIONS_MAX];
  char *bomb;
  size_t bomb_size;
} fixture;

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static size_t gzip(const void *bytes, size_t size, char **out) {
  z_stream stream = {0};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  size_t room = deflateBound(&stream, size);
  *out = malloc(room);
  stream.next_in = (Bytef *)bytes;
  stream.avail_in = (uInt)size;
  stream.next_out = (Bytef *)*out;
  stream.avail_out = (uInt)room;
  deflate(&stream, Z_FINISH);
  deflateEnd(&stream);
  return stream.total_out;
}

/* ---- answers: 1 to keep the connection ---- */

static int send_all(connection *c, const char *bytes, size_t size) {
  while (size) {
    ssize_t sent = send(c->fd, bytes, size, MSG_NOSIGNAL);
    if (sent <= 0)
      return 0;
    bytes += sent;
    size -= (size_t)sent;
  }
  return 1;
}

static int answer(connection *c, const char *headers, const char *body, size_t size) {
  char head[512];
  int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n", size,
                        headers);
  int has_body = strncmp(c->bytes, "HEAD ", 5) != 0;
  return send_all(c, head, (size_t)length) && (!has_body || send_all(c, body, size));
}

static int route_ok(fixture *f, connection *c, long n) {
  (void)f, (void)n;
  return answer(c, "", "ok", 2);
}

static int route_size(fixture *f, connection *c, long n) {
  (void)f;
  char *body = calloc(1, (size_t)n + 1);
  int kept = answer(c, "", body, (size_t)n);
  free(body);
  return kept;
}

static int route_status(fixture *f, connection *c, long n) {
  (void)f;
  char text[128];
  int size = snprintf(text, sizeof text, "HTTP/1.1 %ld Odd\r\nContent-Length: 0\r\n\r\n", n);
  return send_all(c, text, (size_t)size);
}

/* To what stands behind "to=", with a body that nobody wants. */
static int route_redirect(fixture *f, connection *c, long n) {
  char text[1024], target[512] = "";
  (void)f;
  const char *to = strstr(c->bytes, "to=");
  if (to)
    sscanf(to, "to=%511[^ ]", target);
  int size =
      snprintf(text, sizeof text, "HTTP/1.1 %ld Elsewhere\r\n%s%s%sContent-Length: 5\r\n\r\nthere",
               n, *target ? "Location: " : "", target, *target ? "\r\n" : "");
  return send_all(c, text, (size_t)size);
}

static int route_hold(fixture *f, connection *c, long n) {
  c->answer_at = n ? seconds_now() + (double)n / 1e3 : 1e18;
  long held = ++f->held;
  if (held > f->max_held)
    f->max_held = held;
  return 1;
}

static void set_reset(int fd) {
  struct linger linger = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static int route_reset(fixture *f, connection *c, long n) {
  static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
  (void)f;
  if (n && send_all(c, text, sizeof text - 1))
    usleep(20000);
  set_reset(c->fd);
  return 0;
}

static int route_truncate(fixture *f, connection *c, long n) {
  static const char text[] = "HTTP/1.1 200 OK\r\nX-Was: here\r\nContent-Length: 100\r\n\r\nhalf";
  (void)f, (void)n;
  send_all(c, text, sizeof text - 1);
  return 0;
}

static int route_bomb(fixture *f, connection *c, long n) {
  (void)n;
  return answer(c, "Content-Encoding: gzip\r\n", f->bomb, f->bomb_size);
}

static int route_gzip(fixture *f, connection *c, long n) {
  (void)f, (void)n;
  char *packed;
  size_t size = gzip("unpacked", 8, &packed);
  int kept = answer(c, "Content-Encoding: gzip\r\n", packed, size);
  free(packed);
  return kept;
}

/* n header lines of about 1,000 bytes. */
static int route_headers(fixture *f, connection *c, long n) {
  char line[1024];
  (void)f;
  memset(line, 'h', sizeof line);
  memcpy(line, "X-Much: ", 8);
  memcpy(line + 1000, "\r\n", 2);
  int kept = send_all(c, "HTTP/1.1 200 OK\r\n", 17);
  for (; kept && n > 0; n--)
    kept = send_all(c, line, 1002);
  return kept && send_all(c, "Content-Length: 0\r\n\r\n", 21);
}

/* One header line of n thousand bytes. */
static int route_longline(fixture *f, connection *c, long n) {
  char block[1000];
  (void)f;
  memset(block, 'h', sizeof block);
  int kept = send_all(c, "HTTP/1.1 200 OK\r\nX-Long: ", 25);
  for (; kept && n > 0; n--)
    kept = send_all(c, block, sizeof block);
  return kept && send_all(c, "\r\nContent-Length: 0\r\n\r\n", 23);
}

static int route_odd(fixture *f, connection *c, long n) {
  static const char text[] = "HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"
                             "HTTP/1.1 200 OK\r\nX-Two: a\r\nX-Two:   b \r\nX-Empty:\r\n"
                             "X-Folded: one\r\n   two\r\n"
                             "Transfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n"
                             "3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n";
  (void)f, (void)n;
  return send_all(c, text, sizeof text - 1);
}

static int route_garbage(fixture *f, connection *c, long n) {
  (void)f, (void)n;
  send_all(c, "SSH-2.0-nothing\r\n\r\n", 19);
  return 0;
}

static const struct {
  const char *name;
  int (*run)(fixture *, connection *, long number);
} routes[] = {
    {"ok", route_ok},
    {"size", route_size},
    {"status", route_status},
    {"wait", route_hold},
    {"never", route_hold},
    {"reset", route_reset},
    {"truncate", route_truncate},
    {"bomb", route_bomb},
    {"gzip", route_gzip},
    {"headers", route_headers},
    {"longline", route_longline},
    {"odd", route_odd},
    {"garbage", route_garbage},
    {"redirect", route_redirect},
};

/* ---- connections ---- */

static void close_connection(fixture *f, connection *c) {
  if (c->answer_at)
    f->held--;
  f->connections[c->fd] = NULL;
  f->open--;
  close(c->fd);
  free(c->bytes);
  free(c);
}

/* Bytes of the first complete request, or 0. */
static size_t complete(const connection *c) {
  const char *end = c->size ? strstr(c->bytes, "\r\n\r\n") : NULL;
  if (!end)
    return 0;
  const char *field = strcasestr(c->bytes, "\r\nContent-Length:");
  size_t size = (size_t)(end + 4 - c->bytes);
  if (field && field < end)
    size += strtoul(field + 17, NULL, 10);
  return size <= c->size ? size : 0;
}

static void remember(fixture *f, const connection *c, size_t size) {
  pthread_mutex_lock(&f->lock);
  free(f->last);
  f->last = strndup(c->bytes, size);
  pthread_mutex_unlock(&f->lock);
}

static int serve(fixture *f, connection *c) {
  char name[32] = "";
  long number = 0;
  if (sscanf(c->bytes, "%*s http://%*[^/]/%31[a-z]/%ld", name, &number) < 1) /* of a proxy */
    sscanf(c->bytes, "%*s /%31[a-z]/%ld", name, &number);
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
    if (strcmp(routes[i].name, name) == 0)
      return routes[i].run(f, c, number);
  return route_status(f, c, 404);
}

static int receive(connection *c) {
  if (c->capacity - c->size < 65536) {
    c->capacity = c->size + 131072;
    c->bytes = realloc(c->bytes, c->capacity);
  }
  ssize_t size = recv(c->fd, c->bytes + c->size, c->capacity - c->size - 1, MSG_DONTWAIT);
  if (size <= 0)
    return size < 0 ? -1 : 0;
  c->size += (size_t)size;
  c->bytes[c->size] = '\0';
  return 1;
}

static void on_readable(fixture *f, connection *c) {
  size_t size;
  if (receive(c) <= 0) {
    close_connection(f, c);
    return;
  }
  while ((size = complete(c))) {
    remember(f, c, size);
    if (!serve(f, c)) {
      close_connection(f, c);
      return;
    }
    memmove(c->bytes, c->bytes + size, c->size - size + 1);
    c->size -= size;
  }
}

static void accept_all(fixture *f) {
  int fd, one = 1;
  while ((fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
    connection *c = calloc(1, sizeof *c);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    f->connections[fd] = c;
    f->accepted++;
    f->open++;
    epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &event);
  }
}

static void answer_held(fixture *f, double now) {
  int all = atomic_exchange(&f->answer_all, 0);
  for (int fd = 0; fd < CONNECTIONS_MAX; fd++) {
    connection *c = f->connections[fd];
    if (!c || !c->answer_at || (c->answer_at > now && !all))
      continue;
    c->answer_at = 0;
    f->held--;
    if (!answer(c, "", "late", 4))
      close_connection(f, c);
  }
}

static void close_all(fixture *f) {
  for (int fd = 0; fd < CONNECTIONS_MAX; fd++)
    if (f->connections[fd])
      close_connection(f, f->connections[fd]);
  f->close_all = 0;
}

static void *serve_all(void *arg) {
  fixture *f = arg;
  struct epoll_event events[256];
  while (!f->stop) {
    int count = epoll_wait(f->epoll, events, 256, 5);
    for (int i = 0; i < count; i++)
      if (events[i].data.fd == f->listener)
        accept_all(f);
      else if (f->connections[events[i].data.fd])
        on_readable(f, f->connections[events[i].data.fd]);
    if (f->held)
      answer_held(f, seconds_now());
    if (f->close_all)
      close_all(f);
  }
  close_all(f);
  return NULL;
}

static int listen_somewhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096) ||
      getsockname(fd, (struct sockaddr *)&address, &size)) {
    perror("listen");
    exit(2);
  }
  *port = ntohs(address.sin_port);
  return fd;
}

static fixture *fixture_start(void) {
  fixture *f = calloc(1, sizeof *f);
  void *zeros = calloc(1, BOMB_SIZE);
  f->bomb_size = gzip(zeros, BOMB_SIZE, &f->bomb);
  free(zeros);
  pthread_mutex_init(&f->lock, NULL);
  f->listener = listen_somewhere(&f->port);
  f->epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = f->listener};
  epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->listener, &event);
  pthread_create(&f->thread, NULL, serve_all, f);
  return f;
}

static void fixture_stop(fixture *f) {
  f->stop = 1;
  pthread_join(f->thread, NULL);
  close(f->listener);
  close(f->epoll);
  free(f->bomb);
  free(f->last);
  free(f);
}

/* The last request as it came; the caller frees it. */
static inline char *fixture_last(fixture *f) {
  pthread_mutex_lock(&f->lock);
  char *copy = strdup(f->last ? f->last : "");
  pthread_mutex_unlock(&f->lock);
  return copy;
}

#endif
