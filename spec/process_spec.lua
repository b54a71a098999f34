-- The life of a process that uses weft: how it ends, by itself, by an error, by a signal, in a fork.

local script = require "spec.support.script"

if os.getenv "WEFT_SAN" == "thread" then -- a shell does not run with it preloaded
  return
end

-- Sends a signal to the script from outside, once os.execute has returned: until then that ignores SIGINT.
local SIGNAL = [[
local function signal(name)
  os.execute("p=$PPID; (while kill -0 $$ 2>/dev/null; do :; done; sleep 0.05; kill -" .. name .. " $p) &")
end
]]

-- Tasks that never end: two that compute (on LuaJIT they wait), two that wait.
local BUSY = [[
local weft = require "weft"
local started = weft.channel(4)
local group = weft.group()
local is_54 = _VERSION == "Lua 5.4"
for i = 1, 4 do
  group:go(function()
    started:send(true)
    while is_54 and i <= 2 do end
    weft.sleep(math.huge)
  end)
end
for i = 1, is_54 and 2 or 4 do started:recv() end
]]

local function run(code, prefix)
  return script.run(SIGNAL .. BUSY .. code, prefix)
end

describe("a script's process, with tasks that never end,", function()
  it("ends with status 0 at the end of the script", function()
    local ended = run [[io.write "the end"]]
    assert.same({ out = "the end", status = 0 }, ended)
  end)

  it("ends with status 1 and the message after an error", function()
    local ended = run [[error("wrong!", 0)]]
    assert.equal(1, ended.status)
    assert.matches("wrong!", ended.out, 1, true)
  end)

  it("ends with the status of os.exit, which flushes what was written", function()
    assert.same({ out = "bye", status = 3 }, run [[io.write "bye" os.exit(3)]])
  end)

  it("ends with the status of os.exit that closes the state", function()
    assert.same({ out = "bye", status = 4 }, run [[io.write "bye" os.exit(4, true)]])
  end)

  for name, statuses in pairs {
    ["a number"] = { "9", 9 },
    ["true"] = { "true", 0 },
    ["false"] = { "false", 1 },
    ["nothing"] = { "", 0 },
  } do
    it("ends with the status of os.exit in a task: " .. name, function()
      local ended = run(([[
        group:go(function() os.exit(%s) end)
        group:wait()
      ]]):format(statuses[1]))
      assert.same({ out = "", status = statuses[2] }, ended)
    end)
  end

  it("ends once when several tasks call os.exit at a time", function()
    local ended = run [[
      local pool = weft.pool { threads = 4 }
      local others = weft.group { pool = pool }
      for i = 1, 50 do others:go(function() os.exit(5) end) end
      others:wait()
    ]]
    assert.same({ out = "", status = 5 }, ended)
  end)

  it("ends by os.exit in a task of weft.inline", function()
    local ended = run [[
      local here = weft.group { pool = weft.inline }
      here:go(function() weft.sleep(0) os.exit(6) end)
      here:wait()
    ]]
    assert.same({ out = "", status = 6 }, ended)
  end)

  it("is interrupted by SIGINT while it waits", function()
    local ended = run [[
      signal "INT"
      group:wait()
      io.write "not reached"
    ]]
    assert.equal(1, ended.status)
    assert.matches("interrupted!", ended.out, 1, true)
    assert.is_nil(ended.out:find("not reached", 1, true))
  end)

  for _, wait in ipairs {
    "group:wait(1000)", "places:acquire()", "ch:recv()", "ch:send({})", "weft.sleep(1000)",
    "weft.select({ { recv = ch }, { acquire = places }, timeout = 1000 })",
  } do
    it("is interrupted and goes on, and what it waited for is as it was: " .. wait, function()
      local ended = script.run(SIGNAL .. ([[
        local weft = require "weft"
        local group, places, ch = weft.group(), weft.semaphore(1), weft.channel()
        places:acquire()
        group:go(function() weft.sleep(math.huge) end)
        local before = weft.stats()
        signal "INT"
        local ok, err = pcall(function() %s end)
        assert(not ok and tostring(err):find "interrupted!", tostring(err))
        local after = weft.stats()
        for _, name in ipairs { "contexts", "channels", "parked" } do
          assert(after[name] == before[name], name)
        end
        places:release()
        assert(places:try_acquire() and not ch:try_send(1) and select(3, ch:try_recv()) == "empty")
        group:close()
        io.write "as it was"
      ]]):format(wait))
      assert.same({ out = "as it was", status = 0 }, ended)
    end)
  end
end)

describe("weft.signal_context", function()
  it("is cancelled by its signal; the script goes on and ends by itself", function()
    local ended = script.run(SIGNAL .. [[
      local weft = require "weft"
      local ctx = weft.signal_context("TERM", "INT")
      local group = weft.group(ctx)
      group:go(function() signal "TERM" weft.sleep(math.huge) end)
      local results, err = group:wait()
      print(results, err.kind, ctx:cause().kind, weft.is(err, "canceled"))
    ]])
    assert.same({ out = "nil\tcanceled\tsignal\ttrue\n", status = 0 }, ended)
  end)

  it("ends in order while requests of its own tasks are under way", function()
    for _, ending in ipairs { "", "os.exit(0, true)", "error('mine', 0)" } do
      local ended = script.run([[
        local weft = require "weft"
        local server = require("weft.testing").model_server { latency = 3600 }
        local model = weft.model.openai { base_url = server.url, model = "m" }
        group = weft.group(nil, { pool = weft.inline })
        for _ = 1, 3 do group:go(function() return model:chat { prompt = "x" } end) end
        group:go(function() return weft.http.get(server.origin .. "/models", { stream = true }) end)
        local watch = weft.group(nil, { pool = weft.inline })
        watch:go(function() while server:stats().in_flight < 3 do weft.sleep(0.001) end end)
        watch:wait()
        io.stdout:write "under way" io.stdout:flush()
      ]] .. ending)
      assert.matches("^under way", ended.out)
      assert.equal(ending:find "error" and 1 or 0, ended.status)
    end
  end)

  it("lets the second signal end the process", function()
    local ended = script.run(SIGNAL .. [[
      local weft = require "weft"
      local ctx = weft.signal_context "TERM"
      signal "TERM"
      ctx:wait()
      io.stdout:write "first" io.stdout:flush()
      signal "TERM"
      weft.sleep(math.huge)
    ]])
    assert.equal(128 + 15, ended.status)
    assert.matches("^first", ended.out) -- and what the shell has to say
  end)

  -- Interpreters set their own handler of SIGINT before each chunk, and the default one after it.
  it("hears of its signal in each chunk of an interpreter", function()
    local first = 'weft = require "weft" weft.signal_context "INT"'
    local second = 'local ctx = weft.signal_context "INT" os.execute "(sleep 0.1; kill -INT $PPID) &" '
      .. 'pcall(ctx.wait, ctx) print(ctx:cause().kind)'
    local ended = script.shell(("timeout 60 %s -e %s -e %s"):format(script.interpreter(), script.quote(first),
      script.quote(second)))
    assert.same({ out = "signal\n", status = 0 }, ended)
  end)

  for how, ending in pairs({ cancelled = "ctx:cancel()", collected = "ctx = nil collectgarbage() collectgarbage()" }) do
    it("leaves a signal its effect once it was " .. how, function()
      local ended = script.run(SIGNAL .. ([[
        local weft = require "weft"
        local ctx = weft.signal_context "TERM"
        %s
        io.stdout:write "alone" io.stdout:flush()
        signal "TERM"
        weft.sleep(5)
        print "goes on"
      ]]):format(ending))
      assert.equal(128 + 15, ended.status)
      assert.matches("^alone", ended.out)
      assert.is_nil(ended.out:find("goes on", 1, true))
    end)
  end
end)

if os.getenv "WEFT_SAN" ~= "address" then -- its allocator's locks do not survive a fork amid threads
  describe("the child of a fork", function()
    local IN_CHILD = [[
      local weft = require "weft"
      local forking = require "forking"
      local function total(group)
        for i = 1, 20 do group:go(function() weft.sleep(0.001) return i end) end
        local results, err = group:wait()
        if not results then error(err, 0) end
        local sum = 0
        for i = 1, results.n do sum = sum + results[i] end
        return sum
      end
      local function attempt(fn)
        local child = forking.fork()
        if child > 0 then return forking.wait(child) end
        local ok, status = pcall(fn)
        if not ok then io.stderr:write(tostring(status), "\n") end
        forking.leave(ok and status or 99)
      end
    ]]

    it("starts threads of its own", function()
      local ended = script.run(IN_CHILD .. [[
        local pool = weft.pool { threads = 2 }
        assert(total(weft.group()) == 210 and total(weft.group { pool = pool }) == 210)
        print(attempt(function()
          local sum = total(weft.group()) + total(weft.group { pool = pool }) + total(weft.group { pool = weft.inline })
          return sum == 630 and 41 or 1
        end))
        print(total(weft.group()), total(weft.group { pool = pool }))
      ]])
      assert.same({ out = "41\n210\t210\n", status = 0 }, ended)
    end)

    it("waits as its parent does at the same time, and neither misses a wake", function()
      local ended = script.run(IN_CHILD .. [[
        assert(total(weft.group()) == 210)
        local function wait_often()
          for _ = 1, 200 do
            weft.scope(function(g)
              assert(g:go(function() weft.sleep(0.002) return 1 end):wait() == 1)
            end)
          end
          return 43
        end
        local child = forking.fork()
        if child == 0 then forking.leave(wait_often()) end
        print(wait_often(), forking.wait(child))
      ]])
      assert.same({ out = "43\t43\n", status = 0 }, ended)
    end)

    it("makes requests of its own", function()
      local ended = script.run(IN_CHILD .. [[
        local server = require("weft.testing").model_server { reply = "hello" }
        local function ask()
          local model = weft.model.openai { base_url = server.url, api_key = "k", model = "m" }
          return assert(model:chat { prompt = "?" }).text == "hello" and 42 or 1
        end
        print(ask(), attempt(ask), ask())
      ]])
      assert.same({ out = "42\t42\t42\n", status = 0 }, ended)
    end)

    it("leaves the connections of its parent alone, on which things are under way", function()
      local ended = script.run(IN_CHILD .. [[
        local server = require("weft.testing").model_server { reply = "one two three", stream = { delay = 0.02 } }
        local function model() return weft.model.openai { base_url = server.url, model = "m" } end
        local m = model()
        local stream = assert(m:stream { prompt = "?" })
        local group = weft.group()
        group:go(function()
          local other = assert(m:stream { prompt = "?" })
          return assert(other:result()).text
        end)
        local function ask() return assert(model():chat { prompt = "?" }).text == "one two three" and 45 or 1 end
        print(attempt(ask), attempt(ask))
        print(assert(stream:result()).text, assert(group:wait())[1], ask())
      ]])
      assert.same({ out = "45\t45\none two three\tone two three\t45\n", status = 0 }, ended)
    end)

    it("has the default effect of signals that its parent listens to, which does not hear of them", function()
      local ended = script.run(IN_CHILD .. [[
        local ctx = weft.signal_context "TERM"
        local child = forking.fork()
        if child == 0 then
          while true do forking.wait_for_signal() end
        end
        os.execute("kill -TERM " .. child)
        print(forking.wait(child), ctx:err())
        weft.sleep(0.05)
        print(ctx:err())
      ]])
      assert.same({ out = "143\tnil\nnil\n", status = 0 }, ended)
    end)

    it("is told that a group is its parent's, and leaves that alone", function()
      local ended = script.run(IN_CHILD .. [[
        local group, gate = weft.group(), weft.channel(1)
        local task = group:go(function() return (gate:recv()) end)
        print(attempt(function()
          local ok, raised = pcall(group.wait, group)
          assert(not ok and tostring(raised):find("before the process forked", 1, true), raised)
          return 43
        end))
        gate:send "still there"
        print(group:wait()[1])
      ]])
      assert.same({ out = "43\nstill there\n", status = 0 }, ended)
    end)

    it("is whole, whatever the other threads did in the moment of the fork", function()
      local ended = script.run(IN_CHILD .. [[
        local ctx = weft.background():with_cancel()
        local group = weft.group(ctx)
        for i = 1, 2 do
          group:go(function(own)
            while not own:err() do -- ships code that was not seen before, makes and cancels contexts
              local inner = weft.group()
              inner:go((loadstring or load)(("return %d"):format(math.random(1e9))))
              inner:wait()
              inner:close()
            end
          end)
        end
        local bad = 0
        for i = 1, 30 do
          if attempt(function() return total(weft.group()) == 210 and 44 or 1 end) ~= 44 then bad = bad + 1 end
        end
        ctx:cancel()
        group:wait()
        print(bad)
      ]])
      assert.same({ out = "0\n", status = 0 }, ended)
    end)
  end)
end
