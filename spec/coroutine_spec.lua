-- Coroutines that a task makes itself: blocking inside of them, errors, cancelling, time slices; on both VMs, in tasks of
-- pools and of weft.inline.

-- What a script gets that takes copies before it loads weft. Under busted weft is loaded already, so a script of
-- its own does.
local early = [[
local create, resume, wrap = coroutine.create, coroutine.resume, coroutine.wrap
local weft = require "weft"
]]

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local weft = require "weft"

local on_54 = _VERSION == "Lua 5.4"
local it_with_processes = os.getenv("WEFT_SAN") == "thread" and function() end or it
local has_slices = on_54 and os.getenv "WEFT_SAN" ~= "thread" -- that delays signals until the next system call

-- One task; what it returned, or its error.
local function run(pool, fn, ...)
  local arguments = { n = select("#", ...), ... }
  local results, err = weft.scope(nil, { pool = pool }, function(group)
    group:go(fn, (table.unpack or unpack)(arguments, 1, arguments.n))
  end)
  return results and results[1], err
end

-- 1, 2 and 3, from a generator that sleeps before each.
local function loop_that_sleeps()
  local seen = {}
  for x in
    coroutine.wrap(function()
      for i = 1, 3 do
        weft.sleep(0.001)
        coroutine.yield(i)
      end
    end)
  do
    seen[#seen + 1] = x
  end
  return seen
end

local function count(...)
  return select("#", ...)
end

local function describe_tasks(title, get_pool)
  describe(title, function()
    local pool

    before_each(function()
      leaks.before()
      pool = get_pool()
    end)
    after_each(function()
      if pool ~= weft.inline then
        pool:close()
      end
      pool = nil
      leaks.after()
    end)

    it("work as usual", function()
      local out = assert(run(pool, function()
        local co = coroutine.create(function(a)
          local b = coroutine.yield(a + 1)
          error("boom " .. b)
        end)
        local ok, first = coroutine.resume(co, 1)
        local failed, message = coroutine.resume(co, 7)
        local dead, why = coroutine.resume(co)
        local wrapped = coroutine.wrap(function()
          error({ code = 5 })
        end)
        local _, raised = pcall(wrapped)
        return { ok, first, failed, message, dead, why, coroutine.status(co), raised.code }
      end))
      assert.is_true(out[1])
      assert.equal(2, out[2])
      assert.is_false(out[3])
      assert.matches("boom 7", out[4])
      assert.is_false(out[5])
      assert.equal("cannot resume dead coroutine", out[6])
      assert.equal("dead", out[7])
      assert.equal(5, out[8])
    end)

    it("may block: the task waits, and its neighbours run", function()
      local gate = weft.channel(0)
      local results = assert(weft.scope(nil, { pool = pool }, function(group)
        group:go(function()
          local values = coroutine.wrap(function()
            for _ = 1, 3 do
              coroutine.yield((gate:recv()))
            end
          end)
          return values() .. values() .. values()
        end)
        group:go(function() -- on the same thread: it can only run while the other waits
          for _, letter in ipairs { "a", "b", "c" } do
            gate:send(letter)
          end
        end)
      end))
      assert.equal("abc", results[1])
    end)

    it("serve a for loop that sleeps", function()
      assert.same({ 1, 2, 3 }, assert(run(pool, loop_that_sleeps)))
    end)

    it("pass values in and out between two waits", function()
      local out = assert(run(pool, function()
        local co = coroutine.create(function(...)
          weft.sleep(0)
          local n = select("#", ...)
          local a, b, c = coroutine.yield(n, nil, "x", nil)
          weft.sleep(0)
          return a, b, c, nil
        end)
        local first = { coroutine.resume(co, nil, nil) }
        local second = { coroutine.resume(co, 1, nil, 3) }
        local last = { coroutine.resume(co) }
        return { first[2], first[4], second[2], second[4], last[1], last[2] }
      end))
      assert.same({ 2, "x", 1, 3, false, "cannot resume dead coroutine" }, out)
    end)

    it("may block several levels deep", function()
      local ch = weft.channel(4)
      for i = 1, 4 do
        ch:send(i)
      end
      local out = assert(run(pool, function()
        local outer = coroutine.wrap(function()
          local inner = coroutine.create(function()
            while true do
              weft.sleep(0)
              coroutine.yield((ch:recv()))
            end
          end)
          local function next_value()
            return select(2, coroutine.resume(inner))
          end
          while true do
            weft.sleep(0)
            coroutine.yield(next_value() + next_value())
          end
        end)
        return { outer(), outer() }
      end))
      assert.same({ 3, 7 }, out)
    end)

    it("may block thirty levels deep, again and again", function()
      local out = assert(run(pool, function()
        local function level(depth)
          return coroutine.wrap(function()
            local below = depth > 1 and level(depth - 1) or function()
              weft.sleep(0)
              return 1
            end
            while true do
              coroutine.yield(below() + 1)
            end
          end)
        end
        local top = level(30)
        return { top(), top(), top() }
      end))
      assert.same({ 31, 31, 31 }, out)
    end)

    it("may block in pcall, and fail after a wait", function()
      local out = assert(run(pool, function()
        local step = coroutine.wrap(function()
          local _, caught = pcall(function()
            weft.sleep(0)
            error("first", 0)
          end)
          coroutine.yield(caught)
          weft.sleep(0)
          error("second")
        end)
        local caught = step()
        local ok, raised = pcall(step)
        local _, dead = pcall(step)
        return { caught, ok, raised, dead }
      end))
      assert.equal("first", out[1])
      assert.is_false(out[2])
      assert.matches("coroutine_spec.lua:%d+: second$", out[3])
      assert.matches("cannot resume dead coroutine$", out[4])
    end)

    it("fail their task with the error and a traceback of its own code alone", function()
      local _, err = run(pool, function()
        local step = coroutine.wrap(function()
          weft.sleep(0)
          error({ code = 7 })
        end)
        step()
      end)
      assert.equal(7, err.value.code)
      assert.matches("coroutine_spec.lua", err.traceback)
      assert.is_nil(err.traceback:find("weft:", 1, true))
    end)

    it("know who runs, and whether they can yield", function()
      local out = assert(run(pool, function()
        local co
        co = coroutine.create(function()
          weft.sleep(0)
          coroutine.yield(coroutine.running() == co, coroutine.status(co))
        end)
        local _, is_running, status = coroutine.resume(co)
        return { is_running, status, coroutine.status(co), (coroutine.running()) ~= co }
      end))
      assert.same({ true, "running", "suspended", true }, out)
    end)

    it("have the task's context", function()
      local out = assert(run(pool, function(ctx)
        local step = coroutine.wrap(function()
          weft.sleep(0)
          coroutine.yield(weft.current():value "name")
        end)
        return { step(), ctx:value "name" }
      end))
      assert.same({}, out)
      local named = weft.background():with_value("name", "ann")
      local results = assert(weft.scope(named, { pool = pool }, function(group)
        group:go(function()
          return coroutine.wrap(function()
            weft.sleep(0)
            return weft.current():value "name"
          end)()
        end)
      end))
      assert.equal("ann", results[1])
    end)

    it("are cancelled where they wait, as often as they try", function()
      local started, told = weft.channel(1), weft.channel(2)
      local group = weft.group { pool = pool }
      group:go(function()
        coroutine.wrap(function()
          local outer = coroutine.wrap(function()
            for _ = 1, 2 do
              started:try_send(true)
              local ok, err = pcall(weft.sleep, math.huge)
              told:try_send(ok or err.kind)
            end
            weft.sleep(math.huge)
          end)
          outer()
        end)()
      end)
      started:recv()
      group:cancel "enough"
      local _, err = group:wait()
      group:close()
      assert.is_true(weft.is(err, "canceled"))
      assert.equal("canceled", (told:try_recv()))
      assert.equal("canceled", (told:try_recv()))
    end)

    it("are left behind half-way without a trace", function()
      local started = weft.channel(0)
      local group = weft.group { pool = pool }
      group:go(function()
        local left = coroutine.wrap(function()
          weft.sleep(0)
          coroutine.yield(1)
        end)
        left()
        coroutine.wrap(function()
          started:send(true)
          started:send(true)
        end)()
      end)
      started:recv()
      group:cancel()
      group:wait()
      group:close()
      assert.is_nil((started:try_recv()))
    end)

    it("cannot block below a C function: the error names it", function()
      local _, err = run(pool, function()
        local step = coroutine.wrap(function()
          while true do
            weft.sleep(0)
            coroutine.yield(true)
          end
        end)
        return (("x"):gsub("x", function()
          step()
        end))
      end)
      assert.matches("weft.sleep would block inside a C call %(gsub%)", tostring(err))
    end)

    it("cannot be sent", function()
      local step = coroutine.wrap(function() end)
      local ok, err = pcall(weft.all, nil, {
        function()
          return step()
        end,
      })
      assert.is_false(ok)
      assert.matches("upvalue 'step': function cannot be sent; it runs a coroutine", tostring(err))
    end)

    it("show where they wait", function()
      local started, gate = weft.channel(0), weft.channel(0)
      local seen
      assert(weft.scope(nil, { pool = pool }, function(group)
        group:go("waiter", function()
          local step = coroutine.wrap(function()
            local function reads()
              gate:recv()
            end
            started:send(true)
            reads()
          end)
          step()
        end)
        started:recv()
        repeat
          for _, task in ipairs(weft.tasks()) do
            seen = task.name == "waiter" and task or seen
          end
        until seen and seen.waits_for == "channel:recv"
        gate:send(true)
      end))
      assert.matches("coroutine_spec.lua:%d+$", seen.where)
      local lines = {}
      for line in seen.traceback:gmatch "[^\n]+" do
        lines[#lines + 1] = line
      end
      assert.matches("recv", lines[2])
      assert.matches("reads", lines[3])
      local in_task = tonumber(lines[#lines]:match ":(%d+):")
      local in_reads = tonumber(lines[3]:match ":(%d+):")
      assert.is_true(in_reads < in_task)
      assert.is_nil(seen.traceback:find("weft:", 1, true))
    end)

    if on_54 then
      it("close what is to be closed when they are cancelled, and when they are closed", function()
        local ch, started = weft.channel(8), weft.channel(0)
        local group = weft.group { pool = pool }
        local source = [[
          local weft, ch, started = ...
          local function closing(name)
            return setmetatable({}, { __close = function() ch:try_send(name) end })
          end
          local closed = coroutine.create(function()
            local a <close> = closing "closed"
            weft.sleep(0)
            coroutine.yield()
          end)
          assert(coroutine.resume(closed))
          assert(coroutine.close(closed))
          coroutine.wrap(function()
            local a <close> = closing "cancelled"
            started:send(true)
            weft.sleep(math.huge)
          end)()
        ]]
        group:go(function()
          assert(load(source))(weft, ch, started)
        end)
        started:recv()
        group:cancel()
        group:wait()
        group:close()
        assert.equal("closed", (ch:try_recv()))
        assert.equal("cancelled", (ch:try_recv()))
      end)

      it("wait for their groups when an error leaves them", function()
        local ended, started = weft.channel(2), weft.channel(0)
        local group = weft.group { pool = pool }
        local source = [[
          local weft, pool, ended, started = ...
          local step = coroutine.wrap(function()
            local inner <close> = weft.group { pool = pool }
            inner:go(function()
              started:send(true)
              pcall(weft.sleep, math.huge)
              weft.shield(60, function() weft.sleep(0.01) end)
              ended:try_send "its task"
            end)
            coroutine.yield()
            weft.sleep(math.huge)
          end)
          step()
          local _, err = pcall(step)
          ended:try_send(err.kind)
        ]]
        local is_inline = pool == weft.inline
        group:go(function()
          assert(load(source))(weft, is_inline and weft.inline or nil, ended, started)
        end)
        started:recv()
        group:cancel()
        group:wait()
        group:close()
        assert.equal("its task", (ended:try_recv()))
        assert.equal("canceled", (ended:try_recv()))
      end)
    end
  end)
end

describe_tasks("coroutines of a pool's task", function()
  return weft.pool { threads = 1 }
end)

describe_tasks("coroutines of a task of weft.inline", function()
  return weft.inline
end)

describe("coroutines that tasks of weft.inline share", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("may be made before, and go on afterwards", function()
    local ch = weft.channel(3)
    local step = coroutine.wrap(function(...)
      local n = select("#", ...)
      while true do
        n = coroutine.yield(n, (ch:recv()))
      end
    end)
    ch:send "outside"
    local n, value = step(nil, nil)
    assert.same({ 2, "outside" }, { n, value })
    local results = assert(weft.scope(nil, { pool = weft.inline }, function(group)
      group:go(function()
        return select(2, step())
      end)
      group:go(function()
        ch:send "inside"
      end)
    end))
    assert.equal("inside", results[1])
    ch:send "after"
    assert.equal("after", (select(2, step())))
  end)

  it("serve one task after the other", function()
    local step = coroutine.wrap(function()
      for i = 1, math.huge do
        weft.sleep(0)
        coroutine.yield(i)
      end
    end)
    local turn = weft.semaphore(1)
    local sum = 0
    assert(weft.scope(nil, { pool = weft.inline }, function(group)
      for _ = 1, 4 do
        group:go(function()
          for _ = 1, 5 do
            turn:with(1, function()
              sum = sum + step()
            end)
          end
        end)
      end
    end))
    assert.equal(210, sum)
  end)

  -- `make` gives the coroutine, how to resume it, and who waits in it.
  local function refuses(make)
    local ch = weft.channel(0)
    local step, resume = make(ch)
    local first, second, main
    local results = assert(weft.scope(nil, { pool = weft.inline }, function(group)
      group:go("reader", function()
        return (select(-1, step()))
      end)
      group:go(function()
        first, second = select(2, resume(1, 2)), select(2, resume())
        main:send(true)
      end)
      main = weft.channel(0)
      main:recv()
      local from_main = select(2, resume("main"))
      assert.matches("cannot resume coroutine: it waits in channel:recv for task 1 'reader'$", from_main)
      ch:send "for the reader"
    end))
    assert.matches("cannot resume coroutine: it waits in channel:recv for task 1 'reader'$", first)
    assert.equal(first, second)
    assert.equal("for the reader", results[1])
  end

  it("cannot be resumed where another task waits", function()
    refuses(function(ch)
      local co = coroutine.create(function()
        while true do
          coroutine.yield((ch:recv()))
        end
      end)
      return function()
        return coroutine.resume(co)
      end, function(...)
        return coroutine.resume(co, ...)
      end
    end)
  end)

  it("cannot be resumed where another task waits, by wrap", function()
    refuses(function(ch)
      local step = coroutine.wrap(function()
        while true do
          coroutine.yield((ch:recv()))
        end
      end)
      return step, function(...)
        return pcall(step, ...)
      end
    end)
  end)

  it("cannot be a task's own, resumed by another", function()
    local ch = weft.channel(0)
    local own, why
    local results = assert(weft.scope(nil, { pool = weft.inline }, function(group)
      group:go(function()
        own = coroutine.running()
        return (ch:recv())
      end)
      group:go(function()
        why = select(2, coroutine.resume(own, "wrong"))
        ch:send "right"
      end)
    end))
    assert.equal("cannot resume coroutine: it waits in channel:recv for task 1", why)
    assert.equal("right", results[1])
  end)

  it("cannot be resumed where another task waits further inside", function()
    refuses(function(ch)
      local co = coroutine.create(function()
        local inner = coroutine.wrap(function()
          while true do
            coroutine.yield((ch:recv()))
          end
        end)
        while true do
          coroutine.yield(inner())
        end
      end)
      return function()
        return coroutine.resume(co)
      end, function(...)
        return coroutine.resume(co, ...)
      end
    end)
  end)

  if on_54 then
    it("cannot be closed where another task waits", function()
      local ch = weft.channel(0)
      local co = coroutine.create(function()
        return (ch:recv())
      end)
      local ok, err
      local results = assert(weft.scope(nil, { pool = weft.inline }, function(group)
        group:go(function()
          return select(2, coroutine.resume(co))
        end)
        group:go(function()
          ok, err = pcall(coroutine.close, co)
          ch:send "went on"
        end)
      end))
      assert.is_false(ok)
      assert.matches("cannot close coroutine: it waits in channel:recv for task 1", err)
      assert.equal("went on", results[1])
      assert.is_true(coroutine.close(co))
      assert.matches("cannot close a running coroutine", select(2, pcall(coroutine.close, coroutine.running())))
    end)
  end

  if has_slices then
    it("cannot be resumed where another task's time slice ended", function()
      local pool = weft.pool { threads = 1 }
      local out, err = run(pool, function()
        local stop, why = false, nil
        local co = coroutine.create(function()
          while not stop do
          end
          coroutine.yield "own"
        end)
        local results, failure = weft.scope(nil, { pool = weft.inline }, function(group)
          group:go(function()
            return select(2, coroutine.resume(co))
          end)
          group:go(function()
            why = select(2, coroutine.resume(co))
            stop = true
          end)
        end)
        return results and { results[1], why } or error(failure)
      end)
      pool:close()
      assert.is_nil(err)
      assert.same({ "own", "cannot resume coroutine: it works for task 1" }, out)
    end)
  end
end)

describe("coroutines outside of tasks", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("block the script", function()
    assert.same({ 1, 2, 3 }, loop_that_sleeps())
  end)

  it("give as many values as Lua's own", function()
    local function nothing() end
    assert.equal(1, count(coroutine.resume(coroutine.create(nothing))))
    assert.equal(0, count(coroutine.wrap(nothing)()))
    assert.equal(3, count(coroutine.wrap(function()
      return nil, nil, nil
    end)()))
    assert.equal(2, coroutine.wrap(count)(nil, nil))
    assert.equal(4, count(coroutine.resume(coroutine.create(function(...)
      coroutine.yield(...)
    end), nil, nil, nil)))
  end)

  it("cannot be resumed while they run, nor when they are dead", function()
    local step, inner
    step = coroutine.wrap(function()
      inner = select(2, pcall(step, 1, 2, 3))
      return "done"
    end)
    assert.equal("done", step())
    assert.matches("cannot resume [%a-]+ coroutine$", inner)
    for _ = 1, 2 do
      assert.matches("cannot resume dead coroutine$", select(2, pcall(step, 1)))
    end
    local co
    co = coroutine.create(function()
      return coroutine.resume(co, 1)
    end)
    local _, ok, why = coroutine.resume(co)
    assert.is_false(ok)
    assert.matches("cannot resume [%a-]+ coroutine$", why)
  end)

  it("refuse what is no function, and what is no coroutine", function()
    assert.matches("function expected", select(2, pcall(coroutine.wrap, 5)))
    assert.matches("coroutine expected", select(2, pcall(coroutine.resume, 5)))
  end)

  it("raise where they were called", function()
    local step = coroutine.wrap(function()
      error("boom", 0)
    end)
    local ok, err = pcall(function()
      step()
    end)
    assert.is_false(ok)
    assert.matches("^spec/coroutine_spec.lua:%d+: boom$", (err:gsub("^.*/spec/", "spec/")))
  end)
end)

describe("copies of coroutine's functions from before weft was loaded", function()
  -- Runs Lua code in a process of its own: what it printed.
  local function told(source)
    return script.run(early .. source).out
  end

  it_with_processes("tell a task that it cannot block in there", function()
    local out = told [[
      local function try(fn)
        local _, err = weft.scope(nil, { pool = weft.inline }, function(group) group:go(fn) end)
        print((tostring(err):match "weft.sleep would block inside a coroutine that was resumed past weft"))
      end
      local function sleeps() weft.sleep(0.001) coroutine.yield(1) end
      try(function() return wrap(sleeps)() end)
      try(function() return wrap(function() return coroutine.wrap(sleeps)() end)() end)
      try(function() return coroutine.wrap(function() return wrap(sleeps)() end)() end)
      try(function() assert(resume(create(sleeps))) end)
    ]]
    local line = "weft.sleep would block inside a coroutine that was resumed past weft\n"
    assert.equal(line:rep(4), out)
  end)

  it_with_processes("work as ever where nothing blocks, and may be sent", function()
    local out = told [[
      print(wrap(function(a) return a end)(5), select(2, resume(create(function() return 6 end))))
      print(assert(weft.all(nil, { function()
        return wrap(function() weft.sleep(0.001) return 7 end)()
      end }))[1])
    ]]
    assert.equal("5\t6\n7\n", out)
  end)

  it_with_processes("cannot steal a task's wait", function()
    local out = told [[
      local ch = weft.channel(0)
      local co = coroutine.create(function() return (ch:recv()) end)
      local results = assert(weft.scope(nil, { pool = weft.inline }, function(group)
        group:go(function() return select(2, coroutine.resume(co)) end)
        group:go(function()
          print(select(2, resume(co, "wrong")))
          ch:try_send "lost"
        end)
        group:go(function() weft.sleep(0.001) return "well" end)
      end))
      print(results[1], results[3])
    ]]
    assert.equal(
      "cannot resume coroutine: it waits in channel:recv for task 1\n" .. "cannot resume dead coroutine\twell\n",
      (out:gsub("[^\n]-: cannot", "cannot"))
    )
  end)
end)

if has_slices then
  describe("coroutines that never end", function()
    before_each(leaks.before)
    after_each(leaks.after)

    it("are cancelled and do not starve others", function()
      local pool = weft.pool { threads = 1 }
      local group = weft.group { pool = pool }
      local other = weft.channel(1)
      group:go(function()
        coroutine.wrap(function()
          coroutine.wrap(function()
            while true do
            end
          end)()
        end)()
      end)
      group:go(function()
        other:send "ran"
      end)
      assert.equal("ran", (other:recv()))
      group:cancel "enough"
      local _, err = group:wait()
      assert.is_true(weft.is(err, "canceled"))
      group:close()
      pool:close()
    end)
  end)
end
