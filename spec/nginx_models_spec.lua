-- Models that are asked in nginx's handlers: retries, limits, budgets, breakers, shared answers, clients that go away.
-- On LuaJIT alone: it is the VM that nginx has.
local nginx = require "spec.support.nginx"
local testing = require "weft.testing"

if not nginx.is_here() then
  return
end

describe("models in nginx", function()
  local server, models

  -- `init`: code that makes the model of a worker; `locations`: paths and the code of their handlers.
  local function start(options, init, handlers)
    models = assert(testing.model_server(options))
    local locations = {}
    for path, code in pairs(handlers) do
      locations[#locations + 1] = ("location /%s { content_by_lua_block { %s } }"):format(path, code)
    end
    server = nginx.start {
      init = ('weft = require "weft" base_url = "%s"'):format(models.url),
      http = ("lua_check_client_abort on; init_worker_by_lua_block { %s }"):format(init),
      locations = table.concat(locations, "\n"),
    }
  end

  after_each(function()
    if server then
      server:stop()
      models:close()
      server, models = nil, nil
    end
  end)

  local function body_of(path)
    local status, body = server:get(path)
    assert.equal(200, status)
    return body
  end

  -- The bodies of requests that are all on their way before the first answer is read.
  local function all_of(paths)
    local clients, bodies = {}, {}
    for i, path in ipairs(paths) do clients[i] = assert(server:connect(path)) end
    for i, client in ipairs(clients) do
      local text, _, part = client:receive("*a")
      bodies[i] = (text or part):match "\r\n\r\n(.*)$"
      client:close()
    end
    return bodies
  end

  it("are tried again, and fail in clear words without a key", function()
    start({ faults = { { status = 503 }, { status = 429, retry_after_ms = 20 }, { reset = "before" },
      { status = 400, message = "you sent sk-in-nginx", model = "bad", times = -1 } } }, [[
      model = weft.model.openai { base_url = base_url, model = "any", api_key = "sk-in-nginx",
        retry = { base = 0.001, attempts = 5 } }
    ]], {
      good = 'local answer = assert(model:chat { prompt = "hello" }) ngx.say(answer.text, " ", answer.attempts)',
      bad = [[local _, err = model:chat { prompt = "hello", model = "bad" }
        ngx.log(ngx.WARN, tostring(err)) ngx.say(err.kind, " ", tostring(err))]],
    })
    assert.equal("echo: hello 4\n", body_of "/good")
    local text = body_of "/bad"
    assert.match("^request .*you sent %[redacted%]", text)
    assert.is_nil(server:log():find("sk-in-nginx", 1, true))
  end)

  it("keep their limits and share answers over all requests of a worker", function()
    start({ latency = 0.05 }, [[
      model = weft.model.openai { base_url = base_url, model = "any", limits = { concurrency = 3 } }
      shared = weft.model.openai { base_url = base_url, model = "any", coalesce = true, cache = weft.cache() }
    ]], {
      ask = 'ngx.say(assert(model:chat { prompt = ngx.var.arg_q }).text)',
      same = 'ngx.say(assert(shared:chat { prompt = "same" }).text)',
    })
    local paths = {}
    for i = 1, 20 do paths[i] = "/ask?q=" .. i end
    for i, body in ipairs(all_of(paths)) do assert.equal(("echo: %d\n"):format(i), body) end
    assert.equal(3, models:stats().max_in_flight)
    for i = 1, 20 do paths[i] = "/same" end
    for _, body in ipairs(all_of(paths)) do assert.equal("echo: same\n", body) end
    assert.equal(21, models:stats().requests)
  end)

  it("spend no more than their budget, and open their breaker", function()
    start({ reply = { text = "x", usage = { input = 10, output = 40 } }, faults = { { status = 500, model = "down", times = -1 } } }, [[
      budget = weft.budget { usd = 0.005 }
      model = weft.model.openai { base_url = base_url, model = "any", budget = budget, max_tokens = 40,
        prices = { any = { input = 10, output = 10 } } }
      down = weft.model.openai { base_url = base_url, model = "down", retry = { attempts = 1 }, breaker = { failures = 2, cooldown = 600 } }
    ]], {
      ask = 'local answer, err = model:chat { prompt = "x" } ngx.say(answer and "ok" or err.kind)',
      down = 'local _, err = down:chat { prompt = "x" } ngx.say(err.kind)',
      spent = 'ngx.say(tostring(budget:spent() <= 0.005), " ", weft.stats().transfers)',
    })
    local paths, counts = {}, {}
    for i = 1, 20 do paths[i] = "/ask" end
    for _, body in ipairs(all_of(paths)) do counts[body] = (counts[body] or 0) + 1 end
    assert.equal(20, counts["ok\n"] + counts["skipped_budget\n"])
    assert.equal(counts["ok\n"], models:stats().requests)
    assert.equal("true 0\n", body_of "/spent")
    assert.same({ "server\n", "server\n", "breaker_open\n" }, { body_of "/down", body_of "/down", body_of "/down" })
  end)

  it("are left when the client goes, with all that the call held", function()
    start({ latency = 3600 }, [[
      model = weft.model.openai { base_url = base_url, model = "any", limits = { concurrency = 1 } }
    ]], {
      slow = 'model:chat { prompt = "x" }',
      held = 'collectgarbage() collectgarbage() ngx.say(model:stats().in_flight)',
    })
    local client = assert(server:connect "/slow")
    nginx.await("the call is on its way", function() return models:stats().in_flight == 1 end)
    assert.equal("1\n", body_of "/held")
    client:close()
    nginx.await("the call is given up", function() return models:stats().abandoned == 1 end)
    nginx.await("its place is free", function() return body_of "/held" == "0\n" end)
    server:await_idle("nothing of the request is left")
  end)

  it("are no trouble for a worker that is ended at once", function()
    start({ latency = 3600, stream = { delay = 3600 }, faults = { { delay = 0.001, model = "streams", times = -1 } } }, [[
      model = weft.model.openai { base_url = base_url, model = "any" }
      streams = weft.model.openai { base_url = base_url, model = "streams" }
      twice = weft.model.hedge { model, after = 0.001 }
    ]], {
      chat = 'model:chat { prompt = "x" }',
      stream = 'local stream = streams:stream { prompt = "one two" } stream:result()',
      hedge = 'twice:chat { prompt = "x" }',
      tasks = 'local m = model local function ask() return m:chat { prompt = "x" } end weft.all { ask, ask }',
      inline = 'weft.all({ function() return model:chat { prompt = "x" } end }, { pool = weft.inline })',
    })
    local clients = {}
    for _, path in ipairs { "/chat", "/stream", "/hedge", "/tasks", "/inline" } do
      clients[#clients + 1] = assert(server:connect(path))
    end
    nginx.await("all are on their way", function() return models:stats().in_flight >= 7 end)
    local ended = server
    server = nil
    ended:stop("TERM", { "open socket #%d+ left in connection", "aborting" }) -- nginx's own words for such an end
    for _, client in ipairs(clients) do client:close() end
    models:close()
  end)
end)
