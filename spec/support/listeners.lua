--- Listening sockets of this script's, for answers that no server would give: `listeners.stop()` closes them.
local socket = require "socket"

local listeners = {}

local PATIENCE = 20

local opened = {}

--- Opens one; it waits for clients for 20 seconds at most.
-- @return LuaSocket's server
-- @treturn string its URL, without a path
function listeners.open()
  local listener = assert(socket.bind("127.0.0.1", 0))
  listener:settimeout(PATIENCE)
  opened[#opened + 1] = listener
  local _, port = listener:getsockname()
  return listener, "http://127.0.0.1:" .. port
end

--- Reads a request's head.
-- @param client LuaSocket's
-- @treturn ?table its lines; nil when the connection was closed
function listeners.read_head(client)
  local head = {}
  for line in function() return client:receive("*l") end do
    if line == "" then
      return head
    end
    head[#head + 1] = line
  end
end

--- For after_each: closes what was opened.
function listeners.stop()
  for i = #opened, 1, -1 do
    opened[i]:close()
    opened[i] = nil
  end
end

return listeners
