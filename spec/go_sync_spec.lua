-- Behaviours of Go's sync.WaitGroup, and of golang.org/x/sync's errgroup, semaphore and singleflight, each named after its
-- test there.
local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local testing = require "weft.testing"
local weft = require "weft"

local rejects = calls.rejects
local run, settle = tasks.run, tasks.settle

local ROUNDS = os.getenv("WEFT_SAN") and 100 or 1000

describe("sync.WaitGroup", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestWaitGroup", function()
    local one, two, exited = weft.waitgroup(), weft.waitgroup(), weft.channel(16)
    for _ = 1, 8 do -- reuse
      one:add(16)
      two:add(16)
      run(nil, function(group)
        for _ = 1, 16 do
          group:go(function()
            one:done()
            two:wait()
            exited:send(true)
          end)
        end
        one:wait()
        for _ = 1, 16 do
          assert.same({ nil, nil, "empty" }, { exited:try_recv() })
          two:done()
        end
        for _ = 1, 16 do
          exited:recv()
        end
      end)
    end
  end)

  it("TestWaitGroupMisuse", function()
    local waiting = weft.waitgroup()
    waiting:add(1)
    waiting:done()
    rejects("would fall below zero", waiting.done, waiting)
    assert.equal(0, waiting:count())
  end)

  it("TestWaitGroupRace", function()
    for _ = 1, ROUNDS / 10 do
      local waiting, n = weft.waitgroup(), weft.dict()
      run(nil, function(group)
        for _ = 1, 2 do
          waiting:add()
          group:go(function()
            n:incr("n")
            waiting:done()
          end)
        end
        waiting:wait()
        assert.equal(2, n:get("n"))
      end)
    end
  end)

  it("TestWaitGroupGo", function()
    local waiting, group, count = weft.waitgroup(), weft.group(), weft.dict()
    for _ = 1, 10 do
      waiting:go(group, function()
        count:incr("n")
      end)
    end
    waiting:wait()
    assert.equal(10, count:get("n"))
    group:close()
  end)
end)

describe("errgroup", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestZeroGroup", function()
    local errors = { "one", "two" }
    for _, case in ipairs({ {}, { false }, { 1 }, { 1, false }, { 1, false, 2 } }) do
      local group, first = weft.group({ pool = weft.inline }), nil
      for _, which in ipairs(case) do
        group:go(function()
          if which then
            return nil, errors[which]
          end
        end)
        first = first or which and errors[which]
        local results, err = group:wait()
        assert.equal(first == nil or first == false, results ~= nil)
        if first then
          assert.matches(first, tostring(err))
        end
      end
      group:close()
    end
  end)

  it("TestWithContext: done with the first failure, and after wait", function()
    for _, fails in ipairs({ true, false }) do
      local group = weft.group()
      group:go(function()
        if fails then
          error("doomed")
        end
      end)
      group:wait()
      assert.equal(fails, group.ctx:err() ~= nil)
      group:close() -- leaving ends it in any case
      assert.is_not_nil(group.ctx:err())
    end
  end)

  it("TestTryGo", function()
    local group, gate = weft.group({ limit = 2 }), weft.channel()
    local function work()
      gate:recv()
    end
    assert.is_truthy(group:try_go(work))
    assert.is_truthy(group:try_go(work))
    assert.is_false(group:try_go(work))
    gate:send(1)
    while group:stats().running == 2 do
      weft.sleep(0)
    end
    assert.is_truthy(group:try_go(work))
    gate:close()
    assert.is_truthy(group:wait())
    group:close()
  end)

  it("TestGoLimit", function()
    local active, most = weft.dict(), weft.dict()
    local group = weft.group({ limit = 4 })
    for _ = 1, 100 do
      group:go(function()
        local n = active:incr("n")
        most:update("n", function(m)
          return math.max(m or 0, n)
        end)
        weft.sleep(0)
        active:incr("n", -1)
      end)
    end
    assert.is_truthy(group:wait())
    assert.is_true(most:get("n") <= 4)
    group:close()
  end)

  it("TestCancelCause", function()
    local group = weft.group()
    group:go(function()
      error("the doomed one")
    end)
    local _, err = group:wait()
    assert.matches("the doomed one", tostring(group.ctx:cause()))
    assert.matches("the doomed one", tostring(err))
    group:close()
  end)

  it("TestPanic: what a task raises reaches who waits, with its traceback", function()
    local group = weft.group()
    group:go(function()
      local nothing = nil
      return nothing.field
    end)
    local _, err = group:wait()
    assert.matches("attempt to index", tostring(err))
    assert.matches("go_sync_spec.lua", err.traceback)
    group:close()
  end)
end)

describe("semaphore", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestWeighted", function()
    local s, held = weft.semaphore(5), weft.dict()
    run(nil, function(group)
      for i = 1, 10 do
        group:go(function()
          for _ = 1, ROUNDS / 20 do
            local n = i % 5 + 1
            s:acquire(n)
            assert(held:incr("n", n) <= 5)
            held:incr("n", -n)
            s:release(n)
          end
        end)
      end
    end)
    assert.equal(0, s:held())
  end)

  it("TestWeightedPanic", function()
    local s = weft.semaphore(1)
    rejects("1 given back, but only 0 held", s.release, s)
  end)

  it("TestWeightedTryAcquire", function()
    local s, tries = weft.semaphore(2), {}
    s:acquire(1)
    tries[1] = s:try_acquire(1)
    tries[2] = s:try_acquire(1)
    s:release(2)
    tries[3] = s:try_acquire(1)
    s:acquire(1)
    tries[4] = s:try_acquire(1)
    assert.same({ true, false, true, false }, tries)
  end)

  it("TestWeightedAcquire", function()
    testing.virtual_clock(function()
      local s, tries = weft.semaphore(2), {}
      local function try()
        local results = weft.all(weft.background():with_timeout(0.01), {
          function()
            return s:acquire(1)
          end,
        })
        tries[#tries + 1] = results ~= nil
      end
      s:acquire(1)
      try()
      try()
      s:release(2)
      try()
      s:acquire(1)
      try()
      assert.same({ true, false, true, false }, tries)
    end)
  end)

  it("TestWeightedDoesntBlockIfTooBig", function()
    local s = weft.semaphore(2)
    local ok, err = s:acquire(3)
    assert.is_nil(ok)
    assert.equal("too_large", err.kind)
    run(nil, function(group)
      for _ = 1, 3 do
        group:go(function()
          s:acquire(1)
          weft.sleep(0.0001)
          s:release(1)
        end)
      end
    end)
  end)

  it("TestLargeAcquireDoesntStarve", function()
    local n = 4
    local s, running = weft.semaphore(n), weft.channel(1)
    running:send(true)
    run(nil, function(group)
      local ready = weft.waitgroup()
      ready:add(n)
      for _ = 1, n do
        group:go(function()
          s:acquire(1)
          ready:done()
          while #running == 1 do
            weft.sleep(0.0001)
            s:release(1)
            s:acquire(1)
          end
          s:release(1)
        end)
      end
      ready:wait()
      s:acquire(n)
      running:recv()
      s:release(n)
    end)
  end)

  it("TestAllocCancelDoesntStarve", function()
    local s = weft.semaphore(10)
    s:acquire(1) -- the large one that follows must wait
    weft.scope({ pool = weft.inline, collect = true }, function(group)
      local large = group:go(function()
        s:acquire(10)
      end)
      settle(group)
      local small = group:go(function()
        return s:acquire(5)
      end)
      settle(group)
      assert.not_equal("done", small:status())
      large:cancel()
      assert.is_true(small:wait())
    end)
  end)

  it("TestWeightedAcquireCanceled", function()
    local s = weft.semaphore(2)
    s:acquire(1)
    local ctx = weft.background():with_cancel()
    ctx:cancel()
    local _, err = weft.all(ctx, {
      function()
        s:acquire(1) -- there is room, and yet
      end,
    })
    assert.equal("canceled", err.kind)
    assert.equal(1, s:held())
  end)
end)

describe("singleflight", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestDo", function()
    assert.equal("bar", weft.singleflight():run("key", function()
      return "bar"
    end))
  end)

  it("TestDoErr", function()
    local value, err = weft.singleflight():run("key", function()
      return nil, "some error"
    end)
    assert.same({ nil, "some error" }, { value, err })
  end)

  it("TestDoDupSuppress", function()
    local flights, calls, gate, asked = weft.singleflight(), weft.dict(), weft.channel(), weft.waitgroup()
    asked:add(10)
    local results = run(nil, function(group)
      for _ = 1, 10 do
        group:go(function()
          asked:done()
          return flights:run("key", function()
            calls:incr("n")
            return (gate:recv())
          end)
        end)
      end
      asked:wait()
      gate:send("bar")
      while group:stats().running > 0 do -- whoever came too late for the first run
        weft.select({ { send = gate, value = "bar" }, timeout = 0.001 })
      end
    end)
    for i = 1, 10 do
      assert.equal("bar", results[i])
    end
    assert.is_true(calls:get("n") >= 1 and calls:get("n") < 10)
  end)

  it("TestForget", function()
    local flights = weft.singleflight()
    run({ pool = weft.inline }, function(group)
      local first_gate, second_gate = weft.channel(), weft.channel()
      local function ask(gate)
        return group:go(function()
          return flights:run("key", function()
            return (gate:recv())
          end)
        end)
      end
      local first = ask(first_gate)
      settle(group)
      flights:forget("key")
      local second, third = ask(second_gate), ask(weft.channel())
      settle(group)
      first_gate:send(1)
      assert.equal(1, (first:wait()))
      second_gate:send(2)
      assert.equal(2, (second:wait()))
      assert.equal(2, (third:wait()))
    end)
  end)

  it("TestPanicDo: all get what it raised", function()
    local flights, gate = weft.singleflight(), weft.channel()
    weft.scope({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = group:go(function()
          return flights:run("key", function()
            gate:recv()
            error("invalid memory address")
          end)
        end)
      end
      settle(group)
      gate:send(true)
      for i = 1, 5 do
        assert.matches("invalid memory address", tostring(select(2, tasks[i]:wait())))
      end
    end)
  end)
end)
