--- Errors of tasks that nobody will get: what is told of groups that were dropped.
-- @module weft.unseen
local core = require "weft.core"
local check = require "weft.check"

local M = {}

local function plural(count, noun)
  return ("%d %s%s"):format(count, noun, count == 1 and "" or "s")
end

local function message_of(made, running, errors)
  local group = made and " of the group made at " .. made or ""
  if #errors == 0 then
    return ("%s%s still ran when it was dropped: cancelled; wait for a group, or close it, or use weft.scope"):format(
      plural(running, "task"),
      group
    )
  end
  local others = #errors > 1 and (" (the first of %d)"):format(#errors) or ""
  return ("nobody has seen an error%s%s: %s"):format(group, others, tostring(errors[1]))
end

local function print_it(report)
  io.stderr:write("weft: ", tostring(report), "\n")
end

local handler

--- Reports what was lost. Never raises. Internal.
-- @tparam ?string made file:line where the group was made
-- @tparam integer running tasks
-- @tparam {error,...} errors
function M.report(made, running, errors)
  local report = core.new_error {
    kind = #errors > 0 and "unseen" or "dropped",
    message = message_of(made, running, errors),
    made = made,
    running = running,
    errors = errors,
    cause = errors[1],
  }
  if not handler then
    return print_it(report)
  end
  local ok, raised = pcall(handler, report)
  if not ok then
    print_it(report)
    print_it("the handler of weft.on_unseen has raised: " .. tostring(raised))
  end
end

--- Tells what to do with errors that nobody will get: those of a group that the collector finds, and that was neither
-- waited for nor closed, and those of functions given to @{context:after}. Without a handler a line goes to the standard
-- error. It is set for the calling state: for the threads of a pool in its `init`.
-- @tparam ?function fn called with an error of kind "unseen", with the tasks' own in `errors`; or "dropped", when no
--   task had failed, but some still ran, and are cancelled. `made`: file:line that made the group; `running`: how many
--   tasks still ran. It is called by the collector, so it must not block; when it raises, the line is printed after all.
--   nil: the standard error again
-- @treturn ?function what was set before
-- @raise bad argument
-- @usage
-- local lost = weft.channel(100, "drop_old") -- for a task that writes a log
-- weft.on_unseen(function(err)
--   lost:try_send(tostring(err))
-- end)
function M.on_unseen(fn)
  if fn ~= nil then
    check.fn("weft.on_unseen", "fn", fn)
  end
  local before = handler
  handler = fn
  return before
end

return M
