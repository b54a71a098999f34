--- What a request is made of: options are checked, and those of a client completed. Internal.
--
-- Functions raise at `level`, 1 being their caller.
local json = require "weft.json"
local options = require "weft.options"

local M = {}

local MAX_SECONDS = 4e6 -- the core counts milliseconds, in 32 bits
local HEADER_VALUE = "a string, a number or a list of them"

-- ---- options ----

local seconds = {
  function(value)
    return type(value) == "number" and value > 0 and (value <= MAX_SECONDS or value == math.huge)
  end,
  "a number of seconds > 0 and <= 4e6",
}
local timeout = {
  function(value)
    return type(value) == "table" or seconds[1](value)
  end,
  "a number of seconds > 0 and <= 4e6, or a table of them",
}
local timeout_parts = { connect = seconds, first_byte = seconds, idle = seconds, attempt = seconds, total = seconds }

local function or_false(test, expected)
  return {
    function(value)
      return value == false or test(value)
    end,
    expected .. " or false",
  }
end

local function is_table(value)
  return type(value) == "table"
end

local function is_limiter(value)
  local kind = type(value)
  return (kind == "table" or kind == "userdata") and type(value.wait) == "function"
end

-- What holds for a client and for a call.
local shared = {
  headers = options.table,
  timeout = timeout,
  max_body = options.bytes,
  max_header = options.bytes,
  decompress = options.boolean,
  ca_file = options.text,
  cert_file = options.text,
  key_file = options.text,
  key_password = options.text,
  proxy = or_false(options.text[1], "a string"),
  http2 = options.boolean,
  redirects = {
    function(value)
      return type(value) == "number" and value >= 0 and value <= 100 and value == math.floor(value)
    end,
    "a whole number from 0 to 100",
  },
  retry = or_false(is_table, "a table"),
  limiter = or_false(is_limiter, "an object with a method wait"),
}

local function with(fields, more)
  local all = {}
  for name, field in pairs(fields) do
    all[name] = field
  end
  for name, field in pairs(more) do
    all[name] = field
  end
  return all
end

--- By name, for options.check: of clients, of calls whose method is in their name, of requests.
M.client_fields = with(shared, { base_url = options.word, limits = options.table })
M.call_fields = with(shared, {
  body = options.text,
  json = options.any,
  stream = options.boolean,
  buffer = options.bytes,
})
M.request_fields = with(M.call_fields, { method = options.word, url = options.text })

-- ---- headers: lists of names and values by turns ----

local function add_header(list, name, value)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" then
    return false
  end
  list[#list + 1] = name
  list[#list + 1] = tostring(value)
  return true
end

local function add_headers(what, list, name, value, level)
  for _, item in ipairs(type(value) == "table" and value or { value }) do
    if not add_header(list, name, item) then
      options.refuse(what, "headers." .. name, HEADER_VALUE, item, level + 1)
    end
  end
end

local function sorted_names(what, headers, level)
  local names = {}
  for name in pairs(headers) do
    if type(name) ~= "string" then
      options.refuse(what, "headers", "names that are strings", name, level + 1)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

--- Whether a list has a header of this name, which is in lower case.
function M.has_header(list, wanted)
  for i = 1, #list, 2 do
    if list[i]:lower() == wanted then
      return true
    end
  end
  return false
end

local function has_named(headers, wanted)
  for name in pairs(headers) do
    if name:lower() == wanted then
      return true
    end
  end
  return false
end

--- The headers of a call after those of its client that it does not replace; false takes one away.
function M.headers(what, base, given, level)
  local list, names = {}, sorted_names(what, given, level + 1)
  for i = 1, #base, 2 do
    if not has_named(given, base[i]:lower()) then
      list[#list + 1] = base[i]
      list[#list + 1] = base[i + 1]
    end
  end
  for _, name in ipairs(names) do
    if given[name] ~= false then
      add_headers(what, list, name, given[name], level + 1)
    end
  end
  return list
end

local function copied(list)
  local copy = {}
  for i = 1, #list do
    copy[i] = list[i]
  end
  return copy
end

--- A list with one more header.
function M.with_header(list, name, value)
  list = copied(list)
  add_header(list, name, value)
  return list
end

-- ---- times ----

--- Those of a call, or else of its client: a number is the total alone.
function M.timeouts(what, base, given, level)
  if given == nil then
    return base
  elseif type(given) ~= "table" then
    given = { total = given }
  else
    options.check(what, given, timeout_parts, level + 1, "timeout")
  end
  local merged = {}
  for name in pairs(timeout_parts) do
    merged[name] = given[name] or base[name]
  end
  return merged
end

-- ---- URLs ----

local function origin_of(url)
  local scheme, authority = url:match "^(%a[%w+.-]*)://([^/?#\\]*)"
  return scheme and (scheme .. "://" .. authority:gsub("^.*@", "")):lower()
end

--- A client's base_url: without the slashes at its end.
function M.base_url(what, url, level)
  local origin = origin_of(url)
  if not origin or not origin:match "^https?://." or url:find "[?#]" then
    options.refuse(what, "base_url", "http:// or https://, a host, and a path at most", url, level + 1)
  end
  return (url:gsub("/+$", "")), origin
end

--- Where a call goes. A client's headers go to its base_url's scheme, host and port alone.
function M.url(what, client, url, level)
  if not client.base_url then
    return url
  end
  local origin = origin_of(url)
  if not origin then
    return client.base_url .. (url == "" and "" or url:match "^[/?]" and url or "/" .. url)
  elseif origin == client.origin then
    return url
  end
  return options.refuse(what, "url", "a path, or a URL with scheme, host and port of base_url", url, level + 1)
end

-- ---- bodies ----

-- The body's text, and the headers with its type.
local function body_of(what, given, headers, level)
  if given.json == nil then
    return given.body, headers
  elseif given.body ~= nil then
    error(("bad argument 'json' to %s: there is a body already"):format(what), level + 1)
  end
  local text, path, problem = json.try_encode(given.json)
  if not text then
    error(("bad argument 'json%s' to %s: JSON cannot hold %s"):format(path, what, problem), level + 1)
  elseif not M.has_header(headers, "content-type") then
    headers = M.with_header(headers, "Content-Type", "application/json")
  end
  return text, headers
end

-- ---- the whole ----

--- What a call says, or else what its client does.
function M.either(value, fallback)
  if value == nil then
    return fallback
  end
  return value
end

-- Options that C needs and that a call may say anew.
local overridable = {
  "max_body", "max_header", "decompress", "ca_file", "cert_file", "key_file", "key_password", "proxy", "http2",
  "redirects", "timeout",
}
local is_overridable = {}
for _, name in ipairs(overridable) do
  is_overridable[name] = true
end

--- What holds for all requests of a client, as core.http_request takes it.
function M.base(client)
  local times = client.timeout
  return {
    connect = times.connect,
    first_byte = times.first_byte,
    idle = times.idle,
    attempt = times.attempt,
    total = times.total,
    max_body = client.max_body,
    max_header = client.max_header,
    ca_file = client.ca_file,
    cert_file = client.cert_file,
    key_file = client.key_file,
    key_password = client.key_password,
    proxy = client.proxy == false and "" or client.proxy,
    no_http2 = client.http2 == false,
    redirects = client.redirects,
    decompress = client.decompress ~= false,
    quota = client.quota,
  }
end

local function base_for(what, client, given, level)
  local differs = false
  for name in pairs(given) do
    differs = differs or is_overridable[name]
  end
  if not differs then
    return client.base
  end
  local one = { quota = client.quota }
  for _, name in ipairs(overridable) do
    one[name] = M.either(given[name], client[name])
  end
  one.timeout = M.timeouts(what, client.timeout, given.timeout, level + 1)
  return M.base(one)
end

--- The two tables that core.http_request takes: of the request, small since thousands may be in flight, and of the
-- client. The options were checked.
function M.compile(what, client, method, url, given, level)
  local headers = client.headers
  if given.headers then
    headers = M.headers(what, headers, given.headers, level + 1)
  end
  local base = base_for(what, client, given, level + 1)
  local body
  body, headers = body_of(what, given, headers, level + 1)
  local request = {
    method = method or (body and "POST" or "GET"),
    url = M.url(what, client, url, level + 1),
    headers = headers,
    body = body,
    stream = given.stream, -- named even if nil: then the table has room for what the core puts into it
    buffer = given.buffer,
  }
  return request, base
end

return M
