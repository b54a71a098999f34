--- Calls a function when a value is collected, on both VMs. Internal.
local finalizer = {}

--- A value whose collection calls fn, which must not block. What was made before it and goes at the same time is still
-- whole then: finalizers run in the reverse order. An error of fn's is ignored.
-- @tparam function fn
function finalizer.new(fn)
  local function run()
    pcall(fn)
  end
  if newproxy then
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = run
    return proxy
  end
  return setmetatable({}, { __gc = run })
end

return finalizer
