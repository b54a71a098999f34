/* bytecode.c: reading dumps within their bounds, splicing, and the proof that splicing works.
 *
 * Owns no state between calls. Enters on the thread of the Lua state it is given. Invariant: every
 * call into Lua that can raise runs inside run_protected, and the memory it fills belongs to a
 * struct outside of it, so nothing leaks when Lua raises.
 */
#include "bytecode.h"

#include <stddef.h>
#include <stdio.h>

#include "lauxlib.h"
#include "mem.h"

/* ---- Arena ---- */

enum { BLOCK_SIZE = 16 * 1024 - 64, ALIGNMENT = _Alignof(max_align_t) };

typedef struct weft_arena_block {
  struct weft_arena_block *next;
  size_t used, capacity;
  max_align_t bytes[];
} arena_block;

static arena_block *add_block(weft_arena *arena, size_t wanted) {
  size_t capacity = wanted > BLOCK_SIZE ? wanted : BLOCK_SIZE;
  arena_block *block = weft_malloc(sizeof *block + capacity);
  if (!block)
    return NULL;
  block->next = arena->blocks;
  block->used = 0;
  block->capacity = capacity;
  arena->blocks = block;
  return block;
}

void *weft_arena_alloc(weft_arena *arena, size_t count, size_t element_size) {
  if (element_size && count > SIZE_MAX / 2 / element_size)
    return NULL;
  size_t size = (count * element_size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  arena_block *block = arena->blocks;
  if (!block || block->capacity - block->used < size)
    block = add_block(arena, size);
  if (!block)
    return NULL;
  void *memory = (uint8_t *)block->bytes + block->used;
  block->used += size;
  return memset(memory, 0, size);
}

void weft_dump_free(weft_dump *dump) {
  arena_block *block = dump->arena.blocks;
  while (block) {
    arena_block *next = block->next;
    weft_free(block);
    block = next;
  }
  *dump = (weft_dump){0};
}

/* ---- Reader ---- */

const uint8_t *weft_reader_take(weft_reader *r, size_t size) {
  const uint8_t *bytes = r->at;
  if (r->bad || size > (size_t)(r->end - r->at)) {
    r->bad = 1;
    return NULL;
  }
  r->at += size;
  return bytes;
}

uint8_t weft_reader_byte(weft_reader *r) {
  const uint8_t *byte = weft_reader_take(r, 1);
  return byte ? *byte : 0;
}

void *weft_reader_array(weft_reader *r, size_t count, size_t element_size) {
  void *memory = NULL;
  if (!r->bad && count <= (size_t)(r->end - r->at))
    memory = weft_arena_alloc(r->arena, count, element_size);
  if (!memory)
    r->bad = 1;
  return memory;
}

/* ---- Calls into Lua ---- */

/* Runs `body` with `data` as its only argument. Returns 1 if it did not raise; the stack is left as
 * it was. */
static int run_protected(lua_State *L, lua_CFunction body, void *data) {
  int top = lua_gettop(L);
#if LUA_VERSION_NUM >= 504
  if (!lua_checkstack(L, 2))
    return 0;
  lua_pushcfunction(L, body);
  lua_pushlightuserdata(L, data);
  int status = lua_pcall(L, 1, 0, 0);
#else
  int status = lua_cpcall(L, body, data);
#endif
  lua_settop(L, top);
  return status == 0;
}

static int append_to_buf(lua_State *L, const void *bytes, size_t size, void *buf) {
  (void)L;
  return weft_buf_append(buf, bytes, size) != WEFT_BUF_OK;
}

static int load_chunk(lua_State *L, const char *text, size_t size, const char *mode) {
  return luaL_loadbufferx(L, text, size, "=?", mode) == 0;
}

/* ---- Splicing ---- */

/* The factory around a stub, which the user's function replaces. */
typedef struct factory_frame {
  weft_buf source, dump;
  int done;
} factory_frame;

static int append_text(weft_buf *buf, const char *text) {
  return weft_buf_append(buf, text, strlen(text)) == WEFT_BUF_OK;
}

static int append_names(weft_buf *buf, int count) {
  char name[16];
  for (int i = 1; i <= count; i++) {
    snprintf(name, sizeof name, i < count ? "u%d," : "u%d", i);
    if (!append_text(buf, name))
      return 0;
  }
  return 1;
}

/* The stub names every parameter, so that the factory closes each of them when it returns. */
static int write_frame_source(weft_buf *source, int nupvalues) {
  return append_text(source, "return function(") && append_names(source, nupvalues) &&
         append_text(source, ") return function() return ") && append_names(source, nupvalues) &&
         append_text(source, " end end");
}

static int compile_frame(lua_State *L) {
  factory_frame *frame = lua_touserdata(L, 1);
  if (!load_chunk(L, (const char *)frame->source.data, frame->source.size, "t"))
    return 0;
  lua_call(L, 0, 1);
  frame->done = weft_dump_write(L, append_to_buf, &frame->dump) == 0;
  return 0;
}

static int make_frame(lua_State *L, int nupvalues, factory_frame *frame) {
  return write_frame_source(&frame->source, nupvalues) && run_protected(L, compile_frame, frame) &&
         frame->done;
}

static int graft(const weft_buf *frame_bytes, const uint8_t *bytes, size_t size, int nupvalues,
                 weft_buf *out) {
  weft_dump user = {0}, frame = {0};
  int done = weft_dump_parse(&user, bytes, size) && user.main->nupvalues == nupvalues &&
             weft_dump_parse(&frame, frame_bytes->data, frame_bytes->size) &&
             weft_dump_graft(&user, &frame, out);
  weft_dump_free(&user);
  weft_dump_free(&frame);
  return done;
}

int weft_bytecode_splice(lua_State *L, const uint8_t *dump, size_t size, int nupvalues,
                         weft_buf *out) {
  factory_frame frame = {0};
  int done = nupvalues >= 0 && nupvalues <= WEFT_SPLICE_MAX_UPVALUES &&
             make_frame(L, nupvalues, &frame) && graft(&frame.dump, dump, size, nupvalues, out);
  weft_buf_free(&frame.source);
  weft_buf_free(&frame.dump);
  if (!done)
    weft_buf_free(out);
  return done;
}

/* ---- The self test ---- */

/* Each chunk returns a function. Its copies must have cells of their own, and must return, or
 * raise, exactly what the function does. The chunks use no library: a state may have none. */
static const char *const selftest_chunks[] = {
    "return function(a, b) return a + b, 1.5, 'text' end",
    "local k = 7\nreturn function(a) k = k + a return k end",
    "local a, b, c, d, e = 1, 2.5, 'three', true, nil\n"
    "return function(x) a = a + x e = e or c return a, b, c, d, e end",
    "local base, step = 10, 3\n"
    "return function(...)\n"
    "  local first, second = ...\n"
    "  local function add(n) base = base + n * step return function() return base, first end end\n"
    "  local inner = add(second)\n"
    "  return base, inner()\n"
    "end",
    "local k = 4\n"
    "return function(n)\n"
    "  local sum, list = 0, { 1, 2, 300, 1e100, -0.5, x = 'y', [true] = 2.25, [0] = {} }\n"
    "  for i = 1, #list do sum = sum + list[i] * k end\n"
    "  for i = n, 1, -1 do sum = sum - i / 8 end\n"
    "  while sum > 1e99 do sum = sum * 1e-10 end\n"
    "  if list.x == 'y' then sum = sum + list[true] + 123456789012 end\n"
    "  return sum, list.x .. k\n"
    "end",
    "local t\nreturn function(a)\n  local b = a\n\n  return b, t.field\nend",
    "return function()\n  local function deep()\n    return missing_global.field\n  end\n"
    "  return deep() + 1\nend",
#if LUA_VERSION_NUM >= 504
    "local k <const>, v = 5, 6\n"
    "return function(a)\n"
    "  local c <const> = 8\n"
    "  local guard <close> = nil\n"
    "  goto done\n"
    "  ::done::\n"
    "  return a // 2 + k + v + c, a << 3 | 1, 0x7fffffffffffffff\n"
    "end",
#endif
};

enum { FIRST_SENTINEL = 10000, SECOND_SENTINEL = 20000, SELFTEST_STACK = 400 };

typedef struct selftest {
  weft_buf source, dump, factory;
  int passed;
} selftest;

static int count_upvalues(lua_State *L, int function) {
  int count = 0;
  while (lua_getupvalue(L, function, count + 1)) {
    lua_pop(L, 1);
    count++;
  }
  return count;
}

/* Pushes the factory of the function at index `function`. */
static int push_factory(lua_State *L, selftest *test, int function) {
  test->dump.size = test->factory.size = 0;
  lua_pushvalue(L, function);
  int dumped = weft_dump_write(L, append_to_buf, &test->dump) == 0;
  lua_pop(L, 1);
  return dumped &&
         weft_bytecode_splice(L, test->dump.data, test->dump.size, count_upvalues(L, function),
                              &test->factory) &&
         load_chunk(L, (const char *)test->factory.data, test->factory.size, "b");
}

/* Pushes a copy whose i-th upvalue is sentinel + i. */
static void push_marked_copy(lua_State *L, int factory, int nupvalues, int sentinel) {
  lua_pushvalue(L, factory);
  for (int i = 1; i <= nupvalues; i++)
    lua_pushinteger(L, sentinel + i);
  lua_call(L, nupvalues, 1);
}

/* Pushes a copy with the values that the original holds. */
static void push_twin(lua_State *L, int original, int factory, int nupvalues) {
  lua_pushvalue(L, factory);
  for (int i = 1; i <= nupvalues; i++)
    lua_getupvalue(L, original, i);
  lua_call(L, nupvalues, 1);
}

static int holds_sentinels(lua_State *L, int copy, int nupvalues, int sentinel) {
  int held = count_upvalues(L, copy) == nupvalues;
  for (int i = 1; held && i <= nupvalues; i++) {
    lua_getupvalue(L, copy, i);
    held = lua_tointeger(L, -1) == sentinel + i;
    lua_pop(L, 1);
  }
  return held;
}

static int cells_differ(lua_State *L, int a, int b, int nupvalues) {
  for (int i = 1; i <= nupvalues; i++)
    if (lua_upvalueid(L, a, i) == lua_upvalueid(L, b, i))
      return 0;
  return 1;
}

static int has_own_cells(lua_State *L, int factory, int nupvalues) {
  push_marked_copy(L, factory, nupvalues, FIRST_SENTINEL);
  push_marked_copy(L, factory, nupvalues, SECOND_SENTINEL);
  int first = lua_gettop(L) - 1, second = first + 1;
  int own = holds_sentinels(L, first, nupvalues, FIRST_SENTINEL) &&
            holds_sentinels(L, second, nupvalues, SECOND_SENTINEL) &&
            cells_differ(L, first, second, nupvalues);
  lua_settop(L, first - 1);
  return own;
}

/* Calls the function at `index` with 3 and 4; pushes its results, or its error message. */
static int call_with_numbers(lua_State *L, int index) {
  lua_pushvalue(L, index);
  lua_pushinteger(L, 3);
  lua_pushinteger(L, 4);
  return lua_pcall(L, 2, LUA_MULTRET, 0);
}

/* Compares twice, because the functions count in their upvalues. */
static int behave_alike(lua_State *L, int original, int twin) {
  int alike = 1;
  for (int round = 0; alike && round < 2; round++) {
    int top = lua_gettop(L);
    int status = call_with_numbers(L, original);
    int count = lua_gettop(L) - top;
    alike = call_with_numbers(L, twin) == status && lua_gettop(L) == top + 2 * count;
    for (int i = 1; alike && i <= count; i++)
      alike = lua_rawequal(L, top + i, top + count + i);
    lua_settop(L, top);
  }
  return alike;
}

static int check_chunk(lua_State *L, selftest *test, const char *text, size_t size) {
  int original = lua_gettop(L) + 1, factory = original + 1;
  if (luaL_loadbufferx(L, text, size, "=selftest", "t") != 0)
    return 0;
  lua_call(L, 0, 1);
  if (!push_factory(L, test, original))
    return 0;
  int nupvalues = count_upvalues(L, original);
  push_twin(L, original, factory, nupvalues);
  int passed = has_own_cells(L, factory, nupvalues) && behave_alike(L, original, factory + 1);
  lua_settop(L, original - 1);
  return passed;
}

static int append_values(weft_buf *buf, int count) {
  char value[16];
  for (int i = 1; i <= count; i++) {
    snprintf(value, sizeof value, i < count ? "%d," : "%d", i);
    if (!append_text(buf, value))
      return 0;
  }
  return 1;
}

/* A function of `count` upvalues, which are captured once more by a function inside it. */
static int check_many_upvalues(lua_State *L, selftest *test, int count) {
  weft_buf *source = &test->source;
  source->size = 0;
  return append_text(source, "local ") && append_names(source, count) &&
         append_text(source, " = ") && append_values(source, count) &&
         append_text(source, " return function(...) u1 = u1 + ...\n"
                             "local function inner() return ") &&
         append_names(source, count) && append_text(source, " end return inner() end") &&
         check_chunk(L, test, (const char *)source->data, source->size);
}

static int run_selftest(lua_State *L) {
  selftest *test = lua_touserdata(L, 1);
  luaL_checkstack(L, SELFTEST_STACK, "self test");
  int passed = 1;
  for (size_t i = 0; passed && i < sizeof selftest_chunks / sizeof *selftest_chunks; i++)
    passed = check_chunk(L, test, selftest_chunks[i], strlen(selftest_chunks[i]));
  test->passed = passed && check_many_upvalues(L, test, 1) && check_many_upvalues(L, test, 5) &&
                 check_many_upvalues(L, test, 60);
  return 0;
}

int weft_bytecode_selftest(lua_State *L) {
  selftest test = {0};
  int ran = run_protected(L, run_selftest, &test);
  weft_buf_free(&test.source);
  weft_buf_free(&test.dump);
  weft_buf_free(&test.factory);
  return ran && test.passed;
}
