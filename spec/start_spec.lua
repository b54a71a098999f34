-- group:start, weft.supervise, and what scopes raise when body and tasks fail.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local pack, rejects = calls.pack, calls.rejects
local settle = tasks.settle
local near, virtually = virtual.near, virtual.virtually

describe("group:start", function()
  before_each(leaks.before)
  after_each(leaks.after)

  for name, pool in pairs({ pool = weft.default_pool(), inline = weft.inline }) do
    it("waits until the task says that it is ready, with " .. name, function()
      local requests = weft.channel()
      local group = weft.group({ pool = pool })
      local got = pack(group:start("server", function(_, started, first)
        started(first, nil, { address = "x" }, nil)
        return (requests:recv())
      end, "a"))
      local task = got[1]
      assert.same({ "a", nil, { address = "x" }, nil, n = 4 }, { n = got.n - 1, got[2], got[3], got[4], got[5] })
      requests:send("served")
      assert.equal("served", (task:wait()))
      group:close()
    end)

    it("returns the error of a task that fails before, with " .. name, function()
      local group = weft.group({ pool = pool })
      local task, err = group:start(function()
        error("cannot listen")
      end)
      assert.is_nil(task)
      assert.matches("cannot listen", tostring(err))
      assert.equal(err, select(2, group:wait()))
      group:close()
    end)

    it("tells of the function that was given, not of its own, with " .. name, function()
      local group = weft.group({ pool = pool })
      local here = debug.getinfo(1, "l").currentline
      local task = group:start(function(_, started)
        started()
        weft.sleep(math.huge)
      end)
      local seen
      for _, sight in ipairs(weft.tasks()) do
        seen = sight.index == 1 and sight or seen
      end
      assert.matches("start_spec.lua:" .. here + 1 .. "$", seen.started)
      task:cancel()
      assert.equal("canceled", select(2, task:wait()).kind)
      group:close()
      group = weft.group({ pool = pool })
      local _, err = group:start(function()
        error("cannot listen", 0)
      end)
      if pool ~= weft.inline then
        assert.matches("start_spec.lua:" .. here + 14 .. ") failed: cannot listen", tostring(err), 1, true)
      end
      group:close()
    end)

    it("returns an error when the task ends before, with " .. name, function()
      local group = weft.group({ pool = pool })
      local task, err = group:start("early", function()
        return 1
      end)
      assert.is_nil(task)
      assert.equal("not_started", err.kind)
      assert.is_truthy(group:wait())
      group:close()
    end)
  end

  it("cancels the task when the caller is cancelled", function()
    local ended = weft.channel(1)
    weft.scope({ pool = weft.inline, collect = true }, function(outer)
      local task = outer:go(function()
        local group = weft.group({ pool = weft.inline })
        local ok, err = pcall(group.start, group, function()
          local _, raised = pcall(weft.sleep, 1000)
          ended:try_send(raised.kind) -- a send would raise here
          error(raised, 0)
        end)
        group:close()
        assert(not ok)
        error(err, 0)
      end)
      settle(outer)
      task:cancel("no more")
      assert.equal("canceled", select(2, task:wait()).kind)
    end)
    assert.equal("canceled", (ended:recv()))
  end)

  it("is refused by a group that was cancelled", function()
    local group = weft.group()
    group:cancel("over")
    local task, err = group:start(function() end)
    assert.is_nil(task)
    assert.matches("over", tostring(err))
    group:close()
  end)

  it("refuses a second report", function()
    local group = weft.group()
    local task = group:start(function(_, started)
      started(1)
      local ok, err = pcall(started, 2)
      return ok, err
    end)
    local ok, err = task:wait()
    -- whether the first was received already is the caller's speed: then the second has nobody to go to
    if not ok then
      assert.matches("started was called before", err)
    end
    group:close()
  end)

  it("names wrong arguments", function()
    local group = weft.group()
    rejects("bad argument 'fn or name' to group:start: expected a function, got nil", group.start, group)
    rejects("bad argument 'fn' to group:start: expected a function, got number", group.start, group, "name", 5)
    group:close()
  end)
end)

describe("weft.supervise", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("starts again what fails, and returns what it returns at last", virtually(function(clock)
    local runs = weft.dict()
    local results = assert(weft.all({
      a = weft.supervise(function(ctx)
        assert(ctx:err() == nil)
        local n = runs:incr("n")
        if n == 1 then
          error("raised")
        elseif n == 2 then
          return nil, "failed"
        end
        return "run " .. n
      end),
    }))
    assert.equal("run 3", results.a)
    near(0.1 + 0.2, clock:elapsed())
  end))

  it("waits longer each time, up to its cap", virtually(function(clock)
    local at = {}
    weft.all({
      a = weft.supervise(function()
        at[#at + 1] = clock:elapsed()
        error("again")
      end, { base = 1, cap = 5, max = 5, within = 100 }),
    }, { pool = weft.inline })
    for i, expected in ipairs({ 0, 1, 1 + 2, 3 + 4, 7 + 5, 12 + 5 }) do
      near(expected, at[i])
    end
    assert.equal(6, #at)
  end))

  it("passes arguments each time", function()
    local group, seen = weft.group({ pool = weft.inline }), {}
    local task = group:go(
      weft.supervise(function(_, a, b)
        seen[#seen + 1] = a .. b
        assert(#seen == 3)
        return #seen, "and more"
      end, { base = 0.0001 }),
      "x",
      "y"
    )
    assert.same({ 3, "and more" }, { task:wait() })
    assert.same({ "xy", "xy", "xy" }, seen)
    group:close()
  end)

  it("gives up after its restarts, with the last failure", function()
    local runs = 0
    local _, err = weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        error({ code = runs })
      end, { max = 2, base = 0.0001 }),
    }, { pool = weft.inline })
    assert.equal(3, runs)
    assert.matches("given up after 2 restarts", tostring(err))
    local last = err
    while last.cause do
      last = last.cause
    end
    assert.same({ code = 3 }, last.value)
    assert.matches("start_spec.lua", last.traceback)
  end)

  it("tells of each restart", function()
    local told, runs = {}, 0
    local results = assert(weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        if runs == 1 then
          error("lost the connection", 0)
        elseif runs == 2 then
          return nil, "no such queue"
        end
        return "done"
      end, {
        base = 0.0001,
        on_restart = function(err, count)
          told[#told + 1] = count .. ": " .. (type(err) == "table" and err.message or err)
        end,
      }),
    }, { pool = weft.inline }))
    assert.equal("done", results.a)
    assert.same({ "1: lost the connection", "2: no such queue" }, told)
    local _, err = weft.all({
      a = weft.supervise(function() end, {
        restart = "always",
        max = 2,
        base = 0.0001,
        on_restart = function(failure, count)
          told[#told + 1] = count .. ": " .. tostring(failure)
        end,
      }),
    }, { pool = weft.inline })
    assert.matches("given up after 2 restarts", tostring(err))
    assert.same({ "1: nil", "2: nil" }, { told[3], told[4] })
    assert.has_error(function()
      weft.supervise(print, { on_restart = "x" })
    end, "bad argument 'on_restart' to weft.supervise: expected a function, got string")
  end)

  it("with max = 0 never starts again", function()
    local runs = 0
    local _, err = weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        error("x")
      end, { max = 0 }),
    }, { pool = weft.inline })
    assert.equal(1, runs)
    assert.matches("given up after 0 restarts", tostring(err))
    local here = debug.getinfo(1, "l").currentline
    _, err = weft.all({
      a = weft.supervise(function()
        error("x")
      end, { max = 0 }),
    })
    assert.matches("start_spec.lua:" .. here + 2 .. ") failed: given up", tostring(err), 1, true)
  end)

  it("counts restarts within its time alone", virtually(function()
    local runs = 0
    local results = assert(weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        if runs < 8 then
          weft.sleep(30)
          error("again")
        end
        return runs
      end, { max = 2, within = 60, base = 0.1 }),
    }, { pool = weft.inline }))
    assert.equal(8, results.a)
    local _, err = weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        weft.sleep(29)
        error("again")
      end, { max = 2, within = 60, base = 0.1 }),
    }, { pool = weft.inline })
    assert.matches("given up after 2 restarts", tostring(err))
    assert.equal(8 + 3, runs)
  end))

  it("without a limit goes on as long as it fails", function()
    local runs = 0
    local results = assert(weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        return runs > 300 and runs or error("again")
      end, { max = math.huge, within = math.huge, base = 1e-9, cap = 1e-6 }),
    }, { pool = weft.inline }))
    assert.equal(301, results.a)
  end)

  it("with restart = \"always\" starts again what returned, too", function()
    local runs = 0
    local _, err = weft.all({
      a = weft.supervise(function()
        runs = runs + 1
        return runs
      end, { restart = "always", max = 3, base = 0.0001 }),
    }, { pool = weft.inline })
    assert.equal(4, runs)
    assert.matches("the function returned", tostring(err))
  end)

  it("never starts again what was cancelled", function()
    local runs = 0
    weft.scope({ pool = weft.inline, collect = true }, function(group)
      local task = group:go(weft.supervise(function()
        runs = runs + 1
        weft.sleep(1000)
      end, { max = math.huge }))
      settle(group)
      task:cancel("stop")
      local _, err = task:wait()
      assert.equal("canceled", err.kind)
      local waits = group:go(weft.supervise(function()
        runs = runs + 1
        error("x")
      end, { base = 1000, cap = 1000 }))
      settle(group)
      waits:cancel()
      assert.equal("canceled", select(2, waits:wait()).kind)
    end)
    assert.equal(2, runs)
  end)

  it("names wrong arguments", function()
    rejects("bad argument 'fn' to weft.supervise: expected a function, got nil", weft.supervise)
    rejects("bad option 'times' to weft.supervise", weft.supervise, print, { times = 3 })
    rejects("bad argument 'restart' to weft.supervise: expected 'failure' or 'always'", weft.supervise, print,
      { restart = "never" })
    rejects("bad argument 'max' to weft.supervise: expected a whole number >= 0", weft.supervise, print, { max = 1.5 })
    rejects("bad argument 'base' to weft.supervise: expected a number of seconds > 0", weft.supervise, print, { base = 0 })
  end)
end)

describe("weft.scope when its body raises", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("raises that, when no task failed by itself", function()
    local raised = rejects("the body", weft.scope, { pool = weft.inline }, function(group)
      group:go(function()
        weft.sleep(1000)
      end)
      settle(group)
      error("the body")
    end)
    assert.equal("string", type(raised))
  end)

  it("raises both, when a task had failed as well", function()
    local err = rejects("the body.*and 1 more failed; the first of them: .*the task", weft.scope, { pool = weft.inline },
      function(group)
        local task = group:go(function()
          error("the task")
        end)
        task:wait()
        error("the body")
      end)
    assert.equal("joined", err.kind)
    assert.equal(2, #err.errors)
    assert.matches("the body", tostring(err.errors[1]))
    assert.matches("the task", tostring(err.errors[2]))
  end)

  it("raises a task's error once, when that is what the body passes on", function()
    local first
    local err = rejects("the task", weft.scope, { pool = weft.inline }, function(group)
      local task = group:go(function()
        error("the task")
      end)
      first = select(2, task:wait())
      error(first)
    end)
    assert.equal(first, err)
  end)

  it("never hides a task's error behind the body's echo of its cancel", function()
    local err = rejects("the task", weft.scope, { pool = weft.inline }, function(group)
      group:go(function()
        error("the task")
      end)
      group.ctx:wait()
      group.ctx:check()
    end)
    assert.not_equal("canceled", err.kind)
    assert.not_equal("joined", err.kind)
  end)
end)
