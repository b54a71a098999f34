-- Singleflights between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local pack, rejects = calls.pack, calls.rejects
local run, settle = tasks.run, tasks.settle

local MANY = os.getenv("WEFT_SAN") and 101 or 1001

-- How many tasks wait in that call.
local function waiting_for(call)
  local count = 0
  for _, task in ipairs(weft.tasks()) do
    count = count + (task.waits_for and task.waits_for:find(call, 1, true) and 1 or 0)
  end
  return count
end

describe("weft.singleflight", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("calls the function with its arguments and returns what that returns", function()
    local flights = weft.singleflight()
    assert.same(pack(1, nil, 3, nil), pack(flights:run("k", function(...)
      return ...
    end, 1, nil, 3, nil)))
    assert.same(pack(), pack(flights:run("k", function() end)))
    assert.same(pack(nil, "failed"), pack(flights:run("k", function()
      return nil, "failed"
    end)))
  end)

  it("runs once for all who ask at the same time", function()
    local flights, runs, gate, asked = weft.singleflight(), weft.dict(), weft.channel(), weft.waitgroup()
    local group = weft.group()
    asked:add(MANY)
    for i = 1, MANY do
      group:go(function()
        asked:done()
        return flights:run("k", function()
          runs:incr("n")
          gate:recv()
          return { by = i }, "second"
        end)
      end)
    end
    asked:wait()
    repeat
      weft.sleep(0.001)
    until waiting_for("singleflight:run") == MANY - 1 -- and one leads
    gate:send(true)
    local results = assert(group:wait())
    group:close()
    for i = 2, results.n do
      assert.equal(results[1].by, results[i].by)
    end
    assert.equal(1, runs:get("n"))
  end)

  it("shares one run between tasks of the script", function()
    local flights, runs, gate = weft.singleflight(), 0, weft.channel()
    run({ pool = weft.inline }, function(group)
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            runs = runs + 1
            return i, { gate:recv() }
          end)
        end)
      end
      local other = group:go(function()
        return flights:run("other", function()
          return "at once"
        end)
      end)
      assert.equal("at once", (other:wait()))
      gate:send("x")
      for i = 1, 5 do
        local first, second = tasks[i]:wait()
        assert.equal(1, first)
        assert.same({ "x", true }, second)
      end
      assert.equal(1, runs)
    end)
  end)

  it("copies the outcome, so that nobody shares a table", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline }, function(group)
      local tasks = {}
      for i = 1, 2 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            gate:recv()
            return { "mine" }
          end)
        end)
      end
      settle(group)
      gate:send(true)
      local a, b = tasks[1]:wait(), tasks[2]:wait()
      assert.same(a, b)
      assert.not_equal(a, b)
    end)
  end)

  it("raises the error of the run for all", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            gate:recv()
            error({ code = 5 })
          end)
        end)
      end
      settle(group)
      gate:send(true)
      for i = 1, 3 do
        local _, err = tasks[i]:wait()
        assert.same({ code = 5 }, err.value or err.cause and err.cause.value)
      end
    end)
    assert.equal("works again", flights:run("k", function()
      return "works again"
    end))
  end)

  it("tells those who wait when the outcome cannot be sent", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 2 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            gate:recv()
            return coroutine.create(print)
          end)
        end)
      end
      settle(group)
      gate:send(true)
      assert.equal("thread", type(tasks[1]:wait()))
      local _, err = tasks[2]:wait()
      assert.matches("result 1: thread cannot be sent", tostring(err))
    end)
  end)

  it("does not fail the others when the one that runs is cancelled", function()
    local flights, gate, runs = weft.singleflight(), weft.channel(), {}
    run({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            runs[#runs + 1] = i
            gate:recv()
            return "from " .. i
          end)
        end)
      end
      settle(group)
      tasks[1]:cancel("not needed")
      assert.equal("canceled", select(2, tasks[1]:wait()).kind)
      gate:send(true)
      assert.equal("from 2", (tasks[2]:wait()))
      assert.equal("from 2", (tasks[3]:wait()))
      assert.same({ 1, 2 }, runs)
    end)
  end)

  it("does not fail the others when the one that runs turns its cancellation into nil, err", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 2 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            local ok, err = pcall(gate.recv, gate)
            if not ok then
              return nil, err
            end
            return i
          end)
        end)
      end
      settle(group)
      tasks[1]:cancel()
      assert.equal("canceled", select(2, tasks[1]:wait()).kind)
      gate:send(true)
      assert.equal(2, (tasks[2]:wait()))
    end)
  end)

  it("lets one that waits be cancelled alone", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = group:go(function()
          return flights:run("k", function()
            gate:recv()
            return i
          end)
        end)
      end
      settle(group)
      tasks[2]:cancel()
      assert.equal("canceled", select(2, tasks[2]:wait()).kind)
      gate:send(true)
      assert.equal(1, (tasks[1]:wait()))
      assert.equal(1, (tasks[3]:wait()))
    end)
  end)

  it("runs anew after forget, while the old run goes on", function()
    local flights, gate = weft.singleflight(), weft.channel()
    run({ pool = weft.inline }, function(group)
      local function ask(name)
        return group:go(function()
          return flights:run("k", function()
            gate:recv()
            return name
          end)
        end)
      end
      local first, second = ask("old"), ask("old too")
      settle(group)
      flights:forget("k")
      flights:forget("unknown")
      local third = ask("new")
      settle(group)
      gate:send(true)
      gate:send(true)
      assert.equal("old", (first:wait()))
      assert.equal("old", (second:wait()))
      assert.equal("new", (third:wait()))
    end)
  end)

  it("works across threads, with leaders that are cancelled at random", function()
    local flights, inside = weft.singleflight(), weft.dict()
    local seed = os.time()
    local results, err = weft.scope({ collect = true, limit = 40 }, function(group)
      for i = 1, 300 do
        group:go(function(ctx)
          math.randomseed(seed + i)
          local own = math.random(3) == 1 and ctx:with_timeout(math.random() / 500) or ctx
          local results, err = weft.all(own, {
            one = function()
              return flights:run(i % 3, function()
                assert(inside:incr("now " .. i % 3) == 1)
                local _, raised = pcall(weft.sleep, 0.001)
                inside:incr("now " .. i % 3, -1)
                if raised then
                  error(raised, 0)
                end
                return i % 3
              end)
            end,
          })
          if not results then
            assert(own ~= ctx and weft.is(err, "deadline"), tostring(err))
          end
          return results and results.one or i % 3
        end)
      end
    end)
    assert.is_nil(err, "seed " .. seed .. ": " .. tostring(err))
    for i = 1, 300 do
      assert.equal(i % 3, results[i])
    end
  end)

  it("goes to the next one when who leads is collected", function()
    local flights = weft.singleflight()
    run({ pool = weft.inline }, function(group)
      local leader = coroutine.create(function()
        flights:run("k", coroutine.yield)
      end)
      assert(coroutine.resume(leader))
      local waits = group:go(function()
        return flights:run("k", function()
          return "its own"
        end)
      end)
      settle(group)
      assert.not_equal("done", waits:status())
      leader = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.equal("its own", (waits:wait()))
    end)
  end)

  it("shares a nil that is no failure, although who leads was cancelled meanwhile", function()
    local flights, runs = weft.singleflight(), 0
    run({ pool = weft.inline, collect = true }, function(group)
      local function ask()
        return group:go(function(ctx)
          return flights:run("k", function()
            runs = runs + 1
            pcall(ctx.wait, ctx)
            return nil
          end)
        end)
      end
      local leads, waits = ask(), ask()
      settle(group)
      leads:cancel()
      assert.same(pack(nil), pack((waits:wait())))
    end)
    assert.equal(1, runs)
  end)

  it("can be captured and sent", function()
    local flights, through = weft.singleflight(), weft.channel(1)
    through:send({ flights })
    assert.equal(flights, through:recv()[1])
    assert.same({ 7 }, { run({}, function(group)
      group:go(function(_, other)
        assert(other == flights)
        return other:run(true, function()
          return 7
        end)
      end, flights)
    end)[1] })
  end)

  it("has the keys that Lua has", function()
    local flights = weft.singleflight()
    run({ pool = weft.inline }, function(group)
      local gate = weft.channel()
      local one = group:go(function()
        return flights:run(1, function()
          return gate:recv()
        end)
      end)
      local same = group:go(function()
        return flights:run(1.0, error)
      end)
      settle(group)
      assert.equal("string", flights:run("1", function()
        return "string"
      end))
      gate:send("number")
      assert.equal("number", (one:wait()))
      assert.equal("number", (same:wait()))
    end)
  end)

  it("names wrong arguments", function()
    local flights = weft.singleflight()
    rejects("bad argument 'key' to singleflight:run: expected a string, number or boolean, got nil", flights.run,
      flights, nil, print)
    rejects("bad argument 'key' to singleflight:run: .*got table", flights.run, flights, {}, print)
    rejects("bad argument 'fn' to singleflight:run: expected a function, got nil", flights.run, flights, "k")
    rejects("bad argument 'key' to singleflight:forget", flights.forget, flights)
    rejects("bad argument 'self' to singleflight:run: expected a weft singleflight", flights.run, {}, "k", print)
  end)
end)
