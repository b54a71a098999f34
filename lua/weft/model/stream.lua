--- Answers that are read while the model writes them.
-- @module weft.model.stream
local call = require "weft.model.call"
local core = require "weft.core"
local errors = require "weft.model.errors"
local finalizer = require "weft.finalizer"
local json = require "weft.json"
local limits = require "weft.model.limits"
local read = require "weft.model.read"
local retry = require "weft.retry"
local span = require("weft.span").span

local stream = {}

local MAX_BODY = 64 * 1024 * 1024 -- as of weft.http
local PAUSE, PAUSES = 0.001, 5 -- how long the end of the transfer is waited for, so that its connection can be kept

--- An answer that arrives.
--
-- It belongs to the task that asked for it, and holds its place among the client's calls until it has ended. One that
-- is not read to its end should be closed; one that is collected is closed too.
-- @type model_stream
local Stream = { __name = "weft.model stream" }
Stream.__index = Stream
Stream.__weft_advice = "a stream belongs to its task; read it there, and send what it brings"

-- What a stream is made of is kept apart from it: there are keys in it, and a stream may be printed.
local insides = setmetatable({}, { __mode = "k" })

-- ---- what arrives ----

local sources = {}

-- The next piece of a stream: its name, its text, nil and whether it may have been cut; nil at the end; nil, nil, error.
function sources.events(self)
  local event, err = self.res:read_event()
  if event then
    return event.type, event.data
  end
  return nil, nil, err
end

function sources.lines(self)
  local line, err, is_cut
  repeat
    line, err, is_cut = self.res:read_line()
  until line ~= ""
  return line and "message", line, err, is_cut
end

local function problem_of(data)
  local problem = data.error
  if type(problem) == "table" or type(problem) == "string" then
    return problem
  end
end

local function truncated(self, cause)
  local why = cause and cause.message or "the stream ended before the answer did"
  return errors.new(self.client, "stream_truncated", why, { cause = cause })
end

-- Reads one piece into the reader. Returns an error that came with it.
local function take_in(self, name, text, is_cut)
  local reader = self.reader
  if text == "[DONE]" then
    reader.is_done = true
    return nil
  end
  local data, err = json.decode(text)
  if type(data) ~= "table" then
    if is_cut then
      return truncated(self)
    elseif name == "error" then
      return errors.of_body(self.client, text, "in the stream")
    end
    return errors.bad_reply(self.client, "an event of the stream is " .. (err and err.message or "no JSON object"))
  end
  local problem = problem_of(data)
  if problem or name == "error" then
    return errors.of_body(self.client, problem or data, "in the stream")
  end
  if not pcall(self.client.api.read_event, reader, data) then
    return errors.bad_reply(self.client, "an event of the stream has an unknown shape")
  elseif reader.is_full then
    return errors.new(self.client, "too_large", ("the answer is larger than max_body (%d bytes)"):format(reader.most))
  end
end

-- Reads until there is a delta: it, nil at the end of the answer, or nil and an error.
local function read_delta(self)
  local reader, next_piece = self.reader, sources[self.client.api.stream_format]
  while not reader.is_done do
    local name, text, err, is_cut = next_piece(self)
    if not name and reader.finish_reason then
      return nil -- however the connection ended: the answer had
    elseif err then
      local has_begun = reader.size > 0 and err.kind ~= "too_large"
      return nil, has_begun and truncated(self, err) or errors.of_transport(self.client, err)
    elseif not name then
      return nil, truncated(self)
    end
    err = take_in(self, name, text, is_cut)
    if err then
      return nil, err
    end
    local delta = reader:take()
    if delta then
      return delta
    end
  end
  return nil
end

-- ---- the end ----

local function end_transfer(res)
  for _ = 1, PAUSES do
    if res:timings() then
      break
    end
    core.sleep(PAUSE)
  end
  res:close()
end

local function settle_failure(self, err)
  errors.with_partial(self.client, err, self.reader.size > 0 and self.reader:text() or nil)
  self.failure = err
  call.fail(self.client, self.call, self.lease, err, self.reader.size)
  self.res:close()
  return nil, err
end

local function settle_success(self)
  local result = call.complete(self.client, self.call, self.reader:result())
  if result.finish_reason == "content_filter" and self.reader.size == 0 then
    settle_failure(self, errors.of_content(self.client, result.usage))
    return
  end
  result.attempts = self.attempts
  self.finished = result
  call.succeed(self.client, self.lease, result)
  end_transfer(self.res)
end

local function close(self)
  if self.finished or self.failure then
    return
  end
  self.failure = errors.new(self.client, "closed", "the stream was closed", { partial = self.reader:text() })
  local tokens, usd = call.loss(self.client, self.call, nil, self.reader.size)
  limits.leave(self.client, self.lease, "unknown", tokens, usd)
  self.res:close()
end

-- One step, and the end of the account with the end of the stream.
local function step(self)
  local first = self.first
  if first then
    self.first = nil
    return first
  elseif self.finished or self.failure then
    return nil, self.failure
  end
  local ok, delta, err = pcall(read_delta, self)
  if not ok then -- cancelled
    close(self)
    error(delta, 0)
  elseif delta then
    return delta
  elseif err then
    return settle_failure(self, err)
  end
  settle_success(self)
  return nil, self.failure
end

-- ---- for users ----

--- The next part of the answer, as soon as it is there.
-- @treturn[1] table `text` ("" for none), maybe `tool_calls`: parts of them, `{ index, id, name, arguments }`
-- @treturn[2] nil at the end of an answer that is complete
-- @treturn[3] nil
-- @treturn[3] error of kind "stream_truncated" when the answer was cut short, else what the server sent; `partial` is
--   the text that came before
-- @raise an error of kind "canceled" or "deadline" when the context is done
function Stream:next()
  return step(insides[self])
end

local function next_text(self)
  local delta, err = step(insides[self])
  if err then
    error(err, 0)
  elseif delta then
    return delta.text, delta
  end
end

--- Iterates over the parts: `for text, delta in stream:deltas() do`.
-- @treturn function an iterator, and its state
-- @raise in the loop: what @{model_stream:next} returns as an error, and what it raises
function Stream:deltas()
  return next_text, self
end

--- Reads the rest, and returns the whole answer.
-- @treturn[1] table as @{model:chat} returns it, without `raw`
-- @treturn[2] nil
-- @treturn[2] error as @{model_stream:next}
-- @raise as @{model_stream:next}
function Stream:result()
  local inside = insides[self]
  repeat
    local delta = step(inside)
  until not delta
  return inside.finished, inside.failure
end

--- Gives up what has not arrived. Allowed at any time, and more than once.
function Stream:close()
  close(insides[self])
end

function Stream:__close()
  close(insides[self])
end

function Stream:__tostring()
  return ("weft.model stream: %s"):format(insides[self].client.label)
end

-- ---- asking ----

-- A stream that nobody reads to its end gives back what it holds.
local function guard(client, this, lease, reader)
  return finalizer.new(function()
    if lease.places or lease.tokens or lease.usd or lease.entered then
      local tokens, usd = call.loss(client, this, nil, reader.size)
      lease.is_silent = true
      limits.leave(client, lease, "unknown", tokens, usd)
    end
  end)
end

-- An answer that is no stream: a failure, or a whole reply of a server that does not stream.
local function read_whole(client, this, lease, res)
  local body, err = res:body()
  local result
  if body then
    local whole = { status = res.status, headers = res.headers, body = body }
    result, err = call.read_answer(client, this, whole)
    limits.listen(client, res, err, this.tokens)
  else
    err = errors.of_transport(client, err)
  end
  if not result then
    call.fail(client, this, lease, err, 0)
    return nil, err
  end
  call.succeed(client, lease, result)
  return result
end

local function is_stream(client, res)
  local kind = res.headers["content-type"] or ""
  return client.api.stream_format ~= "events" or not kind:find("application/json", 1, true)
end

local function new_inside(client, this, lease, res)
  local reader = read.new_reader(client.http.max_body or MAX_BODY)
  return {
    client = client,
    call = this,
    lease = lease,
    res = res,
    reader = reader,
    guard = guard(client, this, lease, reader),
  }
end

local function open_whole(client, this, lease, res)
  local result, err = read_whole(client, this, lease, res)
  if not result then
    return nil, err
  end
  local self = new_inside(client, this, lease, res)
  self.finished, self.first = result, { text = result.text, tool_calls = result.tool_calls }
  return self
end

local function attempt(client, this, lease, key)
  local res, err = call.send(client, this, key, true)
  if not res then
    call.fail(client, this, lease, err, 0)
    return nil, err
  elseif not call.is_good(res.status) or not is_stream(client, res) then
    return open_whole(client, this, lease, res)
  end
  limits.listen(client, res, nil, this.tokens)
  local self = new_inside(client, this, lease, res)
  self.first, err = step(self)
  if err then
    limits.listen(client, res, err, this.tokens) -- "too many requests" comes in a stream, too
    return nil, err
  end
  client.limits.health:sample("first", core.now() - lease.started)
  return self
end

--- Asks for a stream, and waits for its first part: until then, and no longer, it is asked for again where that may
-- help. Internal.
function stream.open(client, this)
  local inside, err = span("model " .. client.model, retry.run, client.retry, function(number, key)
    local self, failure = call.with_lease(client, this, attempt, key)
    if self then
      self.attempts = number
      if self.finished then
        self.finished.attempts = number
      end
    end
    return self, failure
  end)
  if not inside then
    return nil, err
  end
  local self = setmetatable({ attempts = inside.attempts }, Stream)
  insides[self] = inside
  return self
end

return stream
