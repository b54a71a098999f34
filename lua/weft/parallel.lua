--- Several closures at once: all of them, the first that succeeds, one after another.
-- @module weft.parallel
local core = require "weft.core"
local check = require "weft.check"
local scope = require("weft.scope").scope

local M = {}

local group_options = { limit = true, pool = true, collect = true }

local function shift_context(what, ctx, list, opts)
  if ctx ~= nil and not core.is_context(ctx) and type(ctx) == "table" and opts == nil then
    ctx, list, opts = nil, ctx, list
  end
  return check.context(what, ctx), list, opts
end

local function sorted_keys(fns)
  local keys = {}
  for key in pairs(fns) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then
      return a < b
    end
    return type(a) < type(b)
  end)
  return keys
end

--- Runs every function of a table in parallel: the way to ask several models about one thing.
-- @tparam[opt] context ctx
-- @tparam table fns functions by any key; each is called with its context
-- @tparam[opt] table opts `limit`, `pool`, `collect` as for weft.group
-- @treturn[1] table results under the same keys
-- @treturn[2] nil (with `collect`: the results that there are)
-- @treturn[2] error the first failure, with the key as `task`; with `collect` all of them, joined
-- @raise bad argument
function M.all(ctx, fns, opts)
  ctx, fns, opts = shift_context("weft.all", ctx, fns, opts)
  check.table("weft.all", "fns", fns)
  opts = check.options("weft.all", opts, group_options)
  local keys = sorted_keys(fns)
  for _, key in ipairs(keys) do
    check.fn("weft.all", "fns[" .. tostring(key) .. "]", fns[key])
  end
  local refusal
  local results, err = scope(ctx, opts, function(group)
    for _, key in ipairs(keys) do
      local task, why = group:go(tostring(key), fns[key])
      if not task then
        refusal = why
        break
      end
    end
  end)
  if refusal and not err then
    results, err = opts.collect and results or nil, refusal
  end
  local by_key = nil
  if results then
    by_key = {}
    for i, key in ipairs(keys) do
      by_key[key] = results[i]
    end
  end
  return by_key, err
end

local function pack(...)
  return { n = select("#", ...), ... }
end

-- Starts the functions, at most `limit` at once, until one has succeeded: its values; or nil, and why the others could
-- not be started. A place is free when the task that had it was looked at, so none starts after a success.
local function first_success(group, fns, limit)
  local next_ended, all = group:completed()
  local won
  local running = 0
  local function take()
    local task, _, failure = next_ended(all)
    running = running - 1
    if failure == nil then
      won = pack(group:values(task:index()))
    end
  end
  for _, fn in ipairs(fns) do
    while running == limit and not won do
      take()
    end
    if won then
      return won
    end
    local task, why = group:go(fn)
    if not task then
      return nil, why
    end
    running = running + 1
  end
  while running > 0 and not won do
    take()
  end
  return won
end

--- The first success of several functions; the others are cancelled, and with a `limit` those that have not begun never
-- run.
-- @tparam[opt] context ctx
-- @tparam table fns a list of functions, each called with its context
-- @tparam[opt] table opts `limit`, `pool` as for weft.group
-- @return[1] what the first successful function returned
-- @treturn[2] nil
-- @treturn[2] error all failures, joined
-- @raise bad argument
function M.any(ctx, fns, opts)
  ctx, fns, opts = shift_context("weft.any", ctx, fns, opts)
  check.table("weft.any", "fns", fns)
  opts = check.options("weft.any", opts, { limit = true, pool = true })
  check.count("weft.any", "limit", opts.limit, 1)
  if #fns == 0 then
    check.fail("weft.any", "fns", "a list of at least one function", #fns)
  end
  for i, fn in ipairs(fns) do
    check.fn("weft.any", "fns[" .. i .. "]", fn)
  end
  local won, refusal
  local _, err = scope(ctx, { collect = true, pool = opts.pool }, function(group)
    won, refusal = first_success(group, fns, opts.limit)
    if won then
      group:cancel("another function was first")
    end
  end)
  if won then
    return (unpack or table.unpack)(won, 1, won.n)
  end
  return nil, err or refusal
end

local function stage_of(stage, i)
  if type(stage) ~= "table" then
    return tostring(i), stage
  end
  return stage.name or type(stage[1]) == "string" and stage[1] or tostring(i), stage.fn or stage[2] or stage[1]
end

local function stage_error(cause, name, i, traceback)
  return core.new_error {
    kind = core.is_error(cause) and cause.kind or "error",
    message = tostring(cause),
    cause = cause,
    stage = name,
    stage_index = i,
    status = core.is_error(cause) and cause.status or nil,
    traceback = traceback,
  }
end

--- Runs functions one after another in the calling state, each on the result of the one before.
-- @tparam[opt] context ctx
-- @param input the first one's argument
-- @tparam table stages a list of functions, of { name = , fn = } or of { name, fn }; called as fn(value, ctx)
-- @return[1] the last result
-- @treturn[2] nil
-- @treturn[2] error with `stage`, `stage_index` and `cause`: "stage 2 (enrich) failed: …"
-- @raise bad argument; the context's error once that is done
function M.chain(ctx, input, stages)
  ctx = check.context("weft.chain", ctx) or core.current()
  check.table("weft.chain", "stages", stages)
  for i, stage in ipairs(stages) do
    local _, fn = stage_of(stage, i)
    check.fn("weft.chain", "stages[" .. i .. "]", fn)
  end
  local value, traceback = input, nil
  local function keep_traceback(raised)
    traceback = debug.traceback("", 2)
    return raised
  end
  for i, stage in ipairs(stages) do
    local name, fn = stage_of(stage, i)
    ctx:check()
    local ok, result, err = xpcall(fn, keep_traceback, value, ctx)
    if not ok or (result == nil and err ~= nil) then
      local cause = err
      if not ok then
        cause = result
      end
      if core.is_error(cause) and (cause.kind == "canceled" or cause.kind == "deadline") then
        ctx:check()
      end
      return nil, stage_error(cause, name, i, traceback)
    end
    value = result
  end
  return value
end

return M
