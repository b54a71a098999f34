-- What every task does: weft.tasks(), the dump, and SIGQUIT.

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local weft = require "weft"

local HERE = debug.getinfo(1, "S").short_src

-- With ThreadSanitizer preloaded no other process runs.
local it_with_processes = os.getenv("WEFT_SAN") == "thread" and function() end or it

local function line()
  return debug.getinfo(2, "l").currentline
end

-- Asks until the list is as wanted: tasks get there at their own pace.
local function tasks_when(is_wanted)
  for _ = 1, 5000 do
    local list = weft.tasks()
    if is_wanted(list) then
      return list
    end
    weft.sleep(0.001)
  end
  error("the tasks never got there:\n" .. weft.dump())
end

local function find(list, name)
  for _, task in ipairs(list) do
    if task.name == name then
      return task
    end
  end
end

local function is_parked(name)
  return function(list)
    local task = find(list, name)
    return task and task.state == "parked"
  end
end

describe("weft.tasks", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is empty when no task is alive", function()
    assert.same({}, weft.tasks())
  end)

  it("tells where a task of a pool waits, and for what", function()
    local pool = weft.pool({ threads = 1, name = "spec" })
    local channel = weft.channel()
    local group = weft.group({ pool = pool })
    local started = line() + 1
    group:go("reader", function()
      local function inner()
        return (channel:recv())
      end
      local value = inner()
      return value
    end)
    local task = find(tasks_when(is_parked("reader")), "reader")
    assert.equal(1, task.index)
    assert.equal("spec", task.pool)
    assert.equal(1, task.thread)
    assert.equal("channel:recv", task.waits_for)
    assert.equal(tostring(channel):match("0x%x+"), task.object:match("0x%x+"))
    assert.equal(("%s:%d"):format(HERE, started), task.started)
    assert.equal(("%s:%d"):format(HERE, started + 2), task.where)
    assert.matches("inner", task.traceback)
    assert.is_true(task.age >= 0 and task.age < 600)
    channel:send(1)
    assert(group:wait())
    assert.same({}, weft.tasks())
    pool:close()
  end)

  it("tells of tasks of weft.inline, of the script that waits, and of the task that asks", function()
    local seen
    local group = weft.group({ pool = weft.inline })
    local channel = weft.channel()
    local started = line() + 1
    group:go("sleeper", function()
      weft.sleep(1000)
    end)
    group:go("asker", function()
      seen = weft.tasks()
      channel:send(true)
    end)
    group:go("last", function() end)
    local waits = line() + 1
    channel:recv()
    local sleeper, asker, last = find(seen, "sleeper"), find(seen, "asker"), find(seen, "last")
    assert.equal("parked", sleeper.state)
    assert.equal("weft.sleep", sleeper.waits_for)
    assert.matches("^%d+%.%d+ s to go$", sleeper.object)
    assert.equal(("%s:%d"):format(HERE, started), sleeper.started)
    assert.equal("inline", sleeper.pool)
    assert.equal("running", asker.state)
    assert.matches("^" .. HERE:gsub("%p", "%%%0") .. ":%d+$", asker.where)
    assert.equal("queued", last.state)
    assert.is_nil(last.traceback)
    assert.matches(HERE, last.started, 1, true)
    local script = find(seen, "script")
    assert.equal("channel:recv", script.waits_for)
    assert.equal(("%s:%d"):format(HERE, waits), script.where)
    assert.is_nil(script.index)
    group:close()
  end)

  it("passes over weft's own Lua files when it tells where a task is", function()
    local channel = weft.channel()
    local group = weft.group()
    local place
    group:go("outer", function()
      local results, err = weft.scope(function(inner)
        inner:go("inner", function()
          return (channel:recv())
        end)
      end)
      return results, err
    end)
    local list = tasks_when(function(list)
      return is_parked("inner")(list) and is_parked("outer")(list)
    end)
    place = find(list, "outer").where
    assert.matches(HERE, place, 1, true)
    assert.equal("group:wait", find(list, "outer").waits_for)
    assert.equal("1 task to go", find(list, "outer").object)
    channel:send(true)
    assert(group:wait())
  end)

  it("lists tasks that wait in a pool's queue", function()
    local pool = weft.pool({ threads = 1 })
    local started, release = weft.channel(), weft.channel(1)
    local group = weft.group({ pool = pool })
    group:go("busy", function(ctx)
      started:send(true)
      while not release:try_recv() do -- without a pause: the thread takes no other task
        ctx:check()
      end
    end)
    started:recv()
    for i = 1, 3 do
      group:go("waiting" .. i, function() end)
    end
    local list = weft.tasks()
    local queued = {}
    for _, task in ipairs(list) do
      if task.state == "queued" then
        queued[#queued + 1] = task.name
        assert.is_nil(task.age)
      end
    end
    release:send(true)
    assert(group:wait())
    assert.same({ "waiting1", "waiting2", "waiting3" }, queued)
    pool:close()
  end)

  it_with_processes("does not wait for a thread that is busy outside of Lua, and says so", function()
    local pool = weft.pool({ threads = 1, name = "native" })
    local path = os.tmpname()
    os.remove(path)
    local started = weft.channel()
    local group = weft.group({ pool = pool })
    local at = line() + 1
    group:go("shell", function()
      started:send(true)
      os.execute("n=0; while [ ! -e " .. path .. " ] && [ $n -lt 12000 ]; do n=$((n + 1)); sleep 0.01; done")
    end)
    started:recv()
    finally(function() -- else the thread would stay for ever
      io.open(path, "w"):close()
    end)
    local list = tasks_when(function(list) -- a thread that is only slow has no name yet
      return list[1] and list[1].state == "busy" and list[1].name
    end)
    assert.equal("native", list[1].pool)
    assert.equal(1, list[1].thread)
    assert.equal(1, list[1].tasks)
    assert.equal("shell", list[1].name)
    assert.equal(1, list[1].index)
    assert.equal(("%s:%d"):format(HERE, at), list[1].started)
    assert.matches("task 1 'shell' %(.-%): busy outside of weft, its thread does not answer and has 1 task", weft.dump())
    io.open(path, "w"):close()
    assert(group:wait())
    os.remove(path)
    pool:close()
  end)

  it("may be called by many tasks at once", function()
    local pool = weft.pool({ threads = 2 })
    local counts = assert(weft.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
      for _ = 1, 20 do
        assert(#weft.tasks() >= 1)
      end
      return #weft.tasks()
    end, { pool = pool, chunk = 1 }))
    assert.equal(8, #counts)
    pool:close()
  end)

  it("survives states that come and go meanwhile", function()
    for _ = 1, 10 do
      local pool = weft.pool({ threads = 2 })
      local group = weft.group({ pool = pool })
      for i = 1, 20 do
        group:go(function()
          return i
        end)
      end
      weft.tasks()
      assert(group:wait())
      pool:close()
      weft.tasks()
    end
  end)
end)

describe("weft.dump", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is a text with a line and a traceback for each task", function()
    local channel = weft.channel()
    local group = weft.group()
    group:go("one", function()
      return (channel:recv())
    end)
    tasks_when(is_parked("one"))
    local text = weft.dump()
    assert.matches("^weft: 1 task in process %d+\n", text)
    assert.matches("task 1 'one' %(" .. HERE:gsub("%p", "%%%0") .. ":%d+%): waits in channel:recv %(channel 0x%x+%) at ", text)
    assert.matches("stack traceback", text)
    assert.not_matches("weft:%d", text) -- LuaJIT's shims
    assert.matches("%[C%]: in [^\n]*recv'\n", text)
    channel:send(1)
    assert(group:wait())
  end)
end)

describe("weft.dump_on_sigquit", function()
  it_with_processes("prints the tasks whenever SIGQUIT comes, and the process goes on", function()
    local path = os.tmpname() -- for what goes to stderr, so that the script can wait for it
    local ended = script.run(([[
      local weft = require "weft"
      weft.dump_on_sigquit()
      weft.dump_on_sigquit()
      local channel, group = weft.channel(), weft.group()
      group:go("quiet", function() return (channel:recv()) end)
      local pid = io.open("/proc/self/stat"):read("*n")
      local function count(what)
        local file = io.open(%q)
        local text = file:read("*a")
        file:close()
        return select(2, text:gsub(what, ""))
      end
      local function send_quit()
        local before = count "weft: %%d+ tasks? in process"
        local ready = os.tmpname()
        os.remove(ready)
        -- system() ignores SIGQUIT while its command runs: the signal comes from a child of the shell, later
        os.execute("(until [ -e " .. ready .. " ]; do sleep 0.01; done; kill -QUIT " .. pid .. ") </dev/null >/dev/null 2>&1 &")
        io.open(ready, "w"):close()
        repeat
          weft.sleep(0.01)
        until count "weft: %%d+ tasks? in process" > before
        os.remove(ready)
      end
      for round = 1, 2 do
        repeat
          send_quit() -- once more where the task's thread was too slow to answer: the dump says that it is busy
        until count "task 1 'quiet'" >= round
      end
      channel:send(1)
      assert(group:wait())
      print "still here"
    ]]):format(path), "exec 2>" .. path .. ";")
    local file = io.open(path)
    local dumps = file:read("*a")
    file:close()
    os.remove(path)
    assert.same({ out = "still here\n", status = 0 }, ended)
    assert.matches("the script: waits in weft.sleep", dumps)
  end)
end)
