-- A model server to play with: answers like OpenAI, Anthropic and Ollama, with latency and faults.
--
-- usage: lua examples/model_server.lua --port N [--latency s] [--jitter s] [--delay s] [--chunks n]
--          [--fault-rate r] [--seed n] [--requests n] [--reply text] [--key key]
--
-- --delay is the time between two parts of a stream, --chunks how many parts it has; --requests is how many of them
-- a minute it allows. It runs until Ctrl-C or SIGTERM. Ask it for instance:
--   curl http://127.0.0.1:8080/v1/chat/completions \
--     -d '{"model":"mock-sentiment","messages":[{"role":"user","content":"I love it"}]}'

local testing = require "weft.testing"

local usage = "usage: lua examples/model_server.lua --port N [--latency s] [--jitter s] [--delay s] [--chunks n]"
  .. " [--fault-rate r] [--seed n] [--requests n] [--reply text] [--key key]"

-- The option that each argument sets: its name, maybe the table that holds it, and whether it is a text.
local names = {
  ["--port"] = { "port" },
  ["--latency"] = { "latency" },
  ["--jitter"] = { "jitter" },
  ["--delay"] = { "delay", within = "stream" },
  ["--chunks"] = { "chunks", within = "stream" },
  ["--fault-rate"] = { "fault_rate" },
  ["--seed"] = { "seed" },
  ["--requests"] = { "requests", within = "rate_limits" },
  ["--reply"] = { "reply", text = true },
  ["--key"] = { "api_key", text = true },
}

local function fail(message)
  io.stderr:write(message, "\n", usage, "\n")
  os.exit(2)
end

local function parse(args)
  local options = {}
  for i = 1, #args, 2 do
    local name = names[args[i]] or fail("unknown argument: " .. args[i])
    local value = args[i + 1]
    if not name.text then
      value = tonumber(value)
    end
    local target = options
    if name.within then
      options[name.within] = options[name.within] or {}
      target = options[name.within]
    end
    target[name[1]] = value or fail(args[i] .. (name.text and " needs a text" or " needs a number"))
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
