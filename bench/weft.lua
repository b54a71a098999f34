-- The same work as bench/go/main.go. Prints "name<TAB>nanoseconds an item", one round.
--
-- Usage: lua bench/weft.lua [threads]
local weft = require "weft"

local tasks = 200000
local pool = weft.pool { threads = tonumber(arg[1] or 2) }

local function report(name, n, work)
  collectgarbage()
  local started = weft.now()
  work()
  print(("%s\t%.1f"):format(name, (weft.now() - started) / n * 1e9))
end

local function group(n, start)
  local g = weft.group { pool = pool }
  for _ = 1, n do
    start(g)
  end
  assert(g:wait())
  g:close()
end

group(1000, function(g)
  g:go(function() return 1 end)
end)

report("no-op task that returns a number", tasks, function()
  group(tasks, function(g)
    g:go(function() return 1 end)
  end)
end)

local a, b, c, d, e = 1, 2, 3, 4, 5
report("fresh closure with five captures", tasks, function()
  group(tasks, function(g)
    g:go(function() return a + b + c + d + e end)
  end)
end)

local list = {}
for i = 1, 100 do
  list[i] = i
end
report("closure with a 100-element table", tasks / 4, function()
  group(tasks / 4, function(g)
    g:go(function() return #list end)
  end)
end)

do
  local g = weft.group { pool = pool }
  report("go and wait of one task", tasks / 4, function()
    for _ = 1, tasks / 4 do
      g:go(function() return 1 end)
      g:wait()
    end
  end)
  g:close()
end

do
  local n = 100000
  local gate, ready = weft.channel(0), weft.waitgroup()
  ready:add(n)
  local g = weft.group { pool = pool }
  for i = 1, n do
    g:go(function()
      ready:done()
      gate:recv()
      return i
    end)
  end
  ready:wait()
  report("wake and finish a parked task", n, function()
    gate:close()
    assert(g:wait())
  end)
  g:close()
end

local items = {}
for i = 1, 1000000 do
  items[i] = i
end
report("map over a million items", #items, function()
  assert(weft.map(nil, items, function(item) return item * 2 end, { pool = pool, limit = 1024 }))
end)

local function fib(n)
  return n < 2 and n or fib(n - 1) + fib(n - 2)
end
report("four CPU-bound tasks", 4, function()
  group(4, function(g)
    g:go(function() return fib(27) end)
  end)
end)
pool:close()
