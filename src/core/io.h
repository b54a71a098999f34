/* io.h: the I/O thread: one loop that runs timers, sockets and posted jobs.
 *
 * Functions marked [I/O] are called on the I/O thread only; the others from any thread.
 */
#ifndef WEFT_CORE_IO_H
#define WEFT_CORE_IO_H

#include <stdint.h>

typedef struct weft_io_job weft_io_job;
struct weft_io_job {
  weft_io_job *next;
  void (*run)(weft_io_job *job); /* on the I/O thread; may free the job */
};

/* Starts the thread unless it runs in this process. Returns 0 or an errno value. Does not block for
 * longer than a thread start. */
int weft_io_start(void);
/* Makes the loop look at timers and jobs again. Does nothing when it is awake. */
void weft_io_wake(void);
/* Runs the job soon, in the order of posting. It belongs to the loop until run is called. The
 * thread must have been started. */
void weft_io_post(weft_io_job *job);

/* [I/O] Calls ready(fd, events of poll, arg) when `fd` is ready; replaces what was set for it
 * before. events 0 takes it out. Returns 0 or an errno value. */
int weft_io_watch(int fd, uint32_t events, void (*ready)(int fd, uint32_t events, void *arg),
                  void *arg);
/* [I/O] Forgets `fd`, which its owner is about to close. */
void weft_io_forget(int fd);
/* [I/O] Calls hook once, after this turn's events. The hook must not be pending already. */
void weft_io_after_turn(weft_io_job *hook);

/* Ends the thread and waits for it, `timeout_ms` at the most: at process exit. Returns 1 when it
 * ended. */
int weft_io_stop(uint32_t timeout_ms);

#endif
