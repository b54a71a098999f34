-- HTTP calls by tasks of one Lua state. Prints "cpu<TAB>microseconds a call" and "wall<TAB>seconds".
--
-- usage: lua weft.lua calls|cold URL IN_FLIGHT CALLS [CA_FILE [h1]]
local weft = require "weft"

local mode, url, in_flight, calls = arg[1], arg[2], tonumber(arg[3]), tonumber(arg[4])
local ca_file = arg[5] ~= "" and arg[5] or nil
local body, headers
if url:find("/chat/", 1, true) then
  body = ('{"model":"m","messages":[{"role":"user","content":"%s"}]}'):format(("x"):rep(mode == "calls" and 966 or 1))
  headers = { Authorization = "Bearer sk-0123456789abcdef0123456789abcdef", ["Content-Type"] = "application/json" }
end
local client = weft.http.client { ca_file = ca_file, http2 = arg[6] ~= "h1", headers = headers }

local function run(count)
  local left = count
  local group = weft.group(nil, { pool = weft.inline })
  for _ = 1, math.min(in_flight, count) do
    group:go(function()
      while left > 0 do
        left = left - 1
        assert(client:request { url = url, body = body })
      end
    end)
  end
  assert(group:wait())
end

if mode == "calls" then
  run(in_flight * 2)
end
local cpu, wall = os.clock(), weft.now()
run(calls)
print(("cpu\t%.2f\nwall\t%.3f"):format((os.clock() - cpu) / calls * 1e6, weft.now() - wall))
