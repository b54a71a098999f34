--- Fails a test that leaves something of weft's alive. In a spec file:
--
--     local leaks = require "spec.support.leaks"
--     before_each(leaks.before)
--     after_each(leaks.after)
--
-- or around one function: `leaks.check(fn)`. What is compared, and what is given time to end by itself, is in
-- lua/weft/leaks.lua: new kinds of objects are added to its list.
local testing = require "weft.testing"
local weft = require "weft"

local leaks = {}

--- Calls a function and raises if something that it made is still alive.
-- @tparam function fn
leaks.check = testing.no_leaks

local check

function leaks.before()
  check = testing.leaks()
end

function leaks.after()
  local this = check
  check = nil
  this:verify()
end

-- With a collector that never rests, on the default pool's threads too.
if os.getenv "SPEC_GC" == "hostile" then
  assert(weft.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
    collectgarbage("setpause", 0)
    collectgarbage("setstepmul", 1000)
    weft.sleep(0.01)
    return true
  end, { chunk = 1 }))
end

return leaks
