--- Asking models and reading what they say: the parts that several APIs share. Internal.
local json = require "weft.json"

local read = {}

--- The messages of a chat in the shape that OpenAI and Ollama share.
function read.messages(given)
  local messages = {}
  if given.system then
    messages[1] = { role = "system", content = given.system }
  end
  if given.prompt then
    messages[#messages + 1] = { role = "user", content = given.prompt }
  end
  for _, message in ipairs(given.messages or {}) do
    messages[#messages + 1] = message
  end
  return messages
end

--- A string, or nil for anything else.
function read.text(value)
  return type(value) == "string" and value or nil
end

local MOST = 1e9 -- tokens of one call that a server is believed

local function is_count(value)
  return type(value) == "number" and value >= 0 and value <= MOST
end

--- A count, 0 for anything else.
function read.count(value)
  return is_count(value) and value or 0
end

--- Two texts, either of which may be nil.
function read.join(a, b)
  return a and b and a .. b or a or b
end

--- Usage in the one shape that results have.
function read.usage(prompt, completion, cached, written)
  prompt, completion = read.count(prompt), read.count(completion)
  cached, written = read.count(cached), read.count(written)
  return {
    prompt_tokens = prompt,
    completion_tokens = completion,
    total_tokens = prompt + completion,
    cached_tokens = cached > 0 and cached or nil,
    cache_write_tokens = written > 0 and written or nil,
  }
end

--- The same of what a server says; nil when a count is none, so that it is estimated and not taken for nothing.
function read.said_usage(prompt, completion, cached, written)
  if is_count(prompt) and is_count(completion) then
    return read.usage(prompt, completion, cached, written)
  end
end

--- Four bytes a token, at least one.
function read.estimate(bytes)
  return math.max(1, math.ceil(bytes / 4))
end

--- A call of a tool: `arguments` is a table when they are JSON, `text` what the model wrote.
function read.tool_call(id, name, arguments)
  local is_text = type(arguments) == "string"
  local value = is_text and json.decode(arguments) or arguments
  return {
    id = read.text(id),
    name = read.text(name),
    arguments = type(value) == "table" and value or nil,
    text = is_text and arguments or type(arguments) == "table" and json.encode(arguments) or nil,
  }
end

-- ---- texts that grow ----

local PIECES = 256 -- that are joined at once: an answer may come byte by byte, and a string takes some tens of bytes

local function add_piece(rope, piece)
  local count = rope.count + 1
  rope.pieces[count] = piece
  if count == PIECES then
    rope.joined[#rope.joined + 1] = table.concat(rope.pieces)
    count = 0
  end
  rope.count = count
end

local function new_rope()
  return { joined = {}, pieces = {}, count = 0 }
end

local function text_of(rope)
  return table.concat(rope.joined) .. table.concat(rope.pieces, "", 1, rope.count)
end

-- ---- streams ----

local CALL = 256 -- bytes that a tool call counts for besides its texts

--- What has been read of a stream.
local Reader = {}
Reader.__index = Reader

--- Makes a reader.
-- @tparam[opt=math.huge] number most bytes of the answer that it keeps; what would be more is not taken, and `is_full`
--   is set
-- @treturn table `usage`, `finish_reason`, `model`: as far as they are known; `size`: bytes of text and arguments;
--   `is_done`: nothing follows
function read.new_reader(most)
  return setmetatable({ most = most or math.huge, held = 0, size = 0, rope = new_rope(), calls = {}, by_index = {} }, Reader)
end

-- Whether there is room for that much more.
local function hold(reader, bytes)
  if reader.is_full or reader.held + bytes > reader.most then
    reader.is_full = true
    return false
  end
  reader.held = reader.held + bytes
  return true
end

--- Adds text to the answer.
function Reader:add_text(text)
  if text and text ~= "" and hold(self, #text) then
    add_piece(self.rope, text)
    self.size = self.size + #text
    self.fresh_text = read.join(self.fresh_text, text)
  end
end

--- Adds text of a refusal.
function Reader:add_refusal(text)
  if text and hold(self, #text) then
    self.refused = self.refused or new_rope()
    add_piece(self.refused, text)
  end
end

local function call_at(reader, index)
  local call = reader.by_index[index]
  if not call then
    call = { rope = new_rope() }
    reader.by_index[index] = call
    reader.calls[#reader.calls + 1] = call
  end
  return call
end

--- Adds a part of a tool call: the parts of one call have the same index.
function Reader:add_call(index, id, name, arguments)
  local size = #(arguments or "")
  local is_new = self.by_index[index] == nil
  if not hold(self, size + (is_new and CALL or 0) + #(id or "") + #(name or "")) then
    return
  end
  local call = call_at(self, index)
  call.id, call.name = call.id or id, call.name or name
  if size > 0 then
    add_piece(call.rope, arguments)
  end
  self.size = self.size + size
  self.fresh_calls = self.fresh_calls or {}
  self.fresh_calls[#self.fresh_calls + 1] = { index = index, id = id, name = name, arguments = arguments }
end

--- What came since the last call, or nil.
-- @treturn ?table `text` ("" for none), `tool_calls`: parts of some, or nil
function Reader:take()
  local text, calls = self.fresh_text, self.fresh_calls
  self.fresh_text, self.fresh_calls = nil, nil
  if text or calls then
    return { text = text or "", tool_calls = calls }
  end
end

--- All text so far.
function Reader:text()
  return text_of(self.rope)
end

--- The answer so far, in the shape of a chat's result.
function Reader:result()
  local calls = {}
  for i, call in ipairs(self.calls) do
    local text = text_of(call.rope)
    calls[i] = read.tool_call(call.id, call.name, text ~= "" and text or "{}")
  end
  return {
    text = self:text(),
    tool_calls = #calls > 0 and calls or nil,
    refusal = self.refused and text_of(self.refused),
    finish_reason = self.finish_reason,
    usage = self.usage,
    model = self.model,
  }
end

return read
