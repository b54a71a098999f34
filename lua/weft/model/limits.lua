--- What a call needs before it may start, and what it gives back. Internal.
--
-- All of it belongs to the client: places (concurrency), a gate (requests a minute, and the pause that a 429 asks
-- for), tokens a minute, the breaker, the budget. They are handles, so every task that has the model has the same.
local core = require "weft.core"
local dates = require "weft.dates"
local errors = require "weft.model.errors"
local finalizer = require "weft.finalizer"
local options = require "weft.options"
local retry = require "weft.retry"

local limits = {}

local MINUTE = 60
local FIRST_PLACES, MOST_PLACES = 8, 256
local COOLDOWN = 10

-- ---- options ----

local limit_fields = {
  requests_per_minute = options.count,
  tokens_per_minute = options.count,
  concurrency = options.count,
  adaptive = {
    function(value)
      return type(value) == "boolean" or type(value) == "table"
    end,
    "true or a table",
  },
}
local adaptive_fields = { min = options.count, max = options.count, latency = options.seconds }
local breaker_fields = { failures = options.count, cooldown = options.seconds }

--- Checks `limits` and `breaker`, and makes the handles.
-- @tparam string what the public function
-- @tparam table given its options
-- @tparam integer level where errors are raised, 1 being the caller
-- @treturn table
function limits.new(what, given, level)
  local wanted, breaker = given.limits or {}, given.breaker or {}
  options.check(what, wanted, limit_fields, level + 1, "limits")
  options.check(what, breaker, breaker_fields, level + 1, "breaker")
  local adaptive = wanted.adaptive or nil
  if type(adaptive) == "table" then
    options.check(what, adaptive, adaptive_fields, level + 1, "limits.adaptive")
  end
  adaptive = adaptive == true and {} or adaptive
  local first = wanted.concurrency or adaptive and FIRST_PLACES
  local rpm, tpm = wanted.requests_per_minute, wanted.tokens_per_minute
  local burst = rpm and math.max(1, math.floor(rpm / 10))
  local places = first and core.semaphore(first)
  return {
    places = places or nil,
    -- at most rpm in any minute, a tenth of them at once
    gate = core.limiter(rpm and { rate = math.max(rpm - burst, rpm / 2) / MINUTE, burst = burst } or { rate = math.huge }),
    tokens = tpm and core.limiter({ rate = tpm / MINUTE, burst = tpm }) or nil,
    health = core.health({
      failures = given.breaker and (breaker.failures or 5) or 0,
      cooldown = breaker.cooldown or COOLDOWN,
      places = adaptive and places or nil,
      least = adaptive and adaptive.min or 1,
      most = adaptive and adaptive.max or MOST_PLACES,
      slow = adaptive and adaptive.latency or 0,
    }),
  }
end

-- ---- what the server says about its limits ----

local units = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }

local function number_of(text)
  local number = tonumber(text or "")
  return number and number >= 0 and number < math.huge and number or nil
end

-- "1s", "6m0s", "20ms", "1h2m3.5s", a number of seconds, or a date; nil for anything else.
local function reset_seconds(text, now)
  if type(text) ~= "string" then
    return nil
  elseif tonumber(text) then
    return number_of(text)
  end
  local date = dates.rfc3339(text)
  if date then
    return math.max(0, date - now)
  end
  local sum, rest = 0, text
  while rest ~= "" do
    local number, unit, after = rest:match("^(%d+%.?%d*)(m?[smhd])(.*)$")
    if not number then
      number, unit, after = rest:match("^(%d+%.?%d*)(m)(.*)$")
    end
    if not number or not units[unit] then
      return nil
    end
    sum, rest = sum + number * units[unit], after
  end
  return sum
end

local function names_of(pattern)
  return { remaining = pattern:format("remaining"), reset = pattern:format("reset"), limit = pattern:format("limit") }
end

local of_requests = { names_of("x-ratelimit-%s-requests"), names_of("anthropic-ratelimit-requests-%s") }
local of_tokens = {
  names_of("x-ratelimit-%s-tokens"),
  names_of("anthropic-ratelimit-tokens-%s"),
  names_of("anthropic-ratelimit-input-tokens-%s"),
  names_of("anthropic-ratelimit-output-tokens-%s"),
}

-- A bucket that is empty fills within `reset` seconds: how long until it holds `wanted`.
local function wait_for(headers, names, wanted, now)
  local remaining = number_of(headers[names.remaining])
  if not remaining or remaining >= wanted then
    return 0
  end
  local reset = reset_seconds(headers[names.reset], now)
  local limit = number_of(headers[names.limit])
  if reset and limit and limit > 0 then
    return reset * math.min(1, (wanted - remaining) / limit)
  end
  return reset or 0
end

local function longest_wait(headers, families, wanted, now)
  local longest = 0
  for _, names in ipairs(families) do
    longest = math.max(longest, wait_for(headers, names, wanted, now))
  end
  return longest
end

--- How long a client should wait before its next request, as far as the headers `x-ratelimit-…` and
-- `anthropic-ratelimit-…` tell: until there is room for one request of so many tokens. Pure.
-- @tparam table headers by lower-case names
-- @tparam number tokens
-- @tparam[opt] number now seconds since 1970
-- @treturn number seconds; 0 when there is room, or nothing is said
function limits.wait_of(headers, tokens, now)
  now = now or os.time()
  return math.max(longest_wait(headers, of_requests, 1, now), longest_wait(headers, of_tokens, tokens, now))
end

--- After an answer: one pause for the whole client, when the server asks for it.
-- @tparam table client
-- @tparam table res
-- @tparam ?error err the failure that came of it
-- @tparam number tokens of the call
function limits.listen(client, res, err, tokens)
  local wait = limits.wait_of(res.headers, tokens)
  if err and err.kind == "rate_limit" then
    if not retry.asked_for(err) and wait > 0 then
      err.retry_after = wait
    end
    wait = retry.asked_for(err) or client.retry.base
  end
  if wait > 0 and wait <= client.retry.max_wait then
    client.limits.gate:pause(wait)
  end
end

-- ---- taking ----

-- What a limiter refused, in the words of the client.
local function refusal(client, call, err)
  if err.kind == "too_large" then
    local text = "the call needs about %d tokens, more than tokens_per_minute allows at all (%d)"
    return errors.new(client, "too_large", text:format(call.tokens, client.limits.tokens:burst()))
  elseif err.kind == "deadline" then
    local text = "the limits would let the call start only after the deadline"
    return errors.new(client, "deadline", text, { should_retry = false })
  end
  return err
end

-- In this order: what is scarce and can be waited for first; the money last, when nothing else can hold the
-- call up. Each step notes in `lease` what leave() has to give back.
local function take_turn(client, call, lease)
  local own = client.limits
  if own.places then
    own.places:acquire(1)
    lease.places = true
  end
  local ok, err = own.gate:wait(1)
  lease.gate = ok
  if ok and own.tokens then
    ok, err = own.tokens:wait(call.tokens)
    lease.tokens = ok and call.tokens
  end
  return ok, err and refusal(client, call, err)
end

local function take(client, call, lease)
  local ok, err = take_turn(client, call, lease)
  if not ok then
    return nil, err
  end
  ok, err = client.limits.health:enter()
  if err then
    err.message = ("%s: %s"):format(client.label, err.message)
    return nil, err
  end
  lease.entered, lease.is_probe = true, ok
  if client.budget then
    ok, err = client.budget:reserve(call.worst_usd)
    if not ok then
      return nil, err
    end
    lease.usd = call.worst_usd
  end
  lease.started = core.now()
  return lease
end

-- nginx may end a handler in the middle, and then nothing of it runs any more: what it held is given back when it is
-- collected. `lease.lost` does that for a call that was sent.
local function guarded(client, lease)
  if core.host then
    lease.guard = finalizer.new(function()
      lease.is_silent = true
      if lease.lost then
        lease.lost()
      else
        limits.abandon(client, lease)
      end
    end)
  end
  return lease
end

--- Waits until the call may start, and takes all that it needs.
-- @tparam table client
-- @tparam table call `tokens`: an estimate; `worst_usd`: with a budget
-- @treturn[1] table a lease, to be given to @{limits.leave}
-- @treturn[2] nil
-- @treturn[2] error of kind "too_large", "skipped_budget", "breaker_open" or "deadline"
-- @raise when the context is done: nothing is held then
function limits.enter(client, call)
  local lease = guarded(client, {})
  local ok, result, err = pcall(take, client, call, lease)
  if ok and result then
    return lease
  end
  limits.abandon(client, lease)
  if not ok then
    error(result, 0)
  end
  return nil, err
end

-- ---- giving back ----

--- Gives all back: the call was never sent.
function limits.abandon(client, lease)
  if lease.gate then
    client.limits.gate:give_back(1)
    lease.gate = nil
  end
  limits.leave(client, lease, "unknown", 0, 0)
end

--- Ends a lease; the second time it does nothing.
-- @tparam table client
-- @tparam table lease
-- @tparam string outcome for the health: "good", "bad", "overload", "sick", "unknown"
-- @tparam number tokens that were used
-- @tparam number usd that were spent
function limits.leave(client, lease, outcome, tokens, usd)
  local own = client.limits
  if lease.tokens then
    own.tokens:settle(lease.tokens, tokens)
    lease.tokens = nil
  end
  if lease.usd then
    local is_due = client.budget:settle(lease.usd, usd)
    lease.usd = nil
    if is_due and client.on_warn and not lease.is_silent then
      lease.warn = true
    end
  end
  if lease.entered then
    own.health:report(outcome, lease.started or core.now(), lease.is_probe)
    lease.entered = nil
  end
  if lease.places then
    own.places:release(1)
    lease.places = nil
  end
  if lease.warn then
    lease.warn = nil
    client.on_warn(client.budget)
  end
end

local sick_statuses = { [503] = true, [529] = true }

--- What a failure says about the server. Pure.
function limits.outcome_of(err)
  if not err then
    return "good"
  elseif err.kind == "rate_limit" then
    return "overload"
  elseif err.kind == "timeout" or sick_statuses[err.status] then
    return "sick"
  elseif err.kind == "server" or err.kind == "bad_reply" or err.kind == "stream_truncated" then
    return "bad"
  elseif err.status or err.kind == "content" or err.kind == "request" then
    return "good" -- it answers, and says no
  end
  return err.kind == "canceled" and "unknown" or "bad"
end

return limits
