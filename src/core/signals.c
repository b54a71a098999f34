/* signals.c: from a signal's handler, through a pipe, to the I/O thread, which cancels contexts.
 *
 * Owns the pipe and the list of contexts that wait for signals. The handler runs on any thread and
 * does nothing but write a byte; the I/O thread reads; any thread adds. Invariants: a handler is
 * installed for a signal before its first context is returned; what is in the list is not freed
 * yet.
 *
 * Lock order: `lock`, then the I/O thread's; contexts are cancelled after unlocking.
 */
#include "signals.h"

#include "context.h"
#include "io.h"
#include "mem.h"
#include "platform.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { LARGEST_SIGNAL = 64 };

typedef struct subscription {
  struct subscription *next;
  weft_context *context; /* not retained: its end takes the subscription out; retained once taken */
  uint64_t signals;      /* a bit a signal */
} subscription;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static subscription *subscriptions;       /* guarded by lock */
static _Atomic uint32_t process_plus_one; /* whose pipe it is; written under lock */
static _Atomic pid_t process_id;          /* the same; written under lock */
static int pipe_out = -1; /* guarded by lock; read by the I/O thread after the job was posted */
static _Atomic int pipe_in = -1; /* the handler's */
static _Atomic uint64_t arrived; /* signals that came once already */
static _Atomic uint64_t
    listened; /* signals that have a listener: no number of them ends the process */
static _Atomic int are_left_alone;
static void (*_Atomic listeners[LARGEST_SIGNAL + 1])(void); /* each set once */

/* Not held over a fork: its holder may wait for the I/O thread's lock. A list that was being
 * changed is whole again after one store. */
static __attribute__((constructor)) void renew_after_forks(void) {
  weft_process_renew_lock(&lock);
}

/* Not in the child of a fork, which has the parent's until it listens itself. A signal may come to
 * the child before its generation is counted: its number tells, too. */
static int is_pipe_ours(void) {
  return atomic_load(&process_plus_one) == weft_process_generation() + 1 &&
         atomic_load(&process_id) == getpid();
}

static void on_signal(int number) {
  int saved_errno = errno;
  uint64_t bit = (uint64_t)1 << (number - 1);
  int is_again = (atomic_fetch_or(&arrived, bit) & bit) && !(atomic_load(&listened) & bit);
  if (is_again || !is_pipe_ours()) {
    signal(number, SIG_DFL);
    raise(number);
  } else {
    char byte = (char)number;
    if (write(atomic_load(&pipe_in), &byte, 1) < 0)
      atomic_fetch_and(&arrived, ~bit); /* nobody hears of it: the next one counts as the first */
  }
  errno = saved_errno;
}

/* Under the lock: one that is done, or ends just now, waits for nothing any more. */
static int is_waiting(const subscription *entry) {
  return !weft_context_done(entry->context) && weft_handle_try_retain(&entry->context->handle);
}

/* Takes the contexts that wait for a signal out of the list, retained. */
static subscription *take_subscriptions(int number) {
  subscription *taken = NULL, **link = &subscriptions;
  pthread_mutex_lock(&lock);
  while (*link) {
    subscription *entry = *link;
    if (entry->signals >> (number - 1) & 1 && is_waiting(entry)) {
      *link = entry->next;
      entry->next = taken;
      taken = entry;
    } else {
      link = &entry->next;
    }
  }
  pthread_mutex_unlock(&lock);
  return taken;
}

/* Nobody waits for it any more: it has the effect that it would have without us. */
static void deliver_default(int number) {
  signal(number, SIG_DFL);
  kill(getpid(), number);
}

static void deliver(int number) {
  void (*listener)(void) = atomic_load(&listeners[number]);
  if (listener)
    listener();
  subscription *entry = take_subscriptions(number);
  if (!entry && !listener)
    deliver_default(number);
  weft_error *cause = weft_error_newf("signal", "signal %d (%s)", number, strsignal(number));
  while (entry) {
    subscription *next = entry->next;
    weft_context_cancel(entry->context, cause);
    weft_context_release(entry->context);
    weft_free(entry);
    entry = next;
  }
  weft_error_release(cause);
}

static void on_readable(int fd, uint32_t events, void *arg) {
  char numbers[32];
  (void)events;
  (void)arg;
  ssize_t count = read(fd, numbers, sizeof numbers);
  for (ssize_t i = 0; i < count; i++)
    deliver(numbers[i]);
}

static void start_watching(weft_io_job *job) {
  weft_io_watch(pipe_out, POLLIN, on_readable, NULL);
  weft_free(job);
}

/* Makes the pipe and has the I/O thread read it, once a process. Called under lock. */
static int open_pipe(void) {
  int ends[2];
  if (is_pipe_ours())
    return 0;
  weft_io_job *watch = weft_calloc(1, sizeof *watch);
  if (!watch || weft_io_start() != 0 || weft_fd_pipe(ends) != 0) {
    weft_free(watch);
    return -1;
  }
  pipe_out = ends[0];
  atomic_store(&pipe_in, ends[1]);
  atomic_store(&process_id, getpid());
  atomic_store(&process_plus_one, weft_process_generation() + 1);
  watch->run = start_watching;
  weft_io_post(watch);
  return 0;
}

/* Each time: interpreters set their own handler of SIGINT before each chunk, and the default one
 * after it. */
static void install(uint64_t signals) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (int number = 1; number <= LARGEST_SIGNAL; number++)
    if (signals >> (number - 1) & 1)
      sigaction(number, &action, NULL);
}

static int subscribe(weft_context *context, uint64_t signals) {
  subscription *entry = weft_malloc(sizeof *entry);
  if (!entry)
    return -1;
  pthread_mutex_lock(&lock);
  int rc = open_pipe();
  if (rc == 0) {
    *entry = (subscription){subscriptions, context, signals};
    subscriptions = entry;
    context->awaits_signal = 1;
    atomic_fetch_and(&arrived, ~signals);
    install(signals);
  }
  pthread_mutex_unlock(&lock);
  if (rc != 0)
    weft_free(entry);
  return rc;
}

weft_context *weft_signal_context(weft_context *parent, const int *signals, int count) {
  uint64_t bits = 0;
  for (int i = 0; i < count; i++)
    bits |= (uint64_t)1 << (signals[i] - 1);
  weft_context *context = weft_context_with_cancel(parent);
  if (context && subscribe(context, bits) != 0) {
    weft_context_release(context);
    return NULL;
  }
  return context;
}

void weft_signals_leave_alone(void) {
  atomic_store(&are_left_alone, 1);
}

int weft_signals_are_left_alone(void) {
  return atomic_load(&are_left_alone);
}

int weft_signal_listen(int signal_number, void (*listener)(void)) {
  uint64_t bit = (uint64_t)1 << (signal_number - 1);
  pthread_mutex_lock(&lock);
  int rc = open_pipe();
  if (rc == 0) {
    atomic_store(&listeners[signal_number], listener);
    atomic_fetch_or(&listened, bit);
    install(bit);
  }
  pthread_mutex_unlock(&lock);
  return rc == 0;
}

void weft_signals_forget(weft_context *context) {
  subscription **link = &subscriptions, *entry;
  pthread_mutex_lock(&lock);
  while (*link && (*link)->context != context)
    link = &(*link)->next;
  entry = *link;
  if (entry)
    *link = entry->next;
  pthread_mutex_unlock(&lock);
  weft_free(entry);
}

int weft_signals_own(int fd) {
  pthread_mutex_lock(&lock);
  int is_ours = is_pipe_ours() && (fd == pipe_out || fd == atomic_load(&pipe_in));
  pthread_mutex_unlock(&lock);
  return is_ours;
}

int weft_signals_are_awaited(void) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (subscription *entry = subscriptions; entry && !found; entry = entry->next)
    found = !weft_context_done(entry->context);
  pthread_mutex_unlock(&lock);
  return found;
}
