/* error.h: the core's error object: kind, message and, for the binding, a parcel with the rest.
 *
 * Constant once it is made, and counted: any thread may hold, read and release one. Nothing blocks.
 */
#ifndef WEFT_CORE_ERROR_H
#define WEFT_CORE_ERROR_H

#include "handle.h"
#include "parcel.h"
#include "weft.h"

struct weft_error {
  weft_handle handle; /* first */
  char kind[24];
  char *message;      /* owned, but for the constant error */
  weft_parcel detail; /* the binding's form of this error; empty when the core made it */
};

/* Takes the contents of `detail` over (it is empty afterwards). Never NULL: without memory the
 * constant error. */
weft_error *weft_error_with_detail(const char *kind, const char *message, weft_parcel *detail);

#endif
