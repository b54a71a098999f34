/* signals.h: contexts that a signal cancels (Go's signal.NotifyContext), and functions that it
 * calls. */
#ifndef WEFT_CORE_SIGNALS_H
#define WEFT_CORE_SIGNALS_H

#include "weft.h"

/* A child of `parent` that is cancelled, with a cause of kind "signal", when one of the signals
 * arrives. A second signal of the same number has its default effect, which for INT and TERM ends
 * the process; so has the first one when no such context is left that is not done. NULL: no memory,
 * descriptor or thread. Any thread; does not block. */
weft_context *weft_signal_context(weft_context *parent, const int *signals, int count);
/* From now on signals are another's in this process, such as nginx's, which its master and its
 * workers need. Any thread. */
void weft_signals_leave_alone(void);
int weft_signals_are_left_alone(void);
/* From now on the I/O thread calls `listener` whenever the signal arrives, which it must not block
 * for long; the signal has no other effect then. 0: no descriptor or thread. Any thread; does not
 * block. */
int weft_signal_listen(int signal_number, void (*listener)(void));

/* By the end of a context that awaits a signal. */
void weft_signals_forget(weft_context *context);
/* Whether it is an end of the pipe, which stays open. Any thread. */
int weft_signals_own(int fd);
/* Whether a context that is not done waits for a signal. Any thread. */
int weft_signals_are_awaited(void);

#endif
