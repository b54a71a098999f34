-- Semaphores and waitgroups between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local pack, rejects = calls.pack, calls.rejects
local run, settle, with_pool = tasks.run, tasks.settle, tasks.with_pool

local MANY = os.getenv("WEFT_SAN") and 1001 or 10001

describe("weft.semaphore", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is acquired and released in parts", function()
    local s = weft.semaphore(5)
    assert.equal(5, s:size())
    assert.is_true(s:acquire())
    assert.is_true(s:acquire(3))
    assert.equal(4, s:held())
    assert.is_false(s:try_acquire(2))
    assert.is_true(s:try_acquire())
    assert.is_false(s:try_acquire())
    s:release(4)
    s:release()
    assert.equal(0, s:held())
  end)

  it("fails at once when more is asked than it has", function()
    local s = weft.semaphore(2)
    local ok, err = s:acquire(3)
    assert.is_nil(ok)
    assert.equal("too_large", err.kind)
    assert.matches("3 is more than the semaphore's size of 2", err.message)
    assert.is_true(weft.is(select(2, s:try_acquire(3)), "too_large"))
    assert.is_true(weft.is(select(2, s:with(3, error)), "too_large"))
    assert.equal(0, s:held())
  end)

  it("never lets more be held than its size, on several pools", function()
    local s, most = weft.semaphore(3), weft.channel(2000)
    with_pool(2, function(pool)
      run(nil, function(one)
        run({ pool = pool }, function(two)
          for i = 1, 300 do
            (i % 2 == 0 and one or two):go(function()
              local weight = i % 3 + 1
              s:acquire(weight)
              local held = s:held()
              weft.channel(1):send(held)
              most:send(held >= weight and held or 99)
              s:release(weight)
            end)
          end
        end)
      end)
    end)
    most:close()
    local count = 0
    for held in most:iter() do
      count = count + 1
      assert.is_true(held <= 3)
    end
    assert.equal(300, count)
    assert.equal(0, s:held())
  end)

  it("serves strictly in the order of asking, whatever the weights", function()
    local s = weft.semaphore(3)
    run({ pool = weft.inline }, function(group)
      local order = {}
      s:acquire(3)
      for i, weight in ipairs({ 2, 3, 1, 1 }) do
        group:go(function()
          s:acquire(weight)
          order[#order + 1] = i
        end)
      end
      settle(group)
      assert.equal(4, weft.stats().parked)
      s:release(1)
      settle(group)
      assert.same({}, order)
      assert.is_false(s:try_acquire())
      s:release(1)
      settle(group)
      assert.same({ 1 }, order)
      s:release(1)
      settle(group)
      assert.same({ 1 }, order) -- one is left, and the third wants one; but the second waits before it
      s:release(2)
      settle(group)
      assert.same({ 1, 2 }, order)
      s:release(2)
      assert(group:wait())
      assert.same({ 1, 2, 3, 4 }, order)
      s:release(3)
      assert.equal(0, s:held())
    end)
  end)

  it("lets the next ones proceed when the first in the queue is cancelled", function()
    local s = weft.semaphore(3)
    run({ pool = weft.inline, collect = true }, function(group)
      s:acquire(2)
      local got = {}
      local big = group:go(function()
        s:acquire(3)
        got[#got + 1] = "big"
      end)
      group:go(function()
        s:acquire(1)
        got[#got + 1] = "small"
      end)
      settle(group)
      assert.same({}, got)
      big:cancel()
      local _, err = big:wait()
      assert.equal("canceled", err.kind)
      group:wait()
      assert.same({ "small" }, got)
      assert.equal(3, s:held())
      s:release(3)
    end)
  end)

  it("holds nothing for those who were cancelled while they waited", function()
    local s = weft.semaphore(4)
    with_pool(2, function(pool)
      for round = 1, 20 do
        local group = weft.group({ pool = pool })
        local started = weft.channel(100)
        for i = 1, 40 do
          group:go(function()
            for _ = 1, 20 do
              s:acquire(i % 4 + 1)
              started:try_send(true)
              s:release(i % 4 + 1)
            end
          end)
        end
        for _ = 1, round do
          started:recv()
        end
        group:cancel()
        group:wait()
        group:close()
        assert.equal(0, s:held())
      end
    end)
  end)

  it("raises in a cancelled caller although there is room", function()
    local s = weft.semaphore(1)
    local ctx = weft.background():with_cancel()
    local group = weft.group(ctx, { pool = weft.inline, collect = true })
    local raised
    group:go(function()
      ctx:cancel()
      raised = select(2, pcall(s.acquire, s))
    end)
    group:wait()
    group:close()
    assert.equal("canceled", raised.kind)
    assert.equal(0, s:held())
  end)

  it("wakes every one of many that are parked on a pool", function()
    local s = weft.semaphore(MANY)
    s:acquire(MANY)
    with_pool(1, function(pool)
      run({ pool = pool }, function(group)
        for _ = 1, MANY do
          group:go(function()
            s:acquire()
          end)
        end
        group:go(function()
          s:release(MANY)
        end)
      end)
    end)
    assert.equal(MANY, s:held())
  end)

  describe("resize", function()
    it("lets who waits proceed when it grows", function()
      local s = weft.semaphore(1)
      run({ pool = weft.inline }, function(group)
        s:acquire()
        local got = 0
        for _ = 1, 3 do
          group:go(function()
            s:acquire()
            got = got + 1
          end)
        end
        settle(group)
        assert.equal(0, got)
        s:resize(3)
        settle(group)
        assert.equal(2, got)
        s:resize(4)
        assert(group:wait())
        assert.equal(3, got)
        assert.equal(4, s:held())
      end)
    end)

    it("fails those who wait for more than it has then", function()
      local s = weft.semaphore(4)
      run({ pool = weft.inline }, function(group)
        s:acquire(3)
        local ok, err, small
        group:go(function()
          ok, err = s:acquire(4)
        end)
        group:go(function()
          small = s:acquire(2)
        end)
        settle(group)
        s:resize(2)
        settle(group)
        assert.is_nil(ok)
        assert.equal("too_large", err.kind)
        assert.is_nil(small)
        assert.equal(3, s:held())
        s:release(3)
        assert(group:wait())
        assert.is_true(small)
        assert.equal(2, s:held())
      end)
    end)
  end)

  describe("with", function()
    it("holds its part while the function runs, and gives back what that returns", function()
      local s = weft.semaphore(3)
      assert.same({ "b", nil, 2, n = 3 }, pack(s:with(2, function(_, b)
        return b, nil, s:held()
      end, "a", "b")))
      assert.equal(0, s:held())
    end)

    it("takes one when no weight is given", function()
      local s = weft.semaphore(3)
      assert.same({ 1, "x", n = 2 }, pack(s:with(function(arg)
        return s:held(), arg
      end, "x")))
      assert.same({ 1, n = 1 }, pack(s:with(nil, function()
        return s:held()
      end)))
    end)

    it("releases when the function raises, and passes the error on as it is", function()
      local s = weft.semaphore(3)
      local problem = { code = 7 }
      local ok, raised = pcall(s.with, s, 2, function()
        error(problem)
      end)
      assert.is_false(ok)
      assert.equal(problem, raised)
      assert.equal(0, s:held())
    end)

    it("may block inside, on workers and in tasks of weft.inline", function()
      local s, ch = weft.semaphore(1), weft.channel()
      for _, pool in ipairs({ weft.default_pool(), weft.inline }) do
        local results = run({ pool = pool }, function(group)
          for _ = 1, 10 do
            group:go(function()
              return s:with(1, function()
                return (ch:recv()) + s:held()
              end)
            end)
          end
          for i = 1, 10 do
            ch:send(i)
          end
        end)
        local sum = 0
        for i = 1, 10 do
          sum = sum + results[i]
        end
        assert.equal(65, sum)
      end
      assert.equal(0, s:held())
    end)

    it("releases when it is cancelled inside", function()
      local s, ch, inside = weft.semaphore(3), weft.channel(), weft.channel()
      local group = weft.group()
      group:go(function()
        s:with(3, function()
          inside:send(true)
          ch:recv()
        end)
      end)
      inside:recv()
      assert.equal(3, s:held())
      group:cancel()
      group:wait()
      group:close()
      assert.equal(0, s:held())
    end)

    it("does not call the function when it is cancelled before", function()
      local s, called = weft.semaphore(1), false
      s:acquire()
      run({ pool = weft.inline, collect = true }, function(group)
        local task = group:go(function()
          s:with(1, function()
            called = true
          end)
        end)
        settle(group)
        task:cancel()
      end)
      assert.is_false(called)
      assert.equal(1, s:held())
    end)
  end)

  it("is shared by all states that it is sent to", function()
    local s, ch = weft.semaphore(2), weft.channel(1)
    ch:send({ s })
    run(nil, function(group)
      group:go(function()
        assert(ch:recv()[1]:try_acquire(2))
      end)
    end)
    assert.equal(2, s:held())
  end)

  it("names what is misused", function()
    for _, bad in ipairs({ 0, -1, 1.5, 0 / 0, math.huge, "1", {} }) do
      rejects("bad argument 'n' to weft.semaphore: expected a whole number from 1", weft.semaphore, bad)
    end
    rejects("bad argument 'n' to weft.semaphore", weft.semaphore)
    local s = weft.semaphore(2)
    for _, name in ipairs({ "acquire", "try_acquire", "release" }) do
      for _, bad in ipairs({ 0, -1, 1.5, 0 / 0, "1", {} }) do
        rejects("bad argument 'k' to semaphore:" .. name, s[name], s, bad)
      end
      rejects("bad argument 'self' to semaphore:" .. name .. ": expected a weft semaphore", s[name], weft.channel())
    end
    rejects("bad argument 'n' to semaphore:resize", s.resize, s, 0)
    rejects("bad argument 'fn' to semaphore:with: expected a function, got table", s.with, s, 1, {})
    rejects("bad argument 'k' to semaphore:acquire", s.with, s, "1", print)
    rejects("semaphore:release: 1 given back, but only 0 held", s.release, s)
    assert.equal(0, s:held())
  end)
end)

describe("weft.waitgroup", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("does not wait at zero", function()
    local wg = weft.waitgroup()
    wg:wait()
    wg:add(2)
    wg:add(-2)
    wg:add(0)
    wg:wait()
    assert.equal(0, wg:count())
  end)

  it("keeps the script waiting until all tasks have called done", function()
    local wg, results = weft.waitgroup(), weft.channel(20)
    local group = weft.group()
    for i = 1, 20 do
      wg:add()
      group:go(function()
        results:send(i)
        wg:done()
      end)
    end
    wg:wait()
    assert.equal(20, #results)
    assert(group:wait())
    group:close()
  end)

  it("wakes every one of many that are parked on a pool", function()
    local wg = weft.waitgroup()
    wg:add(2)
    with_pool(1, function(pool)
      run({ pool = pool }, function(group)
        for _ = 1, MANY do
          group:go(function()
            wg:wait()
          end)
        end
        group:go(function()
          wg:done()
          wg:done()
        end)
      end)
    end)
    assert.equal(0, wg:count())
  end)

  it("can be used again after zero", function()
    local wg = weft.waitgroup()
    run({ pool = weft.inline }, function(group)
      local rounds = 0
      for _ = 1, 3 do
        wg:add()
        group:go(function()
          wg:wait()
          rounds = rounds + 1
        end)
        settle(group)
        wg:done()
        settle(group)
      end
      assert.equal(3, rounds)
    end)
  end)

  it("lets a cancelled waiter leave alone", function()
    local wg = weft.waitgroup()
    wg:add()
    run({ pool = weft.inline, collect = true }, function(group)
      local woken = 0
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = group:go(function()
          wg:wait()
          woken = woken + 1
        end)
      end
      settle(group)
      tasks[2]:cancel("no")
      local _, err = tasks[2]:wait()
      assert.equal("canceled", err.kind)
      assert.equal(0, woken)
      wg:done()
      group:wait()
      assert.equal(2, woken)
    end)
  end)

  it("names what is misused, and stays as it was", function()
    local wg = weft.waitgroup()
    rejects("waitgroup:done: the count would fall below zero", wg.done, wg)
    wg:add(1)
    rejects("waitgroup:add: the count would fall below zero", wg.add, wg, -2)
    for _, bad in ipairs({ 1.5, 0 / 0, math.huge, 1e10, "1", {} }) do
      rejects("bad argument 'n' to waitgroup:add: expected a whole number", wg.add, wg, bad)
    end
    for _, name in ipairs({ "add", "done", "wait", "count" }) do
      rejects("bad argument 'self' to waitgroup:" .. name .. ": expected a weft waitgroup", wg[name], {})
    end
    assert.equal(1, wg:count())
  end)
end)

describe("weft.is_context", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("knows contexts from everything else", function()
    local ctx = weft.background():with_cancel()
    assert.is_true(weft.is_context(weft.background()))
    assert.is_true(weft.is_context(ctx))
    for _, other in ipairs({ 1, "x", {}, print, io.stdout, weft.channel(), setmetatable({}, getmetatable("")) }) do
      assert.is_false(weft.is_context(other))
    end
    assert.is_false(weft.is_context(nil))
    local results = run(nil, function(group)
      group:go(function(own)
        return require("weft").is_context(own)
      end)
    end)
    assert.is_true(results[1])
  end)
end)

describe("waitgroup:go", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("counts a task in, and out when it has ended", function()
    local waiting, gate = weft.waitgroup(), weft.channel()
    run(nil, function(group)
      for i = 1, 3 do
        local task = waiting:go(group, "task " .. i, function(_, a, b)
          gate:recv()
          return a + b
        end, i, 1)
        assert.equal(i, task:index())
      end
      assert.equal(3, waiting:count())
      gate:close()
      waiting:wait()
      assert.equal(0, waiting:count())
      assert.equal(0, group:stats().running)
      assert.equal(4, (group:wait())[3])
    end)
  end)

  it("is done although the task raises, is cancelled, or never begins", function()
    local waiting, gate = weft.waitgroup(), weft.channel()
    for _, pool in ipairs({ weft.inline, weft.default_pool() }) do
      local group = weft.group({ collect = true, pool = pool })
      waiting:go(group, function()
        error("x")
      end)
      waiting:go(group, function()
        return nil, "y"
      end)
      local parked = waiting:go(group, function()
        gate:recv()
      end)
      parked:cancel()
      waiting:wait()
      waiting:go(group, function()
        gate:recv()
      end)
      waiting:go(group, function()
        gate:recv()
      end)
      group:cancel()
      waiting:wait()
      assert.equal(0, waiting:count())
      group:wait()
      group:close()
    end
  end)

  it("counts nothing when the task is refused, or cannot be sent", function()
    local waiting, group = weft.waitgroup(), weft.group()
    rejects("cannot be sent", waiting.go, waiting, group, function() end, coroutine.create(print))
    group:cancel("no more")
    local task, err = waiting:go(group, function() end)
    assert.is_nil(task)
    assert.equal("canceled", err.kind)
    assert.equal(0, waiting:count())
    group:close()
    local pool = weft.pool({ threads = 1 })
    pool:close()
    local other = weft.group({ pool = pool })
    assert.equal("closed", select(2, waiting:go(other, function() end)).kind)
    assert.equal(0, waiting:count())
    other:close()
  end)

  it("waits for room like group:go", function()
    local waiting = weft.waitgroup()
    run({ limit = 2 }, function(group)
      for _ = 1, 20 do
        waiting:go(group, function()
          weft.sleep(0)
        end)
        assert.is_true(waiting:count() <= 3)
      end
      waiting:wait()
    end)
  end)

  it("names wrong arguments", function()
    local waiting, group = weft.waitgroup(), weft.group()
    rejects("bad argument 'group' to waitgroup:go: expected a group, got function", waiting.go, waiting, print)
    rejects("bad argument 'group' to waitgroup:go: expected a group, got nil", waiting.go, waiting)
    rejects("bad argument 'fn or name' to group:go: expected a function, got no value", waiting.go, waiting, group)
    rejects("bad argument 'fn' to group:go: expected a function", waiting.go, waiting, group, "name", 5)
    group:close()
  end)
end)
