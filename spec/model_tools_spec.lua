-- Conversations with tools: what an answer puts into them, and what each API is sent.
local json = require "weft.json"
local leaks = require "spec.support.leaks"
local messages = require "weft.model.messages"
local models = require "spec.support.models"
local weft = require "weft"

local TOOLS = {
  { type = "function", ["function"] = { name = "weather", parameters = { type = "object" } } },
  { type = "function", ["function"] = { name = "time", parameters = { type = "object" } } },
}

local function agent_server()
  return models.server {
    replies = {
      m = {
        { text = "Let me see.", tool_calls = {
          { name = "weather", arguments = { city = "Oslo" } },
          { name = "time", arguments = {} },
        } },
        "It is cold.",
      },
    },
  }
end

local function ask(model, is_stream, list)
  if is_stream then
    return assert(assert(model:stream { messages = list, tools = TOOLS }):result())
  end
  return assert(model:chat { messages = list, tools = TOOLS })
end

-- One round of an agent: returns the conversation as it was sent the second time.
local function converse(kind, is_stream)
  local server = agent_server()
  local model = models.make(kind, server)
  local list = { { role = "user", content = "How is it?" } }
  local answer = ask(model, is_stream, list)
  list[2] = answer.message
  for i, call in ipairs(answer.tool_calls) do
    list[2 + i] = { role = "tool", tool_call_id = call.id, content = "result of " .. call.name }
  end
  local last = ask(model, is_stream, list)
  assert.same({ role = "assistant", content = "It is cold." }, last.message)
  return models.body(server).messages, answer
end

describe("A conversation with tools", function()
  before_each(leaks.before)
  after_each(function()
    models.stop()
    leaks.after()
  end)

  for _, is_stream in ipairs { false, true } do
    local how = is_stream and ", streamed" or ""

    it("is in OpenAI's shape" .. how, function()
      local sent, answer = converse("openai", is_stream)
      assert.equal(4, #sent)
      assert.same(answer.message, sent[2])
      assert.equal("Let me see.", sent[2].content)
      local call = sent[2].tool_calls[1]
      assert.same({ "function", "weather", '{"city":"Oslo"}' }, {
        call.type, call["function"].name, call["function"].arguments,
      })
      assert.same({ role = "tool", tool_call_id = call.id, content = "result of weather" }, sent[3])
      assert.equal(sent[2].tool_calls[2].id, sent[4].tool_call_id)
    end)

    it("becomes blocks for Anthropic" .. how, function()
      local sent = converse("anthropic", is_stream)
      assert.equal(3, #sent)
      local text, first, second = sent[2].content[1], sent[2].content[2], sent[2].content[3]
      assert.same({ type = "text", text = "Let me see." }, text)
      assert.same({ "tool_use", "weather", "Oslo" }, { first.type, first.name, first.input.city })
      assert.same({}, second.input)
      assert.same({ role = "user", content = {
        { type = "tool_result", tool_use_id = first.id, content = "result of weather" },
        { type = "tool_result", tool_use_id = second.id, content = "result of time" },
      } }, sent[3])
    end)

    it("has arguments as objects, and the tools' names, for Ollama" .. how, function()
      local sent, answer = converse("ollama", is_stream)
      assert.equal(4, #sent)
      assert.same({ name = "weather", arguments = { city = "Oslo" } }, sent[2].tool_calls[1]["function"])
      assert.same({ role = "tool", tool_name = "weather", content = "result of weather" }, sent[3])
      assert.same({ role = "tool", tool_name = "time", content = "result of time" }, sent[4])
      assert.is_string(answer.tool_calls[1].id) -- Ollama gives none
      assert.not_equal(answer.tool_calls[1].id, answer.tool_calls[2].id)
    end)
  end

  it("goes on with another API", function()
    local server = agent_server()
    local list = { { role = "user", content = "How is it?" } }
    local answer = assert(models.make("ollama", server):chat { messages = list, tools = TOOLS })
    list[2] = answer.message
    for i, call in ipairs(answer.tool_calls) do
      list[2 + i] = { role = "tool", tool_call_id = call.id, content = "yes" }
    end
    local both = weft.model.fallback { models.make("anthropic", server), models.make("openai", server) }
    server:fault { status = 529, path = "/messages", times = 9 }
    assert.equal("It is cold.", assert(both:chat { messages = list, tools = TOOLS }).text)
    local sent = models.body(server).messages
    assert.equal(sent[2].tool_calls[2].id, sent[4].tool_call_id)
  end)

  it("crosses to a task and back", function()
    local server = agent_server()
    local model = models.make("anthropic", server)
    local results = assert(weft.all {
      agent = function()
        local answer, err = model:chat { prompt = "How is it?", tools = TOOLS }
        return answer and answer.message, err
      end,
    })
    assert.equal("weather", results.agent.tool_calls[1]["function"].name)
  end)

  it("that the user wrote is sent as it is, and not changed", function()
    local list = {
      { role = "assistant", content = { { type = "text", text = "a" } } },
      { role = "user", content = { { type = "tool_result", tool_use_id = "x", content = "y" } } },
      { role = "assistant", content = json.null, tool_calls = {
        { id = "c", type = "function", ["function"] = { name = "f", arguments = "no JSON" } },
      } },
      { role = "tool", tool_call_id = "c", content = "z" },
    }
    local before = json.encode(list)
    local out = messages.for_anthropic(list)
    assert.equal(list[1], out[1])
    assert.equal(list[2], out[2])
    assert.same({ { type = "tool_use", id = "c", name = "f", input = {} } }, out[3].content)
    out = messages.for_ollama(list)
    assert.equal(list[1], out[1])
    assert.same({}, out[3].tool_calls[1]["function"].arguments)
    assert.equal("f", out[4].tool_name)
    assert.equal(before, json.encode(list))
  end)

  it("with a call that is none leaves it to the server to refuse", function()
    for _, call in ipairs { 1, true, "x", json.null } do
      local list = { { role = "assistant", tool_calls = { call } } }
      assert.same({ { type = "tool_use", input = {} } }, messages.for_anthropic(list)[1].content)
      assert.same({ { ["function"] = { arguments = {} } } }, messages.for_ollama(list)[1].tool_calls)
    end
  end)

  it("of answers without calls has their text", function()
    assert.same({ role = "assistant", content = "a" }, messages.of { text = "a" })
    assert.same({ role = "assistant", content = "", refusal = "no" }, messages.of { text = "", refusal = "no" })
  end)
end)
