-- fallback.lua: a slow and a broken provider, and an answer all the same.
--
-- usage: lua examples/fallback.lua
--
-- Talks to a bundled model server that plays both providers: one that is overloaded (after three failures its
-- breaker opens, and it is left alone), and one that is slow now and then (a second request is sent).
local weft = require "weft"

local server = assert(require("weft.testing").model_server {
  latency = 0.01,
  faults = {
    { status = 529, path = "/messages", times = math.huge },
    { delay = 2, path = "/chat/completions" },
  },
})

local preferred = weft.model.anthropic {
  base_url = server.url,
  api_key = "sk-demo",
  model = "preferred",
  retry = { attempts = 1 },
  breaker = { failures = 3, cooldown = 5 },
}
local spare = weft.model.openai { base_url = server.url, model = "spare" }

local model = weft.model.fallback {
  preferred,
  weft.model.hedge { spare, after = 0.1 },
}

for i = 1, 6 do
  local started = weft.now()
  local answer = assert(model:chat { prompt = "question " .. i })
  print(("%s, by model %d%s, after %.2f s; the first one's breaker is %s"):format(
    answer.text,
    answer.member,
    answer.hedged and " (asked twice)" or "",
    weft.now() - started,
    preferred:stats().breaker
  ))
end
local stats = server:stats()
print(("%d requests, %d of them given up"):format(stats.requests, stats.abandoned))
server:close()
