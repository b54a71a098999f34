--- Calls a function when a value is collected, on both VMs. Internal.
local finalizer = {}

--- A value whose collection calls fn, which must not block.
-- @tparam function fn
function finalizer.new(fn)
  if newproxy then
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = fn
    return proxy
  end
  return setmetatable({}, { __gc = fn })
end

return finalizer
