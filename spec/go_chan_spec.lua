-- Behaviours of Go's channels and select, each named after its test in runtime/chan_test.go or test/chan/*.go; of
-- time.After and time.Ticker in time/*_test.go.
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local testing = require "weft.testing"
local weft = require "weft"

local run, settle = tasks.run, tasks.settle

local ROUNDS = os.getenv("WEFT_SAN") and 200 or 2000

describe("runtime", function()
  before_each(leaks.before)
  after_each(leaks.after)

  for capacity = 0, 3 do
    it("TestChan, capacity " .. capacity, function()
      local ch = weft.channel(capacity)
      run({ pool = weft.inline }, function(group)
        local blocked = group:go(function() -- receiving from an empty channel blocks
          return (ch:recv())
        end)
        settle(group)
        assert.same({ nil, nil, "empty" }, { ch:try_recv() })
        assert.equal("default", weft.select({ { recv = ch }, default = true }))
        ch:send(7)
        assert.equal(7, (blocked:wait()))
        for i = 1, capacity do
          ch:send(i)
        end
        local sender = group:go(function() -- sending to a full channel blocks
          ch:send("last")
        end)
        settle(group)
        assert.is_false(ch:try_send(0))
        assert.equal("default", weft.select({ { send = ch, value = 0 }, default = true }))
        for i = 1, capacity do
          assert.equal(i, (ch:recv()))
        end
        assert.equal("last", (ch:recv()))
        sender:wait()
        for i = 1, capacity do
          ch:send(i)
        end
        ch:close() -- what it holds, then the end, for ever
        for i = 1, capacity do
          assert.same({ i, true }, { ch:recv() })
        end
        assert.same({ nil, false }, { ch:recv() })
        assert.same({ 1, nil, false }, { weft.select({ { recv = ch }, default = true }) })
      end)
      local order = weft.channel(capacity) -- first in, first out
      run(nil, function(group)
        group:go(function()
          for i = 1, 100 do
            order:send(i)
          end
        end)
        for i = 1, 100 do
          assert.equal(i, (order:recv()))
        end
      end)
      local shared, sums = weft.channel(capacity), 0 -- among many, nothing is lost or doubled
      local results = run(nil, function(group)
        for _ = 1, 4 do
          group:go(function()
            for i = 1, ROUNDS / 4 do
              shared:send(i)
            end
          end)
          group:go(function()
            local sum = 0
            for _ = 1, ROUNDS / 4 do
              sum = sum + shared:recv()
            end
            return sum
          end)
        end
      end)
      for i = 2, results.n, 2 do
        sums = sums + results[i]
      end
      assert.equal(4 * (ROUNDS / 4) * (ROUNDS / 4 + 1) / 2, sums)
    end)
  end

  it("TestNonblockRecvRace", function()
    for _ = 1, ROUNDS / 10 do
      local ch = weft.channel(1)
      ch:send(1)
      local results = run(nil, function(group)
        group:go(function()
          return (weft.select({ { recv = ch }, default = true }))
        end)
        ch:close()
      end)
      assert.equal(1, results[1]) -- held or closed: never nothing
    end
  end)

  it("TestNonblockSelectRace: a select sees one moment", function()
    for _ = 1, ROUNDS / 10 do
      local a, b, started = weft.channel(1), weft.channel(1), weft.channel(1)
      a:send(1)
      local results = run(nil, function(group)
        group:go(function()
          started:send(true)
          return (weft.select({ { recv = a }, { recv = b }, default = true }))
        end)
        started:recv()
        b:send(1)
        weft.select({ { recv = a }, default = true })
      end)
      assert.not_equal("default", results[1])
    end
  end)

  it("TestNonblockSelectRace2", function()
    for _ = 1, ROUNDS / 10 do
      local a, b = weft.channel(1), weft.channel()
      a:send(1)
      local results = run(nil, function(group)
        group:go(function()
          return (weft.select({ { recv = a }, { recv = b }, default = true }))
        end)
        b:close()
        weft.select({ { recv = a }, default = true })
      end)
      assert.not_equal("default", results[1])
    end
  end)

  for _, capacity in ipairs({ 0, 10 }) do
    it("TestSelfSelect: two choices that both send and receive, capacity " .. capacity, function()
      local ch = weft.channel(capacity)
      run(nil, function(group)
        for party = 0, 1 do
          group:go(function()
            for i = 1, ROUNDS do
              local cases = { { send = ch, value = party }, { recv = ch } }
              if party == 0 or i % 2 == 0 then
                cases[1], cases[2] = cases[2], cases[1]
              end
              local index, value = weft.select(cases)
              if cases[index].recv and capacity == 0 then
                assert(value == 1 - party, "met itself")
              end
            end
          end)
        end
      end)
    end)
  end

  it("TestSelectStress", function()
    local chs = { weft.channel(), weft.channel(), weft.channel(2), weft.channel(3) }
    local each = ROUNDS / 4
    run(nil, function(group)
      for i = 1, 4 do
        group:go(function()
          for _ = 1, each do
            chs[i]:send(0)
          end
        end)
        group:go(function()
          for _ = 1, each do
            chs[i]:recv()
          end
        end)
      end
      local function choose_all(field)
        return function()
          local left = { each, each, each, each }
          for _ = 1, 4 * each do
            local cases = {}
            for i = 1, 4 do
              cases[i] = { [field] = left[i] > 0 and chs[i] or false, value = field == "send" and 0 or nil }
            end
            local index = weft.select(cases)
            left[index] = left[index] - 1
          end
        end
      end
      group:go(choose_all("send"))
      group:go(choose_all("recv"))
    end)
    for i = 1, 4 do
      assert.equal(0, #chs[i])
    end
  end)

  it("TestSelectFairness", function()
    local a, b, never, enough = weft.channel(64), weft.channel(64), weft.channel(), weft.channel()
    local counts = { 0, 0 }
    run(nil, function(group)
      for _, ch in ipairs({ a, b }) do
        group:go(function()
          while weft.select({ { send = ch, value = true }, { recv = enough } }) == 1 do
          end
        end)
      end
      while #a < 64 or #b < 64 do -- only a full choice is a fair test on a busy machine
        weft.sleep(0)
      end
      for _ = 1, ROUNDS do
        local index = weft.select({ { recv = a }, { recv = b }, { recv = never } })
        counts[index] = counts[index] + 1
        while #a == 0 or #b == 0 do
          weft.sleep(0)
        end
      end
      enough:close()
    end)
    for i = 1, 2 do
      assert.is_true(counts[i] > ROUNDS * 0.3, counts[1] .. " " .. counts[2])
    end
  end)

  it("TestPseudoRandomSend", function()
    for _, capacity in ipairs({ 0, 300 }) do
      local ch, ones = weft.channel(capacity), 0
      run(nil, function(group)
        group:go(function()
          for _ = 1, 300 do
            weft.select({ { send = ch, value = 0 }, { send = ch, value = 1 } })
          end
        end)
        for _ = 1, 300 do
          ones = ones + ch:recv()
        end
      end)
      assert.is_true(ones > 90 and ones < 210, ones)
    end
  end)

  it("TestMultiConsumer", function()
    local primes, q, r = { 2, 3, 7, 11, 13, 17, 19, 23, 27, 31 }, weft.channel(70), weft.channel(70)
    local expected, sum = 0, 0
    run(nil, function(group)
      local workers = weft.waitgroup()
      for _ = 1, 23 do
        workers:go(group, function()
          for value in q:iter() do
            r:send(value)
          end
        end)
      end
      group:go(function()
        for i = 1, ROUNDS do
          q:send(primes[i % 10 + 1])
        end
        q:close()
        workers:wait()
        r:close()
      end)
      for value in r:iter() do
        sum = sum + value
      end
    end)
    for i = 1, ROUNDS do
      expected = expected + primes[i % 10 + 1]
    end
    assert.equal(expected, sum)
  end)

  it("TestSelectDuplicateChannel", function()
    local c, d, e = weft.channel(), weft.channel(), weft.channel()
    run({ pool = weft.inline }, function(group)
      group:go(function() -- queued at c twice, woken by e
        assert.same({ 2, 7, true }, { weft.select({ { recv = c }, { recv = d }, { recv = e }, { recv = c } }) })
        e:send(9)
      end)
      settle(group)
      local second = group:go(function()
        return (c:recv())
      end)
      settle(group)
      d:send(7) -- the first must leave its places at c without harm to the second's
      assert.equal(9, (e:recv()))
      c:send(8)
      assert.equal(8, (second:wait()))
    end)
  end)

  it("test/chan/nilptr, select4: a nil channel never goes on", function()
    assert.equal("default", weft.select({ { recv = nil }, { send = nil, value = 1 }, default = true }))
    testing.virtual_clock(function()
      assert.equal("timeout", weft.select({ { recv = nil }, timeout = 1000 }))
    end)
  end)

  it("test/closedchan", function()
    local ch = weft.channel(1)
    ch:close()
    for _, attempt in ipairs({
      function()
        ch:close()
      end,
      function()
        ch:send(1)
      end,
      function()
        ch:try_send(1)
      end,
      function()
        weft.select({ { send = ch, value = 1 } })
      end,
      function()
        weft.select({ { send = ch, value = 1 }, default = true })
      end,
    }) do
      local ok, err = pcall(attempt)
      assert.is_false(ok)
      assert.equal("closed", err.kind)
    end
  end)

  it("test/chan/sieve1", function()
    local primes = {}
    weft.scope({ pool = weft.inline, collect = true }, function(group)
      local ch = weft.channel()
      local first = ch
      group:go(function()
        for i = 2, math.huge do
          first:send(i)
        end
      end)
      for i = 1, 20 do
        local prime = ch:recv()
        primes[i] = prime
        local from, to = ch, weft.channel()
        group:go(function()
          for value in from:iter() do
            if value % prime ~= 0 then
              to:send(value)
            end
          end
        end)
        ch = to
      end
      group:cancel()
    end)
    assert.same({ 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71 }, primes)
  end)
end)

describe("time", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("TestAfter, TestAfterTick", function()
    testing.virtual_clock(function()
      local start = weft.now()
      assert.is_true(math.abs(weft.after(100):recv() - start - 100) < 1e-3)
      for i = 1, 10 do
        local at = weft.after(1):recv()
        assert.is_true(math.abs(at - start - 100 - i) < 1e-3)
      end
    end)
  end)

  it("TestAfterQueuing: in the order of their times", function()
    testing.virtual_clock(function()
      local slots, order = { 5, 3, 6, 6, 6, 1, 1, 2, 7, 9, 4, 8, 0 }, {}
      run({ pool = weft.inline }, function(group)
        for _, seconds in ipairs(slots) do
          group:go(function()
            weft.after(seconds):recv()
            order[#order + 1] = seconds
          end)
        end
      end)
      table.sort(slots)
      assert.same(slots, order)
    end)
  end)

  it("TestTicker", function()
    testing.virtual_clock(function()
      local start, ticks = weft.now(), weft.ticker(10)
      for i = 1, 10 do
        assert.is_true(math.abs(ticks:recv() - start - 10 * i) < 1e-3)
      end
      ticks:stop()
      weft.sleep(20)
      assert.same({ nil, nil, "empty" }, { ticks:try_recv() })
    end)
  end)

  it("TestAfterStop", function()
    testing.virtual_clock(function()
      local timer = weft.after(10)
      assert.is_true(timer:stop())
      weft.sleep(20)
      assert.same({ nil, nil, "empty" }, { timer:try_recv() })
      assert.is_false(timer:stop())
    end)
  end)

  it("TestTickerStopWithDirectInitialization, TestNewTickerLtZeroDuration", function()
    local expected = "bad argument 'seconds' to weft.ticker: expected a number of seconds > 0, got "
    assert.matches(expected .. "%-1", select(2, pcall(weft.ticker, -1)))
    assert.matches(expected .. "0", select(2, pcall(weft.ticker, 0)))
    local ch = weft.channel()
    assert.matches("channel:stop: not a channel of weft.ticker or weft.after", select(2, pcall(ch.stop, ch)))
  end)
end)
