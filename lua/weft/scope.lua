--- Scopes: a group that ends with a function; clean-up that survives cancellation.
-- @module weft.scope
local core = require "weft.core"
local check = require "weft.check"

local M = {}

local function pack(...)
  return { n = select("#", ...), ... }
end

local function is_echo(err)
  return core.is_error(err) and (err.kind == "canceled" or err.kind == "deadline")
end

-- Whether an error is another one, or was caused by it.
local function comes_from(err, other)
  while err ~= nil do
    if err == other then
      return true
    end
    err = core.is_error(err) and err.cause or nil
  end
  return false
end

-- What tasks of the group failed with by themselves, whether somebody has seen it or not.
local function failures_of(group)
  local failures = {}
  for i = 1, group:stats().started do
    local err = group:error_of(i)
    if err ~= nil and not is_echo(err) then
      failures[#failures + 1] = err
    end
  end
  return failures
end

local function but_for(failures, raised)
  local others = {}
  for _, err in ipairs(failures) do
    if not comes_from(raised, err) then
      others[#others + 1] = err
    end
  end
  return others
end

local function join(failures)
  if #failures == 1 then
    return failures[1]
  end
  return core.new_error {
    kind = "joined",
    message = ("%s (and %d more failed; the first of them: %s)"):format(
      tostring(failures[1]),
      #failures - 1,
      tostring(failures[2])
    ),
    errors = failures,
  }
end

-- The error in flight together with those of tasks. One that comes from a task's is raised as it is; the echo of the
-- group's own cancellation gives way to what caused it.
local function error_of(failures, raised)
  if raised == nil then
    return join(failures)
  end
  failures = but_for(failures, raised)
  if #failures == 0 then
    return raised
  elseif not is_echo(raised) or core.current():err() ~= nil then
    table.insert(failures, 1, raised)
  end
  return join(failures)
end

--- Leaves the group: cancels what still runs, and waits for it. Also what `<close>` does on Lua 5.4. The error of a task that
-- failed and that nobody has seen, from wait or of that task alone, is raised then, so that none is lost.
-- @function group:close
-- @param[opt] raised the error with which the code that used the group has ended, as `<close>` gives it; when tasks
--   have failed unseen as well, one of kind "joined" is raised, with `errors`, this one first
-- @raise see above
function M.close(group, raised)
  if type(group) ~= "table" or group._leave == nil then
    check.fail("group:close", "self", "a group (call it with ':')", group)
  end
  group:_leave()
  local failures = group:_unseen()
  local failure = failures and error_of(failures, raised)
  if failure and not rawequal(failure, raised) then
    error(failure, 0)
  end
end

--- Runs a function with a group, waits for its tasks, and leaves the group whatever happens. The way
-- to write groups on LuaJIT, which has no `<close>`.
-- @tparam[opt] context ctx
-- @tparam[opt] table opts as for weft.group
-- @tparam function fn called with the group
-- @return what group:wait returns: results, or nil and the first error
-- @raise what fn raised, once the tasks have been cancelled and have ended; when tasks had failed by themselves as well,
--   an error of kind "joined" with `errors`, fn's first; when no task failed, the error of the caller's context if that
--   is done
function M.scope(ctx, opts, fn)
  if type(ctx) == "function" then
    ctx, opts, fn = nil, nil, ctx
  elseif fn == nil then
    fn = opts
    opts = nil
    if type(ctx) == "table" then
      ctx, opts = nil, ctx
    end
  end
  check.context("weft.scope", ctx)
  check.fn("weft.scope", "fn", fn)
  local group = core.group(ctx, opts)
  local ok, raised = pcall(fn, group)
  if not ok then
    group:cancel(raised)
    group:_leave()
    error(error_of(failures_of(group), raised), 0)
  end
  local outcome = pack(pcall(group.wait, group))
  group:_leave()
  if not outcome[1] then
    error(error_of(failures_of(group), outcome[2]), 0)
  end
  local err = outcome[3]
  if err == nil or err.kind == "canceled" or err.kind == "deadline" then
    core.current():check() -- the tasks may have ended before the caller's cancellation reached it
  end
  return (unpack or table.unpack)(outcome, 2, outcome.n)
end

--- Runs a function to its end although the caller's context is cancelled: for clean-up.
-- @tparam number seconds how long it may take
-- @tparam function fn runs in the calling state; captured variables are shared
-- @param ... its arguments
-- @return what fn returned
-- @raise what fn raised, or an error of kind "deadline" after the time
function M.shield(seconds, fn, ...)
  if type(seconds) ~= "number" or not (seconds >= 0) then
    check.fail("weft.shield", "seconds", "a number of seconds >= 0", seconds)
  end
  check.fn("weft.shield", "fn", fn)
  local ctx = core.current():without_cancel():with_timeout(seconds)
  if core.host then
    return core.host.run_under(ctx, fn, ...)
  end
  local group = core.group(ctx, { pool = "inline" }):_hush()
  local args = pack(...)
  local outcome
  local task, refused = group:go(function()
    outcome = pack(fn((unpack or table.unpack)(args, 1, args.n)))
  end)
  group:join()
  ctx:cancel()
  if outcome then
    return (unpack or table.unpack)(outcome, 1, outcome.n)
  end
  error(task and group:error_of(task) or refused, 0)
end

return M
