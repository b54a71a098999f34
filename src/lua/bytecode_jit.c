/* bytecode_jit.c: the dump format and the instructions of LuaJIT 2.1.
 *
 * Owns nothing: what it parses lives in the arena of the weft_dump. Any thread enters, with a dump
 * of its own. Invariant: only dumps of format 2 in this machine's byte order are looked into, and
 * every byte is read through the bounds-checked reader. The format is flat: a prototype comes after
 * its children, and takes them from a stack.
 */
#include "bytecode.h"

#if LUA_VERSION_NUM < 504

enum { FORMAT_2_1 = 2 };
enum { BIG_ENDIAN_FLAG = 1, STRIPPED = 2, TWO_SLOT_FRAMES = 8, KNOWN_FLAGS = 15 };
enum { UPVALUE_LOCAL = 0x8000, UPVALUE_IMMUTABLE = 0x4000, JUMP_BIAS = 0x8000 };

/* Constants that the collector owns, and the entries of constant tables. */
enum { GC_CHILD = 0, GC_TABLE = 1, GC_COMPLEX = 4, GC_STRING = 5 };
enum { KEY_INTEGER = 3, KEY_NUMBER = 4, KEY_STRING = 5 };

enum opcode {
  BC_ISTC = 12,
  BC_ISFC = 13,
  BC_ISF = 15,
  BC_MOV = 18,
  BC_CAT = 38,
  BC_KNIL = 44,
  BC_UGET = 45,
  BC_USETV = 46,
  BC_USETP = 49,
  BC_UCLO = 50,
  BC_FNEW = 51,
  BC_GGET = 54,
  BC_GSET = 55,
  BC_TGETV = 56,
  BC_TGETS = 57,
  BC_TGETR = 59,
  BC_TSETV = 60,
  BC_TSETB = 62,
  BC_TSETM = 63,
  BC_TSETR = 64,
  BC_CALLM = 65,
  BC_CALL = 66,
  BC_CALLMT = 67,
  BC_CALLT = 68,
  BC_ITERC = 69,
  BC_ITERN = 70,
  BC_VARG = 71,
  BC_ISNEXT = 72,
  BC_RETM = 73,
  BC_RET1 = 76,
  BC_FORI = 77,
  BC_FORL = 79,
  BC_ITERL = 82,
  BC_LOOP = 85,
  BC_JMP = 88
};

/* The parts of one prototype that are decoded only once all of it has been read. */
typedef struct proto_parts {
  const uint8_t *code, *lines;
  uint32_t nobjects, nnumbers, debug_size, first_line, line_count;
} proto_parts;

typedef struct dump_parser {
  weft_reader reader;
  uint32_t flags;
  weft_proto *waiting; /* a stack, linked by `below`, of prototypes that no parent has taken yet */
} dump_parser;

/* ---- Primitives of the format ---- */

static uint32_t read_uleb(weft_reader *r) {
  uint32_t value = 0;
  int shift = 0;
  uint8_t byte;
  do {
    byte = weft_reader_byte(r);
    if (shift > 28)
      r->bad = 1;
    else
      value |= (uint32_t)(byte & 0x7f) << shift;
    shift += 7;
  } while ((byte & 0x80) && !r->bad);
  return r->bad ? 0 : value;
}

static int machine_is_big_endian(void) {
  const uint16_t probe = 1;
  uint8_t first;
  memcpy(&first, &probe, 1);
  return first == 0;
}

static void read_header(dump_parser *d) {
  weft_reader *r = &d->reader;
  const uint8_t *head = weft_reader_take(r, 4);
  if (!head || memcmp(head, "\x1bLJ", 3) != 0 || head[3] != FORMAT_2_1)
    r->bad = 1;
  d->flags = read_uleb(r);
  if ((d->flags & ~(uint32_t)KNOWN_FLAGS) != 0 ||
      !!(d->flags & BIG_ENDIAN_FLAG) != machine_is_big_endian())
    r->bad = 1;
  if (!(d->flags & STRIPPED))
    weft_reader_take(r, read_uleb(r)); /* the chunk name */
}

/* ---- Instructions ---- */

typedef struct operands {
  int op, a, b, c, d;
} operands;

static operands unpack(uint32_t word) {
  return (operands){.op = word & 0xff,
                    .a = word >> 8 & 0xff,
                    .b = word >> 24,
                    .c = word >> 16 & 0xff,
                    .d = word >> 16};
}

static int between(int op, int first, int last) {
  return op >= first && op <= last;
}

static int is_comparison(int op) {
  return op <= BC_ISF;
}

/* Those of a dump: no function headers, and none that the JIT compiler puts in at run time. */
static int is_known(int op) {
  return op <= BC_FORI || op == BC_FORL || op == BC_ITERL || op == BC_LOOP || op == BC_JMP;
}

static int changes_no_register(int op) {
  return (is_comparison(op) && op != BC_ISTC && op != BC_ISFC) || between(op, BC_USETV, BC_UCLO) ||
         op == BC_GSET || between(op, BC_TSETV, BC_TSETR) || between(op, BC_RETM, BC_RET1) ||
         op == BC_LOOP || op == BC_JMP;
}

/* The registers that change; never too few. */
static void decode_changes(weft_ins *ins, operands o) {
  ins->first = (int16_t)o.a;
  ins->count = 1;
  if (changes_no_register(o.op)) {
    ins->count = 0;
  } else if (between(o.op, BC_CALLM, BC_VARG)) {
    ins->count = WEFT_TO_FRAME_END;
  } else if (o.op == BC_FORI || o.op == BC_FORL) {
    ins->count = 4;
  } else if (o.op == BC_KNIL) {
    ins->count = (int16_t)(o.d >= o.a && o.d < 256 ? o.d - o.a + 1 : WEFT_TO_FRAME_END);
  } else if (o.op == BC_ISNEXT || o.op == BC_ITERL) {
    ins->first = (int16_t)(o.a > 0 ? o.a - 1 : 0);
    ins->count = 2;
  }
}

static void decode_call(weft_ins *ins, operands o, int frame_slots) {
  int has_arguments = o.op == BC_CALLM || o.op == BC_CALLMT || (o.op == BC_CALL && o.c > 1) ||
                      (o.op == BC_CALLT && o.d > 1);
  ins->kind = WEFT_INS_CALL;
  ins->source = (int16_t)o.a;
  ins->argument = (int16_t)(has_arguments ? o.a + frame_slots : -1);
}

/* What the instruction does with variables, fields and functions. */
static void decode_access(weft_ins *ins, operands o, int frame_slots) {
  if (o.op == BC_MOV)
    weft_ins_read(ins, WEFT_INS_MOVE, o.a, o.d, -1);
  else if (o.op == BC_UGET)
    weft_ins_read(ins, WEFT_INS_GET_UPVALUE, o.a, o.d, -1);
  else if (o.op == BC_GGET)
    weft_ins_read(ins, WEFT_INS_GET_GLOBAL, o.a, 0, o.d);
  else if (between(o.op, BC_TGETV, BC_TGETR))
    weft_ins_read(ins, WEFT_INS_GET_FIELD, o.a, o.b, o.op == BC_TGETS ? o.c : -1);
  else if (between(o.op, BC_USETV, BC_USETP))
    weft_ins_write(ins, WEFT_INS_SET_UPVALUE, o.a);
  else if (between(o.op, BC_TSETV, BC_TSETB) || o.op == BC_TSETR)
    weft_ins_write(ins, WEFT_INS_SET_FIELD, o.b);
  else if (between(o.op, BC_CALLM, BC_CALLT))
    decode_call(ins, o, frame_slots);
  else if (o.op == BC_FNEW)
    weft_ins_read(ins, WEFT_INS_CLOSURE, -1, 0, o.d);
}

/* Where control goes: to the next instruction unless said otherwise. */
static void decode_flow(weft_ins *ins, operands o, int pc) {
  ins->flow = WEFT_FALLS;
  if (is_comparison(o.op))
    ins->flow |= WEFT_SKIPS;
  else if (o.op == BC_JMP || o.op == BC_UCLO || o.op == BC_ISNEXT)
    ins->flow = WEFT_JUMPS;
  else if (o.op == BC_FORI || o.op == BC_FORL || o.op == BC_ITERL)
    ins->flow |= WEFT_JUMPS;
  else if (between(o.op, BC_RETM, BC_RET1) || o.op == BC_CALLT || o.op == BC_CALLMT)
    ins->flow = 0;
  if (ins->flow & WEFT_JUMPS)
    ins->target = pc + 1 + o.d - JUMP_BIAS;
}

/* 0: no instruction of a dump, or a jump out of the function. */
static int decode(weft_ins *ins, const uint8_t *code, int pc, int ncode, int frame_slots) {
  uint32_t word;
  memcpy(&word, code + 4 * (size_t)pc, sizeof word);
  operands o = unpack(word);
  *ins = (weft_ins){.result = -1, .argument = -1, .key = -1};
  if (!is_known(o.op))
    return 0;
  decode_changes(ins, o);
  decode_access(ins, o, frame_slots);
  decode_flow(ins, o, pc);
  return ins->target >= 0 && ins->target < ncode;
}

/* An array of offsets from the first line, in the narrowest type that holds the line count. */
static int line_of(const proto_parts *parts, int pc) {
  size_t width = parts->line_count < 256 ? 1 : parts->line_count < 65536 ? 2 : 4;
  size_t at = width * (size_t)pc;
  if (at + width > parts->debug_size)
    return 0;
  if (width == 1)
    return (int)(parts->first_line + parts->lines[at]);
  uint16_t narrow;
  uint32_t wide;
  memcpy(&narrow, parts->lines + at, sizeof narrow);
  if (width == 2)
    return (int)(parts->first_line + narrow);
  memcpy(&wide, parts->lines + at, sizeof wide);
  return (int)(parts->first_line + wide);
}

static void decode_code(dump_parser *d, weft_proto *proto, const proto_parts *parts) {
  int frame_slots = d->flags & TWO_SLOT_FRAMES ? 2 : 1;
  for (int pc = 0; pc < proto->ncode && !d->reader.bad; pc++) {
    if (!decode(&proto->code[pc], parts->code, pc, proto->ncode, frame_slots))
      d->reader.bad = 1;
    proto->code[pc].line = line_of(parts, pc);
  }
}

/* ---- The prototype, part by part, in the order of the dump ---- */

static void read_sizes(dump_parser *d, weft_proto *proto, proto_parts *parts) {
  weft_reader *r = &d->reader;
  weft_reader_take(r, 2); /* flags, number of parameters */
  proto->nregisters = weft_reader_byte(r);
  proto->nupvalues = weft_reader_byte(r);
  parts->nobjects = read_uleb(r);
  parts->nnumbers = read_uleb(r);
  uint32_t ncode = read_uleb(r);
  if (ncode > INT32_MAX || parts->nobjects > INT32_MAX)
    r->bad = 1;
  proto->ncode = (int)ncode;
  if (!(d->flags & STRIPPED))
    parts->debug_size = read_uleb(r);
  if (parts->debug_size) {
    parts->first_line = read_uleb(r);
    parts->line_count = read_uleb(r);
  }
}

static void read_code(weft_reader *r, weft_proto *proto, proto_parts *parts) {
  proto->code = weft_reader_array(r, (size_t)proto->ncode, sizeof *proto->code);
  parts->code = weft_reader_take(r, 4 * (size_t)proto->ncode);
}

static void read_upvalues(weft_reader *r, weft_proto *proto) {
  size_t count = (size_t)proto->nupvalues;
  proto->upvalues = weft_reader_array(r, count, sizeof *proto->upvalues);
  proto->upvalue_list = weft_reader_take(r, 2 * count);
  for (size_t i = 0; i < count && !r->bad; i++) {
    uint16_t entry;
    memcpy(&entry, proto->upvalue_list + 2 * i, sizeof entry);
    int from_local = (entry & UPVALUE_LOCAL) != 0;
    proto->upvalues[i] = (weft_upvalue){.from_local = (uint8_t)from_local,
                                        .index = (uint8_t)entry,
                                        .assigned = from_local && !(entry & UPVALUE_IMMUTABLE)};
  }
}

static void read_ulebs(weft_reader *r, int count) {
  while (count-- > 0)
    read_uleb(r);
}

static void read_table_entry(weft_reader *r) {
  uint32_t type = read_uleb(r);
  if (type >= KEY_STRING)
    weft_reader_take(r, type - KEY_STRING);
  else if (type == KEY_INTEGER)
    read_uleb(r);
  else if (type == KEY_NUMBER)
    read_ulebs(r, 2);
}

static void read_table(weft_reader *r) {
  uint64_t array_entries = read_uleb(r);
  uint64_t pairs = read_uleb(r);
  for (uint64_t i = 0; i < array_entries + 2 * pairs && !r->bad; i++)
    read_table_entry(r);
}

static weft_proto *take_child(dump_parser *d) {
  weft_proto *child = d->waiting;
  if (child)
    d->waiting = child->below;
  else
    d->reader.bad = 1;
  return child;
}

/* `slot` is the operand that names the constant, which is a string, a child, or neither. */
static void read_object(dump_parser *d, weft_proto *proto, uint32_t slot) {
  weft_reader *r = &d->reader;
  uint32_t type = read_uleb(r);
  if (type >= GC_STRING) {
    size_t size = type - GC_STRING;
    proto->names[slot] = (weft_name){.text = weft_reader_take(r, size), .size = size};
  } else if (type == GC_CHILD) {
    proto->children[slot] = take_child(d);
  } else if (type == GC_TABLE) {
    read_table(r);
  } else {
    read_ulebs(r, type == GC_COMPLEX ? 4 : 2);
  }
}

static void read_objects(dump_parser *d, weft_proto *proto, uint32_t count) {
  weft_reader *r = &d->reader;
  proto->names = weft_reader_array(r, count, sizeof *proto->names);
  proto->children = weft_reader_array(r, count, sizeof *proto->children);
  for (uint32_t i = 0; i < count && !r->bad; i++)
    read_object(d, proto, count - 1 - i); /* operands count from the last one */
  proto->nnames = proto->nchildren = (int)count;
}

/* An integer, or the lower half of a double; the lowest bit of the first byte says which. Holds 33
 * bits, so read_uleb would refuse some. */
static void read_numbers(weft_reader *r, uint32_t count) {
  for (uint32_t i = 0; i < count && !r->bad; i++) {
    uint8_t first = weft_reader_byte(r);
    uint8_t byte = first;
    for (int n = 0; (byte & 0x80) && n < 4; n++)
      byte = weft_reader_byte(r);
    if (byte & 0x80)
      r->bad = 1;
    if (first & 1)
      read_uleb(r);
  }
}

static void read_body(dump_parser *d, weft_proto *proto) {
  proto_parts parts = {0};
  weft_reader *r = &d->reader;
  read_sizes(d, proto, &parts);
  read_code(r, proto, &parts);
  read_upvalues(r, proto);
  read_objects(d, proto, parts.nobjects);
  read_numbers(r, parts.nnumbers);
  parts.lines = weft_reader_take(r, parts.debug_size);
  decode_code(d, proto, &parts);
}

/* A length, then a prototype of exactly that length, which goes on the stack. */
static void read_proto(dump_parser *d) {
  weft_reader *r = &d->reader;
  weft_proto *proto = weft_reader_array(r, 1, sizeof *proto);
  if (r->bad)
    return;
  proto->begin = r->at;
  size_t length = read_uleb(r);
  const uint8_t *body = r->at;
  read_body(d, proto);
  proto->end = r->at;
  if ((size_t)(r->at - body) != length)
    r->bad = 1;
  proto->below = d->waiting;
  d->waiting = proto;
}

/* ---- What the shared files call ---- */

static int at_end_mark(const weft_reader *r) {
  return r->bad || (r->at + 1 == r->end && *r->at == 0);
}

int weft_dump_parse(weft_dump *dump, const uint8_t *bytes, size_t size) {
  *dump = (weft_dump){.bytes = bytes, .size = size};
  dump_parser d = {.reader = {.at = bytes, .end = bytes + size, .arena = &dump->arena}};
  read_header(&d);
  while (!at_end_mark(&d.reader))
    read_proto(&d);
  if (d.reader.bad || !d.waiting || d.waiting->below)
    return 0;
  dump->main = d.waiting;
  return 1;
}

static void patch_upvalues(uint8_t *list, int count) {
  for (int i = 0; i < count; i++, list += 2) {
    uint16_t entry;
    memcpy(&entry, list, sizeof entry);
    entry = (uint16_t)(UPVALUE_LOCAL | (entry & UPVALUE_IMMUTABLE) | i);
    memcpy(list, &entry, sizeof entry);
  }
}

/* The flags that say how the bytes are to be read. */
static int same_encoding(const weft_dump *a, const weft_dump *b) {
  return ((a->bytes[4] ^ b->bytes[4]) & (BIG_ENDIAN_FLAG | STRIPPED | TWO_SLOT_FRAMES)) == 0;
}

/* The frame's function follows the user's, which it takes from the stack as its only child. */
int weft_dump_graft(const weft_dump *user, const weft_dump *frame, weft_buf *out) {
  const weft_proto *around = frame->main;
  size_t tail = (size_t)(frame->bytes + frame->size - around->begin);
  if (!same_encoding(user, frame) ||
      weft_buf_append(out, user->bytes, user->size - 1) != WEFT_BUF_OK ||
      weft_buf_append(out, around->begin, tail) != WEFT_BUF_OK)
    return 0;
  patch_upvalues(out->data + (user->main->upvalue_list - user->bytes), user->main->nupvalues);
  return 1;
}

int weft_dump_write(lua_State *L, lua_Writer writer, void *data) {
  return lua_dump(L, writer, data);
}

#else
typedef int weft_bytecode_jit_unused;
#endif
