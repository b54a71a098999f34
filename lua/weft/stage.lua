--- Stages of pipelines: what an item meets in one of them.
-- @module weft.stage
local core = require "weft.core"
local check = require "weft.check"
local retry = require "weft.retry"

local M = {}

local Stage = core.class "weft.stage"
Stage.__name = "weft.stage"

--- Declares a stage.
-- @tparam string name shown in errors
-- @tparam function fn called as fn(value, ctx, index) on a pool's thread; returns the next value, or nil
--   and an error
-- @tparam[opt] table opts
-- @tparam[opt] integer opts.limit (or `workers`): how many items may be in this stage at once
-- @tparam[opt] number opts.rate how many items may enter it a second, evenly spaced
-- @tparam[opt] integer|table opts.retry how often fn is called at most for an item, or a policy as for @{weft.retry}; an
--   item keeps its place in the stage while it waits
-- @treturn stage
-- @raise bad argument
function M.stage(name, fn, opts)
  if type(name) ~= "string" then
    check.fail("weft.stage", "name", "a string", name)
  end
  check.fn("weft.stage", "fn", fn)
  opts = check.options("weft.stage", opts, { limit = true, workers = true, rate = true, retry = true })
  check.count("weft.stage", "limit", opts.limit, 1)
  check.count("weft.stage", "workers", opts.workers, 1)
  local limit = opts.limit or opts.workers
  local rate, policy = opts.rate, opts.retry
  if rate ~= nil and (type(rate) ~= "number" or not (rate > 0)) then
    check.fail("weft.stage", "rate", "a number of items a second > 0", rate)
  elseif policy ~= nil and type(policy) ~= "number" and type(policy) ~= "table" then
    check.fail("weft.stage", "retry", "a number of attempts or a table", policy)
  end
  policy = type(policy) == "number" and { attempts = policy } or policy
  if policy then
    policy = retry.policy("weft.stage", policy, 2, "retry")
    policy.catches = true -- fn may raise its failures as well as return them
  end
  local info = debug.getinfo(fn, "S")
  local where = ("%s:%d"):format(info.short_src, info.linedefined)
  local stage = { name = name, fn = fn, limit = limit, rate = rate, retry = policy, where = where }
  return setmetatable(stage, Stage)
end

--- The item's index is added where the task ends: its place in the order of go.
local function stage_error(stage, err)
  return core.new_error {
    kind = core.is_error(err) and err.kind or "error",
    message = tostring(core.is_error(err) and err.message or err),
    cause = err,
    stage = stage.name,
    where = stage.where,
    status = core.is_error(err) and err.status or nil,
  }
end

-- The stage's own function, again where its policy says so.
local function call(stage, value, ctx, index)
  if not stage.retry then
    return stage.fn(value, ctx, index)
  end
  return retry.run(stage.retry, function()
    return stage.fn(value, ctx, index)
  end)
end

-- Waits for its turn, and calls.
local function enter(stage, limiter, value, ctx, index)
  if limiter then
    local ok, err = limiter:wait()
    if not ok then
      return nil, err
    end
  end
  return call(stage, value, ctx, index)
end

--- Whether a value is a stage. Internal.
function M.is_stage(value)
  return getmetatable(value) == Stage
end

--- Passes one item through a stage, on a worker. Internal.
-- @tparam stage stage
-- @tparam table gate `places`, a semaphore, and `limiter`, if the stage has them
-- @param value
-- @tparam context ctx
-- @tparam integer index
-- @return[1] the next value
-- @treturn[2] nil
-- @treturn[2] error
function M.pass(stage, gate, value, ctx, index)
  local places = gate.places
  if places then
    places:acquire()
  end
  local is_traced = core.span_begin(stage.name)
  local ok, result, err = pcall(enter, stage, gate.limiter, value, ctx, index)
  if is_traced then
    core.span_end(stage.name)
  end
  if places then
    places:release()
  end
  if not ok then
    return nil, stage_error(stage, result)
  elseif result == nil and err ~= nil then
    return nil, stage_error(stage, err)
  end
  return result
end

return M
