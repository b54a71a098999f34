/* model_server.c: the life of a model server, and its loop.
 *
 * Owns the thread, the listening socket and all parts of the server. The thread runs `serve`; the
 * functions of model_server.h run in any other thread and meet it only in the record, the script of
 * faults (each behind its own lock, never both), and the poller's wake. Invariant: everything in
 * `loop` belongs to the server thread from its start until it was joined.
 */

#include "model_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/clock.h"
#include "../core/mem.h"
#include "../core/platform.h"
#include "model_config.h"
#include "model_conn.h"
#include "model_fault.h"

enum {
  EVENTS_AT_ONCE = 256,
  ACCEPTS_AT_ONCE = 64,
  ACCEPT_PAUSE_MS = 20,
  DESCRIPTORS_OF_OTHERS = 64
};

struct weft_model_server {
  weft_model_config config; /* immutable */
  weft_model_arena arena;   /* of the configuration */
  weft_model_record record; /* has its own lock */
  weft_model_faults faults; /* has its own lock */
  weft_model_loop loop;     /* the server thread's */
  pthread_t thread;
  bool running; /* the thread was started; belongs to the owner of the server */
  int listen_fd;
  uint16_t port;
  bool accept_paused; /* no descriptors are left; the server thread's */
  _Atomic bool stopping;
};

/* The loop ------------------------------------------------------------------------------------ */

/* Its tag is the server; that of a connection is the connection. */
static int watch_listener(weft_model_server *server) {
  return weft_poller_set(server->loop.poller, server->listen_fd, 0, POLLIN, server);
}

/* Out of descriptors or memory: the listener would report its queue again and again. */
static void pause_accept(weft_model_server *server) {
  weft_poller_forget(server->loop.poller, server->listen_fd);
  server->accept_paused = true;
  weft_model_record_starved(&server->record);
}

static void accept_all(weft_model_server *server) {
  static const int on = 1;
  for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
    int fd = weft_fd_accept(server->listen_fd);
    if (fd >= 0) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      weft_model_conn_open(&server->loop, fd); /* on failure it was closed: the client sees it */
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      pause_accept(server);
      return;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;
    }
  }
}

static void resume_accept(weft_model_server *server) {
  if (server->accept_paused && watch_listener(server) == 0)
    server->accept_paused = false;
}

static int wait_events(weft_model_server *server, weft_poller_event *events) {
  int timeout = weft_model_timers_timeout(&server->loop.timers);
  if (server->accept_paused && (timeout < 0 || timeout > ACCEPT_PAUSE_MS))
    timeout = ACCEPT_PAUSE_MS;
  uint64_t ns = timeout < 0 ? WEFT_NEVER_NS : (uint64_t)timeout * 1000000;
  int count = weft_poller_wait(server->loop.poller, events, EVENTS_AT_ONCE, ns);
  resume_accept(server);
  return count;
}

static void run_timers(weft_model_server *server) {
  double now = weft_model_now();
  weft_model_timer *timer;
  while ((timer = weft_model_timers_due(&server->loop.timers, now)) != NULL)
    weft_model_conn_timer(timer);
}

static void serve(void *argument) {
  weft_model_server *server = argument;
  weft_poller_event events[EVENTS_AT_ONCE];
  while (!atomic_load(&server->stopping)) {
    int count = wait_events(server, events);
    for (int i = 0; i < count; i++) {
      if (events[i].tag == server)
        accept_all(server);
      else
        weft_model_conn_event(events[i].tag, events[i].events);
    }
    run_timers(server);
  }
}

/* Start and stop ------------------------------------------------------------------------------ */

static int failed(const char *what, char error[WEFT_MODEL_ERROR_SIZE]) {
  char reason[128];
  snprintf(error, WEFT_MODEL_ERROR_SIZE, "%s: %s", what,
           weft_errno_text(errno, reason, sizeof reason));
  return -1;
}

static int open_listener(weft_model_server *server, char error[WEFT_MODEL_ERROR_SIZE]) {
  static const int on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(server->config.port)};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = server->listen_fd = weft_fd_socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0)
    return failed("cannot open a socket", error);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, SOMAXCONN) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
    char what[64];
    snprintf(what, sizeof what, "cannot listen on 127.0.0.1:%u", (unsigned)server->config.port);
    return failed(what, error);
  }
  server->port = server->loop.replier.port = ntohs(address.sin_port);
  return 0;
}

/* Raises the soft limit of descriptors as far as is needed; the hard one is not ours. */
static int allow_connections(size_t connections, char error[WEFT_MODEL_ERROR_SIZE]) {
  struct rlimit limit;
  rlim_t needed = connections + DESCRIPTORS_OF_OTHERS;
  if (connections == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed)
    return 0;
  if (limit.rlim_max < needed) {
    snprintf(
        error, WEFT_MODEL_ERROR_SIZE,
        "%zu connections need %zu descriptors, and the limit of this process is %zu (ulimit -Hn)",
        connections, (size_t)needed, (size_t)limit.rlim_max);
    return -1;
  }
  limit.rlim_cur = needed;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0
             ? 0
             : failed("cannot raise the limit of descriptors", error);
}

static int open_descriptors(weft_model_server *server, char error[WEFT_MODEL_ERROR_SIZE]) {
  if (allow_connections(server->config.connections, error) != 0)
    return -1;
  server->loop.poller = weft_poller_open();
  if (!server->loop.poller)
    return failed("cannot make the event loop", error);
  if (open_listener(server, error) != 0)
    return -1;
  errno = watch_listener(server);
  if (errno)
    return failed("cannot watch the socket", error);
  return 0;
}

static int copy_options(weft_model_server *server, const weft_model_config *config) {
  int rc = weft_model_config_copy(&server->arena, &server->config, config);
  rc |= weft_model_record_init(&server->record, config->record);
  rc |= weft_model_faults_init(&server->faults, config);
  rc |= weft_model_replier_init(&server->loop.replier, &server->config, &server->faults);
  server->loop.record = &server->record;
  server->loop.scratch = weft_malloc(WEFT_MODEL_READ_SIZE);
  return server->loop.scratch ? rc : -1;
}

static int start_thread(weft_model_server *server, char error[WEFT_MODEL_ERROR_SIZE]) {
  errno = weft_thread_start_joinable(serve, server, "weft-model", &server->thread);
  server->running = errno == 0;
  return server->running ? 0 : failed("cannot start the server's thread", error);
}

weft_model_server *weft_model_server_start(const weft_model_config *config,
                                           char error[WEFT_MODEL_ERROR_SIZE]) {
  weft_model_server *server = weft_calloc(1, sizeof *server);
  if (!server) {
    snprintf(error, WEFT_MODEL_ERROR_SIZE, "not enough memory");
    return NULL;
  }
  server->listen_fd = -1;
  int rc = copy_options(server, config);
  if (rc != 0)
    snprintf(error, WEFT_MODEL_ERROR_SIZE, "not enough memory");
  if (rc != 0 || open_descriptors(server, error) != 0 || start_thread(server, error) != 0) {
    weft_model_server_stop(server);
    return NULL;
  }
  return server;
}

static void join_thread(weft_model_server *server) {
  if (!server->running)
    return;
  atomic_store(&server->stopping, true);
  weft_poller_wake(server->loop.poller);
  pthread_join(server->thread, NULL);
}

void weft_model_server_stop(weft_model_server *server) {
  if (!server)
    return;
  join_thread(server);
  if (server->listen_fd >= 0)
    close(server->listen_fd);
  while (server->loop.conns)
    weft_model_conn_close(server->loop.conns);
  weft_poller_close(server->loop.poller);
  weft_model_timers_free(&server->loop.timers);
  weft_model_replier_free(&server->loop.replier);
  weft_free(server->loop.scratch);
  weft_model_faults_free(&server->faults);
  weft_model_record_free(&server->record);
  weft_model_arena_free(&server->arena);
  weft_free(server);
}

/* From other threads -------------------------------------------------------------------------- */

uint16_t weft_model_server_port(const weft_model_server *server) {
  return server->port;
}

weft_model_stats weft_model_server_stats(weft_model_server *server) {
  return weft_model_record_stats(&server->record);
}

int weft_model_server_add_fault(weft_model_server *server, const weft_model_fault *fault) {
  return weft_model_faults_append(&server->faults, fault);
}

const weft_model_request **weft_model_server_requests(weft_model_server *server, size_t *count) {
  return weft_model_record_list(&server->record, count);
}

/* Signals ------------------------------------------------------------------------------------- */

static void heeded_signals(sigset_t *set) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  sigemptyset(set);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction action;
    if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
      sigaddset(set, numbers[i]);
  }
}

int weft_model_server_join(double seconds) {
  static const double longest_s = 1e9; /* as good as no limit, and no overflow */
  sigset_t set, before;
  uint64_t ns = (uint64_t)((seconds > 0 ? fmin(seconds, longest_s) : 0) * 1e9);
  heeded_signals(&set);
  pthread_sigmask(SIG_BLOCK, &set, &before);
  int number = weft_signal_wait(&set, weft_clock_real_ns() + ns);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return number;
}
