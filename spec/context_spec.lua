-- Contexts: cancelling, deadlines, values, and how they reach tasks.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local near, virtually = virtual.near, virtual.virtually
local raised, message_of = calls.raised, calls.message_of

local has_close = _VERSION ~= "Lua 5.1"

local function with_cancel()
  return weft.background():with_cancel()
end

describe("a context", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is cancelled where its cause cannot be unpacked, too", function()
    local metatable = {}
    weft.register("spec.context.only_here", metatable)
    local ctx = with_cancel()
    ctx:cancel(setmetatable({ message = "enough" }, metatable))
    local here = raised(ctx.check, ctx)
    assert.equal("canceled", here.kind)
    assert.equal("enough", here.cause.message)
    weft.scope(function(g)
      local kind, message, cause = g:go(function()
        local _, err = pcall(ctx.check, ctx)
        return err.kind, err.message, ctx:cause().message
      end):wait()
      assert.same({ "canceled", "context canceled: enough", "enough" }, { kind, message, cause })
    end)
  end)

  describe("at the root", function()
    it("is one value, never done, without deadline and values", function()
      local root = weft.background()
      assert.equal(root, weft.background())
      assert.is_true(weft.is_context(root))
      assert.is_nil(root:err())
      assert.is_nil(root:cause())
      assert.is_nil(root:deadline())
      assert.equal(math.huge, root:remaining())
      assert.is_nil(root:value("any"))
      root:check()
      root:cancel("in vain")
      assert.is_nil(root:err())
    end)

    it("is the current one outside of tasks", function()
      assert.equal(weft.background(), weft.current())
    end)

    it("is told from other values", function()
      for _, value in ipairs { 1, "x", {}, io.stdout, weft.channel(1), print } do
        assert.is_false(weft.is_context(value))
      end
      assert.is_false(weft.is_context(nil))
      assert.is_true(weft.is_context(with_cancel()))
    end)
  end)

  describe("that can be cancelled", function()
    it("is done with an error and a cause", function()
      local ctx = with_cancel()
      assert.is_nil(ctx:err())
      ctx:cancel("user left")
      assert.equal("canceled", ctx:err().kind)
      assert.equal("context canceled", ctx:err().message)
      assert.equal("user left", ctx:cause().message)
      local err = raised(function()
        ctx:check()
      end)
      assert.equal("canceled", err.kind)
      assert.truthy(tostring(err):find("user left", 1, true))
      assert.truthy(tostring(err):find("context_spec.lua", 1, true))
    end)

    it("without a cause has the error for one", function()
      local ctx = with_cancel()
      ctx:cancel()
      assert.equal("canceled", ctx:cause().kind)
      assert.is_nil(raised(ctx.check, ctx).cause)
    end)

    it("keeps the first cause", function()
      local ctx = with_cancel()
      ctx:cancel("first")
      ctx:cancel("second")
      assert.equal("first", ctx:cause().message)
    end)

    it("takes causes of all kinds", function()
      local cases = {
        { "text", "text" }, { 42, "42" }, { { message = "in a table", code = 7 }, "in a table" }, { true, nil },
        { io.stdout, nil }, { function() end, nil },
      }
      for _, case in ipairs(cases) do
        local ctx = with_cancel()
        ctx:cancel(case[1])
        local cause = ctx:cause()
        assert.is_true(weft.is_error(cause))
        if case[2] then
          assert.equal(case[2], cause.message)
        end
      end
      local ctx = with_cancel()
      ctx:cancel({ code = 7, list = { 1, 2 } })
      assert.same({ code = 7, list = { 1, 2 } }, ctx:cause().value)
      local inner = ctx:cause()
      local outer = with_cancel()
      outer:cancel(inner)
      assert.same({ code = 7, list = { 1, 2 } }, outer:cause().value)
    end)

    it("makes all its descendants done before cancel returns, and nobody else", function()
      local top = with_cancel()
      local children, cousin = {}, with_cancel()
      for i = 1, 50 do
        children[i] = (children[i - 1] or top):with_cancel():with_value("k", i):with_timeout(1000)
      end
      local parent = with_cancel()
      local child = parent:with_cancel()
      child:cancel()
      assert.is_nil(parent:err())
      top:cancel("all")
      for i = 1, 50 do
        assert.equal("all", children[i]:cause().message)
      end
      assert.is_nil(cousin:err())
    end)

    it("born of one that is done is done", function()
      local ctx = with_cancel()
      ctx:cancel("before")
      for _, child in ipairs { ctx:with_cancel(), ctx:with_timeout(10), ctx:with_value("a", 1) } do
        assert.equal("before", child:cause().message)
      end
    end)

    it("is cancelled at the end of its <close> scope", function()
      if not has_close then
        return pending("Lua 5.1 has no <close>")
      end
      local ctx = load [[
        local weft = ...
        local kept
        do
          local ctx <close> = weft.background():with_cancel()
          kept = ctx
          assert(not ctx:err())
        end
        return kept
      ]](weft)
      assert.equal("canceled", ctx:err().kind)
    end)
  end)

  describe("with a deadline", function()
    it("is done when it passes, with its cause", virtually(function(clock)
      local ctx = weft.background():with_timeout(5, "too slow")
      clock:advance(4.999)
      assert.is_nil(ctx:err())
      ctx:wait()
      near(5, clock:elapsed())
      assert.equal("deadline", ctx:err().kind)
      assert.equal("context deadline exceeded", ctx:err().message)
      assert.equal("too slow", ctx:cause().message)
      assert.equal(0, ctx:remaining())
      assert.equal("deadline", raised(ctx.check, ctx).kind)
    end))

    it("in the past is done at once", function()
      for _, ctx in ipairs {
        weft.background():with_timeout(0), weft.background():with_deadline(weft.now() - 1),
        weft.background():with_deadline(0, "long ago"),
      } do
        assert.equal("deadline", ctx:err().kind)
        assert.equal(0, ctx:remaining())
      end
    end)

    it("tells it, and how long is left", virtually(function(clock)
      local at = weft.now() + 1000
      local ctx = weft.background():with_deadline(at)
      near(at, ctx:deadline())
      near(1000, ctx:remaining())
      clock:advance(400)
      near(600, ctx:remaining())
      assert.equal(ctx:deadline(), ctx:with_cancel():deadline())
      ctx:cancel()
      near(600, ctx:remaining()) -- until its deadline, which is not why it is done
    end))

    it("of math.huge has none", function()
      local ctx = weft.background():with_timeout(math.huge)
      assert.is_nil(ctx:deadline())
      assert.equal(math.huge, ctx:remaining())
      assert.is_nil(weft.background():with_deadline(math.huge):deadline())
      assert.is_nil(weft.background():with_timeout(1e300):deadline())
    end)

    it("cannot outlive its parent's", virtually(function(clock)
      local parent = weft.background():with_timeout(100)
      assert.equal(parent:deadline(), parent:with_timeout(1000):deadline())
      assert.is_true(parent:with_timeout(10):deadline() < parent:deadline())
      parent:cancel()
      local short = weft.background():with_timeout(1, "the parent's")
      local child = short:with_timeout(1000, "the child's")
      child:wait()
      assert.equal("the parent's", child:cause().message)
      near(1, clock:elapsed())
    end))

    it("cancelled before it is canceled, not late", function()
      local ctx = weft.background():with_timeout(1000, "late")
      ctx:cancel("early")
      assert.equal("canceled", ctx:err().kind)
      assert.equal("early", ctx:cause().message)
    end)

    it("tells nothing as nil, not as no value", function()
      local ctx = weft.background():with_cancel()
      assert.equal(1, select("#", ctx:err()))
      assert.equal(1, select("#", ctx:cause()))
      assert.equal(1, select("#", ctx:deadline()))
      assert.equal(1, select("#", ctx:value "missing"))
      ctx:cancel()
    end)

    it("ends a sleep", virtually(function(clock)
      local group = weft.group(weft.background():with_timeout(7, "time is up"))
      group:go("sleeper", function()
        weft.sleep(math.huge)
      end)
      local _, err = group:wait()
      near(7, clock:elapsed())
      assert.equal("deadline", err.kind)
      assert.truthy(tostring(err):find("time is up", 1, true))
      assert.equal("sleeper", err.task)
      local task, refused = group:go(function() end)
      assert.is_nil(task)
      assert.equal("deadline", refused.kind)
      group:close()
    end))
  end)

  describe("with values", function()
    it("finds the nearest, and falls through", function()
      local a = weft.background():with_value("user", "ann"):with_value("id", 7)
      local b = a:with_cancel():with_value("user", "bob")
      assert.equal("ann", a:value("user"))
      assert.equal("bob", b:value("user"))
      assert.equal(7, b:value("id"))
      assert.is_nil(b:value("other"))
    end)

    it("masks with nil and false", function()
      local ctx = weft.background():with_value("k", 1)
      assert.is_nil(ctx:with_value("k", nil):value("k"))
      assert.is_false(ctx:with_value("k", false):value("k"))
      assert.is_nil(ctx:with_value("k", nil):with_value("other", 1):value("k"))
    end)

    it("tells keys of different types apart", function()
      local ctx = weft.background():with_value(1.0, "number"):with_value("1", "string"):with_value(true, "boolean")
      assert.equal("number", ctx:value(1))
      assert.equal("string", ctx:value("1"))
      assert.equal("boolean", ctx:value(true))
      assert.is_nil(ctx:value(false))
      assert.equal("number", ctx:value(1.0) or ctx:value(1))
    end)

    it("hands out copies", function()
      local original = { n = 1 }
      local ctx = weft.background():with_value("t", original)
      original.n = 2
      assert.equal(1, ctx:value("t").n)
      ctx:value("t").n = 3
      assert.equal(1, ctx:value("t").n)
      local channel = weft.channel(1)
      assert.equal(channel, weft.background():with_value("ch", channel):value("ch"))
    end)

    it("refuses what cannot be sent, and what is no key", function()
      local root = weft.background()
      assert.truthy(message_of(root.with_value, root, "f", io.stdout):find("userdata FILE* cannot be sent", 1, true))
      for _, key in ipairs { {}, print, io.stdout } do
        assert.truthy(message_of(root.with_value, root, key, 1):find("bad argument 'key' to context:with_value", 1, true))
        assert.truthy(message_of(root.value, root, key):find("bad argument 'key' to context:value", 1, true))
      end
      assert.truthy(message_of(root.with_value, root, nil, 1):find("bad argument 'key'", 1, true))
    end)
  end)

  describe("without_cancel", function()
    it("keeps values, and neither cancel nor deadline", function()
      local ctx = weft.background():with_value("k", "v"):with_timeout(1000)
      local free = ctx:without_cancel()
      ctx:cancel()
      assert.is_nil(free:err())
      assert.is_nil(free:deadline())
      assert.equal("v", free:value("k"))
      local bounded = free:with_cancel()
      bounded:cancel()
      assert.equal("canceled", bounded:err().kind)
    end)
  end)

  describe("in a task", function()
    it("may be waited for though it is the task's own, or done already", function()
      for name, pool in pairs({ inline = weft.inline, pool = weft.default_pool() }) do
        local parent = weft.background():with_cancel()
        local group = weft.group(parent, { pool = pool, collect = true })
        local started = weft.waitgroup()
        started:add(40)
        for i = 1, 40 do
          group:go(function(ctx)
            started:done()
            if i % 4 == 0 then
              pcall(weft.sleep, math.huge)
            end
            local awaited = i % 2 == 0 and ctx or parent
            awaited:wait()
            awaited:wait()
            local other = weft.background():with_cancel()
            local ok, err = pcall(other.wait, other)
            return not ok and err.kind == "canceled" and awaited:err() ~= nil
          end)
        end
        started:wait()
        parent:cancel()
        local results = group:wait()
        for i = 1, 40 do
          assert.is_true(results[i], name .. i)
        end
        group:close()
      end
    end)

    it("is its own: first argument and current one", function()
      local group = weft.group(weft.background():with_value("k", "v"))
      local task = group:go(function(ctx)
        return ctx:value("k"), weft.current():value("k"), ctx:err(), weft.is_context(ctx)
      end)
      local a, b, err, is_context = task:wait()
      assert.same({ "v", "v", nil, true }, { a, b, err, is_context })
      group:close()
    end)

    it("reaches what it parks in: sleep, wait, recv, acquire, go", function()
      local gates = { weft.channel(0), weft.semaphore(1), with_cancel() }
      gates[2]:acquire()
      local calls = {
        function()
          weft.sleep(math.huge)
        end,
        function()
          gates[1]:recv()
        end,
        function()
          gates[1]:send(1)
        end,
        function()
          gates[2]:acquire()
        end,
        function()
          gates[3]:wait()
        end,
        function()
          local inner = weft.group()
          inner:go(function()
            weft.sleep(math.huge)
          end)
          inner:wait()
        end,
        function()
          local inner = weft.group { limit = 1 }
          for _ = 1, 2 do
            local task, err = inner:go(function()
              weft.sleep(math.huge)
            end)
            if not task then
              error(err) -- the group was cancelled before this go had to wait
            end
          end
        end,
      }
      for i, call in ipairs(calls) do
        if i ~= 3 then -- it would meet the receiver
          local group, started = weft.group(), weft.channel(1)
          group:go(function()
            started:send(true)
            call()
          end)
          started:recv()
          group:cancel("call " .. i)
          local results, err = group:wait()
          assert.is_nil(results)
          assert.equal("canceled", err.kind)
          assert.truthy(tostring(err):find("call " .. i, 1, true), tostring(err))
          group:close()
        end
      end
    end)

    it("is level-triggered: pcall cannot swallow it", function()
      local group, ready, counted = weft.group(), weft.channel(0), weft.channel(1)
      group:go(function(ctx)
        ready:send(true)
        local n = 0
        for _ = 1, 10 do
          if not pcall(weft.sleep, math.huge) then
            n = n + 1
          end
        end
        counted:try_send(n)
        ctx:check()
      end)
      ready:recv()
      group:cancel()
      local _, err = group:wait()
      assert.equal("canceled", err.kind)
      assert.equal(10, counted:recv())
      group:close()
    end)

    it("captured by another task is a handle", function()
      local ctx, group = with_cancel(), weft.group()
      local ready = weft.channel(0)
      local waiter = group:go(function()
        ready:send(true)
        ctx:wait()
        return ctx:cause().message
      end)
      ready:recv()
      group:go(function()
        ctx:cancel("from a task")
      end)
      assert.equal("from a task", (waiter:wait()))
      assert.equal("from a task", ctx:cause().message)
      group:close()
    end)

    it("sent on to a nested task is cancelled with the outer one alone", function()
      local group, ready = weft.group { collect = true }, weft.channel(0)
      local task = group:go(function(ctx)
        local inner = weft.group(weft.background())
        local nested = inner:go(function()
          ready:send(true)
          ctx:wait()
          return "outer was cancelled"
        end)
        pcall(weft.sleep, math.huge)
        local result = weft.shield(30, function()
          return (nested:wait())
        end)
        inner:close()
        error(result, 0)
      end)
      ready:recv()
      task:cancel()
      assert.equal("outer was cancelled", select(2, task:wait()).message)
      assert.is_nil(group.ctx:err())
      group:close()
    end)

    it("captured by weft.inline is still the task's, not the inline task's", function()
      local group = weft.group { collect = true }
      local task = group:go(function(ctx)
        local inner = weft.group { pool = weft.inline }
        inner:go(function(inline_ctx)
          if inline_ctx == ctx then
            error("the same context")
          end
          ctx:cancel("through the capture")
        end)
        weft.sleep(math.huge)
      end)
      local _, err = task:wait()
      assert.truthy(tostring(err):find("through the capture", 1, true), tostring(err))
      group:close()
    end)

    it("does not reach the caller's group:wait when only the group is cancelled", function()
      local group = weft.group()
      group:go(function()
        weft.sleep(math.huge)
      end)
      group:cancel()
      local results, err = group:wait() -- returns: it is not the caller who was cancelled
      assert.is_nil(results)
      assert.equal("canceled", err.kind)
      group:close()
    end)
  end)

  describe("after", function()
    it("runs a function once the context is done", function()
      local ctx, ran = with_cancel(), weft.channel(1)
      local stop = ctx:after(function()
        ran:send("ran")
      end)
      assert.equal(0, #ran)
      ctx:cancel()
      assert.equal("ran", ran:recv())
      assert.is_false(stop())
    end)

    it("can be stopped before, and not afterwards", function()
      local ctx, ran = with_cancel(), weft.channel(1)
      local stop = ctx:after(function()
        ran:send("ran")
      end)
      assert.is_true(stop())
      assert.is_false(stop())
      ctx:cancel()
      assert.equal(0, #ran)
      local done = with_cancel()
      done:cancel()
      local stop_late = done:after(function()
        ran:send("late")
      end)
      assert.equal("late", ran:recv())
      assert.is_false(stop_late())
    end)

    it("looks at what waits already a few times each, however many there are", function()
      -- what is looked at after each collection is not counted here
      collectgarbage("stop")
      local group = weft.group()
      local class = debug.getmetatable(group).__index
      group:close()
      local stats, looks, stops, ctx = class.stats, 0, {}, with_cancel()
      class.stats = function(...)
        looks = looks + 1
        return stats(...)
      end
      for i = 1, 500 do
        stops[i] = ctx:after(function() end)
      end
      class.stats = stats
      collectgarbage("restart")
      for i = 1, 500 do
        assert.is_true(stops[i]())
      end
      assert.is_true(looks > 0 and looks < 2000, looks)
    end)
  end)

  it("refuses bad arguments", function()
    local root = weft.background()
    for _, seconds in ipairs { -1, 0 / 0, "1", {} } do
      assert.truthy(message_of(root.with_timeout, root, seconds):find(
        "bad argument 'seconds' to context:with_timeout: expected a number of seconds >= 0", 1, true))
      assert.truthy(message_of(root.with_deadline, root, seconds):find("bad argument 'at' to context:with_deadline", 1,
        true))
    end
    for _, name in ipairs { "cancel", "err", "cause", "check", "wait", "with_cancel", "with_timeout", "value",
      "with_value", "without_cancel", "deadline", "remaining" } do
      for _, value in ipairs { 42, {}, io.stdout, weft.channel(1) } do
        assert.truthy(message_of(root[name], value, 1, 1):find("bad argument 'self' to context:" .. name, 1, true))
      end
    end
  end)

  it("is freed when nobody holds it: 10,000 with timers", function()
    local parent = with_cancel()
    for i = 1, 10000 do
      parent:with_timeout(1000):with_value("i", i)
      if i % 1000 == 0 then
        collectgarbage()
      end
    end
    collectgarbage()
    assert.is_true(weft.stats().contexts < 100, weft.stats().contexts)
    parent:cancel()
  end)
end)
