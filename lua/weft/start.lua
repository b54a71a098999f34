--- Tasks that say when they are ready, and tasks that are started again.
-- @module weft.start
local core = require "weft.core"
local check = require "weft.check"
local options = require "weft.options"

local M = {}

local function pack(...)
  return { n = select("#", ...), ... }
end

local function unpacked(values)
  return (unpack or table.unpack)(values, 1, values.n)
end

-- ---- tasks that say when they are ready ----

-- What the task's function gets as `started`. The channel is closed when the task ends, however it ends.
local function reporter(ready)
  return function(...)
    if not ready:try_send(pack(...)) then
      error("started was called before", 2)
    end
  end
end

local function not_started(task)
  local _, err = task:wait()
  return nil, err or core.new_error {
    kind = "not_started",
    message = "group:start: the task ended without saying that it is ready",
  }
end

--- Starts a task and waits until it says that it is ready (trio: nursery.start): for servers that first have to open
-- something.
-- @function group:start
-- @tparam[opt] string name
-- @tparam function fn called as fn(ctx, started, ...); it calls started(...), once, and goes on
-- @param ... its arguments
-- @treturn[1] task
-- @return[1] what was given to started
-- @treturn[2] nil
-- @treturn[2] error the task's own when it failed before, which fails the group as always; of kind "not_started" when
--   it ended; as @{group:go} when it could not be started
-- @raise bad argument; what cannot be sent; when the caller's context is done: then the task is cancelled
function M.start(group, name, fn, ...)
  if type(group) ~= "table" or group._go_notifying == nil then
    check.fail("group:start", "self", "a group (call it with ':')", group)
  end
  local ready = core.channel(1)
  local task, err
  if type(name) == "string" then
    check.fn("group:start", "fn", fn)
    task, err = group:_go_notifying(ready, name, fn, reporter(ready), ...)
  else
    check.fn("group:start", "fn or name", name)
    task, err = group:_go_notifying(ready, name, reporter(ready), fn, ...)
  end
  if not task then
    return nil, err
  end
  local ok, values, has_started = pcall(ready.recv, ready)
  if not ok then
    task:cancel(values)
    error(values, 0)
  elseif not has_started then
    return not_started(task)
  end
  return task, unpacked(values)
end

-- ---- tasks that are started again ----

local MOST_DOUBLINGS = 64 -- of the wait before a restart

local fields = {
  on_restart = options.func,
  restart = {
    function(value)
      return value == "failure" or value == "always"
    end,
    "'failure' or 'always'",
  },
  max = {
    function(value)
      return type(value) == "number" and value >= 0 and (value == math.huge or value == math.floor(value))
    end,
    "a whole number >= 0, or math.huge",
  },
  within = options.seconds,
  base = options.seconds,
  cap = options.seconds,
}

local function with_traceback(raised)
  if core.is_error(raised) then
    raised.traceback = raised.traceback or debug.traceback("", 2)
    return raised
  end
  return core.new_error {
    kind = "error",
    message = type(raised) == "string" and raised or tostring(raised),
    value = type(raised) ~= "string" and raised or nil,
    traceback = debug.traceback("", 2),
  }
end

-- Runs fn once: whether it succeeded, and its results or the error.
local function run_once(fn, ...)
  local outcome = pack(xpcall(fn, with_traceback, ...))
  if not outcome[1] then
    return false, outcome[2]
  elseif outcome[2] == nil and outcome[3] ~= nil then
    return false, outcome[3]
  end
  return true, outcome
end

-- Forgets restarts that are older than the time that counts, and those that no limit asks for; how many are left.
local function recent(restarts, within, max)
  local now = core.now()
  while
    restarts.first <= restarts.last
    and (now - restarts[restarts.first] >= within or max == math.huge and restarts.last - restarts.first >= MOST_DOUBLINGS)
  do
    restarts[restarts.first] = nil
    restarts.first = restarts.first + 1
  end
  return restarts.last - restarts.first + 1
end

local function add(restarts)
  restarts.last = restarts.last + 1
  restarts[restarts.last] = core.now()
end

local function give_up(failure, opts)
  return core.new_error {
    kind = core.is_error(failure) and failure.kind or "error",
    message = ("given up after %d restarts: %s"):format(opts.max, tostring(failure)),
    where = opts.where,
    cause = failure,
  }
end

local function supervised(fn, opts, ctx, ...)
  local restarts = { first = 1, last = 0 }
  while true do
    local ok, outcome = run_once(fn, ctx, ...)
    core.current():check() -- a task that is cancelled is not started again
    if ok and opts.restart == "failure" then
      return (unpack or table.unpack)(outcome, 2, outcome.n)
    end
    local count = recent(restarts, opts.within, opts.max)
    if count >= opts.max then
      if ok then
        outcome = core.new_error { kind = "error", message = "the function returned" }
      end
      return nil, give_up(outcome, opts)
    end
    if opts.on_restart then
      opts.on_restart(not ok and outcome or nil, count + 1)
    end
    core.sleep(math.min(opts.base * 2 ^ count, opts.cap))
    add(restarts)
  end
end

--- Makes a function that starts another one again when it fails: for tasks that shall stay. What it returns is for
-- @{group:go}: the task fails only when its supervisor gives up.
--
--     group:go("consumer", weft.supervise(consume, { max = 5, within = 60 }))
--
-- The wait before a restart is `base` seconds and doubles with each restart that still counts, up to `cap`.
-- Cancellation is no failure: it ends the task at once.
-- @tparam function fn called with what the task is given, each time
-- @tparam[opt] table opts `restart`: "failure" (default) or "always", which also starts again what returned; `max`
--   restarts (default 3; math.huge for no limit) `within` so many seconds (default 60); `base` (default 0.1) and `cap`
--   (default 10) seconds of waiting; `on_restart`: called before each wait as on_restart(err, how_many) with the failure,
--   nil when the function returned, and which restart that is of those that still count
-- @treturn function returns what fn returned; or nil and an error whose cause is the last failure, once it has given
--   up
-- @raise bad argument
function M.supervise(fn, opts)
  check.fn("weft.supervise", "fn", fn)
  opts = opts == nil and {} or opts
  options.check("weft.supervise", opts, fields, 2)
  local info = debug.getinfo(fn, "S")
  local settings = {
    where = info.linedefined > 0 and ("%s:%d"):format(info.short_src, info.linedefined) or nil, -- of what fails
    restart = opts.restart or "failure",
    max = opts.max or 3,
    within = opts.within or 60,
    base = opts.base or 0.1,
    cap = opts.cap or 10,
    on_restart = opts.on_restart,
  }
  return function(...)
    return supervised(fn, settings, ...)
  end
end

return M
