-- budget.lua: many calls at once under limits and a budget; what was skipped is asked when there is more money.
--
-- usage: lua examples/budget.lua [CALLS]
--
-- Talks to a bundled model server that knows how to be overloaded: it answers some calls with 429 or 503.
local weft = require "weft"

local calls = tonumber(arg and arg[1]) or 200

local server = assert(require("weft.testing").model_server {
  latency = 0.02,
  reply = { template = "answer to {{last}}", usage = { input = 20, output = 80 } },
  fault_rate = 0.05,
  fault = { { status = 503 }, { status = 429, retry_after_ms = 20 } },
})

local budget = weft.budget { usd = 0.05, warn = 0.8 }
local model = weft.model.openai {
  base_url = server.url,
  model = "mock",
  max_tokens = 100, -- a bound makes the worst case of a call exact
  prices = { mock = { input = 1, output = 4 } }, -- US dollars for a million tokens
  limits = { concurrency = 16, requests_per_minute = 60000, tokens_per_minute = 5000000 },
  retry = { attempts = 5, base = 0.01 },
  budget = budget,
  on_warn = function(b)
    print(("warning: %.4f of %.4f US dollars are spent"):format(b:spent(), b:limit()))
  end,
}

-- Asks those that have no result yet; returns how many were skipped.
local function run(results)
  local open = {}
  for i = 1, calls do
    if not results[i] then
      open[#open + 1] = i
    end
  end
  local answers, err = weft.map(open, function(i)
    local answer, why = model:chat { prompt = "question " .. i }
    return answer and answer.text, why
  end, { collect = true })
  for at, i in ipairs(open) do
    results[i] = answers[at]
  end
  local skipped = 0
  for _, failure in ipairs(err and err.errors or {}) do
    if weft.is(failure, "skipped_budget") then
      skipped = skipped + 1
    else
      print("question " .. open[failure.index] .. ": " .. tostring(failure))
    end
  end
  return skipped
end

local results = {}
local skipped = run(results)
print(("%d of %d calls were skipped; spent: %.4f of %.4f"):format(skipped, calls, budget:spent(), budget:limit()))

budget:add(calls * 0.001)
skipped = run(results)
local done = 0
for i = 1, calls do
  done = done + (results[i] == "answer to question " .. i and 1 or 0)
end
print(("after adding to it %d are skipped; %d answers, each to its own question"):format(skipped, done))
local stats = server:stats()
print(("the server saw %d requests, %d faults, at most %d at once"):format(stats.requests, stats.faults, stats.max_in_flight))
server:close()
