--- Takes secrets out of text: by what they are, and by the name before them. Internal.
local json = require "weft.json"

local redact = {}

local MARK = "[redacted]"
local TOKEN = 16 -- characters behind "Bearer" that are a token and no word
local SHORTEST = 4 -- of a header's value that counts as secret: "1" is none

-- Names before which a value is secret whoever sent it, in lower case.
local names = {
  "authorization",
  "x-api-key",
  "api-key",
  "api_key",
  "apikey",
  "x-goog-api-key",
  "set-cookie",
  "cookie",
  "access_token",
  "client_secret",
  "password",
  "?key",
  "&key",
}

local function percent_encode(text, format)
  return (text:gsub("[^%w%-._~]", function(char)
    return (format):format(char:byte())
  end))
end

-- Every way in which a secret may be written.
local function add_forms(forms, seen, secret)
  local escaped = json.encode(secret):sub(2, -2)
  for _, form in ipairs {
    secret,
    percent_encode(secret, "%%%02X"),
    percent_encode(secret, "%%%02x"),
    escaped,
    (escaped:gsub("/", "\\/")),
  } do
    if not seen[form] then
      seen[form] = true
      forms[#forms + 1] = form
    end
  end
end

-- ---- credentials ----

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local sum = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 18, 0, -6 do
      local digit = math.floor(sum / 2 ^ place) % 64
      out[#out + 1] = DIGITS:sub(digit + 1, digit + 1)
    end
    out[#out - 1] = b and out[#out - 1] or "="
    out[#out] = c and out[#out] or "="
  end
  return table.concat(out)
end

local function from_base64(text)
  local out, sum, count = {}, 0, 0
  for digit in text:gmatch "[%w+/]" do
    sum, count = sum * 64 + DIGITS:find(digit, 1, true) - 1, count + 6
    if count >= 8 then
      count = count - 8
      out[#out + 1] = string.char(math.floor(sum / 2 ^ count) % 256)
      sum = sum % 2 ^ count
    end
  end
  return table.concat(out)
end

-- "user:password", as it is sent as well.
local function add_login(secrets, login)
  secrets[#secrets + 1] = login
  secrets[#secrets + 1] = login:match ":(.*)$"
  secrets[#secrets + 1] = base64(login)
end

--- What percent-encoding stands for.
-- @tparam string text
-- @treturn string
function redact.percent_decode(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

--- Adds what is secret in the value of a header: all of it, and what stands behind "Bearer" or "Basic".
-- @tparam table secrets
-- @tparam string value
function redact.add_header(secrets, value)
  secrets[#secrets + 1] = value
  local scheme, rest = value:match "^(%a+)%s+(%S+)$"
  secrets[#secrets + 1] = rest
  if scheme and scheme:lower() == "basic" then
    add_login(secrets, from_base64(rest))
  end
end

--- Adds what is secret in the URL of a proxy.
-- @tparam table secrets
-- @tparam ?string url
function redact.add_proxy(secrets, url)
  local login = url and url:gsub("^%w+://", ""):match "^([^/]*)@"
  if login then
    secrets[#secrets + 1] = login
    add_login(secrets, redact.percent_decode(login))
  end
end

--- All forms of the secrets, the longest first: one may be a part of another.
-- @tparam table secrets strings; the short ones among them are left alone
-- @treturn table
function redact.forms(secrets)
  local forms, seen = {}, {}
  for _, secret in ipairs(secrets) do
    if #secret >= SHORTEST then
      add_forms(forms, seen, secret)
    end
  end
  table.sort(forms, function(a, b)
    return #a > #b
  end)
  return forms
end

local function replace_plain(text, wanted)
  local first, last = text:find(wanted, 1, true)
  if not first then
    return text
  end
  local parts, from = {}, 1
  while first do
    parts[#parts + 1] = text:sub(from, first - 1)
    from = last + 1
    first, last = text:find(wanted, from, true)
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts, MARK)
end

-- Replaces what follows the name, as in `Name: value`, `"name": "value"` and `name=value`.
local function replace_named(text, lower, name)
  local from, parts = 1, {}
  while true do
    local _, last = lower:find(name, from, true)
    if not last then
      break
    end
    local start = last + 1
    local value = text:match('^\\?["\']?%s*[:=]%s*\\?["\']?()', start)
    if value then
      value = lower:match("^bearer%s+()", value) or lower:match("^basic%s+()", value) or value
      local stop = text:match("^[^%s\"'\\,;&}]+()", value)
      if stop and text:sub(value, stop - 1) ~= MARK then
        parts[#parts + 1] = text:sub(from, value - 1) .. MARK
        from = stop
      else
        parts[#parts + 1] = text:sub(from, start - 1)
        from = start
      end
    else
      parts[#parts + 1] = text:sub(from, start - 1)
      from = start
    end
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts)
end

--- A text without the secrets that are known; all else stays as it is.
-- @tparam table forms of @{redact.forms}
-- @tparam string text
-- @treturn string
function redact.known(forms, text)
  for _, form in ipairs(forms) do
    text = replace_plain(text, form)
  end
  return text
end

-- What no name stands before: "Bearer …" of some length, and the credentials of a URL.
local function replace_shapes(text)
  text = text:gsub("([Bb][Ee][Aa][Rr][Ee][Rr]%s+)([%w%-._~+/=]+)", function(before, token)
    return #token >= TOKEN and before .. MARK or nil
  end)
  return (text:gsub("(%a://)[^%s/@\"'?#]+@", "%1" .. MARK .. "@"))
end

--- A text without secrets: those that are known, and what looks like some by its shape or the name before it.
-- @tparam table forms of @{redact.forms}
-- @tparam string text
-- @treturn string
function redact.text(forms, text)
  text = redact.known(forms, text)
  for _, name in ipairs(names) do
    local lower = text:lower()
    if lower:find(name, 1, true) then
      text = replace_named(text, lower, name)
    end
  end
  return replace_shapes(text)
end

--- The same for every text that an error holds, its causes' too; in its place.
-- @tparam table forms
-- @param value what it may hold: a string is returned redacted, a table changed
-- @param[opt] seen
function redact.value(forms, value, seen)
  if type(value) == "string" then
    return redact.text(forms, value)
  elseif type(value) ~= "table" then
    return value
  end
  seen = seen or {}
  if not seen[value] then
    seen[value] = true
    for key, item in pairs(value) do
      if type(item) == "string" or type(item) == "table" then
        rawset(value, key, redact.value(forms, item, seen))
      end
    end
  end
  return value
end

return redact
