-- Traces: what is in the file, that it is whole at every moment, and what happens when it cannot be written.

local leaks = require "spec.support.leaks"
local script = require "spec.support.script"
local testing = require "weft.testing"
local weft = require "weft"

local function read_text(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function read(path)
  return assert(weft.json.decode(read_text(path)))
end

-- Traces fn to a temporary file; returns its events.
local function traced(fn)
  local path = os.tmpname()
  local trace = assert(weft.trace({ file = path }))
  fn()
  assert.equal(0, trace:stop())
  local events = read(path)
  os.remove(path)
  return events
end

local function select_events(events, phase, name)
  local found = {}
  for _, event in ipairs(events) do
    if event.ph == phase and (not name or event.name == name) then
      found[#found + 1] = event
    end
  end
  return found
end

-- On each line what begins last ends first, and everything ends.
local function check_nesting(events)
  local open = {}
  local sorted = {}
  for i, event in ipairs(events) do
    sorted[i] = { event, i }
  end
  table.sort(sorted, function(a, b)
    if (a[1].ts or -1) ~= (b[1].ts or -1) then
      return (a[1].ts or -1) < (b[1].ts or -1)
    end
    return a[2] < b[2]
  end)
  for _, pair in ipairs(sorted) do
    local event = pair[1]
    if event.ph == "b" then
      open[event.id] = open[event.id] or {}
      table.insert(open[event.id], event.name)
    elseif event.ph == "e" then
      assert.equal(table.remove(open[event.id] or {}), event.name)
    end
  end
  for _, names in pairs(open) do
    assert.same({}, names)
  end
end

describe("weft.trace", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("has a line for each thread and each task, with waits and spans", function()
    local channel = weft.channel()
    local events = traced(function()
      assert(weft.scope(function(g)
        g:go("sender", function()
          weft.sleep(0.02)
          channel:send("value")
        end)
        g:go("receiver", function()
          local value = channel:recv()
          return weft.span("compute", function()
            weft.sleep(0.001)
            return #value
          end)
        end)
      end))
    end)
    assert.equal("weft", select_events(events, "M", "process_name")[1].args.name)
    assert.is_true(#select_events(events, "M", "thread_name") >= 2)
    assert.is_true(#select_events(events, "X", "sender #1") >= 2) -- before and after its sleep
    assert.is_true(#select_events(events, "X", "group:wait") >= 1) -- the script's
    -- at a rendezvous one of the two waits: the receiver, unless it is late
    assert.equal(1, #select_events(events, "b", "channel:recv") + #select_events(events, "b", "channel:send"))
    for _, name in ipairs({ "sender #1", "receiver #2", "compute" }) do
      assert.equal(1, #select_events(events, "b", name), name)
      assert.equal(1, #select_events(events, "e", name), name)
    end
    assert.equal(2, #select_events(events, "b", "weft.sleep"))
    assert.equal(select_events(events, "b", "receiver #2")[1].id, select_events(events, "b", "compute")[1].id)
    assert.is_true(select_events(events, "b", "receiver #2")[1].id ~= select_events(events, "b", "sender #1")[1].id)
    check_nesting(events)
    for _, event in ipairs(select_events(events, "X")) do
      assert.is_true(event.ts >= 0 and event.dur >= 0)
    end
  end)

  it("shows stages, model calls and waits for limits, and no key", function()
    local server = assert(testing.model_server({ api_key = "sk-very-secret", latency = 0.05 }))
    local model = weft.model.openai({ base_url = server.url, model = "poet", api_key = "sk-very-secret" })
    local path = os.tmpname()
    local trace = assert(weft.trace({ file = path }))
    local limiter = weft.limiter({ rate = 10, burst = 1 })
    local pipeline = weft.pipeline({
      weft.stage("clean", function(text)
        limiter:wait()
        return text
      end),
      weft.stage("ask", function(text)
        local answer, err = model:chat({ prompt = text })
        return answer and answer.text, err
      end, { limit = 1 }),
    })
    assert(pipeline:run(nil, { "one", "two", "three" }))
    trace:stop()
    local events = read(path)
    assert.equal(3, #select_events(events, "b", "clean"))
    assert.equal(3, #select_events(events, "b", "ask"))
    assert.equal(3, #select_events(events, "b", "model poet"))
    assert.is_true(#select_events(events, "b", "limiter:wait") >= 1)
    assert.is_true(#select_events(events, "b", "weft.http.request") >= 1)
    check_nesting(events)
    assert.is_nil(read_text(path):find("secret", 1, true))
    os.remove(path)
    server:close()
  end)

  it("ends spans and lines of tasks that fail or are cancelled", function()
    local events = traced(function()
      local group = weft.group()
      group:go("fails", function()
        weft.span("inside", function()
          weft.sleep(0.001)
          error("on purpose")
        end)
      end)
      group:go("canceled", function()
        weft.sleep(1000)
      end)
      group:wait()
      group:close()
    end)
    assert.equal(1, #select_events(events, "e", "inside"))
    assert.equal(1, #select_events(events, "e", "fails #1"))
    check_nesting(events)
  end)

  it("writes any name as JSON", function()
    local names = { 'quote " backslash \\ line\nend', "Gr\195\188\195\159e \240\159\152\128", "broken \195", ("long"):rep(50), "\237\160\128" }
    local events = traced(function()
      for _, name in ipairs(names) do
        weft.span(name, function() end)
      end
    end)
    assert.equal(1, #select_events(events, "b", 'quote " backslash \\ line?end'))
    assert.equal(1, #select_events(events, "b", "Gr\195\188\195\159e \240\159\152\128"))
    assert.equal(1, #select_events(events, "b", "broken ?"))
    assert.equal(1, #select_events(events, "b", ("long"):rep(50):sub(1, 47)))
  end)

  it("can be had again, each with its own events", function()
    for i = 1, 5 do
      local events = traced(function()
        weft.span("span " .. i, function() end)
      end)
      assert.equal(1, #select_events(events, "b"))
      assert.equal(1, #select_events(events, "b", "span " .. i))
    end
  end)

  it("starts and stops while tasks run", function()
    local pool = weft.pool({ threads = 2 })
    local stop = weft.channel(1)
    local group = weft.group({ pool = pool })
    for _ = 1, 4 do
      group:go(function()
        while #stop == 0 do
          weft.sleep(0)
        end
      end)
    end
    for _ = 1, 10 do
      local path = os.tmpname()
      local trace = assert(weft.trace({ file = path }))
      weft.sleep(0.002)
      trace:stop()
      read(path)
      os.remove(path)
    end
    stop:send(true)
    assert(group:wait())
    pool:close()
  end)

  it("drops events rather than memory or time", function()
    local path = os.tmpname()
    local trace = assert(weft.trace({ file = path }))
    for _ = 1, 200000 do
      weft.span("busy", function() end)
    end
    local dropped = trace:stop()
    local written = #read(path)
    assert.is_true(written >= 8192)
    assert.is_true(dropped + written >= 400000)
    os.remove(path)
  end)

  it("is whole whenever the process ends", function()
    if os.getenv("WEFT_SAN") == "thread" then -- no other process runs with it preloaded
      return
    end
    for _, ending in ipairs({ "os.exit(0)", 'os.execute("kill -9 " .. io.open("/proc/self/stat"):read("*n"))', "error('x')", "" }) do
      local path = os.tmpname()
      script.run(([[
        local weft = require "weft"
        trace = assert(weft.trace({ file = %q }))
        for i = 1, 2000 do weft.span("span", function() end) end
        assert(weft.all({ a = function() weft.sleep(0.08) return 1 end }))
        weft.span("last", function() end)
        %s
      ]]):format(path, ending))
      local events = read(path)
      assert.is_true(#select_events(events, "b", "span") == 2000, ending)
      if not ending:find("kill") then
        assert.equal(1, #select_events(events, "b", "last"), ending)
      end
      os.remove(path)
    end
  end)

  it("is whole on a full disk, and tells how many events are missing", function()
    if os.getenv("WEFT_SAN") == "thread" then -- no other process runs with it preloaded
      return
    end
    local none, err = weft.trace({ file = "/dev/full" })
    assert.is_nil(none)
    assert.matches("/dev/full: No space left on device", tostring(err), 1, true)
    local path = os.tmpname()
    local ended = script.run(([[
      local weft = require "weft"
      local trace = assert(weft.trace({ file = %q }))
      for i = 1, 4000 do weft.span("span", function() end) end
      weft.sleep(0.1)
      weft.span("late", function() end)
      io.write(trace:stop())
    ]]):format(path), "ulimit -f 100;") -- blocks of at most 1024 bytes
    local dropped, written = tonumber(ended.out), #read(path)
    assert.is_true(dropped > 0 and written > 0, ended.out)
    os.remove(path)
  end)

  it("does not go to a pipe, with or without a reader", function()
    if os.getenv("WEFT_SAN") == "thread" then -- no other process runs with it preloaded
      return
    end
    local path = os.tmpname()
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    for _, has_reader in ipairs({ false, true }) do
      local reader = has_reader and io.open(path, "r+")
      local none, err = weft.trace({ file = path })
      assert.is_nil(none)
      assert.matches(path .. ": a pipe or a terminal; a trace needs a file", tostring(err), 1, true)
      if reader then
        reader:close()
      end
    end
    os.remove(path)
    assert(weft.trace({ file = path })):stop()
    os.remove(path)
  end)

  it("is only one, and refuses misuse", function()
    local path = os.tmpname()
    local trace = assert(weft.trace({ file = path }))
    assert.matches("a trace runs already", select(2, pcall(weft.trace, { file = path })))
    trace:stop()
    assert.equal(0, trace:stop())
    os.remove(path)
    local none, err = weft.trace({ file = "/nowhere/run.json" })
    assert.is_nil(none)
    assert.equal("file", err.kind)
    assert.matches("/nowhere/run.json: No such file", tostring(err))
    none, err = weft.trace({ file = "/" })
    assert.is_nil(none)
    assert.matches("weft.trace: /: Is a directory", tostring(err), 1, true)
    assert.matches("bad argument 'file'", select(2, pcall(weft.trace, {})))
    assert.matches("bad argument 'options'", select(2, pcall(weft.trace)))
    assert.matches("bad option 'path'", select(2, pcall(weft.trace, { path = "x" })))
  end)
end)

describe("weft.span", function()
  it("returns and raises what its function does", function()
    local function check_span()
      assert.same({ 1, nil, 3, n = 3 }, (function(...)
        return { n = select("#", ...), ... }
      end)(weft.span("name", function(...)
        return ...
      end, 1, nil, 3)))
      local ok, err = pcall(weft.span, "name", function()
        error({ "table" })
      end)
      assert.is_false(ok)
      assert.same({ "table" }, err)
    end
    check_span()
    traced(check_span)
    assert.matches("bad argument 'name'", select(2, pcall(weft.span, nil, print)))
    assert.matches("bad argument 'fn'", select(2, pcall(weft.span, "name")))
  end)
end)
