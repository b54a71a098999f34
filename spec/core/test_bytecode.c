/* test_bytecode.c: the splice, the lost-write scan, and what both do with damaged dumps.
 *
 * One thread; owns a Lua state for each snippet. Build it once for each VM. Prints "ok N" or
 * "not ok N" with the reason, ends with the totals, and fails when one test fails. With the
 * argument "bench" it prints timings instead.
 */
#include "bytecode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lauxlib.h"
#include "lualib.h"
#include "mem.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { MAX_CAPTURES = 255, FLIPS = 4000 };

static int passed, failed;

static void check(int ok, const char *what) {
  if (ok)
    printf("ok %d\n", ++passed + failed);
  else
    printf("not ok %d: %s\n", passed + ++failed, what);
}

/* ---- A snippet: a chunk that returns the task's function ---- */

typedef struct task {
  lua_State *L;
  weft_buf dump;
  weft_capture captures[MAX_CAPTURES];
  int ncaptures;
} task;

static int append(lua_State *L, const void *bytes, size_t size, void *buf) {
  (void)L;
  return weft_buf_append(buf, bytes, size) != WEFT_BUF_OK;
}

/* Whether the value on the top is one of the loaded modules. */
static int is_module(lua_State *L) {
  int value = lua_gettop(L), found = 0;
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  for (lua_pushnil(L); !found && lua_next(L, value + 1);) {
    found = lua_rawequal(L, -1, value);
    lua_pop(L, 1);
  }
  lua_settop(L, value);
  return found;
}

static void describe_captures(task *t) {
  const char *name;
  while ((name = lua_getupvalue(t->L, 1, t->ncaptures + 1)) != NULL) {
    t->captures[t->ncaptures++] =
        (weft_capture){.name = name,
                       .is_env = strcmp(name, "_ENV") == 0,
                       .is_table_copy = lua_istable(t->L, -1) && !is_module(t->L)};
    lua_pop(t->L, 1);
  }
}

static void open_task(task *t, const char *source) {
  *t = (task){.L = luaL_newstate()};
  luaL_openlibs(t->L);
  if (luaL_loadbuffer(t->L, source, strlen(source), "=task") || lua_pcall(t->L, 0, 1, 0)) {
    fprintf(stderr, "%s\n%s\n", source, lua_tostring(t->L, -1));
    exit(2);
  }
  lua_settop(t->L, 1);
  weft_dump_write(t->L, append, &t->dump);
  describe_captures(t);
}

static void close_task(task *t) {
  weft_buf_free(&t->dump);
  lua_close(t->L);
}

static int scan_task(const task *t, weft_lost_write *out) {
  return weft_bytecode_lost_write(t->dump.data, t->dump.size, t->captures, t->ncaptures, out);
}

/* ---- Lost writes ---- */

enum { LOCAL = WEFT_WRITE_LOCAL, TABLE = WEFT_WRITE_TABLE, LIBRARY = WEFT_WRITE_LIBRARY };

/* One chunk a row: the alarm that it must give. */
typedef struct expectation {
  int kind, line;
  const char *name; /* NULL: any */
  const char *source;
} expectation;

static const expectation alarms[] = {
    /* assignments of captured variables */
    {LOCAL, 1, "n", "local n=0 return function() n=n+1 end"},
    {LOCAL, 4, "n", "local n=0\nreturn function()\n\n  n = nil\nend"},
    {LOCAL, 3, "s", "local s\nreturn function()\n  s = 'text'\nend"},
    {LOCAL, 3, "s", "local s\nreturn function()\n  s = 12\nend"},
    {LOCAL, 4, "n",
     "local n=0\nreturn function()\n  for i=1,3 do\n    (function() n=n+i end)()\n  end\nend"},
    {LOCAL, 3, "f", "local f\nreturn function()\n  f = function() end\nend"},
    {LOCAL, 5, NULL, "local a,b=1,2\nreturn function()\n  local c=a\n  c=c+1\n  a,b=b,a\nend"},
    {LOCAL, 3, "ch", "local ch=print\nreturn function()\n  ch=nil\nend"},

    /* writes into captured tables */
    {TABLE, 3, "r", "local r={}\nreturn function(ctx)\n  r[1]=2\nend"},
    {TABLE, 3, "r", "local r={}\nreturn function(ctx,i)\n  r[i]=i*2\nend"},
    {TABLE, 1, "r", "local r={} return function() r.x=1 end"},
    {TABLE, 3, "r", "local r={a={}}\nreturn function()\n  r.a.b=1\nend"},
    {TABLE, 3, "r", "local r={a={b={}}}\nreturn function(i)\n  r.a[i].b.c=1\nend"},
    {TABLE, 3, "r", "local r={}\nreturn function()\n  r[#r+1]=5\nend"},
    {TABLE, 3, "r", "local r={}\nreturn function()\n  r[300]=5\nend"},
    {TABLE, 3, "r", "local r={}\nreturn function()\n  r[1.5]=true\nend"},
    {TABLE, 4, "r", "local r={}\nreturn function()\n  local q=r\n  q.x=1\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function()\n  local q=r\n  local p=q\n  p[1],p[2]=1,2\nend"},
    {TABLE, 4, "r", "local r={a={}}\nreturn function()\n  local q=r.a\n  q.x=1\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function(n)\n  local q=r\n  for i=1,n do\n    q[i]=i\n  end\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function(n)\n  local q=r\n  for k,v in pairs(n) do\n    q[k]=v\n  end\n"
     "end"},
    {TABLE, 4, "r", "local r={}\nreturn function(n)\n  while n>0 do n=n-1\n    r[n]=n\n  end\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function(c)\n  local q\n  if c then q=r else q=r end\n  q.x=1\nend"},
    {TABLE, 4, "r", "local r={}\nreturn function(c)\n  if c then\n    r.x=1\n  end\nend"},
    {TABLE, 4, "r",
     "local r={}\nreturn function()\n  local function add(v)\n    r[#r+1]=v\n  end\n  add(1)\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function()\n  local q=r\n  local function add(v)\n    q[#q+1]=v\n  end\n"
     "  add(1)\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function()\n  local q=r\n  return function() return function()\n"
     "    q.x=1\n  end end\nend"},
    {TABLE, 5, "r",
     "local r={}\nreturn function(c)\n  if c then\n    local q=r\n    c(function() q.x=1 end)\n"
     "  end\n  local z={} z.a=1\nend"},
    {TABLE, 3, "b", "local a,b={},{}\nreturn function()\n  b.x=1\n  a.x=2\nend"},
    {TABLE, 4, "r", "local r={}\nreturn function()\n  local z={} z.x=r\n  r.y=function() end\nend"},
    {TABLE, 3, "r", "local r={n=0}\nreturn function()\n  r.n=r.n+1\nend"},
    {TABLE, 3, "r", "local r={}\nreturn function()\n  function r.add() end\nend"},
    {TABLE, 4, "r", "local r={}\nreturn function()\n  ::top::\n  r.x=1\n  goto top\nend"},

    /* library functions */
    {LIBRARY, 3, "r", "local r={}\nreturn function(_,v)\n  table.insert(r,v)\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function(_,v)\n  table.insert(r,1,(v()))\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function(_,v)\n  table.insert(r,v())\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function()\n  table.sort(r)\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function()\n  return table.remove(r)\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function()\n  rawset(r,1,2)\nend"},
    {LIBRARY, 3, "r", "local r={}\nreturn function()\n  return setmetatable(r,{})\nend"},
    {LIBRARY, 5, "r",
     "local r={q={}}\nreturn function()\n  local insert=table.insert\n  for i=1,3 do\n"
     "    insert(r.q,i)\n  end\nend"},
    {LIBRARY, 3, "r", "local table=table local r={}\nreturn function()\n  table.insert(r,1)\nend"},

    /* nested functions and what surrounds them */
    {TABLE, 6, "r",
     "local r={}\nreturn function(c)\n  local a,b,q=1,2,r\n  for i=a,b do\n"
     "    local z=c\n    z(function() q[i]=z end)\n  end\nend"},
    {LOCAL, 3, "n", "local n=0\nreturn function()\n  local t={} t.f=function() n=1 end\nend"},
};

/* Chunks that must give no alarm. */
static const char *const harmless[] = {
    /* reads */
    "local r={1,2} return function() local s=0 for i,v in ipairs(r) do s=s+v end return s end",
    "local r={1,2} return function() local t={} t[1]=r[1] t.x=#r return t end",
    "local k=3 return function() local k2=k k2=k2+1 return k2 end",
    "local fmt=string.format return function(c,x) local o={} for i=1,3 do o[#o+1]=fmt('%d',i) "
    "end table.sort(o) return table.concat(o) end",
    "local function fact(n) if n<2 then return 1 end return n*fact(n-1) end return fact",
    "local cfg={a=1} return function() local c={} for k,v in pairs(cfg) do c[k]=v end c.a=2 "
    "return c end",
    "local t={ch={}} return function() t.ch:send(1) return t.ch.size end",
    "local t={f=print} return function() local x=t.f() x.y=1 t:m().z=2 end",
    "local r={} return function() local q={r} q[1]=2 return {r=r}, next(r), #r, r==q end",
    "local r={} return function() return table.concat(r), table.unpack, select('#', r) end",
    "local C={} C.__index=C return function() local o=setmetatable({},C) o.x=1 return o end",
    "local r={} return function() local o={} table.insert(o,r) rawset(o,r,r) end",
    "local r={} return function() local table={insert=print} table.insert(r,1) end",

    /* globals and modules */
    "return function() glob=1 glob2={} glob2.x=1 end",
    "local r={} return function() glob=r end",
    "local m=string return function() m.helper=function() end end",

    /* the task's own variables */
    "return function() local n=0 local function up() n=n+1 end up() return n end",
    "local r={} return function() local n,t=0,{} local function up() n=n+#r t[n]=r t=nil end "
    "up() end",
    "local r={} return function(r) r.x=1 end",
    "local r={} return function() local r={} r.x=1 end",
    "local r={} return function(...) local q,p=... q.x=r p.x=r end",

    /* paths that meet */
    "local t={} return function(cond) local r=cond and t or {} r.x=1 end",
    "local t={} return function(cond) local r=cond or t r.x=1 end",
    "local t={} return function(c) local q=t if c then q={} end q.x=1 end",
    "local t={} return function(c) local q if c then q=t else q={} end q.x=1 end",
    "local t={} return function(c) local q={} for i=1,3 do q.x=1 if c then q=t end end end",
    "local t={} return function(n) local q=t while n do q={} break end q.x=1 end",
    "local t={} return function(n) local q=t while n() do q={} end q.x=1 end",
    "local t={} return function(n) local q=t repeat q={} until n() q.x=1 end",
    "local t={} return function(n) local q=t goto skip ::again:: q.x=1 do return end ::skip:: "
    "q={} goto again end",
    "local t={} return function(n) local q=t for k,v in pairs(n) do q=v q.x=1 end end",
    "local t={} return function(c) local q=t.cache or {} q.x=1 q=t.cache if not q then q={} end "
    "q.y=1 end",
    "local t={} return function(c) local a,b=t,{} for i=1,2 do b.x=1 a,b=b,a b={} end end",

    /* locals that closures assign */
    "local t={} return function() local q=t local function set() q={} end set() q.x=1 end",
    "local t={} return function() local q=t local function set() q.x=1 end q={} set() end",
    "local t={} return function() local q=t local function set() return function() q={} end end "
    "set()() q.x=1 end",
    "local t={} return function() local q=t local function w() q.x=1 end local function set() "
    "q={} end set() w() end",
    "local t={} return function(c) local q=t local function w() q.x=1 end if c then q=c end w() "
    "end",
};

static int same_name(const char *expected, const char *name) {
  return !expected || strcmp(expected, name) == 0;
}

static int as_expected(const expectation *e, int found, const weft_lost_write *lost) {
  if (e->kind == 0)
    return !found;
  return found && lost->kind == e->kind && lost->line == e->line && same_name(e->name, lost->name);
}

static void test_expectation(const expectation *e) {
  task t;
  weft_lost_write lost = {0};
  char what[1024];
  open_task(&t, e->source);
  int found = scan_task(&t, &lost);
  snprintf(what, sizeof what, "found %d: line %d kind %d name '%s' in\n%s", found, lost.line,
           lost.kind, lost.name, e->source);
  check(as_expected(e, found, &lost), what);
  close_task(&t);
}

static void test_scan(void) {
  for (size_t i = 0; i < COUNT(alarms); i++)
    test_expectation(&alarms[i]);
  for (size_t i = 0; i < COUNT(harmless); i++)
    test_expectation(&(expectation){.source = harmless[i]});
}

/* `write` at the end of a function with `count` constants and `count` lines before it. */
static void test_long_function(int count, const char *write) {
  weft_buf source = {0};
  char text[96];
  snprintf(text, sizeof text, "local r={} return function(c) local q={}\n");
  weft_buf_append(&source, text, strlen(text));
  for (int i = 0; i < count; i++) {
    snprintf(text, sizeof text, "q.field%d = c.other%d\n", i, i);
    weft_buf_append(&source, text, strlen(text));
  }
  snprintf(text, sizeof text, "%s end", write);
  weft_buf_append(&source, text, strlen(text) + 1);
  expectation e = {TABLE, count + 2, "r", (const char *)source.data};
  test_expectation(&e);
  weft_buf_free(&source);
}

/* A call that spans more lines than a one-byte line delta holds. */
static void test_distant_lines(void) {
  weft_buf source = {0};
  const char *head = "local r={} return function(c)", *write = "r.x=1 c() end";
  weft_buf_append(&source, head, strlen(head));
  for (int i = 0; i < 700; i++)
    weft_buf_putc(&source, '\n');
  weft_buf_append(&source, write, strlen(write) + 1);
  expectation e = {TABLE, 701, "r", (const char *)source.data};
  test_expectation(&e);
  weft_buf_free(&source);
}

static void test_wrong_captures(void) {
  task t;
  weft_lost_write lost;
  open_task(&t, "local r={} return function() r.x=1 end");
  check(!weft_bytecode_lost_write(t.dump.data, t.dump.size, t.captures, 0, &lost),
        "captures that do not match the dump are refused");
  t.captures[0].name = "a_name_that_is_longer_than_sixty_three_bytes_and_so_must_be_cut_to_fit";
  check(scan_task(&t, &lost) && strlen(lost.name) == WEFT_LOST_NAME_SIZE - 1, "a long name is cut");
  t.captures[0].name = NULL;
  check(scan_task(&t, &lost) && strcmp(lost.name, "?") == 0, "a missing name is allowed");
  close_task(&t);
}

/* ---- Splicing ---- */

static int splice_task(task *t, int nupvalues, weft_buf *out) {
  int top = lua_gettop(t->L);
  int done = weft_bytecode_splice(t->L, t->dump.data, t->dump.size, nupvalues, out);
  check(lua_gettop(t->L) == top, "the stack is left as it was");
  return done;
}

static void test_splice_runs(void) {
  task t;
  weft_buf out = {0};
  open_task(&t, "local a,b=1,2 return function(x) a=a+x return a*100+b end");
  check(splice_task(&t, t.ncaptures, &out), "splices");
  check(luaL_loadbufferx(t.L, (const char *)out.data, out.size, "=x", "b") == 0, "loads");
  for (int i = 1; i <= 2; i++) {
    lua_pushvalue(t.L, -1);
    lua_pushinteger(t.L, 10 * i);
    lua_pushinteger(t.L, 7);
    lua_call(t.L, 2, 1);
    lua_pushinteger(t.L, 1);
    lua_call(t.L, 1, 1);
    check(lua_tointeger(t.L, -1) == (10 * i + 1) * 100 + 7, "each copy has its own values");
    lua_pop(t.L, 1);
  }
  weft_buf_free(&out);
  close_task(&t);
}

static void test_splice_refusals(void) {
  task t;
  weft_buf out = {0};
  open_task(&t, "local a,b=1,2 return function() return a+b end");
  check(!splice_task(&t, 1, &out) && out.size == 0, "a wrong number of upvalues");
  check(!splice_task(&t, 201, &out) && out.size == 0, "too many upvalues");
  check(!splice_task(&t, -1, &out) && out.size == 0, "a negative number of upvalues");
  out.limit = 64;
  check(!splice_task(&t, 2, &out) && out.size == 0, "a buffer that is too small");
  out.limit = 0;
  t.dump.data[0] ^= 1;
  check(!splice_task(&t, 2, &out) && out.size == 0, "no dump at all");
  check(!weft_bytecode_splice(t.L, NULL, 0, 0, &out) && out.size == 0, "nothing");
  close_task(&t);
}

#if LUA_VERSION_NUM >= 504
static void append_list(weft_buf *source, char prefix, int count) {
  char name[16];
  for (int i = 1; i <= count; i++) {
    snprintf(name, sizeof name, "%s%c%d", i > 1 ? "," : "", prefix, i);
    weft_buf_append(source, name, strlen(name));
  }
}

/* A function that captures 100 locals of one function and `count` - 100 of another. */
static int splices_upvalues(int count) {
  static const char *const parts[] = {"local ", " local function make() local ",
                                      " return function() return {", ",",
                                      "} end end return make()"};
  weft_buf source = {0}, out = {0};
  for (int i = 0; i < 5; i++) {
    weft_buf_append(&source, parts[i], strlen(parts[i]));
    if (i < 4)
      append_list(&source, i % 2 ? 'b' : 'a', i % 2 ? count - 100 : 100);
  }
  weft_buf_putc(&source, 0);
  task t;
  open_task(&t, (const char *)source.data);
  int done = t.ncaptures == count && splice_task(&t, count, &out) &&
             luaL_loadbufferx(t.L, (const char *)out.data, out.size, "=x", "b") == 0;
  weft_buf_free(&source);
  weft_buf_free(&out);
  close_task(&t);
  return done;
}
#endif

/* LuaJIT allows 60 upvalues, which the self test covers. */
static void test_splice_limit(void) {
#if LUA_VERSION_NUM >= 504
  check(splices_upvalues(200), "200 upvalues");
  check(!splices_upvalues(201), "201 upvalues");
#endif
}

/* A chunk that returns a function in an unusual form, which writes its first upvalue and gives 14:
 * so must its copy. */
static void test_splice_form(const char *source, const char *what) {
  task t;
  weft_buf out = {0};
  weft_lost_write lost;
  open_task(&t, source);
  check(scan_task(&t, &lost) && strcmp(lost.name, t.captures[0].name) == 0, what);
  check(splice_task(&t, t.ncaptures, &out), what);
  int loaded = luaL_loadbufferx(t.L, (const char *)out.data, out.size, "=x", "b") == 0;
  for (int i = 1; loaded && i <= t.ncaptures; i++)
    lua_getupvalue(t.L, 1, i);
  check(loaded && lua_pcall(t.L, t.ncaptures, 1, 0) == 0 && lua_pcall(t.L, 0, 1, 0) == 0 &&
            lua_tointeger(t.L, -1) == 14,
        what);
  weft_buf_free(&out);
  close_task(&t);
}

static void test_splice_forms(void) {
  const char *stripped = "local n = 13\n"
                         "local function f() n = n + 1; return n end\n"
                         "local g = (loadstring or load)(string.dump(f, true))\n"
                         "debug.setupvalue(g, 1, n)\n"
                         "return g";
  test_splice_form(stripped, "a function without debug information");
#if LUA_VERSION_NUM < 504
  const char *compiled = "jit.opt.start('hotloop=2')\n"
                         "local t, n = { 1, 2, 3 }, 4LL\n"
                         "local function f()\n"
                         "  local s, i = 0, 0\n"
                         "  for k, v in pairs(t) do s = s + v end\n"
                         "  for _, v in ipairs(t) do s = s + v end\n"
                         "  while i < 100 do i = i + 1 end\n"
                         "  for k = 1, 100 do i = i - 1 end\n"
                         "  t[1] = t[1]\n"
                         "  return s + tonumber(n - 2LL)\n"
                         "end\n"
                         "for i = 1, 100 do f() end\n"
                         "return f";
  test_splice_form(compiled, "a function that the compiler has patched");
#endif
}

static void test_selftest(void) {
  lua_State *L = luaL_newstate(); /* without libraries */
  lua_pushinteger(L, 42);
  check(weft_bytecode_selftest(L), "the self test holds in a bare state");
  check(lua_gettop(L) == 1 && lua_tointeger(L, 1) == 42, "it leaves the stack as it was");
  lua_close(L);
}

/* ---- Damaged dumps ---- */

static const char rich[] =
    "local r, n, s = {}, 0, 'x'\n"
    "return function(ctx, ...)\n"
    "  local own, text = { 1, 2.5, 'three', k = { true }, [7] = 1e300 }, 'some text' .. s\n"
    "  local q = r\n"
    "  local function add(v) own[#own + 1] = v; return function() own.last = n; text = v end end\n"
    "  for i = 1, 10 do if i % 2 == 0 then add(i)() else own[i] = ctx end end\n"
    "  for k, v in pairs(own) do while v do v = nil end; repeat local z = k until z end\n"
    "  table.sort(own); table.insert(own, 1, select('#', ...))\n"
    "  if n > 3 and ctx or s == 'y' then q = own end\n"
    "  q.x = ctx:method(n, ...)\n"
    "  r.a.b = text\n"
    "  return ctx(own, ...)\n"
    "end\n";

/* A copy of exactly `size` bytes, so that a checker sees a read past its end. */
static void feed(const task *t, const uint8_t *bytes, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  weft_lost_write lost;
  weft_buf out = {0};
  memcpy(copy, bytes, size);
  weft_bytecode_lost_write(copy, size, t->captures, t->ncaptures, &lost);
  weft_bytecode_splice(t->L, copy, size, t->ncaptures, &out);
  weft_buf_free(&out);
  free(copy);
}

static void test_prefixes(void) {
  task t;
  weft_lost_write lost;
  int accepted = 0;
  open_task(&t, rich);
  check(scan_task(&t, &lost) && lost.line == 11, "the whole dump has an alarm");
  for (size_t size = 0; size < t.dump.size; size++) {
    feed(&t, t.dump.data, size);
    accepted += weft_bytecode_lost_write(t.dump.data, size, t.captures, t.ncaptures, &lost);
  }
  check(accepted == 0, "no prefix of a dump is accepted");
  close_task(&t);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static void test_flips(void) {
  task t;
  uint32_t seed = 20240229;
  open_task(&t, rich);
  uint8_t *copy = malloc(t.dump.size);
  for (int i = 0; i < FLIPS; i++) {
    memcpy(copy, t.dump.data, t.dump.size);
    for (uint32_t flips = 1 + next_random(&seed) % 3; flips > 0; flips--)
      copy[next_random(&seed) % t.dump.size] ^= (uint8_t)(1 + next_random(&seed) % 255);
    feed(&t, copy, t.dump.size);
  }
  free(copy);
  check(lua_gettop(t.L) == 1, "flipped bytes do no harm");
  close_task(&t);
}

/* ---- No memory ---- */

static int attempt_splice(task *t) {
  weft_buf out = {0};
  int done = weft_bytecode_splice(t->L, t->dump.data, t->dump.size, t->ncaptures, &out);
  if (!done && (out.size || out.data))
    check(0, "the buffer is freed");
  weft_buf_free(&out);
  return done;
}

static int attempt_scan(task *t) {
  weft_lost_write lost;
  return scan_task(t, &lost);
}

static int attempt_selftest(task *t) {
  return weft_bytecode_selftest(t->L);
}

/* Fails each allocation of the core in turn, until one attempt needs no more of them. */
static void test_core_memory(int (*attempt)(task *), const char *what) {
  task t;
  open_task(&t, rich);
  uint64_t nth = 0;
  int done = 0, wrong = 0;
  while (!done && nth < 10000) {
    weft_mem_fail_at(++nth);
    done = attempt(&t);
    int injected = weft_mem_fail_at(0) >= nth;
    wrong += done == injected || lua_gettop(t.L) != 1;
  }
  check(done && !wrong && nth > 1, what);
  close_task(&t);
}

static long allocations_left = -1; /* -1: no limit */

static void *limited_alloc(void *data, void *memory, size_t old_size, size_t size) {
  (void)data;
  if (size == 0) {
    free(memory);
    return NULL;
  }
  if ((!memory || size > old_size) && allocations_left >= 0 && allocations_left-- <= 0) {
    allocations_left = 0;
    return NULL;
  }
  return realloc(memory, size);
}

/* The same for the allocations of the Lua state. */
static void test_lua_memory(int (*attempt)(task *), const char *what) {
  task t;
  open_task(&t, rich);
  lua_close(t.L);
  t.L = lua_newstate(limited_alloc, NULL);
  int done = 0, wrong = 0;
  for (long nth = 0; !done && nth < 10000; nth++) {
    allocations_left = nth;
    done = attempt(&t);
    allocations_left = -1;
    wrong += lua_gettop(t.L) != 0;
  }
  check(done && !wrong, what);
  close_task(&t);
}

static void test_memory(void) {
  test_core_memory(attempt_scan, "the scan without memory");
  test_core_memory(attempt_splice, "the splice without memory");
  test_core_memory(attempt_selftest, "the self test without memory");
  test_lua_memory(attempt_splice, "the splice without Lua memory");
  test_lua_memory(attempt_selftest, "the self test without Lua memory");
}

/* ---- Timings ---- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void time_attempt(task *t, const char *what, int (*attempt)(task *), int runs) {
  double best = 1e12;
  for (int round = 0; round < 7; round++) {
    double start = now();
    for (int i = 0; i < runs; i++)
      attempt(t);
    double each = (now() - start) / runs;
    best = each < best ? each : best;
  }
  printf("%-10s %8.1f us\n", what, best);
}

/* Sixty lines: the body of `rich` five times. */
static int bench(void) {
  const char *body = strchr(rich, '\n') + 1;
  body = strchr(body, '\n') + 1;
  const char *last = strstr(body, "  return ctx");
  weft_buf source = {0};
  weft_buf_append(&source, rich, (size_t)(body - rich));
  for (int i = 0; i < 6; i++) {
    weft_buf_append(&source, "do\n", 3);
    weft_buf_append(&source, body, (size_t)(last - body));
    weft_buf_append(&source, "end\n", 4);
  }
  weft_buf_append(&source, "end", 4);
  task t;
  open_task(&t, (const char *)source.data);
  printf("%d lines, a dump of %d bytes\n", 6 * 10 + 2, (int)t.dump.size);
  time_attempt(&t, "scan", attempt_scan, 1000);
  time_attempt(&t, "splice", attempt_splice, 1000);
  time_attempt(&t, "self test", attempt_selftest, 50);
  weft_buf_free(&source);
  close_task(&t);
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "bench") == 0)
    return bench();
  test_scan();
  test_long_function(200, "r.x=1");
  test_long_function(400, "local p=r p.x=1");
  test_distant_lines();
  test_wrong_captures();
  test_selftest();
  test_splice_runs();
  test_splice_refusals();
  test_splice_limit();
  test_splice_forms();
  test_prefixes();
  test_flips();
  test_memory();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
