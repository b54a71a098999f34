-- What crosses between Lua states: values of all kinds, as arguments, captures and results, and what
-- cannot cross.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local weft = require "weft"

local pack, message_of = calls.pack, calls.message_of

local unpack = table.unpack or unpack
local is_54 = _VERSION == "Lua 5.4"

-- The values, after a trip to a task as arguments and back as results.
local function trip(...)
  local group = weft.group()
  local task = group:go(function(_, ...)
    return true, ...
  end, ...)
  local values = pack(task:wait())
  group:close()
  if not values[1] then
    error(values[2], 0)
  end
  return unpack(values, 2, values.n)
end

-- What a function returns in a task.
local function trip_results(fn)
  local group = weft.group()
  local values = pack(group:go(fn):wait())
  group:close()
  if values[1] == nil then
    error(values[2], 0)
  end
  return unpack(values, 1, values.n)
end

-- One value as a capture, and back.
local function trip_captured(value)
  local group = weft.group()
  local task = group:go(function()
    return true, value
  end)
  local ok, result = task:wait()
  group:close()
  if not ok then
    error(result, 0)
  end
  return result
end

-- What go says to an argument that cannot be sent.
local function refusal(...)
  local group = weft.group()
  local message = message_of(group.go, group, function() end, ...)
  group:close()
  return message
end

describe("values that cross:", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("nil inside and at the end is counted", function()
    assert.same({ n = 5, nil, 1, nil, false, nil }, pack(trip(nil, 1, nil, false, nil)))
    assert.equal(0, select("#", trip()))
    assert.equal(1, select("#", trip(nil)))
  end)

  it("more arguments and results than a fresh stack has room for", function()
    for _, n in ipairs { 12, 13, 19, 20, 40, 41, 60, 250, 5000 } do
      local values = {}
      for i = 1, n do
        values[i] = i
      end
      assert.same({ n = n, unpack(values) }, pack(trip(unpack(values))))
    end
  end)

  if is_54 then
    it("an environment of one's own is captured; one with a metatable stands for the globals", function()
      local own = load("return upper(word), _G == nil", "own", "t", { upper = string.upper, word = "a" })
      assert.same({ n = 2, "A", true }, pack(trip_results(own)))
      local sandbox = load("return type(print), word", "sandbox", "t", setmetatable({ word = "a" }, { __index = _G }))
      assert.same({ n = 2, "function", nil }, pack(trip_results(sandbox)))
      local writer = load("word = 'b'; other = 'c'", "writer", "t", { word = "a" })
      assert.matches("a new key in a captured table is lost", message_of(trip_results, writer))
      local group = weft.group()
      local holder = load("return file", "holder", "t", { file = io.stdout })
      assert.matches("upvalue '_ENV'.file: userdata FILE%* cannot be sent", message_of(group.go, group, holder))
      group:close()
    end)
  end

  it("booleans, numbers and strings are the same as arguments, results and captures", function()
    for _, value in ipairs { true, 0, 1, -1, 63, 64, 127, 128, 255, 1e15, 0.1, -2.5, 1e308, 5e-324, "", "x",
      ("long"):rep(1000) } do
      assert.equal(value, trip(value))
      assert.equal(value, trip_captured(value))
    end
    assert.is_false(trip_captured(false))
    assert.is_nil(trip_captured(nil))
  end)

  it("-0.0, NaN and infinities stay what they are", function()
    assert.equal(-math.huge, 1 / trip(-0.0))
    assert.equal(math.huge, 1 / trip(0.0))
    assert.equal(-math.huge, 1 / trip_captured(-0.0))
    local nan = trip(0 / 0)
    assert.is_true(nan ~= nan)
    assert.equal(math.huge, trip(math.huge))
    assert.equal(-math.huge, trip(-math.huge))
    assert.equal(-math.huge, 1 / trip({ -0.0 })[1])
  end)

  it("integers and floats are kept apart", function()
    if not is_54 then
      return pending("LuaJIT has one type of numbers")
    end
    local load_54 = load
    local values = load_54 [[return { 1, 1.0, -1, -1.0, 0, 0.0, math.maxinteger, math.mininteger,
      2^53, 2^63, -2^63, math.maxinteger // 1 | 0, 9007199254740993 }]]()
    local back = trip(values)
    for i, value in ipairs(values) do
      assert.equal(math.type(value), math.type(back[i]))
      assert.is_true(value == back[i])
      assert.equal(math.type(value), math.type((trip(value))))
      assert.equal(math.type(value), math.type(trip_captured(value)))
    end
  end)

  it("whole numbers of all sizes arrive exactly", function()
    for bits = 0, 53 do
      for _, value in ipairs { 2 ^ bits, -(2 ^ bits), 2 ^ bits - 1, -(2 ^ bits) + 1 } do
        assert.equal(value, trip_captured(value))
      end
    end
    assert.equal(2 ^ 80, trip(2 ^ 80))
  end)

  it("strings may hold zeros and any byte", function()
    local bytes = {}
    for i = 0, 255 do
      bytes[i + 1] = string.char(i)
    end
    local all = table.concat(bytes)
    assert.equal(all, trip(all))
    assert.equal("\0", trip_captured("\0"))
    assert.equal("a\0b", trip({ ["a\0b"] = "a\0b" })["a\0b"])
  end)

  it("strings of 10 MB arrive whole", function()
    local big = ("0123456789"):rep(1024 * 1024) .. "\0end"
    assert.is_true(big == trip(big))
    assert.is_true(big == trip_captured(big))
    assert.is_true(big == trip({ big, x = big }).x)
  end)

  it("tables keep arrays, holes and hash parts", function()
    for _, value in ipairs {
      {},
      { 1, 2, 3 },
      { 1, nil, 3 },
      { nil, nil, 3 },
      { [1] = "a", [3] = "c", [100] = "z" },
      { 1, 2, x = 1, y = { z = {} }, [2.5] = "half", [-1] = "minus", [true] = false },
      { [0] = 0, [2 ^ 53] = "big", [-2 ^ 31] = "small" },
      { { { { { "deep" } } } } },
    } do
      assert.same(value, trip(value))
      local captured = trip_captured(value)
      assert.same(value, captured)
    end
  end)

  it("long and sparse tables arrive whole", function()
    local long, sparse, words = {}, {}, {}
    for i = 1, 5000 do
      long[i] = i % 7 == 0 and tostring(i) or i
      sparse[i * 3] = i
      words["key" .. i] = { i }
    end
    for i = 10, 4000, 3 do
      long[i] = nil
    end
    local a, b, c = trip(long, sparse, words)
    assert.same(long, a)
    assert.same(sparse, b)
    assert.same(words, c)
  end)

  it("tables are keys, too", function()
    local key = { name = "key" }
    local back, same = trip({ [key] = "value" }, key)
    assert.equal("value", back[same])
  end)

  it("cycles and shared references keep their shape", function()
    local node = { name = "node" }
    node.self, node.list = node, { node, { node } }
    local back = trip(node)
    assert.equal(back, back.self)
    assert.equal(back, back.list[1])
    assert.equal(back, back.list[2][1])
    assert.is_true(back ~= node)
    local shared = {}
    local a, b, c = trip({ shared }, { shared }, shared)
    assert.equal(a[1], b[1])
    assert.equal(a[1], c)
    local captured = trip_captured(node)
    assert.equal(captured, captured.list[2][1])
  end)

  it("5,000 levels deep are no problem", function()
    local value = { "bottom" }
    for _ = 1, 5000 do
      value = { value }
    end
    local back, depth = trip(value), 0
    while type(back[1]) == "table" do
      back, depth = back[1], depth + 1
    end
    assert.equal(5000, depth)
    assert.equal("bottom", back[1])
  end)

  it("many objects in one message keep their references", function()
    local nodes = {}
    for i = 1, 3000 do
      nodes[i] = { id = i }
    end
    for i = 1, 3000 do
      nodes[i].next = nodes[i % 3000 + 1]
    end
    local back = trip(nodes)
    for i = 1, 3000 do
      assert.equal(back[i % 3000 + 1], back[i].next)
    end
  end)

  it("cjson.null and other light userdata pass", function()
    local cjson = require "cjson"
    assert.equal(cjson.null, trip(cjson.null))
    assert.equal(cjson.null, trip_captured({ cjson.null })[1])
  end)

  it("handles stay themselves", function()
    local ctx = weft.background():with_cancel()
    local channel, pool = weft.channel(1), weft.pool { threads = 1 }
    local back = { trip(ctx, channel, pool, { channel }) }
    assert.equal(ctx, back[1])
    assert.equal(channel, back[2])
    assert.equal(pool, back[3])
    assert.equal(channel, back[4][1])
    local group = weft.group()
    group:go(function()
      ctx:cancel("from the task")
      channel:send(pool:stats().max_threads)
    end)
    assert(group:wait())
    group:close()
    assert.equal("from the task", ctx:cause().message)
    assert.equal(1, channel:recv())
    pool:close()
  end)

  it("the context of a task may be kept and sent", function()
    local group, contexts = weft.group { collect = true }, weft.channel(1)
    local task = group:go(function(ctx)
      contexts:send(ctx)
      weft.sleep(math.huge)
    end)
    local ctx = contexts:recv()
    assert.is_nil(ctx:err())
    task:cancel("alone")
    ctx:wait()
    assert.equal("alone", ctx:cause().message)
    group:close()
  end)

  it("many handles in one message are released", function()
    local channels = {}
    for i = 1, 500 do
      channels[i] = weft.channel(1)
    end
    local back = trip(channels)
    for i = 1, 500 do
      assert.equal(channels[i], back[i])
    end
  end)

  it("registered metatables must be registered in the task's state, too", function()
    local point = { __index = { x = 1 } }
    weft.register("ship_values_spec.point" .. tostring(point), point)
    local message = message_of(trip, setmetatable({}, point))
    assert.truthy(message:find("is not registered in this Lua state", 1, true), message)
    assert.truthy(message:find("weft.register", 1, true))
  end)

  it("a metatable with the name of the module that registers it just works", function()
    local shape = require "spec.support.shape"
    local group = weft.group()
    local square = shape.square(3)
    local task = group:go(function()
      return square:area(), square
    end)
    local area, back = task:wait()
    group:close()
    assert.equal(9, area)
    assert.equal(getmetatable(square), getmetatable(back))
    assert.equal(9, back:area())
  end)

  it("errors of weft cross as values, with metatable", function()
    local group = weft.group()
    group:go(function()
      error("inner", 0)
    end)
    local _, err = group:wait()
    group:close()
    local back = trip(err)
    assert.is_true(weft.is_error(back))
    assert.equal(tostring(err), tostring(back))
  end)
end)

describe("values that cannot cross:", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("are named with the path to them, as arguments", function()
    assert.truthy(refusal(io.stdout):find("argument 1: userdata FILE* cannot be sent; open it inside the task, or " ..
      "use weft.inline", 1, true))
    assert.truthy(refusal(1, { a = { io.stdout } }):find("argument 2.a[1]: userdata", 1, true))
    assert.truthy(refusal({ list = { { 1, io.stdout } } }):find("argument 1.list[1][2]: userdata", 1, true))
    assert.truthy(refusal({ a = { io.stdout } }, 2, {}):find("argument 1.a[1]: userdata", 1, true))
    assert.truthy(refusal(1, 2, { [io.stdout] = 1 }):find("argument 3[userdata]: userdata", 1, true))
  end)

  it("are named with the path to them, as captures", function()
    local db = { conn = io.stdout }
    local file = io.stdout
    local group = weft.group()
    local message = message_of(group.go, group, function()
      return db
    end)
    assert.truthy(message:find("upvalue 'db'.conn: userdata FILE* cannot be sent; open it inside the task, or use " ..
      "weft.inline", 1, true), message)
    message = message_of(group.go, group, function()
      return file
    end)
    assert.truthy(message:find("upvalue 'file': userdata FILE*", 1, true), message)
    local function inner()
      return file
    end
    message = message_of(group.go, group, function()
      return inner()
    end)
    assert.truthy(message:find("upvalue 'file': userdata FILE*", 1, true), message)
    group:close()
  end)

  it("coroutines say where they belong", function()
    local message = refusal(coroutine.create(function() end))
    assert.truthy(message:find("argument 1: thread cannot be sent; make it inside the task", 1, true), message)
  end)

  it("LuaJIT's cdata is refused", function()
    if not rawget(_G, "jit") then
      return pending("only LuaJIT has cdata")
    end
    local message = refusal({ big = require("ffi").new("int64_t", 7) })
    assert.truthy(message:find("argument 1.big: cdata cannot be sent", 1, true), message)
  end)

  it("tables with an unregistered metatable name the way out", function()
    local message = refusal({ p = setmetatable({}, { __index = {} }) })
    assert.truthy(message:find("argument 1.p: table cannot be sent; it has a metatable: register that with " ..
      "weft.register(name, metatable)", 1, true), message)
  end)

  it("groups and tasks belong to their state", function()
    local other = weft.group()
    local message = refusal(other)
    assert.truthy(message:find("a group belongs to the state that made it; make another inside the task", 1, true), message)
    local group = weft.group()
    message = message_of(group.go, group, function()
      return other
    end)
    assert.truthy(message:find("upvalue 'other': table cannot be sent; a group belongs to the state", 1, true), message)
    local task = group:go(function() end)
    message = refusal(task)
    assert.truthy(message:find("userdata weft.task cannot be sent; a task belongs to the state", 1, true), message)
    other:close()
    group:close()
  end)

  it("C functions that no module has are refused", function()
    local group = weft.group()
    local iterate = string.gmatch("x", "x")
    local said = message_of(group.go, group, iterate)
    assert.truthy(said:find("the function: function cannot be sent; it is a C function", 1, true), said)
    group:close()
    local message = refusal(iterate)
    assert.truthy(message:find("it is a C function that no loaded module has", 1, true), message)
  end)

  it("returned from a task make it fail, and name the result", function()
    local group = weft.group()
    group:go("opener", function()
      return 1, { io.stdout }
    end)
    local results, err = group:wait()
    assert.is_nil(results)
    assert.equal("opener", err.task)
    assert.truthy(err.message:find("result 2[1]: userdata", 1, true), err.message)
    assert.truthy(err.message:find("userdata FILE* cannot be sent", 1, true))
    group:close()
  end)

  it("returned from a task make it fail when they cannot be unpacked here", function()
    for _, collect in ipairs({ false, true }) do
      local group = weft.group({ collect = collect })
      group:go(function()
        return "fine"
      end)
      local task = group:go("stranger", function()
        local metatable = {}
        require("weft").register("known to the task alone", metatable)
        return setmetatable({}, metatable)
      end)
      local results, err = group:wait()
      local failure = collect and err.errors[1] or err
      assert.equal(collect and "fine" or nil, results and results[1])
      assert.equal(2, failure.index)
      assert.matches("known to the task alone", tostring(failure))
      assert.equal("failed", task:status())
      group:close()
    end
  end)

  it("over the limit of one message raise", function()
    local big, list = ("x"):rep(64 * 1024 * 1024), {}
    for i = 1, 17 do
      list[i] = big
    end
    assert.truthy(refusal(list):find("the message is larger than the limit of 1024 MiB", 1, true))
    assert.equal("y", trip("y"))
  end)

  it("leave nothing behind in the next message", function()
    local shared = {}
    for _ = 1, 10 do
      refusal({ shared, shared, io.stdout })
      local a = trip({ shared, shared })
      assert.equal(a[1], a[2])
    end
  end)
end)
