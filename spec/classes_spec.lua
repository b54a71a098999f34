-- Names that no object of weft has, and where errors say that they come from: the script's line, also when weft's own
-- files are in between.
local weft = require "weft"
local leaks = require "spec.support.leaks"

local function message_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(err)
end

-- The line of the script that calls it.
local function line()
  return debug.getinfo(2, "l").currentline
end

describe("A method that is not there", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local function refusal(object, name)
    return message_of(function()
      return object[name]
    end)
  end

  it("is refused, with the names of those that are", function()
    local said = refusal(weft.channel(), "receive")
    assert.truthy(said:find("classes_spec.lua:%d+: weft.channel has no method 'receive': known are capacity, close,"), said)
    said = refusal(weft.semaphore(1), "lock")
    assert.truthy(said:find("known are acquire, held, release, resize, size, try_acquire, with", 1, true), said)
    said = refusal(weft.background(), "timeout")
    assert.truthy(said:find("weft.context has no method 'timeout': known are after, cancel, ", 1, true), said)
  end)

  it("of a group is told without those that are weft's own", function()
    local group = weft.group()
    local task = group:go(function() end)
    local said = refusal(group, "spawn")
    assert.truthy(said:find("weft.group has no method 'spawn': known are cancel, close, completed,", 1, true), said)
    assert.is_nil(said:find("notifying", 1, true))
    said = refusal(task, "join")
    assert.truthy(said:find("weft.task has no method 'join': known are cancel, index, status, wait", 1, true), said)
    group:close()
  end)

  it("raises in a task, too, and in a coroutine of the script", function()
    local ch = weft.channel()
    local results, err = weft.all {
      a = function()
        return ch:push(1)
      end,
    }
    assert.is_nil(results)
    assert.truthy(err.message:find("weft.channel has no method 'push'", 1, true), err.message)
    local said = message_of(coroutine.wrap(function()
      ch:push(1)
    end))
    assert.truthy(said:find("weft.channel has no method 'push'", 1, true), said)
  end)

  it("cannot be a task by itself, and says how to start it", function()
    local channel, places = weft.channel(1), weft.semaphore(1)
    local group = weft.group()
    for _, method in ipairs { channel.send, channel.capacity, places.acquire, (channel:iter()) } do
      local said = message_of(function()
        group:go(method, channel, 1)
      end)
      assert.matches("the function: function cannot be sent; it belongs to an object of weft's: call it in a function", said)
    end
    local send = channel.send
    local said = message_of(function()
      group:go(function()
        send(channel, 1)
      end)
    end)
    assert.matches("upvalue 'send': function cannot be sent; it belongs to an object of weft's", said)
    group:close()
  end)

  it("of a dict says that keys are no fields", function()
    local dict = weft.dict()
    assert.truthy(refusal(dict, "total"):find("known are cas, clear, get, incr, keys, set, update", 1, true))
    assert.truthy(refusal(dict, 1):find("weft.dict has methods only, no value of a key that is a number", 1, true))
    local said = message_of(function()
      dict.total = 1
    end)
    assert.truthy(said:find("assign with dict:set(key, value), read with dict:get(key)", 1, true), said)
    assert.equal(0, #dict)
  end)
end)

describe("An error's place", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local here = "^[^:]*classes_spec.lua:"

  it("is the script's line for what cannot be sent, whoever starts the task", function()
    local file, expected = io.stdout, nil
    local function use()
      return file
    end
    local stage = weft.stage("read", use)
    local calls = {
      all = function()
        expected = line() + 1
        local results = weft.all { a = use }
        return results
      end,
      any = function()
        expected = line() + 1
        local result = weft.any { use }
        return result
      end,
      map = function()
        expected = line() + 1
        local results = weft.map({ 1 }, use)
        return results
      end,
      stream = function()
        expected = line() + 1
        for _ in weft.stream(nil, { 1 }, use) do -- luacheck: ignore
        end
      end,
      pipeline = function()
        expected = line() + 1
        local results = weft.pipeline({ stage }):run(nil, { 1 })
        return results
      end,
      start = function()
        local group = weft.group()
        expected = line() + 1
        local ok, err = pcall(group.start, group, use)
        group:close()
        error(ok or err, 0)
      end,
    }
    for name, call in pairs(calls) do
      local said = message_of(call)
      assert.truthy(said:find(here .. expected .. ": upvalue 'file': userdata FILE%* cannot be sent"), name .. ": " .. said)
    end
  end)

  it("is there for items, with their number", function()
    local expected
    local said = message_of(function()
      expected = line() + 1
      local results = weft.map({ 1, 2, io.stdout }, function(x)
        return x
      end)
      return results
    end)
    assert.truthy(said:find(here .. expected .. ": item 3: userdata FILE%* cannot be sent"), said)
    said = message_of(function()
      for _ in weft.stream(nil, { 1, io.stdout }, tostring) do -- luacheck: ignore
      end
    end)
    assert.truthy(said:find(here .. "%d+: item 2: userdata FILE%* cannot be sent"), said)
    said = message_of(weft.map, { 1 }, string.gmatch("x", "x"))
    assert.truthy(said:find("the function: function cannot be sent; it is a C function", 1, true), said)
  end)

  it("is where the script waited, not where weft did, when a task is cancelled", function()
    local group, waiting = weft.group(), weft.channel(1)
    local expected = line() + 2
    group:go(function()
      local result, err = weft.retry(function()
        waiting:send(true)
        return nil, "again"
      end, { base = 3600, cap = 3600 })
      return result, err
    end)
    assert.is_true(waiting:recv())
    repeat
      weft.sleep(0.001)
    until weft.tasks()[1].state == "parked"
    group:cancel("enough")
    local _, err = group:wait()
    group:close()
    assert.truthy(err.where:find(here .. expected .. "$"), err.where)
  end)

  it("is the script's in a select that is wrong", function()
    local said = message_of(function()
      local case = weft.select { { receive = weft.channel() } }
      return case
    end)
    assert.truthy(said:find(here .. "%d+: bad argument '%[1%]' to weft.select: 'receive' is none of"), said)
  end)
end)

describe("A wrong argument", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("that is an object is told by its class", function()
    local at = line() + 2
    local said = message_of(function()
      local results = weft.all(io.stdout)
      return results
    end)
    assert.matches("^[^:]*classes_spec.lua:" .. at .. ": bad argument 'ctx' to weft.all: .*, got userdata$", said)
    assert.matches("expected a number of seconds >= 0, got weft.channel$", message_of(weft.sleep, weft.channel()))
    assert.matches("expected a string, got weft.semaphore$", message_of(weft.http.get, weft.semaphore(1)))
  end)

  it("that is a context comes of starting a function that takes other arguments", function()
    for _, fn in ipairs { weft.sleep, weft.http.get, weft.model.openai { model = "m" }.chat } do
      local results, err = weft.all { a = fn }
      assert.is_nil(results)
      assert.matches(", got weft.context %(the first argument of every task%)", err.message)
    end
  end)
end)
