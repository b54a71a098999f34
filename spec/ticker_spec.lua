-- weft.after and weft.ticker.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local near, virtually = virtual.near, virtual.virtually
local rejects = calls.rejects
local run = tasks.run

describe("weft.after", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gives the time, once", virtually(function(clock)
    local before = weft.now()
    local ch = weft.after(2)
    clock:advance(1.9)
    assert.same({ nil, nil, "empty" }, { ch:try_recv() })
    local at, ok = ch:recv()
    assert.is_true(ok)
    near(before + 2, at)
    near(at, weft.now())
    clock:advance(10)
    assert.same({ nil, nil, "empty" }, { ch:try_recv() })
    assert.is_false(ch:stop())
    near(before + 12, (weft.after(0):recv()))
  end))

  it("is never early in real time", function()
    local before = weft.now()
    local at = weft.after(0.002):recv()
    assert.is_true(at >= before + 0.002 and at <= weft.now())
  end)

  it("is for select", virtually(function(clock)
    local never = weft.channel()
    assert.equal(2, (weft.select({ { recv = never }, { recv = weft.after(1) }, { recv = weft.after(1000) } })))
    near(1, clock:elapsed())
  end))

  it("can be stopped, and dropped", virtually(function()
    local ch = weft.after(1000)
    assert.is_true(ch:stop())
    assert.is_false(ch:stop())
    assert.equal("timeout", weft.select({ { recv = ch }, timeout = 2000 }))
    for _ = 1, 100 do
      weft.after(1000)
    end
    assert.is_true(weft.after(math.huge):stop())
  end))

  it("can be sent", virtually(function(clock)
    local at = weft.now() + 5
    local ch = weft.after(5)
    local results = run(nil, function(group)
      group:go(function(_, other)
        assert(other == ch)
        return (ch:recv())
      end, ch)
    end)
    near(at, results[1])
    near(5, clock:elapsed())
  end))

  it("is left by who is cancelled", virtually(function(clock)
    local ch = weft.after(1000)
    local ctx = weft.background():with_timeout(10)
    local _, err = weft.all(ctx, {
      a = function()
        ch:recv()
      end,
    })
    assert.equal("deadline", err.kind)
    near(10, clock:elapsed())
    ch:recv()
    near(1000, clock:elapsed())
  end))
end)

describe("weft.ticker", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gives the time again and again", virtually(function()
    local start = weft.now()
    local ticks = weft.ticker(2)
    for i = 1, 4 do
      near(start + 2 * i, (ticks:recv()))
    end
    assert.is_true(ticks:stop())
    assert.is_false(ticks:stop())
    assert.equal("timeout", weft.select({ { recv = ticks }, timeout = 100 }))
  end))

  it("is never early in real time", function()
    local start = weft.now()
    local ticks = weft.ticker(0.002)
    for i = 1, 4 do
      assert.is_true((ticks:recv()) >= start + 0.002 * i)
    end
    ticks:close()
  end)

  it("drops ticks for who is slow, and keeps its beat", virtually(function(clock)
    local start = weft.now()
    local ticks = weft.ticker(1)
    clock:advance(4.5)
    assert.equal(3, ticks:dropped())
    assert.equal(1, #ticks)
    near(start + 1, (ticks:recv()))
    near(start + 5, (ticks:recv()))
    clock:advance(1)
    ticks:stop()
    ticks:recv()
    assert.same({ nil, nil, "empty" }, { ticks:try_recv() })
  end))

  it("ends loops when it is closed", virtually(function(clock)
    local ticks, count = weft.ticker(1), 0
    for at in ticks:iter() do
      near(at, weft.now())
      count = count + 1
      if count == 3 then
        ticks:close()
      end
    end
    assert.equal(3, count)
    near(3, clock:elapsed())
    assert.is_false(ticks:stop())
  end))

  it("serves tasks on other threads", virtually(function(clock)
    local ticks = weft.ticker(1)
    run(nil, function(group)
      for _ = 1, 3 do
        group:go(function()
          for _ = 1, 3 do
            assert(select(2, ticks:recv()))
          end
        end)
      end
    end)
    ticks:close()
    near(9, clock:elapsed())
  end))

  it("names wrong arguments", function()
    rejects("bad argument 'seconds' to weft.ticker: expected a number of seconds > 0, got 0", weft.ticker, 0)
    rejects("bad argument 'seconds' to weft.ticker: .*got nan", weft.ticker, 0 / 0)
    rejects("bad argument 'seconds' to weft.after: expected a number of seconds >= 0, got %-1", weft.after, -1)
    local ch = weft.channel()
    rejects("channel:stop: not a channel of weft.ticker or weft.after", ch.stop, ch)
    rejects("bad argument 'self' to channel:stop", ch.stop, 5)
  end)
end)
