--- The handlers of examples/nginx/nginx.conf: parallel models, streamed answers, a rate limit a key, a budget.
--
-- Everything here belongs to one worker process: with several of them each has its own limits and its own budget.
-- luacheck: globals ngx
local weft = require "weft"

local gateway = {}

local RATE, BURST = 2, 5 -- requests a second for each key, and how many at once
local KEYS = 10000 -- keys that are remembered
local DEADLINE = 20 -- seconds for a request in all

local models, budget
local limiters, keys = {}, 0

--- For init_worker_by_lua: makes the models. Nothing is sent yet.
function gateway.open()
  budget = weft.budget { usd = 0.01, warn = 0.8 }
  models = {}
  for _, name in ipairs { "sentiment", "topic", "summary", "writer" } do
    models[name] = weft.model.openai {
      base_url = os.getenv "MODEL_BASE_URL",
      api_key = os.getenv "MODEL_API_KEY",
      model = "mock-" .. name,
      timeout = DEADLINE, -- for a stream from its first to its last part
      max_tokens = 200, -- a bound makes the worst case of a call exact
      prices = { ["mock-" .. name] = { input = 2, output = 8 } }, -- US dollars for a million tokens
      limits = { concurrency = 32 },
      retry = { attempts = 3, base = 0.05 },
      breaker = { failures = 5, cooldown = 5 },
      budget = budget,
      on_warn = function(spent)
        -- in a task, where there is no ngx.log: nginx's standard error is its log
        io.stderr:write(("%.4f of %.4f US dollars are spent\n"):format(spent:spent(), spent:limit()))
      end,
    }
  end
end

local STATUS = { rate_limit = 503, skipped_budget = 402, breaker_open = 503, deadline = 504, timeout = 504 }

local function refuse(status, err)
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  ngx.say(weft.json.encode { error = tostring(err) })
  return ngx.exit(status)
end

--- For access_by_lua: a key, and not too often.
function gateway.admit()
  local key = ngx.var.http_x_api_key
  if not key then
    return refuse(401, "the header X-Api-Key is missing")
  end
  local limiter = limiters[key]
  if not limiter then
    if keys == KEYS then
      limiters, keys = {}, 0
    end
    limiter = weft.limiter { rate = RATE, burst = BURST }
    limiters[key], keys = limiter, keys + 1
  end
  if not limiter:allow() then
    ngx.header["Retry-After"] = math.ceil(1 / RATE)
    return refuse(429, "too many requests with this key")
  end
end

local function body()
  ngx.req.read_body()
  local text = ngx.req.get_body_data()
  if not text or text == "" then
    return refuse(400, "the body is empty")
  end
  return text
end

-- Runs a handler. When the client goes away, the request's context is cancelled: what the handler waits for raises,
-- and nobody is there to be told.
local function run(handler)
  weft.ngx.cancel_on_abort()
  local ok, err = pcall(handler, body())
  if not ok and weft.current():err() then
    return ngx.exit(499)
  elseif not ok then
    ngx.log(ngx.ERR, tostring(err))
    return refuse(STATUS[err.kind] or 500, err)
  end
end

-- A closure of its own for each call: it is sent to a thread of the pool, with the model and the text.
local function question(model, text)
  return function()
    local answer, err = model:chat { prompt = text }
    if not answer then
      return nil, err
    end
    return { answer = answer.text, tokens = answer.usage.total_tokens, cost = answer.cost }
  end
end

--- POST /ask
function gateway.ask()
  run(function(text)
    local started = weft.now()
    local ctx = weft.current():with_timeout(DEADLINE)
    local answers, err = weft.all(ctx, {
      sentiment = question(models.sentiment, text),
      topic = question(models.topic, text),
      summary = question(models.summary, text),
    })
    ctx:cancel()
    if not answers then
      return refuse(STATUS[err.kind] or 502, err)
    end
    answers.seconds = math.floor((weft.now() - started) * 1000) / 1000
    ngx.header["Content-Type"] = "application/json"
    ngx.say(weft.json.encode(answers))
  end)
end

--- POST /stream: server-sent events, the last one with the usage.
function gateway.stream()
  run(function(text)
    local stream, err = models.writer:stream { prompt = text }
    if not stream then
      return refuse(STATUS[err.kind] or 502, err)
    end
    ngx.header["Content-Type"] = "text/event-stream"
    repeat
      local part, failure = stream:next()
      if part and part.text ~= "" then
        ngx.print("data: ", weft.json.encode { text = part.text }, "\n\n")
        ngx.flush(true) -- waits for a slow client, and so the model's answer waits, too
      elseif failure then
        ngx.print("event: error\ndata: ", weft.json.encode { error = tostring(failure) }, "\n\n")
        return
      end
    until not part
    local answer = stream:result()
    ngx.print("event: usage\ndata: ", weft.json.encode(answer.usage), "\n\n")
  end)
end

--- GET /metrics, for Prometheus.
function gateway.metrics()
  ngx.header["Content-Type"] = "text/plain; version=0.0.4"
  ngx.print(weft.metrics())
  ngx.print("# HELP gateway_spent_usd What the models have cost.\n# TYPE gateway_spent_usd gauge\n")
  ngx.say("gateway_spent_usd ", ("%.6f"):format(budget:spent()))
end

--- GET /health: 503 while a model's breaker is open or the budget is used up.
function gateway.health()
  local breakers, is_well = {}, budget:remaining() > 0
  for name, model in pairs(models) do
    breakers[name] = model:stats().breaker
    is_well = is_well and breakers[name] ~= "open"
  end
  ngx.status = is_well and 200 or 503
  ngx.header["Content-Type"] = "application/json"
  ngx.say(weft.json.encode {
    well = is_well,
    breakers = breakers,
    spent = budget:spent(),
    waiting = weft.stats().parked,
  })
end

return gateway
