-- weft.retry: the decisions as tables, then the loop.

local core = require "weft.core"
local dates = require "weft.dates"
local leaks = require "spec.support.leaks"
local retry = require "weft.retry"
local weft = require "weft"

local function err_of(fields)
  fields.kind, fields.message = fields.kind or "error", fields.message or "failed"
  return core.new_error(fields)
end

local fast = { base = 0 }

local function policy(given)
  return retry.policy("test", given or {}, 1)
end

local function with(given)
  local merged = { base = 0 }
  for name, value in pairs(given) do merged[name] = value end
  return merged
end

describe("weft.retry", function()
  before_each(leaks.before)
  after_each(leaks.after)

  describe("decides", function()
    it("by status", function()
      local wanted = {
        [400] = false, [401] = false, [403] = false, [404] = false, [408] = true, [409] = true, [410] = false,
        [413] = false, [422] = false, [429] = true, [500] = true, [501] = true, [502] = true, [503] = true,
        [504] = true, [520] = true, [529] = true,
      }
      for status, is_retried in pairs(wanted) do
        assert.equal(is_retried, retry.is_retried(err_of { status = status }), status)
      end
    end)

    it("by the server's own word first", function()
      assert.is_true(retry.is_retried(err_of { status = 400, should_retry = true }))
      assert.is_true(retry.is_retried(err_of { kind = "auth", status = 401, should_retry = true }))
      assert.is_false(retry.is_retried(err_of { kind = "auth", status = 401 }))
      assert.is_false(retry.is_retried(err_of { status = 503, should_retry = false }))
      assert.is_true(retry.should_retry { ["x-should-retry"] = "true" })
      assert.is_false(retry.should_retry { ["x-should-retry"] = "false" })
      assert.is_nil(retry.should_retry { ["x-should-retry"] = "maybe" })
    end)

    it("never again when the account is empty", function()
      assert.is_false(retry.is_retried(err_of { kind = "quota", status = 429, should_retry = true }))
    end)

    it("by libcurl's code", function()
      local retried = { 5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92, 95 }
      local final = { 1, 3, 8, 23, 27, 43, 51, 53, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91 }
      for _, code in ipairs(retried) do
        assert.is_true(retry.is_retried(err_of { kind = "network", code = code }), code)
        assert.is_true(retry.is_retried(err_of { kind = "tls", code = code }), code)
      end
      for _, code in ipairs(final) do
        assert.is_false(retry.is_retried(err_of { kind = "network", code = code }), code)
        assert.is_false(retry.is_retried(err_of { kind = "tls", code = code }), code)
      end
      assert.is_true(retry.is_retried(err_of { kind = "network", code = 0 }))
      assert.is_true(retry.is_retried { code = 3 }) -- somebody else's code
    end)

    it("by kind", function()
      for _, kind in ipairs { "auth", "quota", "request", "content", "invalid", "too_large", "skipped_budget",
        "breaker_open", "redirect", "closed", "canceled", "tls", "nomem", "nothread" } do
        assert.is_false(retry.is_retried(err_of { kind = kind }), kind)
      end
      for _, kind in ipairs { "timeout", "network", "server", "rate_limit", "bad_reply", "stream_truncated", "error",
        "deadline" } do
        assert.is_true(retry.is_retried(err_of { kind = kind }), kind)
      end
      assert.is_true(retry.is_retried "a string")
      assert.is_true(retry.is_retried { code = 5 })
    end)
  end)

  describe("reads", function()
    it("HTTP dates in their three forms", function()
      local cases = {
        ["Sun, 06 Nov 1994 08:49:37 GMT"] = 784111777,
        ["Sunday, 06-Nov-94 08:49:37 GMT"] = 784111777,
        ["Sun Nov  6 08:49:37 1994"] = 784111777,
        ["Thu, 01 Jan 1970 00:00:00 GMT"] = 0,
        ["Tue, 29 Feb 2000 12:00:00 GMT"] = 951825600,
        ["Wed, 31 Dec 2036 23:59:59 GMT"] = 2114380799,
      }
      for text, seconds in pairs(cases) do
        assert.equal(seconds, dates.http(text), text)
      end
      for text, seconds in pairs {
        ["1994-11-06T08:49:37Z"] = 784111777,
        ["1994-11-06T09:49:37.25+01:00"] = 784111777.25,
        ["1994-11-06t04:19:37-04:30"] = 784111777,
      } do
        assert.equal(seconds, dates.rfc3339(text), text)
      end
      assert.is_nil(dates.rfc3339("1994-11-06 08:49:37"))
      for _, text in ipairs { "", "soon", "Sun, 06 Foo 1994 08:49:37 GMT", "06 Nov 1994", "12" } do
        assert.is_nil(dates.http(text), text)
      end
    end)

    it("how long the server wants to be left alone", function()
      local now = 784111777
      local cases = {
        { {}, nil },
        { { ["retry-after"] = "3" }, 3 },
        { { ["retry-after"] = "0.5" }, 0.5 },
        { { ["retry-after-ms"] = "250", ["retry-after"] = "3" }, 0.25 },
        { { ["retry-after-ms"] = "soon", ["retry-after"] = "3" }, 3 },
        { { ["retry-after"] = "-1" }, nil },
        { { ["retry-after"] = "nan" }, nil },
        { { ["retry-after"] = "inf" }, nil },
        { { ["retry-after"] = "1e999" }, nil },
        { { ["retry-after"] = "0x10" }, nil },
        { { ["retry-after"] = "" }, nil },
        { { ["retry-after"] = ("9"):rep(400) }, math.huge },
        { { ["retry-after-ms"] = "-1", ["retry-after"] = "3" }, 3 },
        { { ["retry-after"] = "tomorrow" }, nil },
        { { ["retry-after"] = "Sun, 06 Nov 1994 08:49:47 GMT" }, 10 },
        { { ["retry-after"] = "Sun, 06 Nov 1994 08:49:30 GMT" }, 0 },
        -- the server's clock is an hour ahead: its own Date counts
        { { ["retry-after"] = "Sun, 06 Nov 1994 09:49:47 GMT", date = "Sun, 06 Nov 1994 09:49:42 GMT" }, 5 },
      }
      for i, case in ipairs(cases) do
        assert.equal(case[2], retry.retry_after(case[1], now), i)
      end
    end)
  end)

  describe("waits", function()
    it("min(base * 2^(n-1), cap), half of it at random", function()
      local err = err_of { status = 503 }
      local p = policy { attempts = 99 }
      for attempt, least in ipairs { 0.25, 0.5, 1, 2, 4, 4, 4 } do
        assert.equal(least, retry.delay(p, err, attempt, 0))
        assert.equal(2 * least, retry.delay(p, err, attempt, 1))
      end
      for _ = 1, 50 do
        local delay = retry.delay(p, err, 1)
        assert.is_true(delay >= 0.25 and delay < 0.5)
      end
      assert.equal(8, retry.delay(p, err, 98, 1)) -- no overflow
    end)

    it("as long as the server asks for, up to max_wait", function()
      local p = policy()
      assert.equal(120, retry.delay(p, err_of { status = 429, retry_after = 120 }, 1, 0))
      for _, odd in ipairs { 0, -5, 0 / 0, "7" } do -- says nothing about when
        assert.equal(0.25, retry.delay(p, err_of { status = 429, retry_after = odd }, 1, 0))
      end
      assert.same({ nil, "retry_after" }, { retry.delay(p, err_of { status = 429, retry_after = math.huge }, 1) })
      assert.same({ nil, "retry_after" }, { retry.delay(p, err_of { status = 429, retry_after = 121 }, 1) })
      assert.equal(121, retry.delay(policy { max_wait = 200 }, err_of { status = 429, retry_after = 121 }, 1, 0))
    end)

    it("not at all after the last attempt, or where there is no use in it", function()
      assert.same({ nil, "attempts" }, { retry.delay(policy(), err_of { status = 503 }, 3) })
      assert.same({ nil, "final" }, { retry.delay(policy(), err_of { status = 400 }, 1) })
      assert.same({ nil, "final" }, { retry.delay(policy(), err_of { status = 400 }, 3) })
    end)

    it("as retry_if wants, where it says something", function()
      local p = policy { retry_if = function(err)
        if err.status == 404 then return true elseif err.status == 500 then return false end
      end }
      assert.is_number(retry.delay(p, err_of { status = 404 }, 1))
      assert.same({ nil, "final" }, { retry.delay(p, err_of { status = 500 }, 1) })
      assert.is_number(retry.delay(p, err_of { status = 503 }, 1))
    end)
  end)

  describe("calls", function()
    it("until one succeeds, and returns all that it returned", function()
      local seen = {}
      local results = { weft.retry(function(attempt)
        seen[#seen + 1] = attempt
        if attempt < 3 then return nil, "not yet" end
        return "a", nil, "c"
      end, fast) }
      assert.same({ 1, 2, 3 }, seen)
      assert.equal("a", results[1])
      assert.equal("c", results[3])
    end)

    it("a function that returns nothing once", function()
      local calls = 0
      assert.is_nil((weft.retry(function() calls = calls + 1 end)))
      assert.is_false((weft.retry(function() calls = calls + 1 return false, "x" end)))
      assert.equal(2, calls)
    end)

    it("and returns the last failure with what every attempt came to", function()
      local statuses = { 503, 429, 500 }
      local result, err = weft.retry(function(attempt)
        return nil, err_of { kind = "server", status = statuses[attempt] }
      end, fast)
      assert.is_nil(result)
      assert.equal(500, err.status)
      assert.equal("attempts", err.gave_up)
      assert.equal("failed (after 3 attempts)", err.message)
      local list = {}
      for i, attempt in ipairs(err.attempts) do
        assert.is_true(attempt.seconds >= 0)
        list[i] = attempt.kind .. " " .. attempt.status
      end
      assert.same({ "server 503", "server 429", "server 500" }, list)
    end)

    it("again when it raises, and returns what was raised", function()
      local calls = 0
      local result, err, _ = weft.retry(function() calls = calls + 1 error("no luck", 0) end, fast)
      assert.is_nil(result)
      assert.equal(3, calls)
      assert.equal("no luck (after 3 attempts)", err.message)
      _, err = weft.retry(function() error({ code = 7 }) end, { attempts = 1 })
      assert.same({ code = 7 }, err.value)
      _, err = weft.retry(function() return nil, 5 end, { attempts = 1 })
      assert.equal("5", err.message)
    end)

    it("tells on_retry before each wait", function()
      local seen = {}
      weft.retry(function(attempt) return nil, "n" .. attempt end, with { on_retry = function(err, attempt, seconds)
        seen[#seen + 1] = { err, attempt, seconds }
      end })
      assert.same({ { "n1", 1, 0 }, { "n2", 2, 0 } }, seen)
    end)

    it("with one key for all attempts, another for each call", function()
      local keys = {}
      local function fail(_, key)
        keys[#keys + 1] = key
        return nil, "no"
      end
      weft.retry(fail, with { idempotency_key = true })
      weft.retry(fail, with { attempts = 1, idempotency_key = true })
      weft.retry(fail, with { attempts = 1, idempotency_key = "mine" })
      assert.match("^weft%-%x+$", keys[1])
      assert.equal(keys[1], keys[2])
      assert.equal(keys[1], keys[3])
      assert.not_equal(keys[1], keys[4])
      assert.equal("mine", keys[5])
    end)

    it("never beyond the deadline of the context", function()
      local result, err
      weft.scope(weft.background():with_timeout(100), { pool = weft.inline }, function(group)
        group:go(function()
          result, err = weft.retry(function() return nil, err_of { status = 429, retry_after = 110 } end)
        end)
      end)
      assert.is_nil(result)
      assert.equal("deadline", err.gave_up)
      assert.equal(1, #err.attempts)
    end)

    it("no more once it is cancelled, and raises", function()
      local calls, raised = 0, nil
      weft.scope({ pool = weft.inline, collect = true }, function(group)
        group:go(function()
          local _, err = pcall(weft.retry, function()
            calls = calls + 1
            group:cancel()
            return nil, "no"
          end, { base = 1000, cap = 1000 })
          raised = err
        end)
      end)
      assert.equal("canceled", raised.kind)
      assert.equal(1, calls)
    end)

    it("no more when it is cancelled while it waits", function()
      local raised
      weft.scope({ pool = weft.inline, collect = true }, function(group)
        group:go(function()
          local _, err = pcall(weft.retry, function() return nil, "no" end, {
            base = 1000,
            cap = 1000,
            on_retry = function() group:go(function() group:cancel() end) end,
          })
          raised = err
        end)
      end)
      assert.equal("canceled", raised.kind)
    end)

    it("again after a deadline of its own", function()
      local calls = 0
      local result = weft.retry(function()
        calls = calls + 1
        if calls == 1 then
          weft.background():with_timeout(0):check()
        end
        return "done"
      end, fast)
      assert.equal("done", result)
      assert.equal(2, calls)
    end)
  end)

  describe("budgets", function()
    local function always_fails() return nil, err_of { status = 503 } end

    it("bound the retries of all calls together", function()
      local budget = weft.retry_budget { ratio = 0.1, min = 5 }
      local calls = 0
      local last
      for _ = 1, 100 do
        local _, err = weft.retry(function(...) calls = calls + 1 return always_fails(...) end,
          with { attempts = 4, budget = budget })
        last = err
      end
      -- 100 calls, 5 retries to start with and a tenth for each call
      assert.equal(100 + 5 + 10, calls)
      assert.equal("budget", last.gave_up)
      assert.match("the retry budget is used up", last.message)
    end)

    it("are not spent when the server says when to come back", function()
      local budget, calls = weft.retry_budget { ratio = 0, min = 1 }, 0
      local _, err = weft.retry(function()
        calls = calls + 1
        return nil, err_of { status = 429, retry_after = 1e-9 }
      end, with { attempts = 5, budget = budget })
      assert.equal(5, calls)
      assert.equal("attempts", err.gave_up)
      assert.equal(1, budget:remaining())
      _, err = weft.retry(function()
        return nil, err_of { status = 503, retry_after = 0 } -- "at once" is no time to come back
      end, with { attempts = 5, budget = budget })
      assert.equal("budget", err.gave_up)
      assert.equal(0, budget:remaining())
    end)

    it("fill up with calls that succeed, to a bound", function()
      local budget = weft.retry_budget { ratio = 1, min = 2 }
      for _ = 1, 50 do weft.retry(function() return true end, { budget = budget }) end
      assert.equal(20, budget:remaining())
    end)

    it("are shared by tasks on all threads", function()
      local budget = weft.retry_budget { ratio = 0, min = 7 }
      local results = weft.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function()
        local calls = 0
        weft.retry(function() calls = calls + 1 return nil, "no" end, { base = 0, budget = budget })
        return calls
      end, { chunk = 1 })
      local sum = 0
      for i = 1, 10 do sum = sum + results[i] end
      assert.equal(17, sum)
      assert.equal(0, budget:remaining())
    end)
  end)

  it("refuses misuse by name", function()
    local cases = {
      { "bad argument 'fn' to weft.retry: expected a function, got nil" },
      { "bad argument 'attempts' to weft.retry: expected a whole number >= 1, got 0", print, { attempts = 0 } },
      { "bad argument 'base' to weft.retry: expected a number >= 0, got string", print, { base = "x" } },
      { "bad argument 'budget' to weft.retry: expected a weft.retry_budget or false, got 1", print, { budget = 1 } },
      { "bad argument 'options' to weft.retry: expected a table, got 3", print, 3 },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(function() weft.retry(case[2], case[3]) end)
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^.-retry_spec.lua:%d+: ", "")))
    end
    local ok, err = pcall(function() weft.retry_budget { min = 1.5 } end)
    assert.is_false(ok)
    assert.match("retry_spec.lua:%d+: bad argument 'min' to weft.retry_budget", err)
  end)
end)
