--- OpenAI's chat completions and embeddings, and the many servers that speak the same: bodies and replies. Internal.
local json = require "weft.json"
local read = require "weft.model.read"

local openai = {
  base_url = "https://api.openai.com/v1",
  chat_path = "/chat/completions",
  embed_path = "/embeddings",
  stream_format = "events",
}

--- The headers of every request.
function openai.headers(key)
  return key and { Authorization = "Bearer " .. key } or {}
end

-- ---- asking ----

local copied = { "temperature", "response_format", "tools", "tool_choice" }

-- The name of the bound: models that reason refuse the old one, which is the one that every other server knows.
local function bound_name(model)
  return (model:match "^o%d" or model:match "^gpt%-5") and "max_completion_tokens" or "max_tokens"
end

--- The body of a chat.
function openai.chat_body(client, given, is_stream)
  local body = { model = client.model, messages = read.messages(given) }
  for _, name in ipairs(copied) do
    body[name] = given[name]
  end
  local extra = given.extra or {}
  if not extra.max_tokens and not extra.max_completion_tokens then
    body[bound_name(client.model)] = given.max_tokens or client.max_tokens
  end
  if given.schema and not given.response_format then
    body.response_format = { type = "json_schema", json_schema = { name = "reply", schema = given.schema } }
  end
  if is_stream then
    body.stream = true
    body.stream_options = { include_usage = true }
  end
  return body
end

--- The body of a request for embeddings.
function openai.embed_body(client, given)
  return { model = client.model, input = given.input, dimensions = given.dimensions }
end

-- ---- replies ----

local function usage_of(usage)
  if type(usage) ~= "table" then
    return nil
  end
  local details = type(usage.prompt_tokens_details) == "table" and usage.prompt_tokens_details or {}
  return read.said_usage(usage.prompt_tokens, usage.completion_tokens, details.cached_tokens)
end

local function tool_calls_of(list)
  if type(list) ~= "table" then
    return nil
  end
  local calls = {}
  for i, call in ipairs(list) do
    local fn = type(call["function"]) == "table" and call["function"] or {}
    calls[i] = read.tool_call(call.id, fn.name, fn.arguments)
  end
  return calls
end

--- The result of a chat; or nil and what is missing.
function openai.read_chat(reply)
  local choice = type(reply.choices) == "table" and reply.choices[1]
  local message = type(choice) == "table" and choice.message
  if type(message) ~= "table" then
    return nil, "the reply has no choices[1].message"
  end
  local calls, refusal = tool_calls_of(message.tool_calls), read.text(message.refusal)
  local finish = read.text(choice.finish_reason)
  local text = read.text(message.content) or ((calls or refusal or finish == "content_filter") and "")
  if not text then
    return nil, "the reply has no choices[1].message.content"
  end
  return {
    text = text,
    tool_calls = calls,
    refusal = refusal,
    finish_reason = finish,
    usage = usage_of(reply.usage),
    model = read.text(reply.model),
  }
end

--- The vectors, in the order of the input; or nil and what is missing.
function openai.read_embed(reply)
  local vectors = {}
  for i, item in ipairs(type(reply.data) == "table" and reply.data or {}) do
    local at = type(item) == "table" and type(item.index) == "number" and item.index + 1 or i
    vectors[at] = type(item) == "table" and type(item.embedding) == "table" and item.embedding or nil
  end
  local usage = type(reply.usage) == "table" and read.said_usage(reply.usage.prompt_tokens, 0) or nil
  return vectors, usage, read.text(reply.model)
end

-- ---- streams ----

local function add_calls(reader, list)
  for i, part in ipairs(list) do
    local fn = type(part["function"]) == "table" and part["function"] or {}
    local at = type(part.index) == "number" and part.index or i - 1
    reader:add_call(at, read.text(part.id), read.text(fn.name), read.text(fn.arguments))
  end
end

-- Of several answers to one question the first, as in a whole reply.
local function first_choice(choices)
  for _, choice in ipairs(type(choices) == "table" and choices or {}) do
    if type(choice) == "table" and (type(choice.index) ~= "number" or choice.index == 0) then
      return choice
    end
  end
end

--- One event of a stream: adds to the reader what it says.
function openai.read_event(reader, data)
  reader.model = read.text(data.model) or reader.model
  reader.usage = usage_of(data.usage) or reader.usage
  local choice = first_choice(data.choices)
  if not choice then
    return
  end
  local delta = type(choice.delta) == "table" and choice.delta or {}
  reader:add_text(read.text(delta.content))
  reader:add_refusal(read.text(delta.refusal))
  if type(delta.tool_calls) == "table" and delta.tool_calls ~= json.null then
    add_calls(reader, delta.tool_calls)
  end
  reader.finish_reason = read.text(choice.finish_reason) or reader.finish_reason
end

return openai
