-- The model server, met by real HTTP clients: curl, and raw sockets for what curl would hide.

local clients = require "spec.support.model_client"
local json = require "dkjson"
local socket = require "socket"
local testing = require "weft.testing"

local start, shell, quote, chat = clients.start, clients.shell, clients.quote, clients.chat
local curl, ask, content, error_of = clients.curl, clients.ask, clients.content, clients.error_of
local connect, post, receive = clients.connect, clients.post, clients.receive
local eventually, with_shell = clients.eventually, clients.with_shell

describe("weft.testing.model_server", function()
  after_each(clients.close)

  describe("answers", function()
    it("in the shape of chat completions", function()
      local server = start()
      local response = ask(server, "model-a", "hello")
      assert.equal(200, response.status)
      assert.match("Content%-Type: application/json", response.headers)
      local reply = json.decode(response.body)
      assert.equal("chat.completion", reply.object)
      assert.equal("model-a", reply.model)
      assert.equal("string", type(reply.id))
      assert.equal("number", type(reply.created))
      assert.equal("assistant", reply.choices[1].message.role)
      assert.equal("echo: hello", reply.choices[1].message.content)
      assert.equal("stop", reply.choices[1].finish_reason)
      assert.is_true(reply.usage.prompt_tokens > 0)
      assert.equal(reply.usage.prompt_tokens + reply.usage.completion_tokens,
        reply.usage.total_tokens)
    end)

    it("under any base path, with a query", function()
      local server = start()
      local url = "http://127.0.0.1:" .. server.port .. "/openai/x/chat/completions?version=1"
      assert.equal("echo: hi", content(curl(url, chat("m", "hi"))))
      assert.equal("/openai/x/chat/completions?version=1", server:requests()[1].path)
    end)

    it("count more tokens for more text", function()
      local server = start()
      local short = json.decode(ask(server, "m", "x").body).usage
      local long = json.decode(ask(server, "m", ("x"):rep(4000)).body).usage
      assert.is_true(long.prompt_tokens >= short.prompt_tokens + 900)
      assert.is_true(long.completion_tokens >= short.completion_tokens + 900)
    end)

    it("echo every character, however it was escaped", function()
      local server = start()
      local sent = [[{"messages":[{"role":"user","content":"first"},{"role":"user","content":]]
        .. [["q\" b\\ n\n t\t u\u00e9 \uD83D\uDE00 \ud83d! \u0001 é 😀"}],"model":"m\u002d1"}]]
      local response = curl(server.url .. "/chat/completions", sent)
      assert.equal('echo: q" b\\ n\n t\t ué 😀 \239\191\189! \1 é 😀', content(response))
      assert.equal("m-1", server:requests()[1].model)
    end)

    it("find the model at the top and the text in content parts", function()
      local server = start()
      local response = curl(server.url .. "/chat/completions", json.encode({
        messages = { { role = "user", content = { { type = "text", text = "part" } }, model = "x" } },
        model = "top",
      }))
      assert.equal("echo: part", content(response))
      assert.equal("top", json.decode(response.body).model)
    end)

    it("with what was configured for the model, or for all", function()
      local server = start({ reply = "fixed", replies = { ["model-a"] = "for a\n" } })
      assert.equal("for a\n", content(ask(server, "model-a", "hi")))
      assert.equal("fixed", content(ask(server, "model-b", "hi")))
      assert.equal("fixed", content(ask(server, "mock-topic", "hi")))
    end)

    it("from the built-in models", function()
      local server = start()
      local function mock(model, text)
        return json.decode(content(ask(server, model, text)))
      end
      assert.equal("positive", mock("mock-sentiment", "I love it, great work").label)
      assert.equal("negative", mock("mock-sentiment", "It crashes. TERRIBLE!").label)
      assert.equal("neutral", mock("mock-sentiment", "It is there").label)
      assert.equal("neutral", mock("mock-sentiment", "good and bad").label)
      assert.equal("library", mock("mock-topic", "shared libraries for images").label)
      assert.equal("daemon", mock("mock-topic", "a small print server").label)
      assert.equal("font", mock("mock-topic", "a set of serif fonts").label)
      assert.equal("game", mock("mock-topic", "arcade puzzle").label)
      assert.equal("other", mock("mock-topic", "").label)
      local score = mock("mock-topic", "command line tool").score
      assert.is_true(score > 0.5 and score < 1)
      assert.equal("a b c d e f g h i j k l",
        mock("mock-summary", " a b c\nd e f g h i j k l m n").summary)
    end)

    it("404 to unknown paths, 405 to other methods, 400 without a model", function()
      local server = start()
      local unknown = curl(server.url .. "/images/generations", "{}")
      assert.equal(404, unknown.status)
      assert.equal("invalid_request_error", error_of(unknown).type)
      local get = curl(server.url .. "/chat/completions")
      assert.equal(405, get.status)
      assert.match("Allow: POST", get.headers)
      local none = curl(server.url .. "/chat/completions", "{}")
      assert.equal(400, none.status)
      assert.match("model", error_of(none).message)
    end)

    it("to GET and HEAD /health", function()
      local server = start({ api_key = "k", faults = { { status = 500 } } })
      local url = "http://127.0.0.1:" .. server.port .. "/health"
      assert.equal("ok", curl(url).body)
      local head = curl(url, nil, "--head")
      assert.equal(200, head.status)
      assert.match("Content%-Length: 2", head.headers)
      assert.equal("", head.body)
    end)

    it("401 without the key", function()
      local server = start({ api_key = "secret-1" })
      for _, sent in ipairs({ "X: y", "Authorization: Bearer wrong", "Authorization: secret-1" }) do
        local response = ask(server, "m", "hi", "-H " .. quote(sent))
        assert.equal(401, response.status)
        assert.equal("invalid_api_key", error_of(response).code)
        assert.is_nil(response.body:find("secret-1", 1, true))
      end
      assert.equal(200, ask(server, "m", "hi", "-H 'Authorization: Bearer secret-1'").status)
    end)
  end)

  describe("scripted faults", function()
    it("come in order, then good answers", function()
      local server = start({ faults = {
        { status = 429, retry_after = 1, times = 2, message = 'slow "down"' },
        { status = 503 },
      } })
      for _ = 1, 2 do
        local limited = ask(server, "m", "hi")
        assert.equal(429, limited.status)
        assert.match("Retry%-After: 1\r\n", limited.headers)
        assert.match("retry%-after%-ms: 1000\r\n", limited.headers)
        assert.equal('slow "down"', error_of(limited).message)
        assert.equal("rate_limit_exceeded", error_of(limited).code)
      end
      local broken = ask(server, "m", "hi")
      assert.equal(503, broken.status)
      assert.equal("Service Unavailable", error_of(broken).message)
      assert.is_nil(broken.headers:find("Retry-After", 1, true))
      assert.equal(200, ask(server, "m", "hi").status)
      assert.equal(3, server:stats().faults)
    end)

    it("meet only the model that they name", function()
      local server = start({ faults = { { status = 500, model = "b" } } })
      assert.equal(200, ask(server, "a", "hi").status)
      assert.equal(500, ask(server, "b", "hi").status)
      assert.equal(200, ask(server, "b", "hi").status)
    end)

    it("can go on for ever", function()
      for _, times in ipairs({ -1, math.huge }) do
        local server = start({ faults = { { status = 500, times = times } } })
        for _ = 1, 4 do
          assert.equal(500, ask(server, "m", "hi").status)
        end
      end
    end)

    it("can be added while it runs", function()
      local server = start()
      assert.equal(200, ask(server, "m", "hi").status)
      server:fault({ status = 529 })
      assert.equal(529, ask(server, "m", "hi").status)
      assert.equal(200, ask(server, "m", "hi").status)
    end)

    with_shell(it, "reset the connection before the answer", function()
      local server = start({ faults = { { reset = "before" } } })
      local response = ask(server, "m", "hi")
      assert.equal(56, response.exit)
      assert.match("reset by peer", response.body)
      assert.is_nil(response.status)
      assert.equal(200, ask(server, "m", "hi").status)
    end)

    with_shell(it, "truncate the body", function()
      local server = start({ faults = { { truncate = 40 } } })
      local response = ask(server, "m", "hi")
      assert.equal(18, response.exit)
      assert.equal(200, response.status)
      local size = tonumber(response.headers:match("Content%-Length: (%d+)"))
      assert.is_true(size > 100)
      local client = connect(server)
      server:fault({ truncate = 40 })
      client:send(post(chat("m", "hi")))
      local all, err, part = client:receive(100000)
      assert.is_nil(all)
      assert.equal("closed", err)
      assert.equal(40, #part:match("\r\n\r\n(.*)$"))
      client:close()
    end)

    it("stall, then close", function()
      local server = start({ faults = { { stall = 0.05 } } })
      local client = connect(server)
      client:send(post(chat("m", "hi")))
      local _, err, part = client:receive(100000)
      assert.equal("closed", err)
      local size = tonumber(part:match("Content%-Length: (%d+)"))
      assert.equal(math.floor(size / 2), #part:match("\r\n\r\n(.*)$"))
      client:close()
      eventually(server, "open", 0)
      assert.equal(0, server:stats().abandoned)
    end)

    it("stall until the client closes", function()
      local server = start({ faults = { { stall = math.huge } } })
      local client = connect(server)
      client:send(post(chat("m", "hi")))
      assert.equal("HTTP/1.1 200 OK", client:receive("*l"))
      assert.equal(1, server:stats().in_flight)
      client:close()
      eventually(server, "open", 0)
      eventually(server, "in_flight", 0)
      assert.equal(1, server:stats().abandoned)
    end)

    it("answer garbage", function()
      local server = start({ faults = { { garbage = true } } })
      local response = ask(server, "m", "hi")
      assert.equal(200, response.status)
      assert.is_nil((json.decode(response.body)))
    end)

    it("delay an answer, also one with another fault", function()
      local server = start({ faults = { { delay = 0.01 }, { delay = 0.01, status = 500 } } })
      assert.equal(200, ask(server, "m", "hi").status)
      assert.equal(500, ask(server, "m", "hi").status)
      assert.equal(2, server:stats().faults)
    end)
  end)

  describe("random faults", function()
    local function outcomes(seed)
      local server = start({ seed = seed, fault_rate = 0.5, fault = { status = 500 } })
      local client, seen = connect(server), {}
      for i = 1, 64 do
        client:send(post(chat("m", "hi")))
        seen[i] = receive(client).status
      end
      client:close()
      return table.concat(seen, " "), server:stats().faults
    end

    it("are the same for the same seed", function()
      local first, faults = outcomes(7)
      assert.equal(first, (outcomes(7)))
      assert.not_equal(first, (outcomes(8)))
      assert.is_true(faults > 10 and faults < 54)
    end)

    it("are 503 by default, and wait for the script", function()
      local server = start({ fault_rate = 1, faults = { { status = 429 } } })
      assert.equal(429, ask(server, "m", "hi").status)
      assert.equal(503, ask(server, "m", "hi").status)
    end)
  end)

  describe("records", function()
    it("what it received", function()
      local server = start()
      local body = chat("m", "hi")
      curl(server.url .. "/chat/completions", body, "-H 'X-One: a' -H 'x-one: b' -H 'X-Two:  c '")
      curl(server.url .. "/other")
      local requests = server:requests()
      assert.equal(2, #requests)
      assert.equal("POST", requests[1].method)
      assert.equal("/v1/chat/completions", requests[1].path)
      assert.equal("m", requests[1].model)
      assert.equal(body, requests[1].body)
      assert.equal("a, b", requests[1].headers["x-one"])
      assert.equal("c", requests[1].headers["x-two"])
      assert.equal(requests[1].connection + 1, requests[2].connection)
      assert.is_true(requests[2].time >= requests[1].time)
      assert.equal("GET", requests[2].method)
      assert.equal("", requests[2].body)
      assert.is_nil(requests[2].model)
    end)

    it("the last ones only", function()
      local server = start({ record = 3 })
      local client = connect(server)
      for i = 1, 5 do
        client:send(post(chat("m", "hi"), "/v1/chat/completions?" .. i))
        receive(client)
      end
      client:close()
      local requests = server:requests()
      assert.equal(3, #requests)
      assert.equal("/v1/chat/completions?3", requests[1].path)
      assert.equal("/v1/chat/completions?5", requests[3].path)
      assert.equal(5, server:stats().requests)
    end)

    it("nothing when it is told so", function()
      local server = start({ record = 0 })
      ask(server, "m", "hi")
      assert.same({}, server:requests())
      assert.equal(1, server:stats().requests)
    end)

    it("how many are in flight", function()
      local server = start({ latency = 3600 })
      local clients = {}
      for i = 1, 20 do
        clients[i] = connect(server)
        clients[i]:send(post(chat("m", "hi")))
      end
      eventually(server, "in_flight", 20)
      assert.equal(20, server:stats().max_in_flight)
      assert.equal(20, server:stats().open)
      for i = 1, 5 do
        clients[i]:close()
      end
      eventually(server, "abandoned", 5)
      assert.equal(15, server:stats().in_flight)
      assert.equal(20, server:stats().max_in_flight)
      server:close()
      for i = 6, 20 do
        assert.is_nil((clients[i]:receive("*l")))
        clients[i]:close()
      end
    end)

    it("an answer before the client has it", function()
      local server = start({ latency = 0.005, jitter = 0.005 })
      local client = connect(server)
      for i = 1, 10 do
        client:send(post(chat("m", "hi")))
        receive(client)
        local stats = server:stats()
        assert.equal(0, stats.in_flight)
        assert.equal(i, stats.requests)
      end
      assert.equal(1, server:stats().max_in_flight)
      assert.equal(1, server:stats().connections)
      client:close()
    end)
  end)

  describe("speaks HTTP/1.1:", function()
    it("pipelined requests are answered in order", function()
      local server = start({ faults = { { delay = 0.02, times = 1 } } })
      local client, sent = connect(server), {}
      for i = 1, 50 do
        sent[i] = post(chat("m", "number " .. i))
      end
      client:send(table.concat(sent))
      for i = 1, 50 do
        assert.equal("echo: number " .. i, content(receive(client)))
      end
      assert.equal(1, server:stats().max_in_flight)
      client:close()
    end)

    it("a request may come byte by byte, with bare line feeds", function()
      local server = start()
      local client = connect(server)
      client:setoption("tcp-nodelay", true)
      for byte in post(chat("m", "slow")):gsub("\r\n", "\n"):gmatch(".") do
        client:send(byte)
      end
      assert.equal("echo: slow", content(receive(client)))
      client:close()
    end)

    it("a chunked body is put together", function()
      local server = start()
      local body = chat("m", "chunks")
      local client = connect(server)
      client:send("POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
      for i = 1, #body, 7 do
        local chunk = body:sub(i, i + 6)
        client:send(("%X;x=y\r\n%s\r\n"):format(#chunk, chunk))
      end
      client:send("0\r\nX-Trailer: 1\r\n\r\n" .. post(chat("m", "next")))
      assert.equal("echo: chunks", content(receive(client)))
      assert.equal("echo: next", content(receive(client)))
      assert.equal(body, server:requests()[1].body)
      client:close()
    end)

    it("Expect: 100-continue is answered", function()
      local server = start()
      local body = chat("m", "go on")
      local client = connect(server)
      client:send(("POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\n"
        .. "Content-Length: %d\r\n\r\n"):format(#body))
      assert.equal("HTTP/1.1 100 Continue", client:receive("*l"))
      assert.equal("", client:receive("*l"))
      client:send(body)
      assert.equal("echo: go on", content(receive(client)))
      client:close()
    end)

    it("a half-closed client gets its answer", function()
      local server = start({ latency = 0.02 })
      local client = connect(server)
      client:send(post(chat("m", "one")) .. post(chat("m", "two")))
      client:shutdown("send")
      assert.equal("echo: one", content(receive(client)))
      assert.equal("echo: two", content(receive(client)))
      assert.is_nil((client:receive("*l")))
      client:close()
    end)

    it("Connection: close and HTTP/1.0 are heeded", function()
      local server = start()
      for _, head in ipairs({ "HTTP/1.1\r\nConnection: close", "HTTP/1.0" }) do
        local client = connect(server)
        client:send("GET /health " .. head .. "\r\n\r\n")
        local response = receive(client)
        assert.equal("ok", response.body)
        assert.equal("close", response.headers.connection)
        assert.is_nil((client:receive("*l")))
        client:close()
      end
    end)

    with_shell(it, "a large body passes through", function()
      local server = start()
      local name = os.tmpname()
      local file = assert(io.open(name, "wb"))
      local text = ("x"):rep(8 * 1024 * 1024)
      file:write(chat("m", text))
      file:close()
      local body = shell("LD_PRELOAD= curl -sS " .. server.url .. "/chat/completions --data-binary @" .. name)
      os.remove(name)
      assert.is_true(content({ body = body }) == "echo: " .. text)
    end)

    it("what is malformed or too large is refused", function()
      local server = start()
      local refused = {
        ["GET /" .. ("x"):rep(70000)] = 431,
        ["GET / HTTP/1.1\r\nX: " .. ("x"):rep(70000)] = 431,
        ["GET / HTTP/1.1\r\n" .. ("X: y\r\n"):rep(20000)] = 431,
        ["POST / HTTP/1.1\r\nContent-Length: 67108865\r\n\r\n"] = 413,
        ["POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n"] = 413,
        ["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4000001\r\n"] = 413,
        ["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n"] = 400,
        ["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"] = 400,
        ["POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"] = 501,
        ["POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"] = 400,
        ["POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"] = 400,
        ["GET / HTTP/1.1\r\nno colon\r\n\r\n"] = 400,
        ["GET / HTTP/1.1\r\nName : x\r\n\r\n"] = 400,
        ["GET / HTTP/2.0\r\n\r\n"] = 505,
        ["hello\r\n"] = 400,
        ["\22\3\1\2\0\1\0\n"] = 400,
      }
      local count = 0
      for bytes, status in pairs(refused) do
        local client = connect(server)
        client:send(bytes)
        assert.equal(status, receive(client).status, bytes:sub(1, 80))
        client:close()
        count = count + 1
      end
      assert.equal(count, server:stats().rejected)
      assert.equal(0, server:stats().requests)
      eventually(server, "open", 0)
    end)
  end)

  with_shell(it, "serves 200 connections at once", function()
    local server = start({ latency = 0.05, jitter = 0.05 })
    local output = shell(("LD_PRELOAD= curl --no-progress-meter --parallel --parallel-immediate"
      .. " --parallel-max 200 -o /dev/null -w '%%{http_code}\\n' --data-binary %s"
      .. " '%s/chat/completions?[1-200]'"):format(quote(chat("m", "hi")), server.url))
    local _, good = output:gsub("200\n", "")
    assert.equal(200, good)
    local stats = server:stats()
    assert.equal(200, stats.requests)
    assert.equal(0, stats.in_flight)
    assert.equal(0, stats.rejected)
  end)

  describe("life", function()
    it("has a port and a URL", function()
      local server = start()
      assert.equal("http://127.0.0.1:" .. server.port .. "/v1", server.url)
      assert.equal("http://127.0.0.1:" .. server.port, server.origin)
      assert.is_nil(server.nothing)
      assert.equal("weft.testing.server (" .. server.url .. ")", tostring(server))
    end)

    it("returns nil and why when the port is taken", function()
      local server = start()
      local second, err = testing.model_server({ port = server.port })
      assert.is_nil(second)
      assert.equal("cannot listen on 127.0.0.1:" .. server.port .. ": Address already in use", err)
    end)

    it("gives its port back", function()
      local first = start()
      ask(first, "m", "hi")
      first:close()
      assert.equal(first.port, start({ port = first.port }).port)
    end)

    it("ends with connections open, and closes once", function()
      local server = start({ faults = { { stall = math.huge }, { delay = 3600 } } })
      local idle, waiting, stalled = connect(server), connect(server), connect(server)
      stalled:send(post(chat("m", "hi")))
      assert.equal("HTTP/1.1 200 OK", stalled:receive("*l"))
      waiting:send(post(chat("m", "hi")))
      idle:send("POST /v1/ch")
      eventually(server, "in_flight", 2)
      eventually(server, "open", 3)
      server:close()
      server:close()
      for _, client in ipairs({ idle, waiting, stalled }) do
        client:receive("*a")
        client:close()
      end
      assert.has_error(function() server:stats() end, "the model server is closed")
      assert.has_error(function() server:requests() end, "the model server is closed")
      assert.has_error(function() server:fault({ status = 500 }) end, "the model server is closed")
      assert.has_error(function() server:join(0) end, "the model server is closed")
    end)

    it("ends when it is collected", function()
      local port
      do
        port = testing.model_server().port
      end
      collectgarbage()
      collectgarbage()
      assert.is_nil((socket.connect("127.0.0.1", port)))
    end)

    if _VERSION ~= "Lua 5.1" then
      it("ends with its scope on Lua 5.4", function()
        local scope = assert(load([[
          local testing = ...
          local server <close> = testing.model_server()
          return server
        ]]))
        assert.has_error(function() scope(testing):stats() end, "the model server is closed")
      end)
    end

    it("joins for a time", function()
      local server = start()
      assert.is_nil((server:join(0.01)))
      assert.has_error(function() server:join(-1) end,
        "bad argument 'seconds' to server:join: expected a number of seconds >= 0, got -1")
    end)
  end)
end)
