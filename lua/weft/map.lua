--- Bounded parallel loops: map in the order of items, stream in the order of completion.
-- @module weft.map
local core = require "weft.core"
local check = require "weft.check"
local chunk = require "weft.chunk"

local M = {}

local DEFAULT_LIMIT = 256
local MAX_CHUNK = 256

local known = { limit = true, pool = true, collect = true, chunk = true }

--- A function that gives the next `n` items as a list and their number.
local function reader(items, what)
  if type(items) == "table" then
    local at, total = 0, #items
    return function(n)
      local count = math.min(n, total - at)
      local run = {}
      for i = 1, count do
        run[i] = items[at + i]
      end
      at = at + count
      return run, count
    end, total
  end
  check.fn(what, "items", items)
  local ended = false
  return function(n)
    local run, count = {}, 0
    while count < n and not ended do
      local item = items()
      if item == nil then
        ended = true
      else
        count = count + 1
        run[count] = item
      end
    end
    return run, count
  end
end

--- Several items go to a worker at once, but no more than keep all threads busy within the limit.
local function chunk_size(limit, total, pool, wish)
  if wish then
    return math.min(wish, limit)
  end
  local threads = type(pool) == "userdata" and pool:stats().max_threads or core.default_pool():stats().max_threads
  local size = math.max(1, math.floor(limit / (2 * threads)))
  if total then
    size = math.min(size, math.max(1, math.ceil(total / (4 * threads))))
  end
  return math.min(size, MAX_CHUNK)
end

--- Where the results of a run of chunks arrive: calls `on_chunk(base, count, results, errors, failure)`.
local function each_chunk(what, ctx, items, fn, opts, on_chunk)
  local read, total = reader(items, what)
  local limit = opts.limit or DEFAULT_LIMIT
  local size = chunk_size(limit, total, opts.pool, opts.chunk)
  local chunks = math.max(1, math.floor(limit / size))
  local collect = opts.collect or false
  local group = core.group(ctx, { pool = opts.pool, limit = chunks, collect = true })
  local bases, counts = {}, {}
  local base, started, finished = 0, 0, 0
  local iterator, state = group:completed()

  local function start()
    local run, count = read(size)
    if count == 0 then
      return false
    end
    local fibers = math.max(1, math.min(count, math.floor(limit / chunks)))
    local task = group:go(chunk.run, fn, base, count, fibers, collect, run)
    if not task then
      return false
    end
    started = started + 1
    bases[started], counts[started] = base, count
    base = base + count
    return true
  end

  local function finish()
    local task, results, failure = iterator(state)
    if not task then
      return false
    end
    finished = finished + 1
    local i = task:index()
    local errors
    if not failure then
      results, errors = group:values(i)
    end
    return on_chunk(bases[i], counts[i], results, errors, failure)
  end

  local more = true
  local ok, raised = pcall(function()
    while true do
      while more and started - finished < chunks do
        more = start()
      end
      if started == finished or finish() == false then
        return
      end
    end
  end)
  group:cancel(not ok and raised or nil)
  group:close()
  if not ok then
    error(raised, 0)
  end
  return base, group
end

local function item_error(err, index)
  if type(err) == "table" then
    err.index = index
    err.item = index
  end
  return err
end

--- Calls fn(item, ctx, index) for every item, in parallel on a pool's threads, at most `limit` at once.
-- @tparam[opt] context ctx
-- @tparam table|function items a list, or an iterator that is called until it returns nil
-- @tparam function fn returns the item's result, or nil and an error
-- @tparam[opt] table opts `limit` (default 256 items in flight), `pool`, `collect`, `chunk` (items that
--   go to a thread together; chosen by itself)
-- @treturn[1] table results in the order of the items, with `n`
-- @treturn[2] nil; with `collect` the results
-- @treturn[2] error the first failure, `index` tells the item; with `collect` all of them, joined
-- @raise bad argument; the context's error once that is done
function M.map(ctx, items, fn, opts)
  if not core.is_context(ctx) and ctx ~= nil and type(items) == "function" and (fn == nil or type(fn) == "table") then
    ctx, items, fn, opts = nil, ctx, items, fn
  end
  check.context("weft.map", ctx)
  check.fn("weft.map", "fn", fn)
  opts = check.options("weft.map", opts, known)
  check.count("weft.map", "limit", opts.limit, 1)
  check.count("weft.map", "chunk", opts.chunk, 1)
  local all, failures, first = {}, {}, nil
  local total, group = each_chunk("weft.map", ctx, items, fn, opts, function(base, count, results, errors, failure)
    if failure then
      first = first or failure
      return opts.collect or false
    end
    for i = 1, count do
      all[base + i] = results[i]
    end
    for i, err in pairs(errors or {}) do
      failures[#failures + 1] = item_error(err, base + i)
    end
    return opts.collect or #failures == 0
  end)
  all.n = total
  table.sort(failures, function(a, b)
    return a.index < b.index
  end)
  if not opts.collect then
    local err = failures[1] or first or group.ctx:cause()
    if failures[1] or first then
      return nil, err
    end
    return all
  end
  if first then
    return nil, first
  end
  if #failures > 0 then
    return all,
      core.new_error {
        kind = "joined",
        message = ("%d of %d items failed; the first: %s"):format(#failures, total, tostring(failures[1])),
        errors = failures,
      }
  end
  return all
end

--- Iterates over results as they complete: `for i, value, err in weft.stream(ctx, items, fn) do`.
-- Memory is bounded by the limit: items are read as others complete.
-- @tparam[opt] context ctx
-- @tparam table|function items as for weft.map
-- @tparam function fn as for weft.map
-- @tparam[opt] table opts `limit` (default 256), `pool`
-- @treturn function an iterator: index, value, error. Leaving the loop early needs the iterator to be
--   collected to cancel what runs; on Lua 5.4 the loop closes it at once
-- @raise bad argument
function M.stream(ctx, items, fn, opts)
  if not core.is_context(ctx) and ctx ~= nil and type(items) == "function" and (fn == nil or type(fn) == "table") then
    ctx, items, fn, opts = nil, ctx, items, fn
  end
  check.context("weft.stream", ctx)
  check.fn("weft.stream", "fn", fn)
  opts = check.options("weft.stream", opts, { limit = true, pool = true })
  check.count("weft.stream", "limit", opts.limit, 1)
  local read = reader(items, "weft.stream")
  local limit = opts.limit or DEFAULT_LIMIT
  local group = core.group(ctx, { pool = opts.pool, limit = limit, collect = true })
  local completed, state = group:completed()
  local more, started, finished = true, 0, 0
  local function next_result()
    while more and started - finished < limit do
      local run, count = read(1)
      if count == 0 then
        more = false
      else
        started = started + 1
        more = group:go(M.call_item, fn, run[1], started) and true or false
      end
    end
    local task, value, err = completed(state)
    if not task then
      group:close()
      return nil
    end
    finished = finished + 1
    group:forget(task:index())
    return task:index(), value, err
  end
  return next_result, nil, nil, group
end

--- One item of weft.stream on a worker. Internal.
function M.call_item(ctx, fn, item, index)
  return fn(item, ctx, index)
end

return M
