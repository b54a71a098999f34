--- The worker's side of weft.map: runs a function over a run of items, several at once only when one
-- of them waits. Internal; found by name on workers.
local core = require "weft.core"

local M = {}

local yield = coroutine.yield

--- Runs fn(item, ctx, index) for every item. Fibers of the calling state take items in turn; the next
-- fiber starts when all that run are parked, so items that never wait cost no fiber of their own.
-- @treturn table results by place, and errors by place, or nil when there are none
function M.run(ctx, fn, base, count, fibers, is_collecting, items)
  local results, errors, at = {}, nil, {}
  local taken = 0
  local function fiber(fiber_ctx, k)
    while taken < count do
      taken = taken + 1
      local i = taken
      at[k] = i
      local value, err = fn(items[i], fiber_ctx, base + i)
      if value == nil and err ~= nil then
        return nil, err
      end
      results[i] = value
    end
  end
  local group = core.group(ctx, { pool = "inline", collect = true })
  local started, seen = 0, 0
  local function collect_failures()
    local stats = group:stats()
    if stats.failed == seen then
      return
    end
    errors = errors or {}
    for k = 1, started do
      local err = at[k] and group:error_of(k)
      if err and not errors[at[k]] then
        errors[at[k]] = err
        seen = seen + 1
        if not is_collecting then
          group:cancel(err)
          taken = count
        end
      end
    end
  end
  while taken < count and started < fibers + seen do
    started = started + 1
    if not group:go(fiber, started) then
      break
    end
    yield() -- lets it run until it parks or has done all that is left
    collect_failures()
  end
  group:join()
  collect_failures()
  while taken < count and is_collecting do -- every fiber failed: go on with the rest
    started = started + 1
    if not group:go(fiber, started) then
      break
    end
    group:join()
    collect_failures()
  end
  group:close()
  ctx:check()
  return results, errors
end

return M
