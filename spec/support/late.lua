-- A module that ship_spec loads late.
local late = {}

local calls = 0

function late.count()
  calls = calls + 1
  return calls
end

return late
