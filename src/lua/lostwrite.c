/* lostwrite.c: finds writes to captured values, which a task makes to its own copies.
 *
 * Owns the state of one scan, which lives in the arena of the parsed dump. Any thread enters. A
 * forward data-flow analysis follows captured values through registers; where paths meet, a value
 * survives only if it is the same on all of them. Invariant: a register is tagged with a captured
 * value only if it holds that value, or a table reached through it, on every path. So the scan may
 * miss a write; it does not take another table for a captured one.
 */
#include "bytecode.h"

#include <stdio.h>

/* What a register or an upvalue is known to hold; from 0 on: the capture of that index, or a value
 * read out of it. */
enum { UNKNOWN = -1, ENVIRONMENT = -2, TABLE_LIBRARY = -3, MUTATOR = -4 };

enum { MAX_DEPTH = 200, REGISTER_INDICES = 256 };

typedef int16_t tag;

/* An upvalue of the function under scan: the captured variable that it is, and what it holds. */
typedef struct binding {
  int16_t variable; /* -1: not a captured variable */
  tag value;
} binding;

typedef struct scan {
  const weft_capture *captures;
  weft_lost_write *out;
  weft_arena *arena;
  int depth; /* of nested functions */
  int found, out_of_memory;
} scan;

/* The analysis of one function. */
typedef struct flow {
  const weft_proto *proto;
  const binding *upvalues;
  uint8_t *shared;  /* registers that a closure captures and that are assigned later: not tracked */
  tag *now;         /* the registers before the current instruction */
  tag *joins;       /* a row of registers for each instruction that can be jumped to */
  int32_t *row_of;  /* 1 + the row of the instruction; 0: none */
  uint8_t *reached; /* by row: whether a path has led there */
  int reachable;    /* whether a path leads to the current instruction */
} flow;

static void scan_function(scan *s, weft_proto *proto, const binding *upvalues);

static void *allocate(scan *s, size_t count, size_t size) {
  void *memory = weft_arena_alloc(s->arena, count, size);
  if (!memory)
    s->out_of_memory = 1;
  return memory;
}

/* ---- Values ---- */

static int is_name(const weft_name *name, const char *text) {
  return name && name->text && name->size == strlen(text) &&
         memcmp(name->text, text, name->size) == 0;
}

static const weft_name *name_of(const weft_proto *proto, int32_t key) {
  return key >= 0 && key < proto->nnames ? &proto->names[key] : NULL;
}

static tag field_of(tag table, const weft_name *name) {
  if (table >= 0)
    return table;
  if (table == ENVIRONMENT) {
    if (is_name(name, "table"))
      return TABLE_LIBRARY;
    return is_name(name, "rawset") || is_name(name, "setmetatable") ? MUTATOR : UNKNOWN;
  }
  if (table == TABLE_LIBRARY)
    return is_name(name, "insert") || is_name(name, "remove") || is_name(name, "sort") ? MUTATOR
                                                                                       : UNKNOWN;
  return UNKNOWN;
}

static tag load(const flow *f, int reg) {
  return reg >= 0 && reg < f->proto->nregisters ? f->now[reg] : UNKNOWN;
}

static binding upvalue(const flow *f, int index) {
  if (index >= 0 && index < f->proto->nupvalues)
    return f->upvalues[index];
  return (binding){.variable = -1, .value = UNKNOWN};
}

/* What the instruction leaves in its result register. */
static tag result_of(const flow *f, const weft_ins *ins) {
  const weft_name *name = name_of(f->proto, ins->key);
  switch (ins->kind) {
  case WEFT_INS_MOVE:
    return load(f, ins->source);
  case WEFT_INS_GET_UPVALUE:
    return upvalue(f, ins->source).value;
  case WEFT_INS_GET_GLOBAL:
    return field_of(ENVIRONMENT, name);
  case WEFT_INS_GET_FIELD:
    return field_of(load(f, ins->source), name);
  case WEFT_INS_GET_UPVALUE_FIELD:
    return field_of(upvalue(f, ins->source).value, name);
  default:
    return UNKNOWN;
  }
}

static void execute(flow *f, const weft_ins *ins) {
  int nregisters = f->proto->nregisters;
  tag value = result_of(f, ins);
  for (int reg = ins->first; reg < ins->first + ins->count && reg < nregisters; reg++)
    f->now[reg] = UNKNOWN;
  if (ins->result >= 0 && ins->result < nregisters && !f->shared[ins->result])
    f->now[ins->result] = value;
}

/* ---- Reports ---- */

static void report(scan *s, int capture, int kind, int line) {
  if (capture < 0 || (s->found && s->out->line <= line))
    return;
  s->found = 1;
  s->out->line = line;
  s->out->kind = kind;
  const char *name = s->captures[capture].name;
  snprintf(s->out->name, sizeof s->out->name, "%s", name ? name : "?");
}

static void report_writes(scan *s, const flow *f, const weft_ins *ins) {
  switch (ins->kind) {
  case WEFT_INS_SET_UPVALUE:
    report(s, upvalue(f, ins->source).variable, WEFT_WRITE_LOCAL, ins->line);
    break;
  case WEFT_INS_SET_FIELD:
    report(s, load(f, ins->source), WEFT_WRITE_TABLE, ins->line);
    break;
  case WEFT_INS_SET_UPVALUE_FIELD:
    report(s, upvalue(f, ins->source).value, WEFT_WRITE_TABLE, ins->line);
    break;
  case WEFT_INS_CALL:
    if (load(f, ins->source) == MUTATOR)
      report(s, load(f, ins->argument), WEFT_WRITE_LIBRARY, ins->line);
    break;
  }
}

/* ---- Closures ---- */

static weft_proto *child_of(const weft_proto *proto, const weft_ins *ins) {
  if (ins->kind != WEFT_INS_CLOSURE || ins->key < 0 || ins->key >= proto->nchildren)
    return NULL;
  return proto->children[ins->key];
}

/* A local that is tracked keeps its value until the closure runs: find_shared has taken out those
 * that are assigned after their declaration. */
static binding bind(const flow *f, const weft_upvalue *up) {
  if (!up->from_local)
    return upvalue(f, up->index);
  return (binding){.variable = -1, .value = load(f, up->index)};
}

static void scan_closure(scan *s, const flow *f, const weft_ins *ins) {
  weft_proto *child = child_of(f->proto, ins);
  if (!child || child->scanned || s->depth == MAX_DEPTH)
    return;
  binding *upvalues = allocate(s, (size_t)child->nupvalues, sizeof *upvalues);
  if (!upvalues)
    return;
  for (int i = 0; i < child->nupvalues; i++)
    upvalues[i] = bind(f, &child->upvalues[i]);
  child->scanned = 1; /* each function is instantiated in one place */
  s->depth++;
  scan_function(s, child, upvalues);
  s->depth--;
}

/* A local that is captured and assigned may change at any call, and between calls of the closure.
 */
static void find_shared(flow *f) {
  for (int pc = 0; pc < f->proto->ncode; pc++) {
    const weft_proto *child = child_of(f->proto, &f->proto->code[pc]);
    for (int i = 0; child && i < child->nupvalues; i++)
      if (child->upvalues[i].from_local && child->upvalues[i].assigned)
        f->shared[child->upvalues[i].index] = 1;
  }
}

/* ---- Control flow ---- */

static tag *row(const flow *f, int pc) {
  return f->joins + (size_t)(f->row_of[pc] - 1) * (size_t)f->proto->nregisters;
}

/* Joins the registers of the current path into the row of `pc`. Returns 1 when the row changed. */
static int join(flow *f, int pc) {
  size_t count = (size_t)f->proto->nregisters;
  tag *known = row(f, pc);
  uint8_t *reached = &f->reached[f->row_of[pc] - 1];
  int changed = !*reached;
  if (changed)
    memcpy(known, f->now, count * sizeof *known);
  for (size_t reg = 0; *reached && reg < count; reg++) {
    if (known[reg] != f->now[reg] && known[reg] != UNKNOWN) {
      known[reg] = UNKNOWN;
      changed = 1;
    }
  }
  *reached = 1;
  return changed;
}

static void arrive(flow *f, int pc) {
  if (!f->row_of[pc])
    return;
  if (f->reachable)
    join(f, pc);
  f->reachable = f->reached[f->row_of[pc] - 1];
  memcpy(f->now, row(f, pc), (size_t)f->proto->nregisters * sizeof *f->now);
}

/* Returns 1 when an instruction that this sweep has passed must be looked at again. */
static int leave(flow *f, int pc, const weft_ins *ins) {
  int again = 0;
  if (ins->flow & WEFT_JUMPS)
    again = join(f, ins->target) && ins->target <= pc;
  if ((ins->flow & WEFT_SKIPS) && pc + 2 < f->proto->ncode)
    join(f, pc + 2);
  f->reachable = ins->flow & WEFT_FALLS;
  return again;
}

/* Goes through the code once, in order; with a scan it also reports. Returns 1 when another sweep
 * is needed. */
static int sweep(flow *f, scan *s) {
  int again = 0;
  f->reachable = 1;
  for (int reg = 0; reg < f->proto->nregisters; reg++)
    f->now[reg] = UNKNOWN;
  for (int pc = 0; pc < f->proto->ncode; pc++) {
    const weft_ins *ins = &f->proto->code[pc];
    arrive(f, pc);
    if (!f->reachable)
      continue;
    if (s) {
      report_writes(s, f, ins);
      scan_closure(s, f, ins);
    }
    execute(f, ins);
    again |= leave(f, pc, ins);
  }
  return again;
}

static int number_joins(flow *f) {
  int rows = 0;
  for (int pc = 0; pc < f->proto->ncode; pc++) {
    const weft_ins *ins = &f->proto->code[pc];
    if ((ins->flow & WEFT_JUMPS) && !f->row_of[ins->target])
      f->row_of[ins->target] = ++rows;
    if ((ins->flow & WEFT_SKIPS) && pc + 2 < f->proto->ncode && !f->row_of[pc + 2])
      f->row_of[pc + 2] = ++rows;
  }
  return rows;
}

static int flow_open(flow *f, scan *s) {
  size_t nregisters = (size_t)f->proto->nregisters;
  f->shared = allocate(s, REGISTER_INDICES, 1);
  f->now = allocate(s, nregisters, sizeof *f->now);
  f->row_of = allocate(s, (size_t)f->proto->ncode, sizeof *f->row_of);
  if (s->out_of_memory)
    return 0;
  size_t rows = (size_t)number_joins(f);
  f->joins = allocate(s, rows * nregisters, sizeof *f->joins);
  f->reached = allocate(s, rows, 1);
  return !s->out_of_memory;
}

/* Each sweep can only lower registers to UNKNOWN, so the sweeps come to an end. */
static void scan_function(scan *s, weft_proto *proto, const binding *upvalues) {
  flow f = {.proto = proto, .upvalues = upvalues};
  if (!flow_open(&f, s))
    return;
  find_shared(&f);
  while (sweep(&f, NULL))
    ;
  sweep(&f, s);
}

/* ---- The captured variables ---- */

/* A captured value by the name of `table` that is no table copy is the library kept in a local. */
static binding bind_capture(const weft_capture *capture, int index) {
  if (capture->is_env)
    return (binding){.variable = -1, .value = ENVIRONMENT};
  tag value = UNKNOWN;
  if (capture->is_table_copy)
    value = (tag)index;
  else if (capture->name && strcmp(capture->name, "table") == 0)
    value = TABLE_LIBRARY;
  return (binding){.variable = (int16_t)index, .value = value};
}

static int scan_dump(weft_dump *dump, const weft_capture *captures, weft_lost_write *out) {
  scan s = {.captures = captures, .out = out, .arena = &dump->arena};
  binding *upvalues = allocate(&s, (size_t)dump->main->nupvalues, sizeof *upvalues);
  if (!upvalues)
    return 0;
  for (int i = 0; i < dump->main->nupvalues; i++)
    upvalues[i] = bind_capture(&captures[i], i);
  scan_function(&s, dump->main, upvalues);
  return s.found && !s.out_of_memory;
}

int weft_bytecode_lost_write(const uint8_t *bytes, size_t size, const weft_capture *captures,
                             int ncaptures, weft_lost_write *out) {
  weft_dump dump;
  int found = 0;
  if (weft_dump_parse(&dump, bytes, size) && dump.main->nupvalues == ncaptures)
    found = scan_dump(&dump, captures, out);
  weft_dump_free(&dump);
  return found;
}
