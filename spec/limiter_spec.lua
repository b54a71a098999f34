-- Limiters between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local rejects, virtually = calls.rejects, virtual.virtually
local run, settle = tasks.run, tasks.settle

local function near(expected, number)
  assert.is_true(math.abs(expected - number) < 1e-3, ("%g is not near %g"):format(number, expected))
end

-- A bucket that does not fill while a test runs.
local function still(burst)
  return weft.limiter({ rate = 1e-9, burst = burst })
end

describe("weft.limiter", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("starts full and is emptied", function()
    local l = still(3)
    assert.equal(3, l:burst())
    assert.equal(1e-9, l:rate())
    assert.is_true(l:allow())
    assert.is_true(l:wait(2))
    assert.is_false(l:allow())
    assert.is_true(l:allow(0))
    near(0, l:tokens())
    l:give_back(2)
    assert.is_true(l:wait(2))
    l:give_back()
    near(1, l:tokens())
  end)

  it("has a burst of one unless told otherwise", function()
    local l = weft.limiter({ rate = 1e-9 })
    assert.equal(1, l:burst())
    assert.is_true(l:allow())
    assert.is_false(l:allow())
  end)

  for _, where in ipairs({ "default_pool", "inline" }) do
    it("lets pass what rate and burst allow, no more and no less: " .. where, virtually(function(clock)
      local l = weft.limiter({ rate = 20, burst = 5 })
      local pool = where == "inline" and weft.inline or weft.default_pool()
      run({ pool = pool }, function(group)
        for _ = 1, 10 do
          group:go(function()
            for _ = 1, 20 do
              assert(l:wait())
            end
          end)
        end
      end)
      near((200 - 5) / 20, clock:elapsed())
    end))
  end

  it("lets everything pass at an infinite rate", function()
    local l = weft.limiter({ rate = math.huge })
    for _ = 1, 1000 do
      assert.is_true(l:wait(1e9))
    end
    assert.equal(0, l:reserve(7))
  end)

  it("fails at once when more is wanted than the burst", function()
    local l = still(2)
    for _, method in ipairs({ "wait", "allow", "reserve" }) do
      local ok, err = l[method](l, 3)
      assert.is_nil(ok)
      assert.equal("too_large", err.kind)
      assert.equal(("limiter:%s: 3 is more than the limiter's burst of 2"):format(method), err.message)
    end
    near(2, l:tokens())
  end)

  it("fails at once, and takes nothing, when the turn would come after the deadline", virtually(function(clock)
    local l = weft.limiter({ rate = 0.001, burst = 2 })
    assert.is_true(l:allow(2))
    local results = assert(weft.all(weft.background():with_timeout(60), {
      a = function()
        local ok, err = l:wait(2)
        assert(ok == nil and weft.is(err, "deadline"), tostring(err))
        return tostring(err)
      end,
    }))
    near(0, clock:elapsed())
    assert.equal("limiter:wait: to wait for 2 would exceed the context's deadline", results.a)
    near(0, l:tokens())
  end))

  it("fails at once, too, when its turn and the deadline are at the same moment", virtually(function(clock)
    local l = weft.limiter({ rate = 0.1, burst = 1 })
    l:wait()
    local function wait_at_most(seconds)
      return assert(weft.all(weft.background():with_timeout(seconds), {
        a = function()
          local ok, err = l:wait()
          return ok and "in time" or err.kind
        end,
      }, { pool = weft.inline })).a
    end
    assert.equal("deadline", wait_at_most(10))
    near(0, clock:elapsed())
    assert.equal("in time", wait_at_most(10.001))
    near(10, clock:elapsed())
  end))

  it("serves strictly in the order of asking, whatever is wanted", function()
    local l = still(3)
    run({ pool = weft.inline }, function(group)
      local order = {}
      l:wait(3)
      for i, n in ipairs({ 2, 3, 1, 1 }) do
        group:go(function()
          l:wait(n)
          order[#order + 1] = i
        end)
      end
      settle(group)
      near(-7, l:tokens())
      l:give_back(1)
      settle(group)
      assert.same({}, order)
      assert.is_false(l:allow())
      l:give_back(1)
      settle(group)
      assert.same({ 1 }, order)
      l:give_back(3)
      settle(group)
      assert.same({ 1, 2 }, order)
      l:give_back(2)
      group:wait()
      assert.same({ 1, 2, 3, 4 }, order)
    end)
  end)

  it("counts a reservation behind those who wait", virtually(function(clock)
    local l = weft.limiter({ rate = 0.001, burst = 10 })
    near(0, l:reserve(10))
    near(5000, l:reserve(5))
    clock:advance(1000)
    near(5000, l:reserve(1))
    l:give_back(6)
    near(1, l:tokens())
    assert.equal(math.huge, (function()
      local never = weft.limiter({ rate = 0 })
      never:wait()
      return never:reserve()
    end)())
  end))

  it("settles an estimate by what was used", function()
    local l = still(100)
    assert.is_true(l:wait(60))
    l:settle(60, 10)
    near(90, l:tokens())
    assert.is_true(l:wait(20))
    l:settle(20, 500)
    near(-410, l:tokens())
    assert.is_false(l:allow(0))
    run({ pool = weft.inline }, function(group)
      local waiting = group:go(function()
        return l:wait(1)
      end)
      settle(group)
      assert.not_equal("done", waiting:status())
      l:settle(411, 0)
      assert.is_true(waiting:wait())
    end)
  end)

  it("lets nobody pass during a pause", virtually(function(clock)
    local l = still(5)
    l:pause(math.huge)
    assert.is_false(l:allow())
    run({ pool = weft.inline }, function(group)
      local waiting = group:go(function()
        return l:wait(2)
      end)
      settle(group)
      assert.not_equal("done", waiting:status())
      l:pause_until(weft.now()) -- an earlier end: nothing changes
      settle(group)
      assert.not_equal("done", waiting:status())
      l:resume()
      assert.is_true(waiting:wait())
    end)
    near(3, l:tokens())
    l:pause_until(weft.now() + 60)
    clock:advance(59)
    assert.is_false(l:allow())
    assert.is_true(l:wait(3))
    near(60, clock:elapsed())
  end))

  it("holds back those who wait already when a pause begins", virtually(function(clock)
    local l = weft.limiter({ rate = 1, burst = 1 })
    l:wait()
    run({ pool = weft.inline }, function(group)
      group:go(function()
        l:wait()
      end)
      settle(group)
      l:pause(30)
    end)
    near(30, clock:elapsed())
  end))

  it("applies new settings to those who wait", function()
    local l = still(4)
    run({ pool = weft.inline }, function(group)
      l:wait(4)
      local large = group:go(function()
        return select(2, l:wait(4))
      end)
      local small = group:go(function()
        return l:wait(1)
      end)
      settle(group)
      l:set({ burst = 2 })
      assert.equal("too_large", large:wait().kind)
      assert.not_equal("done", small:status())
      l:set({ rate = 1e6 })
      assert.is_true(small:wait())
      assert.equal(2, l:burst())
      assert.equal(1e6, l:rate())
    end)
  end)

  it("takes nothing for who is cancelled while waiting, and lets the next one move up", function()
    local l = still(5)
    l:wait(5)
    run({ pool = weft.inline, collect = true }, function(group)
      local first = group:go(function()
        l:wait(5)
      end)
      local second = group:go(function()
        return l:wait(1)
      end)
      settle(group)
      l:give_back(2)
      settle(group)
      assert.not_equal("done", second:status())
      first:cancel("not needed")
      assert.is_true(second:wait())
      assert.equal("canceled", select(2, first:wait()).kind)
      near(1, l:tokens())
    end)
  end)

  it("raises in a context that is done, and takes nothing", function()
    local l = still(2)
    local ctx = weft.background():with_cancel()
    ctx:cancel("over")
    local _, err = weft.all(ctx, {
      a = function()
        l:wait()
      end,
    })
    assert.equal("canceled", err.kind)
    near(2, l:tokens())
  end)

  it("is one limiter wherever it was sent", function()
    local l, through = still(100), weft.channel(1)
    through:send({ limiter = l })
    assert.equal(l, through:recv().limiter)
    run({}, function(group)
      for _ = 1, 4 do
        group:go(function(_, other)
          assert(l == other)
          for _ = 1, 25 do
            assert(other:allow())
          end
        end, l)
      end
    end)
    assert.is_false(l:allow())
  end)

  it("names wrong arguments", function()
    local l = still(5)
    rejects("bad argument 'options' to weft.limiter: expected a table, got no value", weft.limiter)
    rejects("bad argument 'rate' to weft.limiter: expected a number >= 0, got nil", weft.limiter, {})
    rejects("bad argument 'rate' to weft.limiter: expected a number >= 0, got nan", weft.limiter, { rate = 0 / 0 })
    rejects("bad argument 'rate' to weft.limiter: expected a number >= 0, got %-1", weft.limiter, { rate = -1 })
    rejects("bad argument 'burst' to weft.limiter: expected a whole number", weft.limiter, { rate = 1, burst = 0 })
    rejects("bad option 'bust' to weft.limiter: known are rate, burst", weft.limiter, { rate = 1, bust = 1 })
    rejects("bad option to weft.limiter: keys are names", weft.limiter, { 5 })
    rejects("bad argument 'n' to limiter:wait: expected a whole number", l.wait, l, 1.5)
    rejects("bad argument 'n' to limiter:allow: expected a whole number", l.allow, l, -1)
    rejects("bad argument 'n' to limiter:reserve: expected a whole number", l.reserve, l, "1")
    rejects("bad argument 'n' to limiter:give_back: expected a whole number", l.give_back, l, {})
    rejects("bad argument 'taken' to limiter:settle", l.settle, l)
    rejects("bad argument 'used' to limiter:settle", l.settle, l, 1, -1)
    rejects("bad argument 'seconds' to limiter:pause", l.pause, l, -1)
    rejects("bad argument 'at' to limiter:pause_until", l.pause_until, l)
    rejects("bad option 'n' to limiter:set", l.set, l, { n = 1 })
    rejects("bad argument 'self' to limiter:wait: expected a weft limiter, got table", l.wait, {})
    near(5, l:tokens())
  end)
end)
