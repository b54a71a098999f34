-- The virtual clock: order, holding, what follows it, its end.

local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local near, virtually = virtual.near, virtual.virtually

-- With ThreadSanitizer preloaded no other process runs.
local it_with_processes = os.getenv("WEFT_SAN") == "thread" and function() end or it

local function inline(fn)
  assert(weft.scope({ pool = weft.inline }, fn))
end

describe("the virtual clock", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("makes 450 seconds of sleeps short", function()
    local started = os.time()
    testing.virtual_clock(function(clock)
      local results = assert(weft.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9 }, function(i)
        for _ = 1, 50 do
          weft.sleep(1)
        end
        return i
      end, { chunk = 1, limit = 1 }))
      assert.equal(9, #results)
      near(450, clock:elapsed())
    end)
    assert.is_true(os.time() - started < 60)
  end)

  it("fires in the order of deadlines, and of starts at the same instant", virtually(function(clock)
    local order = {}
    inline(function(g)
      for i, seconds in ipairs({ 3, 1, 2, 1, 3, 1 }) do
        g:go(function()
          weft.sleep(seconds)
          order[#order + 1] = i
        end)
      end
    end)
    assert.same({ 2, 4, 6, 3, 1, 5 }, order)
    near(3, clock:elapsed())
  end))

  it("lets what follows from a timer come first, before the next timer of that instant", virtually(function()
    local order = {}
    local channel = weft.channel()
    inline(function(g)
      g:go(function()
        weft.sleep(1)
        channel:send("from the first")
      end)
      g:go(function()
        order[1] = channel:recv()
      end)
      g:go(function()
        weft.sleep(1)
        order[#order + 1] = "the second"
      end)
    end)
    assert.same({ "from the first", "the second" }, order)
  end))

  it("has an order for each seed, the same every time", function()
    local function order_of(seed)
      local order = {}
      testing.virtual_clock({ seed = seed }, function()
        inline(function(g)
          for i = 1, 20 do
            g:go(function()
              weft.sleep(1)
              order[#order + 1] = i
            end)
          end
        end)
      end)
      return table.concat(order, " ")
    end
    assert.equal(order_of(7), order_of(7))
    assert.not_equal(order_of(7), order_of(8))
    assert.equal("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", order_of(nil))
  end)

  it("decides by its seed what select takes", function()
    local function choices(seed)
      local taken = {}
      testing.virtual_clock({ seed = seed }, function()
        for i = 1, 30 do
          local a, b = weft.channel(1), weft.channel(1)
          a:send(1)
          b:send(1)
          taken[i] = weft.select({ { recv = a }, { recv = b } })
        end
      end)
      return table.concat(taken, " ")
    end
    local first = choices(3)
    assert.equal(first, choices(3))
    assert.matches("1", first)
    assert.matches("2", first)
    assert.not_equal(first, choices(4))
  end)

  it("stands still while a task runs", virtually(function(clock)
    local before = clock:now()
    local sum = assert(weft.map({ 1, 2 }, function()
      local now, turns = weft.now(), 0
      for i = 1, 300000 do
        turns = turns + i % 2
      end
      return weft.now() - now
    end, { chunk = 1 }))
    assert.same({ 0, 0, n = 2 }, sum)
    assert.equal(before, clock:now())
  end))

  it_with_processes("is held by a thread that is busy outside of Lua", virtually(function(clock)
    local path = os.tmpname()
    os.remove(path)
    local pool = weft.pool({ threads = 2 })
    local started = weft.channel()
    local slept = false
    local group = weft.group({ pool = pool })
    group:go(function()
      started:send(true)
      os.execute("n=0; while [ ! -e " .. path .. " ] && [ $n -lt 12000 ]; do n=$((n + 1)); sleep 0.01; done")
    end)
    started:recv()
    local here = weft.group({ pool = weft.inline })
    here:go(function()
      weft.sleep(1)
      slept = true
    end)
    here:go(function() end)
    os.execute("sleep 0.05")
    assert.is_false(slept)
    near(0, clock:elapsed())
    io.open(path, "w"):close()
    assert(group:wait())
    assert(here:wait())
    assert.is_true(slept)
    near(1, clock:elapsed())
    os.remove(path)
    pool:close()
  end))

  it("is followed by deadlines, limiters and tickers", virtually(function(clock)
    local ctx = weft.background():with_timeout(60)
    local results, err = weft.scope(ctx, { pool = weft.inline }, function(g)
      g:go(function()
        weft.sleep(1000)
      end)
    end)
    assert.is_nil(results)
    assert.equal("deadline", err.kind)
    near(60, clock:elapsed())
    assert.equal("deadline", ctx:err().kind)

    local limiter = weft.limiter({ rate = 2, burst = 1 })
    for _ = 1, 5 do
      limiter:wait()
    end
    near(62, clock:elapsed())

    local ticker = weft.ticker(10)
    ticker:recv()
    ticker:recv()
    near(82, clock:elapsed())
    ticker:stop()
    assert.is_false((weft.select({ { recv = weft.channel() }, timeout = 5 })) == 1)
    near(87, clock:elapsed())
  end))

  describe("advance", function()
    it("returns when all that is due has happened", virtually(function(clock)
      local seen = {}
      local group = weft.group({ pool = weft.inline })
      group:go(function()
        for i = 1, 5 do
          weft.sleep(1)
          seen[i] = clock:elapsed()
          weft.sleep(0)
        end
      end)
      clock:advance(2)
      assert.equal(2, #seen)
      clock:advance(0.5)
      assert.equal(2, #seen)
      clock:advance(0.5)
      assert.equal(3, #seen)
      near(3, clock:elapsed())
      group:close()
    end))

    it("reaches tasks on threads", virtually(function(clock)
      local ticks = weft.channel(100)
      local group = weft.group()
      group:go(function()
        while true do
          weft.sleep(1)
          ticks:send(weft.now())
        end
      end)
      clock:advance(10)
      assert.equal(10, #ticks)
      clock:advance(0)
      assert.equal(10, #ticks)
      group:close()
    end))

    it("ends with the caller's context", virtually(function(clock)
      local ctx = weft.background():with_timeout(1)
      local _, err = weft.scope(ctx, { pool = weft.inline }, function(g)
        g:go(function()
          clock:advance(10)
        end)
      end)
      assert.equal("deadline", err.kind)
      near(1, clock:elapsed())
    end))
  end)

  it("is held by transfers, whose own timeouts are real", function()
    local server = assert(testing.model_server({ latency = 0.05 }))
    testing.virtual_clock(function(clock)
      local model = weft.model.openai({ base_url = server.url, model = "any" })
      local group = weft.group()
      group:go(function()
        weft.sleep(1000)
        return "slept"
      end)
      assert.equal("echo: hello", assert(model:chat({ prompt = "hello" })).text)
      near(0, clock:elapsed())
      assert.equal("slept", assert(group:wait())[1])
      near(1000, clock:elapsed())
    end)
    server:close()
  end)

  it("goes on from where it stands when it ends", function()
    local clock = testing.virtual_clock()
    local group = weft.group()
    group:go(function()
      weft.sleep(0.02)
      return "woken in real time"
    end)
    clock:advance(0.01)
    clock:advance(0)
    local at = clock:now()
    clock:close()
    clock:close()
    assert.is_true(weft.now() >= at)
    assert.equal("woken in real time", assert(group:wait())[1])
    assert.matches("was closed", select(2, pcall(clock.now, clock)))
  end)

  it("ends when it is collected", function()
    testing.virtual_clock()
    collectgarbage()
    collectgarbage()
    testing.virtual_clock():close()
  end)

  it("is only one, and refuses misuse", function()
    local clock = testing.virtual_clock()
    local ok, err = pcall(testing.virtual_clock)
    assert.is_false(ok)
    assert.matches("there is one already", err)
    assert.has_error(function()
      clock.advance({}, 1)
    end)
    assert.is_false(pcall(clock.advance, clock, -1))
    clock:close()
    assert.matches("bad argument 'seed'", select(2, pcall(testing.virtual_clock, { seed = 0.5 })))
    assert.matches("bad option 'sed'", select(2, pcall(testing.virtual_clock, { sed = 1 })))
    assert.matches("bad argument 'fn'", select(2, pcall(testing.virtual_clock, {}, 1)))
    assert.matches("belongs to the script", tostring(select(2, pcall(function()
      local other = testing.virtual_clock()
      local group = weft.group()
      local started, raised = pcall(group.go, group, function()
        return other
      end)
      group:close()
      other:close()
      assert(started, raised)
    end))))
  end)

  it("is closed when its function raises", function()
    local ok, err = pcall(testing.virtual_clock, function()
      error("on purpose", 0)
    end)
    assert.is_false(ok)
    assert.equal("on purpose", err)
    testing.virtual_clock():close()
  end)
end)
