-- Groups: starting tasks, waiting for them, what a failure does, and leaving.

local weft = require "weft"
local leaks = require "spec.support.leaks"


local function sleep_for_ever()
  weft.sleep(math.huge)
end

-- Starts a task that never ends by itself; returns it once it runs.
local function start_sleeper(group, ...)
  local started = weft.channel(1)
  local name = ...
  local function body()
    started:send(true)
    weft.sleep(math.huge)
  end
  local task = name and group:go(name, body) or group:go(body)
  started:recv()
  return task
end

describe("a group", function()
  local groups
  local function new_group(...)
    local group = weft.group(...)
    groups[#groups + 1] = group
    return group
  end
  before_each(function()
    groups = {}
    leaks.before()
  end)
  after_each(function()
    for _, group in ipairs(groups) do
      group:close()
    end
    groups = nil
    leaks.after()
  end)

  describe("that succeeds", function()
    it("returns results in the order of go, with n", function()
      local group = new_group()
      for i = 1, 20 do
        group:go(function(_, k)
          return k * k
        end, i)
      end
      local results, err = group:wait()
      assert.is_nil(err)
      assert.equal(20, results.n)
      for i = 1, 20 do
        assert.equal(i * i, results[i])
      end
    end)

    it("counts tasks without results in n", function()
      local group = new_group()
      group:go(function() end)
      group:go(function()
        return nil
      end)
      group:go(function()
        return false
      end)
      local results = assert(group:wait())
      assert.equal(3, results.n)
      assert.is_nil(results[1])
      assert.is_nil(results[2])
      assert.is_false(results[3])
    end)

    it("without tasks returns at once", function()
      assert.same({ n = 0 }, new_group():wait())
    end)

    it("can be waited for again, and after it was left", function()
      local group = new_group()
      group:go(function()
        return "a"
      end)
      assert.equal("a", group:wait()[1])
      group:go(function()
        return "b"
      end)
      assert.same({ "a", "b", n = 2 }, group:wait())
      group:close()
      assert.same({ "a", "b", n = 2 }, group:wait())
    end)

    it("wakes each of many, who wait for one task each, by the end of that one", function()
      local n = 300
      local gates, order = {}, {}
      for i = 1, n do
        gates[i] = weft.channel(1)
        table.insert(order, math.random(i), i)
      end
      weft.scope(function(pool_group)
        local tasks = {}
        for i = 1, n do
          tasks[i] = pool_group:go(function(_, gate) return (gate:recv()) end, gates[i])
        end
        weft.scope(nil, { pool = weft.inline }, function(waiters)
          local seen = weft.channel()
          for i = 1, n do
            waiters:go(function() seen:send { i, (tasks[i]:wait()) } end)
          end
          for _, i in ipairs(order) do
            gates[i]:send(i * 10)
            assert.same({ i, i * 10 }, (seen:recv()))
          end
        end)
      end)
    end)

    it("hands all values of a task to task:wait, nil included", function()
      local group = new_group()
      local task = group:go(function()
        return 1, nil, "c", nil
      end)
      local values = { n = select("#", task:wait()), task:wait() }
      assert.same({ n = 4, 1, nil, "c", nil }, values)
      assert.same({ 1, n = 1 }, group:wait())
    end)

    it("passes arguments with their number", function()
      local group = new_group()
      local task = group:go("count", function(ctx, ...)
        return weft.is_context(ctx), select("#", ...), ...
      end, nil, 2, nil)
      assert.same({ n = 5, true, 3, nil, 2, nil }, { n = select("#", task:wait()), task:wait() })
    end)

    it("runs 100,000 tasks", function()
      local group, n = new_group(), 100000
      local function double(_, k)
        return 2 * k
      end
      for i = 1, n do
        group:go(double, i)
      end
      local results, sum = assert(group:wait()), 0
      for i = 1, n do
        sum = sum + results[i]
      end
      assert.equal(n * (n + 1), sum)
      assert.same({ started = n, running = 0, done = n, failed = 0 }, group:stats())
    end)
  end)

  describe("whose task fails", function()
    it("returns nil and the error, and cancels the others", function()
      local group = new_group()
      local other = start_sleeper(group)
      group:go("reader", function()
        error("no such row", 0)
      end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.equal("no such row", err.message)
      assert.equal("error", err.kind)
      assert.equal("reader", err.task)
      assert.equal(2, err.index)
      assert.truthy(tostring(err):find("task 2 'reader' (", 1, true))
      assert.equal("canceled", other:status())
      assert.equal("canceled", group.ctx:err().kind)
      assert.equal("no such row", group.ctx:cause().message)
    end)

    it("takes nil, err for a failure, as io.open returns it", function()
      local group = new_group()
      local task = group:go(function()
        return io.open("/no/such/file")
      end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.truthy(err.message:find("/no/such/file", 1, true))
      assert.is_nil(err.traceback)
      assert.equal("failed", task:status())
    end)

    it("takes a lone nil, or false and a message, for success", function()
      local group = new_group()
      local first = group:go(function()
        return nil
      end)
      local second = group:go(function()
        return false, "not today"
      end)
      assert(group:wait())
      assert.equal("done", first:status())
      assert.same({ false, "not today" }, { second:wait() })
    end)

    it("gives the traceback of the task's own stack", function()
      local group = new_group()
      group:go(function()
        local function deep_inside()
          error("broken")
        end
        deep_inside()
      end)
      local _, err = group:wait()
      assert.truthy(err.traceback:find("deep_inside", 1, true))
      assert.truthy(err.traceback:find("group_spec.lua", 1, true))
      assert.truthy(err.message:find("group_spec.lua:%d+: broken"))
      assert.is_nil(err.traceback:find("%[C%]: in %?")) -- what runs the task is not the script's
    end)

    it("gives the tracebacks of both tasks for an error that one passes on", function()
      local group = new_group()
      group:go(function()
        local function passes_on()
          assert(weft.all { a = function()
            local function deep_inside()
              error("broken")
            end
            deep_inside()
          end })
        end
        passes_on()
      end)
      local _, err = group:wait()
      assert.truthy(err.traceback:find("passes_on", 1, true))
      assert.truthy(err.cause.traceback:find("deep_inside", 1, true))
    end)

    it("keeps a table that was raised as value", function()
      local group = new_group()
      group:go(function()
        error({ code = 42, reason = { "deep" } })
      end)
      local _, err = group:wait()
      assert.same({ code = 42, reason = { "deep" } }, err.value)
      assert.equal("error", err.kind)
    end)

    it("uses the message of a table that was raised", function()
      local group = new_group()
      group:go(function()
        error({ message = "quota used up" })
      end)
      local _, err = group:wait()
      assert.equal("quota used up", err.message)
    end)

    it("asks an object that was raised for its text", function()
      local group = weft.group({ collect = true })
      group:go(function()
        error(setmetatable({}, { __tostring = function() return "the disk is full" end }))
      end)
      for _, refusal in ipairs { function() error("no text") end, function() return 5 end, function() coroutine.yield() end } do
        group:go(function()
          error(setmetatable({}, { __tostring = refusal }))
        end)
      end
      local _, err = group:wait()
      group:close()
      assert.equal("the disk is full", err.errors[1].message)
      for i = 2, 4 do
        assert.equal("(a table was raised)", err.errors[i].message)
      end
    end)

    it("keeps kind and fields of an error of weft", function()
      local group = new_group()
      group:go(function()
        local core = require "weft.core"
        error(core.new_error { kind = "rate_limit", message = "slow down", status = 429 })
      end)
      local _, err = group:wait()
      assert.equal("rate_limit", err.kind)
      assert.equal(429, err.status)
      assert.is_true(weft.is_error(err))
      assert.truthy(err.traceback)
    end)

    it("describes raised values of other types", function()
      for _, value in ipairs { 42, true, false } do
        local group = new_group()
        group:go(function()
          error(value, 0)
        end)
        local _, err = group:wait()
        assert.equal(value, err.value)
        assert.equal("string", type(err.message))
      end
    end)

    it("survives error(nil)", function()
      local group = new_group()
      group:go(function()
        error(nil)
      end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.equal("string", type(err.message))
    end)

    it("fails with a raised value that cannot be sent, described", function()
      local group = new_group()
      group:go(function()
        error(io.stdout)
      end)
      local _, err = group:wait()
      assert.truthy(err.message:find("userdata", 1, true))
    end)

    it("keeps an error of a nested group as cause", function()
      local group = new_group()
      group:go("outer", function()
        local inner = weft.group()
        inner:go("inner", function()
          error("deep trouble", 0)
        end)
        return inner:wait()
      end)
      local _, err = group:wait()
      assert.equal("outer", err.task)
      assert.equal("inner", err.cause.task)
      assert.equal("deep trouble", err.cause.message)
      assert.truthy(tostring(err):find("'outer'.+'inner'.+deep trouble"))
    end)

    it("names the undefined global of a task and tells why", function()
      local group = new_group()
      group:go(function()
        return some_function_of_the_script() -- luacheck: ignore
      end)
      local _, err = group:wait()
      assert.truthy(err.message:find("some_function_of_the_script", 1, true))
      assert.truthy(err.message:find("globals do not exist in tasks", 1, true))
    end)

    it("lets the first error win", function()
      local group = new_group()
      group:go(function()
        error("first", 0)
      end):wait()
      assert.is_nil((group:go(function() end)))
      assert.equal("first", select(2, group:wait()).message)
      assert.equal("first", select(2, group:wait()).message)
    end)

    it("never hides a real error behind the echo of a cancel", function()
      local group, parked, told = new_group(), weft.channel(2), weft.channel(1)
      group:go("echo", function()
        parked:send(true)
        weft.sleep(math.huge)
      end)
      group:go("real", function(ctx)
        parked:send(true)
        pcall(weft.sleep, math.huge)
        weft.shield(10, function()
          told:recv()
        end)
        error("the real one", ctx and 0)
      end)
      parked:recv()
      parked:recv()
      group:cancel("not needed")
      for task in group:completed() do
        if task:status() == "canceled" then
          told:send(true)
        end
      end
      local _, err = group:wait()
      assert.equal("the real one", err.message)
    end)

    it("refuses further tasks with the cause", function()
      local group = new_group()
      group:cancel("enough")
      local task, err = group:go(sleep_for_ever)
      assert.is_nil(task)
      assert.equal("canceled", err.kind)
      assert.equal("enough", err.cause.message)
      task, err = group:try_go(sleep_for_ever)
      assert.is_nil(task)
      assert.equal("canceled", err.kind)
    end)
  end)

  describe("with collect", function()
    it("does not cancel, and joins all errors in the order of go", function()
      local group, gate = new_group { collect = true }, weft.channel(0)
      group:go(function()
        gate:recv()
        error("a", 0)
      end)
      group:go("b", function()
        return nil, "b"
      end):wait()
      group:go(function()
        gate:send(true)
        return "fine"
      end)
      local results, err = group:wait()
      assert.equal("fine", results[3])
      assert.equal(3, results.n)
      assert.equal("joined", err.kind)
      assert.equal(2, #err.errors)
      assert.equal("a", err.errors[1].message)
      assert.equal("b", err.errors[2].message)
      assert.equal("b", err.errors[2].task)
      assert.truthy(tostring(err):find("2 of 3 tasks failed", 1, true))
      assert.is_nil(group.ctx:err())
    end)

    it("returns results alone when nothing failed", function()
      local group = new_group { collect = true }
      group:go(function()
        return 1
      end)
      local results, err = group:wait()
      assert.is_nil(err)
      assert.same({ 1, n = 1 }, results)
    end)
  end)

  describe("with a limit", function()
    it("runs no more tasks at once", function()
      local group, running, high = new_group { limit = 3 }, weft.semaphore(100), weft.channel(50)
      for _ = 1, 50 do
        group:go(function()
          running:acquire()
          high:send(running:held())
          running:release()
        end)
      end
      assert(group:wait())
      for _ = 1, 50 do
        assert.is_true(high:recv() <= 3)
      end
    end)

    it("lets try_go start as many as it says", function()
      for limit = 1, 9 do
        local group, gate = new_group { limit = limit }, weft.channel()
        for i = 1, limit do
          assert.truthy(group:try_go(function() return (gate:recv()) end), i .. " of " .. limit)
        end
        assert.is_false(group:try_go(function() end))
        gate:close()
        group:wait()
      end
    end)

    it("makes try_go return false, and go wait for room", function()
      local group, gate = new_group { limit = 1 }, weft.channel(0)
      group:go(function()
        gate:recv()
      end)
      assert.is_false(group:try_go(function() end))
      gate:send(true)
      group:go(function()
        return "second"
      end)
      assert.equal("second", group:wait()[2])
      assert.truthy(group:try_go(function() end))
    end)

    it("ends a go that waits for room when the group is cancelled", function()
      local group = new_group { limit = 1 }
      start_sleeper(group)
      local helper = new_group()
      local ctx = group.ctx
      helper:go(function()
        ctx:cancel("closing time")
      end)
      local task, err
      repeat
        task, err = group:go(sleep_for_ever)
      until not task
      assert.equal("canceled", err.kind)
      assert.equal("closing time", err.cause.message)
    end)
  end)

  describe("wait with a time", function()
    it("returns nil and a timeout, and the tasks run on", function()
      local group = new_group()
      local task = start_sleeper(group)
      local results, err = group:wait(0)
      assert.is_nil(results)
      assert.equal("timeout", err.kind)
      assert.equal("running", task:status())
      assert.is_nil(group.ctx:err())
    end)

    it("returns results when they are there in time", function()
      local group = new_group()
      group:go(function()
        return 7
      end)
      assert.equal(7, group:wait(math.huge)[1])
    end)

    it("refuses what is no time", function()
      local group = new_group()
      for _, bad in ipairs { -1, 0 / 0, "soon", {} } do
        assert.error_matches(function()
          group:wait(bad)
        end, "bad argument 'seconds' to group:wait")
      end
    end)
  end)

  describe("completed", function()
    it("hands tasks out in the order in which they end", function()
      local group, first, second = new_group { collect = true }, weft.channel(0), weft.channel(0)
      group:go(function()
        first:recv()
        return "one"
      end)
      group:go(function()
        second:recv()
        return nil, "two failed"
      end)
      group:go(function()
        return "three"
      end)
      local seen = {}
      for task, value, err in group:completed() do
        seen[#seen + 1] = { tostring(task), value, err and err.message }
        if #seen == 1 then
          second:send(true)
        elseif #seen == 2 then
          first:send(true)
        end
      end
      assert.same({
        { "weft task 3", "three" },
        { "weft task 2", nil, "two failed" },
        { "weft task 1", "one" },
      }, seen)
    end)

    it("meets tasks that the loop starts", function()
      local group, seen = new_group(), 0
      group:go(function()
        return 3
      end)
      for _, value in group:completed() do
        seen = seen + 1
        for _ = 1, value do
          group:go(function(_, k)
            return k
          end, value - 1)
        end
      end
      assert.equal(1 + 3 + 3 * 2 + 3 * 2 * 1, seen)
    end)
  end)

  describe("its tasks", function()
    it("tell their status", function()
      local group = new_group { collect = true }
      local running = start_sleeper(group)
      assert.equal("running", running:status())
      local done = group:go(function() end)
      done:wait()
      assert.equal("done", done:status())
      local failed = group:go(function()
        error("x")
      end)
      failed:wait()
      assert.equal("failed", failed:status())
      running:cancel()
      running:wait()
      assert.equal("canceled", running:status())
      assert.same({ started = 3, running = 0, done = 1, failed = 2 }, group:stats())
      assert.is_nil(group:error_of(done))
      assert.truthy(group:error_of(failed).message:find("x$"))
      assert.equal("canceled", group:error_of(1).kind)
    end)

    it("can be cancelled alone, with a cause", function()
      local group = new_group { collect = true }
      local one, other = start_sleeper(group, "one"), start_sleeper(group, "other")
      one:cancel("no longer wanted")
      local value, err = one:wait()
      assert.is_nil(value)
      assert.equal("canceled", err.kind)
      assert.equal("one", err.task)
      assert.truthy(err.message:find("no longer wanted", 1, true))
      assert.equal("running", other:status())
      other:cancel()
      assert.equal("context canceled", select(2, other:wait()).message)
    end)

    it("of weft.inline are queued, and run, like others", function()
      local group = new_group { pool = weft.inline }
      local started = weft.channel(1)
      local task = group:go(function()
        started:send(true)
        weft.sleep(math.huge)
      end)
      assert.equal("queued", task:status())
      started:recv()
      assert.equal("running", task:status())
    end)

    it("are queued until a thread takes them", function()
      local pool = weft.pool { threads = 1 }
      local group, gate = new_group { pool = pool }, weft.channel(0)
      local started = weft.channel(1)
      group:go(function()
        started:send(true)
        local n = 0
        while not gate:try_recv() and n < 1e9 do
          n = n + 1
        end
      end)
      started:recv()
      local queued = group:go(function() end)
      local before = queued:status()
      gate:send(true)
      assert(group:wait())
      assert.equal("done", queued:status())
      assert.truthy(before == "queued" or before == "done") -- preemption may have let it run
      pool:close()
    end)

    it("cancelled before they start never run", function()
      local pool, ran = weft.pool { threads = 1 }, weft.channel(1)
      local group, gate = new_group { pool = pool, collect = true }, weft.channel(0)
      group:go(function()
        gate:recv()
      end)
      local ctx = group.ctx
      ctx:cancel()
      assert.is_nil((group:go(function()
        ran:send(true)
      end)))
      group:join()
      assert.equal(0, #ran)
      pool:close()
    end)

    it("wait twice for one task, from the script and from completed", function()
      local group = new_group()
      local task = group:go(function()
        return "v"
      end)
      assert.equal("v", task:wait())
      assert.equal("v", task:wait())
      for _, value in group:completed() do
        assert.equal("v", value)
      end
    end)
  end)
end)
