--- Ollama's chat and embeddings: bodies and replies. Internal.
local messages_of = require("weft.model.messages").for_ollama
local read = require "weft.model.read"

local ollama = {
  base_url = "http://127.0.0.1:11434",
  chat_path = "/api/chat",
  embed_path = "/api/embed",
  stream_format = "lines",
}

--- The headers of every request.
function ollama.headers(key)
  return key and { Authorization = "Bearer " .. key } or {}
end

-- ---- asking ----

local function options_of(client, given)
  local bound = given.max_tokens or client.max_tokens
  if given.temperature or bound then
    return { temperature = given.temperature, num_predict = bound }
  end
end

--- The body of a chat.
function ollama.chat_body(client, given, is_stream)
  return {
    model = client.model,
    messages = messages_of(read.messages(given)),
    tools = given.tools,
    format = given.schema,
    options = options_of(client, given),
    stream = is_stream,
  }
end

--- The body of a request for embeddings.
function ollama.embed_body(client, given)
  return { model = client.model, input = given.input, dimensions = given.dimensions }
end

-- ---- replies ----

local function usage_of(reply)
  if type(reply.eval_count) ~= "number" and type(reply.prompt_eval_count) ~= "number" then
    return nil
  end
  return read.said_usage(reply.prompt_eval_count or 0, reply.eval_count or 0)
end

local function tool_calls_of(list)
  local calls = {}
  for i, call in ipairs(type(list) == "table" and list or {}) do
    local fn = type(call["function"]) == "table" and call["function"] or {}
    calls[i] = read.tool_call(call.id, fn.name, fn.arguments)
  end
  return #calls > 0 and calls or nil
end

-- Ollama says "stop" also when it calls a tool.
local function finish_of(reply, has_calls)
  return has_calls and "tool_calls" or read.text(reply.done_reason)
end

--- The result of a chat; or nil and what is missing.
function ollama.read_chat(reply)
  local message = reply.message
  if type(message) ~= "table" or type(message.content) ~= "string" then
    return nil, "the reply has no message.content"
  end
  local calls = tool_calls_of(message.tool_calls)
  return {
    text = message.content,
    tool_calls = calls,
    finish_reason = finish_of(reply, calls),
    usage = usage_of(reply),
    model = read.text(reply.model),
  }
end

--- The vectors, in the order of the input; or nil and what is missing.
function ollama.read_embed(reply)
  local vectors = type(reply.embeddings) == "table" and reply.embeddings or {}
  local usage = read.said_usage(reply.prompt_eval_count, 0)
  return vectors, usage, read.text(reply.model)
end

-- ---- streams ----

--- One line of a stream: adds to the reader what it says.
function ollama.read_event(reader, data)
  local message = type(data.message) == "table" and data.message or {}
  reader.model = read.text(data.model) or reader.model
  reader:add_text(read.text(message.content))
  for _, call in ipairs(tool_calls_of(message.tool_calls) or {}) do
    reader:add_call(#reader.calls, call.id, call.name, call.text)
  end
  if data.done == true then
    reader.finish_reason = finish_of(data, #reader.calls > 0)
    reader.usage = usage_of(data)
    reader.is_done = true
  end
end

return ollama
