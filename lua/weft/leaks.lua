--- The leak check, for tests.
-- @module weft.testing
local core = require "weft.core"
local check = require "weft.check"
local options = require "weft.options"

local M = {}

-- What must not grow, in the order of the report: the field of weft.stats(), and its name.
local COUNTED = {
  { "tasks", "task of this state" },
  { "parked", "blocked caller of this state" },
  { "groups", "group" },
  { "pools", "pool" },
  { "threads", "thread" },
  { "contexts", "context" },
  { "channels", "channel" },
  { "semaphores", "semaphore" },
  { "waitgroups", "waitgroup" },
  { "limiters", "limiter" },
  { "dicts", "dict" },
  { "flights", "flight of a singleflight" },
  { "tickers", "ticker" },
  { "timers", "timer" },
  { "transfers", "transfer" },
  { "http_quotas", "quota of an HTTP client" },
  { "budgets", "budget" },
  { "healths", "health of a model" },
  { "errors", "error" },
}
local PATIENCE = 10 -- seconds until what is alive counts as leaked
local POLLS, PAUSE = 20, 0.005 -- between two collections everywhere
local TURNS = 200

local function pack(...)
  return { n = select("#", ...), ... }
end

local function collect_here()
  if jit then
    jit.flush() -- compiled code holds what was captured
  end
  collectgarbage()
  collectgarbage()
end

--- Runs on a worker: two collections, once a round. Whoever has a turn already keeps its thread busy for a moment, so
-- that others get one. Internal.
function M.collect(_, round, keep_busy)
  local is_new = M.round ~= round
  if is_new then
    collect_here()
    M.round = round
  end
  for _ = 1, keep_busy do
    math.random()
  end
  return is_new
end

local function fresh_ones(results)
  local count = 0
  for i = 1, results.n do
    count = count + (results[i] and 1 or 0)
  end
  return count
end

local rounds = 0

-- In each state of the default pool: they hold what they were sent until they collect.
local function collect_on_workers()
  local pool = core.default_pool()
  local threads, seen = pool:stats().threads, 0
  rounds = rounds + 1
  local round = tostring(collect_here) .. rounds -- another one in each state that checks
  for turn = 1, TURNS do
    local group = core.group({ pool = pool })
    for _ = 1, threads do
      group:go(M.collect, round, turn * 1000)
    end
    seen = seen + fresh_ones(assert(group:wait()))
    group:close()
    if seen >= pool:stats().threads then
      return
    end
  end
end

-- The default pool's threads live as long as the process.
local function count()
  local counts = core.stats()
  counts.threads = counts.threads - core.default_pool():stats().threads
  return counts
end

--- A count that did not grow hides what was made while something older went: the ledger knows.
local function grown(before, mark)
  local now, list = count(), {}
  for _, kind in ipairs(COUNTED) do
    local more = (now[kind[1]] or 0) - (before[kind[1]] or 0)
    if more > 0 then
      list[#list + 1] = ("%d %s%s"):format(more, kind[2], more == 1 and "" or "s")
    end
  end
  if #list == 0 and core.ledger_list(mark) ~= "" then
    list[1] = "what is as many as before"
  end
  return list
end

local function settles(before, mark)
  for _ = 1, POLLS do
    if #grown(before, mark) == 0 then
      return true
    end
    core.sleep(PAUSE)
  end
  return false
end

-- ---- where it came from ----

local function add_objects(lines, mark)
  local counts, order = {}, {}
  for line in core.ledger_list(mark):gmatch "[^\n]+" do
    if not counts[line] then
      order[#order + 1] = line
    end
    counts[line] = (counts[line] or 0) + 1
  end
  table.sort(order)
  for _, line in ipairs(order) do
    local kind, where = line:match "^(.-)\t(.*)$"
    local times = counts[line] > 1 and counts[line] .. " times, " or ""
    lines[#lines + 1] = ("%s, %smade at %s"):format(kind, times, where)
  end
end

local function add_tasks(lines)
  for _, task in ipairs(core.tasks()) do
    if task.index then
      lines[#lines + 1] = ("task %d%s, %s%s%s"):format(
        task.index,
        task.name and " '" .. task.name .. "'" or "",
        task.started and "started at " .. task.started .. ", " or "",
        task.waits_for and "waits in " .. task.waits_for or task.state,
        task.where and " at " .. task.where or ""
      )
    end
  end
end

-- glibc's free looks into this file for a moment, on any thread, when it gives memory back to the system.
local glibc_reads = "/proc/sys/vm/overcommit_memory"

local function new_descriptors(before)
  local list = {}
  for fd, target in pairs(core.descriptors()) do
    if before[fd] ~= target and target ~= glibc_reads then
      list[#list + 1] = ("descriptor %d: %s"):format(fd, target)
    end
  end
  table.sort(list)
  return list
end

-- ---- checks ----

local Check = {}
Check.__index = Check

local was_prepared = false

local fields = {
  patience = {
    function(value)
      return type(value) == "number" and value >= 0
    end,
    "a number of seconds >= 0",
  },
}

-- What is made once a process is no leak: the I/O thread, the default pool's threads.
local function prepare()
  if not was_prepared then
    was_prepared = true
    core.background():with_timeout(1000):cancel()
    collect_on_workers()
  end
end

--- Begins a leak check. What weft makes from now on must be gone when the check is verified: tasks, groups, pools and
-- their threads, contexts, channels and all other handles, timers, transfers, descriptors.
-- @function leaks
-- @tparam[opt] table given options
-- @tparam[opt=10] number given.patience seconds that what ends by itself may take, of real time
-- @treturn check with `verify()`, which raises an error that lists what is left and where it was made, and `list()`,
--   which returns the same as a list of lines; either ends the check
-- @usage
-- before_each(function() check = testing.leaks() end)
-- after_each(function() check:verify() end)
function M.leaks(given)
  options.check("weft.testing.leaks", given or {}, fields, 2)
  prepare()
  collect_here()
  core.close_idle()
  return setmetatable({
    patience = given and given.patience or PATIENCE,
    before = count(),
    descriptors = core.descriptors(),
    mark = core.ledger_open(),
  }, Check)
end

local function check_self(self, what)
  if type(self) ~= "table" or getmetatable(self) ~= Check then
    check.fail(what, "self", "a leak check (call it with ':')", self)
  elseif not self.mark then
    error("weft.testing: this leak check is over", 3)
  end
end

-- Collects and waits until nothing is left, or the time is over; returns what has grown.
local function wait_for_end(before, mark, patience)
  collect_here()
  local deadline = os.time() + patience -- of real time, under a virtual clock too
  while #grown(before, mark) > 0 do
    collect_on_workers()
    collect_here()
    if not settles(before, mark) and os.time() >= deadline then
      break
    end
  end
  return grown(before, mark)
end

-- Descriptors that are still new when the time is over: a server of this process closes its side of a connection a little
-- after its client.
local function descriptors_left(before, patience)
  local deadline = os.time() + patience
  local list = new_descriptors(before)
  while #list > 0 and os.time() < deadline do
    core.sleep(PAUSE)
    list = new_descriptors(before)
  end
  return list
end

--- What is left, after time for what ends by itself in the background: the states of the default pool collect
-- garbage, threads of closed pools end.
-- @function check:list
-- @treturn {string,...} empty when nothing is
function Check:list()
  check_self(self, "check:list")
  local lines = wait_for_end(self.before, self.mark, self.patience)
  if #lines > 0 then
    add_objects(lines, self.mark)
    add_tasks(lines)
  end
  core.close_idle()
  for _, line in ipairs(descriptors_left(self.descriptors, self.patience)) do
    lines[#lines + 1] = line
  end
  self.mark = nil
  core.ledger_close()
  return lines
end

--- Raises unless everything is gone.
-- @function check:verify
-- @raise "leaked: …" with a line for each
function Check:verify()
  check_self(self, "check:verify")
  local lines = self:list()
  if #lines > 0 then
    error("leaked: " .. table.concat(lines, "\n  "), 2)
  end
end

--- Calls a function and raises when something that weft made in it is left.
-- @function no_leaks
-- @tparam[opt] table given options as for @{leaks}
-- @tparam function fn
-- @param ... its arguments
-- @return what fn returned
-- @raise "leaked: …", which lists what is left and where it was made; what fn raised
-- @usage
-- testing.no_leaks(function()
--   assert(weft.all{ a = fn, b = fn })
-- end)
function M.no_leaks(given, fn, ...)
  if type(given) ~= "table" then
    return M.no_leaks({}, given, fn, ...)
  end
  options.check("weft.testing.no_leaks", given, fields, 2)
  check.fn("weft.testing.no_leaks", "fn", fn)
  local this = M.leaks(given)
  local outcome = pack(pcall(fn, ...))
  if not outcome[1] then
    core.ledger_close()
    error(outcome[2], 0)
  end
  this:verify()
  return (unpack or table.unpack)(outcome, 2, outcome.n)
end

return M
