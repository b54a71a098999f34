-- triage.lua: sorts real texts with three models in parallel.
--
-- usage: make demo, or: lua examples/triage.lua [--input FILE] [--output FILE] [--limit N] [--items N]
--
-- Reads JSON lines with a `description`, and passes each item through: sanitize, enrich, three models at
-- once (topic, sentiment, summary), validate. Writes one JSON line an item to the output, errors
-- included, and a summary to stderr. Talks to a bundled model server with latency and faults; with
-- OPENAI_BASE_URL and OPENAI_API_KEY set, to that service (model: OPENAI_MODEL, default gpt-4o-mini).
local weft = require "weft"
local json = require "weft.json"

local function usage(message)
  io.stderr:write(message, "\nusage: lua examples/triage.lua [--input FILE] [--output FILE] [--limit N] [--items N]\n")
  os.exit(2)
end

local options = { input = "examples/data/packages.jsonl", output = "build/triage.jsonl", limit = 64, items = math.huge }
for i = 1, #arg, 2 do
  local name, value = arg[i]:match("^%-%-(%a+)$"), arg[i + 1]
  if not name or options[name] == nil or not value then
    usage("bad argument '" .. arg[i] .. "'")
  end
  options[name] = type(options[name]) == "number" and (tonumber(value) or usage(name .. " wants a number")) or value
end

local function read_items(path, most)
  local file, err = io.open(path)
  if not file then
    usage("cannot read the input: " .. err)
  end
  local items = {}
  for line in file:lines() do
    if #items >= most then
      break
    end
    items[#items + 1] = assert(json.decode(line))
  end
  file:close()
  return items
end

-- ---- where the models are: a real service, or the bundled server with trouble built in ----

local server
local base_url, api_key = os.getenv "OPENAI_BASE_URL", os.getenv "OPENAI_API_KEY"
local names = { topic = "mock-topic", sentiment = "mock-sentiment", summary = "mock-summary" }
if base_url and api_key then
  local name = os.getenv "OPENAI_MODEL" or "gpt-4o-mini"
  names = { topic = name, sentiment = name, summary = name }
else
  server = require("weft.testing").model_server {
    latency = 0.04,
    jitter = 0.04,
    seed = 42,
    fault_rate = 0.03,
    fault = { status = 503 },
    faults = {
      { status = 429, retry_after = 0.05, times = 3, model = "mock-topic" },
      { garbage = true, times = 1, model = "mock-summary" },
      { truncate = 20, times = 2, model = "mock-sentiment" },
    },
  }
  base_url, api_key = server.url, "sk-demo"
end

local prompts = {
  topic = 'Answer with JSON only: {"label": one of library, tool, daemon, font, game, documentation, other, "score": 0 to 1}.',
  sentiment = 'Answer with JSON only: {"label": positive, neutral or negative, "score": 0 to 1}.',
  summary = 'Answer with JSON only: {"summary": at most 12 words}.',
}
local models = {}
for task, name in pairs(names) do
  models[task] = weft.model.openai { base_url = base_url, api_key = api_key, model = name, timeout = 30, retry = { attempts = 4 } }
end

-- ---- the stages ----

local function sanitize(item)
  local text = item.description
  if type(text) ~= "string" or #text == 0 then
    return nil, "the item has no description"
  end
  text = text:gsub("[%c]", " "):gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")
  return { package = item.package, section = item.section, text = text:sub(1, 2000) }
end

local function enrich(item)
  local words = 0
  for _ in item.text:gmatch "%S+" do
    words = words + 1
  end
  return { package = item.package, section = item.section, text = item.text, words = words }
end

local function infer(item, ctx)
  local core, decode = require "weft", require("weft.json").decode
  local calls = {}
  for task, model in pairs(models) do
    local prompt = prompts[task]
    calls[task] = function()
      local started = core.now()
      local reply, err = model:chat { system = prompt, prompt = item.text }
      if not reply then
        return nil, err
      end
      return {
        answer = decode(reply.text),
        text = reply.text,
        seconds = core.now() - started,
        attempts = reply.attempts,
        tokens = reply.usage and reply.usage.total_tokens or 0,
      }
    end
  end
  -- in this very thread: three calls that wait at the same time need no further thread
  local answers, err = core.all(ctx, calls, { pool = core.inline })
  if not answers then
    return nil, err
  end
  return { item = item, answers = answers }
end

local function validate(result)
  local out = { package = result.item.package, section = result.item.section, words = result.item.words, attempts = 0, tokens = 0, seconds = 0 }
  for task, answer in pairs(result.answers) do
    if type(answer.answer) ~= "table" then
      return nil, ("the %s model did not answer with JSON: %s"):format(task, answer.text:sub(1, 60))
    end
    out[task] = answer.answer.label or answer.answer.summary
    if out[task] == nil then
      return nil, ("the %s model left out its answer: %s"):format(task, answer.text:sub(1, 60))
    end
    out.attempts = out.attempts + answer.attempts
    out.tokens = out.tokens + answer.tokens
    out.seconds = out.seconds + answer.seconds
  end
  return out
end

-- ---- the run ----

local items = read_items(options.input, options.items)
local output = assert(io.open(options.output, "w"))
local progress = require("weft.progress").new { total = #items, label = "triage" }
local pipeline = weft.pipeline {
  weft.stage("sanitize", sanitize),
  weft.stage("enrich", enrich),
  weft.stage("infer", infer, { limit = options.limit }),
  weft.stage("validate", validate),
}

local ctx = weft.background():with_timeout(600, "the whole run may take ten minutes")
local started = weft.now()
local done, failed, attempts, tokens, latency, topics = 0, {}, 0, 0, 0, {}
for index, result, err in pipeline:stream(ctx, items, { limit = 2 * options.limit }) do
  if result then
    done, attempts, tokens = done + 1, attempts + result.attempts, tokens + result.tokens
    latency = latency + result.seconds
    topics[result.topic] = (topics[result.topic] or 0) + 1
    result.index = index
    output:write(json.encode(result), "\n")
  else
    failed[#failed + 1] = err
    output:write(json.encode { index = index, package = items[index].package, error = tostring(err) }, "\n")
  end
  progress:tick(err)
end
progress:finish()
output:close()
local wall = weft.now() - started

local function say(format, ...)
  io.stderr:write(format:format(...), "\n")
end
say("%d items: %d done, %d failed; results in %s", #items, done, #failed, options.output)
say("%d model calls in %d attempts (%d retried), %d tokens", 3 * done, attempts, attempts - 3 * done, tokens)
say("wall time %.2f s; the calls' latencies add up to %.1f s: %.0f at a time", wall, latency, latency / wall)
for topic, count in pairs(topics) do
  say("  %-14s %d", topic, count)
end
for _, err in ipairs(failed) do
  say("  %s", tostring(err))
end
if server then
  local stats = server:stats()
  say("the model server saw %d requests, %d faults, at most %d at once", stats.requests, stats.faults, stats.max_in_flight)
  server:close()
end
os.exit(done > 0 and 0 or 1)
