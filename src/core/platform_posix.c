/* platform_posix.c: what platform_linux.c does, with what POSIX promises (and a few words of
 * Apple's).
 *
 * Owns the lots in which threads sleep. Any thread enters. Invariant: whoever wakes has changed the
 * word before it takes the lot's lock, and whoever sleeps looks at the word under that lock, so no
 * wake is lost. Words share lots, so a sleep may end for another's sake.
 *
 * Lock order: a lot's lock is a leaf.
 */
#include "clock.h"
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#include <dlfcn.h>
#include <mach/mach.h>
#endif

/* ---- sleeping ---- */

enum { LOTS = 64, LONGEST_POLL_MS = 1000000 };

typedef struct lot {
  pthread_mutex_t lock;
  pthread_cond_t changed;
} lot;

static lot lots[LOTS];

static lot *lot_of(_Atomic uint32_t *word) {
  return &lots[weft_mix((uint64_t)(uintptr_t)word) % LOTS];
}

/* Also in the child of a fork, where nobody sleeps. */
static void open_lots(void) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
#ifndef __APPLE__
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
  for (int i = 0; i < LOTS; i++) {
    pthread_mutex_init(&lots[i].lock, NULL);
    pthread_cond_init(&lots[i].changed, &attributes);
  }
  pthread_condattr_destroy(&attributes);
}

static __attribute__((constructor)) void set_up_lots(void) {
  open_lots();
  pthread_atfork(NULL, NULL, open_lots);
}

static uint64_t left_ns(uint64_t until_ns) {
  uint64_t now_ns = weft_clock_real_ns();
  return until_ns > now_ns ? until_ns - now_ns : 0;
}

static struct timespec timespec_of(uint64_t ns) {
  return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

static int wait_until(lot *lot, uint64_t until_ns) {
#ifdef __APPLE__
  struct timespec left = timespec_of(left_ns(until_ns));
  return pthread_cond_timedwait_relative_np(&lot->changed, &lot->lock, &left);
#else
  struct timespec until = timespec_of(until_ns);
  return pthread_cond_timedwait(&lot->changed, &lot->lock, &until);
#endif
}

void weft_word_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns) {
  lot *lot = lot_of(word);
  int rc = 0;
  pthread_mutex_lock(&lot->lock);
  while (rc == 0 && atomic_load(word) == expected)
    rc = until_ns == WEFT_NEVER_NS ? pthread_cond_wait(&lot->changed, &lot->lock)
                                   : wait_until(lot, until_ns);
  pthread_mutex_unlock(&lot->lock);
}

void weft_word_wake(_Atomic uint32_t *word) {
  lot *lot = lot_of(word);
  pthread_mutex_lock(&lot->lock);
  pthread_cond_broadcast(&lot->changed);
  pthread_mutex_unlock(&lot->lock);
}

void weft_lock_init_short(pthread_mutex_t *lock) {
  pthread_mutex_init(lock, NULL);
}

/* Rounded up: who wakes too early would look again and again. */
int weft_fd_poll(struct pollfd *fds, uint32_t count, uint64_t until_ns) {
  uint64_t ms = until_ns == WEFT_NEVER_NS ? 0 : (left_ns(until_ns) + 999999) / 1000000;
  int timeout = ms > LONGEST_POLL_MS ? LONGEST_POLL_MS : (int)ms;
  return poll(fds, count, until_ns == WEFT_NEVER_NS ? -1 : timeout);
}

/* ---- processors and memory ---- */

uint32_t weft_cpu_count(void) {
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (uint32_t)count : 1;
}

/* Apple's linker has no -z nodelete, which the others have. */
void weft_process_stay_loaded(void) {
#ifdef __APPLE__
  Dl_info self;
  if (dladdr((const void *)weft_process_stay_loaded, &self))
    dlopen(self.dli_fname, RTLD_LAZY | RTLD_NODELETE);
#endif
}

uint64_t weft_process_resident_bytes(void) {
#ifdef __APPLE__
  mach_task_basic_info_data_t info;
  mach_msg_type_number_t size = MACH_TASK_BASIC_INFO_COUNT;
  if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &size) == KERN_SUCCESS)
    return info.resident_size;
#endif
  return 0;
}

/* ---- threads ---- */

static __thread char own_name[16];

void weft_thread_set_name(const char *name) {
  strncpy(own_name, name, sizeof own_name - 1);
#ifdef __APPLE__
  pthread_setname_np(own_name);
#endif
}

void weft_thread_get_name(char name[16]) {
  strcpy(name, own_name[0] ? own_name : "host");
}

uint64_t weft_thread_number(void) {
  static _Atomic uint64_t last;
  static __thread uint64_t own;
  if (!own)
    own = atomic_fetch_add(&last, 1) + 1;
  return own;
}

/* POSIX knows the niceness of processes only. */
void weft_thread_set_nice(int nice) {
#ifdef __APPLE__
  if (nice > 0)
    pthread_set_qos_class_self_np(QOS_CLASS_UTILITY, 0);
#endif
  (void)nice;
}

static int has_pending(const sigset_t *set) {
  sigset_t pending;
  sigpending(&pending);
  for (int number = 1; number < 32; number++)
    if (sigismember(set, number) == 1 && sigismember(&pending, number) == 1)
      return 1;
  return 0;
}

/* By looking again and again: macOS and OpenBSD have no sigtimedwait. */
int weft_signal_wait(const sigset_t *set, uint64_t until_ns) {
  static const struct timespec pause = {0, 10000000};
  int number = 0;
  while (!has_pending(set))
    if (left_ns(until_ns) == 0)
      return 0;
    else
      nanosleep(&pause, NULL);
  return sigwait(set, &number) == 0 ? number : 0;
}

/* ---- descriptors ---- */

/* Returns it, or -1 and closes it. */
static int tame(int fd) {
  if (fd < 0)
    return -1;
#ifdef SO_NOSIGPIPE
  static const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on); /* nothing happens to a pipe */
#endif
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
    return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int weft_fd_socket(int family, int type, int protocol) {
  return tame(socket(family, type, protocol));
}

int weft_fd_accept(int listener) {
  return tame(accept(listener, NULL, NULL));
}

int weft_fd_pipe(int ends[2]) {
  if (pipe(ends) != 0)
    return -1;
  int in = tame(ends[0]), out = tame(ends[1]);
  if (in >= 0 && out >= 0)
    return 0;
  if (in >= 0)
    close(in);
  if (out >= 0)
    close(out);
  return -1;
}

int weft_fd_bell(int ends[2]) {
  return weft_fd_pipe(ends);
}

int weft_fd_replace(int fd, int onto) {
  int rc = dup2(fd, onto);
  return rc < 0 ? rc : fcntl(onto, F_SETFD, FD_CLOEXEC);
}

/* Where the system does not tell, the folder of the socket must keep others out. */
int weft_fd_peer_is_own(int fd) {
#ifdef LOCAL_PEERPID
  pid_t peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_LOCAL, LOCAL_PEERPID, &peer, &size) == 0 && peer == getpid();
#else
  (void)fd;
  return 1;
#endif
}

static const char *kind_of(mode_t mode) {
  return S_ISREG(mode)    ? "file"
         : S_ISDIR(mode)  ? "folder"
         : S_ISSOCK(mode) ? "socket"
         : S_ISFIFO(mode) ? "pipe"
                          : "device";
}

/* The system has no list of them: each number is tried. */
int weft_fd_each(void (*visit)(int fd, const char *target, void *arg), void *arg) {
  enum { MANY = 65536 };
  long limit = sysconf(_SC_OPEN_MAX);
  for (int fd = 0; fd < (limit < 0 || limit > MANY ? MANY : limit); fd++) {
    struct stat of_file;
    char target[96];
    if (fstat(fd, &of_file) != 0)
      continue;
    snprintf(target, sizeof target, "%s:[%llu:%llu]", kind_of(of_file.st_mode),
             (unsigned long long)of_file.st_dev, (unsigned long long)of_file.st_ino);
    visit(fd, target, arg);
  }
  return 0;
}
