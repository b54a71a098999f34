-- The leak check: what it finds, where it says that it was made, and what is no leak.

local testing = require "weft.testing"
local weft = require "weft"

local is_posix = os.getenv "WEFT_PLATFORM" == "posix" -- which cannot do all that Linux can
local HERE = debug.getinfo(1, "S").short_src

local function line()
  return debug.getinfo(2, "l").currentline
end

-- What no_leaks says of fn.
local function leaked(fn)
  local ok, err = pcall(testing.no_leaks, { patience = 0 }, fn)
  assert.is_false(ok)
  assert.matches("leaked: ", err)
  return err
end

describe("weft.testing.no_leaks", function()
  it("returns what the function returns when nothing is left", function()
    local a, b, c = testing.no_leaks(function(...)
      local channel = weft.channel(1)
      channel:send("value")
      assert(weft.map({ 1, 2, 3 }, function(i)
        return i + 1
      end))
      local pool = weft.pool({ threads = 1 })
      local group = weft.group({ pool = pool })
      group:go(function()
        weft.sleep(0)
      end)
      assert(group:wait())
      pool:close()
      return ..., nil, channel:recv()
    end, 1)
    assert.equal(1, a)
    assert.is_nil(b)
    assert.equal("value", c)
  end)

  local kept

  after_each(function()
    kept = nil
  end)

  it("finds handles, and says where they were made", function()
    local at
    local err = leaked(function()
      at = line() + 1
      kept = { weft.channel(), weft.semaphore(1) }
      for _ = 1, 3 do
        kept[#kept + 1] = weft.dict()
      end
    end)
    assert.matches("1 channel\n", err .. "\n")
    assert.matches("3 dicts", err)
    assert.matches(("channel, made at %s:%d"):format(HERE, at), err, 1, true)
    assert.matches(("semaphore, made at %s:%d"):format(HERE, at), err, 1, true)
    assert.matches(("dict, 3 times, made at %s:%d"):format(HERE, at + 2), err, 1, true)
  end)

  it("finds groups with their tasks and threads", function()
    local channel = weft.channel()
    local at
    local err = leaked(function()
      at = line() + 1
      kept = weft.group({ pool = weft.pool({ threads = 1, name = "left" }) })
      kept:go("reader", function()
        return (channel:recv())
      end)
    end)
    assert.matches("1 thread\n", err)
    assert.matches(("group, made at %s:%d"):format(HERE, at), err, 1, true)
    assert.matches(("pool, made at %s:%d"):format(HERE, at), err, 1, true)
    assert.matches(("task 1 'reader', started at %s:%d, waits in channel:recv at %s:%d"):format(HERE, at + 1, HERE, at + 2), err, 1, true)
    kept:close()
  end)

  it("finds descriptors", function()
    local err = leaked(function()
      kept = io.open("/dev/null")
    end)
    assert.matches(is_posix and "descriptor %d+: device:%[%d+:%d+%]" or "descriptor %d+: /dev/null", err)
    kept:close()
  end)

  it("finds what a task made on its thread and kept there", function()
    local pool = weft.pool({ threads = 1 })
    local group = weft.group({ pool = pool })
    group:go(function() end)
    assert(group:wait())
    local at = line() + 3
    local err = leaked(function()
      group:go(function()
        _G.kept = weft.channel()
      end)
      assert(group:wait())
    end)
    assert.matches(("channel, made at %s:%d"):format(HERE, at), err, 1, true)
    pool:close()
  end)

  it("is no leak: a context of a signal that did not come", function()
    testing.no_leaks(function()
      for _ = 1, 100 do
        weft.signal_context("USR1")
      end
    end)
  end)

  it("is no leak: idle connections, and what the default pool keeps", function()
    testing.no_leaks(function()
      local server = assert(testing.model_server())
      assert(weft.http.get(server.url .. "/health"))
      assert(weft.all({
        a = function()
          return weft.now()
        end,
      }))
      server:close()
    end)
  end)

  it("raises what the function raises", function()
    local ok, err = pcall(testing.no_leaks, function()
      error("on purpose", 0)
    end)
    assert.is_false(ok)
    assert.equal("on purpose", err)
    assert.matches("bad argument 'fn'", select(2, pcall(testing.no_leaks)))
    assert.matches("bad option 'wait'", select(2, pcall(testing.leaks, { wait = 1 })))
    assert.matches("bad argument 'patience'", select(2, pcall(testing.no_leaks, { patience = -1 }, print)))
  end)

  it("works under a virtual clock", function()
    testing.virtual_clock(function()
      testing.no_leaks(function()
        assert(weft.map({ 1, 2 }, function(i)
          weft.sleep(i)
          return i
        end))
      end)
    end)
  end)
end)

describe("weft.testing.leaks", function()
  it("is a check around a test", function()
    local check = testing.leaks({ patience = 0 })
    local channel = weft.channel()
    local other = testing.leaks()
    assert.same({}, other:list())
    local lines = check:list()
    assert.equal("1 channel", lines[1])
    assert.is_false(pcall(check.verify, check))
    assert.is_false(pcall(check.list, check))
    channel:close()
  end)
end)
