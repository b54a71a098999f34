--- The virtual clock, for tests.
-- @module weft.testing
local core = require "weft.core"
local options = require "weft.options"

local M = {}

local fields = {
  seed = {
    function(value)
      return type(value) == "number" and value >= 1 and value <= 2 ^ 53 and value % 1 == 0
    end,
    "a whole number from 1 to 2^53",
  },
}

local function finish(clock, ok, ...)
  clock:close()
  if not ok then
    error((...), 0)
  end
  return ...
end

--- Makes time virtual for the whole process: it stands still while anything runs, and when every task and
-- script waits, it jumps to whatever is due next. What is due fires one at a time, in the order of
-- deadlines and, at the same instant, of their starts, and what follows from it comes to rest before the
-- next. So a test that sleeps for minutes takes milliseconds, and takes the same course each time.
--
-- @{now}, @{sleep}, deadlines, limiters, tickers: all of weft's time follows it. Transfers do not: while one
-- is under way time stands, and their own timeouts are of real time. A thread that is busy in C holds
-- the clock, too. `os.time` and `os.clock` know nothing of it.
--
-- There is one clock a process. It ends with `clock:close()`, with `<close>` on Lua 5.4, or when it is
-- collected; time goes on from where it stands then.
-- @function virtual_clock
-- @tparam[opt] table given options
-- @tparam[opt] integer given.seed decides the order of what is due at the same instant, and the chance in
--   @{select} and in retries; without it the order is that of the starts
-- @tparam[opt] function fn called with the clock, which is closed afterwards, whatever happens
-- @treturn virtual_clock with `advance(seconds)`, `now()`, `elapsed()`, `close()`; or what fn returned
-- @raise when there is a virtual clock already; bad argument or unknown option; what fn raised
-- @usage
-- local clock = testing.virtual_clock{ seed = 7 }
-- weft.sleep(3600)
-- clock:close()
function M.virtual_clock(given, fn)
  if type(given) == "function" then
    given, fn = nil, given
  end
  options.check("weft.testing.virtual_clock", given or {}, fields, 2)
  if fn ~= nil and type(fn) ~= "function" then
    options.refuse("weft.testing.virtual_clock", "fn", "a function", fn, 2)
  end
  local clock = core.virtual_clock(given and given.seed)
  if not fn then
    return clock
  end
  return finish(clock, pcall(fn, clock))
end

return M
