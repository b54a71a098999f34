--- The settings of a model, checked and completed. Internal.
--
-- Settings are made once and do not change. They lie in a dict, and a model is that handle: sending it costs next to
-- nothing, each state unpacks it once, and whoever prints a model as a table sees no secret.
local cache = require "weft.cache"
local core = require "weft.core"
local limits = require "weft.model.limits"
local options = require "weft.options"
local prices = require "weft.model.prices"
local redact = require "weft.redact"
local requests = require "weft.http.request"
local retry = require "weft.retry"
local shared = require "weft.model.shared"

local client = {}

local TIMEOUT = 600
local USER = 4 -- level of who calls weft.model.KIND, seen from the functions that client.new calls

local apis = { openai = "weft.model.openai", anthropic = "weft.model.anthropic", ollama = "weft.model.ollama" }

local function is_handle(name)
  return {
    function(value)
      return type(value) == "userdata" and tostring(value):match("^weft (%S+):") == name
    end,
    "a weft." .. name,
  }
end

local fields = {
  base_url = options.text,
  api_key = options.word,
  model = options.word,
  headers = options.table,
  timeout = options.timeout,
  http = options.table,
  max_tokens = options.count,
  retry = options.table,
  limits = options.table,
  breaker = options.table,
  budget = is_handle "budget",
  on_warn = options.func,
  prices = options.table,
  cache = { cache.is_cache, "a weft.cache or a weft.dict" },
  coalesce = options.boolean,
}

-- Of weft.http.request, for each request.
local http_fields = {}
for _, name in ipairs({
  "ca_file", "cert_file", "key_file", "key_password", "proxy", "http2", "max_body", "max_header", "decompress",
}) do
  http_fields[name] = requests.call_fields[name]
end

local price_fields = {
  input = options.finite,
  output = options.finite,
  cached_input = options.finite,
  cache_write = options.finite,
  max_output = options.count,
}

-- ---- checks ----

local function check_url(what, url)
  if not url:match("^[Hh][Tt][Tt][Pp][Ss]?://[^/]") then
    error(("bad argument 'base_url' to %s: expected a URL with http:// or https://"):format(what), USER)
  elseif url:match("^%w+://[^/?#]*@") then
    error(("bad argument 'base_url' to %s: expected a URL without user and password; use api_key"):format(what), USER)
  end
end

local function check_header(what, name, value)
  if type(name) ~= "string" or type(value) ~= "string" then
    error(("bad argument 'headers' to %s: expected strings by name"):format(what), USER)
  elseif value:find("[%c]") then
    error(("bad argument 'headers.%s' to %s: it has a line break or another control character"):format(name, what), USER)
  end
end

local function check_prices(what, given)
  for model, price in pairs(given) do
    local where = ("prices[%q]"):format(tostring(model))
    if type(price) ~= "table" then
      options.refuse(what, where, "a model's prices, such as { input = usd, output = usd }", price, USER)
    end
    options.check(what, price, price_fields, USER, where)
    for _, name in ipairs({ "input", "output" }) do
      if not price[name] then
        options.refuse(what, where .. "." .. name, "US dollars for a million tokens", price[name], USER)
      end
    end
  end
end

local function check_new(what, given)
  options.check(what, given, fields, USER)
  if type(given.timeout) == "table" then
    options.check(what, given.timeout, options.timeout_parts, USER, "timeout")
  end
  options.check(what, given.http or {}, http_fields, USER, "http")
  if not given.model then
    options.refuse(what, "model", "a string that is not empty", given.model, USER)
  elseif given.api_key and given.api_key:find("[%c ]") then
    error(("bad argument 'api_key' to %s: it has a blank or a line break in it"):format(what), USER)
  end
end

-- ---- secrets ----

local function parameters_of(query, secrets)
  for value in query:gmatch("[?&][^=&]+=([^&]+)") do
    secrets[#secrets + 1] = value
    secrets[#secrets + 1] = redact.percent_decode(value)
  end
end

local proxy_names = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" } -- as the core reads them

local function secrets_of(given, query)
  local secrets = { given.api_key }
  for _, value in pairs(given.headers or {}) do
    redact.add_header(secrets, value)
  end
  parameters_of(query, secrets)
  local own = given.http or {}
  secrets[#secrets + 1] = own.key_password
  redact.add_proxy(secrets, own.proxy or nil)
  for _, name in ipairs(proxy_names) do
    redact.add_proxy(secrets, os.getenv(name))
  end
  return redact.forms(secrets)
end

-- Own headers go before those of the API, in whatever case they are written.
local function headers_of(api, given)
  local headers, own = {}, {}
  for name, value in pairs(given.headers or {}) do
    headers[name] = value
    own[name:lower()] = true
  end
  local usual = api.headers(given.api_key)
  usual["Content-Type"] = "application/json"
  for name, value in pairs(usual) do
    if not own[name:lower()] then
      headers[name] = value
    end
  end
  return headers
end

-- ---- clients ----

local function split_url(api, url)
  local base, query = url:match("^([^?#]*)(%??[^#]*)")
  base = base:gsub("/+$", "")
  if api.version_path and not base:match("^%a+://[^/]+/") then
    base = base .. api.version_path
  end
  return base, query
end

local function label_of(model, place)
  return ("%s at %s"):format(model, place)
end

local function price_or_advice(what, self, level)
  local price = prices.find(self.kind, self.model, self.prices)
  if not price and self.budget then
    error(("bad argument 'budget' to %s: %s"):format(what, prices.advice(self.model)), level + 1)
  end
  return price
end

-- What this state has unpacked, by handle.
local unpacked = setmetatable({}, { __mode = "k" })

-- The API's own part is a module, which is found again in every state.
local function attach(self)
  self.api = require(apis[self.kind])
  return self
end

-- The settings with functions, which belong to the model that was captured or made here, and not to the handle.
local function with_functions(self, functions)
  local policy = { on_retry = functions.on_retry, retry_if = functions.retry_if }
  for name, value in pairs(self.retry) do
    policy[name] = value
  end
  return setmetatable({ retry = policy, on_warn = functions.on_warn }, { __index = self })
end

--- The settings that a handle stands for.
-- @tparam dict handle
-- @tparam ?table functions of @{client.new}
-- @treturn table
function client.unpack(handle, functions)
  local self = unpacked[handle]
  if not self then
    self = attach(handle:get("settings"))
    unpacked[handle] = self
  end
  return functions and with_functions(self, functions) or self
end

--- Makes the settings, for the public function `weft.model.KIND`.
-- @tparam string kind "openai", "anthropic" or "ollama"
-- @tparam table given
-- @treturn dict a handle
-- @treturn ?table the functions among them: they cross with the model, if at all, and share their captured variables
--   with the script in the state that made them
function client.new(kind, given)
  local what, api = "weft.model." .. kind, require(apis[kind])
  check_new(what, given)
  check_url(what, given.base_url or api.base_url)
  for name, value in pairs(given.headers or {}) do
    check_header(what, name, value)
  end
  check_prices(what, given.prices or {})
  local base, query = split_url(api, given.base_url or api.base_url)
  local forms = secrets_of(given, query)
  local place = redact.text(forms, base) -- what errors and tostring show
  local policy = retry.policy(what, given.retry or {}, USER - 1, "retry")
  if (given.retry or {}).budget == nil then
    policy.budget = retry.retry_budget()
  end
  local functions = { on_warn = given.on_warn, on_retry = policy.on_retry, retry_if = policy.retry_if }
  policy.on_retry, policy.retry_if = nil, nil
  local self = {
    kind = kind,
    model = given.model,
    place = place,
    label = label_of(given.model, place),
    base = base,
    query = query,
    headers = headers_of(api, given),
    forms = forms,
    timeout = given.timeout or TIMEOUT,
    http = given.http or {},
    max_tokens = given.max_tokens or api.max_tokens,
    retry = policy,
    limits = limits.new(what, given, USER - 1),
    budget = given.budget,
    prices = given.prices,
    cache = given.cache,
    flights = given.coalesce and core.singleflight() or nil,
  }
  self.account = shared.account(self)
  self.price = price_or_advice(what, self, USER - 1)
  local handle = core.dict()
  handle:set("settings", self)
  local has_any = given.on_warn or functions.on_retry or functions.retry_if
  return handle, has_any and functions or nil
end

--- The settings for one call, maybe of another model.
-- @tparam table self
-- @tparam ?string model
-- @tparam string what the public function
-- @tparam integer level where an unknown price is an error
-- @treturn table
function client.for_call(self, model, what, level)
  if not model or model == self.model then
    return self
  end
  local own = setmetatable({ model = model, label = label_of(model, self.place) }, { __index = self })
  own.price = price_or_advice(what, own, level + 1) or false
  return own
end

return client
