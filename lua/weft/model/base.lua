--- Models: what all of them do, whichever API is behind them.
-- @module weft.model.base
local call = require "weft.model.call"
local check = require "weft.check"
local client_of = require "weft.model.client"
local core = require "weft.core"
local errors = require "weft.model.errors"
local json = require "weft.json"
local options = require "weft.options"
local schema = require "weft.schema"
local shared = require "weft.model.shared"
local stream = require "weft.model.stream"

local base = {}

--- A model. It can be captured and sent; what it limits and learns is shared by all who have it.
-- @type model
local Model = core.class "weft.model.base"
Model.__index = Model
Model.__name = "weft.model"

function Model:__tostring()
  local settings = base.settings(self)
  return ("weft.model.%s: %s"):format(settings.kind, settings.label)
end

--- What a model was made of. Internal.
function base.settings(model)
  return client_of.unpack(rawget(model, "handle"), rawget(model, "functions"))
end

function Model.__newindex()
  error("a model cannot be changed; make another one", 2)
end

-- ---- what is asked ----

local text_or_list = {
  function(value)
    return type(value) == "string" or type(value) == "table" and #value > 0
  end,
  "a string or a list of them",
}
local string_or_table = {
  function(value)
    return type(value) == "string" or type(value) == "table"
  end,
  "a string or a table",
}

local chat_fields = {
  messages = options.table,
  prompt = options.text,
  system = options.text,
  model = options.word,
  temperature = options.finite,
  max_tokens = options.count,
  response_format = options.table,
  schema = options.table,
  tools = options.table,
  tool_choice = string_or_table,
  timeout = options.timeout,
  fresh = options.boolean,
  extra = options.table,
}

local embed_fields = {
  input = text_or_list,
  model = options.word,
  dimensions = options.count,
  timeout = options.timeout,
  fresh = options.boolean,
  extra = options.table,
}

local function check_self(self, what)
  if getmetatable(self) ~= Model then
    error(("bad argument 'self' to %s: expected a model, got %s; call it as m:%s{…}"):format(
      what, check.type_of(self), what:match(":(%w+)$")), 3)
  end
end

local function check_common(what, given)
  if type(given.timeout) == "table" then
    options.check(what, given.timeout, options.timeout_parts, 4, "timeout")
  end
  if given.extra and given.extra.stream ~= nil then
    error(("bad argument 'extra.stream' to %s: chat and stream decide that"):format(what), 4)
  end
end

--- Checks what a chat is asked, for a method that a user calls. Internal.
function base.check_chat(what, given)
  if type(given) == "string" then
    options.refuse(what, "options", "a table, such as { prompt = text }", given, 3)
  end
  options.check(what, given, chat_fields, 3)
  if (given.messages == nil) == (given.prompt == nil) then
    error(("bad argument 'messages' to %s: expected either messages or a prompt"):format(what), 3)
  elseif given.messages and #given.messages == 0 then
    error(("bad argument 'messages' to %s: expected a list of messages, got none"):format(what), 3)
  end
  for i, message in ipairs(given.messages or {}) do
    if type(message) ~= "table" then
      options.refuse(what, ("messages[%d]"):format(i), "a table", message, 3)
    end
  end
  check_common(what, given)
end

--- The same for a stream. Internal.
function base.check_stream(what, given)
  options.check(what, given, chat_fields, 3)
  if given.schema then
    error(("bad argument 'schema' to %s: an answer that is checked comes as a whole; use model:chat"):format(what), 3)
  end
  return base.check_chat(what, given) -- a tail call: errors are raised at the same place
end

--- The same for embeddings. Internal.
function base.check_embed(what, given)
  options.check(what, given, embed_fields, 3)
  if not given.input then
    options.refuse(what, "input", text_or_list[2], given.input, 3)
  end
  check_common(what, given)
end

local function with_extra(body, given)
  for name, value in pairs(given.extra or {}) do
    body[name] = value
  end
  return body
end

-- `level`: where a body that JSON cannot hold is an error, 1 being the caller.
local function chat_call(what, client, given, is_stream, level)
  local body = with_extra(client.api.chat_body(client, given, is_stream), given)
  return call.new(client, client.api.chat_path, body, {
    what = what,
    timeout = given.timeout,
    read = client.api.read_chat,
    level = level + 1,
  }), body
end

-- Sends it, or takes the answer of an equal call, where the model shares answers.
local function answer_to(client, this, body, is_fresh)
  if not shared.is_on(client) then
    return call.run(client, this)
  end
  return shared.run(client, shared.key(client, this.path, body), is_fresh, function()
    return call.run(client, this)
  end)
end

-- ---- chats ----

local function chat_once(what, client, given, level)
  local this, body = chat_call(what, client, given, false, level + 1)
  return answer_to(client, this, body, given.fresh)
end

-- The value that a text holds, maybe in a code fence; or nil and what is wrong with it.
local function value_of(rules, text)
  local inner = text:match "^%s*```%w*%s*\n(.*)\n%s*```%s*$" or text
  local value, err = json.decode(inner)
  if value == nil then
    return nil, err.message
  end
  local ok, problems = schema.check(rules, value)
  if not ok then
    return nil, schema.explain(problems)
  end
  return value
end

-- The same chat, with the answer and what is wrong with it.
local function asked_again(given, text, problem)
  local again = {}
  for name, value in pairs(given) do
    again[name] = value
  end
  again.prompt, again.messages = nil, {}
  for i, message in ipairs(given.messages or { { role = "user", content = given.prompt } }) do
    again.messages[i] = message
  end
  local list = again.messages
  list[#list + 1] = { role = "assistant", content = text ~= "" and text or "(nothing)" }
  list[#list + 1] = {
    role = "user",
    content = "That does not match the JSON schema: " .. problem .. ". Answer again, with nothing but JSON that does.",
  }
  return again
end

local summed = { "prompt_tokens", "completion_tokens", "total_tokens" }

-- What the first answer took counts as well.
local function add_account(result, first)
  for _, name in ipairs(summed) do
    result.usage[name] = result.usage[name] + first.usage[name]
  end
  result.cost = result.cost and result.cost + (first.cost or 0)
  result.estimated = result.estimated or first.estimated
  result.attempts = result.attempts + first.attempts
  result.asked_again = true
end

local function chat_with_schema(what, client, given)
  local first, err = chat_once(what, client, given, 2)
  if not first or first.tool_calls or first.refusal then
    return first, err
  end
  local value, problem = value_of(given.schema, first.text)
  if value ~= nil then
    first.data = value
    return first
  end
  local result
  result, err = chat_once(what, client, asked_again(given, first.text, problem), 2)
  if not result then
    return nil, err
  end
  add_account(result, first)
  value, problem = value_of(given.schema, result.text)
  if value ~= nil then
    result.data = value
    return result
  end
  return nil, errors.new(client, "bad_reply", "the answer does not match the schema: " .. problem, {
    partial = result.text,
    usage = result.usage,
    cost = result.cost,
  })
end

--- Asks the model and waits for the whole answer.
-- @tparam table given
-- @tparam[opt] table given.messages a list of `{ role =, content = }`, as the API takes them; answers with calls of tools, and
--   `{ role = "tool", tool_call_id =, content = }`, are understood by all
-- @tparam[opt] string given.prompt instead of `messages`: what the user says
-- @tparam[opt] string given.system goes before the others
-- @tparam[opt] string given.model default: the model's own
-- @tparam[opt] number given.temperature
-- @tparam[opt] integer given.max_tokens of the answer; what a budget reserves and the limit of tokens expects. With a
--   budget it must be known: from here, from the model, or how long its answers may be from its price
-- @tparam[opt] table given.tools as the API takes them; tools in OpenAI's shape are understood by all
-- @tparam[opt] string|table given.tool_choice as the API takes it
-- @tparam[opt] table given.schema a JSON schema: the answer is checked against it, asked for once more when it does not
--   match, and returned as `data`
-- @tparam[opt] table given.response_format such as `{ type = "json_object" }`, of OpenAI
-- @tparam[opt] number|table given.timeout seconds for each attempt, as for weft.http.request
-- @tparam[opt] boolean given.fresh asks also when the answer is in the cache, or an equal call is running
-- @tparam[opt] table given.extra other fields of the request's body; they win over the ones above
-- @treturn[1] table `text` ("" when the answer is a tool call or a refusal); `tool_calls`: a list of `{ id, name,
--   arguments, text }`, or nil; `message`: the answer as the next of `messages`; `refusal`; `finish_reason`: "stop",
--   "length", "tool_calls", "content_filter"; `usage`: `prompt_tokens`, `completion_tokens`, `total_tokens`, maybe
--   `cached_tokens`, `cache_write_tokens`; `estimated`: true when the server did not say the usage; `cost`: US
--   dollars, nil when the price is not known; `model`; `data`: with a schema; `asked_again`: true when that took a
--   second answer; `attempts`; `cached`, `shared`: true when it came from the cache or from an equal call; `raw`: the
--   whole reply
-- @treturn[2] nil
-- @treturn[2] error of a kind in the table of weft.model
-- @raise bad argument or unknown option; an error of kind "canceled" or "deadline"
function Model:chat(given)
  check_self(self, "model:chat")
  base.check_chat("model:chat", given)
  local client = client_of.for_call(base.settings(self), given.model, "model:chat", 2)
  local ask = given.schema and chat_with_schema or chat_once
  return ask("model:chat", client, given, 1) -- a tail call: the caller is one level up
end

--- Asks the model and returns as soon as its answer begins. Until then it is asked again where that may help; after
-- the first part nothing is.
-- @tparam table given as for @{model:chat}; without `schema`
-- @treturn[1] model_stream
-- @treturn[2] nil
-- @treturn[2] error of a kind in the table of weft.model
-- @raise bad argument or unknown option; an error of kind "canceled" or "deadline"
function Model:stream(given)
  check_self(self, "model:stream")
  base.check_stream("model:stream", given)
  local client = client_of.for_call(base.settings(self), given.model, "model:stream", 2)
  return stream.open(client, (chat_call("model:stream", client, given, true, 2)))
end

-- ---- embeddings ----

--- A reader of replies that hold a vector for each of so many inputs. Internal.
function base.read_vectors(client, count)
  return function(reply)
    local vectors, usage, model = client.api.read_embed(reply)
    for i = 1, math.max(count, #vectors) do
      if i > count or type(vectors[i]) ~= "table" then
        return nil, ("the reply has %d vectors for %d inputs"):format(i > count and #vectors or i - 1, count)
      end
    end
    return { vectors = vectors, usage = usage, model = model }
  end
end

--- Turns texts into vectors.
-- @tparam table given
-- @tparam string|table given.input a text, or a list of texts
-- @tparam[opt] string given.model default: the model's own
-- @tparam[opt] integer given.dimensions of each vector, where the model can choose
-- @tparam[opt] number|table given.timeout seconds for each attempt
-- @tparam[opt] boolean given.fresh as for @{model:chat}
-- @tparam[opt] table given.extra other fields of the request's body
-- @treturn[1] table `vectors`: a list of numbers for each input, in their order; `usage`, `estimated`, `cost`,
--   `model`, `attempts`, `cached`, `shared`, `raw` as for @{model:chat}
-- @treturn[2] nil
-- @treturn[2] error of a kind in the table of weft.model
-- @raise bad argument or unknown option; an API without embeddings (Anthropic's); an error of kind "canceled" or
--   "deadline"
function Model:embed(given)
  local what = "model:embed"
  check_self(self, what)
  base.check_embed(what, given)
  local client = client_of.for_call(base.settings(self), given.model, what, 2)
  if client.api.no_embed then
    error(("%s: %s"):format(what, client.api.no_embed), 2)
  end
  local body = with_extra(client.api.embed_body(client, given), given)
  local this = call.new(client, client.api.embed_path, body, {
    what = what,
    timeout = given.timeout,
    answers = false,
    read = base.read_vectors(client, type(given.input) == "table" and #given.input or 1),
    level = 2,
  })
  return answer_to(client, this, body, given.fresh)
end

-- ---- watching ----

--- What the model has learnt about its server.
-- @treturn table `breaker`: "closed", "open" or "half-open"; `concurrency`: places, nil without a limit; `in_flight`:
--   how many of them are taken; `p50`, `p95`: seconds that the latest chats took, nil while there are none
function Model:stats()
  check_self(self, "model:stats")
  local own = base.settings(self).limits
  return {
    breaker = own.health:breaker(),
    concurrency = own.places and own.places:size(),
    in_flight = own.places and own.places:held(),
    p50 = own.health:quantile("whole", 0.5, 1),
    p95 = own.health:quantile("whole", 0.95, 1),
  }
end

--- Makes a model. Internal.
-- @tparam string kind "openai", "anthropic" or "ollama"
-- @tparam table given
function base.new(kind, given)
  local handle, functions = client_of.new(kind, given)
  return setmetatable({ handle = handle, functions = functions }, Model)
end

-- ---- models made of models ----

--- Whether a value is a model itself. Internal.
function base.is_model(value)
  return type(value) == "table" and getmetatable(value) == Model
end

local function can_chat(value)
  local class = type(value) == "table" and getmetatable(value)
  return type(class) == "table" and type(class.chat) == "function" and type(class.stream) == "function"
end

--- The list of models in `given`, checked as its other fields are. Internal.
-- @tparam string what the public function
-- @tparam table given
-- @tparam table fields of its other options
-- @tparam integer level where errors are raised, 1 being the caller
-- @treturn table
function base.members(what, given, fields, level)
  if type(given) ~= "table" then
    options.refuse(what, "options", "a table with a list of models", given, level + 1)
  end
  local members, rest = {}, {}
  for name, value in pairs(given) do
    if type(name) == "number" then
      members[name] = value
    else
      rest[name] = value
    end
  end
  options.check(what, rest, fields, level + 1)
  if #members == 0 then
    options.refuse(what, "models", "a list of models", nil, level + 1)
  end
  for i, member in ipairs(members) do
    if not can_chat(member) then
      options.refuse(what, ("[%d]"):format(i), "a model", member, level + 1)
    end
  end
  return members
end

--- A call of several models cannot name one. Internal.
function base.refuse_model(what, given)
  if given.model then
    error(("bad argument 'model' to %s: each of the models has its own"):format(what), 3)
  end
end

--- The models' names, for tostring. Internal.
function base.names(members)
  local names = {}
  for i, member in ipairs(members) do
    names[i] = tostring(member)
  end
  return table.concat(names, ", ")
end

return base
