-- Streams of all three APIs against the model server: what arrives, what is complete, what is an error.

local leaks = require "spec.support.leaks"
local listeners = require "spec.support.listeners"
local models = require "spec.support.models"
local raw = require "spec.support.raw_server"
local testing = require "weft.testing"
local weft = require "weft"

local PROMPT = "one two three four five six seven eight"
local TEXT = "echo: " .. PROMPT

local function read_all(stream)
  local parts, err = {}
  repeat
    local delta
    delta, err = stream:next()
    parts[#parts + 1] = delta and delta.text
  until not delta
  return parts, err
end

describe("streams", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    listeners.stop()
    leaks.after()
  end)

  for _, kind in ipairs(models.kinds) do
    describe("of " .. kind, function()
      -- A stream with a fault after half of its parts; returns what came and the error.
      local function broken(fault, options)
        fault.only = "stream"
        local server = models.server { faults = { fault } }
        local stream, err = models.make(kind, server, options):stream { prompt = PROMPT }
        if not stream then
          return nil, err, server
        end
        local parts
        parts, err = read_all(stream)
        local result, same = stream:result()
        assert.is_nil(result)
        assert.equal(err, same)
        assert.equal(table.concat(parts), err.partial)
        return table.concat(parts), err, server
      end

      it("arrive in parts", function()
        local server = models.server { replies = { m = { text = TEXT, usage = { input = 11, output = 7 } } } }
        local stream = assert(models.make(kind, server, { prices = { m = { input = 1, output = 2 } } })
          :stream { prompt = PROMPT })
        local parts = {}
        for text, delta in stream:deltas() do
          assert.equal(text, delta.text)
          parts[#parts + 1] = text
        end
        assert.is_true(#parts > 3)
        local result = assert(stream:result())
        assert.equal(TEXT, table.concat(parts))
        assert.equal(TEXT, result.text)
        assert.equal("stop", result.finish_reason)
        assert.equal("m", result.model)
        assert.same({ prompt_tokens = 11, completion_tokens = 7, total_tokens = 18 }, result.usage)
        assert.is_nil(result.estimated)
        assert.equal(25 / 1e6, result.cost)
        assert.equal(1, result.attempts)
        assert.is_nil((stream:next()))
      end)

      it("are whole without being read part by part", function()
        local stream = assert(models.make(kind, models.server()):stream { prompt = PROMPT })
        assert.equal(TEXT, assert(stream:result()).text)
      end)

      it("keep their connection for the next one", function()
        local server = models.server()
        local m = models.make(kind, server)
        for _ = 1, 4 do
          assert(assert(m:stream { prompt = PROMPT }):result())
        end
        assert.equal(4, server:stats().requests)
        assert.is_true(server:stats().connections < 4)
      end)

      it("come byte by byte and cut inside of characters", function()
        local text = "Grüße an alle: 日本語 🙂"
        local server = models.server { reply = text, wire = { piece = 1, split_utf8 = true } }
        assert.equal(text, assert(assert(models.make(kind, server):stream { prompt = "x" }):result()).text)
      end)

      it("bring tool calls", function()
        local server = models.server { reply = { tool_calls = {
          { name = "f", arguments = { city = "Oslo" } }, { name = "g", arguments = { n = 2 } },
        } } }
        local tools = {
          { type = "function", ["function"] = { name = "f", parameters = { type = "object" } } },
          { type = "function", ["function"] = { name = "g", parameters = { type = "object" } } },
        }
        local stream = assert(models.make(kind, server):stream { prompt = "x", tools = tools })
        local result = assert(stream:result())
        assert.equal("tool_calls", result.finish_reason)
        assert.equal("f", result.tool_calls[1].name)
        assert.same({ city = "Oslo" }, result.tool_calls[1].arguments)
        assert.same({ n = 2 }, result.tool_calls[2].arguments)
      end)

      it("that are cumulative about usage, count the last", function()
        local server = models.server { stream = { usage = "cumulative" },
          reply = { text = TEXT, usage = { input = 11, output = 7 } } }
        local result = assert(assert(models.make(kind, server):stream { prompt = "x" }):result())
        assert.same({ prompt_tokens = 11, completion_tokens = 7, total_tokens = 18 }, result.usage)
      end)

      it("that do not tell their usage, get an estimate", function()
        local server = models.server { stream = { usage = false } }
        local result = assert(assert(models.make(kind, server):stream { prompt = PROMPT }):result())
        assert.equal(TEXT, result.text)
        assert.is_true(result.estimated)
        assert.equal(math.ceil(#TEXT / 4), result.usage.completion_tokens)
        assert.is_true(result.usage.prompt_tokens > 10)
      end)

      it("that are cut are told by their partial text, and not asked for again", function()
        for _, fault in ipairs { { truncate = "body" }, { truncate = "event" }, { reset = "body" } } do
          local text, err, server = broken(fault)
          assert.equal("stream_truncated", err.kind)
          assert.is_true(#text > 0 and TEXT:sub(1, #text) == text and #text < #TEXT)
          assert.equal(1, server:stats().requests)
          models.stop()
        end
      end)

      it("that are cut without a sign on the connection, too", function()
        local text, err = broken { truncate = "body", wire = { framing = "close" } }
        assert.equal("stream_truncated", err.kind)
        assert.is_true(#text > 0)
      end)

      it("that stall end by the time limit", function()
        local text, err = broken({ stall = math.huge, at = "body" }, { timeout = { idle = 0.05 } })
        assert.equal("stream_truncated", err.kind)
        assert.is_true(weft.is(err, "timeout"))
        assert.is_true(#text > 0)
      end)

      it("that bring garbage are bad", function()
        local _, err = broken { garbage = true }
        assert.equal("bad_reply", err.kind)
      end)

      it("with an error inside fail by its kind, in every shape", function()
        for _, shape in ipairs { "data", "event", "done" } do
          local text, err, server = broken { status = 529, inside = shape, message = "too much\nat once" }
          assert.equal("server", err.kind, shape)
          assert.match("the server failed %(in the stream%): too much at once", err.message)
          assert.is_true(#text > 0)
          assert.equal(1, server:stats().requests)
          models.stop()
        end
      end)

      it("with an error before the first part are asked for again", function()
        for _, shape in ipairs { "data", "event", "done" } do
          local server = models.server { faults = { { status = 503, inside = shape, after = 0 } } }
          local stream = assert(models.make(kind, server):stream { prompt = PROMPT })
          assert.equal(TEXT, assert(stream:result()).text)
          assert.equal(2, stream.attempts)
          assert.equal(2, server:stats().requests)
          models.stop()
        end
      end)

      it("are asked for again until they begin", function()
        local server = models.server { faults = {
          { status = 503 }, { reset = "before" }, { truncate = "body", after = 0 }, { garbage = true, after = 0 },
        } }
        local stream = assert(models.make(kind, server, { retry = { base = 0, attempts = 5 } }):stream { prompt = PROMPT })
        assert.equal(TEXT, assert(stream:result()).text)
        assert.equal(5, stream:result().attempts)
      end)

      it("that fail at once are errors", function()
        for status, name in pairs { [401] = "auth", [400] = "request", [503] = "server" } do
          local server = models.server { faults = { { status = status, times = -1, message = "no luck" } } }
          local stream, err = models.make(kind, server):stream { prompt = "x" }
          assert.is_nil(stream)
          assert.equal(name, err.kind)
          assert.equal(status, err.status)
          assert.match("no luck", err.message)
          assert.equal(status == 503 and 3 or 1, server:stats().requests)
          models.stop()
        end
      end)
    end)
  end

  it("without a last mark are whole when there was a reason to finish", function()
    local server = models.server { stream = { done = false }, wire = { framing = "close" } }
    assert.equal(TEXT, assert(assert(models.openai(server):stream { prompt = PROMPT }):result()).text)
    models.stop()
    server = models.server { stream = { done = false, finish = false }, wire = { framing = "close" } }
    local result, err = assert(models.openai(server):stream { prompt = PROMPT }):result()
    assert.is_nil(result)
    assert.equal("stream_truncated", err.kind)
    assert.equal(TEXT, err.partial)
  end)

  it("that are cut after the answer was finished are whole", function()
    local styles = { openai = { {}, { done = false } }, anthropic = { {}, { done = false } }, ollama = { {} } }
    for _, fault in ipairs { { truncate = "end" }, { reset = "end" } } do
      for kind, list in pairs(styles) do
        for _, style in ipairs(list) do
          local server = models.server { faults = { fault }, stream = style }
          local stream = assert(models.make(kind, server):stream { prompt = PROMPT })
          assert.equal(TEXT, assert(stream:result()).text)
          assert.equal(1, server:stats().requests)
          models.stop()
        end
      end
    end
  end)

  -- Asks a listener of this script's, which answers with these bytes.
  local function ask_listener(kind, content_type, body, options)
    local listener, url = listeners.open()
    local given = { base_url = url, model = "m", retry = { attempts = 1 },
      limits = { concurrency = 1, tokens_per_minute = 1e6 } }
    for name, value in pairs(options or {}) do given[name] = value end
    local m = weft.model[kind](given)
    local group = weft.group()
    local task = group:go(function()
      local stream, err = m:stream { prompt = "x" }
      if not stream then return { kind = err.kind, message = err.message } end
      local parts = {}
      repeat
        local delta
        delta, err = stream:next()
        parts[#parts + 1] = delta and delta.text
      until not delta
      local result = stream:result()
      return { parts = parts, text = result and result.text, attempts = result and result.attempts, kind = err and err.kind,
        partial = err and err.partial ~= table.concat(parts) and err.partial or nil }
    end)
    local client = assert(listener:accept())
    repeat local line = assert(client:receive "*l") until line == ""
    client:send(("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n%s"):format(content_type, body))
    client:close()
    local outcome = task:wait()
    group:close()
    assert.equal(0, m:stats().in_flight)
    return outcome
  end

  it("of a server that does not stream come as one part", function()
    local body = '{"choices":[{"message":{"content":"all at once"},"finish_reason":"stop"}]}'
    assert.same({ parts = { "all at once" }, text = "all at once", attempts = 1 },
      ask_listener("openai", "application/json", body))
  end)

  it("with events of another shape are bad, or passed over", function()
    local good = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    for _, event in ipairs {
      'data: {"choices":[{"delta":{"tool_calls":[1]}}]}\n\n', "data: 5\n\n", "data: [1,\n\n",
    } do
      assert.same({ parts = { "a" }, kind = "bad_reply" }, ask_listener("openai", "text/event-stream", good .. event))
      assert.equal("bad_reply", ask_listener("openai", "text/event-stream", event).kind)
    end
    for _, event in ipairs {
      'data: {}\n\n', 'data: {"choices":5}\n\n', 'data: {"choices":[null]}\n\n', 'data: {"choices":[{"delta":7}],"usage":"x"}\n\n',
      'data: {"choices":[{"delta":{"content":5,"tool_calls":null},"finish_reason":false}]}\n\n',
    } do
      assert.equal("a", ask_listener("openai", "text/event-stream", good .. event .. "data: [DONE]\n\n").text)
    end
    assert.equal("bad_reply", ask_listener("anthropic", "text/event-stream",
      'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}\n\n').kind)
    assert.equal("bad_reply", ask_listener("ollama", "application/x-ndjson", '{"message":{"tool_calls":[1]}}\n').kind)
  end)

  it("with an event that is called error fail, whatever is in it", function()
    local good = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    for data, wanted in pairs {
      ['{"message":"it broke"}'] = "it broke", ['{"error":"it broke"}'] = "it broke", ["it broke"] = "it broke",
      ['{"error":{"message":"it broke"}}'] = "it broke", ["null"] = "in the stream", ["5"] = "in the stream",
    } do
      local outcome = ask_listener("openai", "text/event-stream", good .. "event: error\ndata: " .. data .. "\n\n")
      assert.same({ "server", { "a" } }, { outcome.kind, outcome.parts }, data)
      outcome = ask_listener("openai", "text/event-stream", "event: error\ndata: " .. data .. "\n\n")
      assert.equal("server", outcome.kind)
      assert.match(wanted, outcome.message)
    end
  end)

  it("that are cut within a line are truncated", function()
    local line = '{"message":{"content":"a"}}\n'
    assert.same({ parts = { "a" }, kind = "stream_truncated" }, ask_listener("ollama", "application/x-ndjson", line .. '{"mess'))
    assert.equal("stream_truncated", ask_listener("ollama", "application/x-ndjson", '{"mess').kind)
    assert.equal("bad_reply", ask_listener("ollama", "application/x-ndjson", line .. '{"mess\n' .. line).kind)
    assert.equal("aa", ask_listener("ollama", "application/x-ndjson", line .. '{"message":{"content":"a"},"done":true}').text)
  end)

  it("with a usage that cannot be give back what they hold", function()
    local answer = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    local usage = 'data: {"choices":[],"usage":{"prompt_tokens":1e300,"completion_tokens":1}}\n\n'
    assert.equal("a", ask_listener("openai", "text/event-stream", answer .. usage .. "data: [DONE]\n\n").text)
  end)

  it("keep the key to themselves when the model repeats it", function()
    local event = 'data: {"choices":[{"delta":{"content":"it is sk-0123456789"}}]}\n\n'
    local outcome = ask_listener("openai", "text/event-stream", event, { api_key = "sk-0123456789" })
    assert.same({ parts = { "it is sk-0123456789" }, kind = "stream_truncated", partial = "it is [redacted]" }, outcome)
  end)

  -- A server that never ends its answer: these lines again and again, until the client has gone.
  local function endless(content_type, line)
    return raw.start(function(client)
      client:send("HTTP/1.1 200 OK\r\nContent-Type: " .. content_type .. "\r\nConnection: close\r\n\r\n")
      local some = line:rep(100)
      while client:send(some) do end -- luacheck: ignore
    end)
  end

  local SSE, NDJSON = "text/event-stream", "application/x-ndjson"

  it("that never end fail when the answer is larger than max_body", function()
    for _, case in ipairs {
      { "openai", SSE, 'data: {"choices":[{"delta":{"content":"and so on "}}]}\n\n' },
      { "anthropic", SSE, 'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"and so on "}}\n\n' },
      { "ollama", NDJSON, '{"message":{"content":"and so on "}}\n' },
      { "openai", SSE, 'data: {"choices":[{"delta":{"refusal":"no, "}}]}\n\n', false },
      { "openai", SSE, 'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"[["}}]}}]}\n\n' },
      { "ollama", NDJSON, '{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{}}}]}}\n' },
    } do
      local server = endless(case[2], case[3])
      local m = weft.model[case[1]] { base_url = server.url, model = "m", http = { max_body = 20000 },
        limits = { concurrency = 1 }, retry = { base = 0 } }
      local stream, err = m:stream { prompt = "x" }
      if stream then
        err = select(2, stream:result())
      end
      assert.equal(case[4] == nil, stream ~= nil) -- what is no part of the text does not begin the answer
      assert.equal("too_large", err.kind)
      assert.match("the answer is larger than max_body %(20000 bytes%)", err.message)
      assert.is_true(#(err.partial or "") <= 20000)
      assert.equal(0, m:stats().in_flight)
      server.close()
      assert.equal(1, #server.results) -- one connection: it is not asked for again
    end
  end)

  it("that never end fail at 64 MiB unless another bound is given", function()
    local server = endless(SSE, 'data: {"choices":[{"delta":{"content":"' .. ("x"):rep(2 ^ 16) .. '"}}]}\n\n')
    local stream = assert(weft.model.openai { base_url = server.url, model = "m" }:stream { prompt = "x" })
    local size, delta, err = 0, stream:next()
    while delta do
      size = size + #delta.text
      delta, err = stream:next()
    end
    assert.same({ "too_large", 2 ^ 26, 2 ^ 26 }, { err.kind, size, #err.partial })
    server.close()
  end)

  it("with an event that is too large say so, with the text before it", function()
    local server = raw.start(function(client)
      client:send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        .. 'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: ' .. ("x"):rep(2 ^ 23 + 100))
    end)
    local m = weft.model.openai { base_url = server.url, model = "m", retry = { base = 0 } }
    local result, err = assert(m:stream { prompt = "x" }):result()
    assert.is_nil(result)
    assert.same({ "too_large", "a" }, { err.kind, err.partial })
    server.close()
  end)

  it("that come byte by byte are no reason to remember each", function()
    local server = endless(SSE, 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    local m = weft.model.openai { base_url = server.url, model = "m", http = { max_body = 200000 } }
    local stream = assert(m:stream { prompt = "x" })
    collectgarbage()
    local before = collectgarbage "count"
    local _, err = stream:result()
    assert.equal(200000, #err.partial)
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 1000)
    server.close()
  end)

  it("that say in the stream that there were too many requests pause the client, too", function()
    local server = models.server { faults = { { status = 429, inside = "data", after = 0, type = "rate_limit_error" } } }
    testing.virtual_clock(function(clock)
      local m = models.openai(server, { retry = { base = 40, attempts = 1 } })
      local _, err = m:stream { prompt = "x" }
      assert.equal("rate_limit", err.kind)
      assert(m:chat { prompt = "x" })
      assert.is_true(math.abs(clock:elapsed() - 40) < 1e-6, clock:elapsed())
    end)
  end)

  it("with any line ends, comments, pings and a BOM are the same", function()
    for _, style in ipairs {
      { line_end = "crlf" }, { line_end = "cr" }, { bom = true, comments = true }, { space = false }, { split_lines = true },
      { pings = true },
    } do
      for _, kind in ipairs { "openai", "anthropic" } do
        local server = models.server { stream = style }
        assert.equal(TEXT, assert(assert(models.make(kind, server):stream { prompt = PROMPT }):result()).text)
      end
      models.stop()
    end
  end)

  it("that nobody reads to the end give back what they hold when they are closed", function()
    local server = models.server { stream = { delay = 0.001 } }
    local budget = weft.budget { usd = 1 }
    local m = models.openai(server, { limits = { concurrency = 1 }, budget = budget, max_tokens = 100,
      prices = { m = { input = 100, output = 100 } } })
    local stream = assert(m:stream { prompt = PROMPT })
    assert.equal(1, m:stats().in_flight)
    assert.is_true(budget:remaining() < 1)
    assert.equal("echo:", stream:next().text)
    stream:close()
    stream:close()
    assert.equal(0, m:stats().in_flight)
    local result, err = stream:result()
    assert.is_nil(result)
    assert.equal("closed", err.kind)
    -- what was asked and what came is paid
    assert.is_true(budget:spent() > 0 and math.abs(budget:remaining() + budget:spent() - 1) < 1e-9)
  end)

  it("or when they are collected", function()
    local server = models.server { stream = { delay = 0.001 } }
    local m = models.openai(server, { limits = { concurrency = 1 } })
    do
      local stream = m:stream { prompt = PROMPT }
      assert.is_table(stream)
    end
    collectgarbage()
    collectgarbage()
    assert.equal(0, m:stats().in_flight)
  end)

  it("or when they are collected together with their model, for who else has it", function()
    local server = models.server { stream = { delay = 0.001 } }
    local m = models.openai(server, { limits = { concurrency = 1 } })
    local pool = weft.pool { threads = 1 }
    local group = weft.group(nil, { pool = pool })
    group:go(function()
      local stream = m:stream { prompt = PROMPT }
      return stream:next().text
    end)
    assert.equal("echo:", assert(group:wait())[1])
    group:close()
    models.eventually(function()
      weft.scope({ pool = pool }, function(inner)
        inner:go(function()
          if jit then jit.flush() end
          collectgarbage()
          collectgarbage()
        end)
      end)
      return m:stats().in_flight
    end, 0)
    pool:close()
  end)

  it("or when their task is cancelled", function()
    local server = models.server { faults = { { pause = math.huge } } }
    local m = models.openai(server, { limits = { concurrency = 1 } })
    local group = weft.group()
    local begun = weft.channel(1)
    local task = group:go(function()
      local stream = assert(m:stream { prompt = PROMPT })
      begun:send(true)
      local ok, err = pcall(stream.result, stream)
      return { ok, err.kind }
    end)
    begun:recv()
    group:cancel()
    assert.same({ false, "canceled" }, task:wait())
    group:close()
    assert.equal(0, m:stats().in_flight)
  end)

  it("raise their failure in a loop, so that it is not overlooked", function()
    local server = models.server { faults = { { truncate = "body" } } }
    local stream, text = assert(models.openai(server):stream { prompt = PROMPT }), ""
    local ok, err = pcall(function()
      for part in stream:deltas() do text = text .. part end
    end)
    assert.is_false(ok)
    assert.equal("stream_truncated", err.kind)
    assert.equal(text, err.partial)
  end)

  it("run by the dozen, on any thread", function()
    local server = models.server { stream = { delay = 0.001 } }
    local m = models.openai(server, { limits = { concurrency = 8 } })
    local items = {}
    for i = 1, 40 do items[i] = ("number %d of many"):format(i) end
    local results = assert(weft.map(items, function(item)
      local stream, err = m:stream { prompt = item }
      if not stream then return nil, err end
      local parts = {}
      for text in stream:deltas() do parts[#parts + 1] = text end
      return table.concat(parts)
    end, { chunk = 2 }))
    for i, item in ipairs(items) do assert.equal("echo: " .. item, results[i]) end
    assert.is_true(server:stats().max_in_flight <= 8)
  end)

  it("cannot be sent, and say so", function()
    local stream = assert(models.openai(models.server()):stream { prompt = "x" })
    local group = weft.group()
    local ok, err = pcall(group.go, group, function() return stream end)
    group:close()
    stream:close()
    assert.is_false(ok)
    assert.match("read it there", tostring(err))
  end)

  it("take no schema", function()
    local m = models.openai(models.server())
    local ok, err = pcall(function() m:stream { prompt = "x", schema = {} } end)
    assert.is_false(ok)
    assert.match("model_stream_spec.lua:%d+: bad argument 'schema' to model:stream", err)
  end)
end)
