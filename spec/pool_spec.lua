-- Pools: how many threads, what each state runs first, closing, resizing, stealing, what goes wrong.

local calls = require "spec.support.calls"
local core = require "weft.core"
local leaks = require "spec.support.leaks"
local weft = require "weft"

local is_posix = os.getenv "WEFT_PLATFORM" == "posix" -- which cannot do all that Linux can
local message_of = calls.message_of

-- Runs fn(i) `count` times at once on the pool: the results.
local function run(pool, count, fn, ...)
  local group = weft.group { pool = pool }
  for i = 1, count do
    assert(group:go(fn, i, ...))
  end
  local results, err = group:wait()
  group:close()
  if not results then
    error(err, 0)
  end
  return results
end

-- Tasks that hold a thread each until the gate is closed; returns when all have started.
local function occupy(pool, count)
  local started, gate = weft.channel(count), weft.channel(0)
  local group = weft.group { pool = pool }
  for _ = 1, count do
    group:go(function()
      started:send(true)
      gate:recv()
    end)
  end
  for _ = 1, count do
    started:recv()
  end
  return function()
    gate:close()
    assert(group:wait())
    group:close()
  end
end

describe("weft.pool", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("refuses bad options by name", function()
    for options, problem in pairs {
      [{ threads = 0 }] = "bad argument 'threads' to weft.pool: expected a whole number from 1 to 1024, got 0",
      [{ threads = 1025 }] = "bad argument 'threads'",
      [{ threads = 1.5 }] = "bad argument 'threads'",
      [{ threads = 0 / 0 }] = "bad argument 'threads'",
      [{ threads = "2" }] = "bad argument 'threads'",
      [{ queue = -1 }] = "bad argument 'queue'",
      [{ queue = math.huge }] = "bad argument 'queue'",
      [{ nice = 20 }] = "bad argument 'nice'",
      [{ name = {} }] = "bad argument 'name'",
      [{ init = 5 }] = "bad argument 'init' to weft.pool: expected a function, got 5",
      [{ thread = 2 }] = "bad option 'thread' to weft.pool: known are threads, queue, name, init, nice",
      [{ 2 }] = "bad option 'number' to weft.pool",
    } do
      assert.matches(problem, message_of(weft.pool, options), 1, true)
    end
    assert.matches("bad argument 'options' to weft.pool: expected a table", message_of(weft.pool, 4), 1, true)
  end)

  it("refuses an init function that cannot cross, by the name of what it captured", function()
    local file = io.stdout
    local message = message_of(weft.pool, {
      init = function()
        file:write "x"
      end,
    })
    assert.matches("upvalue 'file'", message, 1, true)
  end)

  it("starts no thread before the first task, and no more than it may have", function()
    local pool = weft.pool { threads = 3, name = "three" }
    assert.equal(0, pool:stats().threads)
    local release = occupy(pool, 12)
    assert.is_true(pool:stats().threads >= 1 and pool:stats().threads <= 3)
    assert.equal(3, pool:stats().max_threads)
    release()
    assert.is_true(pool:close())
    assert.equal(0, pool:stats().threads)
  end)

  it("runs init once in each state, before any task", function()
    local calls = weft.channel(10)
    local pool = weft.pool {
      threads = 2,
      init = function()
        _G.prepared = (_G.prepared or 0) + 1
        calls:send(true)
      end,
    }
    local results = run(pool, 40, function()
      return _G.prepared
    end)
    for i = 1, 40 do
      assert.equal(1, results[i])
    end
    pool:close()
    assert.is_true(#calls >= 1 and #calls <= 2)
  end)

  it("fails the tasks, and hangs nobody, when init raises", function()
    local pool = weft.pool {
      threads = 2,
      name = "broken",
      init = function()
        error "no database"
      end,
    }
    local group = weft.group { pool = pool, collect = true }
    for _ = 1, 5 do
      group:go(function() end)
    end
    local _, err = group:wait()
    group:close()
    assert.equal(5, #err.errors)
    for _, failure in ipairs(err.errors) do
      assert.matches("a thread of pool 'broken' could not be set up", failure.message, 1, true)
      assert.matches("no database", failure.message, 1, true)
    end
    pool:close()
  end)

  it("tells at go, or by the task's error, that no thread could be started", function()
    local pool = weft.pool { threads = 2 }
    local group = weft.group { pool = pool }
    core.fail_at("thread", 1)
    local task, refused = group:go(function()
      return 1
    end)
    core.fail_at("thread", 0)
    local _, err = group:wait()
    assert.is_true(task == nil or err ~= nil)
    assert.matches("thread", tostring(refused or err), 1, true)
    assert.same({ 7, n = 1 }, run(pool, 1, function()
      return 7
    end)) -- and it is none the worse for it
    group:close()
    pool:close()
  end)

  it("finishes what was queued when it is closed, and then takes no more", function()
    local pool = weft.pool { threads = 1 }
    local release = occupy(pool, 1)
    local group = weft.group { pool = pool }
    for i = 1, 10 do
      group:go(function()
        return i
      end)
    end
    local timed_out, why = pool:close(0)
    assert.is_nil(timed_out)
    assert.equal("timeout", why.kind)
    local task, err = group:go(function() end)
    assert.is_nil(task)
    assert.equal("closed", err.kind)
    release()
    assert.equal(10, group:wait().n)
    group:close()
    assert.is_true(pool:close())
    assert.is_true(pool:close()) -- once more is no error
  end)

  it("refuses to close the default pool", function()
    assert.matches("the default pool belongs to the process", message_of(weft.default_pool().close, weft.default_pool()), 1, true)
  end)

  it("ends its threads when nobody has it any more", function()
    local pool = weft.pool { threads = 2 }
    run(pool, 4, function() end)
    pool = nil -- luacheck: ignore
    collectgarbage()
  end) -- leaks.after waits for them

  it("grows and shrinks", function()
    local pool = weft.pool { threads = 1 }
    pool:resize(4)
    assert.equal(4, pool:stats().max_threads)
    local computing, go_on = weft.channel(4), weft.channel(4)
    -- as many hands as there may be: each task computes until all the others run too
    local group = weft.group { pool = pool }
    for _ = 1, 4 do
      group:go(function()
        computing:send(true)
        repeat
        until go_on:try_recv()
      end)
    end
    for _ = 1, 4 do
      computing:recv()
    end
    for _ = 1, 4 do
      go_on:send(true)
    end
    assert(group:wait())
    group:close()
    assert.equal(4, pool:stats().threads)
    pool:resize(1)
    repeat
      weft.sleep(0.001)
    until pool:stats().threads == 1
    assert.same({ "still there", n = 1 }, run(pool, 1, function()
      return "still there"
    end))
    assert.matches("bad argument 'threads' to pool:resize", message_of(pool.resize, pool, 0), 1, true)
    pool:close()
  end)

  it("steals: short tasks do not wait behind a long one", function()
    local pool = weft.pool { threads = 2 }
    local done, go_on = weft.channel(64), weft.channel(1)
    local group = weft.group { pool = pool }
    group:go(function() -- never gives its thread away, but to the scheduler's time slices
      repeat
      until go_on:try_recv()
    end)
    for i = 1, 64 do
      group:go(function()
        done:send(i)
      end)
    end
    for _ = 1, 64 do
      done:recv()
    end
    go_on:send(true)
    assert(group:wait())
    group:close()
    pool:close()
  end)

  it("bounds its queue: go waits for room, try_go says no", function()
    local pool = weft.pool { threads = 1, queue = 1 }
    local computing, go_on = weft.channel(1), weft.channel(1)
    local group = weft.group { pool = pool }
    group:go(function()
      computing:send(true)
      repeat
      until go_on:try_recv()
    end)
    computing:recv()
    local accepted = 0
    while group:try_go(function() end) do
      accepted = accepted + 1
      assert.is_true(accepted < 1000)
    end
    go_on:send(true)
    for _ = 1, 20 do
      assert(group:go(function() end))
    end
    assert.equal(21 + accepted, group:wait().n)
    group:close()
    pool:close()
  end)

  it("makes its threads nice", function()
    local function nice_of(path)
      local n = 0
      for field in assert(io.open(path)):read("*a"):match("%) (.*)"):gmatch "%S+" do -- from field 3 on
        n = n + 1
        if n == 17 then
          return tonumber(field)
        end
      end
    end
    local own = nice_of "/proc/self/stat"
    local pool = weft.pool { threads = 1, nice = 7 }
    local results = run(pool, 1, function()
      return nice_of "/proc/thread-self/stat"
    end)
    assert.equal(math.min(own + (is_posix and 0 or 7), 19), results[1])
    pool:close()
  end)

  if not is_posix then
    it("names its threads", function()
      local pool = weft.pool { threads = 1, name = "crunchers" }
      assert.equal("crunchers", run(pool, 1, function()
        return (assert(io.open("/proc/thread-self/comm")):read "*l")
      end)[1])
      pool:close()
    end)
  end

  it("can be captured, and used from a task", function()
    local pool = weft.pool { threads = 2 }
    local inner = run(weft.default_pool(), 1, function()
      local group = weft.group { pool = pool }
      group:go(function()
        return "from a task"
      end)
      local results = group:wait()
      group:close()
      return results[1]
    end)
    assert.equal("from a task", inner[1])
    pool:close()
  end)

  it("survives being used and closed from many tasks at once", function()
    for _ = 1, 20 do
      local pool = weft.pool { threads = 2 }
      run(weft.default_pool(), 8, function(_, i)
        local group = weft.group { pool = pool }
        for _ = 1, 5 do
          group:go(function() end)
        end
        group:wait()
        group:close()
        if i % 4 == 0 then
          pool:close()
        end
      end)
      pool:close()
    end
  end)

  -- The canceller claims who is parked under each context of the tree, and wakes them after its walk.
  it("ends while the cancel of a large tree is under way, under which its task was parked", function()
    local canceller = weft.pool { threads = 1 }
    for _ = 1, 3 do
      local top = weft.background():with_cancel()
      local pool = weft.pool { threads = 1 }
      local values, steps = weft.channel(1), weft.channel()
      weft.scope(top, { pool = pool, collect = true }, function(g)
        local task = g:go(function()
          steps:send "parked next"
          return (values:recv())
        end)
        steps:recv()
        local children = {}
        for i = 1, 30000 do
          children[i] = top:with_cancel()
        end
        weft.scope(nil, { pool = canceller }, function(c)
          c:go(function()
            steps:send "cancelled next"
            top:cancel()
          end)
          steps:recv()
          values:send(1)
          task:wait()
          pool:close()
        end)
        assert.is_true(children[#children]:err() ~= nil)
      end)
    end
    canceller:close()
  end)
end)
