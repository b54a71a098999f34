--- Conversations in OpenAI's shape, and what the other APIs make of them. Internal.
local json = require "weft.json"

local messages = {}

--- An answer as the message that stands for it in the conversation. Calls of tools get ids where the API gives none.
function messages.of(result)
  local calls
  for i, call in ipairs(result.tool_calls or {}) do
    call.id = call.id or "call_" .. i
    calls = calls or {}
    calls[i] = { id = call.id, type = "function", ["function"] = { name = call.name, arguments = call.text or "{}" } }
  end
  return { role = "assistant", content = result.text, tool_calls = calls, refusal = result.refusal }
end

-- Of an entry of `tool_calls`: the function's name, its arguments as a table, and the call's id. What has not that shape
-- is the server's to refuse.
local function called(call)
  local this = type(call) == "table" and call or {}
  local fn = type(this["function"]) == "table" and this["function"] or {}
  local arguments = fn.arguments
  if type(arguments) == "string" then
    arguments = json.decode(arguments)
  end
  return fn.name, type(arguments) == "table" and arguments or {}, this.id
end

local function has_calls(message)
  return message.role == "assistant" and type(message.tool_calls) == "table"
end

-- ---- Anthropic ----

-- What an assistant said: blocks of text, and of calls.
local function blocks_of(message)
  local blocks = {}
  if type(message.content) == "table" and message.content ~= json.null then
    for i, block in ipairs(message.content) do
      blocks[i] = block
    end
  elseif type(message.content) == "string" and message.content ~= "" then
    blocks[1] = { type = "text", text = message.content }
  end
  for _, call in ipairs(message.tool_calls) do
    local name, arguments, id = called(call)
    blocks[#blocks + 1] = { type = "tool_use", id = id, name = name, input = arguments }
  end
  return { role = "assistant", content = blocks }
end

--- What Anthropic's API takes: calls of tools are blocks of what the assistant said, and their results, which follow each
-- other, blocks of one message of the user. Any other message is as it was.
function messages.for_anthropic(list)
  local out, results = {}, nil
  for _, message in ipairs(list) do
    if message.role == "tool" then
      if not results then
        results = {}
        out[#out + 1] = { role = "user", content = results }
      end
      results[#results + 1] = { type = "tool_result", tool_use_id = message.tool_call_id, content = message.content }
    else
      results = nil
      out[#out + 1] = has_calls(message) and blocks_of(message) or message
    end
  end
  return out
end

-- ---- Ollama ----

local function copy(message)
  local out = {}
  for name, value in pairs(message) do
    out[name] = value
  end
  return out
end

--- What Ollama's API takes: arguments as objects, and results of tools by the tool's name.
function messages.for_ollama(list)
  local out, names = {}, {}
  for i, message in ipairs(list) do
    out[i] = message
    if has_calls(message) then
      out[i] = copy(message)
      out[i].tool_calls = {}
      for k, call in ipairs(message.tool_calls) do
        local name, arguments, id = called(call)
        if id then
          names[id] = name
        end
        out[i].tool_calls[k] = { ["function"] = { name = name, arguments = arguments } }
      end
    elseif message.role == "tool" and message.tool_name == nil then
      out[i] = copy(message)
      out[i].tool_name, out[i].tool_call_id = names[message.tool_call_id], nil
    end
  end
  return out
end

return messages
