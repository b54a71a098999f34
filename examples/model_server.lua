-- A model server to play with: answers like OpenAI's chat completions, with latency and faults.
--
-- usage: lua examples/model_server.lua --port N
--          [--latency s] [--jitter s] [--fault-rate r] [--seed n]
--
-- It runs until Ctrl-C or SIGTERM. Ask it for instance:
--   curl http://127.0.0.1:8080/v1/chat/completions \
--     -d '{"model":"mock-sentiment","messages":[{"role":"user","content":"I love it"}]}'

local testing = require "weft.testing"

local usage = "usage: lua examples/model_server.lua --port N [--latency s] [--jitter s]"
  .. " [--fault-rate r] [--seed n]"

local names = {
  ["--port"] = "port",
  ["--latency"] = "latency",
  ["--jitter"] = "jitter",
  ["--fault-rate"] = "fault_rate",
  ["--seed"] = "seed",
}

local function fail(message)
  io.stderr:write(message, "\n", usage, "\n")
  os.exit(2)
end

local function parse(args)
  local options = {}
  for i = 1, #args, 2 do
    local name = names[args[i]] or fail("unknown argument: " .. args[i])
    options[name] = tonumber(args[i + 1]) or fail(args[i] .. " needs a number")
  end
  return options.port and options or fail("--port is missing")
end

local ok, server, err = pcall(testing.model_server, parse(arg))
if not ok then
  fail(server)
elseif not server then
  io.stderr:write(err, "\n")
  os.exit(1)
end

print("listening on " .. server.url)
io.stdout:flush()
local _, number = server:join()
server:close()
os.exit(128 + number)
