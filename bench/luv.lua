-- The same work on luv's thread pool: no groups, no captures, results in callbacks. Prints
-- "name<TAB>figure<TAB>unit", and nothing for what luv cannot do.
--
-- usage: luajit bench/luv.lua THREADS noop|captures|go_wait …
local uv = require "luv"

local TASKS = 200000

local function time(name, n, fn, is_one_by_one, ...)
  local left, sum, started = n, 0, uv.hrtime()
  local work = uv.new_work(fn, function(value)
    left = left - 1
    sum = sum + value
  end)
  for _ = 1, n do
    work:queue(...)
    if is_one_by_one then
      uv.run()
    end
  end
  uv.run()
  assert(left == 0 and sum > 0)
  print(("%s\t%.2f\tns"):format(name, (uv.hrtime() - started) / n))
end

local rounds = {
  noop = function() time("no-op task that returns a number", TASKS, function() return 1 end) end,
  captures = function() -- as arguments, since captures do not cross
    local sum = function(a, b, c, d, e) return a + b + c + d + e end
    time("fresh closure with five captures", TASKS, sum, false, 1, 2, 3, 4, 5)
  end,
  go_wait = function() time("go and wait of one task", TASKS / 20, function() return 1 end, true) end,
}

for i = 2, #arg do
  if rounds[arg[i]] then
    rounds[arg[i]]()
  end
end
