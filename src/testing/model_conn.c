/* model_conn.c: what happens on one connection: read, parse, wait, send, and again.
 *
 * Owns the socket, the bytes that were read ahead, the request and the answer in work. Only the
 * server thread enters. Invariant: at most one request is in work, so pipelined ones are answered
 * in order; a connection waits for its socket (as `interest` says), for its timer, or for both.
 */
#include "model_conn.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/mem.h"

enum {
  READ_AHEAD_MAX = 256 * 1024, /* more is left in the socket while a request is in work */
  SENDS_AT_ONCE = 16,
  INPUT_KEPT = 16 * 1024, /* an empty input buffer that is larger is freed */
};

static const double drain_seconds = 1;

typedef enum phase {
  READING,  /* a request is not complete yet */
  PENDING,  /* the answer waits for its time */
  SENDING,  /* the answer does not fit into the socket yet */
  STALLED,  /* a part of the answer is out, the rest never comes */
  DRAINING, /* all is said; input is thrown away, so that closing does not reset the connection */
  CLOSED,   /* to be freed at the end of the event */
} phase;

struct weft_model_conn {
  weft_model_loop *loop;
  weft_model_conn *next, **link; /* of loop->conns; *link == this */
  weft_model_timer timer;
  int fd;
  uint32_t interest; /* the events that the poller tells */
  phase phase;
  bool peer_closed; /* the client sends no more */
  bool in_flight;   /* a request is counted as such */
  weft_buf input;
  size_t used; /* bytes of `input` that are parsed */
  weft_http_parser parser;
  weft_model_answer answer;
  size_t sent;     /* bytes of what is made of the answer */
  uint64_t number; /* of the connection, from 1 */
};

/* Life ---------------------------------------------------------------------------------------- */

static void link_conn(weft_model_conn *conn) {
  weft_model_loop *loop = conn->loop;
  conn->next = loop->conns;
  conn->link = &loop->conns;
  if (conn->next)
    conn->next->link = &conn->next;
  loop->conns = conn;
  loop->conn_count++;
}

static void unlink_conn(weft_model_conn *conn) {
  *conn->link = conn->next;
  if (conn->next)
    conn->next->link = conn->link;
  conn->loop->conn_count--;
}

int weft_model_conn_open(weft_model_loop *loop, int fd) {
  weft_model_conn *conn = weft_calloc(1, sizeof *conn);
  if (!conn || weft_model_timers_reserve(&loop->timers, loop->conn_count + 1) != 0 ||
      weft_poller_set(loop->poller, fd, 0, POLLIN, conn) != 0) {
    weft_free(conn);
    close(fd);
    return -1;
  }
  conn->loop = loop;
  conn->fd = fd;
  conn->number = ++loop->accepted;
  conn->interest = POLLIN;
  weft_buf_init(&conn->input, 0);
  weft_http_parser_init(&conn->parser);
  link_conn(conn);
  weft_model_record_opened(loop->record);
  return 0;
}

/* The request is no longer in flight; `how` tells why. */
static void land(weft_model_conn *conn, void (*how)(weft_model_record *record)) {
  if (conn->in_flight)
    how(conn->loop->record);
  conn->in_flight = false;
}

void weft_model_conn_close(weft_model_conn *conn) {
  land(conn, weft_model_record_abandoned);
  unlink_conn(conn);
  weft_model_timer_clear(&conn->loop->timers, &conn->timer);
  weft_model_record_closed(conn->loop->record); /* first: whoever sees the end sees the count */
  /* Closing alone may leave it watched while a process that was just forked holds a copy. */
  weft_poller_forget(conn->loop->poller, conn->fd);
  close(conn->fd);
  weft_buf_free(&conn->input);
  weft_http_parser_free(&conn->parser);
  weft_model_answer_free(&conn->answer);
  weft_free(conn);
}

/* Closes with a TCP reset: unsent and unread bytes are lost. */
static void reset(weft_model_conn *conn) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  conn->phase = CLOSED;
}

static void set_timer(weft_model_conn *conn, double seconds) {
  weft_model_timer_set(&conn->loop->timers, &conn->timer, weft_model_now() + seconds);
}

/* Answering ----------------------------------------------------------------------------------- */

static void drain(weft_model_conn *conn) {
  shutdown(conn->fd, SHUT_WR);
  conn->phase = conn->peer_closed ? CLOSED : DRAINING;
  set_timer(conn, drain_seconds);
}

static void end_answer(weft_model_conn *conn) {
  switch (conn->answer.ending) {
  case WEFT_MODEL_STALL: /* stays in flight until it ends */
    conn->phase = STALLED;
    if (isfinite(conn->answer.stall))
      set_timer(conn, conn->answer.stall);
    break;
  case WEFT_MODEL_RESET:
    reset(conn);
    break;
  case WEFT_MODEL_CLOSE:
    drain(conn);
    break;
  default:
    conn->phase = READING;
  }
  weft_model_answer_free(&conn->answer);
}

/* Makes more of the answer, and waits if it is to wait. */
static void go_on(weft_model_conn *conn, int rc) {
  conn->sent = 0;
  if (rc == WEFT_BUF_OK)
    rc = weft_model_answer_fill(&conn->answer);
  if (rc != WEFT_BUF_OK) {
    conn->phase = CLOSED;
  } else if (isinf(conn->answer.pause)) {
    conn->phase = STALLED;
  } else if (conn->answer.pause > 0) {
    conn->phase = PENDING;
    set_timer(conn, conn->answer.pause);
  } else {
    conn->phase = SENDING;
  }
}

/* Sends what is made; true once all of it is out. */
static bool send_bytes(weft_model_conn *conn) {
  const weft_buf *bytes = &conn->answer.bytes;
  while (conn->sent < bytes->size) {
    ssize_t n = send(conn->fd, bytes->data + conn->sent, bytes->size - conn->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0) {
      if (errno != EAGAIN)
        conn->phase = CLOSED;
      return false;
    }
    conn->sent += (size_t)n;
  }
  return true;
}

/* Returns false when it waits for the socket or the time. */
static bool send_answer(weft_model_conn *conn) {
  weft_model_ending ending = conn->answer.ending;
  if (ending != WEFT_MODEL_MORE && ending != WEFT_MODEL_STALL)
    land(conn, weft_model_record_answered); /* first: whoever has the answer sees the count */
  if (!send_bytes(conn))
    return false;
  if (ending == WEFT_MODEL_MORE)
    go_on(conn, WEFT_BUF_OK);
  else
    end_answer(conn);
  return conn->phase == SENDING || conn->phase == READING;
}

static void receive_request(weft_model_conn *conn) {
  bool keep_alive = conn->parser.keep_alive, old = conn->parser.is_old;
  weft_model_request *request = weft_http_parser_take(&conn->parser);
  if (!request) {
    conn->phase = CLOSED;
    return;
  }
  request->connection = conn->number;
  request->time = weft_model_now();
  weft_model_record_received(conn->loop->record, request);
  conn->in_flight = true;
  int rc = weft_model_reply(&conn->loop->replier, request, keep_alive, old, &conn->answer);
  if (conn->answer.faulty)
    weft_model_record_fault(conn->loop->record);
  go_on(conn, rc);
}

static void refuse(weft_model_conn *conn, int status) {
  weft_model_record_rejected(conn->loop->record);
  go_on(conn, weft_model_refuse(&conn->loop->replier, status, &conn->answer));
}

/* Reading ------------------------------------------------------------------------------------- */

static void send_continue(weft_model_conn *conn) {
  static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
  conn->parser.expects_continue = false;
  ssize_t n = send(conn->fd, text, sizeof text - 1, MSG_NOSIGNAL);
  if (n != (ssize_t)(sizeof text - 1))
    conn->phase = CLOSED;
}

static bool waits_for_continue(const weft_http_parser *parser) {
  return parser->expects_continue &&
         (parser->phase == WEFT_HTTP_BODY || parser->phase == WEFT_HTTP_CHUNK_SIZE);
}

static void trim_input(weft_model_conn *conn) {
  weft_buf *input = &conn->input;
  if (conn->used && conn->used < input->size)
    memmove(input->data, input->data + conn->used, input->size - conn->used);
  input->size -= conn->used;
  conn->used = 0;
  if (input->size == 0 && input->capacity > INPUT_KEPT)
    weft_buf_free(input);
}

/* Returns false when more input is needed. */
static bool read_request(weft_model_conn *conn) {
  weft_buf *input = &conn->input;
  if (input->size == conn->used)
    return false;
  size_t used;
  int result =
      weft_http_parse(&conn->parser, input->data + conn->used, input->size - conn->used, &used);
  conn->used += used;
  if (result == WEFT_HTTP_READY)
    receive_request(conn);
  else if (result == WEFT_HTTP_NOMEM)
    conn->phase = CLOSED;
  else if (result != WEFT_HTTP_MORE)
    refuse(conn, result);
  else if (waits_for_continue(&conn->parser))
    send_continue(conn);
  return result != WEFT_HTTP_MORE;
}

/* Goes on as far as it can without waiting. A long answer to a fast reader lets others in between:
 * the socket still has room then, so the poller tells it at once. */
static void advance(weft_model_conn *conn) {
  bool more = true;
  for (int sent = 0; more && sent < SENDS_AT_ONCE;) {
    if (conn->phase == SENDING)
      more = send_answer(conn);
    else
      more = conn->phase == READING && read_request(conn);
    sent += conn->phase == SENDING;
  }
  if (conn->phase == READING && conn->peer_closed)
    conn->phase = CLOSED;
  trim_input(conn);
}

static void note_end(weft_model_conn *conn) {
  conn->peer_closed = true;
  land(conn, weft_model_record_abandoned);
  if (conn->phase == STALLED || conn->phase == DRAINING)
    conn->phase = CLOSED;
}

static void read_input(weft_model_conn *conn) {
  ssize_t n = recv(conn->fd, conn->loop->scratch, WEFT_MODEL_READ_SIZE, 0);
  if (n == 0)
    note_end(conn);
  else if (n < 0 && errno != EAGAIN && errno != EINTR)
    conn->phase = CLOSED;
  else if (n > 0 && conn->phase != DRAINING &&
           weft_buf_append(&conn->input, conn->loop->scratch, (size_t)n) != WEFT_BUF_OK)
    conn->phase = CLOSED;
}

/* Events -------------------------------------------------------------------------------------- */

static uint32_t wanted_events(const weft_model_conn *conn) {
  uint32_t wanted = conn->phase == SENDING ? POLLOUT : 0;
  bool room =
      conn->phase == READING || conn->phase == DRAINING || conn->input.size < READ_AHEAD_MAX;
  if (room && !conn->peer_closed)
    wanted |= POLLIN;
  return wanted;
}

/* Ends each entry: tells the poller what to wait for, or frees the connection. */
static void settle(weft_model_conn *conn) {
  uint32_t wanted = wanted_events(conn);
  if (conn->phase != CLOSED && wanted != conn->interest) {
    if (weft_poller_set(conn->loop->poller, conn->fd, 1, wanted, conn) != 0)
      conn->phase = CLOSED;
    conn->interest = wanted;
  }
  if (conn->phase == CLOSED)
    weft_model_conn_close(conn);
}

void weft_model_conn_event(weft_model_conn *conn, uint32_t events) {
  if (events & (POLLERR | POLLHUP))
    conn->phase = CLOSED;
  else if (events & POLLIN)
    read_input(conn);
  if (conn->phase != CLOSED)
    advance(conn);
  settle(conn);
}

void weft_model_conn_timer(weft_model_timer *timer) {
  weft_model_conn *conn = (weft_model_conn *)((char *)timer - offsetof(weft_model_conn, timer));
  if (conn->phase == PENDING) {
    conn->phase = SENDING;
    advance(conn);
  } else if (conn->phase == STALLED) {
    land(conn, weft_model_record_answered);
    drain(conn);
  } else {
    conn->phase = CLOSED; /* the client had its time to read the end */
  }
  settle(conn);
}
