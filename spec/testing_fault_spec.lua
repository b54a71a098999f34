-- The model server's faults, byte by byte: what each does to plain answers and to streams of all three APIs.

local clients = require "spec.support.model_client"
local json = require "dkjson"
local socket = require "socket"

local start, call, events, connect = clients.start, clients.call, clients.events, clients.connect
local eventually, with_shell = clients.eventually, clients.with_shell

local function request(api, stream)
  local body = { model = "m", stream = stream, messages = { { role = "user", content = "one two three four five" } } }
  if api == "anthropic" then
    body.max_tokens = 1000
    return body, "/v1/messages", clients.anthropic
  elseif api == "ollama" then
    return body, "/api/chat"
  end
  return body, "/v1/chat/completions"
end

local function ask(server, api, stream)
  local body, path, headers = request(api, stream)
  return call(server, path, body, headers)
end

-- Sends a request and takes every byte that comes. Returns the bytes, and how it ended.
local function raw(server, api, stream, client)
  local body, path, headers = request(api, stream)
  local text = json.encode(body)
  local head = ("POST %s HTTP/1.1\r\nContent-Length: %d\r\n"):format(path, #text)
  for name, value in pairs(headers or {}) do
    head = head .. name .. ": " .. value .. "\r\n"
  end
  client = client or connect(server)
  client:send(head .. "\r\n" .. text)
  local parts = {}
  while true do
    local whole, err, part = client:receive(65536)
    parts[#parts + 1] = whole or part
    if not whole then
      client:close()
      return table.concat(parts), err
    end
  end
end

local function split(bytes)
  local head, body = bytes:match("^(.-\r\n\r\n)(.*)$")
  return head, body
end

-- The data of chunks, also when the last one is cut.
local function dechunk(body)
  local parts = {}
  while #body > 0 do
    local size, rest = body:match("^(%x+)\r\n(.*)$")
    if not size or tonumber(size, 16) == 0 then
      return table.concat(parts), size ~= nil
    end
    parts[#parts + 1] = rest:sub(1, tonumber(size, 16))
    body = rest:sub(tonumber(size, 16) + 3)
  end
  return table.concat(parts), false
end

local apis = { "openai", "anthropic", "ollama" }

describe("faults of weft.testing.model_server:", function()
  after_each(clients.close)

  describe("a reset", function()
    -- What the client gets before it is told "Connection reset by peer".
    local function received(place, stream, api)
      local server = start({ faults = { { reset = place, times = math.huge } } })
      local client = connect(server)
      local bytes = raw(server, api or "openai", stream, client)
      eventually(server, "open", 0)
      eventually(server, "in_flight", 0)
      assert.equal(1, server:stats().faults)
      return bytes
    end

    it("before the first byte", function()
      assert.equal("", received("before"))
      assert.equal("", received("before", true))
    end)

    it("in the headers", function()
      local bytes = received("headers")
      assert.match("^HTTP/1.1 200 OK\r\n", bytes)
      assert.is_nil(split(bytes))
    end)

    it("after the headers", function()
      local head, body = split(received("after_headers", true))
      assert.match("Transfer%-Encoding: chunked", head)
      assert.equal("", body)
    end)

    it("in the body", function()
      local head, body = split(received("body"))
      assert.equal(math.floor(tonumber(head:match("Content%-Length: (%d+)")) / 2), #body)
    end)

    it("in a stream, between two events and inside of one", function()
      for _, api in ipairs(apis) do
        local _, body = split(received("body", true, api))
        local data, ended = dechunk(body)
        assert.is_false(ended)
        assert.match("\n$", data)
        assert.match("one", data)
        assert.is_nil(data:find("five", 1, true))
        _, body = split(received("event", true, api))
        data, ended = dechunk(body)
        assert.is_false(ended)
        assert.is_nil(data:match("\n$"))
      end
    end)

    it("at the end, with all of the body", function()
      local head, body = split(received("end"))
      assert.equal(tonumber(head:match("Content%-Length: (%d+)")), #body)
    end)

    with_shell(it, "is one that curl reports", function()
      local server = start({ faults = { { reset = "after_headers" }, { reset = "body" } } })
      for _ = 1, 2 do
        local response = clients.ask(server, "m", "hi")
        assert.equal(56, response.exit)
        assert.equal(200, response.status)
      end
    end)
  end)

  describe("a truncation", function()
    it("of a plain body, at any byte", function()
      for _, size in ipairs({ 0, 1, 20 }) do
        local server = start({ faults = { { truncate = size } } })
        local head, body = split((raw(server, "anthropic")))
        assert.equal(size, #body)
        assert.is_true(tonumber(head:match("Content%-Length: (%d+)")) > 100)
      end
    end)

    it("of a stream: after so many deltas, inside of the next event, without the last chunk", function()
      local server = start({ faults = { { truncate = "body", after = 2 }, { truncate = "event", after = 0 },
        { truncate = "end" } } })
      local data, ended = dechunk((select(2, split((raw(server, "openai", true))))))
      assert.is_false(ended)
      assert.equal("echo: one", table.concat({ data:match('"content":"(echo:)".-"content":"( one)"') }))
      assert.is_nil(data:find("two", 1, true))
      data = dechunk((select(2, split((raw(server, "openai", true))))))
      assert.match('"role":"assistant".-\n\ndata: {', data)
      assert.is_nil(data:find("echo", 1, true))
      data, ended = dechunk((select(2, split((raw(server, "openai", true))))))
      assert.match("data: %[DONE%]\n\n$", data)
      assert.is_false(ended)
    end)

    with_shell(it, "of a stream that ends with its connection looks like an end", function()
      local server = start({ faults = { { truncate = "body", wire = { framing = "close" } } } })
      local response = clients.curl(server.url .. "/chat/completions",
        json.encode((request("openai", true))))
      assert.equal(0, response.exit)
      assert.match("Connection: close", response.headers)
      assert.is_nil(response.body:find("DONE", 1, true))
      assert.match("one", response.body)
    end)
  end)

  describe("a stall", function()
    for _, place in ipairs({ "before", "headers", "after_headers", "body", "event", "end" }) do
      it("at " .. place .. " lasts until the client goes", function()
        local server = start({ faults = { { stall = math.huge, at = place } } })
        local client = connect(server)
        local body, path = request("openai", true)
        client:send(clients.post(json.encode(body), path))
        if place ~= "before" then
          assert.equal("HTTP/1.1 200 OK", client:receive("*l"))
        end
        eventually(server, "in_flight", 1)
        client:close()
        eventually(server, "open", 0)
        assert.equal(1, server:stats().abandoned)
      end)
    end

    it("or for a time, and then the connection ends", function()
      local server = start({ faults = { { stall = 0.01, at = "event" } } })
      local bytes, how = raw(server, "ollama", true)
      assert.equal("closed", how)
      assert.is_nil(bytes:find('"done":true', 1, true))
    end)
  end)

  it("a pause goes on with the rest", function()
    for _, place in ipairs({ "before", "headers", "after_headers", "body", "event", "end", 3 }) do
      for _, stream in ipairs({ true, false }) do
        local server = start({ faults = { { pause = 0.005, at = place } } })
        local response = ask(server, "openai", stream)
        assert.match(stream and "%[DONE%]\n\n$" or "}$", response.body)
        eventually(server, "in_flight", 0)
      end
    end
  end)

  describe("a status", function()
    it("has the shape of its API", function()
      local server = start({ faults = { { status = 529, times = math.huge } } })
      assert.equal("overloaded", ask(server, "openai").json.error.code)
      assert.equal("overloaded_error", ask(server, "anthropic", true).json.error.type)
      assert.equal("Overloaded", ask(server, "ollama").json.error)
    end)

    it("has a type and a code of choice", function()
      local server = start({ faults = { { status = 429, code = "insufficient_quota", message = "pay" },
        { status = 400, type = "t", code = "c" }, { status = 502, body = "<html>" } } })
      local quota = ask(server, "openai").json.error
      assert.same({ "insufficient_quota", "insufficient_quota", "pay" }, { quota.type, quota.code, quota.message })
      local other = ask(server, "openai").json.error
      assert.same({ "t", "c" }, { other.type, other.code })
      assert.equal("<html>", ask(server, "openai").body)
    end)

    it("says when to try again", function()
      local server = start({ faults = {
        { status = 429, retry_after = 1.2 },
        { status = 429, retry_after_ms = 40 },
        { status = 503, retry_after_date = 120, should_retry = false },
        { status = 500, should_retry = true, headers = { ["X-Extra"] = "y" } },
      } })
      local first = ask(server, "openai").headers
      assert.same({ "2", "1200" }, { first["retry-after"], first["retry-after-ms"] })
      local second = ask(server, "openai").headers
      assert.same({ nil, "40" }, { second["retry-after"], second["retry-after-ms"] })
      local third = ask(server, "openai").headers
      assert.match("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", third["retry-after"])
      assert.equal("false", third["x-should-retry"])
      local fourth = ask(server, "openai").headers
      assert.same({ "true", "y" }, { fourth["x-should-retry"], fourth["x-extra"] })
    end)

    it("comes inside of a 200", function()
      local server = start({ faults = { { status = 529, inside = true, times = math.huge } } })
      for _, api in ipairs(apis) do
        local plain = ask(server, api, false)
        assert.equal(200, plain.status)
        assert.is_truthy(plain.json.error)
        local stream = ask(server, api, true)
        assert.equal(200, stream.status)
        assert.match("one", stream.body)
        assert.match("error", stream.body)
        assert.is_nil(stream.body:find("five", 1, true))
        assert.is_nil(stream.body:find("DONE", 1, true))
      end
    end)

    it("comes inside of a stream in each shape", function()
      local function last(inside, api)
        local server = start({ faults = { { status = 500, inside = inside, after = 1, message = "oh" } } })
        local all = events(ask(server, api, true))
        return all[#all], all[#all - 1]
      end
      local data = last("data", "openai")
      assert.is_nil(data.event)
      assert.equal("oh", data.json.error.message)
      local named = last("event", "openai")
      assert.equal("error", named.event)
      assert.equal("server_error", named.json.error.type)
      local done, before = last("done", "openai")
      assert.equal("[DONE]", done.data)
      assert.equal("oh", before.json.error.message)
      local anthropic = last("event", "anthropic")
      assert.equal("error", anthropic.event)
      assert.same({ "error", "api_error" }, { anthropic.json.type, anthropic.json.error.type })
      local server = start({ faults = { { status = 500, inside = true, after = 0 } } })
      assert.same({ { error = "Internal Server Error" } }, clients.lines(ask(server, "ollama", true)))
    end)
  end)

  it("garbage in the middle of a stream", function()
    for _, api in ipairs(apis) do
      local server = start({ faults = { { garbage = true } } })
      local response = ask(server, api, true)
      assert.match("one", response.body)
      local last = response.body:match("([^\n]*)\n*$"):gsub("^data: ", "")
      assert.is_nil((json.decode(last)))
    end
  end)

  with_shell(it, "redirects to the same and to another origin", function()
    local server = start({ faults = { { redirect = 307, to = "same" }, { redirect = 302, to = "other" },
      { redirect = 308, to = "https://example.org/" } } })
    local first = ask(server, "openai")
    assert.equal(307, first.status)
    assert.equal(server.url .. "/chat/completions", first.headers.location)
    local second = ask(server, "openai")
    assert.same({ 302, "http://localhost:" .. server.port .. "/v1/chat/completions" },
      { second.status, second.headers.location })
    assert.equal("https://example.org/", ask(server, "openai").headers.location)
    local response = clients.ask(start({ faults = { { redirect = 307, to = "same" } } }), "m", "hi", "-L")
    assert.match("echo: hi", response.body)
  end)

  with_shell(it, "wrong lengths", function()
    local server = start({ faults = { { wrong_length = 10 }, { wrong_length = -10 } } })
    local long = clients.ask(server, "m", "hi")
    assert.equal(18, long.exit)
    assert.is_table(json.decode(long.body))
    local short = clients.ask(server, "m", "hi")
    assert.equal(0, short.exit)
    assert.is_nil((json.decode(short.body)))
  end)

  it("a connection that is closed although it was to be kept", function()
    local server = start({ faults = { { wire = { hang_up = true } } } })
    local client = connect(server)
    client:send(clients.post(clients.chat("m", "hi")))
    local response = clients.receive(client)
    assert.equal("keep-alive", response.headers.connection)
    assert.equal("echo: hi", clients.content(response))
    assert.is_nil((client:receive("*l")))
    client:close()
  end)

  describe("gzip:", function()
    local function unpacked(api, stream, fault)
      local server = start({ faults = { fault } })
      local body, path, headers = request(api, stream)
      local flags = ""
      for name, value in pairs(headers or {}) do
        flags = flags .. (" -H '%s: %s'"):format(name, value)
      end
      return clients.curl(server.origin .. path, json.encode(body), "--compressed" .. flags)
    end

    with_shell(it, "plain and streamed", function()
      for _, api in ipairs(apis) do
        for _, stream in ipairs({ false, true }) do
          local response = unpacked(api, stream, { wire = { gzip = true } })
          assert.equal(0, response.exit)
          assert.match("Content%-Encoding: gzip", response.headers)
          assert.match("one", response.body)
          assert.match("five", response.body)
        end
      end
      assert.match("five", unpacked("openai", true, { wire = { gzip = true, piece = 1 } }).body)
    end)

    with_shell(it, "bombs", function()
      for _, api in ipairs(apis) do
        local response = unpacked(api, false, { gzip_bomb = 1000000 })
        assert.is_true(tonumber(response.headers:match("Content%-Length: (%d+)")) < 2000)
        assert.equal(0, response.exit)
        assert.is_true(response.body:find(("a"):rep(1000000), 1, true) ~= nil)
        assert.is_table(json.decode(response.body))
      end
      for _, api in ipairs(apis) do
        local response = unpacked(api, true, { gzip_bomb = 100000 })
        local longest = 0
        for line in response.body:gmatch("[^\n]+") do
          local text = line:match("^data: (.*)") or line
          longest = math.max(longest, #text)
          assert.is_true(text == "[DONE]" or line:match("^event: ") ~= nil or json.decode(text) ~= nil)
        end
        assert.is_true(longest > 100000)
      end
      local server = start({ faults = { { gzip_bomb = 50 * 1024 * 1024 } } })
      local size = tonumber(ask(server, "openai").headers["content-length"])
      assert.is_true(size < 52000)
    end)
  end)

  describe("the wire:", function()
    it("one byte at a time", function()
      local server = start({ reply = "ü", wire = { piece = 1 } })
      local plain = start({ reply = "ü" })
      local response = ask(server, "openai", true)
      assert.equal(#response.body, #response.chunks)
      local function masked(text) return (text:gsub('"created":%d+', "")) end
      assert.equal(masked(ask(plain, "openai", true).body), masked(response.body))
      assert.equal("ü", ask(server, "openai").json.choices[1].message.content)
    end)

    it("pieces that end inside of characters", function()
      local server = start({ reply = "a ü€😀 b", wire = { split_utf8 = true } })
      local response = ask(server, "openai", true)
      local cut = 0
      for _, chunk in ipairs(response.chunks) do
        cut = cut + (chunk:match("[\192-\255]$") and 1 or 0)
      end
      assert.equal(3, cut)
      assert.match("ü€😀", response.body)
    end)

    with_shell(it, "slow heads, slow pieces, many interim answers", function()
      local server = start({ wire = { head_delay = 0.001, piece = 100, piece_delay = 0.001, interim = 100 } })
      local response = clients.ask(server, "m", "hi")
      assert.equal(0, response.exit)
      local _, count = (response.headers .. response.body):gsub("103 Early Hints", "")
      assert.equal(100, count)
      assert.match("echo: hi", response.body)
    end)

    it("chunks for plain answers; HTTP/1.0 gets none", function()
      local server = start({ wire = { framing = "chunked" } })
      local response = ask(server, "openai")
      assert.equal("chunked", response.headers["transfer-encoding"])
      assert.equal("assistant", response.json.choices[1].message.role)
      local body = json.encode((request("openai", true)))
      local client = connect(server)
      client:send(("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body))
      local bytes = client:receive("*a")
      client:close()
      assert.is_nil(bytes:find("chunked", 1, true))
      assert.match("data: %[DONE%]\n\n$", bytes)
    end)
  end)

  describe("the look of a stream:", function()
    local function stream(api, options)
      return ask(start({ stream = options }), api, true).body
    end

    it("line ends, a byte order mark, comments, no space, data on two lines", function()
      local plain = stream("openai", {})
      local function masked(text)
        return (text:gsub('"created":%d+', "C"))
      end
      assert.equal(masked(plain:gsub("\n", "\r\n")), masked(stream("openai", { line_end = "crlf" })))
      assert.equal(masked(plain:gsub("\n", "\r")), masked(stream("openai", { line_end = "cr" })))
      assert.equal("\239\187\191" .. masked(plain), masked(stream("openai", { bom = true })))
      assert.equal(masked(plain:gsub("data: ", "data:")), masked(stream("openai", { space = false })))
      assert.equal(masked(plain:gsub("data: ", ": keep-alive\n\ndata: ")), masked(stream("openai", { comments = true })))
      assert.equal(masked(plain:gsub("data: {", "data: {\ndata: ")), masked(stream("openai", { split_lines = true })))
    end)

    it("no last mark, no reason, no usage", function()
      assert.is_nil(stream("openai", { done = false }):find("DONE", 1, true))
      assert.is_nil(stream("openai", { finish = false }):find('"stop"', 1, true))
      assert.is_nil(stream("anthropic", { done = false }):find("message_stop", 1, true))
      assert.is_nil(stream("anthropic", { finish = false, usage = false }):find("message_delta", 1, true))
      assert.is_nil(stream("anthropic", { usage = false }):find("usage", 1, true))
      assert.is_nil(stream("anthropic", { pings = false }):find("ping", 1, true))
      assert.is_nil(stream("ollama", { done = false }):find('"done":true', 1, true))
      assert.is_nil(stream("ollama", { usage = false }):find("eval_count", 1, true))
      assert.is_nil(ask(start({ stream = { usage = false } }), "openai").json.usage)
    end)

    it("usage that grows", function()
      for _, api in ipairs(apis) do
        local last, count = 0, 0
        for number in stream(api, { usage = "cumulative" }):gmatch('"[a-z]*_?[a-z]*":(%d+)') do
          count, last = count + 1, tonumber(number)
        end
        assert.is_true(count > 5 and last > 0, api)
      end
      local seen = {}
      for number in stream("openai", { usage = "cumulative" }):gmatch('"completion_tokens":(%d+)') do
        seen[#seen + 1] = tonumber(number)
      end
      for i = 2, #seen do
        assert.is_true(seen[i] >= seen[i - 1])
      end
      assert.is_true(seen[#seen] > seen[1])
    end)
  end)

  it("meet only what they name", function()
    local server = start({ faults = {
      { status = 500, only = "stream" },
      { status = 501, only = "plain", path = "/messages" },
      { status = 502, path = "/api/chat" },
    } })
    assert.equal(200, ask(server, "openai", false).status)
    assert.equal(501, ask(server, "anthropic", false).status)
    assert.equal(502, ask(server, "ollama", false).status)
    assert.equal(500, ask(server, "anthropic", true).status)
    assert.equal(200, ask(server, "ollama", true).status)
  end)

  it("by chance, of several kinds, the same for the same seed", function()
    local function outcomes(seed)
      local server = start({ seed = seed, fault_rate = 0.5, fault = { { status = 500 }, { status = 429 } } })
      local seen = {}
      for i = 1, 64 do
        seen[i] = ask(server, "openai").status
      end
      return table.concat(seen, " ")
    end
    local first = outcomes(3)
    assert.equal(first, outcomes(3))
    assert.match("500", first)
    assert.match("429", first)
    assert.match("200", first)
  end)

  describe("rate limits", function()
    it("are kept and told", function()
      local server = start({ rate_limits = { requests = 2, tokens = 1000, window = 3600 } })
      local first = ask(server, "openai").headers
      assert.equal("2", first["x-ratelimit-limit-requests"])
      assert.equal("1", first["x-ratelimit-remaining-requests"])
      assert.match("^%d+ms$", first["x-ratelimit-reset-requests"])
      assert.equal("1000", first["x-ratelimit-limit-tokens"])
      assert.is_true(tonumber(first["x-ratelimit-remaining-tokens"]) < 1000)
      local second = ask(server, "anthropic").headers
      assert.equal("0", second["anthropic-ratelimit-requests-remaining"])
      assert.match("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", second["anthropic-ratelimit-requests-reset"])
      local third = ask(server, "openai")
      assert.equal(429, third.status)
      assert.is_true(tonumber(third.headers["retry-after"]) > 3000)
      assert.equal(0, server:stats().faults)
    end)

    it("end with their window", function()
      local server = start({ rate_limits = { requests = 1, window = 0.02 } })
      assert.equal(200, ask(server, "openai").status)
      local status
      for _ = 1, 1000 do
        status = ask(server, "openai").status
        if status == 200 then break end
        socket.sleep(0.005)
      end
      assert.equal(200, status)
    end)

    it("of tokens", function()
      local server = start({ rate_limits = { tokens = 30, window = 3600 } })
      assert.equal(200, ask(server, "openai").status)
      local limited
      for _ = 1, 5 do
        limited = ask(server, "openai").status
      end
      assert.equal(429, limited)
    end)
  end)
end)
