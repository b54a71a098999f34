-- A crowd of clients in a process of its own: `lua crowd.lua PORT COUNT REQUEST-FILE`. Opens that many
-- connections, sends the request on each, takes one line of each answer, and holds them until its input ends.

local socket = require "socket"

local port, count = tonumber(arg[1]), tonumber(arg[2])
local file = assert(io.open(arg[3], "rb"))
local request = file:read("*a")
file:close()

local crowd = {}
for i = 1, count do
  crowd[i] = assert(socket.connect("127.0.0.1", port))
  assert(crowd[i]:send(request))
end
for i = 1, count do
  assert(crowd[i]:receive("*l"))
end
io.read("*a")
