--- Anthropic's messages: bodies and replies. Internal.
local json = require "weft.json"
local messages_of = require("weft.model.messages").for_anthropic
local read = require "weft.model.read"

local anthropic = {
  base_url = "https://api.anthropic.com/v1",
  version_path = "/v1", -- of a base URL without a path, as Anthropic's own clients take it
  chat_path = "/messages",
  stream_format = "events",
  max_tokens = 4096, -- the API wants a bound
  no_embed = "Anthropic's API has no embeddings; use weft.model.openai or weft.model.ollama",
}

local VERSION = "2023-06-01"

--- The headers of every request.
function anthropic.headers(key)
  return { ["x-api-key"] = key, ["anthropic-version"] = VERSION }
end

-- ---- asking ----

-- A tool in OpenAI's shape, as Anthropic wants it; any other as it is.
local function tool_of(tool)
  local fn = type(tool) == "table" and tool.type == "function" and tool["function"]
  if type(fn) ~= "table" then
    return tool
  end
  local schema = fn.parameters or { type = "object" }
  return { name = fn.name, description = fn.description, input_schema = schema }
end

local function tools_of(tools)
  local list = {}
  for i, tool in ipairs(tools or {}) do
    list[i] = tool_of(tool)
  end
  return tools and list
end

-- What the system says stands beside the messages, wherever it stood in them.
local function split_system(given)
  local system, messages = { given.system }, {}
  for _, message in ipairs(given.messages or { { role = "user", content = given.prompt } }) do
    if message.role == "system" and type(message.content) == "string" then
      system[#system + 1] = message.content
    else
      messages[#messages + 1] = message
    end
  end
  if given.schema then
    system[#system + 1] = "Answer with JSON alone, without a code fence, that matches this JSON schema: "
      .. json.encode(given.schema)
  end
  return #system > 0 and table.concat(system, "\n\n") or nil, messages
end

--- The body of a chat.
function anthropic.chat_body(client, given, is_stream)
  local system, messages = split_system(given)
  return {
    model = client.model,
    max_tokens = given.max_tokens or client.max_tokens,
    system = system,
    messages = messages_of(messages),
    temperature = given.temperature,
    tools = tools_of(given.tools),
    tool_choice = given.tool_choice,
    stream = is_stream or nil,
  }
end

-- ---- replies ----

-- In OpenAI's words.
local finishes = {
  end_turn = "stop",
  stop_sequence = "stop",
  max_tokens = "length",
  tool_use = "tool_calls",
  refusal = "content_filter",
}

local function finish_of(reason)
  reason = read.text(reason)
  return finishes[reason] or reason
end

local function usage_of(usage)
  if type(usage) ~= "table" or type(usage.input_tokens) ~= "number" then
    return nil
  end
  local cached, written = read.count(usage.cache_read_input_tokens), read.count(usage.cache_creation_input_tokens)
  return read.said_usage(usage.input_tokens + cached + written, usage.output_tokens, cached, written)
end

--- The result of a chat; or nil and what is missing.
function anthropic.read_chat(reply)
  if type(reply.content) ~= "table" then
    return nil, "the reply has no content"
  end
  local texts, calls = {}, {}
  for _, block in ipairs(reply.content) do
    if block.type == "text" and type(block.text) == "string" then
      texts[#texts + 1] = block.text
    elseif block.type == "tool_use" then
      calls[#calls + 1] = read.tool_call(block.id, block.name, block.input)
    end
  end
  return {
    text = table.concat(texts),
    tool_calls = #calls > 0 and calls or nil,
    finish_reason = finish_of(reply.stop_reason),
    usage = usage_of(reply.usage),
    model = read.text(reply.model),
  }
end

-- ---- streams ----

local counts = { "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens" }

-- Counts are cumulative and come in pieces: what an event does not say stays.
local function merge_usage(reader, usage)
  if type(usage) ~= "table" then
    return
  end
  reader.counts = reader.counts or {}
  for _, name in ipairs(counts) do
    if type(usage[name]) == "number" then
      reader.counts[name] = usage[name]
    end
  end
  reader.usage = usage_of(reader.counts)
end

local events = {}

function events.message_start(reader, data)
  local message = type(data.message) == "table" and data.message or {}
  reader.model = read.text(message.model) or reader.model
  merge_usage(reader, message.usage)
end

function events.content_block_start(reader, data)
  local block = type(data.content_block) == "table" and data.content_block or {}
  if block.type == "tool_use" then
    reader:add_call(data.index, read.text(block.id), read.text(block.name))
  else
    reader:add_text(read.text(block.text))
  end
end

function events.content_block_delta(reader, data)
  local delta = type(data.delta) == "table" and data.delta or {}
  if delta.type == "text_delta" then
    reader:add_text(read.text(delta.text))
  elseif delta.type == "input_json_delta" then
    reader:add_call(data.index, nil, nil, read.text(delta.partial_json))
  end
end

function events.message_delta(reader, data)
  local delta = type(data.delta) == "table" and data.delta or {}
  reader.finish_reason = finish_of(delta.stop_reason) or reader.finish_reason
  merge_usage(reader, data.usage)
end

function events.message_stop(reader)
  reader.is_done = true
end

--- One event of a stream: adds to the reader what it says.
function anthropic.read_event(reader, data)
  local event = events[data.type]
  if event then
    event(reader, data)
  end
end

return anthropic
