-- weft.select between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local near, virtually = virtual.near, virtual.virtually
local pack, rejects = calls.pack, calls.rejects
local run, settle = tasks.run, tasks.settle

local ROUNDS = os.getenv("WEFT_SAN") and 200 or 1000
local MANY = os.getenv("WEFT_SAN") and 50 or 500 -- ThreadSanitizer knows 64 locks at once

local function holding(...)
  local ch = weft.channel(select("#", ...))
  for i = 1, select("#", ...) do
    ch:send((select(i, ...)))
  end
  return ch
end

describe("weft.select", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("returns the case that can go on", function()
    local a, b = weft.channel(1), holding("x")
    assert.same({ 2, "x", true, n = 3 }, pack(weft.select({ { recv = a }, { recv = b } })))
    assert.same({ 2, nil, true, n = 3 }, pack(weft.select({ { recv = a }, { send = b, value = { "y" } } })))
    assert.same({ { "y" }, true }, { b:recv() })
  end)

  it("passes nil and false on", function()
    local ch = weft.channel(2)
    weft.select({ { send = ch, value = false } })
    weft.select({ { send = ch } })
    assert.same({ 1, false, true, n = 3 }, pack(weft.select({ { recv = ch } })))
    assert.same({ 1, nil, true, n = 3 }, pack(weft.select({ { recv = ch } })))
  end)

  it("returns what a closed channel holds, then nil and false", function()
    local ch = holding(5)
    ch:close()
    assert.same({ 1, 5, true, n = 3 }, pack(weft.select({ { recv = ch } })))
    assert.same({ 1, nil, false, n = 3 }, pack(weft.select({ { recv = ch } })))
  end)

  it("raises when the chosen case sends to a closed channel", function()
    local ch, other = weft.channel(1), weft.channel()
    ch:close()
    local err = rejects("weft.select: case 2: the channel is closed", weft.select, {
      { recv = other },
      { send = ch, value = 1 },
    })
    assert.equal("closed", err.kind)
  end)

  it("does not wait with default, nor with a timeout of zero", function()
    local ch = weft.channel()
    assert.same({ "default", n = 1 }, pack(weft.select({ { recv = ch }, default = true })))
    assert.same({ "default", n = 1 }, pack(weft.select({ default = true })))
    assert.same({ "timeout", n = 1 }, pack(weft.select({ { send = ch }, timeout = 0 })))
    assert.same({ 1, 7, true, n = 3 }, pack(weft.select({ { recv = holding(7) }, default = true, timeout = 0 })))
  end)

  it("waits no longer than its timeout", virtually(function(clock)
    local ch = weft.channel()
    assert.equal("timeout", weft.select({ { recv = ch }, timeout = 2 }))
    near(2, clock:elapsed())
    assert.equal("timeout", weft.select({ timeout = 0.5 }))
    near(2.5, clock:elapsed())
    run({ pool = weft.inline }, function(group)
      group:go(function()
        ch:send("in time")
      end)
      assert.same({ 1, "in time", true }, { weft.select({ { recv = ch }, timeout = 1000 }) })
      group:go(function()
        ch:send("in time")
      end)
      assert.same({ 1, "in time", true }, { weft.select({ { recv = ch }, timeout = math.huge }) })
      group:go(function()
        weft.sleep(3)
        ch:send("just in time")
      end)
      assert.same({ 1, "just in time", true }, { weft.select({ { recv = ch }, timeout = 3.1 }) })
    end)
    near(5.5, clock:elapsed()) -- timeouts that were not needed are gone
    clock:advance(2000)
    assert.equal("default", weft.select({ { recv = ch }, default = true }))
  end))

  it("never chooses a case that was switched off", function()
    local ch, off = holding(1, 2, 3, 4), nil
    for i = 1, 4 do
      assert.same({ 4, i, true }, {
        weft.select({ { recv = off }, { send = false, value = 1 }, false, { recv = ch }, { done = false } }),
      })
    end
    assert.same({ 3, "x", true }, { weft.select({ nil, nil, { recv = holding("x") } }) })
    assert.equal("default", weft.select({ {}, false, default = true }))
  end)

  it("leaves the choice to chance", function()
    local chs, counts = { holding(0), holding(0), holding(0) }, { 0, 0, 0 }
    for _ = 1, 600 do
      local i, value = weft.select({ { recv = chs[1] }, { recv = chs[2] }, { recv = chs[3] } })
      counts[i] = counts[i] + 1
      chs[i]:send(value)
    end
    for i = 1, 3 do
      assert.is_true(counts[i] > 100, table.concat(counts, " "))
    end
  end)

  it("takes the first case that can go on with prefer = \"order\"", function()
    local empty, a, b = weft.channel(), holding(1, 2, 3), holding(1, 2, 3)
    local seen = {}
    for _ = 1, 6 do
      local i = weft.select({ { recv = empty }, { recv = a }, { recv = b }, prefer = "order" })
      seen[#seen + 1] = i
    end
    assert.same({ 2, 2, 2, 3, 3, 3 }, seen)
  end)

  it("does not meet itself on a channel that it sends to and receives from", virtually(function()
    local ch = weft.channel()
    local cases = { { send = ch, value = "mine" }, { recv = ch } }
    cases.default = true
    assert.equal("default", weft.select(cases))
    cases.default, cases.timeout = nil, 1
    assert.equal("timeout", weft.select(cases))
    cases.timeout = nil
    run({ pool = weft.inline }, function(group)
      local task = group:go(function()
        return (weft.select(cases))
      end)
      settle(group)
      assert.same({ "mine", true }, { ch:recv() })
      assert.equal(1, (task:wait()))
    end)
  end))

  it("is one of two parties when two choices face each other", function()
    local ch = weft.channel()
    run({ pool = weft.inline }, function(group)
      local tasks = {}
      for i = 1, 2 do
        tasks[i] = group:go(function()
          local index, value = weft.select({ { send = ch, value = "from " .. i }, { recv = ch } })
          return index, value
        end)
      end
      local a, from_a = tasks[1]:wait()
      local b, from_b = tasks[2]:wait()
      assert.equal(3, a + b)
      assert.equal(a == 2 and "from 2" or "from 1", from_a or from_b)
    end)
  end)

  it("may have a channel in several cases", function()
    local ch = weft.channel()
    run({ pool = weft.inline }, function(group)
      local task = group:go(function()
        local index, value = weft.select({ { recv = ch }, { recv = ch }, { recv = ch } })
        return index, value
      end)
      settle(group)
      assert.is_true(ch:try_send("x"))
      assert.is_false(ch:try_send("y"))
      local index, value = task:wait()
      assert.is_true(index >= 1 and index <= 3)
      assert.equal("x", value)
    end)
    assert.is_false(ch:try_send("z"))
  end)

  it("leaves nothing queued behind", function()
    local a, b = weft.channel(), weft.channel()
    run({ pool = weft.inline }, function(group)
      group:go(function()
        weft.select({ { recv = a }, { send = b, value = 1 }, { recv = a } })
      end)
      settle(group)
      a:send("x")
      group:wait()
    end)
    assert.is_false(a:try_send("y"))
    assert.same({ nil, nil, "empty", n = 3 }, pack(b:try_recv()))
  end)

  it("waits for contexts", virtually(function(clock)
    local ch, ctx = weft.channel(), weft.background():with_cancel()
    run({ pool = weft.inline }, function(group)
      local task = group:go(function()
        return weft.select({ { recv = ch }, { done = ctx } })
      end)
      settle(group)
      ctx:cancel("enough")
      local index, err, ok = task:wait()
      assert.equal(2, index)
      assert.equal("canceled", err.kind)
      assert.equal("enough", tostring(err.cause))
      assert.is_true(ok)
      index, err = weft.select({ { recv = ctx }, { recv = ch } })
      assert.equal(1, index)
      assert.equal("canceled", err.kind)
      index = weft.select({ { done = ctx:done() }, { recv = ch } })
      assert.equal(1, index)
    end)
    local timed = weft.background():with_timeout(9)
    assert.equal("deadline", select(2, weft.select({ { done = timed } })).kind)
    near(9, clock:elapsed())
    assert.equal("default", weft.select({ { done = weft.background() }, default = true }))
  end))

  it("raises in a context that is done, and takes nothing, although a case could go on", function()
    local ch, places = holding("x"), weft.semaphore(1)
    local ctx = weft.background():with_cancel()
    run({ pool = weft.inline, collect = true }, function(group)
      local task = group:go(function(own)
        ctx = own
        pcall(ctx.wait, ctx)
        return pcall(weft.select, { { recv = ch }, { acquire = places } })
      end)
      settle(group)
      task:cancel("enough")
      local ok, err = task:wait()
      assert.is_false(ok)
      assert.equal("canceled", err.kind)
    end)
    assert.equal(1, #ch)
    assert.equal(0, places:held())
  end)

  it("that does not wait may be called where Lua cannot yield", function()
    local words = run({}, function(group)
      group:go(function()
        local ch, seen = weft.channel(), {}
        table.sort({ 2, 1 }, function(a, b)
          seen[1] = weft.select({ { recv = ch }, timeout = 0 })
          seen[2] = weft.select({ { recv = ch }, default = true })
          return a < b
        end)
        return seen
      end)
    end)[1]
    assert.same({ "timeout", "default" }, words)
  end)

  it("returns the case of the caller's own context, which else would raise", function()
    local ch = weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local asks = group:go(function(ctx)
        local first = weft.select({ { recv = ch }, { done = ctx } })
        local again = weft.select({ { recv = ch }, { done = ctx } })
        return first * 10 + again
      end)
      local raises = group:go(function()
        weft.select({ { recv = ch } })
      end)
      local raises_before = group:go(function(ctx)
        ctx:wait()
      end)
      settle(group)
      asks:cancel()
      raises:cancel("stop")
      raises_before:cancel()
      assert.equal(22, (asks:wait()))
      local _, err = raises:wait()
      assert.equal("canceled", err.kind)
      assert.matches("stop", tostring(err))
      raises_before:wait()
    end)
    assert.is_false(ch:try_send(1))
  end)

  it("wakes with a closed channel", function()
    local ch, to = weft.channel(), weft.channel()
    run({ pool = weft.inline, collect = true }, function(group)
      local receives = group:go(function()
        return weft.select({ { recv = ch } })
      end)
      local sends = group:go(function()
        return weft.select({ { send = to } })
      end)
      settle(group)
      ch:close()
      to:close()
      local index, value, ok = receives:wait()
      assert.same({ 1, nil, false }, { index, value, ok })
      assert.equal("closed", select(2, sends:wait()).kind)
    end)
  end)

  it("loses nothing and doubles nothing across threads", function()
    local a, b, out = weft.channel(), weft.channel(2), weft.channel(16)
    local sum = 0
    run(nil, function(group)
      local producers = weft.waitgroup()
      producers:add(2)
      for p = 1, 2 do
        group:go(function()
          for i = 1, ROUNDS do
            weft.select({ { send = a, value = i * 2 + p }, { send = b, value = i * 2 + p } })
          end
          producers:done()
        end)
      end
      local consumers = weft.waitgroup()
      consumers:add(3)
      for _ = 1, 3 do
        group:go(function()
          local open_a, open_b = a, b
          while open_a or open_b do
            local i, value, ok = weft.select({ { recv = open_a }, { recv = open_b } })
            if ok then
              out:send(value)
            elseif i == 1 then
              open_a = nil
            else
              open_b = nil
            end
          end
          consumers:done()
        end)
      end
      group:go(function()
        producers:wait()
        a:close()
        b:close()
        consumers:wait()
        out:close()
      end)
      for value in out:iter() do
        sum = sum + value
      end
    end)
    assert.equal(2 * ROUNDS * (ROUNDS + 1) + 3 * ROUNDS, sum)
  end)

  it("acquires semaphores", function()
    local places, other, ch = weft.semaphore(3), weft.semaphore(1), weft.channel()
    assert.same({ 1, nil, true, n = 3 }, pack(weft.select({ { acquire = places, k = 2 }, { recv = ch } })))
    assert.equal(2, places:held())
    assert.equal("timeout", weft.select({ { acquire = places, k = 2 }, timeout = 0.001 }))
    assert.same({ 2, nil, true, n = 3 }, pack(weft.select({ { acquire = places, k = 2 }, { acquire = other } })))
    assert.equal(1, other:held())
    run({ pool = weft.inline, collect = true }, function(group)
      local waits = group:go(function()
        local index = weft.select({ { acquire = places, k = 3 }, { recv = ch } })
        return index
      end)
      settle(group)
      assert.is_false(places:try_acquire()) -- nobody overtakes
      ch:send(1)
      assert.equal(2, (waits:wait()))
      assert.is_true(places:try_acquire()) -- its place was left
      local canceled = group:go(function()
        weft.select({ { acquire = places } })
      end)
      settle(group)
      canceled:cancel()
      canceled:wait()
      assert.equal(3, places:held())
      local rejected = group:go(function()
        local index, err, ok = weft.select({ { acquire = places, k = 3 } })
        return index, err.kind, ok
      end)
      settle(group)
      places:resize(2)
      assert.same({ 1, "too_large", false }, { rejected:wait() })
    end)
    local index, err, ok = weft.select({ { acquire = places, k = 3 } })
    assert.same({ 1, false }, { index, ok })
    assert.equal("weft.select: 3 is more than the semaphore's size of 2", err.message)
    assert.equal("default", weft.select({ { acquire = false }, default = true }))
    places:release(3)
    other:release()
  end)

  it("takes many cases", function()
    local cases, expected = {}, 0
    for i = 1, MANY do
      cases[i] = { recv = i % 2 == 0 and holding(i) or weft.channel() }
      expected = expected + (i % 2 == 0 and i or 0)
    end
    local sum = 0
    repeat
      cases.default = true
      local index, value = weft.select(cases)
      sum = sum + (value or 0)
    until index == "default"
    assert.equal(expected, sum)
  end)

  it("keeps what it waits for, whatever happens to the table", function()
    local ch = weft.channel()
    run({ pool = weft.inline }, function(group)
      local cases = { { recv = ch }, { send = weft.channel(), value = { 1 } } }
      local task = group:go(function()
        return weft.select(cases)
      end)
      settle(group)
      cases[1], cases[2] = nil, nil
      collectgarbage()
      collectgarbage()
      ch:send("still")
      assert.same({ 1, "still" }, { (task:wait()), (select(2, task:wait())) })
    end)
  end)

  if os.getenv("WEFT_SAN") ~= "thread" then -- a shell does not run with it preloaded
    it("is left when the script ends while tasks of weft.inline wait in it", function()
      local ended = require("spec.support.script").run([[
        local weft = require "weft"
        local ch, flights, limiter = weft.channel(), weft.singleflight(), weft.limiter({ rate = 1e-6 })
        limiter:wait()
        local group = weft.group({ pool = weft.inline })
        for i = 1, 3 do
          group:go(function()
            weft.select({ { recv = ch }, { send = ch, value = ("x"):rep(100) }, { recv = weft.after(1000) }, timeout = 2000 })
          end)
          group:go(function()
            flights:run("key", function() weft.sleep(1000) end)
          end)
          group:go(function() limiter:wait() end)
        end
        local others = weft.group()
        others:go(function()
          for _ = 1, 100 do weft.select({ { recv = ch }, timeout = 0.0001 }) end
        end)
        weft.sleep(0.001)
        io.write("the end")
      ]])
      assert.same({ out = "the end", status = 0 }, ended)
    end)
  end

  it("names wrong arguments", function()
    local ch = weft.channel()
    rejects("bad argument 'cases' to weft.select: expected a table of cases, got nil", weft.select)
    rejects("bad argument '%[2%]' to weft.select: expected a table such as", weft.select, { { recv = ch }, ch })
    rejects("bad argument '%[1%].recv' to weft.select: expected a weft channel, or false, got 5", weft.select, { { recv = 5 } })
    rejects("bad argument '%[1%].send' to weft.select", weft.select, { { send = weft.background() } })
    rejects("bad argument '%[1%].done' to weft.select: expected a weft context, or false", weft.select, { { done = ch } })
    rejects("'%[1%]' to weft.select: one of recv, send, done, acquire, not several", weft.select, { { recv = ch, send = ch } })
    rejects("'%[1%]' to weft.select: 'receive' is none of recv, send, value, done, acquire, k", weft.select, { { receive = ch } })
    rejects("bad argument '%[1%].acquire' to weft.select: expected a weft semaphore, or false", weft.select, { { acquire = ch } })
    rejects("bad argument 'k' to weft.select: expected a whole number", weft.select, { { acquire = weft.semaphore(1), k = 0 } })
    rejects("bad option 'time' to weft.select: known are timeout, default, prefer", weft.select, { time = 1 })
    rejects("bad argument 'timeout' to weft.select: expected a number of seconds", weft.select, { timeout = -1 })
    rejects("bad argument 'prefer' to weft.select: expected 'order'", weft.select, { prefer = "first" })
    rejects("value 1: thread cannot be sent", weft.select, { { send = ch, value = coroutine.create(print) } })
  end)
end)
