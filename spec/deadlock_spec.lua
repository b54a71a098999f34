-- Deadlocks are errors that name who waits where; and nothing else is taken for one.

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local testing = require "weft.testing"
local weft = require "weft"

local HERE = debug.getinfo(1, "S").short_src

-- With ThreadSanitizer preloaded no other process runs.
local it_with_processes = os.getenv("WEFT_SAN") == "thread" and function() end or it

local function line()
  return debug.getinfo(2, "l").currentline
end

-- Calls fn, which must end in a deadlock; returns the error.
local function deadlock(fn, ...)
  local outcome = { pcall(fn, ...) }
  local err = outcome[1] and outcome[3] or outcome[2]
  assert.is_table(err, tostring(err))
  assert.equal("deadlock", err.kind, tostring(err))
  return err
end

local function waiting(err)
  local names = {}
  for i, task in ipairs(err.tasks) do
    names[i] = ("%s:%s"):format(task.name or task.index, task.waits_for or task.state)
  end
  table.sort(names)
  return table.concat(names, " ")
end

describe("a deadlock", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("of the script alone is an error that names the line", function()
    local channel = weft.channel()
    local at = line() + 2
    local err = deadlock(function()
      local value = channel:recv()
      return value
    end)
    assert.equal(("%s:%d"):format(HERE, at), err.where)
    assert.equal("script:channel:recv", waiting(err))
    assert.matches("^" .. HERE:gsub("%p", "%%%0") .. ":%d+: deadlock: ", tostring(err))
    assert.matches("the script: waits in channel:recv %(channel 0x%x+%) at ", err.message)
    assert.is_true(channel:try_send(1) == false) -- it left its place
  end)

  it("tells of tasks that have failed, since others may wait in vain for their sake", function()
    local channel = weft.channel()
    local seen = weft.group()
    seen:go(function()
      error("this one is known")
    end)
    assert.is_nil((seen:wait()))
    local group = weft.group()
    group:go("producer", function()
      error("no such file", 0)
    end)
    local err = deadlock(function()
      for _ in channel:iter() do -- luacheck: ignore
      end
    end)
    assert.matches("\n  before that, task 1 'producer' %(.*deadlock_spec.lua:%d+%) failed: no such file$", err.message)
    assert.equal("producer", err.cause.task)
    assert.is_nil(err.message:find("this one is known", 1, true))
    group:wait()
    group:close()
    seen:close()
    err = deadlock(function()
      local value = channel:recv()
      return value
    end)
    assert.is_nil(err.cause)
    assert.is_nil(err.message:find("before that", 1, true))
  end)

  it("lists all tasks, however long it takes to look at them", function()
    local count = os.getenv("WEFT_SAN") and 2000 or 30000
    local channel = weft.channel()
    local err = deadlock(weft.scope, function(g)
      for _ = 1, count do
        g:go(function()
          channel:recv()
        end)
      end
    end)
    assert.equal(count + 1, #err.tasks)
    local parked = 0
    for _, task in ipairs(err.tasks) do
      parked = parked + (task.state == "parked" and 1 or 0)
    end
    assert.equal(count + 1, parked)
  end)

  it("of tasks on threads lists each with what it waits for and where", function()
    local a, b = weft.channel(), weft.channel()
    local at
    local err = deadlock(weft.scope, function(g)
      at = line()
      g:go("left", function()
        a:recv()
        b:send(1)
      end)
      g:go("right", function()
        b:recv()
        a:send(1)
      end)
    end)
    assert.equal("left:channel:recv right:channel:recv script:group:wait", waiting(err))
    for _, task in ipairs(err.tasks) do
      if task.name == "left" then
        assert.equal(("%s:%d"):format(HERE, at + 1), task.started)
        assert.equal(("%s:%d"):format(HERE, at + 2), task.where)
      end
    end
  end)

  it("of tasks of weft.inline is one", function()
    local semaphore = weft.semaphore(1)
    local err = deadlock(weft.scope, { pool = weft.inline }, function(g)
      for i = 1, 3 do
        g:go("holder" .. i, function()
          semaphore:acquire()
        end)
      end
    end)
    assert.equal("holder2:semaphore:acquire holder3:semaphore:acquire script:group:wait", waiting(err))
  end)

  it("is seen through nested groups, waitgroups and selects", function()
    local waitgroup, channel = weft.waitgroup(), weft.channel()
    waitgroup:add(1)
    local err = deadlock(weft.scope, function(g)
      g:go("outer", function()
        local results, failure = weft.scope(function(h)
          h:go("middle", function()
            local inner, err = weft.scope({ pool = weft.inline }, function(i)
              i:go("inner", function()
                waitgroup:wait()
              end)
            end)
            return inner, err
          end)
        end)
        return results, failure
      end)
      g:go("chooser", function()
        local index = weft.select({ { recv = channel }, { send = channel, value = 1 } })
        waitgroup:done()
        return index
      end)
    end)
    assert.equal("chooser:weft.select inner:waitgroup:wait middle:group:wait outer:group:wait script:group:wait", waiting(err))
  end)

  it("between the script and its tasks is one", function()
    local requests, answers = weft.channel(), weft.channel()
    local group = weft.group()
    group:go("server", function()
      for request in requests:iter() do
        answers:send(request * 2)
      end
    end)
    requests:send(21)
    assert.equal(42, (answers:recv()))
    local err = deadlock(answers.recv, answers)
    assert.equal("script:channel:recv server:channel:iter", waiting(err))
    requests:send(4) -- the report ends the call, not the program
    assert.equal(8, (answers:recv()))
    requests:close()
    assert(group:wait())
  end)

  it("is found again when it comes again", function()
    local channel = weft.channel()
    for _ = 1, 20 do
      deadlock(channel.recv, channel)
    end
  end)

  it("is found after the last timer, not before", function()
    testing.virtual_clock(function(clock)
      local channel = weft.channel()
      local err = deadlock(weft.scope, function(g)
        g:go("sleeper", function()
          weft.sleep(3600)
        end)
        g:go("reader", function()
          channel:recv()
        end)
      end)
      assert.equal("reader:channel:recv script:group:wait", waiting(err))
      assert.is_true(clock:elapsed() >= 3600)
    end)
  end)

  it("leaves the group clean: what waited is cancelled and ends", function()
    local channel, ended = weft.channel(), weft.channel(2)
    local group = weft.group()
    for _ = 1, 2 do
      group:go(function()
        local ok, err = pcall(channel.recv, channel)
        ended:try_send(not ok and err.kind)
      end)
    end
    local err = deadlock(group.wait, group)
    assert.equal(3, #err.tasks)
    group:close()
    assert.equal("canceled", (ended:recv()))
    assert.equal("canceled", (ended:recv()))
  end)

  it_with_processes("ends a script with a message that lists the tasks", function()
    local ended = script.run([[
      local weft = require "weft"
      local channel = weft.channel()
      assert(weft.scope(function(g)
        g:go("lonely", function() channel:recv() end)
      end))
    ]])
    assert.not_equal(0, ended.status)
    assert.matches("deadlock: everything is waiting", ended.out)
    assert.matches("task 1 'lonely' %(.-:4%): waits in channel:recv", ended.out)
  end)
end)

describe("no deadlock", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is seen while a transfer is under way", function()
    local server = assert(testing.model_server({ latency = 0.1 }))
    local model = weft.model.openai({ base_url = server.url, model = "any" })
    local channel = weft.channel()
    local group = weft.group()
    group:go(function()
      local answer = model:chat({ prompt = "hello" })
      channel:send(answer.text)
    end)
    assert.equal("echo: hello", (channel:recv()))
    assert(group:wait())
    server:close()
  end)

  it_with_processes("is seen while a thread is busy outside of Lua", function()
    local channel = weft.channel()
    local group = weft.group()
    group:go(function()
      os.execute("sleep 0.1")
      channel:send(1)
    end)
    assert.equal(1, (channel:recv()))
    assert(group:wait())
  end)

  it("is seen while a deadline is ahead", function()
    local channel = weft.channel()
    local ctx = weft.background():with_timeout(0.05)
    local _, err = weft.scope(ctx, function(g)
      g:go(function()
        channel:recv()
      end)
    end)
    assert.equal("deadline", err.kind)
  end)

  it_with_processes("is seen while a script waits for a signal, or for ever on purpose", function()
    local ended = script.run([[
      local weft = require "weft"
      local pid = io.open("/proc/self/stat"):read("*n")
      local ctx = weft.signal_context("TERM")
      os.execute("(sleep 0.3; kill -TERM " .. pid .. ") </dev/null >/dev/null 2>&1 &") -- so that it waits by then
      local _, err = weft.scope(ctx, function(g)
        g:go(function() weft.channel():recv() end)
      end)
      print(err.kind, err.cause and err.cause.kind)
      local late = weft.background():with_timeout(0.2)
      print(pcall(weft.scope, late, function(g) g:go(function() weft.sleep(math.huge) end) end))
    ]])
    assert.equal(0, ended.status, ended.out)
    assert.matches("^canceled", ended.out)
    assert.not_matches("deadlock", ended.out)
  end)

end)
