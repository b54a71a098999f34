-- The same with copas and luasocket's HTTP module: it opens a connection for each call.
--
-- usage: lua copas.lua calls|cold URL IN_FLIGHT CALLS
local copas = require "copas"
local http = require "copas.http"
local socket = require "socket"

local url, in_flight, calls = arg[2], tonumber(arg[3]), tonumber(arg[4])
local left = calls
local cpu, wall = os.clock(), socket.gettime()
for _ = 1, math.min(in_flight, calls) do
  copas.addthread(function()
    while left > 0 do
      left = left - 1
      assert(http.request(url))
    end
  end)
end
copas.loop()
print(("cpu\t%.2f\nwall\t%.3f"):format((os.clock() - cpu) / calls * 1e6, socket.gettime() - wall))
