/* model_conn.h: one connection of the model server, a state machine over a non-blocking socket.
 *
 * Belongs to the server thread. Nothing here blocks.
 */
#ifndef WEFT_TESTING_MODEL_CONN_H
#define WEFT_TESTING_MODEL_CONN_H

#include "../core/poller.h"
#include "model_http.h"
#include "model_record.h"
#include "model_reply.h"
#include "model_timer.h"

typedef struct weft_model_conn weft_model_conn;

/* What all connections of a server share. */
typedef struct weft_model_loop {
  weft_poller *poller;        /* owned by the server */
  weft_model_record *record;  /* not owned */
  weft_model_replier replier; /* owned */
  weft_model_timers timers;   /* owned */
  weft_model_conn *conns;     /* owned: all that are open */
  size_t conn_count;
  uint64_t accepted; /* connections so far */
  uint8_t *scratch;  /* owned: WEFT_MODEL_READ_SIZE bytes, for one read */
} weft_model_loop;

enum { WEFT_MODEL_READ_SIZE = 64 * 1024 };

/* Takes a fresh non-blocking socket and owns it. Returns 0, or -1 when there is no memory: the
 * socket is closed then. */
int weft_model_conn_open(weft_model_loop *loop, int fd);
/* Goes on after the poller told `events`; may free the connection. */
void weft_model_conn_event(weft_model_conn *conn, uint32_t events);
/* Goes on after the timer of a connection was due; may free the connection. */
void weft_model_conn_timer(weft_model_timer *timer);
/* Closes the socket and frees the connection. */
void weft_model_conn_close(weft_model_conn *conn);

#endif
