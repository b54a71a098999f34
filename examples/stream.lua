-- stream.lua: asks a model and prints the answer while it is being written, then what it cost.
--
-- usage: lua examples/stream.lua [QUESTION]
--
-- Reads the server-sent events of an API in the shape of OpenAI's by weft.http alone; weft.model does this
-- and more (see examples/triage.lua for models). Talks to a bundled model server that writes slowly; with
-- OPENAI_BASE_URL and OPENAI_API_KEY set, to that service (model: OPENAI_MODEL, default gpt-4o-mini).
-- Ctrl-C ends the stream, and says what had come.
local weft = require "weft"

local question = table.concat(arg, " ")
if question == "" then
  question = "How does a loom work?"
end

local REPLY = "A loom holds the warp under tension; the weft passes over and under it, thread by thread, "
  .. "until the many have become one cloth."

local base_url, server = os.getenv "OPENAI_BASE_URL", nil
if not base_url then
  server = assert(require("weft.testing").model_server { reply = REPLY, latency = 0.2, stream = { delay = 0.05 } })
  base_url = server.url
end

local function open()
  return weft.http.post(base_url .. "/chat/completions", {
    stream = true,
    headers = { Authorization = "Bearer " .. (os.getenv "OPENAI_API_KEY" or "none") },
    json = {
      model = os.getenv "OPENAI_MODEL" or "gpt-4o-mini",
      stream = true,
      stream_options = { include_usage = true },
      messages = { { role = "user", content = question } },
    },
    timeout = { first_byte = 60, idle = 30 },
  })
end

-- In a task, so that Ctrl-C can cancel it: returns the usage.
local function answer()
  local res, err = open()
  if not res then
    return nil, err
  elseif res.status ~= 200 then
    return nil, ("status %d: %s"):format(res.status, res:body() or "no body")
  end
  local usage, is_complete
  for event in res:events() do
    is_complete = event.data == "[DONE]"
    if not is_complete then
      local chunk = assert(weft.json.decode(event.data))
      local choice = chunk.choices and chunk.choices[1]
      io.write(choice and choice.delta.content or "")
      io.flush()
      usage = type(chunk.usage) == "table" and chunk.usage or usage
    end
  end
  print()
  if not is_complete then
    return nil, "the answer was cut short" -- the server just closed the connection
  end
  return usage or {}
end

local ctx = weft.signal_context("INT", "TERM")
local group = weft.group(ctx, { pool = weft.inline })
local task = group:go("answer", answer)
local usage, err = task:wait()
group:close()
if server then
  server:close()
end
if not usage then
  io.stderr:write("\n", tostring(err), "\n")
  os.exit(1)
end
print(("tokens: %s in, %s out"):format(usage.prompt_tokens or "?", usage.completion_tokens or "?"))
