-- Errors of tasks that nobody has looked at: what leaving a group raises, and what is told of dropped ones.

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local weft = require "weft"

local has_close = _VERSION ~= "Lua 5.1"

-- Lets tasks end without looking at their errors.
local function settle(group)
  group:join()
  return group
end

local function fail(_, message)
  error(message, 0)
end

local function failing(options, ...)
  local group = weft.group(options)
  for _, message in ipairs({ ... }) do
    group:go(message, fail, "the " .. message)
  end
  return settle(group)
end

local function start_sleeper(group)
  local started = weft.channel(1)
  group:go(function()
    started:send(true)
    weft.sleep(math.huge)
  end)
  started:recv()
end

describe("leaving a group", function()
  before_each(leaks.before)
  after_each(leaks.after)

  for name, pool in pairs({ pool = weft.default_pool(), inline = weft.inline }) do
    describe("with " .. name, function()
      it("raises the error of a task that nobody has seen, once", function()
        local group = failing({ pool = pool }, "first")
        local ok, err = pcall(group.close, group)
        assert.is_false(ok)
        assert.equal("first", err.task)
        assert.equal("the first", err.message)
        group:close()
      end)

      it("raises several as one", function()
        local group = failing({ pool = pool, collect = true }, "first", "second")
        local ok, err = pcall(group.close, group)
        assert.is_false(ok)
        assert.equal("joined", err.kind)
        assert.equal(2, #err.errors)
        local messages = { err.errors[1].message, err.errors[2].message }
        table.sort(messages)
        assert.same({ "the first", "the second" }, messages)
      end)

      it("does not raise what somebody has got", function()
        local ways = {
          function(group)
            return select(2, group:wait())
          end,
          function(group)
            return group:error_of(1)
          end,
          function(group)
            return select(2, group:values(1))
          end,
          function(group)
            local last
            for _, _, err in group:completed() do
              last = err
            end
            return last
          end,
        }
        for i, way in ipairs(ways) do
          local group = failing({ pool = pool }, "first")
          assert.equal("the first", way(group).message, i)
          group:close()
        end
        local group = weft.group({ pool = pool })
        local task = group:go(function()
          error("x")
        end)
        assert.truthy(select(2, task:wait()))
        group:close()
      end)

      it("raises what came after a wait, and what others had failed with", function()
        local group = failing({ pool = pool, collect = true }, "first")
        group:wait()
        local seen = group:go("second", fail, "x")
        local late = group:go("third", fail, "the third")
        settle(group)
        seen:wait()
        assert.equal("failed", late:status()) -- which is not its error
        local ok, err = pcall(group.close, group)
        assert.is_false(ok)
        assert.equal("third", err.task)
      end)

      it("is silent about the echo of its own cancel", function()
        local group = weft.group({ pool = pool })
        start_sleeper(group)
        group:close()
        group = weft.group({ pool = pool })
        start_sleeper(group)
        group:cancel("enough")
        settle(group):close()
      end)

      it("joins the error in flight with what nobody has seen", function()
        local group = failing({ pool = pool }, "first")
        local ok, err = pcall(group.close, group, "the body")
        assert.is_false(ok)
        assert.equal("joined", err.kind)
        assert.equal("the body", err.errors[1])
        assert.equal("the first", err.errors[2].message)
        assert.truthy(tostring(err):find("the body (and 1 more failed; the first of them: ", 1, true))
        group = failing({ pool = pool }, "first")
        group:close((group:error_of(1))) -- it is raised already
        group = failing({ pool = pool }, "first")
        ok, err = pcall(group.close, group, group.ctx:err()) -- the echo of its own failure
        assert.is_false(ok)
        assert.equal("first", err.task)
      end)
    end)
  end

  it("by <close> raises, or adds to the error in flight", function()
    if not has_close then
      return pending("Lua 5.1 has no <close>")
    end
    local leave = load [[
      local group, raised = ...
      local guard <close> = group
      if raised then
        error(raised, 0)
      end
      return "fine"
    ]]
    local ok, err = pcall(leave, failing(nil, "first"))
    assert.is_false(ok)
    assert.equal("first", err.task)
    ok, err = pcall(leave, failing(nil, "first"), "the body")
    assert.is_false(ok)
    assert.equal("the body", err.errors[1])
    assert.equal("first", err.errors[2].task)
    local group = failing(nil, "first")
    group:wait()
    assert.equal("fine", leave(group))
    ok, err = pcall(leave, group, "the body")
    assert.is_false(ok)
    assert.equal("the body", err)
  end)

  it("raises in a task, too, whatever that has loaded", function()
    local group = weft.group()
    local task = group:go("outer", function()
      local inner = weft.group()
      inner:go("inner", function()
        error("deep", 0)
      end)
      inner:join()
      inner:close()
    end)
    local _, err = task:wait()
    assert.equal("inner", err.cause.task)
    group:close()
  end)

  it("is never asked of those who look at errors themselves", function()
    for _, value in weft.stream({ 1, 2, 3 }, function(n)
      return n == 1 and 1 or nil, "fails"
    end) do
      if value then
        break
      end
    end
    assert.equal(1, weft.any({
      function()
        return 1
      end,
      function()
        error("x")
      end,
    }))
  end)

  it("of a scope whose wait raises tells of failures, too", function()
    local outer, waits = weft.group({ pool = weft.inline }), weft.channel()
    local task = outer:go(function()
      return weft.scope({ pool = weft.inline, collect = true }, function(group)
        group:go(function()
          error("unseen")
        end)
        group:go(function()
          waits:send(true)
          weft.sleep(math.huge)
        end)
      end)
    end)
    waits:recv()
    task:cancel()
    local _, err = task:wait()
    assert.is_true(weft.is(err, "canceled"))
    assert.is_true(weft.is(err, "error"))
    outer:close()
  end)
end)

describe("a group that is dropped", function()
  local reports

  local function collect()
    collectgarbage()
    collectgarbage()
    return reports
  end

  before_each(function()
    leaks.before()
    reports = {}
    weft.on_unseen(function(err)
      reports[#reports + 1] = err
    end)
  end)
  after_each(function()
    weft.on_unseen(nil)
    leaks.after()
  end)

  for name, pool in pairs({ pool = weft.default_pool(), inline = weft.inline }) do
    it("tells of errors that nobody has seen, with " .. name, function()
      local here = debug.getinfo(1, "l").currentline
      local function drop()
        local group = weft.group({ pool = pool, collect = true })
        group:go("first", fail, "the first")
        group:go("second", fail, "the second")
        group:join()
      end
      drop()
      assert.equal(1, #collect())
      local err = reports[1]
      assert.equal("unseen", err.kind)
      assert.matches("unseen_spec.lua:" .. here + 2 .. "$", err.made)
      assert.equal(2, #err.errors)
      assert.equal(0, err.running)
      assert.matches("^nobody has seen an error of the group made at .*unseen_spec.lua:%d+ %(the first of 2%): task %d", tostring(err))
      assert.equal(1, #collect())
    end)

    it("tells of errors that were not fetched yet, with " .. name, function()
      local function drop()
        local ended = weft.waitgroup()
        local group = weft.group({ pool = pool })
        ended:go(group, "first", fail, "the first")
        ended:wait()
      end
      drop()
      assert.equal("first", collect()[1].errors[1].task)
    end)

    it("tells of tasks that it takes along, with " .. name, function()
      local function drop()
        start_sleeper(weft.group({ pool = pool }))
      end
      drop()
      assert.equal(1, #collect())
      assert.equal("dropped", reports[1].kind)
      assert.equal(1, reports[1].running)
      assert.matches("^1 task of the group made at .*unseen_spec.lua:%d+ still ran when it was dropped", tostring(reports[1]))
    end)
  end

  it("is not told of when it was waited for, closed, cancelled, or has nothing to tell", function()
    local function drop()
      failing(nil, "first"):wait()
      pcall(function()
        failing(nil, "first"):close()
      end)
      local group = weft.group()
      start_sleeper(group)
      group:cancel()
      weft.group():go(tostring, 1)
      weft.group()
      local outer = weft.background():with_cancel()
      start_sleeper(weft.group(outer))
      outer:cancel()
    end
    drop()
    weft.sleep(0.001)
    assert.same({}, collect())
  end)

  it("is told of for functions that wait for a context, too", function()
    local function drop()
      local ctx = weft.background():with_cancel()
      ctx:after(function()
        error("after", 0)
      end)
      ctx:cancel()
    end
    drop()
    repeat
      weft.sleep(0.001)
    until #collect() > 0
    assert.equal("unseen", reports[1].kind)
    assert.matches("'context:after'.*after$", tostring(reports[1]))
    local ctx, ended = weft.background():with_cancel(), weft.channel(1)
    local stop = ctx:after(function()
      ended:send(true)
      error("again", 0)
    end)
    ctx:cancel()
    ended:recv()
    assert.is_false(stop())
    assert.matches("again$", tostring(reports[2]))
  end)

  it("may be told to a channel", function()
    local lost = weft.channel(2, "drop_old")
    weft.on_unseen(function(err)
      lost:try_send(err.errors[1].message)
    end)
    local function drop(message)
      failing(nil, message)
    end
    for i = 1, 3 do
      drop(tostring(i))
      collect()
    end
    assert.equal("the 2", (lost:recv()))
    assert.equal("the 3", (lost:recv()))
  end)

  it("refuses misuse, and gives the handler that was set", function()
    local function handler() end
    assert.is_function(weft.on_unseen(handler))
    assert.equal(handler, weft.on_unseen(nil))
    assert.is_nil(weft.on_unseen(nil))
    assert.matches("bad argument 'fn' to weft.on_unseen", select(2, pcall(weft.on_unseen, 1)))
  end)

  if os.getenv "WEFT_SAN" ~= "thread" then -- no other process runs with it preloaded
    it("writes to the standard error without a handler, and when that fails", function()
      local ended = script.run [[
        local weft = require "weft"
        local function fail(_, message) error(message, 0) end
        local function drop()
          local group = weft.group()
          group:go("first", fail, "the first")
          group:join()
        end
        drop()
        collectgarbage() collectgarbage()
        weft.on_unseen(function()
          error("a bad handler", 0)
        end)
        drop()
        collectgarbage() collectgarbage()
      ]]
      assert.equal(0, ended.status)
      local _, count = ended.out:gsub("weft: nobody has seen an error of the group made at [^\n]*:4: task 1 'first'", "")
      assert.equal(2, count)
      assert.matches("\nweft: the handler of weft.on_unseen has raised: a bad handler\n", ended.out)
    end)

    it("is told of at the end of the script for its errors, not for what runs", function()
      local ended = script.run [[
        local weft = require "weft"
        local function fail(_, message) error(message, 0) end
        runs, fails = weft.group(), weft.group()
        runs:go(function() weft.sleep(math.huge) end)
        fails:go("last", fail, "the last")
        fails:join()
        print "the end"
      ]]
      assert.equal(0, ended.status)
      local _, count = ended.out:gsub("weft: ", "")
      assert.equal(1, count)
      assert.matches("task 1 'last'", ended.out)
    end)
  end
end)
