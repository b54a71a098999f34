-- Channels between the script, tasks of weft.inline and tasks of pools.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local pack, rejects = calls.pack, calls.rejects
local run, settle, with_pool, drain = tasks.run, tasks.settle, tasks.with_pool, tasks.drain

local MANY = os.getenv("WEFT_SAN") and 1001 or 10001

describe("weft.channel", function()
  before_each(leaks.before)
  after_each(leaks.after)

  describe("that drops when it is full", function()
    it("drops the oldest value", function()
      local ch = weft.channel(2, "drop_old")
      for i = 1, 5 do
        assert.is_true(ch:send({ i }))
      end
      assert.is_true(ch:try_send({ 6 }))
      assert.equal(4, ch:dropped())
      assert.equal(2, #ch)
      ch:close()
      assert.same({ { 5 }, { 6 } }, drain(ch))
      rejects("the channel is closed", ch.send, ch, 1)
    end)

    it("drops the new value, and says so", function()
      local ch = weft.channel(1, "drop_new")
      assert.is_true(ch:send("a"))
      assert.is_false(ch:send("b"))
      assert.is_false(ch:try_send("c"))
      assert.same({ 1, nil, false, n = 3 }, pack(weft.select({ { send = ch, value = "d" } })))
      assert.equal(3, ch:dropped())
      assert.same({ "a", true }, { ch:recv() })
      assert.same({ 1, nil, true, n = 3 }, pack(weft.select({ { send = ch, value = "e" } })))
      local to_nobody = weft.channel(0, "drop_new")
      assert.is_false(to_nobody:send("x"))
      assert.equal(1, to_nobody:dropped())
    end)

    it("keeps the latest value alone", function()
      local ch = weft.channel(nil, "conflate")
      assert.equal(1, ch:capacity())
      for i = 1, 3 do
        assert.is_true(ch:send(weft.channel(i)))
      end
      assert.equal(3, (ch:recv()):capacity())
      assert.same({ nil, nil, "empty", n = 3 }, pack(ch:try_recv()))
      assert.equal(2, ch:dropped())
    end)

    it("gives a receiver that waits its value at once", function()
      local ch = weft.channel(0, "drop_new")
      run({ pool = weft.inline }, function(group)
        local task = group:go(function()
          return (ch:recv())
        end)
        settle(group)
        assert.is_true(ch:send("x"))
        assert.equal("x", (task:wait()))
      end)
    end)

    it("never makes senders on other threads wait", function()
      local ch = weft.channel(8, "drop_old")
      run(nil, function(group)
        for _ = 1, 4 do
          group:go(function()
            for i = 1, 500 do
              ch:send(i)
            end
          end)
        end
      end)
      assert.equal(8, #ch)
      assert.equal(4 * 500 - 8, ch:dropped())
    end)

    it("names what is wrong with its settings", function()
      rejects("bad argument 'overflow' to weft.channel: expected 'block', 'drop_old', 'drop_new' or 'conflate', got 'drop'",
        weft.channel, 1, "drop")
      rejects("bad argument 'capacity' to weft.channel: expected a whole number >= 1 for drop_old, got 0", weft.channel,
        0, "drop_old")
      rejects("bad argument 'capacity' to weft.channel: expected 0 or 1, since conflate", weft.channel, 2, "conflate")
      assert.equal(0, weft.channel(1, "block"):dropped())
    end)
  end)

  describe("between tasks", function()
    it("hands values from the script to workers and back", function()
      local jobs, results = weft.channel(4), weft.channel(4)
      run(nil, function(group)
        for _ = 1, 3 do
          group:go(function()
            for job in jobs:iter() do
              results:send(job * job)
            end
          end)
        end
        group:go(function()
          for i = 1, 100 do
            jobs:send(i)
          end
          jobs:close()
        end)
        local sum = 0
        for _ = 1, 100 do
          sum = sum + results:recv()
        end
        assert.equal(338350, sum)
      end)
    end)

    it("keeps send waiting until somebody receives, at capacity 0", function()
      local ch, log = weft.channel(), weft.channel(1)
      run(nil, function(group)
        group:go(function()
          ch:send("value")
          log:send("sent")
        end)
        assert.same({ nil, nil, "empty", n = 3 }, pack(log:try_recv()))
        assert.equal("value", (ch:recv()))
        assert.equal("sent", (log:recv()))
      end)
    end)

    it("keeps send waiting while it is full", function()
      local ch = weft.channel(2)
      run({ pool = weft.inline }, function(group)
        local sent = 0
        group:go(function()
          for i = 1, 5 do
            ch:send(i)
            sent = i
          end
        end)
        settle(group)
        assert.equal(2, sent)
        assert.equal(2, #ch)
        for i = 1, 5 do
          assert.equal(i, (ch:recv()))
        end
      end)
    end)

    it("connects tasks of one pool", function()
      local ping, pong = weft.channel(), weft.channel()
      with_pool(1, function(pool)
        local results = run({ pool = pool }, function(group)
          group:go(function()
            for i = 1, 1000 do
              ping:send(i)
              assert(pong:recv() == -i)
            end
            ping:close()
            return "served"
          end)
          group:go(function()
            local count = 0
            for i in ping:iter() do
              pong:send(-i)
              count = count + 1
            end
            return count
          end)
        end)
        assert.same({ "served", 1000, n = 2 }, results)
      end)
    end)

    it("connects pools, tasks of weft.inline and the script", function()
      local a, b, c = weft.channel(), weft.channel(2), weft.channel()
      with_pool(2, function(first)
        with_pool(2, function(second)
          local one, two = weft.group({ pool = first }), weft.group({ pool = second })
          local here = weft.group({ pool = weft.inline })
          one:go(function()
            for i = 1, 200 do
              a:send({ i })
            end
            a:close()
          end)
          two:go(function()
            for v in a:iter() do
              b:send({ v[1], v[1] * 2 })
            end
            b:close()
          end)
          local passed = 0
          here:go(function()
            for v in b:iter() do
              passed = passed + 1
              c:send(v)
            end
            c:close()
          end)
          local got = drain(c)
          for _, group in ipairs({ one, two, here }) do
            assert(group:wait())
            group:close()
          end
          assert.equal(200, passed)
          assert.equal(200, #got)
          assert.same({ 200, 400 }, got[200])
        end)
      end)
    end)

    it("is a mailbox of tasks of weft.inline alone", function()
      local ch = weft.channel()
      run({ pool = weft.inline }, function(group)
        local got = {}
        group:go(function()
          for v in ch:iter() do
            got[#got + 1] = v
          end
        end)
        group:go(function()
          ch:send("x")
          ch:send("y")
          ch:close()
        end)
        assert(group:wait())
        assert.same({ "x", "y" }, got)
      end)
    end)

    it("carries closures that the receiver calls", function()
      local work, results = weft.channel(), weft.channel()
      run(nil, function(group)
        group:go(function()
          for fn in work:iter() do
            results:send(fn(10))
          end
        end)
        local offset = 5
        work:send(function(x)
          return x + offset
        end)
        assert.equal(15, (results:recv()))
        work:send(math.sqrt)
        assert.near(math.sqrt(10), results:recv(), 1e-12)
        work:close()
      end)
    end)

    it("carries channels to answer on", function()
      local requests = weft.channel()
      run(nil, function(group)
        group:go(function()
          for request in requests:iter() do
            request.reply:send(request.n + 1)
          end
        end)
        for i = 1, 50 do
          local reply = weft.channel(1)
          requests:send({ n = i, reply = reply })
          assert.equal(i + 1, (reply:recv()))
        end
        requests:close()
      end)
    end)

    it("loses and doubles nothing among many senders and receivers", function()
      for _, capacity in ipairs({ 0, 1, 64 }) do
        local ch, each = weft.channel(capacity), 500
        with_pool(2, function(pool)
          local senders, receivers = weft.group(), weft.group({ pool = pool })
          for first = 1, 8 do
            senders:go(function()
              for i = 1, each do
                ch:send((first - 1) * each + i)
              end
            end)
            receivers:go(function()
              local got = {}
              for v in ch:iter() do
                got[#got + 1] = v
              end
              return got
            end)
          end
          assert(senders:wait())
          ch:close()
          local seen, count = {}, 0
          for _, list in ipairs(assert(receivers:wait())) do
            for _, v in ipairs(list) do
              assert.is_nil(seen[v])
              seen[v] = true
              count = count + 1
            end
          end
          assert.equal(8 * each, count)
          senders:close()
          receivers:close()
        end)
      end
    end)

    it("works in a coroutine that a task made itself", function()
      local ch = weft.channel()
      local results = assert(weft.scope(function(group)
        group:go(function()
          local numbers = coroutine.wrap(function()
            while true do
              coroutine.yield((ch:recv()))
            end
          end)
          return numbers() + numbers()
        end)
        ch:send(1)
        ch:send(2)
      end))
      assert.same({ 3, n = 1 }, results)
    end)

    it("wakes every one of many parked receivers with a value each", function()
      local ch = weft.channel()
      with_pool(1, function(pool)
        local results = run({ pool = pool }, function(group)
          for _ = 1, MANY do
            group:go(function()
              return (ch:recv())
            end)
          end
          group:go(function()
            for i = 1, MANY do
              ch:send(i)
            end
          end)
        end)
        local sum = 0
        for i = 1, MANY do
          sum = sum + results[i]
        end
        assert.equal(MANY * (MANY + 1) / 2, sum)
      end)
    end)
  end)

  describe("close", function()
    it("lets what is queued be received, then tells the end", function()
      local ch = weft.channel(2)
      ch:send(1)
      ch:send(false)
      ch:close()
      assert.same({ 1, true }, { ch:recv() })
      assert.same({ false, true }, { ch:recv() })
      assert.same({ nil, false, n = 2 }, pack(ch:recv()))
      assert.same({ nil, false, n = 2 }, pack(ch:recv()))
    end)

    it("makes sends raise an error of kind closed", function()
      local ch = weft.channel(2)
      ch:close()
      local raised = rejects("channel:send: the channel is closed", function()
        ch:send(1)
      end)
      assert.equal("closed", raised.kind)
      assert.matches("channel_spec.lua:%d+", raised.where)
      assert.is_true(weft.is(rejects("channel:try_send: the channel is closed", ch.try_send, ch, {}), "closed"))
    end)

    it("raises the second time", function()
      local ch = weft.channel()
      ch:close()
      local raised = rejects("channel:close: the channel was closed before", ch.close, ch)
      assert.equal("closed", raised.kind)
    end)

    it("wakes parked receivers with nil, false", function()
      local ch = weft.channel()
      run({ pool = weft.inline }, function(group)
        local ends = 0
        for _ = 1, 3 do
          group:go(function()
            local value, ok = ch:recv()
            assert(value == nil and ok == false)
            ends = ends + 1
          end)
        end
        settle(group)
        assert.equal(3, weft.stats().parked)
        ch:close()
        assert(group:wait())
        assert.equal(3, ends)
      end)
    end)

    it("makes parked senders raise, and drops their values", function()
      local ch = weft.channel()
      run({ pool = weft.inline }, function(group)
        local raised = {}
        for i = 1, 3 do
          group:go(function()
            local _, err = pcall(ch.send, ch, { weft.channel(1), ("x"):rep(1000), i })
            raised[i] = err.kind
          end)
        end
        settle(group)
        assert.equal(3, weft.stats().parked)
        ch:close()
        assert(group:wait())
        assert.same({ "closed", "closed", "closed" }, raised)
      end)
    end)

    it("wakes every one of many receivers that are parked on a pool", function()
      local ch = weft.channel()
      with_pool(1, function(pool)
        local results = run({ pool = pool }, function(group)
          for _ = 1, MANY do
            group:go(function()
              local _, ok = ch:recv()
              return ok == false
            end)
          end
          group:go(function()
            ch:close()
          end)
        end)
        for i = 1, MANY do
          assert(results[i] == true)
        end
      end)
    end)
  end)

  describe("cancellation", function()
    it("raises in a parked receiver, which leaves its place", function()
      local ch = weft.channel()
      run({ pool = weft.inline, collect = true }, function(group)
        local first, second
        local task = group:go(function()
          first = { pcall(ch.recv, ch) }
          pcall(ch.recv, ch)
          error("the next call raises too")
        end)
        group:go(function()
          second = ch:recv()
        end)
        settle(group)
        task:cancel("not needed")
        local _, err = task:wait()
        assert.matches("the next call raises too", tostring(err))
        assert.is_false(first[1])
        assert.equal("canceled", first[2].kind)
        assert.is_true(ch:try_send("for the second"))
        group:wait()
        assert.equal("for the second", second)
      end)
    end)

    it("raises in a parked sender, whose value is dropped", function()
      local ch = weft.channel()
      run({ pool = weft.inline, collect = true }, function(group)
        local task = group:go(function()
          ch:send({ weft.channel(1), "not sent", ("x"):rep(100) })
        end)
        group:go(function()
          ch:send("sent")
        end)
        settle(group)
        task:cancel()
        local _, err = task:wait()
        assert.equal("canceled", err.kind)
        assert.equal("sent", (ch:recv()))
      end)
    end)

    it("raises before anything is taken or packed", function()
      local ch = weft.channel(2)
      ch:send("kept")
      local ctx = weft.background():with_cancel()
      local group = weft.group(ctx, { pool = weft.inline, collect = true })
      local kinds = {}
      group:go(function()
        ctx:cancel()
        for name, arg in pairs({ recv = false, send = io.stdout, iter = false }) do
          local ok, err = pcall(function()
            if name == "iter" then
              return drain(ch)
            end
            return ch[name](ch, arg)
          end)
          kinds[name] = not ok and err.kind
        end
      end)
      group:wait()
      group:close()
      assert.same({ recv = "canceled", send = "canceled", iter = "canceled" }, kinds)
      assert.equal(1, #ch)
    end)

    it("has the kind of a deadline that passed", function()
      local ch = weft.channel()
      local ctx = weft.background():with_timeout(0.01)
      local _, err = weft.scope(ctx, nil, function(group)
        group:go(function()
          ch:recv()
        end)
      end)
      assert.is_true(weft.is(err, "deadline"))
    end)

    it("reaches tasks that are parked on workers", function()
      local ch = weft.channel()
      with_pool(2, function(pool)
        local group = weft.group({ pool = pool })
        local started = weft.channel()
        for i = 1, 100 do
          group:go(function()
            started:send(true)
            if i % 2 == 0 then
              ch:recv()
            else
              ch:recv()
              ch:send({ ch, ("x"):rep(100) })
            end
          end)
        end
        for _ = 1, 100 do
          started:recv()
        end
        group:cancel("enough")
        local _, err = group:wait()
        assert.is_true(weft.is(err, "canceled"))
        group:close()
        assert.is_false(ch:try_send(1))
        assert.same({ nil, nil, "empty", n = 3 }, pack(ch:try_recv()))
      end)
    end)

    it("loses no value that a cancelled receiver was handed", function()
      local ch, got, total = weft.channel(), weft.channel(4000), 1000
      with_pool(2, function(pool)
        local senders = weft.group({ pool = pool })
        senders:go(function()
          for i = 1, total do
            ch:send(i)
          end
          ch:close()
        end)
        local ended = false
        while not ended do
          local receivers = weft.group({ pool = pool })
          for _ = 1, 4 do
            receivers:go(function()
              for v in ch:iter() do
                got:try_send(v)
              end
              return "the end"
            end)
          end
          local first = got:recv()
          got:try_send(first)
          receivers:cancel()
          ended = receivers:wait() ~= nil or #got == total
          receivers:close()
        end
        assert(senders:wait())
        senders:close()
        got:close()
        local seen, count = {}, 0
        for v in got:iter() do
          assert.is_nil(seen[v])
          seen[v] = true
          count = count + 1
        end
        assert.equal(total, count)
      end)
    end)

    it("doubles no value of a cancelled sender", function()
      local ch, confirmed = weft.channel(), weft.channel(20000)
      with_pool(2, function(pool)
        local receiver = weft.group({ pool = pool })
        receiver:go(function()
          local got = {}
          for v in ch:iter() do
            got[#got + 1] = v
          end
          return got
        end)
        for round = 1, 50 do
          local senders = weft.group({ pool = pool })
          for i = 1, 4 do
            senders:go(function()
              for j = 1, 100 do
                ch:send(round * 1000 + i * 100 + j)
                confirmed:try_send(true)
              end
            end)
          end
          confirmed:recv()
          confirmed:try_send(true)
          senders:cancel()
          senders:wait()
          senders:close()
        end
        ch:close()
        local got = assert(receiver:wait())[1]
        receiver:close()
        assert.equal(#confirmed, #got)
        local seen = {}
        for _, v in ipairs(got) do
          assert.is_nil(seen[v])
          seen[v] = true
        end
      end)
    end)
  end)
end)
