/* poller_epoll.c: poller.h on Linux.
 *
 * Owns the epoll and event descriptors. The poller's thread enters, and any thread that wakes.
 * Invariant: a wake has no place among the events that are told: its tag is the poller's own.
 */
#include "poller.h"

#include "mem.h"
#include "platform.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_AT_ONCE = 64 };

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLERR == POLLERR &&
                   EPOLLHUP == POLLHUP,
               "the events of epoll are those of poll");

struct weft_poller {
  int epoll_fd, wake_fd;
};

static void close_if_open(int fd) {
  if (fd >= 0)
    close(fd);
}

void weft_poller_abandon(weft_poller *poller) {
  if (!poller)
    return;
  close_if_open(poller->epoll_fd);
  close_if_open(poller->wake_fd);
}

void weft_poller_close(weft_poller *poller) {
  weft_poller_abandon(poller);
  weft_free(poller);
}

weft_poller *weft_poller_open(void) {
  weft_poller *poller = weft_malloc(sizeof *poller);
  if (!poller) {
    errno = ENOMEM;
    return NULL;
  }
  poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  poller->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  int is_open = poller->epoll_fd >= 0 && poller->wake_fd >= 0;
  if (is_open && weft_poller_set(poller, poller->wake_fd, 0, POLLIN, poller) == 0)
    return poller;
  int error = errno;
  weft_poller_close(poller);
  errno = error;
  return NULL;
}

int weft_poller_set(weft_poller *poller, int fd, int is_known, uint32_t events, void *tag) {
  struct epoll_event event = {.events = events, .data.ptr = tag};
  int rc = epoll_ctl(poller->epoll_fd, is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
  if (rc < 0 && errno == EEXIST)
    rc = epoll_ctl(poller->epoll_fd, EPOLL_CTL_MOD, fd, &event);
  else if (rc < 0 && errno == ENOENT)
    rc = epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event);
  return rc < 0 ? errno : 0;
}

void weft_poller_forget(weft_poller *poller, int fd) {
  epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static int wait_for(weft_poller *poller, struct epoll_event *events, int room, uint64_t ns) {
  struct timespec left = {0, 0}, *timeout = NULL;
  if (ns != WEFT_NEVER_NS) {
    left = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    timeout = &left;
  }
#ifdef SYS_epoll_pwait2
  static _Atomic int lacks_pwait2;
  if (!atomic_load_explicit(&lacks_pwait2, memory_order_relaxed)) {
    int count = (int)syscall(SYS_epoll_pwait2, poller->epoll_fd, events, room, timeout, NULL, 0);
    if (count >= 0 || errno == EINTR)
      return count; /* else it is not there, or a sandbox that does not know it refuses it */
    atomic_store(&lacks_pwait2, 1);
  }
#endif
  int64_t ms = timeout ? (int64_t)left.tv_sec * 1000 + (left.tv_nsec + 999999) / 1000000 : -1;
  return epoll_wait(poller->epoll_fd, events, room, ms > 1000000 ? 1000000 : (int)ms);
}

static void clear_wake(weft_poller *poller) {
  uint64_t count;
  if (read(poller->wake_fd, &count, sizeof count) < 0)
    return; /* cleared already */
}

int weft_poller_wait(weft_poller *poller, weft_poller_event *events, int room, uint64_t ns) {
  struct epoll_event found[EVENTS_AT_ONCE];
  int told = 0;
  int count = wait_for(poller, found, room < EVENTS_AT_ONCE ? room : EVENTS_AT_ONCE, ns);
  for (int i = 0; i < count; i++)
    if (found[i].data.ptr == poller)
      clear_wake(poller);
    else
      events[told++] = (weft_poller_event){found[i].data.ptr, found[i].events};
  return count < 0 ? count : told;
}

void weft_poller_wake(weft_poller *poller) {
  uint64_t one = 1;
  if (write(poller->wake_fd, &one, sizeof one) < 0)
    return; /* the counter is full: the wait ends */
}
