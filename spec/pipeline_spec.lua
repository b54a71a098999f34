-- Pipelines: order, bounds, errors by stage and item, cancellation.

local leaks = require "spec.support.leaks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local function numbers(n)
  local list = {}
  for i = 1, n do
    list[i] = i
  end
  return list
end

describe("weft.pipeline", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local function double()
    return weft.stage("double", function(value)
      return value * 2
    end)
  end

  it("passes every item through all stages, results in the order of the items", function()
    local pipeline = weft.pipeline {
      double(),
      weft.stage("add", function(value)
        return value + 1
      end),
    }
    local results, err = pipeline:run(nil, numbers(500))
    assert.is_nil(err)
    assert.equal(500, results.n)
    for i = 1, 500 do
      assert.equal(2 * i + 1, results[i])
    end
  end)

  it("takes the context or leaves it out", function()
    local pipeline = weft.pipeline { double() }
    assert.same({ 2, 4, n = 2 }, pipeline:run { 1, 2 })
    assert.same({ 2, 4, n = 2 }, (pipeline:run({ 1, 2 }, { limit = 1, collect = true })))
    local sum = 0
    for _, value in pipeline:stream({ 1, 2, 3 }, { limit = 2 }) do
      sum = sum + value
    end
    assert.equal(12, sum)
    local ok, raised = pcall(pipeline.run, pipeline, weft.background(), nil)
    assert.is_false(ok)
    assert.matches("bad argument 'items'", raised, 1, true)
  end)

  it("hands stages their context and the item's index", function()
    local pipeline = weft.pipeline {
      weft.stage("look", function(value, ctx, index)
        return { value = value, index = index, name = ctx:value "name" }
      end),
    }
    local ctx = weft.background():with_value("name", "outer")
    local results = assert(pipeline:run(ctx, { "a", "b" }))
    assert.same({ value = "b", index = 2, name = "outer" }, results[2])
  end)

  it("reads an iterator only as far as the limit allows", function()
    local given, running = 0, 0
    local pipeline = weft.pipeline { double() }
    local function items()
      if given == 40 then
        return nil
      end
      given = given + 1
      running = running + 1
      assert.is_true(running <= 4)
      return given
    end
    local sum = 0
    for _, value in pipeline:stream(nil, items, { limit = 4 }) do
      running = running - 1
      sum = sum + value
    end
    assert.equal(2 * 40 * 41 / 2, sum)
  end)

  it("never lets more items into a stage than its limit, and never less", virtual.virtually(function(clock)
    local inside, most = weft.semaphore(3), weft.channel(1000)
    local pipeline = weft.pipeline {
      weft.stage("narrow", function(value)
        most:send(inside:try_acquire()) -- false when a fourth is inside
        weft.sleep(1)
        inside:release()
        return value
      end, { limit = 3 }),
    }
    assert(pipeline:run(nil, numbers(60), { limit = 30 }))
    for _ = 1, 60 do
      assert.is_true((most:recv()))
    end
    virtual.near(60 / 3, clock:elapsed())
  end))

  it("names the stage and the item of the first failure and stops", function()
    local pipeline = weft.pipeline {
      double(),
      weft.stage("check", function(value)
        if value == 14 then
          return nil, "fourteen is not allowed"
        end
        return value
      end),
    }
    local results, err = pipeline:run(nil, numbers(20))
    assert.is_nil(results)
    assert.equal("check", err.stage)
    assert.equal(7, err.index)
    assert.matches("stage 'check', item 7 %(.-pipeline_spec%.lua:%d+%) failed: fourteen is not allowed", tostring(err))
  end)

  it("collects all failures in the order of the items", function()
    local pipeline = weft.pipeline {
      weft.stage("odd", function(value)
        if value % 2 == 0 then
          error("even: " .. value)
        end
        return value
      end),
    }
    local results, err = pipeline:run(nil, numbers(10), { collect = true })
    assert.equal(9, results[9])
    assert.equal("joined", err.kind)
    assert.equal(5, #err.errors)
    for i, failure in ipairs(err.errors) do
      assert.equal(2 * i, failure.index)
      assert.equal("odd", failure.stage)
    end
    assert.matches("5 of 10 items failed", tostring(err))
  end)

  it("ends when its context is cancelled", function()
    local ctx = weft.background():with_cancel()
    local started = weft.channel(0)
    local pipeline = weft.pipeline {
      weft.stage("wait", function(value)
        started:send(value)
        weft.sleep(math.huge)
      end),
    }
    local canceller = weft.group()
    canceller:go(function()
      started:recv()
      ctx:cancel "enough"
    end)
    local results, err = pipeline:run(ctx, { 1 })
    canceller:wait()
    canceller:close()
    assert.is_nil(results)
    assert.is_true(weft.is(err, "canceled"))
    assert.equal("wait", err.stage or "wait")
  end)

  it("rejects what is no stage, no function, no list", function()
    assert.has_error(function()
      weft.pipeline {}
    end, "bad argument 'stages' to weft.pipeline: expected a list of at least one stage, got 0")
    assert.error_matches(function()
      weft.pipeline { function() end }
    end, "bad argument 'stages%[1%]' to weft.pipeline: expected a weft.stage, got function")
    assert.error_matches(function()
      weft.stage("x", nil)
    end, "bad argument 'fn' to weft.stage: expected a function, got nil")
    assert.error_matches(function()
      weft.stage("x", function() end, { limit = 0 })
    end, "bad argument 'limit' to weft.stage: expected a whole number >= 1, got 0")
    assert.error_matches(function()
      weft.stage("x", function() end, { speed = 3 })
    end, "bad option 'speed' to weft.stage: known are limit, rate, retry, workers")
  end)

  describe("stages", function()
    it("are tried again as they say, and items keep their index", function()
      local tries = weft.dict()
      local pipeline = weft.pipeline {
        double(),
        weft.stage("flaky", function(value, _, index)
          local try = tries:incr(index)
          if index % 10 == 0 or index % 3 == 0 and try < 3 then
            return nil, "not yet"
          end
          return { value, try }
        end, { retry = { attempts = 3, base = 0 } }),
      }
      local results, err = pipeline:run(nil, numbers(60), { collect = true })
      for i = 1, 60 do
        if i % 10 == 0 then
          assert.is_nil(results[i])
        else
          assert.same({ 2 * i, i % 3 == 0 and 3 or 1 }, results[i])
        end
      end
      assert.equal(6, #err.errors)
      for n, failure in ipairs(err.errors) do
        assert.equal(10 * n, failure.index)
        assert.equal("flaky", failure.stage)
        assert.equal(3, #failure.cause.attempts)
        assert.match("not yet %(after 3 attempts%)", failure.message)
      end
    end)

    it("are tried again also when they raise", function()
      local tries = weft.dict()
      local pipeline = weft.pipeline { weft.stage("flaky", function(value)
        return tries:incr("n") < 3 and error "boom" or value
      end, { retry = { attempts = 3, base = 0 } }) }
      assert.same({ "x", n = 1 }, assert(pipeline:run(nil, { "x" })))
      assert.equal(3, tries:get "n")
    end)

    it("show which items a budget skipped", function()
      local budget = weft.budget { usd = 3 }
      local pipeline = weft.pipeline { weft.stage("pay", function(value)
        local ok, err = budget:reserve(1)
        if not ok then
          return nil, err
        end
        budget:settle(1, 1)
        return value
      end, { retry = 5 }) }
      local results, err = pipeline:run(nil, numbers(8), { collect = true, limit = 1 })
      assert.same({ 1, 2, 3, n = 8 }, results)
      assert.equal(5, #err.errors)
      for i, failure in ipairs(err.errors) do
        assert.equal("skipped_budget", failure.kind)
        assert.equal(3 + i, failure.index)
      end
    end)

    it("let so many items in a second", virtual.virtually(function(clock)
      local pipeline = weft.pipeline { weft.stage("slow", function(value) return value end, { rate = 2 }) }
      assert(pipeline:run(nil, numbers(21)))
      virtual.near(10, clock:elapsed())
    end))

    it("cross to tasks, alone and in their pipeline", function()
      local pool = weft.pool { threads = 1 } -- whose state knows neither
      local double = weft.stage("double", function(value) return 2 * value end, { limit = 2, retry = 2 })
      local made = weft.pipeline { double, weft.stage("next", function(value) return value + 1 end) }
      local results = assert(weft.all({
        alone = function()
          local results = assert(weft.pipeline({ double }):run(nil, { 1, 2 }, { pool = weft.inline }))
          return results[1] + results[2]
        end,
        whole = function()
          local results = assert(made:run(nil, { 1, 2 }))
          return results[1] + results[2]
        end,
      }, { pool = pool }))
      assert.same({ alone = 6, whole = 8 }, results)
      pool:close()
    end)

    it("refuse misuse by name", function()
      for _, case in ipairs {
        { { rate = 0 }, "bad argument 'rate' to weft.stage: expected a number of items a second > 0, got 0" },
        { { retry = "x" }, "bad argument 'retry' to weft.stage: expected a number of attempts or a table, got 'x'" },
        { { retry = 0 }, "bad argument 'retry.attempts' to weft.stage: expected a whole number >= 1, got 0" },
      } do
        local ok, err = pcall(function() weft.stage("s", print, case[1]) end)
        assert.is_false(ok)
        assert.equal(case[2], (err:gsub("^.-pipeline_spec.lua:%d+: ", "")))
      end
      local made = weft.pipeline { weft.stage("s", print) }
      for _, method in ipairs { "run", "stream" } do
        local ok, err = pcall(function() made[method](made, nil) end)
        assert.is_false(ok)
        assert.match("bad argument 'items' to pipeline:" .. method .. ": expected a list or an iterator, got nil", err)
      end
    end)
  end)
end)
