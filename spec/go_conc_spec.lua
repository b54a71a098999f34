-- Behaviours of github.com/sourcegraph/conc, each named after its test there.
--
-- Not here: tests of its builders' order of calls ("panics on configuration after init"), of callbacks that run one at
-- a time in the order of the input (that is what a loop over weft.map's results does), and of types.
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local run = tasks.run

describe("sourcegraph/conc", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestErrorPool: all errors are joined", function()
    local results, err = weft.scope({ collect = true }, function(group)
      for i = 1, 4 do
        group:go(function()
          if i % 2 == 0 then
            error("error " .. i)
          end
          return i
        end)
      end
    end)
    assert.same({ 1, 3 }, { results[1], results[3] })
    assert.equal(2, #err.errors)
    assert.matches("error 2", tostring(err.errors[1]))
    assert.matches("error 4", tostring(err.errors[2]))
  end)

  it("TestContextPool: WithCancelOnError", function()
    local _, err = weft.scope(function(group)
      group:go(function(ctx)
        ctx:wait()
        ctx:check()
      end)
      group:go(function()
        error("err1")
      end)
    end)
    assert.matches("err1", tostring(err))
  end)

  it("TestPool: limit, and a panic of one does not lose the others", function()
    local completed, most = weft.dict(), weft.dict()
    local _, err = weft.scope({ limit = 3, collect = true }, function(group)
      for i = 1, 20 do
        group:go(function()
          local n = completed:incr("now")
          most:update("n", function(m)
            return math.max(m or 0, n)
          end)
          weft.sleep(0)
          completed:incr("now", -1)
          completed:incr("all")
          assert(i ~= 10, "super bad thing")
        end)
      end
    end)
    assert.equal(20, completed:get("all"))
    assert.is_true(most:get("n") <= 3)
    assert.matches("super bad thing", tostring(err.errors[1]))
  end)

  it("TestResultPool, iter TestMap: results in the order of the input", function()
    local numbers = {}
    for i = 1, 200 do
      numbers[i] = i
    end
    local squares = assert(weft.map(numbers, function(i)
      if i % 7 == 0 then
        weft.sleep(0.0002)
      end
      return i * i
    end))
    for i = 1, 200 do
      assert.equal(i * i, squares[i])
    end
  end)

  it("panics TestCatcher: the first panic, its value and its stack", function()
    local value = { reason = "first" }
    local _, err = weft.scope(function(group)
      group:go(function()
        error(value)
      end)
    end)
    assert.same(value, err.value)
    assert.matches("go_conc_spec.lua", err.traceback)
  end)

  it("TestWaitGroup: nested, and waited for in a task", function()
    local results = assert(weft.scope(function(outer)
      outer:go(function()
        local inner = assert(weft.scope(function(group)
          for i = 1, 5 do
            group:go(function()
              return i
            end)
          end
        end))
        return inner[1] + inner[5]
      end)
    end))
    assert.equal(6, results[1])
  end)

  it("TestContextPool: context error propagates, canceled", function()
    local ctx = weft.background():with_cancel()
    local _, err = weft.scope(ctx, function(group)
      group:go(function(own)
        own:wait()
        own:check()
      end)
      ctx:cancel()
    end)
    assert.equal("canceled", err.kind)
  end)

  it("TestContextPool: context error propagates, timed out", function()
    local ctx = weft.background():with_timeout(0.001)
    local _, err = weft.all(ctx, {
      a = function(own)
        own:wait()
        own:check()
      end,
    })
    assert.equal("deadline", err.kind)
  end)

  it("TestContextPool: return before timed out", function()
    local ctx = weft.background():with_timeout(3600)
    assert.same({ a = 1 }, (weft.all(ctx, {
      a = function()
        return 1
      end,
    })))
    ctx:cancel()
  end)

  it("TestContextPool: no WithCancelOnError", function()
    local gate = weft.channel()
    local results, err = weft.scope({ collect = true }, function(group)
      local first = group:go(function()
        error("err1")
      end)
      group:go(function(ctx)
        gate:recv()
        return ctx:err() == nil
      end)
      first:wait()
      gate:send(true)
    end)
    assert.is_true(results[2])
    assert.equal(1, #err.errors)
  end)

  it("TestContextPool: WithFirstError", function()
    local _, err = weft.scope({ pool = weft.inline }, function(group)
      local first = group:go(function()
        error("err1")
      end)
      group:go(function()
        pcall(weft.sleep, math.huge) -- until the first one has failed
        error("err2")
      end)
      first:wait()
    end)
    assert.matches("err1", tostring(err))
    assert.is_nil(tostring(err):find("err2", 1, true))
  end)

  it("TestContextPool: WithFailFast", function()
    local _, err = weft.scope(function(group)
      group:go(function(ctx)
        ctx:wait()
        ctx:check()
      end)
      group:go(function()
        return nil, "err1"
      end)
    end)
    assert.matches("err1", tostring(err))
    assert.is_false(weft.is(err, "canceled"))
  end)

  it("TestContextPool: WithCancelOnError and panic", function()
    local canceled = weft.dict()
    local ok, err = pcall(function()
      return assert(weft.scope(function(group)
        local ready = weft.waitgroup()
        for _ = 1, 2 do
          ready:add(1)
          group:go(function(ctx)
            ready:done()
            ctx:wait()
            canceled:incr("n")
            ctx:check()
          end)
        end
        ready:wait()
        group:go(function()
          error("abort!")
        end)
      end))
    end)
    assert.is_false(ok)
    assert.matches("abort!", tostring(err))
    assert.equal(2, canceled:get("n"))
  end)

  it("TestErrorPool: wait returns no error if no errors", function()
    local results, err = weft.scope({ collect = true }, function(group)
      for i = 1, 10 do
        group:go(function()
          return i
        end)
      end
    end)
    assert.equal(10, results.n)
    assert.is_nil(err)
  end)

  it("TestPool: is reusable, TestErrorPool: reuse", function()
    local group = weft.group({ collect = true, limit = 2 })
    for round = 1, 3 do
      for i = 1, 10 do
        group:go(function()
          return round * i
        end)
      end
      local results = assert(group:wait())
      assert.equal(10 * round, results.n)
      assert.equal(10 * round, results[results.n])
    end
    group:go(function()
      error("late")
    end)
    assert.matches("late", tostring(select(2, group:wait())))
    group:close()
  end)

  it("TestPool: panics do not exhaust goroutines", function()
    local pool = weft.pool({ threads = 2 })
    local results, err = weft.scope({ pool = pool, limit = 2, collect = true }, function(group)
      for i = 1, 100 do
        group:go(function()
          error("panic " .. i)
        end)
      end
      group:go(function()
        return "still runs"
      end)
    end)
    assert.equal("still runs", results[101])
    assert.equal(100, #err.errors)
    pool:close()
  end)

  it("TestPool: panics on invalid WithMaxGoroutines", function()
    for _, limit in ipairs({ 0, -1, 0.5 }) do
      assert.matches("bad argument 'limit'", select(2, pcall(weft.group, { limit = limit })))
    end
  end)

  it("iter TestMap, TestForEach: empty, and huge inputs", function()
    assert.same({ n = 0 }, weft.map({}, function()
      error("super bad thing")
    end))
    local numbers = {}
    for i = 1, 10000 do
      numbers[i] = i
    end
    local results = assert(weft.map(numbers, function(i)
      return i + 1
    end))
    for i = 1, 10000 do
      assert.equal(i + 1, results[i])
    end
  end)

  it("iter TestIterator: allows more than the default number of tasks at once", function()
    local COUNT = 400 -- a stream's default is 256
    local started, gate = weft.waitgroup(), weft.channel()
    started:add(COUNT)
    local numbers = {}
    for i = 1, COUNT do
      numbers[i] = i
    end
    local results = run({ pool = weft.inline }, function(group)
      group:go(function()
        return #assert(weft.map(numbers, function(i)
          started:done()
          gate:recv()
          return i
        end, { limit = COUNT, chunk = 1 }))
      end)
      started:wait()
      gate:close()
    end)
    assert.equal(COUNT, results[1])
  end)

  it("iter TestForEach: panic is propagated", function()
    local _, err = weft.map({ 1 }, function()
      error("super bad thing")
    end)
    assert.matches("super bad thing", tostring(err))
    assert.matches("go_conc_spec.lua", err.traceback)
  end)

  it("iter TestForEach: mutating inputs is a change of the task's copy", function()
    local items = { { n = 1 }, { n = 2 } }
    local results = assert(weft.map(items, function(item)
      item.n = item.n + 10
      return item.n
    end))
    assert.same({ 11, 12 }, { results[1], results[2] })
    assert.same({ { n = 1 }, { n = 2 } }, items)
    assert(weft.map(items, function(item)
      item.n = item.n + 10
    end, { pool = weft.inline }))
    assert.same({ { n = 11 }, { n = 12 } }, items)
  end)

  it("iter TestMapErr: multiple errors are propagated, with the results of others", function()
    local results, err = weft.map({ 1, 2, 3, 4 }, function(i)
      if i % 2 == 0 then
        return nil, "error " .. i
      end
      return i
    end, { collect = true })
    assert.same({ 1, 3 }, { results[1], results[3] })
    assert.equal(2, #err.errors)
    assert.matches("error 2", tostring(err.errors[1]))
    assert.matches("error 4", tostring(err.errors[2]))
  end)

  it("TestStream: panic in a task is propagated, and in a callback does not block producers", function()
    local failed = 0
    for _, _, err in weft.stream({ 1, 2, 3 }, function(i)
      assert(i ~= 2, "something really bad happened in the task")
      return i
    end) do
      failed = failed + (err and 1 or 0)
    end
    assert.equal(1, failed)
    local numbers = {}
    for i = 1, 100 do
      numbers[i] = i
    end
    local ok, err = pcall(function()
      for _ in weft.stream(numbers, function(i)
        return i
      end, { limit = 5 }) do
        error("something really bad happened in the callback")
      end
    end)
    assert.is_false(ok)
    assert.matches("in the callback", err)
    collectgarbage()
    collectgarbage()
  end)
end)
