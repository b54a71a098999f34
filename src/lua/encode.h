/* encode.h: what the encoder, its errors and the decoder share: the shape of a message.
 *
 * A message: flags, the values, then the contents of the tables in the order of their numbers, then
 * the captured variables that functions share, then (when flagged) how many objects there are. The
 * contents come after, not inside: depth costs no stack on either side. Both sides number tables
 * and functions in the order in which they are first written, so a reference is a number, cycles
 * included.
 */
#ifndef WEFT_LUA_ENCODE_H
#define WEFT_LUA_ENCODE_H

#include "state.h"

enum {
  WEFT_TAG_NIL,
  WEFT_TAG_FALSE,
  WEFT_TAG_TRUE,
  WEFT_TAG_INTEGER,
  WEFT_TAG_FLOAT,
  WEFT_TAG_STRING,
  WEFT_TAG_POINTER,
  WEFT_TAG_TABLE,
  WEFT_TAG_GUARDED_TABLE, /* captured: a new key in it raises */
  WEFT_TAG_METATABLE,     /* a name, then the table that has it */
  WEFT_TAG_REFERENCE,
  WEFT_TAG_FUNCTION,      /* code kept alive by somebody else */
  WEFT_TAG_FUNCTION_HELD, /* code kept alive by the message */
  WEFT_TAG_GLOBALS,
  WEFT_TAG_NAME,
  WEFT_TAG_HANDLE,
  WEFT_TAG_SHARE, /* two functions share a captured variable */
  WEFT_TAG_END,
};

enum { WEFT_HAS_OBJECTS = 1 }; /* flags */

typedef struct weft_pending_table {
  uint32_t object;   /* its number */
  uint32_t parent;   /* the table that it was found in, as an index of this list; see label */
  const char *label; /* found in a captured variable of this name or in a value; NULL: in parent */
  int number;        /* of the value that it is part of */
  uint8_t is_guarded;
} weft_pending_table;

typedef struct weft_encoder {
  weft_state *state;
  lua_State *L;
  weft_buf *out;
  weft_encoder_scratch *scratch;
  weft_code_keeper *keeper;
  const char *what;          /* for errors: "argument" */
  int number;                /* of the value being written */
  const char *label;         /* the captured variable being written, or NULL */
  uint32_t parent;           /* the table being written, as an index of scratch->tables */
  int depth;                 /* of functions */
  const void *foreign_table; /* ngx.ctx */
  uint32_t names_known;      /* the state's when this writing began */
  uint8_t is_guarded, has_objects;
  int first, last; /* stack indices of the message's own values */
  int lone;        /* of the only function so far whose variables were not noted yet, or 0 */
  uint32_t lone_number;
  const weft_code *lone_code;
} weft_encoder;

/* Calls function(value at `index`, light userdata `arg`), which allocates Lua memory: finalizers
 * that it runs do not write over the message that is half done, though they send something. Raises
 * what that raises. */
void weft_encode_undisturbed(weft_encoder *e, lua_CFunction function, int index, void *arg);
/* Raises "<path>: <type> cannot be sent; <advice>", with the words of its own class if that has
 * any. The culprit is on top of the stack, which it leaves. Returns when it may be part of a module
 * that was loaded lately: the message is then written again. */
void weft_encode_refuse(weft_encoder *e, const char *advice);
/* Holds on to no table of a message that is written, or refused. */
void weft_encode_forget_pending(weft_encoder *e);

#endif
