-- A class for ship_values_spec: it registers its metatable under its own name.
local weft = require "weft"

local shape = {}

local class = { __index = {} }
weft.register("spec.support.shape", class)

function class.__index:area()
  return self.side * self.side
end

function shape.square(side)
  return setmetatable({ side = side }, class)
end

return shape
