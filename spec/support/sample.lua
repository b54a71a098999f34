-- A module for ship_spec: its functions cross by name, so its state is the worker's own.
local sample = { answer = 42 }

local calls = 0

function sample.count()
  calls = calls + 1
  return calls
end

function sample.double(_, n)
  return 2 * n
end

-- One value each state makes for itself: the same table there is the same module.
sample.identity = {}

function sample.is_same(other)
  return rawequal(other, sample)
end

return setmetatable(sample, { __call = function() end }) -- a metatable that is not registered
