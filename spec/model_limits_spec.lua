-- What a model limits for all tasks that have it: calls, tokens, money; what it learns about its server.

local base = require "weft.model.base"
local leaks = require "spec.support.leaks"
local models = require "spec.support.models"
local testing = require "weft.testing"
local virtual = require "spec.support.virtual"
local weft = require "weft"

local near, virtually = virtual.near, virtual.virtually

local PRICES = { m = { input = 10, output = 10, max_output = 1000 } } -- micro-dollars a token

local function ask(m, prompt, given)
  local all = { prompt = prompt or "x" }
  for name, value in pairs(given or {}) do all[name] = value end
  return m:chat(all)
end

-- Runs n calls at the same time; returns results and errors in their order.
local function many(m, n, given)
  local items = {}
  for i = 1, n do items[i] = i end
  local out = assert(weft.map(items, function(i)
    local all = { prompt = "number " .. i }
    for name, value in pairs(given or {}) do all[name] = value end
    local result, err = m:chat(all)
    return { result = result, err = err }
  end, { chunk = 1, limit = n }))
  return out
end

local function count(out, kind)
  local n = 0
  for i = 1, out.n do
    n = n + ((kind == "ok" and out[i].result or out[i].err and out[i].err.kind == kind) and 1 or 0)
  end
  return n
end

describe("limits", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("of calls at once hold over all threads and kinds of calls", function()
    local server = models.server { faults = { { delay = 3600, model = "slow", times = -1 } } }
    local m = models.openai(server, { limits = { concurrency = 3 } })
    local group = weft.group { collect = true }
    for _ = 1, 2 do
      group:go(function() return m:chat { prompt = "x", model = "slow" } end)
      group:go(function() return m:stream { prompt = "x", model = "slow" } end)
      group:go(function() return m:embed { input = "x", model = "slow" } end)
    end
    models.eventually(models.counter(server, "in_flight"), 3)
    assert.equal(3, m:stats().in_flight)
    group:close()
    models.eventually(models.counter(server, "in_flight"), 0)
    assert.equal(20, count(many(m, 20), "ok"))
    assert.equal(3, server:stats().max_in_flight)
    assert.equal(0, m:stats().in_flight)
  end)

  it("of requests a minute let a tenth of them through at once", virtually(function(clock)
    local server = models.server()
    local m = models.openai(server, { limits = { requests_per_minute = 60 } })
    local ctx = weft.background():with_timeout(0.999)
    local group = weft.group(ctx, { collect = true, pool = weft.inline })
    local refused, ok = 0, 0
    for _ = 1, 10 do
      group:go(function()
        local result, err = m:chat { prompt = "x" }
        if result then
          ok = ok + 1
        else
          refused = refused + 1
          assert(err.kind == "deadline" and err.message:find("the limits would let the call start only after the deadline"))
        end
        return true
      end)
    end
    assert(group:wait())
    group:close()
    assert.same({ 6, 4 }, { ok, refused })
    assert.equal(6, server:stats().requests)
    near(0, clock:elapsed())
    for _ = 1, 54 do assert(ask(m)) end
    near(60, clock:elapsed()) -- sixty in the first minute, though six were at once
  end))

  it("of tokens refuse at once what is more than all of them", function()
    local server = models.server()
    local m = models.openai(server, { limits = { tokens_per_minute = 1000 } })
    local result, err = ask(m, ("long "):rep(2000))
    assert.is_nil(result)
    assert.equal("too_large", err.kind)
    assert.match("needs about %d+ tokens, more than tokens_per_minute allows at all %(1000%)", err.message)
    assert.equal(1, #err.attempts)
    result, err = ask(m, "x", { max_tokens = 1000 })
    assert.is_nil(result)
    assert.equal("too_large", err.kind)
    assert.equal(0, server:stats().requests)
  end)

  -- What the bucket holds.
  local function tokens_left(m)
    return math.floor(base.settings(m).limits.tokens:tokens() + 0.5)
  end

  it("of tokens are settled with what the reply says, and refunded when there is none", virtually(function()
    local server = models.server { reply = { text = "x", usage = { input = 100, output = 50 } },
      faults = { { status = 400, model = "refused", times = -1 }, { status = 503, model = "down", times = -1 } } }
    local m = models.openai(server, { limits = { tokens_per_minute = 10000 } })
    assert(ask(m, "x", { max_tokens = 5000 }))
    assert.equal(9850, tokens_left(m))
    ask(m, "x", { max_tokens = 5000, model = "refused" })
    assert.equal(9850, tokens_left(m))
    ask(m, "x", { max_tokens = 3000, model = "down" })
    assert.equal(9850, tokens_left(m))
  end))

  -- Under a virtual clock: time passes only while all wait, so when an answer came tells what it waited for.
  it("pause the whole client after a 429: who asks meanwhile waits as well", function()
    local server = models.server { faults = { { status = 429, retry_after_ms = 60000 } } }
    testing.virtual_clock(function(clock)
      local refused = weft.channel(1)
      local m = models.openai(server, { retry = { on_retry = function() refused:send(true) end } })
      assert(weft.scope({ pool = weft.inline }, function(group)
        group:go(function() return m:chat { prompt = "first" } end)
        refused:recv()
        assert.equal(1, server:stats().requests)
        for i = 1, 9 do
          group:go(function()
            assert(m:chat { prompt = "later " .. i })
            assert.is_true(clock:elapsed() >= 60 and clock:elapsed() < 67, clock:elapsed())
            return true
          end)
        end
      end))
    end)
    assert.equal(11, server:stats().requests)
  end)

  -- Ten calls that are all refused before any of them hears of it; returns how long they waited, and whether that
  -- came about: on a machine that is busy some may start late.
  local function refuse_ten(delay)
    local server = models.server { faults = { { status = 429, retry_after_ms = 60000, times = 10, delay = delay } } }
    return testing.virtual_clock(function(clock)
      local m = models.openai(server)
      assert(weft.scope({ pool = weft.inline }, function(group)
        for i = 1, 10 do
          group:go(function() return m:chat { prompt = "number " .. i } end)
        end
      end))
      assert.equal(20, server:stats().requests)
      return clock:elapsed(), server:stats().max_in_flight == 10
    end)
  end

  it("pause once for many a 429, not once for each", function()
    local delay = 0.1
    local elapsed, is_all = refuse_ten(delay)
    while not is_all and delay < 30 do
      delay = delay * 2
      elapsed, is_all = refuse_ten(delay)
    end
    assert.is_true(is_all)
    assert.is_true(elapsed >= 60 and elapsed < 67, elapsed) -- a tenth of it is at random
  end)

  it("of the server are kept by waiting, not by failing", function()
    for _, kind in ipairs { "openai", "anthropic" } do
      local server = models.server { rate_limits = { requests = 10, window = 0.1 } }
      local m = models.make(kind, server, { limits = { concurrency = 4 }, retry = { attempts = 20 } })
      local out = many(m, 40)
      assert.equal(40, count(out, "ok"))
      for i = 1, 40 do assert.equal("echo: number " .. i, out[i].result.text) end
      models.stop()
    end
  end)

  it("wait as long as the server's headers say when nothing is left", function()
    local server = models.server { headers = {
      ["x-ratelimit-limit-requests"] = "100",
      ["x-ratelimit-remaining-requests"] = "0",
      ["x-ratelimit-reset-requests"] = "500s",
    } }
    testing.virtual_clock(function(clock)
      local m = models.openai(server)
      assert(ask(m))
      assert.equal(0, clock:elapsed())
      assert(ask(m)) -- there is room for one in a hundredth of the time
      assert.is_true(math.abs(clock:elapsed() - 5) < 1e-6, clock:elapsed())
    end)
  end)

  it("grow while all goes well, and shrink when the server is overloaded", function()
    local server = models.server { latency = 0.002 }
    local m = models.openai(server, { limits = { concurrency = 2, adaptive = { min = 1, max = 6 } } })
    many(m, 60)
    local grown = m:stats().concurrency
    assert.is_true(grown > 2 and grown <= 6, grown)
    server:fault { status = 429, retry_after_ms = 1 }
    assert(ask(m))
    assert.equal(math.max(1, math.floor(grown * 2 / 3)), m:stats().concurrency)
    -- answers that take longer than the latency that is wanted are overload, too
    m = models.openai(server, { limits = { concurrency = 4, adaptive = { latency = 1e-6 } } })
    assert(ask(m))
    assert.equal(2, m:stats().concurrency)
  end)

  it("are given back by calls that are cancelled, wherever they wait", function()
    local server = models.server { faults = { { delay = 3600 } } }
    local budget = weft.budget { usd = 1 }
    local m = models.openai(server, { limits = { concurrency = 1, tokens_per_minute = 1e6 }, budget = budget, prices = PRICES })
    local group = weft.group(nil, { collect = true })
    for _ = 1, 5 do group:go(function() return m:chat { prompt = "x" } end) end
    models.eventually(models.counter(server, "in_flight"), 1)
    group:cancel()
    group:close()
    assert.equal(0, m:stats().in_flight)
    -- the one that was sent is taken to have cost its input
    assert.is_true(budget:spent() > 0 and budget:spent() < 0.001)
    assert.is_true(math.abs(budget:spent() + budget:remaining() - 1) < 1e-9)
    assert.equal("echo: y", assert(ask(m, "y")).text)
  end)
end)

describe("money", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  local function costly(options)
    options = options or {}
    options.reply = options.reply or { text = "x", usage = { input = 10, output = 40 } } -- 500 micro-dollars
    return models.server(options)
  end

  it("is counted by what the reply says was used", function()
    local budget = weft.budget { usd = 1 }
    local m = models.openai(costly(), { budget = budget, prices = PRICES })
    assert.equal(0.0005, assert(ask(m)).cost)
    assert.equal(0.0005, budget:spent())
    assert.equal(0.9995, budget:remaining())
    assert.equal(0.0005, assert(assert(m:stream { prompt = "x" }):result()).cost)
    assert.equal(0.001, budget:spent())
    assert.is_true(assert(m:embed { input = "some text" }).cost > 0)
    assert.is_true(budget:spent() > 0.001)
  end)

  it("is never overspent, by any number of calls at once, and the rest says skipped", function()
    local server = costly { latency = 0.001 }
    local budget = weft.budget { usd = 0.01 } -- twenty answers
    local m = models.openai(server, { budget = budget, prices = PRICES, max_tokens = 40 })
    local out = many(m, 60)
    local done = count(out, "ok")
    assert.equal(60 - done, count(out, "skipped_budget"))
    assert.is_true(budget:spent() <= 0.01)
    assert.equal(done * 500, math.floor(budget:spent() * 1e6 + 0.5))
    -- worst cases are larger than what calls cost, but only the last calls fall to that
    assert.is_true(done >= 15 and done <= 20, done)
    assert.equal(done, server:stats().requests)
    -- resumed: what was skipped is what is asked again
    budget:add(1)
    for i = 1, 60 do
      if out[i].err then out[i].result = assert(ask(m, "number " .. i)) end
    end
    assert.equal(60, server:stats().requests)
  end)

  it("is asked for all the answers of a call", function()
    local server = costly()
    local budget = weft.budget { usd = 0.01 } -- an answer is 0.004 at worst, ten are 0.04
    local m = models.openai(server, { budget = budget, prices = PRICES, max_tokens = 400 })
    local result, err = ask(m, "x", { extra = { n = 10 } })
    assert.is_nil(result)
    assert.equal("skipped_budget", err.kind)
    assert.equal(0, server:stats().requests)
    assert(ask(m, "x"))
  end)

  it("is set aside for the longest answer that the model can give, where the call has no bound", function()
    local server = costly()
    local budget = weft.budget { usd = 0.05 }
    local m = models.openai(server, { model = "gpt-4o", budget = budget }) -- 16,384 tokens are 0.16 dollars
    assert.equal("skipped_budget", select(2, ask(m)).kind)
    assert(ask(m, "x", { max_tokens = 1000 }))
    assert(ask(m, "x", { extra = { max_completion_tokens = 1000 } }))
    assert(ask(models.openai(server, { model = "gpt-4o", budget = budget, max_tokens = 1000 })))
    assert(models.openai(server, { model = "text-embedding-3-small", budget = budget }):embed { input = "no answer" })
    assert.equal(4, server:stats().requests)
  end)

  it("is set aside for the words that a provider adds to tools", function()
    local server = costly()
    local m = models.openai(server, { budget = weft.budget { usd = 0.01 }, prices = PRICES, max_tokens = 10 }) -- 1,000 tokens
    local tool = { type = "function", ["function"] = { name = "f" } }
    assert.equal("skipped_budget", select(2, ask(m, "x", { tools = { tool } })).kind)
    assert(ask(m, "x", { extra = { other = { tool } } }))
  end)

  it("asks for a bound where nobody knows how long an answer may be", function()
    local server = costly()
    local options = { budget = weft.budget { usd = 1 }, prices = { m = { input = 1, output = 1 } } }
    for _, kind in ipairs { "openai", "ollama" } do
      local m = models.make(kind, server, options)
      for _, method in ipairs { "chat", "stream" } do
        local ok, err = pcall(function() m[method](m, { prompt = "x" }) end)
        assert.is_false(ok)
        assert.match("model_limits_spec.lua:%d+: bad argument 'max_tokens' to model:" .. method
          .. ": the budget sets the worst case aside, and nothing says how long an answer of \"m\" may be", err)
      end
      local ok = pcall(m.chat, m, { prompt = "x", extra = { options = { num_ctx = 5 } } })
      assert.is_false(ok)
      assert(m:embed { input = "x" })
    end
    assert(models.make("anthropic", server, options):chat { prompt = "x" }) -- 4,096 unless it is told
    assert.equal(0, assert(models.make("ollama", server, { budget = options.budget }):chat { prompt = "x" }).cost)
    assert.equal(4, server:stats().requests)
  end)

  it("of an empty budget starts nothing", function()
    local server = costly()
    local m = models.openai(server, { budget = weft.budget { usd = 0 }, prices = PRICES })
    local result, err = ask(m)
    assert.is_nil(result)
    assert.equal("skipped_budget", err.kind)
    local stream
    stream, err = m:stream { prompt = "x" }
    assert.is_nil(stream)
    assert.equal("skipped_budget", err.kind)
    assert.equal(0, server:stats().requests)
  end)

  it("is not spent by answers that refuse, and a little by those that are lost", function()
    local server = costly { faults = { { status = 400 }, { status = 503, times = 3 }, { truncate = 10, times = 3 } } }
    local budget = weft.budget { usd = 1 }
    local m = models.openai(server, { budget = budget, prices = PRICES })
    for _ = 1, 2 do assert.is_nil((ask(m))) end
    assert.equal(0, budget:spent())
    local _, err = ask(m)
    assert.equal("network", err.kind)
    assert.is_true(err.cost > 0 and err.estimated)
    assert.is_true(math.abs(budget:spent() - 3 * err.cost) < 1e-5)
    local refused = models.openai({ url = "http://127.0.0.1:1" }, { budget = budget, prices = PRICES })
    local before = budget:spent()
    assert.is_nil((ask(refused)))
    assert.equal(before, budget:spent())
  end)

  it("warns once, in the task that spent it", function()
    local budget = weft.budget { usd = 0.01, warn = 0.25 }
    local warned = weft.channel(8)
    local m = models.openai(costly(), { budget = budget, prices = PRICES, max_tokens = 40,
      on_warn = function(which) warned:send(which:spent()) end })
    many(m, 10)
    assert.equal(1, #warned)
    assert.is_true(warned:recv() >= 0.0025)
  end)

  it("is spent once when on_warn raises, which is raised", function()
    local server = costly()
    local budget = weft.budget { usd = 1, warn = 1e-6 }
    local m = models.openai(server, { budget = budget, prices = PRICES, limits = { concurrency = 1 },
      on_warn = function() error("my mistake", 0) end })
    local ok, err = pcall(m.chat, m, { prompt = "x" })
    assert.same({ false, "my mistake" }, { ok, err })
    assert.equal(1, server:stats().requests)
    assert.equal(0.0005, budget:spent())
    assert.equal(0, m:stats().in_flight)
    assert(m:chat { prompt = "x" })
  end)

  it("needs prices, and says how to give them", function()
    local ok, err = pcall(function() weft.model.openai { model = "my-model", budget = weft.budget { usd = 1 } } end)
    assert.is_false(ok)
    assert.match('model_limits_spec.lua:%d+: bad argument \'budget\' to weft.model.openai: no price is known for the '
      .. 'model "my%-model": give prices = { %["my%-model"%] = { input = usd, output = usd } }, for a million tokens', err)
    local m = weft.model.openai { model = "gpt-4o-mini", budget = weft.budget { usd = 1 } }
    ok, err = pcall(function() m:chat { prompt = "x", model = "other" } end)
    assert.is_false(ok)
    assert.match('model_limits_spec.lua:%d+: bad argument \'budget\' to model:chat: no price is known for the model "other"', err)
    ok, err = pcall(function() weft.model.openai { model = "m", prices = { m = { input = 1 } } } end)
    assert.is_false(ok)
    assert.match('bad argument \'prices%["m"%].output\' to weft.model.openai: expected US dollars for a million tokens', err)
    ok, err = pcall(function() weft.model.openai { model = "m", prices = { input = 1 } } end)
    assert.is_false(ok)
    assert.match('bad argument \'prices%["input"%]\' to weft.model.openai: expected a model\'s prices, such as { input = usd, output = usd }', err)
    assert.is_nil(assert(ask(models.openai(models.server()))).cost)
    assert.equal(0, assert(models.make("ollama", models.server(), { budget = weft.budget { usd = 0 } })
      :chat { prompt = "x" }).cost)
  end)
end)

describe("breakers", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("open after failures in a row, and close after a probe", virtually(function(clock)
    local server = models.server { faults = { { status = 500, times = 4 } } }
    local m = models.openai(server, { retry = { attempts = 1 }, breaker = { failures = 3, cooldown = 20 } })
    for _ = 1, 3 do assert.equal("server", select(2, ask(m)).kind) end
    assert.equal("open", m:stats().breaker)
    clock:advance(19.9)
    assert.equal("breaker_open", select(2, ask(m)).kind)
    clock:advance(0.1)
    assert.equal("server", select(2, ask(m)).kind) -- the probe fails: open again
    assert.equal("breaker_open", select(2, ask(m)).kind)
    assert.equal(4, server:stats().requests)
    clock:advance(3600)
    assert(ask(m))
    assert.equal("closed", m:stats().breaker)
    assert.equal(10, count(many(m, 10), "ok"))
    assert.equal(15, server:stats().requests)
  end))

  it("refuse without sending, and say how long", function()
    local server = models.server { faults = { { status = 500, times = 2 } } }
    local m = models.openai(server, { retry = { attempts = 1 }, breaker = { failures = 2, cooldown = 1000 } })
    for _ = 1, 2 do ask(m) end
    assert.equal("open", m:stats().breaker)
    local _, err = ask(m)
    assert.equal("breaker_open", err.kind)
    assert.match("the server has failed 2 times in a row: no calls for %d+%.%d seconds", err.message)
    assert.is_true(err.retry_after > 900)
    assert.equal(10, count(many(m, 10), "breaker_open"))
    assert.equal(2, server:stats().requests)
  end)

  it("do not count what a server that is well says", function()
    local server = models.server { faults = { { status = 400, times = 5 }, { status = 429, times = 5, retry_after_ms = 0 } } }
    local m = models.openai(server, { retry = { attempts = 1, base = 0 }, breaker = { failures = 2 } })
    for _ = 1, 10 do ask(m) end
    assert.equal("closed", m:stats().breaker)
    assert(ask(m))
  end)
end)

describe("calls under faults", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  -- The reply carries its own prompt: a neighbour's would show.
  for _, kind in ipairs(models.kinds) do
    it("keep their own index: " .. kind, function()
      local server = models.server { fault_rate = 0.4, seed = 7, fault = {
        { status = 503 }, { status = 429, retry_after_ms = 1 }, { reset = "before" }, { reset = "body" },
        { truncate = 10 }, { garbage = true }, { status = 400 },
      } }
      local m = models.make(kind, server, { retry = { base = 0.0001, attempts = 4, budget = false },
        limits = { concurrency = 32 } })
      local out = many(m, 300)
      local ok = 0
      for i = 1, 300 do
        local result, err = out[i].result, out[i].err
        if result then
          ok = ok + 1
          assert.equal("echo: number " .. i, result.text)
        else
          assert.is_true(err.kind == "request" or #err.attempts == 4)
        end
      end
      assert.is_true(ok > 150 and ok < 300)
      assert.equal(0, m:stats().in_flight)
    end)
  end

  it("with a failure are numbered by weft.map", function()
    local server = models.server { replies = { { pattern = "7$", reply = "seven" } },
      faults = { { status = 400, model = "bad", times = -1 } } }
    local m = models.openai(server)
    local items = {}
    for i = 1, 50 do items[i] = i end
    local results, err = weft.map(items, function(i)
      local result, why = m:chat { prompt = "n " .. i, model = i % 10 == 0 and "bad" or "m" }
      return result and result.text, why
    end, { collect = true })
    for i = 1, 50 do
      if i % 10 == 0 then
        assert.is_nil(results[i])
      else
        assert.equal(i % 10 == 7 and "seven" or "echo: n " .. i, results[i])
      end
    end
    assert.equal(5, #err.errors)
    for i, failure in ipairs(err.errors) do assert.equal(10 * i, failure.index) end
  end)

  it("send one idempotency key for all attempts", function()
    local server = models.server { faults = { { status = 503, times = 2 } } }
    local m = models.openai(server, { retry = { base = 0, idempotency_key = true } })
    assert(ask(m))
    assert(ask(m))
    local keys = {}
    for i, request in ipairs(server:requests()) do keys[i] = request.headers["idempotency-key"] end
    assert.match("^weft%-%x+$", keys[1])
    assert.equal(keys[1], keys[2])
    assert.equal(keys[1], keys[3])
    assert.not_equal(keys[1], keys[4])
  end)

  it("do not multiply the load of an outage", function()
    local server = models.server { faults = { { status = 503, times = -1 } } }
    local m = models.openai(server, { retry = { base = 0, attempts = 4, budget = weft.retry_budget { min = 10, ratio = 0.1 } } })
    assert.equal(100, count(many(m, 100), "server"))
    local requests = server:stats().requests
    assert.is_true(requests >= 110 and requests <= 120, requests)
    -- a model has a budget of its own unless it is told otherwise: ten to begin with, and one for each fifth call
    m = models.openai(server, { retry = { base = 0, attempts = 4 } })
    assert.equal(100, count(many(m, 100), "server"))
    local own = server:stats().requests - requests
    assert.is_true(own >= 120 and own <= 131, own)
    m = models.openai(server, { retry = { base = 0, attempts = 4, budget = false } })
    assert.equal(10, count(many(m, 10), "server"))
    assert.equal(requests + own + 40, server:stats().requests)
  end)
end)

describe("shared answers", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("come from the cache on any thread, and cost nothing", function()
    local server = models.server()
    local budget = weft.budget { usd = 1 }
    local m = models.openai(server, { cache = weft.cache { max = 10 }, budget = budget, prices = PRICES })
    local first = assert(ask(m, "a"))
    local spent = budget:spent()
    assert.is_true(spent > 0 and not first.cached)
    local out = weft.map({ 1, 2, 3, 4 }, function() return m:chat { prompt = "a" } end, { chunk = 1 })
    for i = 1, 4 do
      assert.equal("echo: a", out[i].text)
      assert.is_true(out[i].cached)
      assert.equal(0, out[i].cost)
      assert.equal(0, out[i].attempts)
    end
    assert.equal(spent, budget:spent())
    assert.equal(1, server:stats().requests)
    assert(ask(m, "a", { temperature = 0.5 }))
    assert(ask(m, "a", { extra = { seed = 5, stop = { "x" } } }))
    assert.equal(3, server:stats().requests)
    assert(m:embed { input = { "v" } })
    assert.is_true(assert(m:embed { input = { "v" } }).cached)
    assert.equal(4, server:stats().requests)
  end)

  it("are those of the same account alone, although the cache is shared", function()
    local server = models.server()
    local cache = weft.dict()
    local function requests_of(options)
      local before = server:stats().requests
      options.cache = cache
      assert.equal("echo: x", assert(ask(models.openai(server, options))).text)
      return server:stats().requests - before
    end
    local accounts = {
      {}, { api_key = "sk-one" }, { api_key = "sk-two" }, { api_key = "sk-one", headers = { ["OpenAI-Organization"] = "a" } },
      { api_key = "sk-one", headers = { ["OpenAI-Organization"] = "b" } }, { base_url = server.url .. "?key=sk-three" },
      { base_url = server.url .. "?key=sk-four" }, { base_url = server.origin .. "/other/v1" },
      { http = { max_header = 4096, key_password = "sk-five" } },
    }
    for i, options in ipairs(accounts) do assert.equal(1, requests_of(options), i) end
    for i, options in ipairs(accounts) do assert.equal(0, requests_of(options), i) end
    assert.equal(0, requests_of { headers = { authorization = "Bearer sk-one" } }) -- the same account, said otherwise
    for _, key in ipairs(cache:keys()) do assert.is_nil(key:find("sk-", 1, true)) end
  end)

  it("are asked for anew when that is wanted", function()
    local server = models.server { reply = { "first", "second" } }
    local m = models.openai(server, { cache = weft.cache() })
    assert.equal("first", assert(ask(m)).text)
    assert.equal("second", assert(ask(m, "x", { fresh = true })).text)
    assert.equal("second", assert(ask(m)).text)
    assert.equal(2, server:stats().requests)
  end)

  it("are never failures", function()
    local server = models.server { faults = { { status = 400 } } }
    local m = models.openai(server, { cache = weft.cache(), coalesce = true })
    assert.is_nil((ask(m)))
    assert.equal("echo: x", assert(ask(m)).text)
    assert.equal(2, server:stats().requests)
  end)

  it("of equal calls at the same time come from one request", function()
    local server = models.server { latency = 0.3 }
    local m = models.openai(server, { coalesce = true, prices = PRICES })
    local out = assert(weft.map({ 1, 2, 3, 4, 5, 6 }, function(i)
      return m:chat { prompt = i <= 4 and "same" or "other" }
    end, { chunk = 1 }))
    local paid = 0
    for i = 1, 6 do
      assert.equal(i <= 4 and "echo: same" or "echo: other", out[i].text)
      paid = paid + (out[i].cost > 0 and 1 or 0)
    end
    assert.equal(2, paid)
    assert.equal(2, server:stats().requests)
  end)

  it("do not fail the others when the first caller is cancelled", function()
    local server = models.server { faults = { { delay = 3600 } } }
    local m = models.openai(server, { coalesce = true })
    local first, second = weft.group(), weft.group()
    first:go(function() return m:chat { prompt = "same" } end)
    models.eventually(models.counter(server, "in_flight"), 1)
    local waiting = weft.channel(1)
    local task = second:go(function()
      waiting:send(true)
      return m:chat { prompt = "same" }
    end)
    waiting:recv()
    first:cancel()
    first:close()
    assert.equal("echo: same", assert(task:wait()).text)
    second:close()
  end)
end)
