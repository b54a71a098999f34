--- Looking into errors.
-- @module weft.error
local core = require "weft.core"

local M = {}

--- Whether an error is of a kind, or was caused by one, or joins one.
-- Looks through `cause` and `errors`, as Go's errors.Is does.
-- @param err any value
-- @tparam string kind such as "canceled", "deadline", "timeout", "rate_limit"
-- @treturn boolean false for what is no error of weft
function M.is(err, kind)
  if type(kind) ~= "string" then
    error(("bad argument 'kind' to weft.is: expected a string, got %s"):format(type(kind)), 2)
  end
  local seen = {}
  local function look(e)
    if type(e) ~= "table" or seen[e] then
      return false
    end
    seen[e] = true
    if core.is_error(e) and rawget(e, "kind") == kind then
      return true
    end
    if look(rawget(e, "cause")) then
      return true
    end
    for _, joined in ipairs(rawget(e, "errors") or {}) do
      if look(joined) then
        return true
      end
    end
    return false
  end
  return look(err)
end

return M
