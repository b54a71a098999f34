-- Groups from their making to their end: misuse, leaving, dropping, nesting, weft.inline, where a call
-- may block, and many tasks at once.

local weft = require "weft"
local leaks = require "spec.support.leaks"

local has_close = _VERSION ~= "Lua 5.1"

local function start_sleeper(group)
  local started = weft.channel(1)
  local task = group:go(function()
    started:send(true)
    weft.sleep(math.huge)
  end)
  started:recv()
  return task
end

describe("a group's life:", function()
  before_each(leaks.before)
  after_each(leaks.after)

  describe("misuse", function()
    it("of weft.group raises and names the argument", function()
      assert.error_matches(function()
        weft.group(42)
      end, "bad argument 'ctx' to weft.group: expected a weft context or a table of options, got 42")
      assert.error_matches(function()
        weft.group(weft.background(), 42)
      end, "bad argument 'options' to weft.group")
      assert.error_matches(function()
        weft.group { limits = 3 }
      end, "bad option 'limits' to weft.group: known are limit, pool, collect")
      for _, limit in ipairs { 0, -1, 1.5, 0 / 0, math.huge, "3" } do
        assert.error_matches(function()
          weft.group { limit = limit }
        end, "bad argument 'limit' to weft.group")
      end
      assert.error_matches(function()
        weft.group { pool = "outline" }
      end, "bad argument 'pool' to weft.group: expected a pool or weft.inline")
      assert.error_matches(function()
        weft.group { "limit" }
      end, "bad option to weft.group")
    end)

    it("of group:go raises and names the argument", function()
      local group = weft.group()
      for _, bad in ipairs { 42, true, {} } do
        assert.error_matches(function()
          group:go(bad)
        end, "bad argument 'fn or name' to group:go: expected a function")
      end
      assert.error_matches(function()
        group:go()
      end, "bad argument 'fn or name' to group:go")
      assert.error_matches(function()
        group:go("name", "no function")
      end, "bad argument 'fn' to group:go: expected a function, got 'no function'")
      assert.error_matches(function()
        group.go(function() end)
      end, "bad argument 'self' to group:go: expected a group %(call it with ':'%)")
      group:close()
    end)

    it("of methods on foreign values raises", function()
      local group = weft.group()
      for _, name in ipairs { "go", "try_go", "wait", "join", "close", "cancel", "stats", "completed" } do
        for _, value in ipairs { 42, "x", {}, io.stdout, { io.stdout } } do
          assert.error_matches(function()
            group[name](value)
          end, "bad argument 'self' to group:" .. name)
        end
      end
      local task = group:go(function() end)
      assert.has_error(function()
        task.wait(io.stdout)
      end)
      assert.error_matches(function()
        group:error_of(0)
      end, "bad argument 'task' to group:error_of")
      group:close()
    end)

    it("after a failed go leaves the group as it was", function()
      local group = weft.group()
      assert.has_error(function()
        group:go(function() end, io.stdout)
      end)
      group:go(function()
        return "fine"
      end)
      assert.same({ "fine", n = 1 }, group:wait())
      group:close()
    end)
  end)

  describe("leaving", function()
    it("cancels what still runs, waits for it, and may be repeated", function()
      local group = weft.group()
      local task = start_sleeper(group)
      group:close()
      assert.equal("canceled", task:status())
      assert.equal(0, group:stats().running)
      group:close()
    end)

    it("by <close> does the same", function()
      if not has_close then
        return pending("Lua 5.1 has no <close>")
      end
      local run = load [[
        local weft, start_sleeper = ...
        local task
        do
          local group <close> = weft.group()
          task = start_sleeper(group)
        end
        return task
      ]]
      assert.equal("canceled", run(weft, start_sleeper):status())
    end)

    it("by <close> on an error keeps the error", function()
      if not has_close then
        return pending("Lua 5.1 has no <close>")
      end
      local run = load [[
        local weft, start_sleeper = ...
        local group <close> = weft.group()
        start_sleeper(group)
        error("the body's", 0)
      ]]
      local ok, err = pcall(run, weft, start_sleeper)
      assert.is_false(ok)
      assert.equal("the body's", err)
    end)

    for name, pool in pairs({ pool = weft.default_pool(), inline = weft.inline }) do
      it("by <close> waits in a task that raises, before the task has ended, with " .. name, function()
        if not has_close then
          return pending("Lua 5.1 has no <close>")
        end
        local run = load [[
          local weft, pool, gate, log = ...
          local group = weft.group({ pool = pool })
          local task = group:go(function()
            local inner <close> = weft.group({ pool = pool })
            local started = weft.channel(1)
            inner:go(function()
              started:send(true)
              pcall(weft.sleep, math.huge)
              weft.shield(30, function()
                gate:send("cleans up")
                gate:recv()
                log:send("cleaned up")
              end)
            end)
            started:recv()
            error("the body's", 0)
          end)
          gate:recv()
          local status = task:status()
          gate:send(true)
          local _, err = task:wait()
          group:close()
          return status, err, log:try_recv()
        ]]
        local status, err, last = run(weft, pool, weft.channel(0), weft.channel(1))
        assert.equal("running", status)
        assert.equal("the body's", err.message)
        assert.matches("in function 'error'", err.traceback)
        assert.equal("cleaned up", last)
      end)
    end

    it("runs what is to be closed in a task that raises as code that may block", function()
      if not has_close then
        return pending("Lua 5.1 has no <close>")
      end
      local run = load [[
        local weft = ...
        local log = weft.channel(2)
        local group = weft.group({ collect = true })
        local task = group:go(function()
          local guard <close> = setmetatable({}, {
            __close = function(_, err)
              weft.sleep(0.001)
              log:send(err)
            end,
          })
          error({ code = 7 })
        end)
        local _, first = task:wait()
        task = group:go(function()
          local guard <close> = setmetatable({}, {
            __close = function()
              error("the handler's", 0)
            end,
          })
          error("the body's", 0)
        end)
        local _, second = task:wait()
        group:close()
        return first, log:recv(), second
      ]]
      local first, seen, second = run(weft)
      assert.same({ code = 7 }, first.value)
      assert.same({ code = 7 }, seen)
      assert.equal("the handler's", second.message) -- as Lua has it
      assert.matches("stack traceback", second.traceback)
    end)

    it("in a task that is cancelled still waits for the nested tasks", function()
      local group, ended = weft.group(), weft.channel(1)
      local task = group:go(function()
        local inner = weft.group()
        local started = weft.channel(1)
        inner:go(function()
          started:send(true)
          pcall(weft.sleep, math.huge)
          ended:try_send("cleaned up")
        end)
        started:recv()
        local ok = pcall(weft.sleep, math.huge)
        inner:close()
        return ok
      end)
      while task:status() ~= "running" do
        weft.sleep(0)
      end
      group:cancel()
      group:join()
      assert.is_true(#ended <= 1) -- the nested task may never have started
      group:close()
    end)

    it("by dropping it cancels its tasks, at the next collection", function()
      local channel = weft.channel(0)
      do
        local group = weft.group()
        group:go(function()
          weft.shield(math.huge, function() end)
          channel:send("runs")
          local ok, err = pcall(weft.sleep, math.huge)
          weft.shield(30, function()
            channel:send(ok or err.kind)
          end)
        end)
        assert.equal("runs", channel:recv())
      end
      collectgarbage()
      collectgarbage()
      assert.equal("canceled", channel:recv())
    end)
  end)

  it("is not left before its tasks have ended, though the task that leaves it is cancelled", function()
    local gate, order = weft.channel(), {}
    local group = weft.group { pool = weft.inline, collect = true }
    local task = group:go(function()
      local inner = weft.group { pool = weft.inline }
      inner:go(function()
        weft.shield(3600, function()
          gate:recv()
        end)
        order[#order + 1] = "its task"
      end)
      weft.sleep(0) -- so that it starts
      inner:close()
      order[#order + 1] = "left"
    end)
    local function settle()
      for _ = 1, 5 do
        weft.sleep(0)
      end
    end
    settle()
    task:cancel()
    settle()
    assert.same({}, order)
    gate:send(true)
    task:wait()
    assert.same({ "its task", "left" }, order)
    group:close()
  end)

  describe("nesting", function()
    it("three deep returns results", function()
      local function add_up(_, depth)
        if depth == 0 then
          return 1
        end
        local weft_here = require "weft"
        local group = weft_here.group()
        for _ = 1, 3 do
          group:go(function(_, fn, d)
            return fn(nil, d, fn)
          end, function(_, d, fn)
            if d == 0 then
              return 1
            end
            local inner, sum = weft_here.group(), 0
            for _ = 1, 3 do
              inner:go(fn, d - 1, fn)
            end
            for _, value in ipairs(assert(inner:wait())) do
              sum = sum + value
            end
            return sum
          end, depth - 1)
        end
        local sum = 0
        for _, value in ipairs(assert(group:wait())) do
          sum = sum + value
        end
        return sum
      end
      local group = weft.group()
      group:go(add_up, 3)
      assert.equal(27, assert(group:wait())[1])
      group:close()
    end)

    it("three deep passes a failure up as a chain of causes", function()
      local group = weft.group()
      group:go("a", function()
        local g1 = weft.group()
        g1:go("b", function()
          local g2 = weft.group()
          g2:go("c", function()
            error("bottom", 0)
          end)
          assert(g2:wait())
        end)
        return g1:wait()
      end)
      local _, err = group:wait()
      assert.equal("a", err.task)
      assert.equal("b", err.cause.task)
      assert.equal("c", err.cause.cause.task)
      assert.equal("bottom", err.cause.cause.message)
      group:close()
    end)

    it("three deep is cancelled from above", function()
      local group, ready = weft.group(), weft.channel(0)
      group:go(function()
        local g1 = weft.group()
        g1:go(function()
          local g2 = weft.group()
          g2:go(function()
            ready:send(true)
            weft.sleep(math.huge)
          end)
          g2:wait()
        end)
        g1:wait()
      end)
      ready:recv()
      group:cancel("all of it")
      local _, err = group:wait()
      assert.equal("canceled", err.kind)
      group:close()
    end)

    it("reaches a nested group through task:cancel", function()
      local group, ready = weft.group { collect = true }, weft.channel(0)
      local task = group:go(function()
        local inner = weft.group()
        inner:go(function()
          ready:send(true)
          weft.sleep(math.huge)
        end)
        return inner:wait()
      end)
      ready:recv()
      task:cancel()
      assert.equal("canceled", select(2, task:wait()).kind)
      assert.is_nil(group.ctx:err())
      group:close()
    end)

    it("fills a pool of one thread without a deadlock", function()
      local pool = weft.pool { threads = 1 }
      local group = weft.group { pool = pool }
      for i = 1, 10 do
        group:go(function(_, k)
          local inner = weft.group { pool = pool }
          inner:go(function(_, j)
            return j + 1
          end, k)
          return assert(inner:wait())[1]
        end, i)
      end
      local results = assert(group:wait())
      assert.equal(11, results[10])
      group:close()
      assert.is_true(pool:close())
    end)
  end)

  describe("weft.inline", function()
    it("shares captured variables and passes any value", function()
      local group, sum, seen = weft.group { pool = weft.inline }, 0, nil
      for i = 1, 10 do
        group:go(function(_, k)
          sum = sum + k
        end, i)
      end
      local task = group:go(function(_, file)
        seen = file
        return file
      end, io.stdout)
      assert.equal(io.stdout, task:wait())
      assert(group:wait())
      assert.equal(55, sum)
      assert.equal(io.stdout, seen)
      group:close()
    end)

    it("runs tasks in turns: one that waits lets the others go on", function()
      local group, log = weft.group { pool = weft.inline }, {}
      local channel = weft.channel(0)
      group:go(function()
        log[#log + 1] = "waits"
        local value = channel:recv()
        log[#log + 1] = value
      end)
      group:go(function()
        log[#log + 1] = "sends"
        channel:send("received")
      end)
      assert(group:wait())
      assert.same({ "waits", "sends", "received" }, log)
      group:close()
    end)

    it("reports failures like any other group, the same table", function()
      local group, raised = weft.group { pool = weft.inline }, { message = "mine" }
      group:go("local", function()
        error(raised)
      end)
      local _, err = group:wait()
      assert.equal(raised, err.value)
      assert.equal("local", err.task)
      group:close()
    end)

    it("cancels parked tasks and runs nothing that had not started", function()
      local group, ran = weft.group { pool = weft.inline }, false
      local parked = false
      group:go(function()
        parked = true
        weft.sleep(math.huge)
      end)
      weft.sleep(0)
      weft.sleep(0)
      assert.is_true(parked)
      group:go(function()
        ran = true
      end)
      group:close()
      assert.is_false(ran)
    end)

    it("in a task runs beside that task", function()
      local group = weft.group()
      group:go(function()
        local inner, n = weft.group { pool = weft.inline }, 0
        for _ = 1, 5 do
          inner:go(function()
            weft.sleep(0)
            n = n + 1
          end)
        end
        assert(inner:wait())
        return n
      end)
      assert.equal(5, assert(group:wait())[1])
      group:close()
    end)
  end)

  describe("where Lua cannot yield", function()
    local function error_of_task(fn, ...)
      local group = weft.group()
      group:go(fn, ...)
      local _, err = group:wait()
      group:close()
      return err and err.message
    end

    it("a call that would block raises and names the C function", function()
      local message = error_of_task(function()
        table.sort({ 1, 2, 3 }, function()
          weft.sleep(0.001)
          return false
        end)
      end)
      assert.truthy(message:find("weft.sleep would block inside a C call (sort)", 1, true), message)
      message = error_of_task(function()
        return (("abc"):gsub(".", function()
          weft.channel():recv()
        end))
      end)
      assert.truthy(message:find("channel:recv would block inside a C call (gsub)", 1, true), message)
    end)

    it("pcall is no obstacle", function()
      assert.is_nil(error_of_task(function()
        local ok, err = pcall(pcall, function()
          weft.sleep(0)
        end)
        assert(ok, err)
      end))
    end)

    it("a coroutine of the task's own may block", function()
      local message = error_of_task(function()
        local channel = weft.channel(0)
        local group = weft.group()
        group:go(function()
          channel:send("from afar")
        end)
        local receive = coroutine.wrap(function()
          for value in channel:iter() do
            coroutine.yield(value)
          end
        end)
        if receive() ~= "from afar" then
          error("lost a value")
        end
      end)
      assert.is_nil(message)
    end)

    it("a coroutine of the script may wait", function()
      local group, result = weft.group(), nil
      group:go(function()
        return "from a task"
      end)
      local co = coroutine.create(function()
        result = group:wait()[1]
      end)
      assert(coroutine.resume(co))
      assert.equal("dead", coroutine.status(co))
      assert.equal("from a task", result)
      group:close()
    end)

    it("a task may use coroutines that do not block", function()
      local group = weft.group()
      group:go(function()
        local sum = 0
        for v in coroutine.wrap(function()
          for i = 1, 4 do
            coroutine.yield(i)
          end
        end) do
          sum = sum + v
        end
        return sum
      end)
      assert.equal(10, assert(group:wait())[1])
      group:close()
    end)
  end)

  describe("a pool", function()
    it("with a full queue makes try_go refuse and go wait", function()
      local pool = weft.pool { threads = 1, queue = 2 }
      local group = weft.group { pool = pool }
      local started, gate = weft.channel(1), weft.channel(1)
      group:go(function()
        started:send(true)
        local n = 0
        while not gate:try_recv() do
          n = n + 1 -- keeps the thread
        end
      end)
      started:recv()
      local refused = false
      for _ = 1, 100 do
        if not group:try_go(function() end) then
          refused = true
        end
      end
      assert.is_true(refused or has_close) -- preemption may run what is queued
      gate:send(true)
      for _ = 1, 20 do
        assert(group:go(function() end))
      end
      assert(group:wait())
      group:close()
      pool:close()
    end)

    it("that is closed refuses tasks with an error", function()
      local pool = weft.pool { threads = 1 }
      pool:close()
      local group = weft.group { pool = pool }
      local task, err = group:go(function() end)
      assert.is_nil(task)
      assert.equal("closed", err.kind)
      assert.truthy(err.message:find("the pool is closed", 1, true))
      assert.same({ n = 0 }, group:wait())
      group:close()
    end)
  end)

  describe("a task that is refused because its context is done", function()
    for name, pool in pairs({ ["on threads"] = false, ["of weft.inline"] = weft.inline }) do
      it("is reported by wait, though nobody looked at what go returned: " .. name, function()
        local ctx = weft.background():with_cancel()
        ctx:cancel("too late")
        local group = weft.group(ctx, { pool = pool or nil })
        group:go(function() end)
        local results, err = group:wait()
        assert.is_nil(results)
        assert.equal("canceled", err.kind)
        assert.matches("too late", err.message, 1, true)
        group:close()
      end)
    end

    it("is no task of a group that collects, but its error is reported", function()
      local group = weft.group({ collect = true })
      assert(group:go(function()
        return "before"
      end):wait())
      group:cancel("enough")
      group:go(function() end)
      local results, err = group:wait()
      assert.same({ "before", n = 1 }, results)
      assert.equal("canceled", err.kind)
      group:close()
    end)

    it("never hides the failure that cancelled the group", function()
      local group = weft.group()
      local task = group:go(function()
        error("the real one", 0)
      end)
      task:wait()
      group:go(function() end)
      local _, err = group:wait()
      assert.matches("the real one", err.message, 1, true)
      group:close()
    end)
  end)

  describe("many tasks", function()
    it("10,000 of them parked are cancelled at once", function()
      local group, n = weft.group(), os.getenv "WEFT_SAN" == "thread" and 500 or 10000 -- it minds longjmp
      local gate = weft.waitgroup()
      gate:add(n)
      local function park()
        gate:done()
        weft.sleep(math.huge)
      end
      for _ = 1, n do
        group:go(park)
      end
      gate:wait()
      group:cancel("enough")
      local _, err = group:wait()
      assert.equal("canceled", err.kind)
      assert.equal(n, group:stats().failed)
      group:close()
    end)

    it("in many groups at once end", function()
      local groups = {}
      for i = 1, 200 do
        groups[i] = weft.group()
        for _ = 1, 10 do
          groups[i]:go(function(_, k)
            return k
          end, i)
        end
      end
      for i = 1, 200 do
        assert.equal(i, assert(groups[i]:wait())[10])
        groups[i]:close()
      end
    end)
  end)
end)
