--- Answers that are read while they arrive: `stream = true` of @{weft.http.request}.
--
-- @module weft.http.stream
local check = require "weft.check"
local core = require "weft.core"
local json = require "weft.json"
local options = require "weft.options"

local M = {}

local MAX_BODY = 64 * 1024 * 1024

--- An answer that is read while it arrives.
--
-- It belongs to the task that made the request, and ends with that task's context: once that is done,
-- the transfer is aborted. A response that is collected, or closed by `<close>` on Lua 5.4, aborts it
-- as well. A body is read in one way only: as chunks, as events, or as lines. When nobody reads, the
-- transfer pauses: of each body at most twice `buffer` bytes are held.
-- @type stream
-- @field status number
-- @field headers as those of @{response}
-- @field framing how the end of the body shows: "length", "chunked", "none" (there is no body), or "close": then the
--   server just closes the connection, and a body that was cut short looks whole
local Stream = { __name = "weft.http stream" }
Stream.__index = Stream
Stream.__weft_advice = "a response that is still read belongs to its task; read it there, and send what it brings"

local loop_options = {
  events = { max_event = options.bytes },
  lines = { max_line = options.bytes },
}

-- For a method that was called from `level` 3.
local function open(self, method, mode, given, level)
  local most
  if getmetatable(self) ~= Stream then
    options.refuse("stream:" .. method, "self", "a stream (call it with ':')", self, level or 3)
  end
  if given ~= nil then
    options.check("stream:" .. method, given, loop_options[mode], level or 3)
    most = given.max_event or given.max_line
  end
  local other = self._stream:open(mode, most)
  if other then
    error(("stream:%s: this body is read as %s already; a body is read in one way only"):format(method, other), level or 3)
  end
  return self._stream
end

--- What has arrived since the last call, or what arrives next: never an empty string.
-- @treturn[1] string
-- @treturn[2] nil at the end of a body that is whole; see `framing`
-- @treturn[3] nil
-- @treturn[3] error as of @{weft.http.request}, when the body was cut short or a time limit is over; of kind
--   "closed" after `close`
-- @raise an error of kind "canceled" or "deadline" when the caller's context is done; the body is read in
--   another way
function Stream:read()
  return open(self, "read", "bytes"):read()
end

--- Iterates over the body as it arrives: `for chunk in res:chunks() do`. Chunks are of any size, and cut
-- anywhere.
-- @treturn function an iterator, and its state
-- @raise in the loop: what @{stream:read} returns as an error, and what it raises
function Stream:chunks()
  return open(self, "chunks", "bytes"):loop()
end

--- Iterates over server-sent events: `for event in res:events() do`. An event that the stream did not
-- finish is not among them.
-- @tparam[opt] table given
-- @tparam[opt=8388608] number given.max_event bytes that data, type and id of one event may have together
-- @treturn function an iterator, and its state; it gives events as @{sse:feed} does
-- @raise in the loop: what @{stream:read_event} returns as an error, and what it raises
function Stream:events(given)
  return open(self, "events", "events", given):loop()
end

--- The next server-sent event.
-- @tparam[opt] table given as for @{stream:events}; what the first call says holds
-- @treturn[1] table as @{sse:feed} has them
-- @treturn[2] nil at the end
-- @treturn[3] nil
-- @treturn[3] error as of @{stream:read}, or of kind "too_large" (`max_event`)
-- @raise as @{stream:read}
function Stream:read_event(given)
  return open(self, "read_event", "events", given):read()
end

--- Iterates over lines, such as those of NDJSON: `for line in res:lines() do`. A line ends with LF or CR LF,
-- which it comes without; the last one needs none.
-- @tparam[opt] table given
-- @tparam[opt=8388608] number given.max_line bytes that a line may have
-- @treturn function an iterator, and its state
-- @raise in the loop: what @{stream:read_line} returns as an error, and what it raises
function Stream:lines(given)
  return open(self, "lines", "lines", given):loop()
end

--- The next line.
-- @tparam[opt] table given as for @{stream:lines}; what the first call says holds
-- @treturn[1] string
-- @treturn[1] nil
-- @treturn[1] ?boolean true for a last line without its end: it may have been cut
-- @treturn[2] nil at the end
-- @treturn[3] nil
-- @treturn[3] error as of @{stream:read}, or of kind "too_large" (`max_line`)
-- @raise as @{stream:read}
function Stream:read_line(given)
  return open(self, "read_line", "lines", given):read()
end

local function gather(self, method)
  local reader, parts, size = open(self, method, "bytes", nil, 4), {}, 0
  while true do
    local chunk, err = reader:read()
    if err then
      return nil, err
    elseif not chunk then
      return table.concat(parts)
    end
    size = size + #chunk
    if size > self._max_body then
      reader:close()
      local message = ("the answer's body is larger than max_body (%d bytes)"):format(self._max_body)
      return nil, core.new_error { kind = "too_large", message = message, status = self.status }
    end
    parts[#parts + 1] = chunk
  end
end

--- Reads the rest of the body.
-- @treturn[1] string
-- @treturn[2] nil
-- @treturn[2] error as of @{stream:read}, or of kind "too_large" when the rest is larger than the request's
--   `max_body`: the response is closed then
-- @raise as @{stream:read}
function Stream:body()
  local body, err = gather(self, "body")
  return body, err
end

--- Reads the rest of the body as JSON.
-- @return[1] the value; see @{weft.json.decode}
-- @treturn[2] nil
-- @treturn[2] error as of @{stream:body}, or of kind "bad_reply", with `status`
-- @raise as @{stream:read}
function Stream:json()
  local body, err = gather(self, "json")
  if not body then
    return nil, err
  end
  return M.decode(body, self.status)
end

--- Gives up what has not been read, and aborts the transfer unless it has ended. Allowed at any time, and
-- more than once.
function Stream:close()
  check.self("stream:close", "stream", self, Stream)
  self._stream:close()
end

--- How long it took.
-- @treturn[1] table as `timings` of @{response}
-- @treturn[2] nil while the body arrives
function Stream:timings()
  check.self("stream:timings", "stream", self, Stream)
  return self._stream:timings()
end

function Stream:__tostring()
  return ("weft.http stream: status %d"):format(self.status)
end

function Stream:__close()
  self:close()
end

--- A body as JSON. Internal.
function M.decode(body, status)
  local value, err = json.decode(body)
  if value ~= nil then
    return value
  end
  local message = ("the body of the answer (status %d, %d bytes) is %s"):format(status, #body, err.message)
  return nil, core.new_error { kind = "bad_reply", message = message, status = status, cause = err }
end

--- Makes the object of what the core returned. Internal.
function M.wrap(result, max_body)
  result._max_body = max_body or MAX_BODY
  return setmetatable(result, Stream)
end

--- Methods of streams, on an answer that is none: they say what to do. Internal.
function M.refuse_on(class)
  for _, name in ipairs { "read", "chunks", "events", "read_event", "lines", "read_line" } do
    class[name] = function()
      error(("response:%s: the whole body is in `body` already; ask for it with stream = true"):format(name), 2)
    end
  end
end

return M
