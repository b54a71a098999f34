-- Dicts between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local rejects = calls.rejects
local run = tasks.run
local virtually = virtual.virtually

local function sorted_keys(dict)
  local keys = dict:keys()
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  return keys
end

describe("weft.dict", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gets what was set", function()
    local d = weft.dict()
    assert.equal(1, select("#", d:get("a")))
    assert.is_nil(d:get("a"))
    assert.is_true(d:set("a", 1))
    assert.is_true(d:set("b", false))
    assert.is_true(d:set("c", { 1, { deep = "x" } }))
    assert.equal(1, d:get("a"))
    assert.equal(false, d:get("b"))
    assert.same({ 1, { deep = "x" } }, d:get("c"))
    assert.equal(3, #d)
    assert.is_true(d:set("a", nil))
    assert.is_nil(d:get("a"))
    assert.same({ "b", "c" }, sorted_keys(d))
    d:clear()
    assert.equal(0, #d)
    assert.same({}, d:keys())
  end)

  it("holds copies", function()
    local d, mine = weft.dict(), { n = 1 }
    d:set("t", mine)
    mine.n = 2
    local first = d:get("t")
    first.n = 3
    assert.equal(1, d:get("t").n)
    assert.not_equal(first, d:get("t"))
  end)

  it("holds handles and functions", function()
    local d, ch, factor = weft.dict(), weft.channel(1), 3
    d:set("channel", ch)
    assert.equal(ch, d:get("channel"))
    d:set("times", function(n)
      return n * factor
    end)
    assert.equal(12, d:get("times")(4))
  end)

  it("has the keys that Lua has", function()
    local d = weft.dict()
    d:set(1, "integer")
    d:set("1", "string")
    d:set(true, "true")
    d:set(1.5, "float")
    d:set("", "empty")
    assert.equal("integer", d:get(1.0))
    assert.equal("integer", d:get(3 / 3))
    assert.equal("string", d:get("1"))
    assert.equal("true", d:get(true))
    assert.equal("float", d:get(1.5))
    assert.equal("empty", d:get(""))
    d:set(-0.0, "zero")
    assert.equal("zero", d:get(0))
    d:set(2 ^ 60, "large")
    assert.equal("large", d:get(2 ^ 60))
    d:set(math.huge, "inf")
    assert.equal("inf", d:get(math.huge))
    local kinds = {}
    for _, key in ipairs(d:keys()) do
      kinds[type(key)] = (kinds[type(key)] or 0) + 1
    end
    assert.same({ number = 5, string = 2, boolean = 1 }, kinds)
  end)

  it("adds atomically", function()
    local d = weft.dict()
    assert.equal(1, d:incr("n"))
    assert.equal(3.5, d:incr("n", 2.5))
    assert.equal(0.5, d:incr("n", -3))
    assert.equal(11, d:incr("m", 1, 10))
    assert.equal(12, d:incr("m", nil, 10))
    run({}, function(group)
      for _ = 1, 4 do
        group:go(function()
          for _ = 1, 500 do
            d:incr("sum", 2)
          end
        end)
      end
    end)
    assert.equal(4000, d:get("sum"))
    d:set("text", "x")
    local sum, err = d:incr("text")
    assert.is_nil(sum)
    assert.equal("type", err.kind)
    assert.matches("the value is a string, not a number", err.message)
    assert.equal("x", d:get("text"))
  end)

  it("compares and sets", function()
    local d, ch = weft.dict(), weft.channel()
    assert.is_true(d:cas("a", nil, 1))
    assert.is_false(d:cas("a", nil, 2))
    assert.is_false(d:cas("a", 2, 3))
    assert.is_true(d:cas("a", 1.0, "text"))
    assert.is_true(d:cas("a", "text", ch))
    assert.is_false(d:cas("a", weft.channel(), 1))
    assert.is_true(d:cas("a", ch, false))
    assert.is_false(d:cas("a", nil, 1))
    assert.is_true(d:cas("a", false, nil))
    assert.equal(0, #d)
    d:set("t", { 1 })
    assert.is_false(d:cas("t", 1, 2))
    rejects("bad argument 'expected' to dict:cas: .*never equal; use dict:update", d.cas, d, "t", { 1 }, 2)
  end)

  it("lets one of many win a compare and set", function()
    local d = weft.dict()
    local results = run({}, function(group)
      for i = 1, 20 do
        group:go(function()
          return d:cas("leader", nil, i)
        end)
      end
    end)
    local winners = {}
    for i = 1, results.n do
      if results[i] then
        winners[#winners + 1] = i
      end
    end
    assert.same({ d:get("leader") }, winners)
  end)

  it("updates atomically, whatever the function does", function()
    local d = weft.dict()
    run({}, function(group)
      for i = 1, 4 do
        group:go(function()
          for k = 1, 50 do
            local list = d:update("list", function(list, extra)
              list = list or {}
              list[#list + 1] = extra
              if k % 25 == 0 then
                weft.sleep(0)
              end
              return list
            end, i)
            assert(list[#list] == i)
          end
        end)
      end
    end)
    local counts = {}
    for _, i in ipairs(d:get("list")) do
      counts[i] = (counts[i] or 0) + 1
    end
    assert.same({ 50, 50, 50, 50 }, counts)
  end)

  it("calls the function of an update again with what another one wrote", function()
    local d, seen = weft.dict(), {}
    d:set("n", 1)
    local result = d:update("n", function(value)
      seen[#seen + 1] = tostring(value)
      if #seen == 1 then
        d:set("n", 10)
      elseif #seen == 2 then
        d:set("n", nil)
      end
      return (value or 100) + 1
    end)
    assert.equal(101, result)
    assert.same({ "1", "10", "nil" }, seen)
    assert.equal(101, d:get("n"))
    assert.is_nil(d:update("n", function() end))
    assert.equal(0, #d)
  end)

  it("leaves the entry as it was when the function of an update raises", function()
    local d = weft.dict()
    d:set("n", 1)
    local problem = { "mine" }
    local ok, raised = pcall(d.update, d, "n", function()
      error(problem)
    end)
    assert.is_false(ok)
    assert.equal(problem, raised)
    rejects("value 1: thread cannot be sent", d.update, d, "n", function()
      return coroutine.create(print)
    end)
    assert.equal(1, d:get("n"))
  end)

  it("takes no more than its maximum", function()
    local d = weft.dict({ max = 2 })
    assert.is_true(d:set("a", 1))
    assert.is_true(d:cas("b", nil, 2))
    for _, write in ipairs({
      function()
        return d:set("c", 1)
      end,
      function()
        return d:incr("c")
      end,
      function()
        return d:cas("c", nil, 1)
      end,
      function()
        return d:update("c", function()
          return 1
        end)
      end,
    }) do
      local ok, err = write()
      assert.is_nil(ok)
      assert.equal("full", err.kind)
      assert.matches("the dict holds its maximum of 2 entries", err.message)
    end
    assert.is_true(d:set("a", 2))
    assert.equal(3, d:incr("a"))
    d:set("b", nil)
    assert.is_true(d:set("c", 1))
    assert.equal(2, #d)
  end)

  it("lets entries go after their time", virtually(function(clock)
    local d = weft.dict({ ttl = 60, max = 1 })
    d:set("a", 1)
    clock:advance(59.9)
    assert.equal(1, d:get("a"))
    assert.is_nil((d:set("b", 1))) -- it is full
    clock:advance(0.1)
    assert.is_nil(d:get("a"))
    assert.equal(0, #d)
    assert.is_true(d:set("b", 1))
    clock:advance(30)
    d:set("b", 2) -- begins anew
    clock:advance(59.9)
    assert.equal(2, d:get("b"))
    clock:advance(0.1)
    assert.is_nil(d:get("b"))
    for i = 1, 20 do -- what has expired makes room, wherever it is kept
      clock:advance(60)
      assert.is_true(d:set("key " .. i, i))
    end
    local long = weft.dict({ ttl = 1000 })
    long:set("a", 1)
    assert.equal(1, long:get("a"))
    assert.is_true(weft.dict({ ttl = math.huge }):set("a", 1))
  end))

  it("is one dict wherever it was sent", function()
    local d, through = weft.dict(), weft.channel(1)
    through:send({ d })
    assert.equal(d, through:recv()[1])
    run({}, function(group)
      group:go(function(_, other)
        other:set("from", "a task")
        assert(d == other)
      end, d)
    end)
    assert.equal("a task", d:get("from"))
  end)

  it("frees what it holds", function()
    local outer = weft.dict()
    for i = 1, 50 do
      local inner = weft.dict()
      inner:set("outer", outer)
      inner:set("channel", weft.channel(i))
      outer = inner
    end
    assert.equal(2, #outer)
  end)

  it("names wrong arguments", function()
    local d = weft.dict()
    rejects("bad argument 'options' to weft.dict: expected a table, got 5", weft.dict, 5)
    rejects("bad option 'size' to weft.dict: known are max, ttl", weft.dict, { size = 1 })
    rejects("bad argument 'max' to weft.dict: expected a whole number", weft.dict, { max = 0 })
    rejects("bad argument 'ttl' to weft.dict: expected a number of seconds > 0, got 0", weft.dict, { ttl = 0 })
    for _, method in ipairs({ "get", "set", "incr", "cas" }) do
      local what = "bad argument 'key' to dict:" .. method .. ": expected a string, number or boolean, got "
      rejects(what .. "nil", d[method], d, nil)
      rejects(what .. "table", d[method], d, {})
      rejects(what .. "nan", d[method], d, 0 / 0)
    end
    rejects("bad argument 'key' to dict:update", d.update, d, nil, print)
    rejects("bad argument 'fn' to dict:update: expected a function, got nil", d.update, d, "a")
    rejects("bad argument 'by' to dict:incr: expected a number, got 'x'", d.incr, d, "a", "x")
    rejects("bad argument 'initial' to dict:incr: expected a number", d.incr, d, "a", 1, {})
    rejects("value 1: thread cannot be sent", d.set, d, "a", coroutine.create(print))
    rejects("bad argument 'self' to dict:get: expected a weft dict, got table", d.get, {}, "a")
    assert.equal(0, #d)
  end)
end)
