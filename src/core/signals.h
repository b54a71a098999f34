/* signals.h: contexts that a signal cancels (Go's signal.NotifyContext). */
#ifndef WEFT_CORE_SIGNALS_H
#define WEFT_CORE_SIGNALS_H

#include "weft.h"

/* A child of `parent` that is cancelled, with a cause of kind "signal", when one of the signals arrives.
 * A second signal of the same number has its default effect, which for INT and TERM ends the process.
 * The handlers stay. NULL: no memory, descriptor or
 * thread. Any thread; does not block. */
weft_context *weft_signal_context(weft_context *parent, const int *signals, int count);

#endif
