-- The same with lua-http: one coroutine for each call in flight, over connections that it keeps by itself.
--
-- usage: lua luahttp.lua calls|cold URL IN_FLIGHT CALLS
local client = require "http.client"
local cqueues = require "cqueues"
local headers = require "http.headers"

local mode, url, in_flight, calls = arg[1], arg[2], tonumber(arg[3]), tonumber(arg[4])
local host, port, path = url:match "^http://([^:/]+):(%d+)(/.*)$"
local connections = {}

local function call(connection)
  local stream = assert(connection:new_stream())
  local h = headers.new()
  h:append(":method", "GET")
  h:append(":authority", host .. ":" .. port)
  h:append(":path", path)
  h:append(":scheme", "http")
  assert(stream:write_headers(h, true))
  assert(stream:get_headers())
  assert(stream:get_body_as_string())
end

local function run(count)
  local queue, left = cqueues.new(), count
  for i = 1, math.min(in_flight, count) do
    queue:wrap(function()
      connections[i] = connections[i] or assert(client.connect { host = host, port = tonumber(port), tls = false })
      while left > 0 do
        left = left - 1
        call(connections[i])
      end
    end)
  end
  assert(queue:loop())
end

if mode == "calls" then
  run(in_flight * 2)
end
local cpu, wall = os.clock(), cqueues.monotime()
run(calls)
print(("cpu\t%.2f\nwall\t%.3f"):format((os.clock() - cpu) / calls * 1e6, cqueues.monotime() - wall))
