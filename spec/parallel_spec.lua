-- weft.all, weft.any, weft.chain, weft.scope, weft.shield and weft.is.

local calls = require "spec.support.calls"
local core = require "weft.core"
local leaks = require "spec.support.leaks"
local weft = require "weft"

local pack, message_of = calls.pack, calls.message_of

-- Cancels `ctx` as soon as something arrives on the channel: call it before what blocks.
local function cancel_on(channel, ctx, cause)
  local group = weft.group()
  group:go(function()
    channel:recv()
    ctx:cancel(cause)
  end)
  return group
end

describe("weft.all", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("returns results under the same keys", function()
    local results, err = weft.all(weft.background(), {
      text = function(ctx)
        return weft.is_context(ctx) and "t"
      end,
      image = function()
        return { 1, 2 }
      end,
      nothing = function() end,
      [7] = function()
        return false
      end,
    })
    assert.is_nil(err)
    assert.same({ text = "t", image = { 1, 2 }, [7] = false }, results)
  end)

  it("works without a context, with options, and with nothing to do", function()
    assert.same({ "a", "b" }, weft.all { function()
      return "a"
    end, function()
      return "b"
    end })
    assert.same({ 1 }, weft.all({ function()
      return 1
    end }, { limit = 1 }))
    assert.same({}, weft.all {})
  end)

  it("runs its functions at the same time", function()
    local a, b = weft.channel(0), weft.channel(0)
    assert.same({ one = "from two", two = "from one" }, assert(weft.all {
      one = function()
        b:send("from one")
        return (a:recv())
      end,
      two = function()
        local value = b:recv()
        a:send("from two")
        return value
      end,
    }))
  end)

  it("returns the first failure, named by its key, and cancels the others", function()
    local results, err = weft.all {
      slow = function()
        weft.sleep(math.huge)
      end,
      broken = function()
        error("no model", 0)
      end,
    }
    assert.is_nil(results)
    assert.equal("broken", err.task)
    assert.equal("no model", err.message)
  end)

  it("with collect returns what there is, and all errors", function()
    local results, err = weft.all({
      a = function()
        return 1
      end,
      b = function()
        return nil, "b failed"
      end,
      c = function()
        error("c failed", 0)
      end,
    }, { collect = true })
    assert.same({ a = 1 }, results)
    assert.equal("joined", err.kind)
    assert.equal(2, #err.errors)
    assert.equal("b", err.errors[1].task)
    assert.equal("c", err.errors[2].task)
  end)

  it("shares variables with weft.inline", function()
    local sum = 0
    local function add()
      sum = sum + 1
    end
    assert(weft.all({ add, add, add }, { pool = weft.inline }))
    assert.equal(3, sum)
  end)

  it("ends when its context is cancelled", function()
    local ctx, started = weft.background():with_cancel(), weft.channel(1)
    local helper = cancel_on(started, ctx, "enough")
    local results, err = weft.all(ctx, { function()
      started:send(true)
      weft.sleep(math.huge)
    end })
    assert.is_nil(results)
    assert.equal("canceled", err.kind)
    assert.truthy(tostring(err):find("enough", 1, true), tostring(err))
    helper:close()
    results, err = weft.all(ctx, { function() end })
    assert.is_nil(results)
    assert.equal("canceled", err.kind)
  end)

  it("refuses bad arguments", function()
    assert.truthy(message_of(weft.all):find("bad argument 'fns' to weft.all: expected a table, got nil", 1, true))
    assert.truthy(message_of(weft.all, 42, {}):find("bad argument 'ctx' to weft.all: expected a weft context", 1, true))
    assert.truthy(message_of(weft.all, { a = 1 }):find("bad argument 'fns[a]' to weft.all: expected a function", 1, true))
    assert.truthy(message_of(weft.all, {}, { limits = 2 }):find("bad option 'limits' to weft.all", 1, true))
  end)
end)

describe("weft.any", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("returns the first success and cancels the others", function()
    local value, err = weft.any {
      function()
        weft.sleep(math.huge)
      end,
      function()
        error("not me")
      end,
      function()
        return "winner"
      end,
    }
    assert.equal("winner", value)
    assert.is_nil(err)
  end)

  it("takes false and nil without an error for success", function()
    assert.is_false((weft.any(nil, { function()
      return false
    end })))
    local value, err = weft.any { function() end }
    assert.is_nil(value)
    assert.is_nil(err)
  end)

  it("joins all failures", function()
    local value, err = weft.any(weft.background(), {
      function()
        error("a", 0)
      end,
      function()
        return nil, "b"
      end,
    })
    assert.is_nil(value)
    assert.equal("joined", err.kind)
    assert.equal("a", err.errors[1].message)
    assert.equal("b", err.errors[2].message)
  end)

  it("returns all values of the first success", function()
    assert.same(pack(1, nil, { 3 }, nil), pack(weft.any({
      function()
        return 1, nil, { 3 }, nil
      end,
    })))
  end)

  it("with a limit runs no more functions once one has succeeded", function()
    local tried = weft.dict()
    assert.equal("second", (weft.any({
      function()
        tried:incr("n")
        error("no")
      end,
      function()
        tried:incr("n")
        return "second"
      end,
      function()
        tried:incr("n")
      end,
      function()
        tried:incr("n")
      end,
    }, { limit = 1 })))
    assert.equal(2, tried:get("n"))
  end)

  it("with a limit of 1 tries one after another", function()
    local tried = weft.channel(10)
    assert.equal("second", (weft.any({
      function()
        tried:send(1)
        error("no")
      end,
      function()
        tried:send(2)
        return "second"
      end,
      function()
        tried:send(3)
        return "third"
      end,
    }, { limit = 1 })))
    assert.equal(1, tried:recv())
    assert.equal(2, tried:recv())
  end)

  it("ends when its context is cancelled", function()
    local ctx, started = weft.background():with_cancel(), weft.channel(1)
    local helper = cancel_on(started, ctx, "enough")
    local value, err = weft.any(ctx, { function()
      started:send(true)
      weft.sleep(math.huge)
    end })
    assert.is_nil(value)
    assert.is_true(weft.is(err, "canceled"))
    helper:close()
  end)

  it("refuses bad arguments", function()
    assert.truthy(message_of(weft.any, {}):find("bad argument 'fns' to weft.any: expected a list of at least one", 1,
      true))
    assert.truthy(message_of(weft.any, { 1 }):find("bad argument 'fns[1]' to weft.any: expected a function", 1, true))
    assert.truthy(message_of(weft.any, { print }, { collect = true }):find("bad option 'collect' to weft.any", 1, true))
  end)
end)

describe("weft.chain", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local function add_one(x)
    return x + 1
  end

  it("passes a value through functions and named stages", function()
    local value, err = weft.chain(weft.background(), 1, {
      add_one,
      { name = "double", fn = function(x, ctx)
        return weft.is_context(ctx) and 2 * x
      end },
      { "triple", function(x)
        return 3 * x
      end },
    })
    assert.equal(12, value)
    assert.is_nil(err)
    assert.equal("in", (weft.chain(nil, "in", {})))
  end)

  it("names the stage that failed, and keeps the cause", function()
    local value, err = weft.chain(nil, 1, { add_one, { name = "enrich", fn = function()
      error("no data", 0)
    end } })
    assert.is_nil(value)
    assert.equal("stage 2 (enrich) failed: no data", tostring(err))
    assert.equal("enrich", err.stage)
    assert.equal(2, err.stage_index)
    assert.equal("no data", err.cause)
    assert.truthy(err.traceback:find("parallel_spec.lua", 1, true))
    value, err = weft.chain(nil, 1, { function()
      return nil, core.new_error { kind = "timeout", message = "too slow" }
    end, add_one })
    assert.is_nil(value)
    assert.equal("timeout", err.kind)
    assert.equal("timeout", err.cause.kind)
    assert.equal("stage 1 (1) failed: too slow", tostring(err))
  end)

  it("may block, in a script and in a task", function()
    local stages = { function(x)
      weft.sleep(0)
      return x .. "b"
    end }
    assert.equal("ab", (weft.chain(nil, "a", stages)))
    local group = weft.group()
    local task = group:go(function(ctx)
      return weft.chain(ctx, "a", stages)
    end)
    assert.equal("ab", (task:wait()))
    task = group:go("chained", function(ctx)
      return weft.chain(ctx, 1, { { "broken", function()
        error("no", 0)
      end } })
    end)
    local _, err = task:wait()
    assert.truthy(tostring(err):find("^task 2 'chained' %(.+%) failed: stage 1 %(broken%) failed: no$"), tostring(err))
    group:close()
  end)

  it("raises once its context is done, also out of a stage", function()
    local ctx, called = weft.background():with_cancel(), 0
    local function stop(x)
      called = called + 1
      ctx:cancel("stop")
      return x
    end
    local ok, err = pcall(weft.chain, ctx, 1, { stop, stop })
    assert.is_false(ok)
    assert.equal("canceled", err.kind)
    assert.equal(1, called)
  end)

  it("refuses bad arguments", function()
    assert.truthy(message_of(weft.chain, nil, 1, 2):find("bad argument 'stages' to weft.chain: expected a table", 1, true))
    assert.truthy(message_of(weft.chain, nil, 1, { 3 }):find("bad argument 'stages[1]' to weft.chain", 1, true))
    assert.truthy(message_of(weft.chain, nil, 1, { add_one, { name = "x" } }):find("bad argument 'stages[2]'", 1, true))
    assert.truthy(message_of(weft.chain, 7, 1, {}):find("bad argument 'ctx' to weft.chain", 1, true))
  end)
end)

describe("weft.scope", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("runs the body, waits, and returns what wait returns", function()
    local results, err = weft.scope(function(group)
      group:go(function()
        return "a"
      end)
      group:go(function()
        return "b"
      end)
    end)
    assert.same({ "a", "b", n = 2 }, results)
    assert.is_nil(err)
    results, err = weft.scope(weft.background(), { collect = true }, function(group)
      group:go(function()
        return nil, "failed"
      end)
    end)
    assert.equal(1, results.n)
    assert.equal("joined", err.kind)
    assert.same({ n = 0 }, weft.scope(weft.background(), function() end))
    assert.same({ n = 0 }, weft.scope({ limit = 1 }, function() end))
  end)

  it("raises what the body raised, once its tasks have ended", function()
    local task
    local message = message_of(weft.scope, function(group)
      task = group:go(weft.sleep and function()
        weft.sleep(math.huge)
      end)
      error("the body's", 0)
    end)
    assert.equal("the body's", message)
    assert.equal("canceled", task:status())
  end)

  it("raises the caller's cancellation, once its tasks have ended", function()
    local group, ended, started = weft.group(), weft.channel(1), weft.channel(1)
    group:go(function()
      weft.scope(function(inner)
        inner:go(function()
          started:send(true)
          pcall(weft.sleep, math.huge)
          ended:try_send(true)
        end)
      end)
    end)
    started:recv()
    group:cancel("from above")
    local _, err = group:wait()
    assert.equal("canceled", err.kind)
    assert.equal(1, #ended)
    group:close()
  end)

  it("refuses bad arguments", function()
    assert.truthy(message_of(weft.scope):find("bad argument 'fn' to weft.scope: expected a function, got nil", 1, true))
    assert.truthy(message_of(weft.scope, 3, nil, print):find("bad argument 'ctx' to weft.scope", 1, true))
    assert.truthy(message_of(weft.scope, { limits = 3 }, print):find("bad option 'limits'", 1, true))
  end)
end)

describe("weft.shield", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("runs a function with its arguments, and returns all it returns", function()
    assert.same({ 3, nil, "x", n = 3 }, (function(...)
      return { n = select("#", ...), ... }
    end)(weft.shield(10, function(a, b)
      return a + b, nil, "x"
    end, 1, 2)))
    local shared = 0
    weft.shield(10, function()
      shared = 1
    end)
    assert.equal(1, shared)
  end)

  it("lets clean-up block in a task that is cancelled", function()
    local group, ready, cleaned = weft.group(), weft.channel(0), weft.channel(1)
    group:go(function(ctx)
      ready:send(true)
      pcall(weft.sleep, math.huge)
      weft.shield(30, function()
        weft.sleep(0)
        cleaned:send(ctx:err().kind)
      end)
    end)
    ready:recv()
    group:cancel()
    group:join()
    assert.equal("canceled", cleaned:recv())
    group:close()
  end)

  it("raises what the function raised", function()
    local ok, err = pcall(weft.shield, 10, function()
      error("in the shield", 0)
    end)
    assert.is_false(ok)
    assert.equal("in the shield", err.message)
  end)

  it("raises a deadline after its time", function()
    local ok, err = pcall(weft.shield, 0.001, function()
      weft.sleep(math.huge)
    end)
    assert.is_false(ok)
    assert.equal("deadline", err.kind)
    ok, err = pcall(weft.shield, 0, function() end)
    assert.is_false(ok)
    assert.equal("deadline", err.kind)
  end)

  it("refuses bad arguments", function()
    assert.truthy(message_of(weft.shield, -1, print):find("bad argument 'seconds' to weft.shield", 1, true))
    assert.truthy(message_of(weft.shield, 0 / 0, print):find("bad argument 'seconds' to weft.shield", 1, true))
    assert.truthy(message_of(weft.shield, 1):find("bad argument 'fn' to weft.shield", 1, true))
  end)
end)

describe("weft.is", function()
  it("looks through causes and joined errors", function()
    local inner = core.new_error { kind = "timeout", message = "late" }
    local outer = core.new_error { kind = "error", message = "wrapped", cause = inner }
    local joined = core.new_error { kind = "joined", message = "two", errors = { outer } }
    assert.is_true(weft.is(inner, "timeout"))
    assert.is_true(weft.is(outer, "timeout"))
    assert.is_true(weft.is(joined, "timeout"))
    assert.is_true(weft.is(joined, "joined"))
    assert.is_false(weft.is(joined, "canceled"))
  end)

  it("is false for other values and survives cycles", function()
    for _, value in ipairs { 1, "timeout", true, { kind = "timeout" }, io.stdout } do
      assert.is_false(weft.is(value, "timeout"))
    end
    assert.is_false(weft.is(nil, "timeout"))
    local a = core.new_error { kind = "a", message = "a" }
    a.cause = a
    assert.is_false(weft.is(a, "b"))
    assert.is_true(weft.is({ cause = core.new_error { kind = "x", message = "" } }, "x"))
  end)

  it("refuses what is no kind", function()
    assert.truthy(message_of(weft.is, {}, 3):find("bad argument 'kind' to weft.is: expected a string", 1, true))
  end)
end)
