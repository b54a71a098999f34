-- A script's finalizers may call weft whenever the collector runs: in the midst of a call of weft's, and
-- when the Lua state closes.

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local weft = require "weft"

-- With ThreadSanitizer preloaded no other process runs.
local it_with_processes = os.getenv("WEFT_SAN") == "thread" and function() end or it

local load = loadstring or load -- luacheck: ignore

-- A value whose collection calls fn, whatever the VM.
local function finalized(fn)
  if not newproxy then
    return setmetatable({}, { __gc = fn })
  end
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = fn
  return proxy
end

-- Calls body while the collector works at each allocation, and calls fn in each of its rounds.
local function with_finalizers(fn, body)
  local stopped
  local function run()
    if not stopped then
      fn()
      finalized(run)
    end
  end
  local pause, multiplier = collectgarbage("setpause", 1), collectgarbage("setstepmul", 1000)
  for _ = 1, 10 do
    finalized(run)
  end
  local ok, err = pcall(body)
  stopped = true
  collectgarbage("setpause", pause)
  collectgarbage("setstepmul", multiplier)
  if not ok then
    error(err, 0)
  end
end

describe("a finalizer", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("sends while a message is being written", function()
    local channel, sent = weft.channel(100), 0
    with_finalizers(function()
      sent = sent + (channel:try_send { "from a finalizer", sent } and 1 or 0)
      channel:try_recv()
    end, function()
      for i = 1, 400 do
        -- new code each time: to dump it and to look for its name among modules allocates
        local fn = load("local a, b, c = { x = { 1, 2, 3 } }, 'b', { z = {} } return function() return #a.x, b, c.z, "
          .. i .. " end")()
        weft.scope(function(g)
          local x, b, z, number = g:go(fn):wait()
          assert.same({ 3, "b", {}, i }, { x, b, z, number })
        end)
      end
    end)
    assert.is_true(sent > 0)
  end)

  it("sends while it is said why something cannot be sent", function()
    local channel, sent = weft.channel(100), 0
    with_finalizers(function()
      sent = sent + (channel:try_send { "from a finalizer", sent } and 1 or 0)
      channel:try_recv()
    end, function()
      local there = weft.channel(1)
      for i = 1, 1500 do
        local value = { a = { b = { [i] = io.stdout } } }
        local _, err = pcall(there.send, there, value)
        assert.matches("value 1%.a%.b%[" .. i .. "%]: userdata FILE%* cannot be sent", err)
      end
    end)
    assert.is_true(sent > 0)
  end)

  it("is not run more often for the functions that are sent", function()
    -- at the usual pace, also where the other specs' collector never rests
    local pause, steps = collectgarbage("setpause", 200), collectgarbage("setstepmul", 200)
    local cycles, stopped = 0, false
    local function count()
      cycles = cycles + 1
      if not stopped then
        finalized(count)
      end
    end
    finalized(count)
    collectgarbage()
    cycles = 0
    weft.scope(function(g)
      for _ = 1, 300 do
        g:go(load "return 1")
      end
    end)
    stopped = true
    collectgarbage()
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", steps)
    assert.is_true(cycles < 30, cycles .. " collections for 300 functions")
  end)

  it("asks a task for its status while results are being taken over", function()
    local group, first
    local asked = 0
    with_finalizers(function()
      if first then
        asked = asked + 1
        first:status()
        group:stats()
      end
    end, function()
      for _ = 1, 5 do
        weft.scope(function(g)
          group = g
          for i = 1, 200 do
            local task = g:go(function() return ("x"):rep(i % 2 * 100) .. i end)
            first = first or task
          end
          local results = g:wait()
          for i = 1, 200 do
            assert.equal(("x"):rep(i % 2 * 100) .. i, results[i]) -- short and long
          end
          first = nil
        end)
      end
    end)
    assert.is_true(asked > 0)
  end)

  it("starts tasks of the same group while one is being started", function()
    local started = 0
    for _, pool in ipairs { weft.inline, weft.default_pool() } do
      local expected = 0
      weft.scope(nil, { pool = pool }, function(g)
        with_finalizers(function()
          if started < 1000 then
            started = started + 1
            expected = expected + 1
            g:go(function() return 1 end)
          end
        end, function()
          for i = 1, 3000 do
            expected = expected + 1
            g:go("task " .. i, function() return 1 end, { i })
          end
        end)
        local results = g:wait()
        assert.equal(expected, results.n)
        for i = 1, expected do
          assert.equal(1, results[i])
        end
      end)
    end
    assert.is_true(started > 0)
  end)

  -- What was made before weft was loaded is finalized after weft's part of the state.
  it_with_processes("still calls weft when its part of the state is gone, but cannot block or start tasks there",
    function()
      local ended = script.run [[
        local weft
        local function late()
          local channel = weft.channel(1)
          print(channel:try_send { "late" }, channel:try_recv()[1])
          print(select(2, pcall(channel.recv, channel)))
          local g = weft.group { pool = weft.inline }
          print(select(2, pcall(g.go, g, print)))
          print(select(2, pcall(weft.sleep, 0)))
          print(pcall(weft.tasks))
        end
        if newproxy then
          older = newproxy(true)
          getmetatable(older).__gc = late
        else
          older = setmetatable({}, { __gc = late })
        end
        weft = require "weft"
        weft.scope(function(g) g:go(function() end) end)
      ]]
      assert.equal(0, ended.status, ended.out)
      assert.matches("true\tlate\n", ended.out)
      assert.matches("channel:recv would block while the Lua state closes", ended.out)
      assert.matches("no task can be started while the Lua state closes", ended.out)
      assert.matches("weft.sleep would block while the Lua state closes", ended.out)
    end)
end)
