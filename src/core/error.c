/* error.c: immutable error objects.
 *
 * Owns the texts and the binding's detail. Any thread enters. Invariant: making an error never
 * fails; without memory the result is one constant object that nobody frees.
 */
#include "error.h"

#include "mem.h"
#include "stats.h"

#include <stdarg.h>
#include <stdio.h>

static void destroy(weft_handle *handle) {
  weft_error *error = (weft_error *)handle;
  weft_parcel_clear(&error->detail);
  weft_free(error->message);
  weft_free(error);
}

static const weft_handle_type error_type = {"error", destroy, &weft_live.errors};
/* One reference of its own keeps it from ever being destroyed. */
static weft_error out_of_memory = {{1, &error_type}, "nomem", "not enough memory", {0}};

static weft_error *new_error(const char *kind, char *owned_message) {
  weft_error *error = owned_message ? weft_calloc(1, sizeof *error) : NULL;
  if (!error) {
    weft_free(owned_message);
    return weft_error_retain(&out_of_memory);
  }
  weft_handle_init(&error->handle, &error_type);
  strncpy(error->kind, kind, sizeof error->kind - 1);
  error->message = owned_message;
  weft_parcel_init(&error->detail);
  return error;
}

weft_error *weft_error_new(const char *kind, const char *message) {
  return new_error(kind, weft_strndup(message, strlen(message)));
}

weft_error *weft_error_newf(const char *kind, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char text[512];
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return weft_error_new(kind, text);
}

weft_error *weft_error_with_detail(const char *kind, const char *message, weft_parcel *detail) {
  weft_error *error = weft_error_new(kind, message);
  if (error != &out_of_memory)
    weft_parcel_move(&error->detail, detail);
  else
    weft_parcel_clear(detail);
  return error;
}

weft_error *weft_error_retain(weft_error *error) {
  if (error)
    weft_handle_retain(&error->handle);
  return error;
}

void weft_error_release(weft_error *error) {
  if (error)
    weft_handle_release(&error->handle);
}

const char *weft_error_kind(const weft_error *error) {
  return error->kind;
}

const char *weft_error_message(const weft_error *error) {
  return error->message;
}

const char *weft_strerror(int code) {
  switch (code) {
  case WEFT_OK:
    return "success";
  case WEFT_CLOSED:
    return "it is closed";
  case WEFT_CANCELED:
    return "the context is done";
  case WEFT_WOULD_WAIT:
    return "it would have to wait";
  case WEFT_NOMEM:
    return "not enough memory";
  case WEFT_NOTHREAD:
    return "a native thread could not be started (limit of processes or memory reached)";
  case WEFT_TOO_LARGE:
    return "more than can ever be had";
  case WEFT_FORKED:
    return "it was made before the process forked: make a new one in the child";
  case WEFT_BELOW_ZERO:
    return "more was given back or done than there was";
  case WEFT_TOO_LATE:
    return "the context's deadline would come first";
  case WEFT_FULL:
    return "there is no room for more";
  case WEFT_CHANGED:
    return "somebody else has changed it";
  default:
    return "unknown code";
  }
}
