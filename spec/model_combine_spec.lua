-- Several models as one: fallback and hedge; and answers that must match a schema.

local leaks = require "spec.support.leaks"
local models = require "spec.support.models"
local weft = require "weft"

local PRICES = { a = { input = 10, output = 10, max_output = 1000 } }

local function named(server, name, options)
  local given = { model = name }
  for key, value in pairs(options or {}) do given[key] = value end
  return models.openai(server, given)
end

describe("fallback", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("asks the next model after failures that say nothing about it", function()
    for _, case in ipairs {
      { { status = 503 }, 2 }, { { status = 429 }, 2 }, { { status = 401 }, 2 }, { { status = 402 }, 2 },
      { { reset = "before" }, 2 }, { { garbage = true }, 2 }, { { status = 408 }, 2 },
      { { status = 400 }, nil, "request" }, { { status = 404 }, nil, "request" },
      { { status = 400, code = "content_filter" }, nil, "content" },
    } do
      local fault = case[1]
      fault.model, fault.times = "a", -1
      local server = models.server { faults = { fault } }
      local both = weft.model.fallback { named(server, "a", { retry = { attempts = 1 } }), named(server, "b") }
      local result, err = both:chat { prompt = "x" }
      if case[2] then
        assert.equal("echo: x", assert(result, err).text)
        assert.equal(case[2], result.member)
        assert.equal("b", result.model)
      else
        assert.is_nil(result)
        assert.equal(case[3], err.kind)
        assert.equal(1, server:stats().requests)
      end
      models.stop()
    end
  end)

  it("asks the preferred model alone while it answers", function()
    local server = models.server()
    local both = weft.model.fallback { named(server, "a"), named(server, "b") }
    assert.equal(1, assert(both:chat { prompt = "x" }).member)
    assert.equal(1, server:stats().requests)
  end)

  it("goes on when a budget or a breaker refuses", function()
    local server = models.server { faults = { { status = 500, model = "b" } } }
    local poor = named(server, "a", { budget = weft.budget { usd = 0 }, prices = PRICES })
    local broken = named(server, "b", { retry = { attempts = 1 }, breaker = { failures = 1, cooldown = 1000 } })
    local all = weft.model.fallback { poor, broken, named(server, "c") }
    for _ = 1, 3 do assert.equal(3, assert(all:chat { prompt = "x" }).member) end
    assert.equal(4, server:stats().requests)
  end)

  it("joins the failures of all", function()
    local server = models.server { faults = { { status = 503, model = "a", times = -1 }, { status = 429, model = "b", times = -1 } } }
    local once = { retry = { attempts = 1 } }
    local result, err = weft.model.fallback { named(server, "a", once), named(server, "b", once) }:chat { prompt = "x" }
    assert.is_nil(result)
    assert.equal("rate_limit", err.kind)
    assert.equal(429, err.status)
    assert.is_true(weft.is(err, "server"))
    assert.match("^all 2 models failed: a at .*status 503.*; b at .*status 429", err.message)
  end)

  it("goes by the kinds that are wanted", function()
    local server = models.server { faults = { { status = 404, model = "a", times = -1 }, { status = 503, model = "b", times = -1 } } }
    local once = { retry = { attempts = 1 } }
    local a, b, c = named(server, "a", once), named(server, "b", once), named(server, "c")
    assert.equal(2, assert(weft.model.fallback { a, c, on = { "request" } }:chat { prompt = "x" }).member)
    assert.equal("server", select(2, weft.model.fallback { b, c, on = { "request" } }:chat { prompt = "x" }).kind)
  end)

  it("falls back to another provider, also for streams until they begin", function()
    local server = models.server { faults = {
      { status = 529, path = "/messages", times = 2 }, { truncate = "body", path = "/messages" },
    } }
    local claude = models.make("anthropic", server, { model = "a", retry = { attempts = 1 } })
    local both = weft.model.fallback { claude, named(server, "b") }
    assert.equal(2, assert(both:chat { system = "s", prompt = "x" }).member)
    local stream = assert(both:stream { prompt = "one two three" })
    assert.equal(2, stream.member)
    assert.equal("echo: one two three", assert(stream:result()).text)
    -- once it has begun, nothing is asked again
    stream = assert(both:stream { prompt = "one two three" })
    assert.equal(1, stream.member)
    assert.equal("stream_truncated", select(2, stream:result()).kind)
    assert.equal(5, server:stats().requests)
  end)

  it("works in tasks and for embeddings, and in another fallback", function()
    local server = models.server { faults = { { status = 503, model = "a", times = -1 } } }
    local once = { retry = { attempts = 1 } }
    local inner = weft.model.fallback { named(server, "a", once), named(server, "a", once) }
    local all = weft.model.fallback { inner, named(server, "b") }
    local out = assert(weft.map({ "x", "y", "z" }, function(item)
      local result, err = all:chat { prompt = item }
      return result and result.text, err
    end, { chunk = 1 }))
    assert.same({ "echo: x", "echo: y", "echo: z", n = 3 }, out)
    assert.equal(1, #assert(all:embed { input = "x" }).vectors)
  end)

  it("refuses misuse by name", function()
    local m = models.openai(models.server())
    for _, case in ipairs {
      { "bad argument 'models' to weft.model.fallback: expected a list of models, got nil", function() weft.model.fallback {} end },
      { "bad argument '[2]' to weft.model.fallback: expected a model, got table", function() weft.model.fallback { m, {} } end },
      { "bad option 'after' to weft.model.fallback: known are on", function() weft.model.fallback { m, after = 1 } end },
      { "bad argument 'model' to model:chat: each of the models has its own",
        function() weft.model.fallback({ m }):chat { prompt = "x", model = "y" } end },
      { "bad argument 'messages' to model:chat: expected either messages or a prompt",
        function() weft.model.fallback({ m }):chat {} end },
    } do
      local ok, err = pcall(case[2])
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^.-model_combine_spec.lua:%d+: ", "")))
    end
  end)
end)

describe("hedge", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  local function slow_server(times)
    return models.server { faults = { { delay = 3600, model = "a", times = times or 1 } } }
  end

  it("asks again when the answer takes long, and cancels the loser", function()
    local server = slow_server()
    local result = assert(weft.model.hedge { named(server, "a"), after = 0.01 }:chat { prompt = "x" })
    assert.equal("echo: x", result.text)
    assert.is_true(result.hedged)
    assert.equal(2, result.winner)
    assert.equal(2, server:stats().requests)
    models.eventually(models.counter(server, "abandoned"), 1)
  end)

  it("asks again although equal calls share their answers", function()
    local server = slow_server()
    local m = named(server, "a", { coalesce = true, cache = weft.cache() })
    local twice = weft.model.hedge { m, after = 0.01 }
    assert.equal(2, assert(twice:chat { prompt = "x" }).winner)
    assert.equal(2, server:stats().requests)
    assert.is_true(assert(twice:chat { prompt = "x" }).cached)
  end)

  it("asks another model", function()
    local server = slow_server(-1)
    local result = assert(weft.model.hedge { named(server, "a"), named(server, "b"), after = 0.01 }:chat { prompt = "x" })
    assert.equal("b", result.model)
  end)

  it("asks once when the answer comes in time, or fails in time", function()
    local server = models.server { faults = { { status = 400, model = "bad" } } }
    local result = assert(weft.model.hedge { named(server, "a"), after = 60 }:chat { prompt = "x" })
    assert.equal(1, result.winner)
    assert.is_nil(result.hedged)
    local _, err = weft.model.hedge { named(server, "bad"), after = 60 }:chat { prompt = "x" }
    assert.equal("request", err.kind)
    assert.equal(2, server:stats().requests)
  end)

  it("takes the slow one when the second fails", function()
    local server = models.server { faults = { { delay = 0.1, model = "a" }, { status = 400, model = "b" } } }
    local result = assert(weft.model.hedge { named(server, "a"), named(server, "b"), after = 0.001 }:chat { prompt = "x" })
    assert.equal(1, result.winner)
    assert.is_true(result.hedged)
  end)

  it("pays for both", function()
    local server = slow_server()
    local budget = weft.budget { usd = 1 }
    local m = named(server, "a", { budget = budget, prices = PRICES })
    local result = assert(weft.model.hedge { m, after = 0.01 }:chat { prompt = "x" })
    assert.is_true(result.cost > 0)
    assert.is_true(budget:spent() > result.cost)
    assert.is_true(math.abs(budget:remaining() + budget:spent() - 1) < 1e-9)
  end)

  it("asks again no more than the retry budget allows", function()
    local server = models.server { latency = 0.03 }
    local m = named(server, "a", { retry = { base = 0, budget = weft.retry_budget { min = 2, ratio = 0 } } })
    local twice, hedged = weft.model.hedge { m, after = 0.001 }, 0
    for _ = 1, 5 do
      hedged = hedged + (assert(twice:chat { prompt = "x" }).hedged and 1 or 0)
    end
    assert.equal(2, hedged)
  end)

  it("learns what is long, with p95", function()
    local server = models.server { faults = { { delay = 0.02, model = "a", times = 1 } } }
    local m = named(server, "a")
    local twice = weft.model.hedge { m, after = "p95" }
    assert.is_nil(assert(twice:chat { prompt = "x" }).hedged) -- nothing is known
    for _ = 1, 18 do assert(m:chat { prompt = "x" }) end
    server:fault { delay = 0.1, model = "a" }
    assert.is_nil(assert(twice:chat { prompt = "x" }).hedged) -- 19 are not enough to know
    for _ = 1, 30 do assert(m:chat { prompt = "x" }) end
    server:fault { delay = 3600, model = "a" }
    local result = assert(twice:chat { prompt = "x" })
    assert.is_true(result.hedged)
    assert.equal(2, result.winner)
  end)

  it("races streams until one begins", function()
    local server = models.server { faults = { { delay = 3600, model = "a" } }, stream = { delay = 0.001 } }
    local twice = weft.model.hedge { named(server, "a", { limits = { concurrency = 2 } }), after = 0.01 }
    local stream = assert(twice:stream { prompt = "one two three four" })
    local patience = weft.now() + 20
    while server:stats().abandoned < 1 and weft.now() < patience do weft.sleep(0.001) end
    assert.equal(1, server:stats().abandoned) -- the loser goes at once, not with the winner's end
    local parts = {}
    for text in stream:deltas() do parts[#parts + 1] = text end
    assert.equal("echo: one two three four", table.concat(parts))
    assert.is_true(#parts > 2)
    assert.equal(2, assert(stream:result()).winner)
    assert.equal(0, twice.members[1]:stats().in_flight)
  end)

  it("ends a stream that is closed, or cut", function()
    local server = models.server { faults = { { truncate = "body", model = "cut" } }, stream = { delay = 0.001 } }
    local stream = assert(weft.model.hedge { named(server, "a"), after = 60 }:stream { prompt = "one two three four" })
    assert.equal("echo:", stream:next().text)
    stream:close()
    assert.equal("closed", select(2, stream:result()).kind)
    stream = assert(weft.model.hedge { named(server, "cut"), after = 60 }:stream { prompt = "one two three four" })
    local result, err = stream:result()
    assert.is_nil(result)
    assert.equal("stream_truncated", err.kind)
    assert.match("^echo:", err.partial)
  end)

  it("is cancelled with its task", function()
    local server = slow_server(-1)
    local twice = weft.model.hedge { named(server, "a"), after = 0.001 }
    local group = weft.group()
    local task = group:go(function() return twice:chat { prompt = "x" } end)
    models.eventually(models.counter(server, "in_flight"), 2)
    group:cancel()
    assert.equal("canceled", select(2, task:wait()).kind)
    group:close()
    models.eventually(models.counter(server, "abandoned"), 2)
  end)

  it("refuses misuse by name", function()
    local m = models.openai(models.server())
    for _, case in ipairs {
      { "bad argument 'after' to weft.model.hedge: expected a number of seconds > 0, or \"p95\", got nil",
        function() weft.model.hedge { m } end },
      { "bad argument 'models' to weft.model.hedge: expected one or two models, got 3",
        function() weft.model.hedge { m, m, m, after = 1 } end },
      { "bad argument 'after' to weft.model.hedge: \"p95\" needs a model first, which knows its latencies",
        function() weft.model.hedge { weft.model.fallback { m }, after = "p95" } end },
    } do
      local ok, err = pcall(case[2])
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^.-model_combine_spec.lua:%d+: ", "")))
    end
  end)
end)

describe("schemas of answers", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  local SCHEMA = { type = "object", required = { "n" }, properties = { n = { type = "integer" } } }

  for _, kind in ipairs(models.kinds) do
    it("are checked, and asked for once more: " .. kind, function()
      local server = models.server { reply = { { text = "it is five", usage = { input = 3, output = 4 } },
        { text = '```json\n{"n": 5}\n```', usage = { input = 10, output = 6 } } } }
      local m = models.make(kind, server, { prices = { m = { input = 1, output = 1 } } })
      local result = assert(m:chat { prompt = "how many", schema = SCHEMA })
      assert.same({ n = 5 }, result.data)
      assert.is_true(result.asked_again)
      assert.same({ prompt_tokens = 13, completion_tokens = 10, total_tokens = 23 }, result.usage)
      assert.equal(23 / 1e6, result.cost)
      assert.equal(2, result.attempts)
      local messages = models.body(server).messages
      assert.equal("it is five", messages[#messages - 1].content)
      assert.match("does not match the JSON schema: not JSON", messages[#messages].content)
      -- right at once
      result = assert(m:chat { prompt = "how many", schema = SCHEMA })
      assert.same({ n = 5 }, result.data)
      assert.is_nil(result.asked_again)
      assert.equal(3, server:stats().requests)
    end)

    it("that never match are bad: " .. kind, function()
      local server = models.server { reply = '{"n":"five"}' }
      local result, err = models.make(kind, server):chat { prompt = "how many", schema = SCHEMA }
      assert.is_nil(result)
      assert.equal("bad_reply", err.kind)
      assert.match("does not match the schema: n: expected integer, got string", err.message)
      assert.equal('{"n":"five"}', err.partial)
      assert.equal(2, server:stats().requests)
    end)
  end

  it("do not concern tool calls", function()
    local server = models.server { reply = { tool_calls = { { name = "f", arguments = {} } } } }
    local tools = { { type = "function", ["function"] = { name = "f", parameters = { type = "object" } } } }
    local result = assert(models.openai(server):chat { prompt = "x", schema = SCHEMA, tools = tools })
    assert.equal("f", result.tool_calls[1].name)
    assert.is_nil(result.data)
    assert.equal(1, server:stats().requests)
  end)
end)

describe("content", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("that is refused is an error of its own, whole or streamed, and not asked for again", function()
    local server = models.server { reply = { text = "", finish = "content_filter", usage = { input = 5, output = 0 } } }
    local budget = weft.budget { usd = 1 }
    local m = models.openai(server, { budget = budget, prices = { m = { input = 10, output = 10, max_output = 1000 } } })
    local result, err = m:chat { prompt = "x" }
    assert.is_nil(result)
    assert.equal("content", err.kind)
    assert.equal(5e-5, budget:spent())
    local stream
    stream, err = m:stream { prompt = "x" }
    assert.is_nil(stream)
    assert.equal("content", err.kind)
    assert.equal(2, server:stats().requests)
  end)

  it("that is refused in words is an answer", function()
    local server = models.server { reply = { refusal = "I must not" } }
    local result = assert(models.openai(server):chat { prompt = "x" })
    assert.equal("I must not", result.refusal)
    assert.equal("", result.text)
    assert.equal("I must not", assert(assert(models.openai(server):stream { prompt = "x" }):result()).refusal)
  end)
end)
