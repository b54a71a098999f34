-- Shipping closures: what they capture, code that is found by name, writes that would be lost, and the
-- caches of code.

local calls = require "spec.support.calls"
local core = require "weft.core"
local leaks = require "spec.support.leaks"
local sample = require "spec.support.sample"
local weft = require "weft"

local message_of = calls.message_of

local unpack = table.unpack or unpack
local load_text = loadstring or load

-- What the function returns in a task; raises the task's error.
local function run(fn, ...)
  local group = weft.group()
  local task = group:go(fn, ...)
  local values = { n = select("#", task:wait()), task:wait() }
  group:close()
  if values[1] == nil and values[2] ~= nil then
    error(values[2], 0)
  end
  return unpack(values, 1, values.n)
end

local function refusal(fn, ...)
  local group = weft.group()
  local message = message_of(group.go, group, fn, ...)
  group:close()
  return message
end

local function line_here()
  return debug.getinfo(2, "l").currentline
end

describe("closures:", function()
  before_each(leaks.before)
  after_each(leaks.after)

  describe("captures", function()
    it("are a snapshot at go", function()
      local n = 1
      local group, gate = weft.group(), weft.channel(0)
      local task = group:go(function()
        gate:recv()
        return n
      end)
      n = 2
      gate:send(true)
      assert.equal(1, (task:wait()))
      group:close()
      assert.equal(2, n)
    end)

    it("that are functions bring their own captures", function()
      local base, step = 10, 3
      local function add(x)
        return x + step
      end
      local function twice(f)
        return function(x)
          return f(f(x))
        end
      end
      local add_twice = twice(add)
      assert.equal(16, run(function()
        return add_twice(base)
      end))
    end)

    it("may be recursive", function()
      local function factorial(n)
        return n < 2 and 1 or n * factorial(n - 1)
      end
      assert.equal(120, run(function()
        return factorial(5)
      end))
      assert.equal(24, run(function(_, fn)
        return fn(4)
      end, factorial))
    end)

    it("may be mutually recursive", function()
      local is_even
      local function is_odd(n)
        if n == 0 then
          return false
        end
        return is_even(n - 1)
      end
      function is_even(n)
        if n == 0 then
          return true
        end
        return is_odd(n - 1)
      end
      assert.is_true(run(function()
        return is_even(10) and is_odd(7)
      end))
      local three = { is_even, is_odd }
      assert.is_true(run(function()
        return three[1](10) and three[2](7)
      end))
    end)

    it("may be the task itself", function()
      local function countdown(_, n)
        if n == 0 then
          return "liftoff"
        end
        return countdown(nil, n - 1)
      end
      assert.equal("liftoff", run(countdown, 5))
    end)

    it("shared by two functions of one shipment stay shared", function()
      local count = 1
      local function first()
        return count
      end
      local function second()
        return count
      end
      local pair = { first = first, second = second }
      local function set(_, p)
        debug.setupvalue(p.first, 1, 5)
        return p.second()
      end
      assert.equal(5, run(set, pair))
      assert.equal(5, run(function()
        debug.setupvalue(first, 1, 5)
        return second()
      end))
      assert.equal(5, run(set, pair))
      assert.equal(1, count)
    end)

    it("of two shipments are apart", function()
      local object = { n = 0 }
      local function add()
        object.n = object.n + 1
        return object.n
      end
      local pool = weft.pool { threads = 1 }
      local group = weft.group { pool = pool }
      local function use(_, holder)
        holder.object.n = holder.object.n + 1
        return holder.get()
      end
      local holder = {
        object = object,
        get = function()
          return object.n
        end,
      }
      assert.equal(1, (group:go(use, holder):wait()))
      assert.equal(1, (group:go(use, holder):wait()))
      assert.equal(1, add())
      group:close()
      pool:close()
    end)

    it("may be tables with functions that capture the table", function()
      local object = { n = 20 }
      function object.get()
        return object.n
      end
      assert.equal(20, run(function()
        return object.get()
      end))
      assert.equal(20, run(function(_, o)
        return o.get()
      end, object))
    end)

    it("may be as many as the VM allows", function()
      local most = _VERSION == "Lua 5.1" and 60 or 254 -- above 200 there is no factory
      local outer, inner, sum = {}, {}, {}
      for i = 1, most do
        local list = i <= most / 2 and outer or inner
        list[#list + 1] = ("local v%d = %d"):format(i, i)
        sum[i] = "v" .. i
      end
      local text = ("%s\nreturn (function()\n%s\nreturn function() return %s end end)()"):format(
        table.concat(outer, "\n"), table.concat(inner, "\n"), table.concat(sum, "+"))
      local fn = assert(load_text(text))()
      assert.equal(most * (most + 1) / 2, fn())
      assert.equal(most * (most + 1) / 2, run(fn))
      assert.equal(most * (most + 1) / 2, run(function()
        return fn()
      end))
    end)

    it("of many types in one function", function()
      local a, b, c, d, e = nil, false, 1.5, "s", { 1, { 2 } }
      local channel = weft.channel(1)
      assert.same({ nil, false, 1.5, "s", { 1, { 2 } }, true }, run(function()
        return { a, b, c, d, e, channel:try_send(1) }
      end))
    end)
  end)

  describe("code", function()
    it("made by load, and stripped code, crosses", function()
      assert.equal(7, run(load_text("local _, a = ... return 3 + a"), 4))
      local stripped = string.dump(function(_, a)
        local b = a * 2
        return b + 1
      end, true)
      assert.equal(9, run(load_text(stripped), 4))
    end)

    it("keeps its lines and name in errors", function()
      local line
      local group = weft.group()
      line = line_here() + 2
      group:go(function()
        error("here")
      end)
      local _, err = group:wait()
      assert.truthy(err.message:find("ship_spec.lua:" .. line .. ": here", 1, true), err.message)
      assert.truthy(err.where:find("ship_spec.lua:" .. line - 1, 1, true), err.where)
      group:close()
    end)

    it("of vararg functions and functions in functions crosses", function()
      assert.equal(6, run(function(_, ...)
        local function sum(first, ...)
          return first and first + sum(...) or 0
        end
        return sum(...)
      end, 1, 2, 3))
    end)

    it("of one prototype sees each closure's own values", function()
      local group, n = weft.group(), 2000
      collectgarbage("setpause", 50)
      for i = 1, n do
        local text = "v" .. i
        group:go(function()
          return text
        end)
        if i % 50 == 0 then
          collectgarbage()
        end
      end
      local results = assert(group:wait())
      collectgarbage("setpause", 200)
      for i = 1, n do
        assert.equal("v" .. i, results[i])
      end
      group:close()
    end)

    it("made fresh again and again is never mistaken for another", function()
      local group, n = weft.group(), 600
      collectgarbage("setpause", 50)
      for i = 1, n do
        local fn = load_text(("local up = %d return function() return up * 1000 + %d end"):format(i, i % 7))()
        group:go(fn)
        fn = nil -- luacheck: ignore
        if i % 20 == 0 then
          collectgarbage()
        end
      end
      local results = assert(group:wait())
      collectgarbage("setpause", 200)
      for i = 1, n do
        assert.equal(i * 1000 + i % 7, results[i])
      end
      group:close()
    end)

    it("kept by a task sees its own values, not those of the next task", function()
      local pool = weft.pool { threads = 1 }
      local group = weft.group { pool = pool }
      for i = 1, 50 do
        group:go(function()
          kept = kept or {} -- luacheck: ignore
          kept[i] = function() -- luacheck: ignore
            return i
          end
        end)
      end
      local task = group:go(function()
        local sum = 0
        for k, fn in pairs(kept) do -- luacheck: ignore
          sum = sum + (fn() == k and 1 or 0)
        end
        return sum
      end)
      assert.equal(50, (task:wait()))
      group:close()
      pool:close()
    end)

    it("is freed with the group and the pool that used it", function()
      local before = core.stats().codes
      local pool = weft.pool { threads = 2 }
      local group = weft.group { pool = pool }
      for i = 1, 3000 do
        group:go(load_text(("return %d"):format(i)))
      end
      assert(group:wait())
      group:close()
      pool:close()
      group, pool = nil, nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      -- what stays is in this state's cache of what it sent: 512 at most
      assert.is_true(core.stats().codes - before <= 513, core.stats().codes - before)
    end)
  end)

  describe("by name", function()
    it("modules are found again: the task has its own", function()
      local here = sample.count()
      local there = run(function()
        return sample.count()
      end)
      assert.equal("number", type(there))
      assert.equal(here + 1, sample.count())
      assert.is_true(run(function()
        return sample.is_same(sample) and package.loaded["spec.support.sample"] == sample
      end))
    end)

    it("modules returned by a task are ours again", function()
      assert.equal(sample, run(function()
        return require "spec.support.sample"
      end))
      assert.equal(string, run(function()
        return string
      end))
    end)

    it("modules that were loaded after the first shipment are found", function()
      local function ask(module)
        return run(function()
          return type(module), package.loaded["spec.support.late"] == module
        end)
      end
      assert.same({ "number", false }, { ask(1) })
      package.loaded["spec.support.late"] = nil
      local late = require "spec.support.late"
      late.file = io.stdout -- cannot be sent, but need not
      assert.same({ "table", true }, { ask(late) })
    end)

    it("functions of modules cross, in Lua and C, as tasks too", function()
      local floor, double = math.floor, sample.double
      assert.equal(3, run(function()
        return floor(3.7)
      end))
      assert.equal(8, run(double, 4))
      assert.equal(string.format, run(function()
        return string.format
      end))
      assert.equal("table", run(function(_, fn)
        return type(fn)
      end, 1) == "number" and "table")
    end)

    it("functions of C modules cross", function()
      local cjson = require "cjson"
      local encode = cjson.encode
      assert.equal("[1,2]", run(function()
        return encode { 1, 2 }
      end))
      assert.equal('{"a":1}', run(function()
        return cjson.encode { a = 1 }
      end))
    end)

    it("of a module with two names, the one that brings all of it is sent", function()
      -- as luasocket does: "socket" puts its functions into the table of "socket.core"
      local base, files = os.tmpname(), {}
      local path = package.path
      package.path = base .. "-?.lua;" .. path
      local modules, names = {}, { "a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh" }
      for i, short in ipairs(names) do
        local name = "twice_" .. short
        local function write(file, text)
          files[#files + 1] = base .. "-" .. file
          local f = assert(io.open(files[#files], "w"))
          f:write(text)
          f:close()
        end
        write(name .. "_core.lua", "return {}")
        write(name .. ".lua", ([[
          local module = require "%s_core"
          function module.number() return %d end
          return module]]):format(name, i))
        modules[i] = require(name)
      end
      for i, module in ipairs(modules) do
        local number = module.number
        assert.same({ i, i }, { run(function()
          return module.number(), number()
        end) })
      end
      package.path = path
      os.remove(base)
      for _, file in ipairs(files) do
        os.remove(file)
      end
    end)

    it("globals are the worker's own", function()
      some_global = "here" -- luacheck: ignore
      local seen = run(function()
        return type(some_global) -- luacheck: ignore
      end)
      some_global = nil -- luacheck: ignore
      assert.equal("nil", seen)
    end)

    it("a module that the task's state cannot load is an error of the task", function()
      package.loaded["spec.support.not_a_file"] = { x = 1 }
      local module = package.loaded["spec.support.not_a_file"]
      local group = weft.group()
      group:go("loader", function()
        return module.x
      end)
      local _, err = group:wait()
      package.loaded["spec.support.not_a_file"] = nil
      assert.equal("loader", err.task)
      assert.equal("module 'spec.support.not_a_file' not found in a task: it needs a file on package.path, or "
        .. "package.preload['spec.support.not_a_file'] set in the init of the pool", err.message)
      group:close()
    end)

    it("a module without a file is had from the pool's init", function()
      local pool = weft.pool {
        init = function()
          package.preload["spec.support.not_a_file"] = function()
            return { double = function(x) return 2 * x end }
          end
        end,
      }
      package.loaded["spec.support.not_a_file"] = { double = false }
      local module = package.loaded["spec.support.not_a_file"]
      local results = assert(weft.all({ a = function() return module.double(21) end }, { pool = pool }))
      package.loaded["spec.support.not_a_file"] = nil
      assert.equal(42, results.a)
      pool:close()
    end)

    it("a module that raises when it is loaded says why", function()
      local path = os.tmpname()
      local file = assert(io.open(path .. ".lua", "w"))
      file:write("error('this module is broken', 0)")
      file:close()
      local folder, name = path:match "^(.*)/([^/]*)$"
      local paths = package.path
      package.path = folder .. "/?.lua;" .. paths
      package.loaded[name] = {}
      local module = package.loaded[name]
      local _, err = weft.all({ a = function() return module end })
      package.loaded[name] = nil
      package.path = paths
      os.remove(path)
      os.remove(path .. ".lua")
      assert.matches("this module is broken", err.message, 1, true)
    end)
  end)

  describe("writes that would be lost", function()
    it("to a captured variable are found at go, with line and name", function()
      local total = 0
      local line = line_here() + 2
      local message = refusal(function(_, n)
        total = total + n
      end, 1)
      assert.truthy(message:find("assigns the captured variable 'total' at line " .. line, 1, true), message)
      assert.truthy(message:find("return the value, send it through a channel, or use weft.inline", 1, true), message)
      assert.truthy(message:find("ship_spec.lua:" .. line - 1, 1, true), message)
    end)

    it("into a captured table are found at go", function()
      local results = {} -- luacheck: ignore 241
      local message = refusal(function(_, n)
        results[n] = n
      end, 1)
      assert.truthy(message:find("writes into the captured table 'results' at line", 1, true), message)
      message = refusal(function()
        results.deep.er = 1
      end)
      assert.truthy(message:find("captured table 'results'", 1, true), message)
    end)

    it("through table.insert are found at go", function()
      local list = {}
      local message = refusal(function()
        table.insert(list, 1)
      end)
      assert.truthy(message:find("changes the captured table 'list' at line", 1, true), message)
    end)

    it("in a function that the task captures are found at go", function()
      local ids = 0
      local function next_id()
        ids = ids + 1
        return ids
      end
      local message = refusal(function()
        return next_id()
      end)
      assert.truthy(message:find("assigns the captured variable 'ids'", 1, true), message)
    end)

    it("in a function inside of the task are found at go", function()
      local total = 0
      local message = refusal(function()
        local function add()
          total = total + 1
        end
        add()
      end)
      assert.truthy(message:find("'total'", 1, true), message)
    end)

    it("that the check cannot see raise in the task", function()
      local results = {}
      local function put(t, k, v)
        t[k] = v
      end
      local message = message_of(run, function()
        put(results, "new", 1)
        return true
      end)
      assert.truthy(message:find("a new key in a captured table is lost", 1, true), message)
      assert.truthy(message:find("weft.inline", 1, true))
    end)

    it("to locals, arguments, and fields of modules are no such thing", function()
      assert.equal(6, run(function(_, list)
        local sum, copy = 0, {}
        for i, v in ipairs(list) do
          copy[i] = v
          sum = sum + v
        end
        list[#list + 1] = sum
        list.sum = sum
        table.insert(copy, sum)
        sample.answer = 42
        return list.sum
      end, { 1, 2, 3 }))
    end)

    it("do not exist in weft.inline", function()
      local total, list = 0, {}
      local group = weft.group { pool = weft.inline }
      group:go(function()
        total = total + 1
        list.x = 1
      end)
      assert(group:wait())
      group:close()
      assert.equal(1, total)
      assert.equal(1, list.x)
    end)
  end)

  it("cancelled before they run leave nothing behind", function()
    local group = weft.group()
    local payload = { ("x"):rep(100000), weft.channel(1) }
    for _ = 1, 100 do
      group:go(function()
        weft.sleep(math.huge)
        return payload
      end)
    end
    group:close()
  end)
end)
