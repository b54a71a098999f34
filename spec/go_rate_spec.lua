-- Behaviours of golang.org/x/time/rate, each named after its test there. A step, Go's t1, is 0.1 s of a virtual clock.
--
-- Not here: tests of times that jump back (clocks do not), of Reservation.Cancel with reservations made after it and
-- of cancelling too late: give_back gives all back, whatever came after.
local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local STEP = 0.1

local function near(expected, got)
  assert.is_true(math.abs(expected - got) < 1e-4, ("%g, not %g"):format(got, expected))
end

-- Runs fn(at) on a virtual clock; at(n) waits until step n.
local function with_steps(fn)
  testing.virtual_clock(function()
    local start = weft.now()
    fn(function(step)
      weft.sleep(math.max(0, start + step * STEP + 1e-7 - weft.now()))
    end, start)
  end)
end

local function run_allows(limiter, steps)
  with_steps(function(at)
    limiter = weft.limiter(limiter)
    for i, step in ipairs(steps) do
      at(step[1])
      assert.equal(step[3], limiter:allow(step[2]) == true, "step " .. i)
    end
  end)
end

-- Each: step, n, and the step at which it may act, or false when it is refused.
local function run_reserves(at, limiter, steps)
  for i, step in ipairs(steps) do
    at(step[1])
    local delay = limiter:reserve(step[2])
    if step[3] then
      near(step[3], step[1] + delay / STEP)
    else
      assert.is_nil(delay, "step " .. i)
    end
  end
end

describe("golang.org/x/time/rate", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestLimiterBurst1", function()
    run_allows({ rate = 10, burst = 1 }, {
      { 0, 1, true }, { 0, 1, false }, { 0, 1, false }, { 1, 1, true }, { 1, 1, false }, { 1, 1, false },
      { 2, 2, false }, { 2, 1, true }, { 2, 1, false },
    })
  end)

  it("TestLimiterBurst3", function()
    run_allows({ rate = 10, burst = 3 }, {
      { 0, 2, true }, { 0, 2, false }, { 0, 1, true }, { 0, 1, false }, { 1, 4, false }, { 2, 1, true },
      { 3, 1, true }, { 4, 1, true }, { 4, 1, true }, { 4, 1, false }, { 4, 1, false }, { 9, 3, true }, { 9, 0, true },
    })
  end)

  it("TestLimiter_noTruncationErrors", function()
    assert.is_true(weft.limiter({ rate = 0.7692307692307693, burst = 1 }):allow())
  end)

  it("TestSimultaneousRequests", function()
    local limiter = weft.limiter({ rate = 1e-6, burst = 5 })
    local results = weft.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }, function()
      return limiter:allow()
    end)
    local count = 0
    for _, passed in ipairs(results) do
      count = count + (passed and 1 or 0)
    end
    assert.equal(5, count)
  end)

  it("TestLongRunningQPS", function()
    testing.virtual_clock(function()
      local limiter, passed = weft.limiter({ rate = 100, burst = 100 }), 0
      for _ = 1, 2500 do
        passed = passed + (limiter:allow() and 1 or 0)
        weft.sleep(0.002)
      end
      assert.is_true(passed <= 600 and passed >= 598, passed)
    end)
  end)

  it("TestSimpleReserve", function()
    with_steps(function(at)
      run_reserves(at, weft.limiter({ rate = 10, burst = 2 }), { { 0, 2, 0 }, { 0, 2, 2 }, { 3, 2, 4 } })
    end)
  end)

  it("TestMix", function()
    with_steps(function(at)
      local limiter = weft.limiter({ rate = 10, burst = 2 })
      run_reserves(at, limiter, { { 0, 3, false }, { 0, 2, 0 } })
      at(1)
      assert.is_false(limiter:allow(2))
      run_reserves(at, limiter, { { 1, 2, 2 } })
      assert.is_false(limiter:allow(1))
      at(3)
      assert.is_true(limiter:allow(1))
    end)
  end)

  it("TestCancelInvalid", function()
    with_steps(function(at)
      run_reserves(at, weft.limiter({ rate = 10, burst = 2 }), { { 0, 2, 0 }, { 0, 3, false }, { 0, 2, 2 } })
    end)
  end)

  it("TestCancelLast", function()
    with_steps(function(at)
      local limiter = weft.limiter({ rate = 10, burst = 2 })
      run_reserves(at, limiter, { { 0, 2, 0 }, { 0, 2, 2 } })
      at(1)
      limiter:give_back(2)
      run_reserves(at, limiter, { { 1, 2, 2 } })
    end)
  end)

  it("TestReserveSetLimit", function()
    with_steps(function(at)
      local limiter = weft.limiter({ rate = 5, burst = 2 })
      run_reserves(at, limiter, { { 0, 2, 0 }, { 0, 2, 4 } })
      at(2)
      limiter:set({ rate = 10 })
      run_reserves(at, limiter, { { 2, 1, 4 } })
    end)
  end)

  it("TestReserveSetBurst", function()
    with_steps(function(at)
      local limiter = weft.limiter({ rate = 5, burst = 2 })
      run_reserves(at, limiter, { { 0, 2, 0 }, { 0, 2, 4 } })
      at(3)
      limiter:set({ burst = 4 })
      run_reserves(at, limiter, { { 3, 4, 12 } }) -- Go's test reserves at t0, in the past: t9
    end)
  end)

  it("TestReserveSetLimitCancel", function()
    with_steps(function(at)
      local limiter = weft.limiter({ rate = 5, burst = 2 })
      run_reserves(at, limiter, { { 0, 2, 0 }, { 0, 2, 4 } })
      at(2)
      limiter:set({ rate = 10 })
      limiter:give_back(2)
      run_reserves(at, limiter, { { 2, 2, 3 } })
    end)
  end)

  it("TestWaitSimple, TestReserveMax", function()
    with_steps(function(at, start)
      local limiter = weft.limiter({ rate = 10, burst = 3 })
      local canceled = weft.background():with_cancel()
      canceled:cancel()
      local function wait(n)
        return function()
          return limiter:wait(n)
        end
      end
      assert.equal("canceled", select(2, weft.all(canceled, { wait(1) })).kind)
      assert.equal("too_large", select(2, limiter:wait(4)).kind)
      assert.is_true(limiter:wait(2))
      near(0, weft.now() - start)
      assert.is_true(limiter:wait(3))
      near(2 * STEP, weft.now() - start)
      local soon = weft.background():with_timeout(STEP * 1.5)
      assert.is_truthy(weft.all(soon, { wait(1) })) -- the near future
      assert.equal("deadline", select(2, weft.all(soon, { wait(1) })).kind)
      at(3)
    end)
  end)

  it("TestWaitCancel", function()
    with_steps(function(at, start)
      local limiter = weft.limiter({ rate = 10, burst = 3 })
      local ctx = weft.background():with_cancel()
      assert.is_true(limiter:wait(2))
      local group = weft.group(ctx)
      local task = group:go(function()
        limiter:wait(3)
      end)
      at(1)
      ctx:cancel()
      assert.equal("canceled", select(2, task:wait()).kind)
      group:close()
      assert.is_true(limiter:wait(2)) -- nothing was taken
      near(STEP, weft.now() - start)
    end)
  end)

  it("TestWaitTimeout", function()
    with_steps(function(_, start)
      local limiter = weft.limiter({ rate = 10, burst = 3 })
      local ctx = weft.background():with_timeout(STEP)
      assert.is_true(limiter:wait(2))
      local _, err = weft.all(ctx, {
        function()
          return limiter:wait(3)
        end,
      })
      assert.equal("deadline", err.kind)
      assert.matches("would exceed the context's deadline", tostring(err))
      near(0, weft.now() - start)
      ctx:cancel()
    end)
  end)

  it("TestWaitInf", function()
    assert.is_true(weft.limiter({ rate = math.huge }):wait(3))
  end)

  it("TestZeroLimit", function()
    local limiter = weft.limiter({ rate = 0, burst = 1 })
    assert.is_true(limiter:allow())
    assert.is_false(limiter:allow())
  end)

  it("TestSetAfterZeroLimit", function()
    with_steps(function(_, start)
      local limiter = weft.limiter({ rate = 0, burst = 1 })
      assert.is_true(limiter:allow())
      assert.is_false(limiter:allow())
      limiter:set({ rate = 10 })
      assert.is_true(limiter:wait())
      near(STEP, weft.now() - start)
    end)
  end)

  it("TestTinyLimit", function()
    local limiter = weft.limiter({ rate = 1e-10, burst = 1 })
    assert.is_true(limiter:allow())
    assert.is_false(limiter:allow())
    assert.is_true(limiter:reserve() > 9e9)
  end)
end)
