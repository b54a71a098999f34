/* bytecode_54.c: the dump format and the instructions of Lua 5.4.
 *
 * Owns nothing: what it parses lives in the arena of the weft_dump. Any thread enters, with a dump
 * of its own. Invariant: only a dump whose header is the one this build writes is looked into, and
 * every byte is read through the bounds-checked reader.
 */
#include "bytecode.h"

#if LUA_VERSION_NUM >= 504

enum { MAX_DEPTH = 200, ABSOLUTE_LINE = -0x80, JUMP_BIAS = (1 << 24) - 1 };
enum { SHORT_STRING = 0x04, LONG_STRING = 0x14, INTEGER = 0x03, FLOAT = 0x13 };
enum { HEADER_SIZE = 15 + sizeof(lua_Integer) + sizeof(lua_Number), UPVALUE_SIZE = 3 };

enum opcode {
  OP_MOVE = 0,
  OP_LFALSESKIP = 6,
  OP_LOADNIL = 8,
  OP_GETUPVAL = 9,
  OP_SETUPVAL = 10,
  OP_GETTABUP = 11,
  OP_GETTABLE = 12,
  OP_GETI = 13,
  OP_GETFIELD = 14,
  OP_SETTABUP = 15,
  OP_SETTABLE = 16,
  OP_SETI = 17,
  OP_SETFIELD = 18,
  OP_SELF = 20,
  OP_MMBIN = 46,
  OP_MMBINI = 47,
  OP_MMBINK = 48,
  OP_CONCAT = 53,
  OP_CLOSE = 54,
  OP_TBC = 55,
  OP_JMP = 56,
  OP_EQ = 57,
  OP_TEST = 66,
  OP_TESTSET = 67,
  OP_CALL = 68,
  OP_TAILCALL = 69,
  OP_RETURN = 70,
  OP_RETURN1 = 72,
  OP_FORLOOP = 73,
  OP_FORPREP = 74,
  OP_TFORPREP = 75,
  OP_TFORCALL = 76,
  OP_TFORLOOP = 77,
  OP_SETLIST = 78,
  OP_CLOSURE = 79,
  OP_VARARG = 80,
  OP_VARARGPREP = 81,
  OP_EXTRAARG = 82
};

typedef struct local_scope {
  int begin, end; /* instructions in which the variable exists */
} local_scope;

/* The parts of one function that are decoded only once all of it has been read. */
typedef struct function_parts {
  const uint8_t *code;
  const int8_t *line_deltas;
  size_t ndeltas;
  const uint8_t *absolute_lines; /* pairs (instruction, line) */
  int first_line;
  local_scope *scopes; /* in the order of declaration */
  int nscopes;
} function_parts;

static weft_proto *read_function(weft_reader *r, int depth);

/* ---- Primitives of the format ---- */

static size_t read_size(weft_reader *r) {
  size_t value = 0;
  uint8_t byte;
  do {
    if (value > SIZE_MAX >> 7)
      r->bad = 1;
    byte = weft_reader_byte(r);
    value = value << 7 | (byte & 0x7f);
  } while (!(byte & 0x80) && !r->bad);
  return r->bad ? 0 : value;
}

static int read_int(weft_reader *r) {
  size_t value = read_size(r);
  if (value > INT32_MAX)
    r->bad = 1;
  return r->bad ? 0 : (int)value;
}

static weft_name read_string(weft_reader *r) {
  size_t size = read_size(r);
  if (size == 0)
    return (weft_name){0};
  const uint8_t *text = weft_reader_take(r, size - 1);
  return (weft_name){.text = text, .size = size - 1};
}

/* What this build writes: signature, version, format, check bytes, sizes, two numbers. */
static void expected_header(uint8_t *header) {
  static const uint8_t fixed[] = "\x1bLua\x54\x00\x19\x93\r\n\x1a\n\x04";
  const lua_Integer integer = 0x5678;
  const lua_Number number = (lua_Number)370.5;
  memcpy(header, fixed, 13);
  header[13] = sizeof integer;
  header[14] = sizeof number;
  memcpy(header + 15, &integer, sizeof integer);
  memcpy(header + 15 + sizeof integer, &number, sizeof number);
}

static void read_header(weft_reader *r) {
  uint8_t expected[HEADER_SIZE];
  const uint8_t *header = weft_reader_take(r, HEADER_SIZE);
  expected_header(expected);
  if (!header || memcmp(header, expected, HEADER_SIZE) != 0)
    r->bad = 1;
  weft_reader_byte(r); /* how many upvalues the main function has, again */
}

/* ---- Instructions ---- */

typedef struct operands {
  int op, a, b, c, bx, sj;
} operands;

static operands unpack(uint32_t word) {
  return (operands){.op = word & 0x7f,
                    .a = word >> 7 & 0xff,
                    .b = word >> 16 & 0xff,
                    .c = word >> 24,
                    .bx = word >> 15,
                    .sj = (int)(word >> 7) - JUMP_BIAS};
}

static int between(int op, int first, int last) {
  return op >= first && op <= last;
}

static int changes_no_register(int op) {
  return op == OP_SETUPVAL || between(op, OP_SETTABUP, OP_SETFIELD) ||
         between(op, OP_MMBIN, OP_MMBINK) || between(op, OP_CLOSE, OP_TEST) ||
         between(op, OP_RETURN, OP_RETURN1) || op == OP_TFORPREP || op == OP_SETLIST ||
         op == OP_VARARGPREP || op == OP_EXTRAARG;
}

/* How many registers from R[A] on the instruction changes; never too few. */
static int changed_registers(operands o) {
  if (changes_no_register(o.op))
    return 0;
  if (o.op == OP_CALL || o.op == OP_TAILCALL || o.op == OP_VARARG || o.op == OP_TFORCALL)
    return WEFT_TO_FRAME_END;
  if (o.op == OP_FORLOOP || o.op == OP_FORPREP)
    return 4;
  if (o.op == OP_LOADNIL)
    return o.b + 1;
  if (o.op == OP_CONCAT)
    return o.b;
  return o.op == OP_SELF ? 2 : 1;
}

static void decode_changes(weft_ins *ins, operands o) {
  ins->first = (int16_t)o.a;
  ins->count = (int16_t)changed_registers(o);
  if (o.op == OP_TFORCALL)
    ins->first += 4;
  else if (o.op == OP_TFORLOOP)
    ins->first += 2;
}

/* What the instruction does with variables, fields and functions. */
static void decode_access(weft_ins *ins, operands o) {
  switch (o.op) {
  case OP_MOVE:
    weft_ins_read(ins, WEFT_INS_MOVE, o.a, o.b, -1);
    break;
  case OP_SELF: /* R[A+1] = R[B]; R[A] is a method, which is not followed */
    weft_ins_read(ins, WEFT_INS_MOVE, o.a + 1, o.b, -1);
    break;
  case OP_GETUPVAL:
    weft_ins_read(ins, WEFT_INS_GET_UPVALUE, o.a, o.b, -1);
    break;
  case OP_GETTABUP:
    weft_ins_read(ins, WEFT_INS_GET_UPVALUE_FIELD, o.a, o.b, o.c);
    break;
  case OP_GETTABLE:
  case OP_GETI:
    weft_ins_read(ins, WEFT_INS_GET_FIELD, o.a, o.b, -1);
    break;
  case OP_GETFIELD:
    weft_ins_read(ins, WEFT_INS_GET_FIELD, o.a, o.b, o.c);
    break;
  case OP_SETUPVAL:
    weft_ins_write(ins, WEFT_INS_SET_UPVALUE, o.b);
    break;
  case OP_SETTABUP:
    weft_ins_write(ins, WEFT_INS_SET_UPVALUE_FIELD, o.a);
    break;
  case OP_SETTABLE:
  case OP_SETI:
  case OP_SETFIELD:
    weft_ins_write(ins, WEFT_INS_SET_FIELD, o.a);
    break;
  case OP_CALL:
  case OP_TAILCALL:
    weft_ins_write(ins, WEFT_INS_CALL, o.a);
    ins->argument = (int16_t)(o.b == 1 ? -1 : o.a + 1);
    break;
  case OP_CLOSURE:
    weft_ins_read(ins, WEFT_INS_CLOSURE, -1, 0, o.bx);
    break;
  }
}

/* Where control goes: to the next instruction unless said otherwise. */
static void decode_flow(weft_ins *ins, operands o, int pc) {
  ins->flow = WEFT_FALLS;
  switch (o.op) {
  case OP_JMP:
    ins->flow = WEFT_JUMPS;
    ins->target = pc + 1 + o.sj;
    break;
  case OP_LFALSESKIP:
    ins->flow = WEFT_SKIPS;
    break;
  case OP_FORPREP:
    ins->flow |= WEFT_JUMPS;
    ins->target = pc + 2 + o.bx;
    break;
  case OP_TFORPREP:
    ins->flow = WEFT_JUMPS;
    ins->target = pc + 1 + o.bx;
    break;
  case OP_FORLOOP:
  case OP_TFORLOOP:
    ins->flow |= WEFT_JUMPS;
    ins->target = pc + 1 - o.bx;
    break;
  default:
    if (between(o.op, OP_EQ, OP_TESTSET))
      ins->flow |= WEFT_SKIPS;
    else if (between(o.op, OP_RETURN, OP_RETURN1))
      ins->flow = 0;
  }
}

/* 0: no instruction of this VM, or a jump out of the function. */
static int decode(weft_ins *ins, uint32_t word, int pc, int ncode) {
  operands o = unpack(word);
  *ins = (weft_ins){.result = -1, .argument = -1, .key = -1};
  decode_changes(ins, o);
  decode_access(ins, o);
  decode_flow(ins, o, pc);
  return o.op <= OP_EXTRAARG && ins->target >= 0 && ins->target < ncode;
}

static int next_line(const function_parts *parts, weft_reader *absolute, size_t pc, int line) {
  if (pc >= parts->ndeltas)
    return 0;
  if (parts->line_deltas[pc] != ABSOLUTE_LINE)
    return line + parts->line_deltas[pc];
  read_int(absolute);
  return read_int(absolute);
}

static void decode_code(weft_reader *r, weft_proto *proto, const function_parts *parts) {
  weft_reader absolute = {.at = parts->absolute_lines, .end = r->at};
  int line = parts->first_line;
  for (int pc = 0; pc < proto->ncode && !r->bad; pc++) {
    uint32_t word;
    memcpy(&word, parts->code + 4 * (size_t)pc, sizeof word);
    if (!decode(&proto->code[pc], word, pc, proto->ncode))
      r->bad = 1;
    line = next_line(parts, &absolute, (size_t)pc, line);
    proto->code[pc].line = line;
  }
}

/* ---- Which captured locals are assigned ---- */

static int changes_register(const weft_ins *ins, int reg) {
  return reg >= ins->first && reg < ins->first + ins->count;
}

/* The scope of the local that lives in `reg` at `pc`: registers are given in the order of
 * declaration. */
static const local_scope *scope_of(const function_parts *parts, int reg, int pc) {
  for (int i = 0; i < parts->nscopes && parts->scopes[i].begin <= pc; i++)
    if (pc < parts->scopes[i].end && reg-- == 0)
      return &parts->scopes[i];
  return NULL;
}

static int assigned_in_scope(const weft_proto *proto, const function_parts *parts, int reg,
                             int pc) {
  const local_scope *scope = scope_of(parts, reg, pc);
  if (!scope)
    return 1;
  for (int i = scope->begin; i < scope->end && i < proto->ncode; i++)
    if (changes_register(&proto->code[i], reg))
      return 1;
  return 0;
}

/* Notes which upvalues the function assigns, or one inside it does. Children come first, so that
 * the mark travels up to the function that declares the variable. */
static void mark_assigned_upvalues(weft_proto *proto) {
  for (int pc = 0; pc < proto->ncode; pc++) {
    const weft_ins *ins = &proto->code[pc];
    if (ins->kind == WEFT_INS_SET_UPVALUE && ins->source < proto->nupvalues)
      proto->upvalues[ins->source].assigned = 1;
  }
  for (int i = 0; i < proto->nchildren; i++) {
    const weft_proto *child = proto->children[i];
    for (int u = 0; u < child->nupvalues; u++) {
      const weft_upvalue *up = &child->upvalues[u];
      if (!up->from_local && up->assigned && up->index < proto->nupvalues)
        proto->upvalues[up->index].assigned = 1;
    }
  }
}

/* Notes which locals this function assigns itself while a child captures them. */
static void mark_assigned_locals(weft_proto *proto, const function_parts *parts) {
  for (int pc = 0; pc < proto->ncode; pc++) {
    const weft_ins *ins = &proto->code[pc];
    if (ins->kind != WEFT_INS_CLOSURE || ins->key >= proto->nchildren)
      continue;
    const weft_proto *child = proto->children[ins->key];
    for (int u = 0; u < child->nupvalues; u++) {
      weft_upvalue *up = &child->upvalues[u];
      if (up->from_local && !up->assigned)
        up->assigned = (uint8_t)assigned_in_scope(proto, parts, up->index, pc);
    }
  }
}

/* ---- The function, part by part, in the order of the dump ---- */

static void read_code(weft_reader *r, weft_proto *proto, function_parts *parts) {
  proto->ncode = read_int(r);
  proto->code = weft_reader_array(r, (size_t)proto->ncode, sizeof *proto->code);
  parts->code = weft_reader_take(r, 4 * (size_t)proto->ncode);
}

static void read_constants(weft_reader *r, weft_proto *proto) {
  proto->nnames = read_int(r);
  proto->names = weft_reader_array(r, (size_t)proto->nnames, sizeof *proto->names);
  for (int i = 0; i < proto->nnames && !r->bad; i++) {
    uint8_t type = weft_reader_byte(r);
    if (type == SHORT_STRING || type == LONG_STRING)
      proto->names[i] = read_string(r);
    else if (type == INTEGER)
      weft_reader_take(r, sizeof(lua_Integer));
    else if (type == FLOAT)
      weft_reader_take(r, sizeof(lua_Number));
  }
}

static void read_upvalues(weft_reader *r, weft_proto *proto) {
  proto->nupvalues = read_int(r);
  if (proto->nupvalues > UINT8_MAX)
    r->bad = 1;
  proto->upvalues = weft_reader_array(r, (size_t)proto->nupvalues, sizeof *proto->upvalues);
  proto->upvalue_list = weft_reader_take(r, UPVALUE_SIZE * (size_t)proto->nupvalues);
  for (int i = 0; i < proto->nupvalues && !r->bad; i++) {
    const uint8_t *entry = proto->upvalue_list + UPVALUE_SIZE * (size_t)i;
    proto->upvalues[i] = (weft_upvalue){.from_local = entry[0] != 0, .index = entry[1]};
  }
}

static void read_children(weft_reader *r, weft_proto *proto, int depth) {
  proto->nchildren = read_int(r);
  proto->children = weft_reader_array(r, (size_t)proto->nchildren, sizeof *proto->children);
  for (int i = 0; i < proto->nchildren && !r->bad; i++)
    proto->children[i] = read_function(r, depth + 1);
}

static void read_locals(weft_reader *r, function_parts *parts) {
  parts->nscopes = read_int(r);
  parts->scopes = weft_reader_array(r, (size_t)parts->nscopes, sizeof *parts->scopes);
  for (int i = 0; i < parts->nscopes && !r->bad; i++) {
    read_string(r);
    parts->scopes[i].begin = read_int(r);
    parts->scopes[i].end = read_int(r);
  }
}

static void read_debug(weft_reader *r, function_parts *parts) {
  parts->ndeltas = read_size(r);
  parts->line_deltas = (const int8_t *)weft_reader_take(r, parts->ndeltas);
  int nabsolute = read_int(r);
  parts->absolute_lines = r->at;
  for (int i = 0; i < nabsolute && !r->bad; i++) {
    read_int(r);
    read_int(r);
  }
  read_locals(r, parts);
  int nnames = read_int(r);
  for (int i = 0; i < nnames && !r->bad; i++)
    read_string(r);
}

static void read_parts(weft_reader *r, weft_proto *proto, int depth) {
  function_parts parts = {0};
  read_string(r); /* the source */
  parts.first_line = read_int(r);
  read_int(r);         /* the last line */
  weft_reader_byte(r); /* how many parameters */
  weft_reader_byte(r); /* whether it is vararg */
  proto->nregisters = weft_reader_byte(r);
  read_code(r, proto, &parts);
  read_constants(r, proto);
  read_upvalues(r, proto);
  read_children(r, proto, depth);
  read_debug(r, &parts);
  decode_code(r, proto, &parts);
  if (r->bad)
    return;
  mark_assigned_upvalues(proto);
  mark_assigned_locals(proto, &parts);
}

/* NULL when the reader is bad. */
static weft_proto *read_function(weft_reader *r, int depth) {
  weft_proto *proto = weft_reader_array(r, 1, sizeof *proto);
  if (depth > MAX_DEPTH)
    r->bad = 1;
  if (r->bad)
    return NULL;
  proto->begin = r->at;
  read_parts(r, proto, depth);
  proto->end = r->at;
  return r->bad ? NULL : proto;
}

/* ---- What the shared files call ---- */

int weft_dump_parse(weft_dump *dump, const uint8_t *bytes, size_t size) {
  *dump = (weft_dump){.bytes = bytes, .size = size};
  weft_reader r = {.at = bytes, .end = bytes + size, .arena = &dump->arena};
  read_header(&r);
  dump->main = read_function(&r, 0);
  return dump->main && r.at == r.end;
}

static void patch_upvalues(uint8_t *list, int count) {
  for (int i = 0; i < count; i++) {
    list[UPVALUE_SIZE * i] = 1; /* in the stack of the function around it */
    list[UPVALUE_SIZE * i + 1] = (uint8_t)i;
  }
}

int weft_dump_graft(const weft_dump *user, const weft_dump *frame, weft_buf *out) {
  const weft_proto *stub = frame->main->nchildren == 1 ? frame->main->children[0] : NULL;
  const weft_proto *main = user->main;
  if (!stub || stub->nupvalues != main->nupvalues)
    return 0;
  size_t head = (size_t)(stub->begin - frame->bytes);
  size_t tail = (size_t)(frame->bytes + frame->size - stub->end);
  if (weft_buf_append(out, frame->bytes, head) != WEFT_BUF_OK ||
      weft_buf_append(out, main->begin, (size_t)(main->end - main->begin)) != WEFT_BUF_OK ||
      weft_buf_append(out, stub->end, tail) != WEFT_BUF_OK)
    return 0;
  patch_upvalues(out->data + head + (main->upvalue_list - main->begin), main->nupvalues);
  return 1;
}

int weft_dump_write(lua_State *L, lua_Writer writer, void *data) {
  return lua_dump(L, writer, data, 0);
}

#else
typedef int weft_bytecode_54_unused;
#endif
