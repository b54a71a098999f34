--- The settings of a model, checked and completed. Internal.
--
-- A client is plain data, handles and closures, so it can be captured and sent. The closures hold what may be secret:
-- whoever prints the table sees none of it.
local cache = require "weft.cache"
local core = require "weft.core"
local limits = require "weft.model.limits"
local options = require "weft.options"
local prices = require "weft.model.prices"
local redact = require "weft.redact"
local retry = require "weft.retry"

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

local is_function = {
  function(value)
    return type(value) == "function"
  end,
  "a function",
}

local fields = {
  base_url = options.text,
  api_key = options.word,
  model = options.word,
  headers = options.table,
  timeout = options.timeout,
  ca_file = options.text,
  max_tokens = options.count,
  retry = options.table,
  limits = options.table,
  breaker = options.table,
  budget = is_handle "budget",
  on_warn = is_function,
  prices = options.table,
  cache = { cache.is_cache, "a weft.cache or a weft.dict" },
  coalesce = options.boolean,
}

local price_fields = {
  input = options.finite,
  output = options.finite,
  cached_input = options.finite,
  cache_write = options.finite,
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
  end
end

local function secrets_of(given, query)
  local secrets = { given.api_key }
  for _, value in pairs(given.headers or {}) do
    secrets[#secrets + 1] = value
  end
  parameters_of(query, secrets)
  return redact.forms(secrets)
end

local function headers_of(api, given)
  local headers = api.headers(given.api_key)
  headers["Content-Type"] = "application/json"
  for name, value in pairs(given.headers or {}) do
    headers[name] = value
  end
  return headers
end

-- ---- clients ----

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

-- The API's own part is a module, which is found again in every state.
local function attach(self)
  return setmetatable({ api = require(apis[self.kind]) }, { __index = self })
end

--- Makes the settings, for the public function `weft.model.KIND`.
-- @tparam string kind "openai", "anthropic" or "ollama"
-- @tparam table given
-- @treturn table
function client.new(kind, given)
  local what, api = "weft.model." .. kind, require(apis[kind])
  check_new(what, given)
  check_url(what, given.base_url or api.base_url)
  for name, value in pairs(given.headers or {}) do
    check_header(what, name, value)
  end
  check_prices(what, given.prices or {})
  local base, query = (given.base_url or api.base_url):match("^([^?#]*)(%??[^#]*)")
  base = base:gsub("/+$", "")
  local headers, forms = headers_of(api, given), secrets_of(given, query)
  local place = redact.text(forms, base) -- what errors and tostring show
  local policy = retry.policy(what, given.retry or {}, USER - 1, "retry")
  if (given.retry or {}).budget == nil then
    policy.budget = retry.retry_budget()
  end
  local self = {
    kind = kind,
    model = given.model,
    place = place,
    label = label_of(given.model, place),
    target = function()
      return base, query
    end,
    headers = function()
      return headers
    end,
    forms = function()
      return forms
    end,
    timeout = given.timeout or TIMEOUT,
    ca_file = given.ca_file,
    max_tokens = given.max_tokens or api.max_tokens,
    retry = policy,
    limits = limits.new(what, given, USER - 1),
    budget = given.budget,
    on_warn = given.on_warn,
    prices = given.prices,
    cache = given.cache,
    flights = given.coalesce and core.singleflight() or nil,
  }
  self.price = price_or_advice(what, self, USER - 1)
  return self
end

--- The settings for one call, maybe of another model.
-- @tparam table self
-- @tparam ?string model
-- @tparam string what the public function
-- @tparam integer level where an unknown price is an error
-- @treturn table with `api`
function client.for_call(self, model, what, level)
  local own = attach(self)
  own.base, own.query = self.target()
  if model and model ~= self.model then
    own.model, own.label = model, label_of(model, self.place)
    own.price = price_or_advice(what, own, level + 1) or false
  end
  return own
end

return client
