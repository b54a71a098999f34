--- Pipelines: every item passes a row of stages, each with its own bound.
-- @module weft.pipeline
local core = require "weft.core"
local check = require "weft.check"
local stages_of = require "weft.stage"

local M = {}

local pass = stages_of.pass

local DEFAULT_LIMIT = 256

--- Passes one item through the stages, on a worker. Internal.
function M.run_item(ctx, stages, gates, value, index)
  for i = 1, #stages do
    local err
    value, err = pass(stages[i], gates[i], value, ctx, index)
    if err ~= nil then
      return nil, err
    end
  end
  return value
end

local pipeline = core.class "weft.pipeline"
pipeline.__index = pipeline
pipeline.__name = "weft.pipeline"

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
    if not stages_of.is_stage(stage) then
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

local function check_items(what, items)
  if type(items) ~= "table" and type(items) ~= "function" then
    check.fail(what, "items", "a list or an iterator", items)
  end
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
  check_items("pipeline:stream", items)
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
  check_items("pipeline:run", items)
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
