--- Pipelines: every item passes a row of stages, each with its own bound.
-- @module weft.pipeline
local core = require "weft.core"
local check = require "weft.check"
local retry = require "weft.retry"

local M = {}

local DEFAULT_LIMIT = 256

local stage_metatable = { __name = "weft.stage" }
core.register("weft.stage", stage_metatable)

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
  policy = policy and retry.policy("weft.stage", policy, 2, "retry")
  local info = debug.getinfo(fn, "S")
  local where = ("%s:%d"):format(info.short_src, info.linedefined)
  local stage = { name = name, fn = fn, limit = limit, rate = rate, retry = policy, where = where }
  return setmetatable(stage, stage_metatable)
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

--- Passes one item through the stages, on a worker. Internal.
function M.run_item(ctx, stages, gates, value, index)
  for i = 1, #stages do
    local stage, places, limiter = stages[i], gates[i].places, gates[i].limiter
    if places then
      places:acquire()
    end
    local is_traced = core.span_begin(stage.name)
    local ok, result, err = pcall(enter, stage, limiter, value, ctx, index)
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
    value = result
  end
  return value
end

local pipeline = {}
pipeline.__index = pipeline

--- Makes a pipeline of stages. It can be run any number of times.
-- @tparam table stages a list of weft.stage
-- @treturn pipeline
-- @raise bad argument
function M.pipeline(stages)
  check.table("weft.pipeline", "stages", stages)
  if #stages == 0 then
    check.fail("weft.pipeline", "stages", "a list of at least one stage", #stages)
  end
  for i, stage in ipairs(stages) do
    if getmetatable(stage) ~= stage_metatable then
      check.fail("weft.pipeline", "stages[" .. i .. "]", "a weft.stage", stage)
    end
  end
  return setmetatable({ stages = stages }, pipeline)
end

--- Bounds shared by all items of one run.
local function make_gates(stages)
  local gates = {}
  for i, stage in ipairs(stages) do
    gates[i] = {
      places = stage.limit and core.semaphore(stage.limit) or nil,
      limiter = stage.rate and core.limiter({ rate = stage.rate }) or nil,
    }
  end
  return gates
end

-- The context may be left out.
local function shift_context(ctx, items, opts)
  if type(ctx) == "function" or type(ctx) == "table" then
    return nil, ctx, items
  end
  return ctx, items, opts
end

--- Iterates over results as they complete: `for index, value, err in p:stream(ctx, items) do`.
-- @function pipeline:stream
-- @tparam[opt] context ctx
-- @tparam table|function items a list, or an iterator called until it returns nil
-- @tparam[opt] table opts `limit`: items in the pipeline at once (default 256), `pool`
-- @treturn function an iterator; err has `stage`, `index` and `cause`
-- @raise bad argument
function pipeline:stream(ctx, items, opts)
  check.self("pipeline:stream", "pipeline", self, pipeline)
  ctx, items, opts = shift_context(ctx, items, opts)
  check.context("pipeline:stream", ctx)
  opts = check.options("pipeline:stream", opts, { limit = true, pool = true })
  local stages, gates = self.stages, make_gates(self.stages)
  local run_item = M.run_item
  return require("weft.map").stream(ctx, items, function(item, item_ctx, index)
    return run_item(item_ctx, stages, gates, item, index)
  end, { limit = opts.limit or DEFAULT_LIMIT, pool = opts.pool })
end

--- Runs all items through the stages.
-- @function pipeline:run
-- @tparam[opt] context ctx
-- @tparam table|function items as for pipeline:stream
-- @tparam[opt] table opts `limit`, `pool`, `collect`: a failed item does not end the run
-- @treturn[1] table results in the order of the items, with `n`
-- @treturn[2] nil; with `collect` the results
-- @treturn[2] error the first failure; with `collect` all of them, joined, in the order of the items
-- @raise bad argument; the error of the caller's own context once that is done
function pipeline:run(ctx, items, opts)
  check.self("pipeline:run", "pipeline", self, pipeline)
  ctx, items, opts = shift_context(ctx, items, opts)
  check.context("pipeline:run", ctx)
  opts = check.options("pipeline:run", opts, { limit = true, pool = true, collect = true })
  local run_ctx = (ctx or core.current()):with_cancel()
  local results, errors, n, first = {}, {}, 0, nil
  for index, value, err in self:stream(run_ctx, items, { limit = opts.limit, pool = opts.pool }) do
    n = math.max(n, index)
    results[index] = value
    if err then
      errors[#errors + 1] = err
      if not opts.collect and not first then
        first = err
        run_ctx:cancel(err) -- the loop goes on until every task has ended
      end
    end
  end
  first = first or (run_ctx:err() and not opts.collect and run_ctx:cause())
  run_ctx:cancel()
  core.current():check()
  results.n = n
  if first then
    return nil, first
  end
  if #errors == 0 then
    return results
  end
  table.sort(errors, function(a, b)
    return (a.index or 0) < (b.index or 0)
  end)
  return results,
    core.new_error {
      kind = "joined",
      message = ("%d of %d items failed; the first: %s"):format(#errors, n, tostring(errors[1])),
      errors = errors,
    }
end

return M
