-- The work of bench/go/main.go, with weft. One round of what is named; prints "name<TAB>figure<TAB>unit".
--
-- usage: lua bench/weft.lua THREADS noop|captures|table|go_wait|parked|parked3|map|speedup …
local weft = require "weft"

local TASKS = 200000
local threads = tonumber(arg[1])
local pool = weft.pool { threads = threads }

local function report(name, figure, unit)
  print(("%s\t%.2f\t%s"):format(name, figure, unit))
end

--- Runs work() and reports nanoseconds an item.
local function time(name, n, work)
  collectgarbage()
  local started = weft.now()
  work()
  report(name, (weft.now() - started) / n * 1e9, "ns")
end

local function group(n, start, on)
  local g = weft.group { pool = on or pool }
  for i = 1, n do
    start(g, i)
  end
  assert(g:wait())
  g:close()
end

local function resident_bytes()
  local file = assert(io.open "/proc/self/statm")
  local _, pages = file:read("*n", "*n")
  file:close()
  return pages * 4096
end

--- Parks n tasks, measures their memory, and how long it takes to wake and finish them all.
-- All are parked soon after the last one has begun.
local function parked(name, start)
  local n = 100000
  local gate, ready = weft.channel(0), weft.waitgroup()
  collectgarbage()
  collectgarbage()
  local before = resident_bytes()
  local g = weft.group { pool = pool }
  for i = 1, n do
    start(g, gate, ready, i)
  end
  g:go(function() return true end):wait()
  weft.sleep(0.2)
  collectgarbage()
  collectgarbage()
  report("memory of " .. name, (resident_bytes() - before) / n, "bytes")
  time("wake and finish " .. name, n, function()
    gate:close()
    assert(g:wait())
  end)
  g:close()
end

local function fib(n)
  return n < 2 and n or fib(n - 1) + fib(n - 2)
end

local function four_fibs(on)
  local started = weft.now()
  group(4, function(g)
    g:go(function() return fib(28) end)
  end, on)
  return weft.now() - started
end

local rounds = {}

function rounds.noop()
  time("no-op task that returns a number", TASKS, function()
    group(TASKS, function(g)
      g:go(function() return 1 end)
    end)
  end)
end

function rounds.captures()
  local a, b, c, d, e = 1, 2, 3, 4, 5
  time("fresh closure with five captures", TASKS, function()
    group(TASKS, function(g)
      g:go(function() return a + b + c + d + e end)
    end)
  end)
end

function rounds.table()
  local list = {}
  for i = 1, 100 do
    list[i] = i
  end
  time("closure with a 100-element table", TASKS / 4, function()
    group(TASKS / 4, function(g)
      g:go(function() return #list end)
    end)
  end)
end

function rounds.go_wait()
  local g = weft.group { pool = pool }
  time("go and wait of one task", TASKS / 4, function()
    for _ = 1, TASKS / 4 do
      g:go(function() return 1 end)
      g:wait()
    end
  end)
  g:close()
end

function rounds.parked()
  parked("a parked task", function(g, gate)
    g:go(function()
      gate:recv()
      return 1
    end)
  end)
end

function rounds.parked3()
  parked("a parked task with three captures", function(g, gate, ready, i)
    ready:add(1)
    g:go(function()
      ready:done()
      gate:recv()
      return i
    end)
  end)
end

function rounds.map()
  local items = {}
  for i = 1, 1000000 do
    items[i] = i
  end
  time("map over a million items", #items, function()
    assert(weft.map(nil, items, function(item) return item * 2 end, { pool = pool }))
  end)
end

function rounds.speedup()
  local one, two = weft.pool { threads = 1 }, weft.pool { threads = 2 }
  four_fibs(one)
  four_fibs(two)
  local alone, together = four_fibs(one), four_fibs(two)
  report("CPU-bound tasks on two threads", alone / together, "times as fast as on one")
  one:close()
  two:close()
end

group(1000, function(g)
  g:go(function() return 1 end)
end)
for i = 2, #arg do
  rounds[arg[i]]()
end
pool:close()
