-- Models under the virtual clock: hours of backing off, of limits and of cool-downs, to the second and in no time.
--
-- Time stands while a request is under way, and passes only while all wait: so what the clock shows was waited for.

local leaks = require "spec.support.leaks"
local models = require "spec.support.models"
local testing = require "weft.testing"
local weft = require "weft"

-- Runs fn(clock) under a virtual clock.
local function virtually(fn, seed)
  return function()
    return testing.virtual_clock({ seed = seed }, fn)
  end
end

local function is_near(wanted, got)
  assert.is_true(math.abs(wanted - got) < 1e-6, ("%.9f is not %.9f"):format(got, wanted))
end

describe("under the virtual clock", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    leaks.after()
  end)

  it("attempts back off by their rule", virtually(function(clock)
    local server = models.server { faults = { { status = 503, times = 5 } } }
    local waits = {}
    local m = models.openai(server, { retry = { attempts = 6, base = 100, cap = 500,
      on_retry = function(_, attempt, seconds) waits[attempt] = seconds end } })
    assert.equal(6, assert(m:chat { prompt = "x" }).attempts)
    local sum = 0
    for attempt, most in ipairs { 100, 200, 400, 500, 500 } do
      assert.is_true(waits[attempt] >= most / 2 and waits[attempt] <= most)
      sum = sum + waits[attempt]
    end
    is_near(sum, clock:elapsed())
  end))

  it("the same seed brings the same delays", function()
    local function run(seed)
      local server = models.server { faults = { { status = 503, times = 3 } } }
      return virtually(function(clock)
        assert(models.openai(server, { retry = { attempts = 4, base = 100 } }):chat { prompt = "x" })
        return clock:elapsed()
      end, seed)()
    end
    assert.equal(run(7), run(7))
    assert.not_equal(run(7), run(8))
  end)

  it("a server is obeyed, whatever it asks for, and a date is a date", virtually(function(clock)
    local server = models.server { faults = { { status = 429, retry_after = 90 }, { status = 503, retry_after_ms = 2500 },
      { status = 503, retry_after_date = 60 } } }
    local m = models.openai(server, { retry = { attempts = 4 } })
    assert(m:chat { prompt = "x" })
    -- up to a tenth more by chance; a date has whole seconds
    assert.is_true(clock:elapsed() >= 90 + 2.5 + 59 and clock:elapsed() <= 1.1 * (90 + 2.5 + 61), clock:elapsed())
  end))

  it("no attempt begins after the deadline, and none is waited for", virtually(function(clock)
    local server = models.server { faults = { { status = 503, times = -1 } } }
    local m = models.openai(server, { retry = { attempts = 9, base = 100, cap = 100 } })
    local err
    weft.scope(weft.background():with_timeout(150), { pool = weft.inline }, function(group)
      group:go(function() err = select(2, m:chat { prompt = "x" }) end)
    end)
    assert.equal("deadline", err.gave_up)
    assert.is_true(#err.attempts >= 2 and #err.attempts <= 3)
    assert.is_true(clock:elapsed() < 150)
    assert.equal(#err.attempts, server:stats().requests)
  end))

  it("requests a minute are so many in each minute", virtually(function(clock)
    local m = models.openai(models.server(), { limits = { requests_per_minute = 60 } })
    local starts = {}
    assert(weft.scope({ pool = weft.inline }, function(group)
      for _ = 1, 200 do
        group:go(function()
          assert(m:chat { prompt = "x" })
          starts[#starts + 1] = clock:elapsed()
          return true
        end)
      end
    end))
    table.sort(starts)
    is_near((200 - 6) / 0.9, starts[200]) -- six at once, and then nine in ten seconds
    for i = 61, 200 do assert.is_true(starts[i] - starts[i - 60] >= 60 - 1e-6, i) end
  end))

  it("tokens a minute are waited for", virtually(function(clock)
    local server = models.server { reply = { text = "x", usage = { input = 100, output = 900 } } }
    local m = models.openai(server, { limits = { tokens_per_minute = 6000 }, max_tokens = 900 })
    for _ = 1, 12 do assert(m:chat { prompt = "x" }) end
    -- 12,000 were used, and 6,000 were there; the last call wants an estimate for its input, and not the 100
    assert.is_true(clock:elapsed() > 58 and clock:elapsed() <= 60, clock:elapsed())
  end))

  it("a breaker lets one call through after its cool-down, which decides", virtually(function(clock)
    local server = models.server { faults = { { status = 500, times = 4 } } }
    local m = models.openai(server, { retry = { attempts = 1 }, breaker = { failures = 3, cooldown = 300 } })
    for _ = 1, 3 do assert.equal("server", select(2, m:chat { prompt = "x" }).kind) end
    local _, err = m:chat { prompt = "x" }
    assert.same({ "breaker_open", 300 }, { err.kind, err.retry_after })
    weft.sleep(299)
    assert.equal("breaker_open", select(2, m:chat { prompt = "x" }).kind)
    weft.sleep(1)
    assert.equal("half-open", m:stats().breaker)
    assert.equal("server", select(2, m:chat { prompt = "x" }).kind) -- the probe fails: another cool-down
    assert.equal("breaker_open", select(2, m:chat { prompt = "x" }).kind)
    weft.sleep(300)
    assert(m:chat { prompt = "x" })
    assert.equal("closed", m:stats().breaker)
    is_near(600, clock:elapsed())
    assert.equal(5, server:stats().requests)
  end))

  it("a hedge is sent when its time has come, and the wait of the other ends", virtually(function(clock)
    local server = models.server { faults = { { status = 503, model = "a" } } }
    local a = models.openai(server, { model = "a", retry = { base = 1000, cap = 1000 } })
    local both = weft.model.hedge { a, models.openai(server, { model = "b" }), after = 30 }
    local result = assert(both:chat { prompt = "x" })
    assert.same({ "b", 2 }, { result.model, result.winner })
    is_near(30, clock:elapsed())
    assert.equal(2, server:stats().requests)
    -- one that answers in time leaves no timer behind
    assert.equal(1, assert(both:chat { prompt = "x" }).winner)
    is_near(30, clock:elapsed())
  end))

  it("a cached answer goes after its time", virtually(function()
    local server = models.server { reply = { "first", "second" } }
    local m = models.openai(server, { cache = weft.cache { ttl = 600 } })
    assert.equal("first", assert(m:chat { prompt = "x" }).text)
    weft.sleep(599)
    assert.is_true(assert(m:chat { prompt = "x" }).cached)
    weft.sleep(2)
    assert.equal("second", assert(m:chat { prompt = "x" }).text)
  end))

  it("a refused budget is no reason to wait", virtually(function(clock)
    local m = models.openai(models.server(), { budget = weft.budget { usd = 0 }, max_tokens = 1,
      prices = { m = { input = 1, output = 1 } } })
    assert.equal("skipped_budget", select(2, m:chat { prompt = "x" }).kind)
    assert.equal(0, clock:elapsed())
  end))
end)
