--- Models behind OpenAI's chat completions API, and behind the many servers that speak the same.
--
--     local m = weft.model.openai{ api_key = os.getenv "OPENAI_API_KEY", model = "gpt-4o-mini" }
--     local answer, err = m:chat{ prompt = "Name a fruit." }
--     print(answer and answer.text or err)
--
-- A model is plain data: tasks may capture it, whichever thread they run on. Failures are `nil, err`, with
-- `err.status` where an answer came and `err.attempts`, the number of requests that were sent:
--
-- | kind | what it is | tried again |
-- | --- | --- | --- |
-- | "rate_limit" | status 429 | yes |
-- | "server" | status 500 and above, such as 529 | yes |
-- | "timeout" | no whole answer in time, or status 408 | yes |
-- | "network" | name, connection, reset, an answer that was cut short | yes |
-- | "bad_reply" | an answer that is not what the API promises | yes |
-- | "protocol" | an answer that is not HTTP | yes |
-- | "quota" | nothing is left on the account: status 402, or 429 that says so | no |
-- | "auth" | status 401 or 403 | no |
-- | "request" | any other status | no |
-- | "tls", "too_large", "nomem", … | as in weft.http | no |
--
-- Before another try it waits min(0.5 * 2^n, 8) seconds, half of it at random, or as long as the server asked
-- for; never beyond the deadline of the context, in which case the last failure is returned at once.
-- A cancelled context aborts the request and raises. Keys, and the values of own headers, are replaced by
-- "[redacted]" wherever the text of an error would hold them.
--
-- @module weft.model.openai
local core = require "weft.core"
local http = require "weft.http"
local json = require "weft.json"
local options = require "weft.options"

local openai = {}

local BASE_URL = "https://api.openai.com/v1"
local TIMEOUT = 600
local ATTEMPTS = 3
local MAX_WAIT = 60
local FIRST_DELAY, MAX_DELAY = 0.5, 8
local MAX_ERROR_TEXT = 300

--- A model.
-- @type model
local Model = core.class("weft.model.openai")
Model.__index = Model
Model.__name = "weft.model.openai"

function Model:__tostring()
  return ("weft.model.openai: %s"):format(rawget(self, "settings").label)
end

function Model.__newindex()
  error("a model cannot be changed; make another one", 2)
end

-- ---- errors without keys ----

local function redact(settings, text)
  for _, secret in ipairs(settings.secrets) do
    text = text:gsub(secret:gsub("%W", "%%%0"), "[redacted]")
  end
  return text
end

-- A message of the server's, in one line.
local function excerpt(settings, text)
  text = redact(settings, text):gsub("%s+", " ")
  return #text > MAX_ERROR_TEXT and text:sub(1, MAX_ERROR_TEXT) .. "…" or text
end

local function failure(settings, kind, message, res)
  return core.new_error({
    kind = kind,
    message = ("%s: %s"):format(settings.label, message),
    status = res and res.status,
  })
end

local HINTS = {
  auth = "the API key was refused",
  quota = "the quota of the account is used up",
  rate_limit = "too many requests",
  server = "the server failed",
  timeout = "the server timed out",
  request = "the request was refused",
}

local function kind_of(status, problem)
  if status == 401 or status == 403 then
    return "auth"
  elseif status == 402 or status == 429 and (problem.code or problem.type) == "insufficient_quota" then
    return "quota"
  elseif status == 429 then
    return problem.type == "insufficient_quota" and "quota" or "rate_limit"
  elseif status == 408 then
    return "timeout"
  end
  return status >= 500 and "server" or "request"
end

-- What servers put into the body of an error: { error = { message, type, code } } or something like it.
local function problem_of(res)
  local reply = json.decode(res.body)
  local problem = type(reply) == "table" and reply.error or reply
  if type(problem) == "table" then
    return problem
  end
  return { message = type(problem) == "string" and problem or res.body }
end

local function number_header(res, name)
  local number = tonumber(res.headers[name] or "")
  return number and number >= 0 and number < math.huge and number or nil
end

-- How long the server wants to be left alone, in seconds, or nil.
local function retry_after(res)
  local ms = number_header(res, "retry-after-ms")
  return ms and ms / 1000 or number_header(res, "retry-after")
end

local function status_failure(settings, res)
  local problem = problem_of(res)
  local kind = kind_of(res.status, problem)
  local text = type(problem.message) == "string" and problem.message or ""
  local message = ("%s (status %d)"):format(HINTS[kind], res.status)
  if text ~= "" then
    message = message .. ": " .. excerpt(settings, text)
  end
  local err = failure(settings, kind, message, res)
  err.retry_after = retry_after(res)
  return err
end

-- ---- answers ----

local function text_of(message)
  if type(message.content) == "string" then
    return message.content
  elseif type(message.tool_calls) == "table" or type(message.refusal) == "string" then
    return ""
  end
end

local function count_of(usage, name)
  return type(usage) == "table" and type(usage[name]) == "number" and usage[name] or 0
end

local function string_or_nil(value)
  return type(value) == "string" and value or nil
end

-- The result of a chat; or nil and what is missing.
local function read_reply(settings, reply)
  local choice = type(reply) == "table" and type(reply.choices) == "table" and reply.choices[1]
  if type(choice) ~= "table" or type(choice.message) ~= "table" then
    return nil, "the reply has no choices[1].message"
  end
  local text = text_of(choice.message)
  if not text then
    return nil, "the reply has no choices[1].message.content"
  end
  local usage = {}
  for _, name in ipairs({ "prompt_tokens", "completion_tokens", "total_tokens" }) do
    usage[name] = count_of(reply.usage, name)
  end
  return {
    text = text,
    finish_reason = string_or_nil(choice.finish_reason),
    usage = usage,
    model = string_or_nil(reply.model) or settings.model,
    raw = reply,
  }
end

local function read_answer(settings, res)
  if res.status < 200 or res.status > 299 then
    return nil, status_failure(settings, res)
  end
  local reply, err = res:json()
  if reply == nil then
    return nil, failure(settings, "bad_reply", err.message, res)
  end
  local result, missing = read_reply(settings, reply)
  if not result then
    return nil, failure(settings, "bad_reply", missing, res)
  end
  return result
end

-- ---- one try, and the next ones ----

local function send(settings, request)
  local res, err = http.request(request)
  if res then
    return read_answer(settings, res)
  end
  err.message = ("%s: %s"):format(settings.model, redact(settings, err.message))
  return nil, err
end

-- Holds one of the places while a request runs, not while it waits for the next try.
local function try(settings, request)
  if settings.places then
    return settings.places:with(1, send, settings, request)
  end
  return send(settings, request)
end

local retried = {
  rate_limit = true,
  server = true,
  timeout = true,
  network = true,
  bad_reply = true,
  protocol = true,
}

-- LuaJIT begins the same row of numbers in every state; the clock tells them apart.
local function random()
  return (math.random() + core.now() * 1e4) % 1
end

-- Seconds until the next try, or nil when there is none.
local function delay_before_next(settings, err, attempt)
  local retry = settings.retry
  if attempt >= retry.attempts or not retried[err.kind] then
    return nil
  end
  local delay = math.min(retry.delay * 2 ^ (attempt - 1), MAX_DELAY) * (1 + random()) / 2
  if err.retry_after then
    if err.retry_after > retry.max_wait then
      return nil
    end
    delay = err.retry_after * (1 + random() / 10)
  end
  return delay < core.current():remaining() and delay or nil
end

local function run(settings, request)
  local attempt = 1
  while true do
    local result, err = try(settings, request)
    if result then
      result.attempts = attempt
      return result
    end
    local delay = delay_before_next(settings, err, attempt)
    if not delay then
      err.attempts = attempt
      err.message = attempt == 1 and err.message or ("%s (after %d attempts)"):format(err.message, attempt)
      return nil, err
    end
    core.sleep(delay)
    attempt = attempt + 1
  end
end

-- ---- requests ----

local chat_fields = {
  messages = options.table,
  prompt = options.text,
  system = options.text,
  model = options.word,
  temperature = options.finite,
  max_tokens = options.count,
  response_format = options.table,
  timeout = options.timeout,
  extra = options.table,
}

local copied = { "temperature", "max_tokens", "response_format" }

local function messages_of(given)
  local messages = {}
  if given.system then
    messages[1] = { role = "system", content = given.system }
  end
  if given.prompt then
    messages[#messages + 1] = { role = "user", content = given.prompt }
  end
  for _, message in ipairs(given.messages or {}) do
    messages[#messages + 1] = message
  end
  return messages
end

local function check_chat(given)
  options.check("model:chat", given, chat_fields, 3)
  if (given.messages == nil) == (given.prompt == nil) then
    error("bad argument 'messages' to model:chat: expected either messages or a prompt", 3)
  elseif given.messages and #given.messages == 0 then
    error("bad argument 'messages' to model:chat: expected a list of messages, got none", 3)
  elseif given.extra and given.extra.stream then
    error("bad argument 'extra.stream' to model:chat: a chat comes as a whole", 3)
  elseif type(given.timeout) == "table" then
    options.check("model:chat", given.timeout, options.timeout_parts, 3, "timeout")
  end
end

local function body_of(settings, given)
  local body = { model = settings.model, messages = messages_of(given) }
  for _, name in ipairs(copied) do
    body[name] = given[name]
  end
  for name, value in pairs(given.extra or {}) do
    body[name] = value
  end
  local text, path, problem = json.try_encode(body)
  if not text then
    error(("bad argument '%s' to model:chat: JSON cannot hold %s"):format(path:sub(2), problem), 3)
  end
  return text
end

local function label_of(model, base)
  return ("%s at %s"):format(model, base)
end

-- The settings of a call that names another model.
local function settings_for(settings, model)
  if not model then
    return settings
  end
  return setmetatable({ model = model, label = label_of(model, settings.base) }, { __index = settings })
end

--- Asks the model and waits for the whole answer.
-- @tparam table given
-- @tparam[opt] table given.messages a list of `{ role =, content = }`, as the API takes them
-- @tparam[opt] string given.prompt instead of `messages`: what the user says
-- @tparam[opt] string given.system goes before the others
-- @tparam[opt] string given.model default: the model's own
-- @tparam[opt] number given.temperature
-- @tparam[opt] number given.max_tokens
-- @tparam[opt] table given.response_format such as `{ type = "json_object" }`
-- @tparam[opt] number|table given.timeout seconds for each attempt, as for weft.http.request
-- @tparam[opt] table given.extra other fields of the request's body; they win over the ones above
-- @treturn[1] table `text` ("" when the answer is a tool call or a refusal), `finish_reason`, `usage`:
--   `prompt_tokens`, `completion_tokens`, `total_tokens` (0 where the server does not say), `model`, `raw`: the
--   whole reply, `attempts`
-- @treturn[2] nil
-- @treturn[2] error see above
-- @raise bad argument or unknown option; an error of kind "canceled" or "deadline"
function Model:chat(given)
  if getmetatable(self) ~= Model then
    error("bad argument 'self' to model:chat: expected a model, got " .. type(self) .. "; call it as m:chat{…}", 2)
  end
  check_chat(given)
  local settings = settings_for(self.settings, given.model)
  return run(settings, {
    method = "POST",
    url = settings.url,
    headers = settings.headers,
    body = body_of(settings, given),
    timeout = given.timeout or settings.timeout,
  })
end

-- ---- making models ----

local WHAT = "weft.model.openai"

local fields = {
  base_url = options.text,
  api_key = options.word,
  model = options.word,
  headers = options.table,
  timeout = options.timeout,
  retry = options.table,
  limits = options.table,
}

local retry_fields = { attempts = options.count, delay = options.finite, max_wait = options.finite }
local limit_fields = { concurrency = options.count }

local function check_url(url)
  if not url:match("^[Hh][Tt][Tt][Pp][Ss]?://[^/]") then
    error(("bad argument 'base_url' to %s: expected a URL with http:// or https://"):format(WHAT), 4)
  elseif url:match("^%w+://[^/?#]*@") then
    error(("bad argument 'base_url' to %s: expected a URL without user and password; use api_key"):format(WHAT), 4)
  end
end

local function check_header(name, value)
  if type(name) ~= "string" or type(value) ~= "string" then
    error(("bad argument 'headers' to %s: expected strings by name"):format(WHAT), 4)
  elseif value:find("[%c]") then
    error(("bad argument 'headers.%s' to %s: it has a line break or another control character"):format(name, WHAT), 4)
  end
end

local function check_new(given)
  options.check(WHAT, given, fields, 3)
  options.check(WHAT, given.retry or {}, retry_fields, 3, "retry")
  options.check(WHAT, given.limits or {}, limit_fields, 3, "limits")
  if type(given.timeout) == "table" then
    options.check(WHAT, given.timeout, options.timeout_parts, 3, "timeout")
  end
  if not given.model then
    options.refuse(WHAT, "model", "a string that is not empty", given.model, 3)
  elseif given.api_key and given.api_key:find("[%c ]") then
    error(("bad argument 'api_key' to %s: it has a blank or a line break in it"):format(WHAT), 3)
  end
  check_url(given.base_url or BASE_URL)
  for name, value in pairs(given.headers or {}) do
    check_header(name, value)
  end
end

-- The longest first: one may be a part of another.
local function secrets_of(given)
  local secrets = { given.api_key }
  for _, value in pairs(given.headers or {}) do
    if value ~= "" then
      secrets[#secrets + 1] = value
    end
  end
  table.sort(secrets, function(a, b)
    return #a > #b
  end)
  return secrets
end

local function headers_of(given)
  local headers = { ["Content-Type"] = "application/json" }
  if given.api_key then
    headers.Authorization = "Bearer " .. given.api_key
  end
  for name, value in pairs(given.headers or {}) do
    headers[name] = value
  end
  return headers
end

local function settings_of(given)
  local base, query = (given.base_url or BASE_URL):match("^([^?#]*)(%??[^#]*)")
  local retry = given.retry or {}
  base = base:gsub("/+$", "")
  return {
    model = given.model,
    base = base,
    label = label_of(given.model, base),
    url = base .. "/chat/completions" .. query,
    headers = headers_of(given),
    secrets = secrets_of(given),
    timeout = given.timeout or TIMEOUT,
    retry = {
      attempts = retry.attempts or ATTEMPTS,
      delay = retry.delay or FIRST_DELAY,
      max_wait = retry.max_wait or MAX_WAIT,
    },
    places = given.limits and given.limits.concurrency and core.semaphore(given.limits.concurrency),
  }
end

--- Makes a model. Nothing is sent yet.
-- @function weft.model.openai
-- @tparam table given
-- @tparam string given.model its name
-- @tparam[opt] string given.api_key sent as a bearer token; default: none, as local servers like it
-- @tparam[opt] string given.base_url default: OpenAI's; a query, as Azure wants it, is kept
-- @tparam[opt] table given.headers strings by name, sent as well; their values count as secret
-- @tparam[opt=600] number|table given.timeout seconds for each attempt, as for weft.http.request
-- @tparam[opt] table given.retry `attempts` (3): requests at most, `delay` (0.5): seconds before the second,
--   `max_wait` (60): when the server asks for more seconds than that, the failure is returned at once
-- @tparam[opt] table given.limits `concurrency`: requests at the same time, of all tasks that have the model
-- @treturn model
-- @raise bad argument or unknown option
function openai.new(given)
  check_new(given)
  return setmetatable({ settings = settings_of(given) }, Model)
end

return openai
