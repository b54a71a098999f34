--- Bounded parallel loops: map in the order of items, stream in the order of completion.
-- @module weft.map
local core = require "weft.core"
local check = require "weft.check"
local chunk = require "weft.chunk"

local M = {}

local unpack = table.unpack or unpack

local DEFAULT_LIMIT = 256
local MAX_CHUNK = 1024
local CHUNKS_PER_THREAD = 4
local SHORT, LONG = 0.001, 0.01 -- seconds that a chunk should take

--- A function that gives the next run of at most `n` items and how many these are; how many items there
-- are in all, when that is known.
local function reader(what, items)
  if type(items) == "table" then
    local at, total = 0, #items
    return function(n)
      local first = at + 1
      at = math.min(at + n, total)
      return { unpack(items, first, at) }, at - first + 1
    end, total
  end
  if type(items) ~= "function" then
    check.fail(what, "items", "a list or an iterator", items)
  end
  local has_ended = false
  return function(n)
    local run, count = {}, 0
    while count < n and not has_ended do
      local item = items()
      if item == nil then
        has_ended = true
      else
        count = count + 1
        run[count] = item
      end
    end
    return run, count
  end
end

-- ---- errors of items ----

local function number_item(err, index)
  if core.is_error(err) then
    err.index, err.item = index, index
  end
  return err
end

--- What failed is a whole chunk, most often with a result that cannot be sent, which is "result 1[7]" there.
local function chunk_error(failure, base)
  local place, rest = tostring(failure.message):match("^result 1%[(%d+)%](.*)$")
  if place then
    failure.message = "the result" .. rest
    number_item(failure, base + tonumber(place))
  end
  return failure
end

--- To group:go the function is "argument 1", and an item "argument 6[7]".
local function refusal_of_chunk(message, base)
  return (tostring(message):gsub("argument 1: ", "the function: ", 1):gsub("argument 6%[(%d+)%]", function(place)
    return "item " .. base + tonumber(place)
  end, 1))
end

--- The same for one item, which is "argument 2".
local function refusal_of_item(message, index)
  return (tostring(message):gsub("argument 1: ", "the function: ", 1):gsub("argument 2", "item " .. index, 1))
end

local function lost_with(failure, index)
  return number_item(
    core.new_error {
      kind = "error",
      message = "the result was lost: it was on its way with the failure of another item",
      cause = failure,
    },
    index
  )
end

-- ---- map ----

--- One call of weft.map while it runs.
local Run = {}
Run.__index = Run

--- How many chunks run at once. Items of an iterator, which may wait for each, go one by one.
local function chunk_count(opts, limit, total)
  if opts.pool == "inline" then
    return 1
  end
  local size = opts.chunk or (total and MAX_CHUNK or 1)
  local threads = (opts.pool or core.default_pool()):stats().max_threads
  return math.min(limit, math.max(CHUNKS_PER_THREAD * threads, math.ceil(limit / size)))
end

--- How many items of each chunk may run at once, so that all together are the limit.
local function share_limit(limit, chunks)
  local shares = {}
  for i = 1, chunks do
    shares[i] = math.floor(limit / chunks) + (i <= limit % chunks and 1 or 0)
  end
  return shares
end

local function new_run(ctx, items, fn, opts)
  local read, total = reader("weft.map", items)
  local group = core.group(ctx, { pool = opts.pool, collect = true }):_hush()
  local limit = math.min(opts.limit or DEFAULT_LIMIT, math.max(1, total or math.huge))
  local chunks = chunk_count(opts, limit, total)
  return setmetatable({
    read = read,
    fn = fn,
    total = total,
    chunks = chunks,
    shares = share_limit(limit, chunks), -- those that no running chunk has
    size = opts.chunk or 1,
    is_adapting = total and not opts.chunk,
    is_collecting = opts.collect or false,
    group = group,
    running = {}, -- by index: { base, count, share }
    base = 0, -- items that were started
    results = {},
    errors = {},
  }, Run)
end

--- How many items the next chunk takes: what it may run at once, or more when that pays; fewer towards the
-- end, so that all threads end together.
function Run:next_size(share)
  if not self.is_adapting then
    return self.size
  end
  return math.max(share, math.min(self.size, math.ceil((self.total - self.base) / self.chunks)))
end

--- Chunks of short items grow, those of long ones shrink.
function Run:adapt(part, seconds)
  if seconds < SHORT then
    self.size = math.min(math.max(self.size, 2 * part.count), MAX_CHUNK)
  elseif seconds > LONG then
    self.size = math.max(1, math.floor(self.size / 2))
  end
end

--- Starts one more chunk: false when there are no more items, or when it was refused.
function Run:start()
  local base, share = self.base, self.shares[#self.shares]
  local items, count = self.read(self:next_size(share))
  if count == 0 then
    return false
  end
  local ok, task, refusal =
    pcall(self.group.go, self.group, chunk.run, self.fn, base, count, share, self.is_collecting, items)
  if not ok then
    error(refusal_of_chunk(task, base), 0)
  elseif not task then
    self.failure = refusal
    return false
  end
  self.shares[#self.shares] = nil
  self.running[task:index()] = { base = base, count = count, share = share }
  self.base = base + count
  return true
end

function Run:keep_errors(errors, base)
  for place, err in pairs(errors) do
    self.errors[#self.errors + 1] = number_item(err, base + place)
  end
end

--- Takes over what a chunk left.
function Run:keep(part, results, errors, seconds)
  table.move(results, 1, part.count, part.base + 1, self.results)
  if errors then
    self:keep_errors(errors, part.base)
  end
  if self.is_adapting then
    self:adapt(part, seconds)
  end
end

--- A chunk failed as a whole, and took with it what its items returned.
function Run:lose(part, failure)
  self.failure = self.failure or failure
  failure = chunk_error(failure, part.base)
  for index = part.base + 1, self.is_collecting and part.base + part.count or 0 do
    self.errors[#self.errors + 1] = failure.index == index and failure or lost_with(failure, index)
  end
end

--- Starts chunks and takes over what they leave, until all is done or, unless it collects, one failed.
function Run:loop()
  local group = self.group
  local next_completed, state = group:completed()
  local has_more = true
  repeat
    while has_more and #self.shares > 0 do
      has_more = self:start()
    end
    local task, _, failure = next_completed(state)
    if task then
      local index = task:index()
      local part = self.running[index]
      self.running[index] = nil
      self.shares[#self.shares + 1] = part.share
      if failure then
        self:lose(part, failure)
      else
        self:keep(part, group:values(index))
      end
      group:forget(index)
    end
  until not task or not self.is_collecting and (self.failure or #self.errors > 0)
end

local function by_index(a, b)
  return a.index < b.index
end

--- What weft.map returns.
function Run:outcome()
  self.results.n = self.base
  table.sort(self.errors, by_index)
  if not self.is_collecting then
    local err = self.errors[1] or self.failure
    if err then
      return nil, err
    end
    return self.results
  end
  if #self.errors == 0 then
    return self.results, self.failure
  end
  local first = self.failure or self.errors[1]
  return self.results,
    core.new_error {
      kind = "joined",
      message = ("%d of %d items failed; the first: %s"):format(#self.errors, self.base, tostring(first)),
      errors = self.errors,
    }
end

local function shift_context(ctx, items, fn, opts)
  if (type(ctx) == "table" or type(ctx) == "function") and type(fn) ~= "function" then
    return nil, ctx, items, fn
  end
  return ctx, items, fn, opts
end

local map_options = { limit = true, pool = true, collect = true, chunk = true }

--- Calls fn(item, ctx, index) for every item, in parallel on a pool's threads, at most `limit` at once.
-- Items go to a thread in chunks, which share one copy of what fn captures.
-- @tparam[opt] context ctx
-- @tparam table|function items a list, or an iterator that is called until it returns nil
-- @tparam function fn returns the item's result, or nil and an error
-- @tparam[opt] table opts `limit` (default 256 items in flight), `pool`, `collect`, `chunk` (how many items
--   go to a thread together; adapts to how long they take for a list, 1 for an iterator)
-- @treturn[1] table results in the order of the items, with `n`
-- @treturn[2] nil; with `collect` the results
-- @treturn[2] error the first failure, `index` tells the item; with `collect` all of them, joined
-- @raise bad argument; an item that cannot be sent; the context's error once that is done
function M.map(ctx, items, fn, opts)
  ctx, items, fn, opts = shift_context(ctx, items, fn, opts)
  check.context("weft.map", ctx)
  check.fn("weft.map", "fn", fn)
  opts = check.options("weft.map", opts, map_options)
  check.count("weft.map", "limit", opts.limit, 1)
  check.count("weft.map", "chunk", opts.chunk, 1)
  local run = new_run(ctx, items, fn, opts)
  local ok, raised = pcall(run.loop, run)
  run.group:cancel(not ok and raised or run.errors[1] or run.failure)
  run.group:close()
  if not ok then
    error(raised, 0)
  end
  if ctx then
    ctx:check()
  end
  core.current():check()
  return run:outcome()
end

-- ---- stream ----

--- One item of weft.stream on a worker. Internal; found by name.
function M.call_item(ctx, fn, item, index)
  return fn(item, ctx, index)
end

--- Iterates over results as they complete: `for index, value, err in weft.stream(ctx, items, fn) do`.
-- Memory is bounded by the limit: items are read as others complete. A failure ends nothing.
-- @tparam[opt] context ctx
-- @tparam table|function items as for weft.map
-- @tparam function fn as for weft.map; each call has a copy of its own of what fn captures
-- @tparam[opt] table opts `limit` (default 256), `pool`
-- @treturn function an iterator: index, value, error. Leaving the loop cancels what runs: at once on Lua 5.4,
--   when the iterator is collected on LuaJIT
-- @raise bad argument; in the loop: an item that cannot be sent, the context's error once that is done
function M.stream(ctx, items, fn, opts)
  ctx, items, fn, opts = shift_context(ctx, items, fn, opts)
  check.context("weft.stream", ctx)
  check.fn("weft.stream", "fn", fn)
  opts = check.options("weft.stream", opts, { limit = true, pool = true })
  check.count("weft.stream", "limit", opts.limit, 1)
  local read = reader("weft.stream", items)
  local limit = opts.limit or DEFAULT_LIMIT
  local group = core.group(ctx, { pool = opts.pool, limit = limit, collect = true }):_hush()
  local next_completed, state = group:completed()
  local running, started, refusal = 0, 0, nil

  local function start()
    local run, count = read(1)
    if count == 0 then
      return false
    end
    local ok, task, err = pcall(group.go, group, M.call_item, fn, run[1], started + 1)
    if not ok then
      group:close()
      error(refusal_of_item(task, started + 1), 0)
    elseif not task then
      refusal = err
      return false
    end
    started, running = started + 1, running + 1
    return true
  end

  local has_more = true
  local function next_result()
    while has_more and running < limit do
      has_more = start()
    end
    local task, value, err = next_completed(state)
    if task then
      running = running - 1
      local index = task:index()
      group:forget(index)
      return index, value, number_item(err, index)
    end
    group:close()
    if refusal then
      error(refusal, 0)
    end
  end
  return next_result, nil, nil, group
end

return M
