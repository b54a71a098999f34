--- Groups, pools and tasks of specs that are about something else.
local weft = require "weft"

local tasks = {}

--- Runs fn(group), and fails when a task failed.
-- @tparam ?table options of the group
-- @tparam function fn
-- @treturn table the results of the tasks
function tasks.run(options, fn)
  return assert(weft.scope(options, fn))
end

--- Lets the tasks of weft.inline that were started before run until they are parked.
-- @param group one of weft.inline
function tasks.settle(group)
  local ready = weft.channel(1)
  group:go(function()
    ready:send(true)
  end)
  ready:recv()
end

--- Calls fn(pool), and closes the pool, also when that raises.
-- @tparam integer threads
-- @tparam function fn
function tasks.with_pool(threads, fn)
  local pool = weft.pool({ threads = threads })
  local ok, raised = pcall(fn, pool)
  pool:close()
  if not ok then
    error(raised, 0)
  end
end

--- All values of a channel, until it is closed.
-- @treturn table
function tasks.drain(ch)
  local values = {}
  for value in ch:iter() do
    values[#values + 1] = value
  end
  return values
end

return tasks
