-- The model server's three APIs: what each says to good requests, plain and streamed, and to bad ones.

local clients = require "spec.support.model_client"
local json = require "dkjson"
local testing = require "weft.testing"

local start, call, events, lines = clients.start, clients.call, clients.events, clients.lines

local CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

local function ask(text, more)
  local body = { model = "m", messages = { { role = "user", content = text or "hi there" } } }
  for name, value in pairs(more or {}) do
    body[name] = value
  end
  return body
end

local function anthropic(server, body)
  body.max_tokens = body.max_tokens or 1000
  return call(server, MESSAGES, body, clients.anthropic)
end

local function joined(list, get)
  local parts = {}
  for i, item in ipairs(list) do
    parts[i] = get(item) or ""
  end
  return table.concat(parts)
end

local weather = {
  tool_calls = {
    { name = "weather", arguments = { city = "Zürich" } },
    { id = "second", name = "time", arguments = "{}" },
  },
}

describe("weft.testing.model_server speaks", function()
  after_each(clients.close)

  describe("OpenAI:", function()
    local function delta(event)
      return event.json and event.json.choices[1] and event.json.choices[1].delta
    end

    it("chunks of a completion, and the mark at the end", function()
      local response = call(start(), CHAT, ask("hi there", { stream = true }))
      assert.equal(200, response.status)
      assert.match("^text/event%-stream", response.headers["content-type"])
      local all = events(response)
      assert.equal("assistant", delta(all[1]).role)
      assert.equal("[DONE]", all[#all].data)
      assert.equal("stop", all[#all - 1].json.choices[1].finish_reason)
      assert.equal("echo: hi there", joined(all, function(event)
        return delta(event) and delta(event).content
      end))
      for i = 1, #all - 1 do
        assert.equal("chat.completion.chunk", all[i].json.object)
        assert.equal(all[1].json.id, all[i].json.id)
        assert.is_nil(all[i].json.usage)
        assert.equal(all[i].data, response.chunks[i]:match("data: (.-)\n"))
      end
    end)

    it("usage in a last chunk without choices, when it is asked for", function()
      local server = start()
      local plain = call(server, CHAT, ask()).json.usage
      local all = events(call(server, CHAT, ask(nil, { stream = true, stream_options = { include_usage = true } })))
      local last = all[#all - 1].json
      assert.same({}, last.choices)
      assert.same(plain, last.usage)
      assert.equal(json.null, all[1].json.usage or json.null)
    end)

    it("calls of tools, plain and streamed", function()
      local server = start({ reply = weather })
      local message = call(server, CHAT, ask()).json.choices[1]
      assert.equal("tool_calls", message.finish_reason)
      assert.is_nil(message.message.content)
      assert.equal("weather", message.message.tool_calls[1]["function"].name)
      assert.same({ city = "Zürich" }, json.decode(message.message.tool_calls[1]["function"].arguments))
      assert.equal("second", message.message.tool_calls[2].id)
      local arguments, names = { "", "" }, {}
      for _, event in ipairs(events(call(server, CHAT, ask(nil, { stream = true })))) do
        for _, part in ipairs(delta(event) and delta(event).tool_calls or {}) do
          names[part.index + 1] = names[part.index + 1] or part["function"].name
          arguments[part.index + 1] = arguments[part.index + 1] .. part["function"].arguments
        end
      end
      assert.same({ "weather", "time" }, names)
      assert.same({ city = "Zürich" }, json.decode(arguments[1]))
      assert.equal("{}", arguments[2])
    end)

    it("embeddings, as numbers and as base64", function()
      local server = start({ dimensions = 8 })
      local response = call(server, "/v1/embeddings", { model = "e", input = { "a red fox", "a red cat", "tax law" } })
      local data = response.json.data
      assert.equal(3, #data)
      assert.equal(2, data[3].index)
      local function dot(a, b)
        local sum = 0
        for i = 1, 8 do
          sum = sum + a.embedding[i] * b.embedding[i]
        end
        return sum
      end
      assert.is_true(math.abs(dot(data[1], data[1]) - 1) < 1e-4)
      assert.is_true(dot(data[1], data[2]) > dot(data[1], data[3]))
      local again = call(server, "/v1/embeddings", { model = "e", input = "a red fox", dimensions = 5 }).json.data
      assert.equal(5, #again[1].embedding)
      local packed = call(server, "/v1/embeddings", { model = "e", input = "x", encoding_format = "base64" }).json
      assert.equal(math.ceil(8 * 4 / 3) * 4, #packed.data[1].embedding)
      assert.is_true(response.json.usage.prompt_tokens > 0)
    end)

    it("models, which it then insists on", function()
      local server = start({ models = { "one", "two" } })
      local list = call(server, "/v1/models").json
      assert.equal("list", list.object)
      assert.equal("two", list.data[2].id)
      assert.equal("two", call(server, "/v1/models/two").json.id)
      assert.equal("model", call(server, "/v1/models/two?x", nil, clients.anthropic).json.type)
      assert.equal(404, call(server, "/v1/models/three").status)
      assert.equal(200, call(server, CHAT, ask(nil, { model = "two" })).status)
      local none = call(server, CHAT, ask(nil, { model = "three" }))
      assert.equal(404, none.status)
      assert.equal("model_not_found", none.json.error.code)
    end)
  end)

  describe("Anthropic:", function()
    it("a message", function()
      local reply = anthropic(start(), ask("hello")).json
      assert.equal("message", reply.type)
      assert.equal("assistant", reply.role)
      assert.equal("m", reply.model)
      assert.same({ { type = "text", text = "echo: hello" } }, reply.content)
      assert.equal("end_turn", reply.stop_reason)
      assert.is_true(reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0)
    end)

    it("the events of a message, in their order", function()
      local response = anthropic(start(), ask("hello you", { stream = true }))
      local all = events(response)
      local names = {}
      for i, event in ipairs(all) do
        names[i] = event.event
        assert.equal(event.event, event.json.type)
      end
      assert.same({ "message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop" }, names)
      assert.equal("echo: hello you", joined(all, function(event)
        return event.json.delta and event.json.delta.text
      end))
      assert.is_true(all[1].json.message.usage.input_tokens > 0)
      assert.equal("end_turn", all[8].json.delta.stop_reason)
      assert.is_true(all[8].json.usage.output_tokens > 1)
    end)

    it("calls of tools, plain and streamed", function()
      local server = start({ reply = weather })
      local reply = anthropic(server, ask()).json
      assert.equal("tool_use", reply.stop_reason)
      assert.equal("weather", reply.content[1].name)
      assert.same({ city = "Zürich" }, reply.content[1].input)
      local all = events(anthropic(server, ask(nil, { stream = true })))
      local first = joined(all, function(event)
        return event.json.index == 0 and event.json.delta and event.json.delta.partial_json
      end)
      assert.same({ city = "Zürich" }, json.decode(first))
    end)

    it("counts of tokens", function()
      local server = start()
      local counted = call(server, "/v1/messages/count_tokens", ask("count me"), clients.anthropic).json
      assert.equal(anthropic(server, ask("count me")).json.usage.input_tokens, counted.input_tokens)
    end)

    it("401 with a wrong key, 400 without a version or max_tokens", function()
      local server = start({ api_key = "k-1" })
      local function status(headers, body)
        local response = call(server, MESSAGES, body or ask(nil, { max_tokens = 5 }), headers)
        return response.status, response.json.error and response.json.error.type
      end
      local version = "2023-06-01"
      assert.same({ 401, "authentication_error" }, { status({ ["anthropic-version"] = version }) })
      assert.same({ 401, "authentication_error" },
        { status({ ["anthropic-version"] = version, Authorization = "Bearer k-1" }) })
      assert.same({ 400, "invalid_request_error" }, { status({ ["x-api-key"] = "k-1" }) })
      local good = { ["anthropic-version"] = version, ["x-api-key"] = "k-1" }
      assert.same({ 400, "invalid_request_error" }, { status(good, ask()) })
      assert.equal(200, (status(good)))
    end)
  end)

  describe("Ollama:", function()
    it("lines of a chat, streamed unless told otherwise", function()
      local server = start()
      local all = lines(call(server, "/api/chat", ask("hello you")))
      assert.equal("echo: hello you", joined(all, function(line) return line.message.content end))
      assert.is_false(all[1].done)
      local last = all[#all]
      assert.is_true(last.done)
      assert.equal("stop", last.done_reason)
      assert.is_true(last.eval_count > 0 and last.prompt_eval_count > 0)
      local plain = call(server, "/api/chat", ask("hello you", { stream = false }))
      assert.equal("application/json", plain.headers["content-type"])
      assert.equal("echo: hello you", plain.json.message.content)
      assert.is_true(plain.json.done)
    end)

    it("generate", function()
      local server = start()
      local all = lines(call(server, "/api/generate", { model = "m", prompt = "a b" }))
      assert.equal("echo: a b", joined(all, function(line) return line.response end))
      assert.equal("echo: a b", call(server, "/api/generate", { model = "m", prompt = "a b", stream = false }).json.response)
    end)

    it("calls of tools", function()
      local server = start({ reply = weather })
      local plain = call(server, "/api/chat", ask(nil, { stream = false })).json.message.tool_calls
      assert.same({ city = "Zürich" }, plain[1]["function"].arguments)
      local all = lines(call(server, "/api/chat", ask()))
      assert.equal("weather", all[1].message.tool_calls[1]["function"].name)
      assert.equal("time", all[2].message.tool_calls[1]["function"].name)
    end)

    it("embeddings, tags and a version", function()
      local server = start({ dimensions = 4, models = { "e" } })
      assert.equal(2, #call(server, "/api/embed", { model = "e", input = { "a", "b" } }).json.embeddings)
      assert.equal(4, #call(server, "/api/embeddings", { model = "e", prompt = "a" }).json.embedding)
      assert.equal("e", call(server, "/api/tags").json.models[1].name)
      assert.is_string(call(server, "/api/version").json.version)
    end)

    it("errors as one string", function()
      local response = call(start(), "/api/chat", { messages = {} })
      assert.equal(400, response.status)
      assert.is_string(response.json.error)
    end)
  end)

  describe("strictly:", function()
    local bad = {
      ["no JSON"] = '{"model":"m",',
      ["more than JSON"] = '{"model":"m","messages":[{"role":"user","content":"x"}]} x',
      ["no object"] = "[]",
      ["nothing"] = "",
      ["bytes that are no UTF-8"] = '{"model":"m","messages":[{"role":"user","content":"a\255"}]}',
      ["a bare line feed in a string"] = '{"model":"m","messages":[{"role":"user","content":"a\n"}]}',
      ["too deep"] = '{"model":"m","messages":' .. ("["):rep(1000) .. ("]"):rep(1000) .. "}",
      ["no messages"] = '{"model":"m"}',
      ["empty messages"] = '{"model":"m","messages":[]}',
      ["no role"] = '{"model":"m","messages":[{"content":"x"}]}',
      ["an unknown role"] = '{"model":"m","messages":[{"role":"me","content":"x"}]}',
      ["no content"] = '{"model":"m","messages":[{"role":"user"}]}',
      ["a part without a type"] = '{"model":"m","messages":[{"role":"user","content":[{"text":"x"}]}]}',
      ["stream that is no boolean"] = '{"model":"m","stream":1,"messages":[{"role":"user","content":"x"}]}',
      ["a temperature out of range"] = '{"model":"m","temperature":3,"messages":[{"role":"user","content":"x"}]}',
      ["stream_options without stream"] =
        '{"model":"m","stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}',
      ["max_tokens of 0"] = '{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"x"}]}',
      ["a tool without a name"] = '{"model":"m","tools":[{"type":"function"}],"messages":[{"role":"user","content":"x"}]}',
    }
    for what, body in pairs(bad) do
      it("400 to " .. what, function()
        local server = start()
        local client = clients.connect(server)
        client:send(clients.post(body))
        local response = clients.receive(client)
        client:close()
        assert.equal(400, response.status)
        assert.equal("invalid_request_error", json.decode(response.body).error.type)
      end)
    end

    it("400 to calls of tools, and their results, that the service would not take", function()
      local server = start()
      local function status(kind, message)
        local body = { model = "m", messages = { { role = "user", content = "x" }, message } }
        if kind == "anthropic" then
          return anthropic(server, body).status
        end
        return call(server, kind == "openai" and CHAT or "/api/chat", body).status
      end
      local function called(id, fn)
        return { role = "assistant", content = "", tool_calls = { { id = id, type = "function", ["function"] = fn } } }
      end
      assert.equal(200, status("openai", called("c", { name = "f", arguments = "{}" })))
      assert.equal(400, status("openai", called(nil, { name = "f", arguments = "{}" })))
      assert.equal(400, status("openai", called("c", { name = "f", arguments = { x = 1 } })))
      assert.equal(400, status("openai", called("c", nil)))
      assert.equal(400, status("openai", { role = "assistant", content = "", tool_calls = { { id = "c", name = "f" } } }))
      assert.equal(200, status("openai", { role = "tool", tool_call_id = "c", content = "x" }))
      assert.equal(400, status("openai", { role = "tool", content = "x" }))
      assert.equal(200, status("ollama", called(nil, { name = "f", arguments = { x = 1 } })))
      assert.equal(400, status("ollama", called("c", { name = "f", arguments = "{}" })))
      assert.equal(400, status("ollama", called("c", { arguments = { x = 1 } })))
      local function block(given)
        return { role = "user", content = { given } }
      end
      assert.equal(200, status("anthropic", block({ type = "tool_use", id = "t", name = "f", input = { x = 1 } })))
      assert.equal(400, status("anthropic", block({ type = "tool_use", id = "t", name = "f", input = "{}" })))
      assert.equal(400, status("anthropic", block({ type = "tool_use", name = "f", input = { x = 1 } })))
      assert.equal(200, status("anthropic", block({ type = "tool_result", tool_use_id = "t", content = "x" })))
      assert.equal(400, status("anthropic", block({ type = "tool_result", content = "x" })))
    end)

    it("400 to embeddings of too much at once", function()
      local server, many = start(), {}
      for i = 1, 2048 do
        many[i] = "x"
      end
      assert.equal(2048, #call(server, "/v1/embeddings", { model = "m", input = many, dimensions = 2 }).json.data)
      assert.equal(400, call(server, "/v1/embeddings", { model = "m", input = "x", dimensions = 4097 }).status)
      many[2049] = "x"
      assert.equal(400, call(server, "/v1/embeddings", { model = "m", input = many }).status)
      assert.equal(400, call(server, "/v1/embeddings", { model = "m", input = { 1, "x" } }).status)
      assert.equal(400, call(server, "/v1/embeddings", { model = "m" }).status)
    end)

    it("such requests use up no fault", function()
      local server = start({ faults = { { status = 500 } } })
      assert.equal(400, call(server, CHAT, { model = "m" }).status)
      assert.equal(500, call(server, CHAT, ask()).status)
      assert.equal(1, server:stats().faults)
    end)

    it("max_tokens ends a text", function()
      local server = start()
      local choice = call(server, CHAT, ask(("x"):rep(400), { max_tokens = 10 })).json.choices[1]
      assert.equal("length", choice.finish_reason)
      assert.equal(39, #choice.message.content)
      assert.equal("max_tokens", anthropic(server, ask(("x"):rep(400), { max_tokens = 10 })).json.stop_reason)
    end)
  end)

  describe("replies", function()
    local function text(server, said, model)
      return call(server, CHAT, ask(said, { model = model })).json.choices[1].message.content
    end

    it("by model, by pattern, in a sequence, a number of times", function()
      local server = start({
        replies = {
          { pattern = "^refund (%d+)", times = 2, reply = { "first", "second" } },
          { model = "special", pattern = "hello", reply = "for special" },
          poet = { "one", "two" },
          other = { text = "by name" },
        },
        reply = "fallback",
      })
      assert.equal("first", text(server, "refund 12"))
      assert.equal("fallback", text(server, "a refund 12"))
      assert.equal("second", text(server, "refund 7"))
      assert.equal("fallback", text(server, "refund 7"))
      assert.equal("for special", text(server, "say hello", "special"))
      assert.equal("fallback", text(server, "say hello"))
      assert.same({ "one", "two", "two" }, { text(server, "x", "poet"), text(server, "x", "poet"), text(server, "x", "poet") })
      assert.equal("by name", text(server, "x", "other"))
    end)

    it("are not used up by answers that a fault spoils, nor by embeddings", function()
      local server = start({
        reply = { "first", "second", "third" },
        faults = { { status = 503 }, { reset = "before" }, { truncate = "body" }, { pause = 0.001 } },
      })
      call(server, "/v1/embeddings", { model = "m", input = "x" }) -- the 503
      for _ = 1, 2 do
        local client = clients.connect(server)
        client:send(clients.post(json.encode(ask())))
        client:receive("*a")
        client:close()
      end
      assert.equal("first", text(server, ""))
      call(server, "/v1/embeddings", { model = "m", input = "x" })
      assert.equal("second", text(server, ""))
      assert.equal(4, server:stats().faults)
    end)

    it("from templates", function()
      local server = start({ reply = { template = "{{model}} {{last}} {{body.messages.1.role}} {{body.n}} "
        .. "{{header.x-a}}{{body.none}} {{other}} {{number}} {{path}} {{" } })
      local response = call(server, CHAT, ask("{{model}}", { n = { 1, 2 } }), { ["X-A"] = "head" })
      assert.equal("m {{model}} user [1,2] head {{other}} 1 /v1/chat/completions {{",
        response.json.choices[1].message.content)
    end)

    it("as JSON, as so many tokens, with usage and a reason of their own", function()
      local server = start({ replies = {
        a = { json = { label = "x", list = { 1, 2 } } },
        b = { tokens = 50 },
        c = { text = "c", usage = { input = 7, output = 9 }, finish = "content_filter" },
        d = { refusal = "I will not." },
      } })
      assert.same({ label = "x", list = { 1, 2 } }, json.decode(text(server, "", "a")))
      assert.equal(50, call(server, CHAT, ask("", { model = "b" })).json.usage.completion_tokens)
      local reply = call(server, CHAT, ask("", { model = "c" })).json
      assert.same({ prompt_tokens = 7, completion_tokens = 9, total_tokens = 16 }, reply.usage)
      assert.equal("content_filter", reply.choices[1].finish_reason)
      assert.equal("refusal", anthropic(server, ask("", { model = "c" })).json.stop_reason)
      local refused = call(server, CHAT, ask("", { model = "d" })).json.choices[1].message
      assert.equal("I will not.", refused.refusal)
      assert.is_nil(refused.content)
    end)

    it("that are wrong are named", function()
      local function message(options)
        local ok, err = pcall(testing.model_server, options)
        assert.is_false(ok)
        return (err:gsub(" to weft.testing.model_server", ""))
      end
      assert.match("^bad argument 'replies%[1%]%.pattern': malformed pattern", message({ replies = { { pattern = "[", reply = "" } } }))
      assert.equal("bad argument 'replies[1].reply': a rule needs a reply", message({ replies = { {} } }))
      assert.match("^bad argument 'replies.m.txt': unknown option; known are .*text", message({ replies = { m = { txt = "" } } }))
      assert.equal("bad argument 'reply.tokens': a reply has only one of text, template, json, tokens",
        message({ reply = { text = "a", tokens = 4 } }))
      assert.equal("bad argument 'reply.json': JSON cannot hold a function at .f", message({ reply = { json = { f = print } } }))
      assert.equal("bad argument 'reply.tool_calls[1].name': a call of a tool needs the name of the tool",
        message({ reply = { tool_calls = { {} } } }))
      assert.equal("bad argument 'reply[2].usage.inpt': unknown option; known are input, output",
        message({ reply = { "a", { usage = { inpt = 1 } } } }))
    end)
  end)

  it("a given number of deltas, with time between them", function()
    local server = start({ reply = "äöü äöü äöü äöü", stream = { chunks = 5 } })
    local function contents(response)
      local list = {}
      for _, event in ipairs(events(response)) do
        list[#list + 1] = event.json and event.json.delta and event.json.delta.text
      end
      return list
    end
    local parts = contents(anthropic(server, ask(nil, { stream = true })))
    assert.equal(5, #parts)
    assert.equal("äöü äöü äöü äöü", table.concat(parts))
    local slow = start({ stream = { chunks = 3, delay = 0.005 } })
    assert.equal("echo: hi there", table.concat(contents(anthropic(slow, ask(nil, { stream = true })))))
    assert.equal(0, slow:stats().in_flight)
  end)
end)
