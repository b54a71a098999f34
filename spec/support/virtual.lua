--- Specs on the virtual clock: what they wait for takes no time, and comes at the very moment that it should.
local assert = require "luassert"
local testing = require "weft.testing"

local virtual = {}

--- A test that runs under a virtual clock: `it("…", virtually(function(clock) … end))`.
-- @tparam function fn called with the clock
-- @tparam[opt] table options of the clock
-- @treturn function
function virtual.virtually(fn, options)
  return function()
    return testing.virtual_clock(options, fn)
  end
end

--- Fails unless both are the same number of seconds, but for what rounding does.
function virtual.near(expected, got)
  assert.is_true(math.abs(expected - got) < 1e-6, ("%.9f is not %.9f"):format(got, expected))
end

return virtual
