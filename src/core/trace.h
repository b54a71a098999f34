/* trace.h: what happens when, written to a file in the Chrome trace format (Perfetto opens it).
 *
 * Any thread adds events, each to a buffer of its own, without a lock; one thread writes them to
 * the file. While no trace runs, an event costs the one branch of weft_trace_is_on. Nothing blocks
 * but start and stop.
 */
#ifndef WEFT_CORE_TRACE_H
#define WEFT_CORE_TRACE_H

#include <stdatomic.h>
#include <stdint.h>

extern _Atomic int weft_trace_on;

static inline int weft_trace_is_on(void) {
  return __builtin_expect(atomic_load_explicit(&weft_trace_on, memory_order_relaxed), 0);
}

/* Starts the one trace of the process. 0; EBUSY: there is one; ESPIPE: a pipe, a socket or a
 * terminal is no file; or why the file or the thread could not be had. */
int weft_trace_start(const char *path);
/* Writes what is left and closes the file. Returns how many events were dropped, since a thread was
 * faster than the writer, or the disk was full. Nothing when no trace runs. */
uint64_t weft_trace_stop(void);

/* ---- events; names are cut to WEFT_TRACE_NAME - 1 bytes ---- */

enum { WEFT_TRACE_NAME = 48 };

/* The clock of traces: the real one, whatever clock is set. */
uint64_t weft_trace_now_ns(void);
/* Something that the calling thread did from `start_ns` until now. */
void weft_trace_did(const char *name, uint64_t start_ns);
/* Something that begins and ends on a line of its own, `id`, inside of what began there before. */
void weft_trace_begin(const char *name, const void *id);
void weft_trace_end(const char *name, const void *id);

#endif
