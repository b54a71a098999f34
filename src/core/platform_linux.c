/* platform_linux.c: what Linux does its own way: futexes, eventfds, flags at birth, /proc.
 *
 * Owns nothing. Any thread enters. Invariant: a descriptor is made with its flags in one step, so
 * that none is inherited by a program that another thread starts meanwhile.
 */
#include "clock.h"
#include "platform.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- sleeping ---- */

/* The kernel's own, whose headers not every C library brings along (musl). */
enum { WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 };

static struct timespec *time_left(uint64_t until_ns, struct timespec *left) {
  if (until_ns == WEFT_NEVER_NS)
    return NULL;
  uint64_t now_ns = weft_clock_real_ns();
  uint64_t ns = until_ns > now_ns ? until_ns - now_ns : 0;
  left->tv_sec = (time_t)(ns / 1000000000u);
  left->tv_nsec = (long)(ns % 1000000000u);
  return left;
}

void weft_word_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns) {
  struct timespec left;
  syscall(SYS_futex, word, WAIT_PRIVATE, expected, time_left(until_ns, &left), NULL, 0);
}

void weft_word_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void weft_lock_init_short(pthread_mutex_t *lock) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
#ifdef __GLIBC__
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
  pthread_mutex_init(lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

int weft_fd_poll(struct pollfd *fds, uint32_t count, uint64_t until_ns) {
  struct timespec left;
  return ppoll(fds, count, time_left(until_ns, &left), NULL);
}

/* ---- processors and memory ---- */

uint32_t weft_cpu_count(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (uint32_t)CPU_COUNT(&set);
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (uint32_t)count : 1;
}

void weft_process_stay_loaded(void) { /* the linker was told: -z nodelete */
}

uint64_t weft_process_resident_bytes(void) {
  unsigned long size = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  if (!file)
    return 0;
  if (fscanf(file, "%lu %lu", &size, &resident) != 2)
    resident = 0;
  fclose(file);
  return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- threads ---- */

void weft_thread_set_name(const char *name) {
  pthread_setname_np(pthread_self(), name);
}

void weft_thread_get_name(char name[16]) {
  if (pthread_getname_np(pthread_self(), name, 16) != 0)
    name[0] = '\0';
}

uint64_t weft_thread_number(void) {
  return (uint64_t)syscall(SYS_gettid);
}

/* To the process's niceness, not the thread's: another worker may have made this one. */
void weft_thread_set_nice(int nice) {
  int of_process = getpriority(PRIO_PROCESS, (id_t)getpid());
  setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), of_process + nice);
}

int weft_signal_wait(const sigset_t *set, uint64_t until_ns) {
  struct timespec left;
  int number;
  do
    number = sigtimedwait(set, NULL, time_left(until_ns, &left));
  while (number < 0 && errno == EINTR); /* another signal's handler ran */
  return number > 0 ? number : 0;
}

/* ---- descriptors ---- */

int weft_fd_socket(int family, int type, int protocol) {
  return socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
}

int weft_fd_accept(int listener) {
  return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

int weft_fd_pipe(int ends[2]) {
  return pipe2(ends, O_CLOEXEC | O_NONBLOCK);
}

int weft_fd_bell(int ends[2]) {
  ends[0] = ends[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return ends[0] < 0 ? -1 : 0;
}

int weft_fd_replace(int fd, int onto) {
  return dup3(fd, onto, O_CLOEXEC);
}

int weft_fd_peer_is_own(int fd) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid();
}

int weft_fd_each(void (*visit)(int fd, const char *target, void *arg), void *arg) {
  DIR *folder = opendir("/proc/self/fd");
  char target[256];
  if (!folder)
    return errno;
  for (struct dirent *entry; (entry = readdir(folder));) {
    int fd = atoi(entry->d_name);
    ssize_t size = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
    if (size <= 0 || fd == dirfd(folder))
      continue;
    target[size] = '\0';
    visit(fd, target, arg);
  }
  closedir(folder);
  return 0;
}
