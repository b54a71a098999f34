--- A server that sends exactly the bytes that a spec says, when it says so: in a thread of its own.
--
--     local server = raw.start(function(connection, request, orders) … end)
--     http.get(server.url)
--     server.orders:send("go on")
--     server:close()
--
-- The function is called for each connection, one after the other, with the LuaSocket client, the
-- head of its request as text, and a channel from the spec. It runs in a task, so it cannot share
-- variables with the spec. What it returns is sent to `server.results`.
local weft = require "weft"

local raw = {}

local PATIENCE = 20

local running = {} -- in the order of their starts

-- In a task: tells the port, and ends once `stop` holds a word.
local function serve(_, handler, tell, stop, orders, results)
  local socket = require "socket"
  local listener = assert(socket.bind("127.0.0.1", 0, 1024))
  local _, port = listener:getsockname()
  tell:send(port)
  listener:settimeout(0.02)
  while #stop == 0 do
    local client = listener:accept()
    if client then
      client:settimeout(PATIENCE)
      client:setoption("tcp-nodelay", true)
      local lines = {}
      repeat
        local line = client:receive "*l"
        lines[#lines + 1] = line
      until not line or line == ""
      local ok, result = pcall(handler, client, table.concat(lines, "\n"), orders)
      client:close()
      results:try_send(ok and (result == nil and "done" or result) or "failed: " .. tostring(result))
    end
  end
  listener:close()
end

--- Starts one.
-- @tparam function handler
-- @treturn table `url`, `orders`, `results`, and `close()`
function raw.start(handler)
  local tell, stop, orders, results = weft.channel(), weft.channel(1), weft.channel(64), weft.channel(64)
  local pool = weft.pool { threads = 1, name = "raw" }
  local group = weft.group { pool = pool }
  group:go("raw server", serve, handler, tell, stop, orders, results)
  local port = tell:recv()
  local server = { url = ("http://127.0.0.1:%d/path?query=secret"):format(port), orders = orders, results = results }
  running[#running + 1] = server
  function server.close()
    for i = #running, 1, -1 do
      if running[i] == server then
        table.remove(running, i)
      end
    end
    stop:send "now"
    local _, err = group:wait()
    group:close()
    pool:close()
    assert(not err, tostring(err))
  end
  return server
end

--- Closes those that were not closed, the latest first. For `after_each`.
function raw.stop()
  while running[1] do
    running[#running].close()
  end
end

return raw
