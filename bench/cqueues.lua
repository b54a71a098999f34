-- The same no-op work with a native thread a task (cqueues). Prints "name<TAB>nanoseconds an item", one round.
local thread = require "cqueues.thread"
local cqueues = require "cqueues"
local tasks = 500

local started = cqueues.monotime()
for _ = 1, tasks do
  local t = assert(thread.start(function() return 1 end))
  assert(t:join())
end
print(("no-op task that returns a number\t%.1f"):format((cqueues.monotime() - started) / tasks * 1e9))
