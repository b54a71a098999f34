-- A server that answers late, in a process of its own. Prints its port, and runs until it is killed.
--
-- usage: lua server.lua SECONDS
local server = assert(require("weft.testing").model_server { latency = tonumber(arg[1]), record = 0 })
print(server.port)
io.stdout:flush()
require("weft").sleep(math.huge)
