-- batch.lua: scores many documents with a model. It can be stopped at any time, by Ctrl-C or by what it may cost, and goes on
-- where it was when it is run again.
--
-- usage: lua examples/batch.lua OUTPUT [DOCUMENTS] [STOP_AFTER]
--
-- Writes a line of JSON for each document to OUTPUT, as soon as it has its score; what stands there is not asked again. Failed
-- documents are told of and not written, so that the next run tries them once more. Talks to a bundled model server that is
-- overloaded now and then; with OPENAI_API_KEY set, and a name in OPENAI_MODEL, to that service.
local weft = require "weft"

local path, count, stop_after = arg[1], tonumber(arg[2] or 500), tonumber(arg[3] or math.huge)
if not path then
  io.stderr:write("usage: lua examples/batch.lua OUTPUT [DOCUMENTS] [STOP_AFTER]\n")
  os.exit(2)
end

local server
local key = os.getenv "OPENAI_API_KEY"
if not key then
  server = assert(require("weft.testing").model_server {
    latency = 0.01,
    reply = { json = { score = 7 } },
    fault_rate = 0.03,
    fault = { { status = 503 }, { status = 429, retry_after_ms = 20 }, { reset = "before" } },
  })
end

local model = weft.model.openai {
  base_url = server and server.url or os.getenv "OPENAI_BASE_URL",
  api_key = key,
  model = os.getenv "OPENAI_MODEL" or "mock",
  max_tokens = 20,
  prices = server and { mock = { input = 1, output = 4 } }, -- US dollars for a million tokens
  limits = { concurrency = 16 },
  retry = { attempts = 5, base = server and 0.01 or 0.5 },
  budget = weft.budget { usd = 1 },
}

-- The documents that have no line in the output yet.
local function left_to_do()
  local done, documents = {}, {}
  local file = io.open(path)
  for line in file and file:lines() or function() end do
    local row = weft.json.decode(line) -- nil for a line that was cut when the machine went down
    if row then
      done[row.id] = true
    end
  end
  if file then
    file:close()
  end
  for id = 1, count do
    if not done[id] then
      documents[#documents + 1] = { id = id, text = ("Document number %d is about looms."):format(id) }
    end
  end
  return documents
end

-- Runs on threads, with copies of what it captures; the model is shared, and so are its limits and its budget.
local function score(document)
  local answer, err = model:chat {
    system = "Score the text from 0 to 10. Answer with JSON: {\"score\": number}",
    prompt = document.text,
    schema = { type = "object", required = { "score" }, properties = { score = { type = "number" } } },
  }
  if not answer then
    return nil, err
  end
  return { id = document.id, score = answer.data.score }
end

local documents = left_to_do()
local output = assert(io.open(path, "a"))
local progress = weft.progress { total = #documents, label = "scored" }
local ctx = weft.signal_context("INT", "TERM")
local written, failed = 0, 0

-- This loop runs in the script, and so it may write and count; a failure of one document does not end it.
local ok, stopped = pcall(function()
  for i, row, err in weft.stream(ctx, documents, score, { limit = 32 }) do
    if row then
      progress:tick()
      output:write(weft.json.encode(row), "\n")
      written = written + 1
    elseif not ctx:err() then -- else it was under way when we were stopped
      progress:tick(err)
      failed = failed + 1
      print(("document %d: %s"):format(documents[i].id, tostring(err)))
    end
    if written == stop_after then
      break -- what is under way is cancelled
    end
  end
end)
output:close()
progress:finish()
if server then
  server:close()
end

print(("%d scored, %d failed, %d were done before, %d are left"):format(
  written, failed, count - #documents, #documents - written))
if not ok then
  print("stopped: " .. tostring(stopped))
  os.exit(130)
end
