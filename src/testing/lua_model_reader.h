/* lua_model_reader.h: reads tables of options into C structs.
 *
 * Only the thread that runs the Lua state calls these; none blocks. Each raises a Lua error that
 * names the option when a key is unknown or a value is wrong.
 */
#ifndef WEFT_TESTING_LUA_MODEL_READER_H
#define WEFT_TESTING_LUA_MODEL_READER_H

#include <lua.h>

#include <stdbool.h>
#include <stddef.h>

/* Where a table of options is read, and how errors name it. */
typedef struct weft_lua_reader {
  lua_State *L;
  const char *function; /* whose argument it is */
  const char *table;    /* the table's own name, as "faults[2]" */
  const char *prefix;   /* of its options' names, as "faults[2]." */
  const char *name;     /* of the option that is read now */
  int anchors;          /* index of a table that keeps memory alive until the call ends */
} weft_lua_reader;

typedef struct weft_lua_option {
  const char *name;
  /* Reads the value on top of the stack, or raises; leaves the stack as it was. */
  void (*read)(weft_lua_reader *r, void *field);
  size_t offset; /* of the field in the struct that is filled */
} weft_lua_option;

/* Starts to read the table at `index`; leaves it on top of the stack. */
weft_lua_reader weft_lua_begin_reader(lua_State *L, int index, const char *table,
                                      const char *function);
/* Reads the table on top of the stack into a struct; `options` ends with a NULL name. */
void weft_lua_read_options(weft_lua_reader *r, const weft_lua_option *options, void *fields);
/* The same for an option that is a table itself: the value on top of the stack. */
void weft_lua_read_nested(weft_lua_reader *r, const weft_lua_option *options, void *fields);

/* Goes through the list on top of the stack: `read` gets each item on top of the stack, with a
 * reader that names it, and the place of its struct. Raises when the value is no list. Returns the
 * structs, memory for the time of the call. */
void *weft_lua_read_list(weft_lua_reader *r, const char *what, size_t size,
                         void (*read)(weft_lua_reader *r, void *item), size_t *count);

/* A reader for the table on top of the stack, which errors name `table`, in words that stay. */
weft_lua_reader weft_lua_nested(const weft_lua_reader *r, const char *table);
/* Text that stays until the call ends. */
__attribute__((format(printf, 2, 3))) const char *weft_lua_name(weft_lua_reader *r,
                                                                const char *format, ...);
/* Zeroed memory for the time of the call. */
void *weft_lua_scratch(weft_lua_reader *r, size_t count, size_t size);
/* Keeps the value on top of the stack alive for the time of the call, and pops it. */
void weft_lua_anchor(weft_lua_reader *r);
/* Pairs of the table on top of the stack. */
size_t weft_lua_count_pairs(lua_State *L);

/* Raise: about an option, about the option that is read, about the table as a whole. */
void weft_lua_option_error(const weft_lua_reader *r, const char *name, const char *why);
void weft_lua_expected(const weft_lua_reader *r, const char *what);
void weft_lua_table_error(const weft_lua_reader *r, const char *why);

/* Values on top of the stack. */
double weft_lua_number(weft_lua_reader *r, const char *what);
double weft_lua_whole(weft_lua_reader *r, double low, double high, const char *what);
double weft_lua_seconds(weft_lua_reader *r, double high, const char *what);
const char *weft_lua_text(weft_lua_reader *r); /* without zero bytes */
/* The place of the text on top of the stack in a list of words that ends with NULL. */
int weft_lua_word(weft_lua_reader *r, const char *const *words, const char *what);

/* For tables of options. */
void weft_lua_read_seconds(weft_lua_reader *r, void *field); /* double */
void weft_lua_read_text(weft_lua_reader *r, void *field);    /* const char * */
void weft_lua_read_flag(weft_lua_reader *r, void *field);    /* int: 0 or 1 */
void weft_lua_read_some(weft_lua_reader *r, void *field);    /* double: a whole number >= 1 */

#endif
