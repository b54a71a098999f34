--- Functions that run when a context is done.
-- @module weft.after
local core = require "weft.core"
local check = require "weft.check"
local finalizer = require "weft.finalizer"
local unseen = require "weft.unseen"

local M = {}

local FEW = 16
local pending = {} -- group -> true: what waits is kept until it has run or was stopped
local added, most = 0, FEW -- since the last look; and how many it takes for the next, so that looking costs O(1) each

-- Waits for what still runs; an error of the function has nobody else to go to.
local function leave(group)
  group:_leave()
  local errors = group:_unseen()
  if errors then
    unseen.report(nil, 0, errors)
  end
end

-- They are left after the walk: a report runs code of the user's, which may add to what is walked.
local function drop_finished()
  local finished, left = {}, 0
  for group in pairs(pending) do
    if group:stats().running == 0 then
      pending[group] = nil
      finished[#finished + 1] = group
    else
      left = left + 1
    end
  end
  added, most = 0, math.max(FEW, left)
  for _, group in ipairs(finished) do
    leave(group)
  end
end

-- Looks after each collection, while something is pending.
local is_watching = false
local function watch()
  if is_watching or next(pending) == nil then
    return
  end
  is_watching = true
  finalizer.new(function()
    is_watching = false
    drop_finished()
    watch()
  end)
end

--- Runs fn in a task of its own once the context is done (Go: context.AfterFunc).
-- @function context:after
-- @tparam function fn called without arguments, at most once, on a thread of the default pool; what it
--   captures is copied now
-- @treturn function stop(): true when it kept fn from running
-- @raise bad argument; what cannot be sent
function M.after(ctx, fn)
  if not core.is_context(ctx) then
    check.fail("context:after", "self", "a weft context (call it with ':')", ctx)
  end
  check.fn("context:after", "fn", fn)
  added = added + 1
  if added > most then
    drop_finished()
  end
  local started = core.channel(1)
  local group = core.group(core.background())
  group:go("context:after", function()
    ctx:wait()
    if started:try_send(true) then
      fn()
    end
  end)
  pending[group] = true
  watch()
  return function()
    local stopped = started:try_send(true) -- whoever fills the channel first has decided
    pending[group] = nil
    leave(group)
    return stopped
  end
end

return M
