--- One call of a model: what it may cost, its attempts, its account. Internal.
--
-- A client is the settings of a model (client.lua). A call is a request with what it needs: `path`, `url`, `body`,
-- `timeout`, `input` (an estimate of its tokens), `tokens` (the same with what may come back), `worst_usd`, and `read(reply)`,
-- which makes a result of a decoded reply, or returns nil and what is missing.
local core = require "weft.core"
local errors = require "weft.model.errors"
local http = require "weft.http"
local json = require "weft.json"
local limits = require "weft.model.limits"
local messages = require "weft.model.messages"
local prices = require "weft.model.prices"
local read = require "weft.model.read"
local retry = require "weft.retry"
local span = require("weft.span").span

local call = {}

local EXPECTED = 500 -- tokens of an answer, for the limit of tokens a minute, when the call sets no bound
local TOOLS = 1000 -- tokens at most that a provider adds to the description of tools

-- ---- making calls ----

-- A number from 1 up, nil for anything else: `extra` may hold what it wants.
local function count_of(value)
  return type(value) == "number" and value >= 1 and value or nil
end

-- The tokens of an answer at most, if the request bounds them, and the number of answers.
local function bound_of(body)
  local options = type(body.options) == "table" and body.options or {}
  local bound = count_of(body.max_tokens) or count_of(body.max_completion_tokens) or count_of(options.num_predict)
  return bound, count_of(body.n) or 1
end

-- What a call may cost at most: a token has at least one byte. An answer without a bound is as long as the model can
-- make it; where nobody knows how long that is, the budget could not be kept.
local function worst_usd(client, body, bytes, fields)
  if not client.budget then
    return nil
  end
  local bound, answers = bound_of(body)
  if fields.answers == false then
    bound = 0
  end
  bound = bound or client.price.max_output or client.price.output == 0 and 0
  if not bound then
    error(("bad argument 'max_tokens' to %s: %s"):format(fields.what, prices.bound_advice(client.model)), fields.level + 2)
  end
  return prices.worst(client.price, bytes + (body.tools and TOOLS or 0), answers * bound)
end

--- Makes a call.
-- @tparam table client
-- @tparam string path of the API
-- @tparam table body
-- @tparam table fields `what`: the public function; `timeout`; `answers`: false when no text comes back; `read`;
--   `level`: where a body that JSON cannot hold is an error
-- @treturn table
function call.new(client, path, body, fields)
  local text, where, problem = json.try_encode(body)
  if not text then
    error(("bad argument '%s' to %s: JSON cannot hold %s"):format(where:sub(2), fields.what, problem), fields.level + 1)
  end
  local bound, answers = bound_of(body)
  local expected = fields.answers == false and 0 or answers * (bound or EXPECTED)
  local input = read.estimate(#text)
  return {
    path = path,
    url = client.base .. path .. client.query,
    body = text,
    timeout = fields.timeout or client.timeout,
    input = input,
    tokens = math.ceil(input + expected),
    worst_usd = worst_usd(client, body, #text, fields),
    read = fields.read,
  }
end

--- The headers of a request.
function call.headers(client, key)
  local headers = client.headers
  if not key then
    return headers
  end
  local copy = { ["Idempotency-Key"] = key }
  for name, value in pairs(headers) do
    copy[name] = value
  end
  return copy
end

local function is_good(status)
  return status >= 200 and status <= 299
end
call.is_good = is_good

-- ---- accounts ----

--- Completes a result: its usage, estimated when the server did not say it, and its cost.
function call.complete(client, this, result)
  if not result.usage then
    result.usage = read.usage(this.input, result.text and read.estimate(#result.text) or 0)
    result.estimated = true
  end
  result.model = result.model or client.model
  result.message = result.text and messages.of(result)
  result.cost = client.price and prices.cost(client.price, result.usage) or nil
  return result
end

--- What a call that failed is taken to have used: nothing when the server said no, or was never asked; else at least
-- what was sent, and what came back.
-- @tparam table client
-- @tparam table this the call
-- @tparam ?error err nil: it was cancelled
-- @tparam integer bytes of the answer
-- @treturn number tokens
-- @treturn number usd
function call.loss(client, this, err, bytes)
  local was_refused = err and err.status and not is_good(err.status)
  if was_refused or err and err.sent == false then
    return 0, 0
  end
  local known = err and err.usage
  local usage = known or read.usage(this.input, bytes > 0 and read.estimate(bytes) or 0)
  local usd = client.price and prices.cost(client.price, usage) or 0
  if err and usd > 0 then
    err.cost, err.estimated = usd, not known
  end
  return usage.total_tokens, usd
end

-- ---- attempts ----

--- Makes a result of a whole answer.
-- @treturn[1] table
-- @treturn[2] nil
-- @treturn[2] error
function call.read_answer(client, this, res)
  if not is_good(res.status) then
    return nil, errors.of_status(client, res)
  end
  local reply, err = json.decode(res.body)
  if type(reply) ~= "table" then
    return nil, errors.bad_reply(client, err and err.message or "the reply is no JSON object", res.status)
  elseif type(reply.error) == "table" or type(reply.error) == "string" then
    return nil, errors.of_body(client, reply.error, "with status 200")
  end
  local ok, result, missing = pcall(this.read, reply)
  if not ok or not result then
    return nil, errors.bad_reply(client, ok and missing or "the reply has an unknown shape", res.status)
  end
  result.raw = reply
  call.complete(client, this, result)
  if result.finish_reason == "content_filter" and result.text == "" then
    return nil, errors.of_content(client, result.usage)
  end
  return result
end

local function request_of(client, this, key, is_stream)
  local request = {
    method = "POST",
    url = this.url,
    headers = call.headers(client, key),
    body = this.body,
    timeout = this.timeout,
    stream = is_stream or nil,
  }
  for name, value in pairs(client.http) do
    request[name] = value
  end
  return request
end

--- Sends the request. Internal.
function call.send(client, this, key, is_stream)
  local res, err = http.request(request_of(client, this, key, is_stream))
  return res, err and errors.of_transport(client, err)
end

-- A function of its own, whose frame has ended: of a handler that nginx ends in the middle the local variables are lost.
local function loser(client, this, lease)
  return function()
    local tokens, usd = call.loss(client, this, nil, 0)
    limits.leave(client, lease, "unknown", tokens, usd)
  end
end

--- Calls fn(client, this, lease, key) with all that the call needs, which fn gives back; when it raises, as it does when
-- the context is done, that is done here. Internal.
function call.with_lease(client, this, fn, key)
  local lease, refusal = limits.enter(client, this)
  if not lease then
    return nil, refusal
  end
  lease.lost = loser(client, this, lease)
  local ok, result, err = pcall(fn, client, this, lease, key)
  if not ok then
    lease.lost()
    error(result, 0)
  end
  return result, err
end

--- Ends an attempt that failed.
function call.fail(client, this, lease, err, bytes)
  local tokens, usd = call.loss(client, this, err, bytes)
  limits.leave(client, lease, limits.outcome_of(err), tokens, usd)
end

--- Ends an attempt that succeeded.
function call.succeed(client, lease, result)
  limits.leave(client, lease, "good", result.usage.total_tokens, result.cost or 0)
end

local function attempt(client, this, lease, key)
  local res, err = call.send(client, this, key)
  local result
  if res then
    result, err = call.read_answer(client, this, res)
    limits.listen(client, res, err, this.tokens)
  end
  if not result then
    call.fail(client, this, lease, err, res and #res.body or 0)
    return nil, err
  end
  client.limits.health:sample("whole", core.now() - lease.started)
  call.succeed(client, lease, result)
  return result
end

--- Calls the model, again where that may help.
-- @treturn[1] table a result, with `attempts`
-- @treturn[2] nil
-- @treturn[2] error
function call.run(client, this)
  return span("model " .. client.model, retry.run, client.retry, function(number, key)
    local result, err = call.with_lease(client, this, attempt, key)
    if result then
      result.attempts = number
    end
    return result, err
  end)
end

return call
