--- Trying again: which failures may pass, how long to wait, and when to stop.
--
--     local text, err = weft.retry(function() return fetch(url) end, { attempts = 4 })
--
-- The policy that models have built in, for any function. What counts as a failure: fn raises, or returns nil and
-- an error. What is tried again:
--
-- | failure | tried again |
-- | --- | --- |
-- | status 408, 409, 429, 500 and above | yes |
-- | a header `x-should-retry` (`err.should_retry`) | as it says, but for "quota" |
-- | libcurl's codes 5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92, 95: name, connection, reset, cut short | yes |
-- | certificates, any other code of libcurl, any other status, also of a proxy that refuses (`err.proxy_status`) | no |
-- | kinds "quota", "auth", "request", "content", "invalid", "too_large", "skipped_budget", "breaker_open" | no |
-- | kind "canceled" | no; a cancelled context raises |
-- | any other error, whatever its type | yes |
--
-- The wait before attempt n + 1 is min(base * 2^(n-1), cap) seconds, half of it at random; or as long as the server
-- asks for (`err.retry_after` above 0), when that is not more than `max_wait`. It never reaches beyond the deadline of the
-- context: then the failure is returned at once.
--
-- @module weft.retry
local check = require "weft.check"
local core = require "weft.core"
local dates = require "weft.dates"
local options = require "weft.options"

local retry = {}

local ATTEMPTS, BASE, CAP, MAX_WAIT = 3, 0.5, 8, 120
local RATIO, MIN, SAVED = 0.2, 10, 10

-- ---- which failures ----

local function set(list)
  local members = {}
  for _, member in ipairs(list) do
    members[member] = true
  end
  return members
end

local retried_curl_codes = set { 5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92, 95 }
local told_kinds = set { "auth", "request" } -- final, unless the server says that they are not
local final_kinds = set {
  "quota",
  "auth",
  "request",
  "content",
  "invalid",
  "too_large",
  "skipped_budget",
  "breaker_open",
  "redirect",
  "closed",
  "canceled",
  "nomem",
  "nothread",
}

--- Whether a status may be another one next time. Internal.
function retry.is_retried_status(status)
  return status == 408 or status == 409 or status == 429 or status >= 500
end

-- libcurl's code of a failure in weft.http; 0 stands for none.
local function curl_code(err)
  return core.is_error(err) and type(err.code) == "number" and err.code > 0 and err.code or nil
end

--- Whether a failure may pass: the table above.
-- @param err any value; of a table the fields `kind`, `status`, `should_retry` and, of an error of weft, `code` count
-- @treturn boolean
function retry.is_retried(err)
  if type(err) ~= "table" then
    return true
  elseif final_kinds[err.kind] and not (told_kinds[err.kind] and err.should_retry == true) then
    return false
  elseif type(err.should_retry) == "boolean" then
    return err.should_retry
  elseif type(err.status) == "number" and err.status >= 400 then
    return retry.is_retried_status(err.status)
  end
  if type(err.proxy_status) == "number" and not retry.is_retried_status(err.proxy_status) then
    return false
  end
  local code = curl_code(err)
  if code then
    return retried_curl_codes[code] or false
  end
  return err.kind ~= "tls"
end

-- ---- what the server says ----

-- Digits, maybe with a fraction: tonumber would take "0x10", "1e9" and on LuaJIT "nan" as well.
local function number_of(text)
  return type(text) == "string" and tonumber(text:match "^%s*(%d+%.?%d*)%s*$")
end

-- Both dates are the server's, where it tells its own: its clock may be wrong.
local function seconds_until(date, headers, now)
  local when = dates.http(date)
  local sent = type(headers.date) == "string" and dates.http(headers.date)
  return when and math.max(0, when - (sent or now))
end

--- How long a server wants to be left alone: `retry-after-ms`, or `retry-after` in seconds or as a date.
-- @tparam table headers by lower-case names, as an answer has them
-- @tparam[opt] number now seconds since 1970; default: os.time()
-- @treturn ?number seconds, or nil when it does not say
-- @raise bad argument
function retry.retry_after(headers, now)
  check.table("weft.retry.retry_after", "headers", headers)
  if now ~= nil and (type(now) ~= "number" or now ~= now) then
    check.fail("weft.retry.retry_after", "now", "a number", now)
  end
  local ms = number_of(headers["retry-after-ms"])
  if ms then
    return ms / 1000
  end
  local text = headers["retry-after"]
  return number_of(text) or type(text) == "string" and seconds_until(text, headers, now or os.time()) or nil
end

--- The wait that a failure asks for, nil when it asks for none: "at once" and a date that has passed say nothing about
-- when the server will be well again. Internal.
function retry.asked_for(err)
  local asked = type(err) == "table" and err.retry_after
  return type(asked) == "number" and asked > 0 and asked or nil
end

--- What `x-should-retry` says: true, false, or nil. Internal.
function retry.should_retry(headers)
  local text = headers["x-should-retry"]
  if text == "true" then
    return true
  elseif text == "false" then
    return false
  end
end

-- ---- how long ----

-- LuaJIT begins the same row of numbers in every state; the clock tells them apart.
local random = core.random

--- The wait before another attempt, without regard to deadlines. Internal.
-- @tparam table policy
-- @param err the failure of this attempt
-- @tparam integer attempt the first is 1
-- @tparam[opt] number chance from 0 to 1; default: random
-- @treturn[1] number seconds
-- @treturn[2] nil
-- @treturn[2] string why there is no other attempt: "attempts", "final", "retry_after"
function retry.delay(policy, err, attempt, chance)
  local wanted = policy.retry_if and policy.retry_if(err)
  if wanted == nil then
    wanted = retry.is_retried(err)
  end
  if not wanted then
    return nil, "final"
  elseif attempt >= policy.attempts then
    return nil, "attempts"
  end
  chance = chance or random()
  local asked = retry.asked_for(err)
  if not asked then
    return math.min(policy.base * 2 ^ (attempt - 1), policy.cap) * (1 + chance) / 2
  elseif asked > policy.max_wait then
    return nil, "retry_after"
  end
  return asked * (1 + chance / 10)
end

-- ---- a budget of retries ----

--- What many calls share so that an outage does not multiply their load.
-- @type retry_budget
local Budget = core.class("weft.retry")
Budget.__index = Budget
Budget.__name = "weft.retry_budget"

function Budget:__tostring()
  return ("weft retry budget: %.1f of %.0f"):format(self.tokens:remaining(), self.most)
end

local budget_fields = { ratio = options.finite, min = options.whole }

--- Makes a budget of retries, to be shared by calls to the same server: every call pays in `ratio`, every attempt
-- after a call's first takes out one, unless the server said when to come back.
-- When nothing is left, failures are returned at once. It can be captured and
-- sent. A model has one of its own.
-- @function weft.retry_budget
-- @tparam[opt] table given
-- @tparam[opt=0.2] number given.ratio retries for each call, in the long run
-- @tparam[opt=10] integer given.min how many are there at the start; ten times as many can be saved up
-- @treturn retry_budget
-- @raise bad argument or unknown option
function retry.retry_budget(given)
  given = given == nil and {} or given
  options.check("weft.retry_budget", given, budget_fields, 2)
  local min = given.min or MIN
  return setmetatable({
    tokens = core.budget({ usd = min, warn = 0 }),
    ratio = given.ratio or RATIO,
    most = SAVED * math.max(1, min),
  }, Budget)
end

--- How many retries there may be now.
-- @function retry_budget:remaining
-- @treturn number
function Budget:remaining()
  check.self("retry_budget:remaining", "retry budget", self, Budget)
  return self.tokens:remaining()
end

local function pay_in(budget)
  if budget and budget.ratio > 0 then
    budget.tokens:add(budget.ratio, budget.most)
  end
end

--- Takes one retry out of a budget, if there is one: false when nothing is left. Internal.
function retry.take_out(budget)
  if not budget then
    return true
  elseif not budget.tokens:try_reserve(1) then
    return false
  end
  budget.tokens:settle(1, 1)
  return true
end

-- ---- policies ----

local is_budget = {
  function(value)
    return value == false or getmetatable(value) == Budget
  end,
  "a weft.retry_budget or false",
}
local is_key = {
  function(value)
    return type(value) == "boolean" or options.word[1](value)
  end,
  "true or a string that is not empty",
}

local fields = {
  attempts = options.count,
  base = options.finite,
  cap = options.finite,
  max_wait = options.finite,
  budget = is_budget,
  retry_if = options.func,
  on_retry = options.func,
  idempotency_key = is_key,
}

--- Checks options and completes them. Internal; for clients that have a policy as an option.
-- @tparam string what the public function, for errors
-- @tparam table given
-- @tparam integer level where errors are raised, 1 being the caller
-- @tparam[opt] string outer the option that holds them
-- @treturn table plain data but for handles and the functions given
function retry.policy(what, given, level, outer)
  options.check(what, given, fields, level + 1, outer)
  return {
    attempts = given.attempts or ATTEMPTS,
    base = given.base or BASE,
    cap = given.cap or CAP,
    max_wait = given.max_wait or MAX_WAIT,
    budget = given.budget or nil,
    retry_if = given.retry_if,
    on_retry = given.on_retry,
    idempotency_key = given.idempotency_key,
  }
end

-- A key that no other call has.
local function new_key()
  local source = io.open("/dev/urandom", "rb")
  local bytes = source and source:read(16)
  if source then
    source:close()
  end
  if not bytes or #bytes < 16 then
    return ("weft-%.9f-%s"):format(core.now(), tostring({}):match("0x(%x+)") or random())
  end
  return "weft-" .. bytes:gsub(".", function(byte)
    return ("%02x"):format(byte:byte())
  end)
end

-- ---- the loop ----

local function as_error(err)
  if core.is_error(err) then
    return err
  end
  return core.new_error({ kind = "error", message = tostring(err), value = type(err) ~= "string" and err or nil })
end

-- Keeps what each attempt came to; the last failure takes it along.
local function record(attempts, err, started)
  local is_table = type(err) == "table"
  attempts[#attempts + 1] = {
    kind = is_table and err.kind or "error",
    status = is_table and err.status or nil,
    seconds = core.now() - started,
  }
end

local stops = {
  deadline = "the next attempt would begin after the deadline",
  budget = "the retry budget is used up: too many calls fail; option 'budget' of retry",
  retry_after = "the server asks for a longer wait than max_wait",
}

local function give_up(err, attempts, reason)
  err = as_error(err)
  err.attempts = attempts
  err.gave_up = reason
  local count = #attempts
  if stops[reason] then
    err.message = ("%s (after %d attempt%s: %s)"):format(err.message, count, count == 1 and "" or "s", stops[reason])
  elseif count > 1 then
    err.message = ("%s (after %d attempts)"):format(err.message, count)
  end
  return nil, err
end

-- The wait before the next attempt, or nil and why there is none.
local function next_delay(policy, err, attempt)
  local delay, reason = retry.delay(policy, err, attempt)
  if not delay then
    return nil, reason
  elseif delay >= math.min(core.current():remaining(), (policy.deadline or math.huge) - core.now()) then
    return nil, "deadline"
  elseif not retry.asked_for(err) and not retry.take_out(policy.budget) then
    return nil, "budget" -- who comes back when the server said so does not multiply its load
  end
  return delay
end

local function is_failure(ok, result, err)
  return not ok or result == nil and err ~= nil
end

local run

local function finish(policy, fn, key, attempts, started, ok, ...)
  if not is_failure(ok, ...) then
    return ...
  end
  local err = ok and select(2, ...) or (...)
  core.current():check() -- cancellation is raised, whatever fn made of it
  if not ok and not policy.catches then
    error(err, 0)
  end
  record(attempts, err, started)
  local delay, reason = next_delay(policy, err, #attempts)
  if not delay then
    return give_up(err, attempts, reason)
  end
  if policy.on_retry then
    policy.on_retry(err, #attempts, delay)
  end
  core.sleep(delay)
  return run(policy, fn, key, attempts)
end

run = function(policy, fn, key, attempts)
  return finish(policy, fn, key, attempts, core.now(), pcall(fn, #attempts + 1, key))
end

--- Calls a function by a policy. Internal; for clients, whose attempts return their failures: what one raises is a
-- mistake, such as in a callback of the user's, and is raised at once.
-- @tparam table policy of @{retry.policy}; `deadline`, if any, ends it as the context's does; `catches`: what is raised
--   counts as a failure, too
-- @tparam function fn called as fn(attempt, key)
function retry.run(policy, fn)
  local key = policy.idempotency_key
  pay_in(policy.budget)
  return run(policy, fn, key == true and new_key() or key or nil, {})
end

--- Calls fn(attempt, key) until it succeeds or there is no use in it; see above.
-- @function weft.retry
-- @tparam function fn `attempt` counts from 1; `key` is the idempotency key, the same for all attempts
-- @tparam[opt] table given
-- @tparam[opt=3] integer given.attempts calls at most
-- @tparam[opt=0.5] number given.base seconds before the second attempt, doubled for each one after it
-- @tparam[opt=8] number given.cap seconds that no such wait exceeds
-- @tparam[opt=120] number given.max_wait seconds; when a server asks for a longer wait, there is none
-- @tparam[opt] retry_budget given.budget shared with other calls
-- @tparam[opt] function given.retry_if retry_if(err) returns true or false, or nil for the table above
-- @tparam[opt] function given.on_retry on_retry(err, attempt, seconds) is called before each wait
-- @tparam[opt] boolean|string given.idempotency_key true: a new key for this call
-- @return[1] what fn returned
-- @treturn[2] nil
-- @treturn[2] error the last failure, with `attempts`: a list of `{ kind, status, seconds }`, and `gave_up`:
--   "attempts", "final" (there is no use in another), "deadline", "budget" or "retry_after"
-- @raise bad argument; an error of kind "canceled" or "deadline" once the context is done
function retry.retry(fn, given)
  if type(fn) ~= "function" then
    options.refuse("weft.retry", "fn", "a function", fn, 2)
  end
  local policy = retry.policy("weft.retry", given == nil and {} or given, 2)
  policy.catches = true
  return retry.run(policy, fn)
end

return retry
