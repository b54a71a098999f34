-- Behaviours of Go's context, each named after its test in context/x_test.go, context_test.go or
-- afterfunc_test.go.
local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local function kind_of(ctx)
  local err = ctx:err()
  return err and err.kind
end

describe("context", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestBackground, TestTODO", function()
    local ctx = weft.background()
    assert.is_nil(ctx:err())
    assert.is_nil(ctx:deadline())
    assert.equal("default", weft.select({ { done = ctx }, default = true }))
  end)

  it("TestWithCancel", function()
    local one = weft.background():with_cancel()
    local two = one:with_value("k", 1)
    for _, ctx in ipairs({ one, two }) do
      assert.is_nil(ctx:err())
      assert.equal("default", weft.select({ { done = ctx:done() }, default = true }))
    end
    one:cancel()
    for i, ctx in ipairs({ one, two }) do
      local index, err = weft.select({ { done = ctx:done() }, default = true })
      assert.equal(1, index, i)
      assert.equal("canceled", err.kind)
      assert.equal("canceled", kind_of(ctx))
    end
  end)

  it("TestParentFinishesChild", function()
    local parent = weft.background():with_cancel()
    local cancel_child = parent:with_cancel()
    local value_child = parent:with_value("key", "value")
    local timer_child = value_child:with_timeout(10000)
    parent:cancel()
    for _, ctx in ipairs({ parent, cancel_child, value_child, timer_child }) do
      assert.equal("canceled", kind_of(ctx))
    end
    assert.equal("canceled", kind_of(parent:with_cancel())) -- born done
  end)

  it("TestChildFinishesFirst", function()
    for _, parent in ipairs({ weft.background(), weft.background():with_cancel() }) do
      local child = parent:with_cancel()
      child:cancel()
      assert.equal("canceled", kind_of(child))
      assert.is_nil(parent:err())
    end
  end)

  it("TestDeadline, TestTimeout", function()
    testing.virtual_clock(function()
      for _, make in ipairs({
        function(parent, seconds)
          return parent:with_deadline(weft.now() + seconds)
        end,
        function(parent, seconds)
          return parent:with_timeout(seconds)
        end,
      }) do
        local start = weft.now()
        local plain = make(weft.background(), 50)
        local through_value = make(weft.background(), 50):with_value("k", 1)
        local layered = make(make(weft.background(), 50), 4000)
        for _, ctx in ipairs({ plain, through_value, layered }) do
          assert.is_nil(ctx:err())
        end
        layered:wait()
        assert.is_true(math.abs(weft.now() - start - 50) < 1e-3)
        weft.sleep(0)
        for _, ctx in ipairs({ plain, through_value, layered }) do
          assert.equal("deadline", kind_of(ctx))
        end
        assert.equal("deadline", kind_of(make(weft.background(), 0)))
      end
    end)
  end)

  it("TestCanceledTimeout", function()
    local outer = weft.background():with_timeout(1000)
    local inner = outer:with_timeout(2000)
    inner:cancel()
    assert.equal("canceled", kind_of(inner))
    assert.is_nil(outer:err())
    outer:cancel()
  end)

  it("TestValues", function()
    local c1 = weft.background():with_value("k1", "c1k1")
    local c2 = c1:with_value("k2", "c2k2")
    local c3 = c2:with_value("k3", "c3k3")
    local c4 = c3:with_value("k1", nil)
    local o1 = weft.background():with_cancel():with_value("k1", "o1k1")
    local function values(ctx)
      return { ctx:value("k1") or "-", ctx:value("k2") or "-", ctx:value("k3") or "-" }
    end
    assert.same({ "-", "-", "-" }, values(weft.background()))
    assert.same({ "c1k1", "-", "-" }, values(c1))
    assert.same({ "c1k1", "c2k2", "-" }, values(c2))
    assert.same({ "c1k1", "c2k2", "c3k3" }, values(c3))
    assert.same({ "-", "c2k2", "c3k3" }, values(c4))
    assert.same({ "o1k1", "-", "-" }, values(o1:with_cancel()))
  end)

  it("TestSimultaneousCancels, TestInterlockedCancels", function()
    local root = weft.background():with_cancel()
    local nodes, queue = { root }, { root }
    while #nodes < 100 do
      local parent = table.remove(queue, 1)
      for _ = 1, 2 do
        local child = parent:with_cancel()
        nodes[#nodes + 1], queue[#queue + 1] = child, child
      end
    end
    local group = weft.group(weft.background())
    for i, ctx in ipairs(nodes) do
      group:go(function()
        if i % 2 == 0 then
          ctx:cancel()
        end
        ctx:wait()
        return ctx:err().kind
      end)
    end
    root:cancel()
    local results = assert(group:wait())
    for i = 1, results.n do
      assert.equal("canceled", results[i])
    end
    group:close()
  end)

  it("TestLayersCancel, TestLayersTimeout", function()
    for _, layers in ipairs({ 5, 30 }) do
      local seed = os.time() + layers
      math.randomseed(seed)
      local ctx, values, cancels = weft.background(), {}, {}
      for i = 1, layers do
        local what = math.random(3)
        if what == 1 then
          ctx = ctx:with_value(i, "value " .. i)
          values[i] = "value " .. i
        else
          ctx = what == 2 and ctx:with_cancel() or ctx:with_timeout(1000)
          cancels[#cancels + 1] = ctx
        end
      end
      ctx = ctx:with_cancel()
      for i = 1, layers do
        assert.equal(values[i], ctx:value(i), "seed " .. seed)
      end
      assert.is_nil(ctx:err())
      local top = cancels[1] or ctx
      top:cancel()
      assert.equal("canceled", kind_of(ctx), "seed " .. seed)
      for i = 1, layers do
        assert.equal(values[i], ctx:value(i), "seed " .. seed)
      end
    end
  end)

  it("TestCancelRemoves: children that are done burden their parent no more", function()
    local parent = weft.background():with_cancel()
    local before = weft.stats()
    for _ = 1, 100 do
      parent:with_cancel():cancel()
      parent:with_timeout(1000):cancel()
    end
    collectgarbage()
    collectgarbage()
    local after = weft.stats()
    assert.is_true(after.timers <= before.timers)
    assert.is_true(after.contexts <= before.contexts + (jit and 200 or 0)) -- compiled traces may hold some
    parent:cancel()
  end)

  it("TestCause", function()
    local parent = weft.background():with_cancel()
    local child = parent:with_cancel()
    parent:cancel("parent cause")
    child:cancel("child cause")
    assert.equal("parent cause", tostring(parent:cause()))
    assert.equal("parent cause", tostring(child:cause()))
    parent = weft.background():with_cancel()
    child = parent:with_cancel()
    child:cancel("child cause")
    parent:cancel("parent cause")
    assert.equal("child cause", tostring(child:cause()))
    local timed = weft.background():with_timeout(0, "too slow")
    assert.equal("too slow", tostring(timed:cause()))
    assert.equal("deadline", kind_of(timed))
    local plain = weft.background():with_cancel()
    assert.is_nil(plain:cause())
    plain:cancel()
    assert.equal("canceled", plain:cause().kind)
  end)

  it("TestWithCancelCanceledParent", function()
    local parent = weft.background():with_cancel()
    parent:cancel("because")
    for _, child in ipairs({ parent:with_cancel(), parent:with_timeout(3600), parent:with_value("k", 1) }) do
      assert.equal("canceled", kind_of(child)) -- at once
      assert.equal("because", tostring(child:cause()))
    end
  end)

  it("TestAfterFuncCalledAsynchronously", function()
    local ctx, called, gate = weft.background():with_cancel(), weft.channel(), weft.channel()
    ctx:after(function()
      called:send(true)
      gate:recv()
    end)
    ctx:cancel() -- returns while the function runs
    called:recv()
    gate:send(true)
  end)

  it("TestCauseRace", function()
    for _ = 1, 20 do
      local ctx = weft.background():with_cancel()
      local results = assert(weft.scope(weft.background(), function(group)
        for i = 1, 4 do
          group:go(function()
            ctx:cancel("cause " .. i)
            return tostring(ctx:cause())
          end)
        end
      end))
      for i = 2, 4 do
        assert.equal(results[1], results[i]) -- the first one stays
      end
    end
  end)

  it("TestWithoutCancel", function()
    local parent = weft.background():with_value("k", "v"):with_timeout(1000)
    local ctx = parent:without_cancel()
    assert.is_nil(ctx:deadline())
    parent:cancel()
    assert.is_nil(ctx:err())
    assert.equal("v", ctx:value("k"))
    local child = ctx:with_cancel()
    child:cancel()
    assert.equal("canceled", kind_of(child))
  end)

  it("TestAfterFuncCalledAfterCancel", function()
    local ctx, called = weft.background():with_cancel(), weft.channel(2)
    local stop = ctx:after(function()
      called:send(true)
    end)
    assert.same({ nil, nil, "empty" }, { called:try_recv() })
    ctx:cancel()
    called:recv()
    assert.is_false(stop())
    ctx:after(function() -- of one that is done: soon
      called:send(true)
    end)
    called:recv()
  end)

  it("TestAfterFuncCalledAfterTimeout", function()
    testing.virtual_clock(function(clock)
      local ctx, called = weft.background():with_timeout(1), weft.channel(1)
      ctx:after(function()
        called:send(true)
      end)
      assert.is_true((called:recv()))
      assert.is_true(math.abs(clock:elapsed() - 1) < 1e-6)
    end)
  end)

  it("TestAfterFuncNotCalledAfterStop", function()
    testing.virtual_clock(function()
      local ctx, called = weft.background():with_cancel(), weft.channel(1)
      local stop = ctx:after(function()
        called:send(true)
      end)
      assert.is_true(stop())
      ctx:cancel()
      assert.equal("timeout", weft.select({ { recv = called }, timeout = 1 }))
      assert.is_false(stop())
    end)
  end)
end)
