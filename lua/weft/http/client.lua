--- Clients: what many requests to one server have in common.
--
--     local api = weft.http.client { base_url = "https://api.example.org/v1", headers = { ["X-Key"] = key } }
--     local res, err = api:get("/items", { timeout = 5 })
--
-- @module weft.http
local Response = require "weft.http.response"
local check = require "weft.check"
local core = require "weft.core"
local options = require "weft.options"
local requests = require "weft.http.request"
local retry = require "weft.retry"
local streams = require "weft.http.stream"

local M = {}

--- A client: what many requests have in common. It may be captured by tasks and sent; its limits, its limiter and
-- its retry budget hold for all of them together. It cannot be changed.
-- @type client
local Client = core.class "weft.http.client"
Client.__index = Client
Client.__name = "weft.http.client"

function Client:__tostring()
  return "weft.http client" .. (self.origin and ": " .. self.origin or "")
end

function Client.__newindex()
  error("a client cannot be changed; make another one", 2)
end

-- ---- one attempt ----

local function perform(request, base)
  local result, err = core.http_request(request, base)
  if not result then
    return nil, err
  elseif request.stream and result._stream then
    return streams.wrap(result, base.max_body)
  end
  return setmetatable(result, Response)
end

-- ---- several ----

local idempotent = { GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true, TRACE = true }
local not_processed = { [408] = true, [425] = true, [429] = true, [503] = true }

local function is_repeatable(request)
  return idempotent[request.method:upper()]
    or requests.has_header(request.headers, "idempotency-key")
    or requests.has_header(request.headers, "x-idempotency-key")
end

-- The policy for one request: what the server may have done already is not done again.
local function policy_for(policy, request, deadline)
  local is_safe = policy.idempotency_key or is_repeatable(request)
  local mine = {}
  for name, value in pairs(policy) do
    mine[name] = value
  end
  mine.deadline = deadline
  mine.retry_if = function(err)
    local wanted = policy.retry_if and policy.retry_if(err)
    if wanted == nil and not is_safe and err.sent and not not_processed[err.status] then
      return false
    end
    return wanted
  end
  return mine
end

-- An answer as a failure that a policy can judge.
local function as_failure(res)
  return core.new_error {
    kind = "status",
    message = ("status %d"):format(res.status),
    status = res.status,
    sent = true,
    retry_after = retry.retry_after(res.headers),
    should_retry = retry.should_retry(res.headers),
  }
end

-- What was left of the total is not what was asked for.
local function with_total(err, total)
  if err and err.timeout == "total" then
    err.message = err.message:gsub("total took over [%d.e+-]+ s", ("total took over %g s"):format(total))
    err.seconds = total
  end
  return err
end

local function too_late(request, total)
  local message = ("%s: timed out: total took over %g s; it was waiting for another attempt"):format(request.method, total)
  return core.new_error { kind = "timeout", message = message, timeout = "total", seconds = total, code = 28, sent = false }
end

local function wait_for(limiter)
  if not limiter then
    return true
  end
  return limiter:wait()
end

-- One attempt, by the limiter's leave, within what is left of the total.
local function attempt(request, base, limiter, deadline)
  local allowed, err = wait_for(limiter)
  if not allowed then
    return nil, err
  end
  if deadline then
    request.total = deadline - core.now()
    if request.total <= 0 then
      return nil, too_late(request, base.total)
    end
  end
  local res, failure = perform(request, base)
  return res, with_total(failure, base.total)
end

local function close(res)
  if res and res.close then
    res:close()
  end
end

local function deadline_of(base)
  return base.total and base.total < math.huge and core.now() + base.total or nil
end

-- Every answer is a result in the end, also the one that the last attempt brought.
local function perform_often(request, base, policy, limiter)
  local deadline = deadline_of(base)
  local headers, count, last = request.headers, 0, nil
  local res, err = retry.run(policy_for(policy, request, deadline), function(number, key)
    close(last)
    count, last = number, nil
    request.headers = key and requests.with_header(headers, "Idempotency-Key", key) or headers
    local answer, failure = attempt(request, base, limiter, deadline)
    if answer and answer.status >= 400 then
      last = answer
      return nil, as_failure(answer)
    end
    return answer, failure
  end)
  res = res or last
  if not res then
    return nil, err
  end
  res.attempts = count
  return res
end

local function policy_of(client, what, given, level)
  if given.retry then
    local policy = retry.policy(what, given.retry, level + 1, "retry")
    return policy
  end
  return given.retry == nil and client.retry
end

local function run(request, base, policy, limiter)
  if policy then
    return perform_often(request, base, policy, limiter)
  elseif limiter then
    return attempt(request, base, limiter, deadline_of(base))
  end
  return perform(request, base)
end

-- ---- calls ----

local NONE = {}

-- What is wrong with the options is raised here, while the public function is on the stack.
local function prepare(client, what, method, url, given, level)
  if type(url) ~= "string" then
    options.refuse(what, "url", "a string", url, level + 1)
  end
  local request, base = requests.compile(what, client, method, url, given, level + 1)
  return request, base, policy_of(client, what, given, level + 1), requests.either(given.limiter, client.limiter)
end

--- A call whose method is in its name, for a public function. Internal.
function M.call(client, what, method, url, given, level)
  given = given == nil and NONE or given
  options.check(what, given, requests.call_fields, level + 1)
  return run(prepare(client, what, method, url, given, level + 1))
end

--- The same with method and URL among the options. Internal.
function M.request(client, what, given, level)
  options.check(what, given, requests.request_fields, level + 1)
  return run(prepare(client, what, given.method, given.url, given, level + 1))
end

--- Sends a request and waits for the answer.
-- @tparam table given as for @{weft.http.request}; what it says goes before what the client says: single headers
--   (false takes one away), single limits of `timeout`, `retry = false`, `limiter = false`, `proxy = false`
-- @tparam string given.url a path below base_url, or a URL, which has the scheme, host and port of base_url
-- @return as @{weft.http.request}
-- @raise as @{weft.http.request}
function Client:request(given)
  check.self("client:request", "client", self, Client)
  local res, err = M.request(self, "client:request", given, 2)
  return res, err -- no tail call: errors of arguments name the caller's line
end

local function method_of(name, method)
  local what = "client:" .. name
  return function(self, url, given)
    check.self(what, "client", self, Client)
    local res, err = M.call(self, what, method, url, given, 2)
    return res, err
  end
end

--- Gets a URL.
-- @function client:get
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.get = method_of("get", "GET")

--- Posts to a URL.
-- @function client:post
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.post = method_of("post", "POST")

--- Puts to a URL.
-- @function client:put
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.put = method_of("put", "PUT")

--- Patches what is at a URL.
-- @function client:patch
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.patch = method_of("patch", "PATCH")

--- Deletes what is at a URL.
-- @function client:delete
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.delete = method_of("delete", "DELETE")

--- Asks for the headers alone.
-- @function client:head
-- @tparam string url as for @{client:request}
-- @tparam[opt] table given as for @{client:request}, without `method` and `url`
-- @return as @{client:request}
Client.head = method_of("head", "HEAD")

-- ---- making one ----

local limit_fields = { per_host = options.count, total = options.count }

local function quota_of(what, limits, level)
  if not limits then
    return nil
  end
  options.check(what, limits, limit_fields, level + 1, "limits")
  return core.http_quota(limits.total or 0, limits.per_host or 0)
end

-- Fields that are taken as they are.
local plain = {
  "max_body", "max_header", "decompress", "ca_file", "cert_file", "key_file", "key_password", "proxy", "http2",
  "redirects", "limiter",
}

--- For a public function. Internal.
function M.new(what, given, level)
  options.check(what, given, requests.client_fields, level + 1)
  local client = {
    headers = requests.headers(what, NONE, given.headers or NONE, level + 1),
    timeout = requests.timeouts(what, NONE, given.timeout, level + 1),
    quota = quota_of(what, given.limits, level + 1),
    retry = given.retry and retry.policy(what, given.retry, level + 1, "retry") or nil,
  }
  for _, name in ipairs(plain) do
    client[name] = given[name]
  end
  client.base = requests.base(client)
  if given.base_url then
    client.base_url, client.origin = requests.base_url(what, given.base_url, level + 1)
  end
  return setmetatable(client, Client)
end

return M
