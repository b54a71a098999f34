--- The worker's side of weft.map: runs a function over a run of items, several at once only when one
-- of them waits. Internal; found by name on workers.
local core = require "weft.core"

local M = {}

local stop_at_failure = { pool = "inline" }
local go_on = { pool = "inline", collect = true }

--- Takes failed items out of the results: their errors by place. What is only the echo of the first failure
-- is left out.
local function errors_of(group, at, items, is_collecting)
  local _, first = group:wait()
  local errors = {}
  for k, place in ipairs(at) do
    local err = group:error_of(k)
    if err then
      items[place] = nil
      if is_collecting or err == first then
        errors[place] = err
      end
    end
  end
  return errors
end

--- Runs fn(item, ctx, index) for every item, at most `fibers` at once. Fibers of this state take items in
-- turn; each has one more stand by, which gets its turn only when those before it are parked. A fiber ends
-- with an item that fails.
-- @treturn table results by place: `items` itself
-- @treturn table errors by place, or false
-- @treturn number how many seconds it took
function M.run(ctx, fn, base, count, fibers, is_collecting, items)
  local began = core.now()
  local group = core.group(ctx, is_collecting and go_on or stop_at_failure):_hush()
  local taken, live, at = 0, 0, {} -- at: which item each fiber has taken last
  local fiber
  local function start()
    live = live + 1
    at[#at + 1] = 0
    return group:go(fiber, #at)
  end
  function fiber(item_ctx, k)
    local fn, base, count, items, at = fn, base, count, items, at
    if live < fibers and taken + 1 < count then
      start()
    end
    while true do
      local i = taken + 1
      if i > count then
        break
      end
      taken, at[k] = i, i
      local value, err = fn(items[i], item_ctx, base + i)
      if value == nil and err ~= nil then
        return nil, err
      end
      items[i] = value
    end
    live = live - 1
  end
  repeat
    live = 0
    local is_started = start()
    group:join()
  until not is_started or taken == count or not is_collecting
  for i = taken + 1, count do
    items[i] = nil
  end
  local errors = group:stats().failed > 0 and errors_of(group, at, items, is_collecting)
  group:close()
  ctx:check()
  return items, errors, core.now() - began
end

return M
