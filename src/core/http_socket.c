/* http_socket.c: libcurl's sockets and timers on our loop.
 *
 * Owns the table of sockets. The I/O thread alone enters. Invariant: an entry is `is_ours` exactly
 * from weft_http_open_socket to weft_http_close_socket, and only such a descriptor stays registered
 * while libcurl does not wait for it.
 *
 * A socket that has not connected yet is closed by libcurl (7.88) without a call of ours, when its
 * transfer ends or another address is tried, and libcurl goes on believing that its number is
 * watched. So a socket is ours for good only once libcurl has read from it; before, it is disowned
 * when libcurl lets go of it, and a new socket with the number of one that is ours takes its watch
 * over.
 *
 * Registering lazily: when libcurl has no interest in a connection it goes idle, and most likely is
 * used again soon. Leaving it registered for input saves two system calls a request. A descriptor
 * that libcurl opened by itself (the resolver's socketpair) must not stay: it closes it without a
 * word, and the number that comes back would be taken for registered.
 */
#include "http_engine.h"

#include "clock.h"
#include "mem.h"
#include "platform.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum { FIRST_SOCKETS = 64 };

typedef struct socket_entry {
  uint8_t is_ours;
  uint8_t has_read;   /* libcurl has waited for input: it is connected */
  uint8_t wanted;     /* events that libcurl waits for */
  uint8_t registered; /* events that the loop watches */
} socket_entry;

static socket_entry *sockets; /* by descriptor */
static int capacity;

void weft_http_sockets_free(void) {
  weft_free(sockets);
  weft_http_sockets_forget();
}

void weft_http_sockets_forget(void) {
  sockets = NULL;
  capacity = 0;
}

static socket_entry *entry_of(int fd) {
  return fd < capacity && sockets[fd].is_ours ? &sockets[fd] : NULL;
}

static int make_room(int fd) {
  int wanted = capacity ? capacity : FIRST_SOCKETS;
  while (wanted <= fd)
    wanted *= 2;
  if (wanted == capacity)
    return 0;
  socket_entry *grown = weft_realloc(sockets, sizeof *grown * (size_t)wanted);
  if (!grown)
    return ENOMEM;
  memset(grown + capacity, 0, sizeof *grown * (size_t)(wanted - capacity));
  sockets = grown;
  capacity = wanted;
  return 0;
}

/* ---- readiness ---- */

/* The server closed an idle connection, or sent what nobody asked for: libcurl finds out when it
 * looks for a connection to use again. */
static void ignore_idle(int fd, socket_entry *entry) {
  weft_io_forget(fd);
  entry->registered = 0;
}

static void on_ready(int fd, uint32_t events, void *arg) {
  weft_http_shard *shard = arg;
  socket_entry *entry = entry_of(fd);
  int mask = 0, running;
  if (entry && !entry->wanted) {
    ignore_idle(fd, entry);
    return;
  }
  if (events & POLLIN)
    mask |= CURL_CSELECT_IN;
  if (events & POLLOUT)
    mask |= CURL_CSELECT_OUT;
  if (events & (POLLERR | POLLHUP))
    mask |= CURL_CSELECT_ERR | CURL_CSELECT_IN;
  weft_http_mark(shard);
  curl_multi_socket_action(shard->multi, fd, mask, &running);
}

static void doom_owner(CURL *easy, int error) {
  char *slot = NULL;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &slot);
  if (!slot || !((weft_http_slot *)slot)->transfer)
    return;
  ((weft_http_slot *)slot)->system_error = error;
  weft_http_doom(((weft_http_slot *)slot)->transfer, WEFT_HTTP_NO_WATCH);
}

static uint8_t events_of(int what) {
  return (uint8_t)((what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0));
}

/* Which events to watch for the ones that libcurl wants: input stays when it wants none. */
static uint8_t to_register(const socket_entry *entry) {
  return entry->wanted ? entry->wanted : entry->registered & POLLIN;
}

static void disown(int fd) {
  weft_io_forget(fd);
  sockets[fd] = (socket_entry){0};
  atomic_fetch_sub(&weft_http_counts.sockets, 1);
}

/* Returning an error would make libcurl give up the whole multi handle, so only the transfer
 * ends. */
int weft_http_on_socket(CURL *easy, curl_socket_t fd, int what, void *shard, void *unused) {
  socket_entry *entry = entry_of(fd);
  uint8_t events = what == CURL_POLL_REMOVE ? 0 : events_of(what);
  (void)unused;
  if (entry && !events && !entry->has_read) {
    disown(fd);
    return 0;
  }
  if (entry) {
    entry->has_read |= events & POLLIN;
    entry->wanted = events;
    events = to_register(entry);
    if (events == entry->registered)
      return 0;
    entry->registered = events;
  }
  if (!events) {
    weft_io_forget(fd);
    return 0;
  }
  int error = weft_io_watch(fd, events, on_ready, shard);
  if (error)
    doom_owner(easy, error);
  return 0;
}

/* ---- sockets of our own ---- */

/* Room in both tables, so that watching the socket cannot fail for want of memory. */
static int adopt(int fd, weft_http_shard *shard) {
  socket_entry *closed = entry_of(fd);
  uint8_t wanted = closed ? closed->wanted : 0;
  if (closed)
    disown(fd);
  int error = make_room(fd);
  if (!error)
    error = weft_io_watch(fd, wanted, on_ready, shard);
  if (error)
    return error;
  sockets[fd] = (socket_entry){.is_ours = 1, .wanted = wanted, .registered = wanted};
  atomic_fetch_add(&weft_http_counts.sockets, 1);
  return 0;
}

curl_socket_t weft_http_open_socket(void *arg, curlsocktype purpose,
                                    struct curl_sockaddr *address) {
  weft_http_slot *slot = arg;
  (void)purpose;
  weft_http_lane_knows(slot->transfer);
  int fd = weft_fd_socket(address->family, address->socktype, address->protocol);
  int error = fd < 0 ? errno : adopt(fd, slot->shard);
  if (!error)
    return fd;
  slot->system_error = error;
  if (fd >= 0)
    close(fd);
  return CURL_SOCKET_BAD;
}

int weft_http_close_socket(void *unused, curl_socket_t fd) {
  (void)unused;
  if (entry_of(fd))
    disown(fd);
  else
    weft_io_forget(fd);
  return close(fd);
}

/* ---- timers ---- */

/* The turn's end looks at due_ns: most calls say "now", and need no timer. */
int weft_http_on_timer(CURLM *multi, long ms, void *arg) {
  weft_http_shard *shard = arg;
  (void)multi;
  shard->due_ns = ms < 0    ? WEFT_NEVER_NS
                  : ms == 0 ? 0
                            : weft_clock_outside_ns() + (uint64_t)ms * 1000000u;
  weft_http_mark(shard);
  return 0;
}
