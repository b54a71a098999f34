-- The same work with a native thread a task, which is what cqueues has. Prints "name<TAB>figure<TAB>unit",
-- and nothing for what it cannot do.
--
-- usage: lua5.4 bench/cqueues.lua THREADS noop|go_wait …
local thread = require "cqueues.thread"
local cqueues = require "cqueues"

local TASKS = 300

local function time(name, at_once)
  local started = cqueues.monotime()
  for _ = 1, TASKS / at_once do
    local running = {}
    for i = 1, at_once do
      running[i] = assert(thread.start(function() return 1 end))
    end
    for i = 1, at_once do
      assert(running[i]:join())
    end
  end
  print(("%s\t%.2f\tns"):format(name, (cqueues.monotime() - started) / TASKS * 1e9))
end

local rounds = {
  noop = function() time("no-op task that returns a number", 2) end,
  go_wait = function() time("go and wait of one task", 1) end,
}

for i = 2, #arg do
  if rounds[arg[i]] then
    rounds[arg[i]]()
  end
end
