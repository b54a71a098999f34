--- What a call returned or raised, for specs that look at all of it.
local assert = require "luassert"

local calls = {}

--- All values of a list, the nils too.
-- @treturn table the values, and `n`
function calls.pack(...)
  return { n = select("#", ...), ... }
end

--- What the call raises; a call that raises nothing fails the test.
function calls.raised(fn, ...)
  local ok, raised = pcall(fn, ...)
  assert.is_false(ok)
  return raised
end

--- The same, as text.
-- @treturn string
function calls.message_of(fn, ...)
  return tostring(calls.raised(fn, ...))
end

--- Fails the test unless the call raises something whose text has that pattern.
-- @tparam string pattern
-- @return what was raised
function calls.rejects(pattern, fn, ...)
  local raised = calls.raised(fn, ...)
  assert.matches(pattern, tostring(raised))
  return raised
end

return calls
