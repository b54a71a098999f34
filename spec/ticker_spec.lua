-- weft.after and weft.ticker.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local rejects = calls.rejects
local run = tasks.run

describe("weft.after", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gives the time, once", function()
    local before = weft.now()
    local ch = weft.after(0.002)
    local at, ok = ch:recv()
    assert.is_true(ok)
    assert.is_true(at >= before + 0.002 and at <= weft.now())
    assert.same({ nil, nil, "empty" }, { ch:try_recv() })
    assert.is_false(ch:stop())
    assert.is_true((weft.after(0):recv()) >= at)
  end)

  it("is for select", function()
    local never = weft.channel()
    assert.equal(2, (weft.select({ { recv = never }, { recv = weft.after(0.001) }, { recv = weft.after(1000) } })))
  end)

  it("can be stopped, and dropped", function()
    local ch = weft.after(1000)
    assert.is_true(ch:stop())
    assert.is_false(ch:stop())
    assert.equal("timeout", weft.select({ { recv = ch }, timeout = 0.001 }))
    for _ = 1, 100 do
      weft.after(1000)
    end
    assert.is_true(weft.after(math.huge):stop())
  end)

  it("can be sent", function()
    local ch = weft.after(0.001)
    local results = run(nil, function(group)
      group:go(function(_, other)
        assert(other == ch)
        return (ch:recv())
      end, ch)
    end)
    assert.is_true(results[1] <= weft.now())
  end)

  it("is left by who is cancelled", function()
    local ch = weft.after(1000)
    local ctx = weft.background():with_timeout(0.001)
    local _, err = weft.all(ctx, {
      a = function()
        ch:recv()
      end,
    })
    assert.equal("deadline", err.kind)
  end)
end)

describe("weft.ticker", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gives the time again and again, never early", function()
    local start = weft.now()
    local ticks = weft.ticker(0.002)
    for i = 1, 4 do
      assert.is_true((ticks:recv()) >= start + 0.002 * i)
    end
    assert.is_true(ticks:stop())
    assert.is_false(ticks:stop())
  end)

  it("drops ticks for who is slow", function()
    local ticks = weft.ticker(0.0005)
    while ticks:dropped() < 3 do
      weft.sleep(0.001)
    end
    assert.equal(1, #ticks)
    ticks:stop()
    ticks:recv()
    assert.same({ nil, nil, "empty" }, { ticks:try_recv() })
  end)

  it("ends loops when it is closed", function()
    local ticks, count = weft.ticker(0.0005), 0
    for at in ticks:iter() do
      assert.is_true(at <= weft.now())
      count = count + 1
      if count == 3 then
        ticks:close()
      end
    end
    assert.is_true(count >= 3 and count <= 4)
    assert.is_false(ticks:stop())
  end)

  it("serves tasks on other threads", function()
    local ticks = weft.ticker(0.0005)
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
  end)

  it("names wrong arguments", function()
    rejects("bad argument 'seconds' to weft.ticker: expected a number of seconds > 0, got 0", weft.ticker, 0)
    rejects("bad argument 'seconds' to weft.ticker: .*got nan", weft.ticker, 0 / 0)
    rejects("bad argument 'seconds' to weft.after: expected a number of seconds >= 0, got %-1", weft.after, -1)
    local ch = weft.channel()
    rejects("channel:stop: not a channel of weft.ticker or weft.after", ch.stop, ch)
    rejects("bad argument 'self' to channel:stop", ch.stop, 5)
  end)
end)
