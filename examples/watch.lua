-- watch.lua: a small crawler that shows what it does. It writes a trace, prints the numbers that Prometheus would get, and, when
-- you press Ctrl-\ meanwhile, what every task waits for. At last two tasks wait for each other, and the script is told.
--
-- usage: lua examples/watch.lua [FILE]     the trace; open it in https://ui.perfetto.dev
local weft = require "weft"
local testing = require "weft.testing"

local file = arg[1] or os.tmpname()
local server = assert(testing.model_server { latency = 0.05, jitter = 0.1 })
local model = weft.model.openai { base_url = server.url, model = "mock-topic" }
local limiter = weft.limiter { rate = 40, burst = 5 }

weft.dump_on_sigquit()
local trace = assert(weft.trace { file = file })

local function classify(i)
  limiter:wait()
  local answer = assert(model:chat { prompt = "text number " .. i .. " is about the new phone" })
  return weft.span("parse", function()
    return weft.json.decode(answer.text).label
  end)
end

local labels = assert(weft.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20 }, function(i)
  return classify(i)
end, { chunk = 1, limit = 8 }))
print(#labels .. " texts, the first is about " .. labels[1])

for line in weft.metrics():gmatch "[^\n]+" do
  if line:match "^weft_tasks" or line:match "^weft_http" then
    print(line)
  end
end
print("the trace is in " .. file .. (trace:stop() > 0 and ", but for events that were dropped" or ""))

local left, right = weft.channel(), weft.channel()
local ok, err = pcall(weft.scope, function(group)
  group:go("left", function()
    left:send(right:recv())
  end)
  group:go("right", function()
    right:send(left:recv())
  end)
end)
assert(not ok)
print(err)
server:close()
