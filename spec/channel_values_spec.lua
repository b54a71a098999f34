-- Channels in one state: which values they carry, loops over them, and misuse.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local tasks = require "spec.support.tasks"
local weft = require "weft"

local pack, rejects = calls.pack, calls.rejects
local run, drain = tasks.run, tasks.drain

describe("weft.channel", function()
  before_each(leaks.before)
  after_each(leaks.after)

  describe("in one state", function()
    it("gives values back in the order in which they were sent", function()
      local ch = weft.channel(3)
      assert.is_true(ch:send("a"))
      assert.is_true(ch:send("b"))
      assert.is_true(ch:try_send("c"))
      assert.equal(3, #ch)
      assert.equal(3, ch:capacity())
      assert.is_false(ch:try_send("d"))
      assert.same({ "a", true }, { ch:recv() })
      assert.same({ "b", true }, { ch:try_recv() })
      assert.same({ "c", true }, { ch:recv() })
      assert.equal(0, #ch)
    end)

    it("is a rendezvous without a capacity", function()
      local ch = weft.channel()
      assert.equal(0, ch:capacity())
      assert.is_false(ch:try_send(1))
      assert.equal(0, #ch)
    end)

    it("tells a value, the end and nothing yet apart", function()
      local ch = weft.channel(2)
      assert.same({ nil, nil, "empty", n = 3 }, pack(ch:try_recv()))
      ch:send(nil)
      ch:send(false)
      assert.same({ nil, true, n = 2 }, pack(ch:try_recv()))
      assert.same({ false, true, n = 2 }, pack(ch:try_recv()))
      ch:close()
      assert.same({ nil, false, n = 2 }, pack(ch:try_recv()))
    end)

    it("carries nil and false", function()
      local ch = weft.channel(3)
      ch:send(nil)
      ch:send(false)
      ch:send()
      assert.same({ nil, true, n = 2 }, pack(ch:recv()))
      assert.same({ false, true, n = 2 }, pack(ch:recv()))
      assert.same({ nil, true, n = 2 }, pack(ch:recv()))
    end)

    it("copies tables, with what they share and their cycles", function()
      local ch = weft.channel(1)
      local part = { 1, 2 }
      local sent = { first = part, second = part, text = ("x"):rep(100000) .. "\0" }
      sent.self = sent
      ch:send(sent)
      local got = ch:recv()
      assert.not_equal(sent, got)
      assert.equal(got, got.self)
      assert.equal(got.first, got.second)
      assert.same({ 1, 2 }, got.first)
      assert.equal(sent.text, got.text)
    end)

    it("carries handles, which stay what they are", function()
      local ch, other = weft.channel(3), weft.channel(1)
      local ctx = weft.background():with_cancel()
      ch:send(other)
      ch:send({ ctx = ctx, semaphore = weft.semaphore(2) })
      assert.equal(other, (ch:recv()))
      local got = ch:recv()
      assert.equal(ctx, got.ctx)
      assert.equal(2, got.semaphore:size())
    end)

    it("blocks a coroutine of the script like the script", function()
      local ch = weft.channel()
      run({ limit = 1 }, function(group)
        group:go(function()
          ch:send("from a worker")
        end)
        local got = coroutine.wrap(function()
          return ch:recv()
        end)()
        assert.equal("from a worker", got)
      end)
    end)

    it("gives up the values that it holds when it is collected", function()
      local chain = weft.channel(1)
      for _ = 1, 1000 do
        local outer = weft.channel(1)
        outer:send({ chain, ("x"):rep(100) })
        chain = outer
      end
      assert.equal(1, #chain)
    end)
  end)

  describe("iter", function()
    it("ends at close and hands out false", function()
      local ch = weft.channel(3)
      ch:send(1)
      ch:send(false)
      ch:send("x")
      ch:close()
      local got = {}
      for v in ch:iter() do
        got[#got + 1] = v
      end
      assert.same({ 1, false, "x" }, got)
    end)

    it("raises at a nil, which would end the loop in silence", function()
      local ch = weft.channel(1)
      ch:send(nil)
      rejects("channel:iter: a nil was received", drain, ch)
    end)

    it("raises at a nil for which it waited", function()
      local ch = weft.channel()
      run(nil, function(group)
        group:go(function()
          ch:send(nil)
        end)
        rejects("channel:iter: a nil was received", drain, ch)
      end)
    end)
  end)

  describe("misuse", function()
    it("names the capacity that is none", function()
      for _, bad in ipairs({ -1, 1.5, 0 / 0, math.huge, "1", {}, true }) do
        rejects("bad argument 'capacity' to weft.channel: expected a whole number from 0", weft.channel, bad)
      end
      rejects("got nan", weft.channel, 0 / 0)
    end)

    it("names self when it is something else", function()
      local ch = weft.channel(1)
      for _, name in ipairs({ "send", "recv", "try_send", "try_recv", "iter", "close", "capacity" }) do
        local pattern = "bad argument 'self' to channel:" .. name .. ": expected a weft channel"
        for _, foreign in ipairs({ 1, "x", {}, io.stdout, weft.background(), weft.semaphore(1) }) do
          rejects(pattern, ch[name], foreign)
        end
        rejects(pattern, ch[name])
      end
    end)

    it("says where it is at fault", function()
      local ch = weft.channel(1)
      rejects("^.*channel_values_spec.lua:%d+: bad argument 'self' to channel:recv", function()
        ch.recv(1)
      end)
    end)

    it("says what cannot be sent, and sends nothing", function()
      local ch = weft.channel(1)
      rejects("value.*userdata FILE%* cannot be sent", ch.send, ch, io.stdout)
      rejects("value.*%.conn%.file.*cannot be sent", function()
        ch:send({ conn = { weft.channel(1), file = io.stdout } })
      end)
      rejects("cannot be sent", ch.try_send, ch, coroutine.create(print))
      rejects("metatable", ch.try_send, ch, setmetatable({}, {}))
      assert.equal(0, #ch)
      assert.is_true(ch:send({ { 1 } }))
    end)

    it("drops a value that the receiver cannot unpack, and goes on", function()
      local ch = weft.channel(2)
      local class = {}
      weft.register("channel_values_spec.class", class)
      ch:send(setmetatable({ weft.channel(1), ("x"):rep(100) }, class))
      ch:send("fine")
      local results = run(nil, function(group)
        group:go(function()
          local ok, err = pcall(ch.recv, ch)
          return not ok and tostring(err), ch:recv()
        end)
      end)
      assert.matches("'channel_values_spec.class' is not registered", results[1])
      assert.equal(0, #ch)
    end)
  end)
end)
