-- Every allocation of the core, and every thread start, fails once: what a script then meets is an error
-- that it can act on; nothing hangs, nothing is lost, and the next try works.

local core = require "weft.core"
local leaks = require "spec.support.leaks"
local weft = require "weft"

local MOST = 2000 -- allocations of one scenario; more would be a runaway

-- Runs the scenario with the nth allocation failing, for every n, until it needs no more than n.
local function torture(what, scenario)
  scenario() -- what is made once a process is there
  local failed = 0
  for nth = 1, MOST do
    collectgarbage()
    core.fail_at(what, nth)
    local ok, raised = pcall(scenario)
    local made = core.fail_at(what, 0)
    if not ok then
      failed = failed + 1
      local message = tostring(raised)
      assert.is_true(#message > 0)
      assert.is_nil(message:find("attempt to", 1, true), message) -- a failure that was not looked at
    end
    if what == "malloc" and made < nth or what == "thread" and nth == 8 then
      scenario()
      return failed
    end
  end
  error("the scenario never ends: " .. what)
end

-- Of a group's results: raises its error.
local function check(results, err)
  if not results then
    error(err, 0)
  end
  return results
end

local scenarios = {
  ["a group of closures with captures"] = function()
    local name, list, limit = "x", { 1, 2, { deep = true } }, 10
    check(weft.scope({ limit = 4 }, function(group)
      for i = 1, 6 do
        check(group:go("task " .. i, function(_, extra)
          return name .. #list .. limit .. extra.n
        end, { n = i }))
      end
    end))
  end,
  ["errors with causes and tracebacks"] = function()
    local results, err = weft.scope(function(group)
      check(group:go("outer", function()
        local _, inner = weft.scope(function(inner)
          inner:go("inner", function()
            error { code = 5 }
          end)
        end)
        error(inner, 0)
      end))
    end)
    assert(results == nil and (weft.is(err, "error") or err.kind == "nomem"), err)
    if err.kind == "nomem" then
      error(err, 0)
    end
  end,
  ["looking: tasks, dump, numbers"] = function()
    local group = weft.group({ pool = weft.inline })
    check(group:go("looks", function()
      return #weft.tasks() + #weft.dump() + #weft.metrics() + weft.stats().states
    end))
    check(group:wait())
    group:close()
  end,
  ["a trace with spans"] = function()
    local path = os.tmpname()
    local trace = check(weft.trace({ file = path }))
    weft.span("span", function() end)
    trace:stop()
    os.remove(path)
  end,
  ["a deadlock under the virtual clock"] = function()
    require("weft.testing").virtual_clock(function()
      local channel = weft.channel()
      local group = weft.group({ pool = weft.inline })
      local started = group:go("stuck", function()
        weft.sleep(1)
        return (channel:recv())
      end)
      local ok, err = pcall(group.wait, group)
      group:close()
      check(not ok and err.kind == "deadlock" and started, err)
    end)
  end,
  ["tasks of weft.inline"] = function()
    local sum = 0
    check(weft.scope({ pool = weft.inline }, function(group)
      for i = 1, 4 do
        check(group:go(function()
          weft.sleep(0)
          sum = sum + i
        end))
      end
    end))
  end,
  ["channels, semaphores and waitgroups"] = function()
    local ch, sem, wg = weft.channel(2), weft.semaphore(2), weft.waitgroup()
    check(weft.scope(function(group)
      check(group:go(function()
        for i = 1, 5 do
          sem:acquire()
          ch:send { i, ("x"):rep(100) }
          sem:release()
        end
        ch:close()
      end))
      check(group:go(function() -- cancelled when the other one fails
        for value in ch:iter() do
          assert(#value[2] == 100)
        end
      end))
    end))
    wg:add(1)
    wg:done()
    wg:wait()
  end,
  ["select, tickers and channels that drop"] = function()
    local a, b, latest = weft.channel(), weft.channel(1), weft.channel(1, "conflate")
    check(weft.scope(function(group)
      check(group:go(function()
        for i = 1, 5 do
          weft.select { { send = a, value = { i, ("x"):rep(100) } }, { send = b, value = i } }
          latest:send { weft.channel(1) }
        end
        b:close()
      end))
      check(group:go(function(ctx)
        repeat
          local index, _, ok = weft.select { { recv = a }, { recv = b }, { done = ctx } }
        until index == 3 or index == 2 and not ok
      end))
    end))
    local ticks = weft.ticker(0.0001)
    weft.select { { recv = ticks }, { recv = weft.after(100) }, timeout = 100 }
    ticks:close()
  end,
  ["limiters, singleflights and dicts"] = function()
    local limiter, flights, dict = weft.limiter { rate = 1e5 }, weft.singleflight(), weft.dict { max = 100 }
    check(weft.scope({ limit = 4 }, function(group)
      for i = 1, 6 do
        check(group:go(function()
          limiter:wait()
          dict:set(i, { ("x"):rep(100), limiter })
          dict:incr "n"
          dict:update("list", function(list)
            list = list or {}
            list[#list + 1] = i
            return list
          end)
          return flights:run(i % 2, function()
            return { dict:get(i)[1], #dict:keys() }
          end)
        end))
      end
    end))
    assert(dict:get "n" == 6 and #dict:get "list" == 6)
  end,
  ["group:start, waitgroup:go and supervise"] = function()
    local waiting = weft.waitgroup()
    check(weft.scope(function(group)
      check(group:start("server", function(_, started)
        started("ready", { 1 })
      end))
      check(waiting:go(group, weft.supervise(function()
        return 1
      end)))
      waiting:wait()
    end))
    assert(waiting:count() == 0)
  end,
  ["contexts"] = function()
    local top = weft.background():with_timeout(100)
    local ctx = top:with_value("key", { "value" }):with_cancel()
    assert(ctx:value("key")[1] == "value")
    top:cancel "enough"
    assert(ctx:err())
  end,
  ["a model call"] = function()
    local server = assert(require("weft.testing").model_server { reply = "hello" })
    local model = weft.model.openai { base_url = server.url, api_key = "k", model = "m", retry = { attempts = 1 } }
    local answer, err = model:chat { prompt = "?" }
    server:close()
    assert(answer and answer.text == "hello" or tostring(err):find("memory", 1, true), err)
    check(answer, err)
  end,
  ["a map"] = function()
    local items = {}
    for i = 1, 50 do
      items[i] = i
    end
    local out = check(weft.map(weft.background(), items, function(item)
      return item * 2
    end))
    assert(out[50] == 100)
  end,
}
describe("when an allocation fails", function()
  before_each(leaks.before)
  after_each(leaks.after)

  for name, scenario in pairs(scenarios) do
    it(name .. ": an error, and nothing is left", function()
      assert.is_true(torture("malloc", scenario) > 0)
    end)
  end
end)

describe("when a thread cannot be started", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("a new pool's tasks fail or run on the threads that there are", function()
    torture("thread", function()
      local pool = weft.pool { threads = 4 }
      local group = weft.group { pool = pool, collect = true }
      local started = 0
      for _ = 1, 8 do
        if group:go(function() end) then
          started = started + 1
        end
      end
      local results, err = group:wait()
      assert(results.n == started)
      assert(not err or tostring(err):find "thread")
      group:close()
      pool:close()
    end)
  end)
end)
