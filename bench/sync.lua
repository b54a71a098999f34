-- Channels, select and what else tasks meet at. One round of what is named; prints "name<TAB>figure<TAB>unit".
--
-- usage: lua bench/sync.lua pingpong|threads|select|semaphore|limiter|dict …
local weft = require "weft"

local function report(name, seconds, n)
  print(("%s\t%.2f\tns"):format(name, seconds / n * 1e9))
end

--- Runs work() and reports nanoseconds an item.
local function time(name, n, work)
  collectgarbage()
  local started = weft.now()
  work()
  report(name, weft.now() - started, n)
end

local function echo(there, back)
  return function()
    for value in there:iter() do
      back:send(value)
    end
  end
end

local rounds = {}

-- Two tasks on one thread of a pool.
function rounds.pingpong()
  local n, there, back = 200000, weft.channel(), weft.channel()
  local pool = weft.pool { threads = 1 }
  local group = weft.group { pool = pool }
  group:go(echo(there, back))
  local seconds = group:go(function()
    local started = weft.now()
    for i = 1, n do
      there:send(i)
      back:recv()
    end
    return weft.now() - started
  end):wait()
  report("channel round trip, one thread", seconds, n)
  there:close()
  group:wait()
  group:close()
  pool:close()
end

-- The script and a worker.
function rounds.threads()
  local n, there, back = 50000, weft.channel(), weft.channel()
  local group = weft.group()
  group:go(echo(there, back))
  time("channel round trip, two threads", n, function()
    for i = 1, n do
      there:send(i)
      back:recv()
    end
  end)
  there:close()
  group:wait()
  group:close()
end

rounds["select"] = function()
  local n, cases = 200000, {}
  for i = 1, 8 do
    cases[i] = { recv = weft.channel(1) }
  end
  time("send, then select over 8 channels", n, function()
    for i = 1, n do
      cases[i % 8 + 1].recv:send(i)
      weft.select(cases)
    end
  end)
end

function rounds.semaphore()
  local n, semaphore = 500000, weft.semaphore(4)
  time("semaphore, acquire and release", n, function()
    for _ = 1, n do
      semaphore:acquire()
      semaphore:release()
    end
  end)
end

function rounds.limiter()
  local n, limiter = 500000, weft.limiter { rate = 1e9, burst = 1e9 }
  time("limiter, wait that need not wait", n, function()
    for _ = 1, n do
      limiter:wait()
    end
  end)
end

function rounds.dict()
  local n, dict = 500000, weft.dict()
  dict:set("key", 0)
  time("dict, get", n, function()
    for _ = 1, n do
      dict:get "key"
    end
  end)
  time("dict, incr", n, function()
    for _ = 1, n do
      dict:incr "key"
    end
  end)
end

for i = 1, #arg do
  rounds[arg[i]]()
end
