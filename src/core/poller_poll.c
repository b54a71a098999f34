/* poller_poll.c: poller.h on systems without epoll.
 *
 * Owns the list that poll takes, the place of each descriptor in it, and a pipe for wakes. The
 * poller's thread enters, and any thread that wakes. Invariants: the list has no holes, and its
 * first entry is the pipe; what is told belongs to the file that was set.
 *
 * poll knows numbers, not files. epoll forgets a file when it is closed; here the number stays in
 * the list, and would be told for whatever file has it next. So each entry knows its file, and is
 * dropped when the number turns out to be another's.
 */
#include "poller.h"

#include "clock.h"
#include "mem.h"
#include "platform.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_ENTRIES = 64 };

typedef struct entry {
  void *tag;
  dev_t device;
  ino_t file;
} entry;

struct weft_poller {
  struct pollfd *polled; /* [0] is the pipe; owned */
  entry *entries;        /* of the same index; owned */
  int *places;           /* of each descriptor in the two, 0: none; owned */
  int count, capacity, place_count;
  int next; /* where to begin looking for events, so that none is always told last */
  int wake_in, wake_out;
};

/* ---- the tables ---- */

/* The larger block in place of the old one; 0 without memory. */
static int grow(void **block, size_t size) {
  void *grown = weft_realloc(*block, size);
  if (grown)
    *block = grown;
  return grown != NULL;
}

static int make_entries(weft_poller *poller) {
  int capacity = poller->capacity ? poller->capacity * 2 : FIRST_ENTRIES;
  if (poller->count < poller->capacity)
    return 1;
  if (!grow((void **)&poller->polled, sizeof *poller->polled * (size_t)capacity) ||
      !grow((void **)&poller->entries, sizeof *poller->entries * (size_t)capacity))
    return 0;
  poller->capacity = capacity;
  return 1;
}

static int make_places(weft_poller *poller, int fd) {
  int count = poller->place_count ? poller->place_count : FIRST_ENTRIES;
  while (count <= fd)
    count *= 2;
  if (count == poller->place_count)
    return 1;
  if (!grow((void **)&poller->places, sizeof *poller->places * (size_t)count))
    return 0;
  memset(poller->places + poller->place_count, 0,
         sizeof *poller->places * (size_t)(count - poller->place_count));
  poller->place_count = count;
  return 1;
}

static int place_of(const weft_poller *poller, int fd) {
  return fd < poller->place_count ? poller->places[fd] : 0;
}

static void drop(weft_poller *poller, int place) {
  int last = --poller->count;
  poller->places[poller->polled[place].fd] = 0;
  if (place == last)
    return;
  poller->polled[place] = poller->polled[last];
  poller->entries[place] = poller->entries[last];
  poller->places[poller->polled[place].fd] = place;
}

/* ---- the set ---- */

int weft_poller_set(weft_poller *poller, int fd, int is_known, uint32_t events, void *tag) {
  int place = place_of(poller, fd);
  struct stat file;
  (void)is_known;
  if (fstat(fd, &file) != 0)
    return errno;
  if (!place) {
    if (!make_entries(poller) || !make_places(poller, fd))
      return ENOMEM;
    place = poller->places[fd] = poller->count++;
  }
  poller->polled[place] = (struct pollfd){.fd = fd, .events = (short)events};
  poller->entries[place] = (entry){tag, file.st_dev, file.st_ino};
  return 0;
}

void weft_poller_forget(weft_poller *poller, int fd) {
  int place = place_of(poller, fd);
  if (place)
    drop(poller, place);
}

void weft_poller_abandon(weft_poller *poller) {
  if (!poller || poller->wake_in < 0)
    return;
  close(poller->wake_in);
  close(poller->wake_out);
}

void weft_poller_close(weft_poller *poller) {
  weft_poller_abandon(poller);
  if (!poller)
    return;
  weft_free(poller->polled);
  weft_free(poller->entries);
  weft_free(poller->places);
  weft_free(poller);
}

static int open_pipe(weft_poller *poller) {
  int ends[2];
  if (weft_fd_pipe(ends) != 0)
    return errno;
  poller->wake_in = ends[0];
  poller->wake_out = ends[1];
  return weft_poller_set(poller, poller->wake_in, 0, POLLIN, NULL);
}

weft_poller *weft_poller_open(void) {
  weft_poller *poller = weft_calloc(1, sizeof *poller);
  if (poller)
    poller->wake_in = poller->wake_out = -1;
  int error = poller ? open_pipe(poller) : ENOMEM;
  if (!error)
    return poller;
  weft_poller_close(poller);
  errno = error;
  return NULL;
}

/* ---- waiting ---- */

static int is_same_file(const weft_poller *poller, int place) {
  const entry *entry = &poller->entries[place];
  struct stat file;
  return fstat(poller->polled[place].fd, &file) == 0 && file.st_dev == entry->device &&
         file.st_ino == entry->file;
}

static void clear_wakes(weft_poller *poller) {
  char bytes[256];
  while (read(poller->wake_in, bytes, sizeof bytes) == (ssize_t)sizeof bytes) {
  }
}

/* An entry that moves to the place of a dropped one may be missed: it is told the next time. */
static int collect(weft_poller *poller, weft_poller_event *events, int room) {
  int told = 0, place = poller->next < poller->count ? poller->next : poller->count - 1;
  for (int looks = poller->count; looks > 0 && told < room; looks--) {
    uint32_t ready = (uint16_t)poller->polled[place].revents;
    poller->polled[place].revents = 0; /* told once, though entries move */
    if (ready && place == 0)
      clear_wakes(poller);
    else if (ready && !is_same_file(poller, place))
      drop(poller, place);
    else if (ready)
      events[told++] = (weft_poller_event){poller->entries[place].tag, ready};
    place = place > 0 ? place - 1 : poller->count - 1;
  }
  poller->next = place;
  return told;
}

int weft_poller_wait(weft_poller *poller, weft_poller_event *events, int room, uint64_t ns) {
  uint64_t until_ns = ns == WEFT_NEVER_NS ? ns : weft_clock_real_ns() + ns;
  int count = weft_fd_poll(poller->polled, (uint32_t)poller->count, until_ns);
  return count > 0 ? collect(poller, events, room) : count;
}

void weft_poller_wake(weft_poller *poller) {
  if (write(poller->wake_out, "w", 1) < 0)
    return; /* the pipe is full: the wait ends */
}
