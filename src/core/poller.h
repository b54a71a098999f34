/* poller.h: which descriptors of a set are ready. Level-triggered: what is ready is told each time.
 *
 * poller_epoll.c on Linux, in O(1) a descriptor that is ready; poller_poll.c everywhere else, in
 * O(1) a descriptor of the set. One thread owns a poller and calls everything but weft_poller_wake.
 * Events are POLLIN, POLLOUT, and, told without being asked for, POLLERR and POLLHUP.
 */
#ifndef WEFT_CORE_POLLER_H
#define WEFT_CORE_POLLER_H

#include <poll.h>
#include <stdint.h>

typedef struct weft_poller weft_poller;
typedef struct weft_poller_event {
  void *tag; /* what the descriptor was set with */
  uint32_t events;
} weft_poller_event;

/* NULL and errno when there is no memory or descriptor. */
weft_poller *weft_poller_open(void);
/* NULL: nothing. */
void weft_poller_close(weft_poller *poller);
/* In the child of a fork: closes its copies of the descriptors, which disturbs no one. The memory
 * is left alone: the parent's thread may have been changing it. NULL: nothing. */
void weft_poller_abandon(weft_poller *poller);

/* Waits for `events` on fd; `is_known`: it is in the set already. It is no fault when that was
 * another file, which was closed and not taken out. Returns 0 or an errno value. */
int weft_poller_set(weft_poller *poller, int fd, int is_known, uint32_t events, void *tag);
/* Takes it out, if it is there. */
void weft_poller_forget(weft_poller *poller, int fd);
/* Waits at most `ns` (WEFT_NEVER_NS: for ever), or for a wake. Returns how many events there are,
 * at most `room`, or -1 and errno. */
int weft_poller_wait(weft_poller *poller, weft_poller_event *events, int room, uint64_t ns);
/* On any thread: ends the wait that is under way, or the next one. */
void weft_poller_wake(weft_poller *poller);

#endif
