--- Takes secrets out of text: by what they are, and by the name before them. Internal.
local json = require "weft.json"

local redact = {}

local MARK = "[redacted]"
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

--- A text without secrets: those that are known, and what stands behind the names of some.
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
  return text
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
