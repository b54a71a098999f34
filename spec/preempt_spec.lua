-- Time slices: tasks that compute without a pause neither starve their neighbours nor escape their
-- context. On LuaJIT only interpreted code is interrupted, so tasks there turn the compiler off.

local leaks = require "spec.support.leaks"
local weft = require "weft"

-- A group on one thread, so that a task runs only when another lets it.
local function on_one_thread(fn)
  local pool = weft.pool {
    threads = 1,
    init = function()
      if jit then
        jit.off()
      end
    end,
  }
  local group = weft.group { pool = pool }
  fn(group)
  group:close()
  pool:close()
end

-- The error of a task that runs `fn(started, ctx)` when its group is cancelled.
local function cancelled(fn)
  local err
  on_one_thread(function(group)
    local started = weft.channel(1)
    group:go("spinner", function(ctx)
      fn(started, ctx)
    end)
    started:recv()
    group:cancel "enough"
    local _, failure = group:wait()
    err = failure
  end)
  return err
end

if os.getenv "WEFT_SAN" == "thread" then -- it delays signals until the next system call
  return
end

describe("a task that computes without a pause", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("shares its thread with the others", function()
    on_one_thread(function(group)
      local stop, beats = weft.channel(1), weft.channel(100)
      group:go(function()
        repeat
        until stop:try_recv()
      end)
      group:go(function()
        for i = 1, 5 do
          beats:send(i)
          weft.sleep(0)
        end
      end)
      for i = 1, 5 do
        assert.equal(i, (beats:recv()))
      end
      stop:send(true)
      assert(group:wait())
    end)
  end)

  it("goes on where it was, with the result that it would have had", function()
    on_one_thread(function(group)
      for _ = 1, 4 do
        group:go(function()
          local from = weft.now()
          local n, sum = 0, 0
          repeat -- for some slices
            for i = 1, 1000 do
              n, sum = n + 1, sum + i
            end
          until weft.now() - from > 0.06
          return sum == n / 1000 * 500500
        end)
      end
      assert.same({ true, true, true, true, n = 4 }, group:wait())
    end)
  end)

  it("is cancelled", function()
    local err = cancelled(function(started)
      started:send(true)
      while true do
      end
    end)
    assert.equal("canceled", err.kind)
    assert.equal("spinner", err.task)
    assert.matches("preempt_spec.lua:%d+", err.traceback)
  end)

  it("is cancelled in a loop that swallows every error", function()
    local err = cancelled(function(started)
      started:send(true)
      while true do
        pcall(function()
          while true do
          end
        end)
      end
    end)
    assert.equal("canceled", err.kind)
  end)

  it("is never cancelled between what weft takes and gives back for it", function()
    local pool = weft.pool { threads = 1 }
    for _ = 1, 30 do
      local places, flights, started = weft.semaphore(1), weft.singleflight(), weft.channel(1)
      local group = weft.group { pool = pool }
      group:go(function()
        started:send(true)
        while true do
          pcall(places.with, places, 1, function() end)
          pcall(flights.run, flights, "key", function() end)
        end
      end)
      started:recv()
      group:close()
      assert.equal(0, places:held())
      assert.equal("free", (flights:run("key", function() return "free" end)))
    end
    pool:close()
  end)

  it("is cancelled in nested pcalls that swallow every error", function()
    local err = cancelled(function(started)
      local function deep(n)
        while true do
          pcall(n > 0 and deep or function()
            while true do
            end
          end, n - 1)
        end
      end
      started:send(true)
      deep(20)
    end)
    assert.equal("canceled", err.kind)
  end)

  it("meets its deadline", function()
    on_one_thread(function(group)
      group:go(function()
        local ctx = weft.background():with_timeout(0.02)
        local inner = weft.group(ctx)
        inner:go(function()
          if jit then
            jit.off(true, true)
          end
          while true do
          end
        end)
        local _, err = inner:wait()
        inner:close()
        return err.kind
      end)
      assert.same({ "deadline", n = 1 }, group:wait())
    end)
  end)

  it("is cancelled alone by task:cancel", function()
    on_one_thread(function(group)
      local started, stop = weft.channel(2), weft.channel(1)
      local one = group:go(function()
        started:send(true)
        while true do
        end
      end)
      started:recv()
      one:cancel "you"
      local _, err = one:wait()
      assert.equal("canceled", err.kind)
      stop:close()
    end)
  end)

  it("runs its clean-up when it is cancelled", function()
    on_one_thread(function(group)
      local started, cleaned = weft.channel(1), weft.channel(1)
      group:go(function()
        local ok = pcall(function()
          started:send(true)
          while true do
          end
        end)
        cleaned:try_send(not ok)
        error "done"
      end)
      started:recv()
      group:cancel()
      assert.is_true((cleaned:recv()))
      group:wait()
    end)
  end)
end)

describe("a call that would block where Lua cannot yield", function()
  before_each(leaks.before)
  after_each(leaks.after)

  -- The message of what `fn` raises in a task.
  local function message(fn)
    local _, err = weft.scope(function(group)
      group:go(fn)
    end)
    return err.message
  end

  it("raises in a sort's comparator, in gsub's callback, by their names", function()
    assert.matches("weft.sleep would block inside a C call (sort)", message(function()
      table.sort({ 3, 2, 1 }, function(a, b)
        weft.sleep(0)
        return a < b
      end)
    end), 1, true)
    assert.matches("weft.sleep would block inside a C call (gsub)", message(function()
      return (("x"):gsub("x", function()
        weft.sleep(0)
      end))
    end), 1, true)
  end)

  it("raises in the loader of a module", function()
    assert.matches("would block inside a C call (require)", message(function()
      package.preload["weft_spec_blocks"] = function()
        weft.sleep(0)
      end
      require "weft_spec_blocks"
    end), 1, true)
  end)

  it("raises in a finalizer, which harms nobody", function()
    local ok, out = pcall(weft.scope, function(group)
      group:go(function()
        local problem
        local function finalize()
          problem = select(2, pcall(weft.sleep, 0))
        end
        if newproxy then
          local proxy = newproxy(true)
          getmetatable(proxy).__gc = finalize
          proxy = nil -- luacheck: ignore
        else
          setmetatable({}, { __gc = finalize })
        end
        collectgarbage()
        collectgarbage()
        return tostring(problem)
      end)
    end)
    assert.is_true(ok)
    assert.matches("weft.sleep would block inside", out[1], 1, true)
  end)

  it("works through metamethods and iterators where Lua can yield", function()
    local results = assert(weft.scope(function(group)
      group:go(function()
        local lazy = setmetatable({}, {
          __index = function(_, key)
            weft.sleep(0)
            return key .. "!"
          end,
        })
        local seen = {}
        for i in
          function(_, last)
            weft.sleep(0)
            return last < 3 and last + 1 or nil
          end,
          nil,
          0
        do
          seen[#seen + 1] = lazy["k" .. i]
        end
        return table.concat(seen, " ")
      end)
    end))
    assert.equal("k1! k2! k3!", results[1])
  end)
end)

-- LuaJIT: what a hook raised between a call that has to wait and its yield would leave a wait behind.
describe("a task's wait", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is not left by an error of a hook that the task has set", function()
    on_one_thread(function(group)
      local values = weft.channel(0)
      local task = group:go(function()
        debug.sethook(function()
          local called = debug.getinfo(2, "nS")
          if called.name == "wait" and called.source == "=weft" then
            error("thrown out")
          end
        end, "c")
        return pcall(values.recv, values)
      end)
      group:go(function() -- once the first one has parked
        return (values:try_send("a value"))
      end)
      assert.same({ { true, "a value", true }, true }, { { task:wait() }, group:wait()[2] })
    end)
  end)
end)
