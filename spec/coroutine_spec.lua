-- Coroutines that a task makes itself: blocking inside of them, errors, time slices.

local leaks = require "spec.support.leaks"
local weft = require "weft"

local on_54 = _VERSION == "Lua 5.4"

local function run(fn)
  local pool = weft.pool { threads = 1 }
  local results, err = weft.scope(nil, { pool = pool }, function(group)
    group:go(fn)
  end)
  pool:close()
  if not results then
    error(err, 0)
  end
  return results[1]
end

describe("a task's own coroutines", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("work as usual", function()
    local out = run(function()
      local co = coroutine.create(function(a)
        local b = coroutine.yield(a + 1)
        error("boom " .. b)
      end)
      local ok, first = coroutine.resume(co, 1)
      local failed, message = coroutine.resume(co, 7)
      local dead, why = coroutine.resume(co)
      local wrapped = coroutine.wrap(function()
        error({ code = 5 })
      end)
      local _, raised = pcall(wrapped)
      return { ok, first, failed, message, dead, why, coroutine.status(co), raised.code }
    end)
    assert.is_true(out[1])
    assert.equal(2, out[2])
    assert.is_false(out[3])
    assert.matches("boom 7", out[4])
    assert.is_false(out[5])
    assert.equal("cannot resume dead coroutine", out[6])
    assert.equal("dead", out[7])
    assert.equal(5, out[8])
  end)

  if on_54 then
    it("may block: the task waits, and its neighbours run", function()
      local gate = weft.channel(0)
      local pool = weft.pool { threads = 1 }
      local results = assert(weft.scope(nil, { pool = pool }, function(group)
        group:go(function()
          local values = coroutine.wrap(function()
            for _ = 1, 3 do
              coroutine.yield((gate:recv()))
            end
          end)
          return values() .. values() .. values()
        end)
        group:go(function() -- on the same thread: it can only run while the other waits
          for _, letter in ipairs { "a", "b", "c" } do
            gate:send(letter)
          end
        end)
      end))
      pool:close()
      assert.equal("abc", results[1])
    end)

    it("may block several levels deep", function()
      local ch = weft.channel(4)
      for i = 1, 4 do
        ch:send(i)
      end
      local out = run(function()
        local outer = coroutine.wrap(function()
          local inner = coroutine.wrap(function()
            while true do
              weft.sleep(0)
              coroutine.yield((ch:recv()))
            end
          end)
          while true do
            weft.sleep(0)
            coroutine.yield(inner() + inner())
          end
        end)
        return { outer(), outer() }
      end)
      assert.same({ 3, 7 }, out)
    end)

    it("are cancelled where they wait", function()
      local started = weft.channel(0)
      local group = weft.group()
      group:go(function()
        local co = coroutine.wrap(function()
          started:send(true)
          weft.sleep(math.huge)
        end)
        co()
      end)
      started:recv()
      group:cancel "enough"
      local _, err = group:wait()
      group:close()
      assert.is_true(weft.is(err, "canceled"))
    end)

    if os.getenv "WEFT_SAN" ~= "thread" then -- it delays signals until the next system call
      it("that never end are cancelled and do not starve others", function()
        local pool = weft.pool { threads = 1 }
        local group = weft.group { pool = pool }
        local other = weft.channel(1)
        group:go(function()
          coroutine.wrap(function()
            while true do
            end
          end)()
        end)
        group:go(function()
          other:send "ran"
        end)
        assert.equal("ran", (other:recv()))
        group:cancel "enough"
        local _, err = group:wait()
        assert.is_true(weft.is(err, "canceled"))
        group:close()
        pool:close()
      end)
    end
  else
    it("cannot block on LuaJIT: an error says so", function()
      local ok, raised = pcall(run, function()
        coroutine.wrap(function()
          weft.sleep(0)
        end)()
      end)
      assert.is_false(ok)
      assert.matches("weft.sleep would block inside a coroutine that the task made itself", tostring(raised))
    end)
  end
end)
