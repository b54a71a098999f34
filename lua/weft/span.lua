--- Spans in traces.
-- @module weft.span
local core = require "weft.core"
local check = require "weft.check"

local M = {}

local function finish(name, ok, ...)
  core.span_end(name)
  if not ok then
    error((...), 0)
  end
  return ...
end

--- Calls a function and, while a trace runs (weft.trace), shows its time in the trace, on the line of the
-- task that calls. Without a trace it only calls.
-- @tparam string name shown in the trace; no secrets
-- @tparam function fn it may block
-- @param ... its arguments
-- @return what fn returned
-- @raise what fn raised; bad argument
function M.span(name, fn, ...)
  if type(name) ~= "string" then
    check.fail("weft.span", "name", "a string", name)
  end
  check.fn("weft.span", "fn", fn)
  if not core.span_begin(name) then
    return fn(...)
  end
  return finish(name, pcall(fn, ...))
end

return M
