-- weft.stats() in full, and weft.metrics() as a strict reader of Prometheus' text format sees it.

local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local is_posix = os.getenv "WEFT_PLATFORM" == "posix" -- which cannot do all that Linux can

-- ---- a strict reader ----

local function read_labels(text, where)
  local labels, position = {}, 1
  while position <= #text do
    local name, after = text:match('^([%a_][%w_]*)="()', position)
    assert(name, where .. ": bad label at " .. text:sub(position))
    assert(labels[name] == nil, where .. ": label twice")
    local value = {}
    while true do
      local char = text:sub(after, after)
      assert(char ~= "" and char ~= "\n", where .. ": label without an end")
      after = after + 1
      if char == '"' then
        break
      elseif char == "\\" then
        local escaped = text:sub(after, after)
        value[#value + 1] = assert(({ ["\\"] = "\\", ['"'] = '"', n = "\n" })[escaped], where .. ": bad escape")
        after = after + 1
      else
        value[#value + 1] = char
      end
    end
    labels[name] = table.concat(value)
    position = after
    if position <= #text then
      assert(text:sub(position, position) == ",", where .. ": comma expected")
      position = position + 1
    end
  end
  return labels
end

local function series_of(name, labels)
  local parts = {}
  for label, value in pairs(labels) do
    parts[#parts + 1] = label .. "=" .. value
  end
  table.sort(parts)
  return name .. "{" .. table.concat(parts, ",") .. "}"
end

-- Returns values by series, such as "weft_objects{kind=channel}", and types by name.
local function read(text)
  local values, types, helps, open = {}, {}, {}, nil
  assert(text:sub(-1) == "\n", "the last line has no end")
  for line in text:gmatch "(.-)\n" do
    local keyword, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.+)$"
    if keyword == "HELP" then
      assert(not helps[name], "HELP twice: " .. name)
      helps[name] = rest
    elseif keyword == "TYPE" then
      assert(helps[name], "TYPE before HELP: " .. name)
      assert(not types[name], "TYPE twice: " .. name)
      assert(rest == "counter" or rest == "gauge", "type: " .. rest)
      assert((name:match "_total$" ~= nil) == (rest == "counter"), "counters end in _total: " .. name)
      types[name], open = rest, name
    else
      local series, labels, value = line:match "^([%a_:][%w_:]*)(%b{}) (%d+)$"
      if not series then
        series, value = line:match "^([%a_:][%w_:]*) (%d+)$"
      end
      assert(series, "not a line of the format: " .. line)
      assert(series == open, "a sample outside of its family: " .. line)
      local key = series_of(series, read_labels((labels or "{}"):sub(2, -2), line))
      assert(values[key] == nil, "a series twice: " .. key)
      values[key] = tonumber(value)
    end
  end
  return values, types
end

describe("weft.metrics", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("is what a strict reader takes, with counters and gauges", function()
    local values, types = read(weft.metrics())
    assert.equal("gauge", types.weft_tasks)
    assert.equal("counter", types.weft_tasks_ended_total)
    assert.is_number(values["weft_timers{}"])
    assert.is_number(values["weft_objects{kind=channel}"])
    if not is_posix then
      assert.is_true(values["weft_memory_resident_bytes{}"] > 100000)
    end
    assert.is_true(values["weft_memory_lua_bytes{}"] > 10000)
    assert.is_true(values["weft_threads_awake{}"] >= 1)
  end)

  it("counts tasks by how they ended, and never falls when threads end", function()
    local before = read(weft.metrics())
    local pool = weft.pool({ threads = 2 })
    local group = weft.group({ pool = pool, collect = true })
    for i = 1, 10 do
      group:go(function()
        if i <= 3 then
          error("on purpose")
        end
        return i
      end)
    end
    local waits = group:go(function()
      weft.sleep(1000)
    end)
    repeat
      weft.sleep(0.001)
    until waits:status() == "running"
    waits:cancel()
    group:wait()
    pool:close()
    local now = read(weft.metrics())
    local function grown(result)
      local key = "weft_tasks_ended_total{result=" .. result .. "}"
      return now[key] - before[key]
    end
    assert.equal(7, grown("done"))
    assert.equal(3, grown("failed"))
    assert.equal(1, grown("canceled"))
  end)

  it("escapes the names of pools, and adds pools of one name up", function()
    local name = 'a"b\\c\nd'
    local one, two = weft.pool({ threads = 1, name = name }), weft.pool({ threads = 1, name = name })
    local channel, ready = weft.channel(), weft.channel()
    local groups = { weft.group({ pool = one }), weft.group({ pool = two }) }
    for _, group in ipairs(groups) do
      group:go(function()
        ready:send(true)
        return (channel:recv())
      end)
      ready:recv()
    end
    local values
    repeat
      values = read(weft.metrics())
    until values["weft_pool_tasks_parked{pool=" .. name .. "}"] == 2
    assert.equal(2, values["weft_pool_threads{pool=" .. name .. "}"])
    assert.equal(2, values["weft_pool_threads_max{pool=" .. name .. "}"])
    assert.equal(2, values["weft_pool_tasks{pool=" .. name .. "}"])
    assert.equal(0, values["weft_pool_queued{pool=" .. name .. "}"])
    channel:send(1) -- either task may take either value
    channel:send(1)
    for _, group in ipairs(groups) do
      assert(group:wait())
    end
    one:close()
    two:close()
  end)

  it("tells of every pool, however many there are", function()
    local COUNT = 100
    local pools, groups, channel, ready = {}, {}, weft.channel(COUNT), weft.channel(COUNT)
    for i = 1, COUNT do
      pools[i] = weft.pool({ threads = 1, name = "many" .. i })
      groups[i] = weft.group({ pool = pools[i] })
      groups[i]:go(function()
        ready:send(true)
        return (channel:recv())
      end)
    end
    for _ = 1, COUNT do
      ready:recv()
    end
    local values, by_pool = read(weft.metrics()), weft.stats().by_pool
    for i = 1, COUNT do
      assert.equal(1, values["weft_pool_tasks{pool=many" .. i .. "}"])
      assert.equal(1, by_pool["many" .. i].threads)
      channel:send(i)
    end
    for i = 1, COUNT do
      assert(groups[i]:wait())
      pools[i]:close()
    end
  end)

  it("counts transfers", function()
    local before = read(weft.metrics())
    local server = assert(testing.model_server())
    assert(weft.http.get(server.url .. "/health"))
    server:close()
    assert.is_nil((weft.http.get(server.url .. "/health", { timeout = 5 })))
    local now = read(weft.metrics())
    assert.equal(2, now["weft_http_started_total{}"] - before["weft_http_started_total{}"])
    assert.equal(1, now["weft_http_failed_total{}"] - before["weft_http_failed_total{}"])
    assert.equal(0, now["weft_http_in_flight{}"])
  end)

  it("can be asked for while tasks come and go", function()
    local pool = weft.pool({ threads = 2 })
    local group = weft.group({ pool = pool })
    local last = 0
    for i = 1, 200 do
      group:go(function()
        return i
      end)
      local done = read(weft.metrics())["weft_tasks_ended_total{result=done}"]
      assert.is_true(done >= last)
      last = done
    end
    assert(group:wait())
    pool:close()
  end)
end)

describe("weft.stats", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("tells of pools, tasks of the whole process, transfers and memory", function()
    local pool = weft.pool({ threads = 3, name = "counted" })
    local channel, ready = weft.channel(), weft.channel()
    local group = weft.group({ pool = pool })
    group:go(function()
      ready:send(true)
      return (channel:recv())
    end)
    ready:recv()
    local stats
    repeat
      stats = weft.stats()
    until stats.all_tasks.parked == 1
    assert.equal(1, stats.all_tasks.live)
    assert.same({ threads = 1, max_threads = 3, idle = stats.by_pool.counted.idle, queued = 0, tasks = 1, parked = 1 }, stats.by_pool.counted)
    assert.is_true(stats.states >= 2)
    assert.is_true(stats.awake >= 1)
    assert.equal(0, stats.http.in_flight)
    assert.is_true(is_posix and stats.memory.resident == nil or stats.memory.resident > stats.memory.lua)
    assert.is_true(stats.memory.lua > 10000)
    assert.equal(0, stats.tasks)
    channel:send(1)
    assert(group:wait())
    pool:close()
    assert.is_nil(weft.stats().by_pool.counted)
  end)
end)
