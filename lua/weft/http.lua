--- HTTP requests: in a task they park the task, in a script they block the script.
--
--     local res, err = weft.http.get("https://example.org/", { timeout = 10 })
--     if res and res.status == 200 then print(#res.body) end
--
-- Every answer is a result, whatever its status; what returns nil and an error is a request that got no
-- whole answer. The kinds of these errors are "timeout", "network" (name, connection, reset, cut short),
-- "tls", "too_large", "protocol", "invalid" (the URL or a header cannot be sent), "nomem" and "nothread".
-- A cancelled context aborts the transfer, and the call raises. Certificates are always verified, redirects
-- never followed, and no error holds a header's value or the URL's query.
--
-- @module weft.http
local core = require "weft.core"
local json = require "weft.json"
local options = require "weft.options"
local streams = require "weft.http_stream"

local http = {}

-- ---- answers ----

--- An answer.
-- @type response
-- @field status number
-- @field headers by lower-case names; one that came several times is joined with ", "
-- @field body string, decompressed
-- @field timings seconds since the start: `launched` (its turn came), `connected`, `first_byte`, `total`, each
--   absent when it did not get so far; `reused`: over an open connection; `sent`, `received`: bytes of the
--   bodies on the network
local Response = core.class("weft.http")
Response.__index = Response

--- The body as JSON.
-- @return[1] the value; see weft.json.decode
-- @treturn[2] nil
-- @treturn[2] error of kind "bad_reply", with `status`
function Response:json()
  return streams.decode(self.body, self.status)
end

streams.refuse_on(Response)

function Response:__tostring()
  return ("weft.http response: status %d, %d bytes"):format(self.status, #self.body)
end

-- ---- requests ----

local fields = {
  headers = options.table,
  body = options.text,
  json = options.any,
  timeout = options.timeout,
  max_body = options.bytes,
  max_header = options.bytes,
  decompress = options.boolean,
  ca_file = options.text,
  stream = options.boolean,
  buffer = options.bytes,
}

local request_fields = { method = options.word, url = options.text }
for name, field in pairs(fields) do
  request_fields[name] = field
end

local HEADER_VALUE = "a string, a number or a list of them"

local function add_header(list, name, value)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" then
    return false
  end
  list[#list + 1] = name
  list[#list + 1] = tostring(value)
  return true
end

-- Name and value by turns, in the order of the names.
local function header_list(what, headers, level)
  local names, list = {}, {}
  for name in pairs(headers) do
    if type(name) ~= "string" then
      options.refuse(what, "headers", "names that are strings", name, level + 1)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = headers[name]
    for _, item in ipairs(type(value) == "table" and value or { value }) do
      if not add_header(list, name, item) then
        options.refuse(what, "headers." .. name, HEADER_VALUE, item, level + 1)
      end
    end
  end
  return list
end

local function has_header(list, wanted)
  for i = 1, #list, 2 do
    if list[i]:lower() == wanted then
      return true
    end
  end
  return false
end

local function user_agent()
  return (require("weft")._VERSION:gsub(" ", "/"))
end

local function body_of(what, given, headers, level)
  if given.json == nil then
    return given.body
  elseif given.body ~= nil then
    error(("bad argument 'json' to %s: there is a body already"):format(what), level + 1)
  end
  local text, path, problem = json.try_encode(given.json)
  if not text then
    error(("bad argument 'json%s' to %s: JSON cannot hold %s"):format(path, what, problem), level + 1)
  elseif not has_header(headers, "content-type") then
    add_header(headers, "Content-Type", "application/json")
  end
  return text
end

local function timeouts_of(what, timeout, level)
  if type(timeout) ~= "table" then
    return { total = timeout }
  end
  options.check(what, timeout, options.timeout_parts, level + 1, "timeout")
  return timeout
end

-- Checks the options, for a public function that was called from `level` 3, and makes the core's of them.
local function prepare(what, given, method, url)
  local headers = header_list(what, given.headers or {}, 3)
  local timeout = timeouts_of(what, given.timeout, 3)
  local body = body_of(what, given, headers, 3)
  if not has_header(headers, "user-agent") then
    add_header(headers, "User-Agent", user_agent())
  end
  return {
    method = method or (body and "POST" or "GET"),
    url = url,
    headers = headers,
    body = body,
    connect = timeout.connect,
    first_byte = timeout.first_byte,
    idle = timeout.idle,
    attempt = timeout.attempt,
    total = timeout.total,
    max_body = given.max_body,
    max_header = given.max_header,
    ca_file = given.ca_file,
    decompress = given.decompress ~= false,
    stream = given.stream,
    buffer = given.buffer,
  }
end

local function perform(request)
  local result, err = core.http_request(request)
  if not result then
    return nil, err
  elseif request.stream and result._stream then
    return streams.wrap(result, request.max_body)
  end
  return setmetatable(result, Response)
end

local function shortcut(name, method)
  local what = "weft.http." .. name
  return function(url, given)
    given = given == nil and {} or given
    if type(url) ~= "string" then
      options.refuse(what, "url", "a string", url, 2)
    end
    options.check(what, given, fields, 2)
    return perform(prepare(what, given, method, url))
  end
end

--- Sends a request and waits for the whole answer.
-- @tparam table given
-- @tparam string given.url http:// or https://, already percent-encoded
-- @tparam[opt] string given.method default: POST when there is a body, else GET
-- @tparam[opt] table given.headers by name: a string, a number, or a list of them for several headers
-- @tparam[opt] string given.body
-- @param[opt] given.json a value that is sent as JSON instead of `body`; see weft.json.encode
-- @tparam[opt] number|table given.timeout seconds in all, the wait for its turn too (default: none but the
--   context's); or `{ connect = seconds (default 30), total = seconds }`
-- @tparam[opt] number given.max_body bytes of the answer, decompressed (default: 64 MiB)
-- @tparam[opt] number given.max_header bytes of the answer's headers (default: 256 KiB)
-- @tparam[opt=true] boolean given.decompress offers compression, and undoes it
-- @tparam[opt] string given.ca_file a PEM file with the certificates to trust instead of the system's
-- @tparam[opt=false] boolean given.stream returns as soon as the headers are there; the body is read while it
--   arrives, and `max_body` holds for @{stream:body} and @{stream:json} alone
-- @tparam[opt=65536] number given.buffer of a stream: bytes that may wait for the reader before the transfer pauses
-- @treturn[1] response whatever its status; with `stream` a @{stream}
-- @treturn[2] nil
-- @treturn[2] error see above
-- @raise bad argument or unknown option; an error of kind "canceled" or "deadline"
function http.request(given)
  options.check("weft.http.request", given, request_fields, 2)
  if given.url == nil then
    options.refuse("weft.http.request", "url", "a string", nil, 2)
  end
  return perform(prepare("weft.http.request", given, given.method, given.url))
end

--- Gets a URL.
-- @function get
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.get = shortcut("get", "GET")

--- Posts to a URL.
-- @function post
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.post = shortcut("post", "POST")

return http
