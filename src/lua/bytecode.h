/* bytecode.h: what shipping reads from, and builds out of, a dumped function.
 *
 * Two services on the unstripped output of lua_dump: splicing (a chunk that makes fresh closures of
 * the function) and the lost-write scan (writes to captured values, which are copies in a task).
 * Every function works on its arguments alone, so any thread may call it, one thread at a time a
 * Lua state; none blocks, none raises a Lua error, and a dump that is cut, corrupt or of an unknown
 * format is refused ("cannot", 0), never trusted.
 */
#ifndef WEFT_LUA_BYTECODE_H
#define WEFT_LUA_BYTECODE_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "lua.h"

enum {
  WEFT_SPLICE_MAX_UPVALUES = 200, /* parameters of one Lua function */
  WEFT_LOST_NAME_SIZE = 64
};

/* Appends to `out` (empty, initialised) the dump of `function(u1..un) return F end`, where F is the
 * function in `dump` and reads its i-th upvalue from u_i. Load it in mode "b" once a state: every
 * call then gives a fresh closure over fresh cells. Returns 1, or 0 when it cannot, with `out`
 * freed. The stack of L is left as it was. `dump` is only read; the caller owns both buffers. */
int weft_bytecode_splice(lua_State *L, const uint8_t *dump, size_t size, int nupvalues,
                         weft_buf *out);

/* 1 when spliced functions behave as their originals on this very build of the VM. Run it once, at
 * module load: after 0, do not use weft_bytecode_splice. Leaves the stack of L as it was. */
int weft_bytecode_selftest(lua_State *L);

/* What the task's function captures, in the order of its upvalues. `name` is borrowed. */
typedef struct weft_capture {
  const char *name;
  int is_env;        /* 5.4: the upvalue _ENV; globals belong to the worker and are not reported */
  int is_table_copy; /* a table that is copied; 0 for scalars, handles, functions and modules */
} weft_capture;

enum {
  WEFT_WRITE_LOCAL = 1, /* assigns a captured variable */
  WEFT_WRITE_TABLE,     /* writes a field of a captured table */
  WEFT_WRITE_LIBRARY    /* table.insert, remove, sort, rawset or setmetatable on a captured table */
};

typedef struct weft_lost_write {
  int line; /* 0: the function has no line information */
  int kind;
  char name[WEFT_LOST_NAME_SIZE]; /* of the captured variable, cut to fit */
} weft_lost_write;

/* Finds the first write, by line, that the caller of the task would never see. Returns 1 and fills
 * `out`, or 0: none found, or the dump cannot be read. It misses writes through calls and through
 * fields of other tables; what it reports is a write to a copy on some path through the code. */
int weft_bytecode_lost_write(const uint8_t *dump, size_t size, const weft_capture *captures,
                             int ncaptures, weft_lost_write *out);

/* ---- Between the bytecode files: the parsed dump --------------------------------------------- */

/* What an instruction does with tracked values; everything else is WEFT_INS_OTHER. */
typedef enum weft_ins_kind {
  WEFT_INS_OTHER,
  WEFT_INS_MOVE,              /* result = register source */
  WEFT_INS_GET_UPVALUE,       /* result = upvalue source */
  WEFT_INS_SET_UPVALUE,       /* upvalue source = … */
  WEFT_INS_GET_GLOBAL,        /* result = global key */
  WEFT_INS_GET_FIELD,         /* result = (register source)[key] */
  WEFT_INS_SET_FIELD,         /* (register source)[…] = … */
  WEFT_INS_GET_UPVALUE_FIELD, /* result = (upvalue source)[key] */
  WEFT_INS_SET_UPVALUE_FIELD, /* (upvalue source)[…] = … */
  WEFT_INS_CALL,              /* calls register source with register argument first */
  WEFT_INS_CLOSURE            /* instantiates child key */
} weft_ins_kind;

/* Where an instruction may go on: at the next one, at the one after it, at its target. */
enum { WEFT_FALLS = 1, WEFT_SKIPS = 2, WEFT_JUMPS = 4 };
enum { WEFT_TO_FRAME_END = 1024 }; /* a count: every register from `first` on */

/* One instruction, in terms that both VMs share. Registers and indices are not validated. */
typedef struct weft_ins {
  uint8_t kind, flow;
  int16_t first, count; /* the registers that change */
  int16_t result;       /* the one that receives the tracked value; -1: none */
  int16_t source;
  int16_t argument; /* -1: a call without arguments */
  int32_t key;      /* string constant or child; -1: not known */
  int32_t target;   /* with WEFT_JUMPS; always an instruction of this function */
  int32_t line;
} weft_ins;

static inline void weft_ins_read(weft_ins *ins, weft_ins_kind kind, int result, int source,
                                 int key) {
  ins->kind = (uint8_t)kind;
  ins->result = (int16_t)result;
  ins->source = (int16_t)source;
  ins->key = key;
}

static inline void weft_ins_write(weft_ins *ins, weft_ins_kind kind, int source) {
  ins->kind = (uint8_t)kind;
  ins->source = (int16_t)source;
}

typedef struct weft_upvalue {
  uint8_t from_local; /* a register of the enclosing function; 0: one of its upvalues */
  uint8_t index;
  uint8_t assigned; /* from_local: the variable is assigned after its declaration. Of others: no
                       meaning outside the parser */
} weft_upvalue;

typedef struct weft_name {
  const uint8_t *text; /* borrowed from the dump; NULL: the constant is no string */
  size_t size;
} weft_name;

typedef struct weft_proto {
  const uint8_t *begin, *end;  /* of the prototype in the dump, with its length prefix if any */
  const uint8_t *upvalue_list; /* the descriptors in the dump, which splicing patches */
  weft_ins *code;
  weft_upvalue *upvalues;
  weft_name *names;             /* constants that `key` refers to */
  struct weft_proto **children; /* an entry may be NULL */
  struct weft_proto *below;     /* used while a dump is parsed */
  int ncode, nupvalues, nnames, nchildren;
  int nregisters;
  int scanned; /* by the lost-write scan */
} weft_proto;

/* Owns everything a parsed dump points to, except the bytes of the dump. */
typedef struct weft_arena {
  struct weft_arena_block *blocks;
} weft_arena;

/* Zeroed memory that lives until weft_dump_free; NULL when there is none left, never for size 0. */
void *weft_arena_alloc(weft_arena *arena, size_t count, size_t element_size);

typedef struct weft_dump {
  const uint8_t *bytes; /* borrowed */
  size_t size;
  weft_proto *main;
  weft_arena arena;
} weft_dump;

/* A cursor over the dump. After a read past the end `bad` is set and every read gives zeros. */
typedef struct weft_reader {
  const uint8_t *at, *end;
  int bad;
  weft_arena *arena;
} weft_reader;

/* The next `size` bytes, or NULL. */
const uint8_t *weft_reader_take(weft_reader *r, size_t size);
uint8_t weft_reader_byte(weft_reader *r);
/* Zeroed memory of the arena that backs `count` things which take at least one byte each in the
 * dump: a count that the dump cannot hold sets `bad`. NULL when `bad`. */
void *weft_reader_array(weft_reader *r, size_t count, size_t element_size);

/* One implementation for each VM. parse: 1, or 0 when it cannot; weft_dump_free in both cases.
 * graft: appends `frame` with its innermost function replaced by `user`, whose upvalues become the
 * locals of the function around it; 1 or 0. */
int weft_dump_parse(weft_dump *dump, const uint8_t *bytes, size_t size);
int weft_dump_graft(const weft_dump *user, const weft_dump *frame, weft_buf *out);
int weft_dump_write(lua_State *L, lua_Writer writer, void *data); /* lua_dump, unstripped */
void weft_dump_free(weft_dump *dump);

#endif
