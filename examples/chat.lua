-- chat.lua: a conversation with a model, printed while it is being written.
--
-- usage: lua examples/chat.lua [QUESTION …]
--
-- Each argument is one turn; without arguments it asks two questions of its own. Talks to a bundled model
-- server that writes slowly and fails once; with OPENAI_API_KEY or ANTHROPIC_API_KEY set, to that service
-- (MODEL names the model, OPENAI_BASE_URL another server that speaks OpenAI's API).
local weft = require "weft"

local questions = #arg > 0 and arg or { "How does a loom work?", "And what is a weft?" }
local server, model

local openai_key, anthropic_key = os.getenv "OPENAI_API_KEY", os.getenv "ANTHROPIC_API_KEY"
if openai_key then
  model = weft.model.openai {
    api_key = openai_key,
    base_url = os.getenv "OPENAI_BASE_URL",
    model = os.getenv "MODEL" or "gpt-4o-mini",
  }
elseif anthropic_key then
  model = weft.model.anthropic { api_key = anthropic_key, model = os.getenv "MODEL" or "claude-3-5-haiku-latest" }
else
  server = assert(require("weft.testing").model_server {
    replies = {
      { pattern = "loom", reply = "A loom holds the warp under tension, and the weft passes over and under it." },
      { pattern = "weft", reply = "The thread that crosses the others, and makes a cloth of them." },
    },
    stream = { delay = 0.04 },
    faults = { { status = 503 } },
  })
  model = weft.model.openai { base_url = server.url, model = "mock", retry = { base = 0.05 } }
end

local messages = {}

local function ask(question)
  print("> " .. question)
  messages[#messages + 1] = { role = "user", content = question }
  local stream = assert(model:stream { system = "Answer in two sentences.", messages = messages })
  for text in stream:deltas() do
    io.write(text)
    io.flush()
  end
  local answer = assert(stream:result())
  messages[#messages + 1] = { role = "assistant", content = answer.text }
  local cost = answer.cost and (", %.6f US dollars"):format(answer.cost) or ""
  print(("\n  [%d tokens%s, %d attempt(s)]"):format(answer.usage.total_tokens, cost, answer.attempts))
end

for _, question in ipairs(questions) do
  ask(question)
end
if server then
  server:close()
end
