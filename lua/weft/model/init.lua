--- Language models behind HTTP APIs.
--
--     local m = weft.model.openai{ api_key = os.getenv "OPENAI_API_KEY", model = "gpt-4o-mini" }
--     local answer, err = m:chat{ prompt = "Name a fruit." }
--     print(answer and answer.text or err)
--
-- A model holds no thread and no connection: tasks may capture it, whichever thread they run on. What it limits, it
-- limits for all of them together. Failures are `nil, err`, with `err.status` where an answer came, and
-- `err.attempts`: what each attempt came to, a list of `{ kind, status, seconds }`.
--
-- | kind | what it is | tried again |
-- | --- | --- | --- |
-- | "rate_limit" | status 429 | yes |
-- | "server" | status 500 and above, such as 529 | yes |
-- | "timeout" | no whole answer in time, or status 408 | yes |
-- | "network" | name, connection, reset, an answer that was cut short | yes |
-- | "bad_reply" | an answer that is not what the API promises, or does not match the schema | yes; the latter once |
-- | "stream_truncated" | a stream that ended before its answer; `partial` is the text | before its first part |
-- | "quota" | nothing is left on the account: status 402, or 429 that says so | no |
-- | "auth" | status 401 or 403 | no |
-- | "content" | the provider refuses the content | no |
-- | "request" | any other status | no |
-- | "skipped_budget" | the budget is used up; nothing was sent | no |
-- | "breaker_open" | the breaker is open; nothing was sent | no |
-- | "too_large" | more tokens than the limit allows at all: nothing was sent; or an answer larger than `max_body` | no |
-- | "tls", "protocol", "invalid", "nomem", … | as in weft.http | as @{weft.retry} says |
--
-- Keys, and the values of own headers, are replaced by "[redacted]" wherever the text of an error would hold them.
--
-- @module weft.model
local M = {}

--- Makes a model behind OpenAI's API, or behind one of the many servers that speak the same. Nothing is sent yet.
-- @function weft.model.openai
-- @tparam table given
-- @tparam string given.model its name
-- @tparam[opt] string given.api_key default: none, as local servers like it
-- @tparam[opt] string given.base_url default: the provider's; a query, as Azure wants it, is kept
-- @tparam[opt] table given.headers strings by name, sent as well; their values count as secret
-- @tparam[opt=600] number|table given.timeout seconds for each attempt, as for weft.http.request
-- @tparam[opt] table given.http how requests are sent: `proxy`, `ca_file`, `cert_file`, `key_file`, `key_password`,
--   `http2`, `max_body`, `max_header`, `decompress` as for weft.http.request; of a stream `max_body` (64 MiB) bounds
--   the answer that it adds up to
-- @tparam[opt] integer given.max_tokens of each answer, for calls that do not say it; it is sent with them
-- @tparam[opt] table given.retry as for @{weft.retry}; `budget` is one of the model's own unless it is given or false;
--   `idempotency_key` is sent as the header `Idempotency-Key`
-- @tparam[opt] table given.limits `requests_per_minute`; `tokens_per_minute`: estimated before, settled after;
--   `concurrency`: calls at the same time; `adaptive`: true, or `{ min, max, latency }`: `concurrency` (default 8)
--   is where it begins, it grows while all goes well, and shrinks when the server is overloaded or an answer takes
--   longer than `latency` seconds
-- @tparam[opt] table given.breaker after `failures` (5) in a row no calls for `cooldown` (10) seconds, then one probe
-- @tparam[opt] budget given.budget what calls may cost
-- @tparam[opt] function given.on_warn called as on_warn(budget), in the task whose call brought it to its `warn`
-- @tparam[opt] table given.prices by model: `{ input, output, cached_input, cache_write }`, US dollars for a million
--   tokens, and `max_output`: tokens that an answer has at most; default: list prices of July 2026 of some models
-- @tparam[opt] dict given.cache answers of equal calls are kept there, such as in `weft.cache{ ttl = 600, max = 1000 }`
-- @tparam[opt=false] boolean given.coalesce equal calls at the same time send one request
-- @treturn model
-- @raise bad argument or unknown option; a budget without a known price
function M.openai(given)
  return require("weft.model.base").new("openai", given)
end

--- Makes a model behind Anthropic's messages.
-- @function weft.model.anthropic
-- @tparam table given as for @{weft.model.openai}; `max_tokens` is 4096 unless it is given
-- @treturn model
-- @raise as @{weft.model.openai}
function M.anthropic(given)
  return require("weft.model.base").new("anthropic", given)
end

--- Makes a model behind Ollama's API.
-- @function weft.model.ollama
-- @tparam table given as for @{weft.model.openai}; `base_url` is http://127.0.0.1:11434 unless it is given; costs
--   nothing unless `prices` say something else
-- @treturn model
-- @raise as @{weft.model.openai}
function M.ollama(given)
  return require("weft.model.base").new("ollama", given)
end

-- Written, and documented, elsewhere.
local makers = { fallback = "weft.model.fallback", hedge = "weft.model.hedge" }

return setmetatable(M, {
  __index = function(_, name)
    local make = makers[name] and require(makers[name]).new
    rawset(M, name, make)
    return make
  end,
})
