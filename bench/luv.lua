-- The same no-op and closure work on luv's thread pool. Prints "name<TAB>nanoseconds an item", one round.
local uv = require "luv"
local tasks = 200000

local function run(name, n, fn, ...)
  local left, sum, started = n, 0, uv.hrtime()
  local work = uv.new_work(fn, function(value)
    left = left - 1
    sum = sum + value
  end)
  for _ = 1, n do
    work:queue(...)
  end
  uv.run()
  assert(left == 0 and sum > 0)
  print(("%s\t%.1f"):format(name, (uv.hrtime() - started) / n))
end

run("no-op task that returns a number", tasks, function() return 1 end)
run("fresh closure with five captures", tasks, function(a, b, c, d, e) return a + b + c + d + e end, 1, 2, 3, 4, 5)
