-- The pure parts of models: bodies, replies, events of streams, kinds of errors, headers, prices.

local errors = require "weft.model.errors"
local json = require "weft.json"
local limits = require "weft.model.limits"
local prices = require "weft.model.prices"
local read = require "weft.model.read"

local apis = {
  openai = require "weft.model.openai",
  anthropic = require "weft.model.anthropic",
  ollama = require "weft.model.ollama",
}

local client = { model = "m", max_tokens = 4096 }

local tool = { type = "function", ["function"] = { name = "f", description = "d", parameters = { type = "object" } } }

describe("bodies", function()
  it("of OpenAI's chats", function()
    assert.same({
      model = "m",
      messages = { { role = "system", content = "s" }, { role = "user", content = "p" } },
      temperature = 0.5,
      max_tokens = 7,
      tools = { tool },
      tool_choice = "auto",
    }, apis.openai.chat_body(client, {
      system = "s", prompt = "p", temperature = 0.5, max_tokens = 7, tools = { tool }, tool_choice = "auto",
    }, false))
    local body = apis.openai.chat_body(client, { prompt = "p", schema = { type = "object" } }, true)
    assert.is_true(body.stream)
    assert.same({ include_usage = true }, body.stream_options)
    assert.same({ type = "json_schema", json_schema = { name = "reply", schema = { type = "object" } } },
      body.response_format)
    body = apis.openai.chat_body(client, { prompt = "p", schema = {}, response_format = { type = "json_object" } })
    assert.same({ type = "json_object" }, body.response_format) -- one's own goes before
    assert.same({ model = "m", input = { "a" }, dimensions = 3 },
      apis.openai.embed_body(client, { input = { "a" }, dimensions = 3 }))
  end)

  it("of Anthropic's chats", function()
    assert.same({
      model = "m",
      max_tokens = 4096,
      system = "s\n\nt",
      messages = { { role = "user", content = "p" } },
      tools = { { name = "f", description = "d", input_schema = { type = "object" } }, { name = "g", input_schema = {} } },
      tool_choice = { type = "auto" },
      stream = true,
    }, apis.anthropic.chat_body(client, {
      system = "s",
      messages = { { role = "system", content = "t" }, { role = "user", content = "p" } },
      tools = { tool, { name = "g", input_schema = {} } },
      tool_choice = { type = "auto" },
    }, true))
    local body = apis.anthropic.chat_body(client, { prompt = "p", schema = { type = "object" }, max_tokens = 5 })
    assert.match('matches this JSON schema: {"type":"object"}$', body.system)
    assert.equal(5, body.max_tokens)
    assert.is_nil(body.stream)
  end)

  it("of Ollama's chats", function()
    assert.same({
      model = "m",
      messages = { { role = "system", content = "s" }, { role = "user", content = "p" } },
      format = { type = "object" },
      options = { temperature = 0, num_predict = 9 },
      tools = { tool },
      stream = false,
    }, apis.ollama.chat_body(client, {
      system = "s", prompt = "p", temperature = 0, max_tokens = 9, schema = { type = "object" }, tools = { tool },
    }, false))
    assert.is_nil(apis.ollama.chat_body({ model = "m" }, { prompt = "p" }, true).options)
  end)

  -- A bound that is not sent binds nobody.
  it("have the bound of the model where the call has none, by the name that the model knows", function()
    assert.equal(4096, apis.openai.chat_body(client, { prompt = "p" }).max_tokens)
    assert.equal(4096, apis.anthropic.chat_body(client, { prompt = "p" }).max_tokens)
    assert.same({ num_predict = 4096 }, apis.ollama.chat_body(client, { prompt = "p" }).options)
    for _, model in ipairs { "o1-2024-12-17", "o3-mini", "gpt-5", "gpt-5.4-mini" } do
      local body = apis.openai.chat_body({ model = model }, { prompt = "p", max_tokens = 7 })
      assert.same({ nil, 7 }, { body.max_tokens, body.max_completion_tokens }, model)
    end
    local body = apis.openai.chat_body(client, { prompt = "p", extra = { max_completion_tokens = 9 } })
    assert.is_nil(body.max_tokens) -- with both the API refuses the call
    assert.is_nil(apis.openai.chat_body({ model = "m" }, { prompt = "p" }).max_tokens)
  end)
end)

describe("replies", function()
  local cases = {
    { "openai", '{"model":"x","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
      .. '"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}',
      { text = "hi", finish_reason = "stop", model = "x",
        usage = { prompt_tokens = 10, completion_tokens = 2, total_tokens = 12, cached_tokens = 4 } } },
    { "openai", '{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c","type":"function",'
      .. '"function":{"name":"f","arguments":"{\\"a\\":1}"}}]},"finish_reason":"tool_calls"}],"usage":null}',
      { text = "", finish_reason = "tool_calls",
        tool_calls = { { id = "c", name = "f", arguments = { a = 1 }, text = '{"a":1}' } } } },
    { "openai", '{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":"stop"}]}',
      { text = "", refusal = "no", finish_reason = "stop" } },
    { "openai", '{"choices":[{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":"oops"}}]}}]}',
      { text = "", tool_calls = { { name = "f", text = "oops" } } } },
    { "anthropic", '{"model":"x","content":[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"tool_use",'
      .. '"id":"t","name":"f","input":{"a":1}}],"stop_reason":"tool_use","usage":{"input_tokens":5,"output_tokens":3,'
      .. '"cache_read_input_tokens":7,"cache_creation_input_tokens":2}}',
      { text = "ab", finish_reason = "tool_calls", model = "x",
        tool_calls = { { id = "t", name = "f", arguments = { a = 1 }, text = '{"a":1}' } },
        usage = { prompt_tokens = 14, completion_tokens = 3, total_tokens = 17, cached_tokens = 7, cache_write_tokens = 2 } } },
    { "anthropic", '{"content":[],"stop_reason":"refusal"}', { text = "", finish_reason = "content_filter" } },
    { "anthropic", '{"content":[],"stop_reason":"pause_turn"}', { text = "", finish_reason = "pause_turn" } },
    { "ollama", '{"model":"x","message":{"role":"assistant","content":"hi"},"done":true,"done_reason":"length",'
      .. '"prompt_eval_count":4,"eval_count":2}',
      { text = "hi", finish_reason = "length", model = "x",
        usage = { prompt_tokens = 4, completion_tokens = 2, total_tokens = 6 } } },
    { "ollama", '{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},"done_reason":"stop"}',
      { text = "", finish_reason = "tool_calls", tool_calls = { { name = "f", arguments = { a = 1 }, text = '{"a":1}' } } } },
  }

  it("become results of one shape", function()
    for _, case in ipairs(cases) do
      assert.same(case[3], apis[case[1]].read_chat(assert(json.decode(case[2]))), case[2])
    end
  end)

  it("have no usage when its counts are none, so that it is estimated", function()
    local text = '{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":%s,"completion_tokens":%s}}'
    for _, counts in ipairs { { "null", "2" }, { "-1", "2" }, { "1", "1e300" }, { '"1"', "2" } } do
      assert.is_nil(apis.openai.read_chat(json.decode(text:format(counts[1], counts[2]))).usage, counts[1])
    end
    assert.equal(3, apis.openai.read_chat(json.decode(text:format("1", "2"))).usage.total_tokens)
  end)

  it("that miss something say what", function()
    for _, case in ipairs {
      { "openai", "{}" }, { "openai", '{"choices":[]}' }, { "openai", '{"choices":[{"message":{"content":null}}]}' },
      { "anthropic", "{}" }, { "anthropic", '{"content":"x"}' },
      { "ollama", "{}" }, { "ollama", '{"message":{}}' },
    } do
      local result, missing = apis[case[1]].read_chat(json.decode(case[2]))
      assert.is_nil(result)
      assert.match("^the reply has no ", missing)
    end
  end)

  it("are not believed when they count what cannot be", function()
    for _, counts in ipairs { '1e300,1', '1e999,1', '-5,1', '"5","7"', 'null,3', '3,null' } do
      local prompt, answer = counts:match "(.*),(.*)"
      local function usage_of(kind, reply)
        return apis[kind].read_chat(json.decode(reply:format(prompt, answer))).usage
      end
      assert.is_nil(usage_of("openai",
        '{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":%s,"completion_tokens":%s}}'), counts)
      assert.is_nil(usage_of("anthropic", '{"content":[],"usage":{"input_tokens":%s,"output_tokens":%s}}'), counts)
      assert.is_nil(usage_of("ollama", '{"message":{"content":"x"},"prompt_eval_count":%s,"eval_count":%s}'), counts)
    end
    assert.is_nil(apis.openai.read_chat(json.decode '{"choices":[{"message":{"content":"x"}}],"usage":{}}').usage)
  end)

  it("with vectors keep the order of the input", function()
    local vectors, usage, model = apis.openai.read_embed(json.decode(
      '{"model":"x","data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":3}}'))
    assert.same({ { 1 }, { 2 } }, vectors)
    assert.same({ prompt_tokens = 3, completion_tokens = 0, total_tokens = 3 }, usage)
    assert.equal("x", model)
    assert.same({ { 1 }, { 2 } }, (apis.ollama.read_embed(json.decode '{"embeddings":[[1],[2]]}')))
    assert.same({}, (apis.openai.read_embed(json.decode '{"data":null}')))
  end)

  it("with vectors that leave one out, wherever, are no answer", function()
    local read_all = require("weft.model.base").read_vectors({ api = apis.openai }, 4)
    local function of(...)
      local data = {}
      for i, index in ipairs { ... } do data[i] = { index = index, embedding = { index } } end
      return read_all { data = data }
    end
    assert.equal(4, #of(3, 1, 0, 2).vectors)
    for _, reply in ipairs { { 3, 0, 1 }, { 0, 1, 3, 3 }, { 0, 1, 2 }, { 0, 1, 2, 3, 4 }, { 1, 2, 3, 4 }, {} } do
      local result, missing = of((table.unpack or unpack)(reply))
      assert.is_nil(result)
      assert.match("^the reply has %d vectors for 4 inputs$", missing)
    end
  end)
end)

describe("events of streams", function()
  -- Feeds events; returns the deltas' texts and the reader.
  local function feed(kind, events)
    local reader, texts = read.new_reader(), {}
    for _, event in ipairs(events) do
      apis[kind].read_event(reader, assert(json.decode(event)))
      local delta = reader:take()
      texts[#texts + 1] = delta and delta.text
    end
    return texts, reader
  end

  it("of OpenAI add up", function()
    local texts, reader = feed("openai", {
      '{"model":"x","choices":[{"delta":{"role":"assistant","content":""}}]}',
      '{"choices":[{"delta":{"content":"a"}}],"usage":null}',
      '{"choices":[{"delta":{"content":"b"},"finish_reason":null}],"usage":{"prompt_tokens":1,"completion_tokens":1}}',
      '{"choices":[{"delta":{},"finish_reason":"stop"}]}',
      '{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', -- cumulative: the last one counts
    })
    assert.same({ "a", "b" }, texts)
    assert.same({ text = "ab", finish_reason = "stop", model = "x",
      usage = { prompt_tokens = 1, completion_tokens = 2, total_tokens = 3 } }, reader:result())
  end)

  it("of OpenAI with several answers are those of the first", function()
    local texts, reader = feed("openai", {
      '{"choices":[{"index":1,"delta":{"content":"no"}},{"index":0,"delta":{"content":"a"}}]}',
      '{"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"stop"}]}',
    })
    assert.same({ "a" }, texts)
    assert.is_nil(reader:result().finish_reason)
  end)

  it("of OpenAI with tool calls, cut anywhere and interleaved", function()
    local _, reader = feed("openai", {
      '{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}},'
        .. '{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}]}}]}',
      '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"x\\""}}]}}]}',
      '{"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"}"}},{"index":0,"function":{"arguments":":1}"}}]}}]}',
      '{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}',
    })
    assert.same({ { id = "a", name = "f", arguments = { x = 1 }, text = '{"x":1}' },
      { id = "b", name = "g", arguments = {}, text = "{}" } }, reader:result().tool_calls)
  end)

  it("of Anthropic add up", function()
    local texts, reader = feed("anthropic", {
      '{"type":"message_start","message":{"model":"x","usage":{"input_tokens":9,"output_tokens":1,"cache_read_input_tokens":3}}}',
      '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
      '{"type":"ping"}',
      '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
      '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"b"}}',
      '{"type":"content_block_stop","index":0}',
      '{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}',
      '{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"x\\""}}',
      '{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":":1}"}}',
      '{"type":"something_new"}',
      '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":20}}',
      '{"type":"message_stop"}',
    })
    assert.same({ "a", "b", "", "", "" }, texts)
    assert.is_true(reader.is_done)
    local result = reader:result()
    assert.equal("ab", result.text)
    assert.equal("stop", result.finish_reason)
    assert.same({ prompt_tokens = 12, completion_tokens = 20, total_tokens = 32, cached_tokens = 3 }, result.usage)
    assert.same({ { id = "t", name = "f", arguments = { x = 1 }, text = '{"x":1}' } }, result.tool_calls)
  end)

  it("of Anthropic keep the counts that are known, and no others", function()
    local reader = read.new_reader()
    for i = 1, 100 do
      apis.anthropic.read_event(reader, { type = "message_delta", usage = { output_tokens = i, ["x" .. i] = i } })
    end
    assert.same({ output_tokens = 100 }, reader.counts)
  end)

  it("give the same text in any pieces, joined as they come", function()
    for _, size in ipairs { 1, 255, 256, 257, 1000 } do
      local reader, text = read.new_reader(), ("abcdefghij"):rep(100)
      for i = 1, #text, size do
        reader:add_text(text:sub(i, i + size - 1))
        reader:add_refusal(text:sub(i, i + size - 1))
        reader:add_call(3, "id", "f", text:sub(i, i + size - 1))
      end
      local result = reader:result()
      assert.same({ text, text, text }, { result.text, result.refusal, result.tool_calls[1].text })
      assert.equal(2 * #text, reader.size)
    end
  end)

  it("of Ollama add up", function()
    local texts, reader = feed("ollama", {
      '{"model":"x","message":{"content":"a"},"done":false}',
      '{"message":{"content":"b","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]},"done":false}',
      '{"message":{"content":""},"done":true,"done_reason":"stop","prompt_eval_count":2,"eval_count":5}',
    })
    assert.same({ "a", "b" }, texts)
    assert.is_true(reader.is_done)
    assert.same({ text = "ab", finish_reason = "tool_calls", model = "x",
      tool_calls = { { name = "f", arguments = { x = 1 }, text = '{"x":1}' } },
      usage = { prompt_tokens = 2, completion_tokens = 5, total_tokens = 7 } }, reader:result())
  end)
end)

describe("kinds of errors", function()
  it("by status and words", function()
    for _, case in ipairs {
      { 400, {}, "request" }, { 404, {}, "request" }, { 422, { type = "invalid_request_error" }, "request" },
      { 401, {}, "auth" }, { 403, {}, "auth" }, { 402, {}, "quota" }, { 408, {}, "timeout" },
      { 429, {}, "rate_limit" }, { 429, { code = "rate_limit_exceeded" }, "rate_limit" },
      { 429, { code = "insufficient_quota", type = "x" }, "quota" }, { 429, { type = "insufficient_quota" }, "quota" },
      { 400, { type = "billing_error" }, "quota" },
      { 400, { code = "content_filter" }, "content" }, { 400, { code = "content_policy_violation" }, "content" },
      { 500, {}, "server" }, { 503, { code = "insufficient_quota" }, "server" }, { 529, { type = "overloaded_error" }, "server" },
      { 409, {}, "request" }, { 429, { code = json.null, type = json.null }, "rate_limit" },
    } do
      assert.equal(case[3], errors.kind_of(case[1], case[2]), case[1])
    end
  end)

  it("say how the server is", function()
    for _, case in ipairs {
      { nil, "good" }, { { kind = "rate_limit", status = 429 }, "overload" }, { { kind = "server", status = 503 }, "sick" },
      { { kind = "server", status = 529 }, "sick" }, { { kind = "server", status = 500 }, "bad" },
      { { kind = "timeout" }, "sick" }, { { kind = "network" }, "bad" }, { { kind = "bad_reply", status = 200 }, "bad" },
      { { kind = "request", status = 400 }, "good" }, { { kind = "auth", status = 401 }, "good" },
      { { kind = "content" }, "good" }, { { kind = "stream_truncated" }, "bad" }, { { kind = "canceled" }, "unknown" },
    } do
      assert.equal(case[2], limits.outcome_of(case[1]), case[1] and case[1].kind)
    end
  end)
end)

describe("rate limit headers", function()
  it("tell how long to wait", function()
    local now = 784111777
    for i, case in ipairs {
      { {}, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "3", ["x-ratelimit-reset-requests"] = "1m" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "6m0.5s" }, 1, 360.5 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "20ms" }, 1, 0.02 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "1h2m3s" }, 1, 3723 },
      -- sixty of sixty requests are back in a minute: the first one in a second
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "60s",
        ["x-ratelimit-limit-requests"] = "60" }, 1, 1 },
      { { ["x-ratelimit-remaining-tokens"] = "100", ["x-ratelimit-reset-tokens"] = "60s",
        ["x-ratelimit-limit-tokens"] = "1000" }, 300, 12 },
      { { ["x-ratelimit-remaining-tokens"] = "300", ["x-ratelimit-reset-tokens"] = "60s" }, 300, 0 },
      { { ["x-ratelimit-remaining-requests"] = "0" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "soon" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "none", ["x-ratelimit-reset-requests"] = "5" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "nan", ["x-ratelimit-reset-requests"] = "5" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "nan" }, 1, 0 },
      { { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "-5" }, 1, 0 },
      { { ["anthropic-ratelimit-requests-remaining"] = "0",
        ["anthropic-ratelimit-requests-reset"] = "1994-11-06T08:49:47Z" }, 1, 10 },
      { { ["anthropic-ratelimit-output-tokens-remaining"] = "0", ["anthropic-ratelimit-output-tokens-limit"] = "100",
        ["anthropic-ratelimit-output-tokens-reset"] = "1994-11-06T08:49:47Z" }, 50, 5 },
      { { ["anthropic-ratelimit-input-tokens-remaining"] = "0",
        ["anthropic-ratelimit-input-tokens-reset"] = "1994-11-06T08:49:44Z" }, 50, 7 },
      { { ["anthropic-ratelimit-tokens-remaining"] = "49",
        ["anthropic-ratelimit-tokens-reset"] = "1994-11-06T08:49:40Z" }, 50, 3 },
      { { ["anthropic-ratelimit-requests-remaining"] = "0",
        ["anthropic-ratelimit-requests-reset"] = "1994-11-06T08:49:00Z" }, 1, 0 },
    } do
      assert.is_true(math.abs(case[3] - limits.wait_of(case[1], case[2], now)) < 1e-9, i)
    end
  end)
end)

describe("prices", function()
  it("are found by name, with and without a version", function()
    for _, case in ipairs {
      { "openai", "gpt-4o-mini", 0.15 }, { "openai", "gpt-4o-mini-2024-07-18", 0.15 },
      { "anthropic", "claude-3-5-haiku-20241022", 0.8 }, { "anthropic", "claude-3-5-sonnet-latest", 3 },
      { "openai", "gpt-4o-something", nil }, { "ollama", "anything", 0 },
      { "openai", "gpt-4o-2024-05-13", 5 }, { "openai", "gpt-4o-2024-11-20", 2.5 }, { "openai", "gpt-5-2025-08-07", 1.25 },
      { "anthropic", "claude-sonnet-4-5-20250929", 3 }, { "anthropic", "claude-opus-4-5", 5 },
    } do
      local price = prices.find(case[1], case[2])
      assert.equal(case[3], price and price.input, case[2])
    end
    local own = { m = { input = 1, output = 2 } }
    assert.equal(own.m, prices.find("openai", "m", own))
    assert.equal(own.m, prices.find("ollama", "m", own))
  end)

  it("make costs", function()
    local price = { input = 2, output = 10, cached_input = 0.5, cache_write = 4 }
    local function cost(...) return prices.cost(price, read.usage(...)) end
    assert.equal(0.00002, cost(10, 0))
    assert.equal(0.00012, cost(10, 10))
    assert.equal((2 * 6 + 0.5 * 3 + 4 * 1) / 1e6, cost(10, 0, 3, 1))
    price = { input = 2, output = 10 }
    assert.equal(0.00002, cost(10, 0, 3, 1))
    price = { input = 2, output = 10, long = 100 }
    assert.equal((100 * 2 + 10 * 10) / 1e6, cost(100, 10))
    assert.equal((101 * 4 + 10 * 15) / 1e6, cost(101, 10))
  end)

  it("are never above the worst case", function()
    for _, price in ipairs { prices.find("openai", "gpt-5.4"), prices.find("anthropic", "claude-sonnet-4-5"),
      { input = 2, output = 10 } } do
      for _, prompt in ipairs { 0, 1, 199999, 200001, 272001, 1000000 } do
        for _, share in ipairs { 0, 0.5, 1 } do
          local cost = prices.cost(price, read.usage(prompt, 50, prompt * share, prompt * (1 - share)))
          assert.is_true(cost <= prices.worst(price, prompt, 50) + 1e-12)
        end
      end
    end
  end)

  it("know how long answers may be", function()
    assert.equal(16384, prices.find("openai", "gpt-4o-mini").max_output)
    assert.equal(64000, prices.find("anthropic", "claude-haiku-4-5-20251001").max_output)
  end)
end)
