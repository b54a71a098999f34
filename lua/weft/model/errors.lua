--- Failures of models: what servers say, as errors of few kinds. Internal.
local core = require "weft.core"
local json = require "weft.json"
local redact = require "weft.redact"
local retry = require "weft.retry"

local errors = {}

local MAX_TEXT = 300

local hints = {
  auth = "the API key was refused",
  quota = "the quota of the account is used up",
  rate_limit = "too many requests",
  server = "the server failed",
  timeout = "the server timed out",
  content = "the content was refused",
  request = "the request was refused",
}

-- Words that servers put into the `code` or `type` of an error.
local kinds = {
  insufficient_quota = "quota",
  billing_error = "quota",
  billing_hard_limit_reached = "quota",
  content_filter = "content",
  content_policy_violation = "content",
  rate_limit_error = "rate_limit",
  rate_limit_exceeded = "rate_limit",
  authentication_error = "auth",
  permission_error = "auth",
  invalid_api_key = "auth",
  invalid_request_error = "request",
  not_found_error = "request",
  request_too_large = "request",
  context_length_exceeded = "request",
  timeout_error = "timeout",
}

-- Those that say more than the status.
local telling = { quota = true, content = true }

local function kind_of_words(problem)
  return kinds[problem.code] or kinds[problem.type]
end

--- The kind of an error status. Pure.
-- @tparam integer status
-- @tparam table problem `code` and `type`, as the server gave them
-- @treturn string
function errors.kind_of(status, problem)
  local kind = kind_of_words(problem)
  if status < 500 and telling[kind] then
    return kind
  elseif status == 401 or status == 403 then
    return "auth"
  elseif status == 402 then
    return "quota"
  elseif status == 429 then
    return "rate_limit"
  elseif status == 408 then
    return "timeout"
  end
  return status >= 500 and "server" or "request"
end

--- What a body says about an error: `{ error = { message, type, code } }` or something like it. Pure.
-- @tparam string body
-- @treturn table maybe with `message`, `type`, `code`
function errors.problem_of(body)
  local reply = json.decode(body)
  local problem = type(reply) == "table" and reply.error or reply
  if type(problem) == "table" then
    return problem
  end
  return { message = type(problem) == "string" and problem or body }
end

-- A message of the server's, in one line.
local function excerpt(client, problem)
  local text = type(problem.message) == "string" and problem.message or ""
  text = redact.text(client.forms, text):gsub("%s+", " ") -- before it is cut: half a key is none that is known
  if #text > MAX_TEXT then
    text = text:sub(1, MAX_TEXT) .. "…"
  end
  return text == "" and "" or ": " .. text
end

--- The same error with the text that came before it: what the model wrote, but for a key that it repeats.
function errors.with_partial(client, err, text)
  err.partial = text and redact.known(client.forms, text)
  return err
end

--- An error that names the model, and holds no secret.
function errors.new(client, kind, message, fields)
  local err = core.new_error(fields or {})
  err.kind = kind
  err.message = ("%s: %s"):format(client.label, redact.text(client.forms, message))
  err.cause = redact.value(client.forms, err.cause)
  return errors.with_partial(client, err, err.partial)
end

--- What a client does when its server answers with an error status.
-- @tparam table client
-- @tparam table res `status`, `headers`, `body`
-- @treturn error with `status`, maybe `retry_after`, `should_retry`
function errors.of_status(client, res)
  local problem = errors.problem_of(res.body)
  local kind = errors.kind_of(res.status, problem)
  local message = ("%s (status %d)%s"):format(hints[kind], res.status, excerpt(client, problem))
  return errors.new(client, kind, message, {
    status = res.status,
    retry_after = retry.retry_after(res.headers),
    should_retry = retry.should_retry(res.headers),
  })
end

--- An error that came inside of an answer whose status was 200.
-- @tparam table client
-- @param problem what stood in `error`: a table or a string
-- @tparam string where "in the stream", for the message
-- @treturn error
function errors.of_body(client, problem, where)
  problem = type(problem) == "table" and problem or { message = problem }
  local kind = kind_of_words(problem) or "server"
  return errors.new(client, kind, ("%s (%s)%s"):format(hints[kind], where, excerpt(client, problem)))
end

--- An answer that says nothing because its content was refused.
function errors.of_content(client, usage)
  return errors.new(client, "content", "the content was refused", { usage = usage })
end

--- A request that got no answer: the engine's error, named after the model.
function errors.of_transport(client, err)
  err.message = ("%s: %s"):format(client.model, err.message)
  return redact.value(client.forms, err)
end

--- An answer that is not what the API promises.
function errors.bad_reply(client, what, status)
  return errors.new(client, "bad_reply", what, { status = status })
end

return errors
