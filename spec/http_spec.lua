-- Requests over real sockets: to the model server, and to a listener of this script's for what that one
-- would never send.

local calls = require "spec.support.calls"
local json = require "weft.json"
local leaks = require "spec.support.leaks"
local listeners = require "spec.support.listeners"
local models = require "spec.support.models"
local weft = require "weft"

local raised = calls.raised
local start, eventually, counter = models.server, models.eventually, models.counter

local http = weft.http

local function root(server)
  return "http://127.0.0.1:" .. server.port
end

local function chat(text)
  return { model = "m", messages = { { role = "user", content = text } } }
end

local function ask(server, text, options)
  local given = { json = chat(text) }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return http.post(server.url .. "/chat/completions", given)
end

local function content(res)
  return assert(res:json()).choices[1].message.content
end

local function transfers()
  return weft.stats().transfers
end

local function listen()
  local listener, url = listeners.open()
  return listener, url .. "/path?query=secret"
end

-- A task asks this script, which answers with these bytes. Returns what the task returned, and the
-- lines of the request's head.
local function exchange(bytes, options)
  local listener, url = listen()
  local group = weft.group()
  local task = group:go(function(_, at, given)
    return http.get(at, given)
  end, url, options)
  local client = assert(listener:accept())
  client:settimeout(20)
  local head = assert(listeners.read_head(client))
  client:send(bytes)
  client:close()
  local res, err = task:wait()
  group:close()
  return res, err, head
end

describe("weft.http", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    listeners.stop()
    leaks.after()
  end)

  describe("answers", function()
    it("a script", function()
      local server = start()
      local res = assert(http.get(root(server) .. "/health"))
      assert.equal(200, res.status)
      assert.equal("ok", res.body)
      assert.equal("text/plain", res.headers["content-type"])
      assert.equal("weft.http response: status 200, 2 bytes", tostring(res))
    end)

    it("whose fields can be listed", function()
      local res = assert(http.get(root(start()) .. "/health"))
      if _VERSION == "Lua 5.1" then
        local _ = res.headers and res.timings -- LuaJIT does not ask __pairs
      end
      local names = {}
      for name in pairs(res) do
        names[#names + 1] = name
      end
      table.sort(names)
      assert.same({ "body", "headers", "status", "timings" }, names)
      assert.is_nil(res.nothing)
    end)

    it("which JSON holds whole, although nobody has asked for its headers", function()
      local res = json.decode(json.encode(assert(http.get(root(start()) .. "/health"))))
      assert.equal("text/plain", res.headers["content-type"])
      assert.equal(2, res.timings.received)
      assert.is_nil(res._head)
    end)

    it("with timings", function()
      local server = start()
      local first = assert(http.get(root(server) .. "/health")).timings
      assert.is_true(first.total >= first.first_byte and first.first_byte >= first.connected)
      assert.is_true(first.connected >= first.launched and first.launched > 0)
      assert.is_false(first.reused)
      assert.equal(2, first.received)
      local second = assert(ask(server, "x")).timings
      assert.is_true(second.reused)
      assert.equal(#server:requests()[2].body, second.sent)
    end)

    it("tasks, which may return them", function()
      local server = start()
      local url = root(server) .. "/health"
      local group = weft.group()
      for _ = 1, 3 do
        group:go(function() return http.get(url) end)
      end
      local results = assert(group:wait())
      assert.equal("ok", results[3].body)
      assert.match("^weft.http response", tostring(results[1]))
      assert.equal("text/plain", results[1].headers["content-type"])
      assert.is_true(results[1].timings.total > 0)
      assert.equal(results[1].headers, results[1].headers)
      local bad, err = results[2]:json()
      assert.is_nil(bad)
      assert.equal("bad_reply", err.kind)
    end)

    -- LuaJIT: a hook can raise between a call that has to wait and its yield. The task goes on, with another
    -- wait in the same memory, before the answer to the first is collected.
    it("that come to a task which has left the call, and are collected later", function()
      if _VERSION ~= "Lua 5.1" then
        return
      end
      local url, ch, flags = root(start()) .. "/health", weft.channel(0), weft.dict()
      local group, inner = weft.group(), weft.group { pool = weft.inline }
      group:go(function()
        repeat until flags:get "left"
        http.get(url)
        flags:set("come", true) -- that answer is later than the first
      end)
      local received
      jit.off() -- compiled code runs no hooks
      jit.flush()
      inner:go(function()
        debug.sethook(function()
          local called = debug.getinfo(2, "nS")
          if called.name == "wait" and called.source == "=weft" then
            error("thrown out")
          end
        end, "c")
        local ok, err
        for _ = 1, 100 do -- an answer that is there at once leaves nothing to wait for
          ok, err = pcall(http.get, url)
          if not ok then break end
        end
        debug.sethook()
        jit.on()
        assert.is_false(ok)
        assert.match("thrown out", tostring(err))
        repeat until weft.stats().http.in_flight == 0
        flags:set("left", true)
        repeat until flags:get "come"
        received = ch:recv()
      end)
      inner:go(function()
        collectgarbage()
        collectgarbage()
        assert(ch:send("one"))
        assert.is_false((ch:try_send("two")))
      end)
      assert(inner:wait())
      assert(group:wait())
      assert.equal("one", received)
    end)

    it("whatever their status", function()
      local server = start({ faults = { { status = 503 }, { status = 404 } } })
      local res = assert(ask(server, "x"))
      assert.equal(503, res.status)
      assert.equal("Service Unavailable", res:json().error.message)
      assert.equal(404, assert(ask(server, "x")).status)
    end)

    it("many at once over connections that are used again", function()
      local server = start({ latency = 0.01 })
      local url = server.url .. "/chat/completions"
      local group = weft.group(nil, { limit = 20 })
      for i = 1, 100 do
        group:go(function(_, number)
          local res = assert(http.post(url, { json = chat("number " .. number) }))
          return assert(res:json()).choices[1].message.content
        end, i)
      end
      local results = assert(group:wait())
      for i = 1, 100 do
        assert.equal("echo: number " .. i, results[i])
      end
      assert.equal(100, server:stats().requests)
      assert.is_true(server:stats().connections <= 20)
      assert.is_true(server:stats().max_in_flight > 1)
    end)

    it("tasks of the script itself", function()
      local server = start()
      local url, seen = root(server) .. "/health", 0
      local group = weft.group(nil, { pool = weft.inline })
      for _ = 1, 5 do
        group:go(function()
          local res = assert(http.get(url))
          seen = seen + #res.body
        end)
      end
      assert(group:wait())
      assert.equal(10, seen)
    end)

    it("with large bodies both ways", function()
      local server = start()
      local text = ("0123456789abcdef"):rep(256 * 1024)
      assert.is_true(content(assert(ask(server, text))) == "echo: " .. text)
    end)

    it("with headers by lower-case names, repeated ones joined", function()
      local res = assert(exchange("HTTP/1.1 200 OK\r\nX-One: a\r\nSet-Cookie: x=1\r\nx-one:b\r\n"
        .. "X-ONE:  c \r\nset-cookie: y=2\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"))
      assert.same({ ["x-one"] = "a, b, c", ["set-cookie"] = "x=1, y=2", ["x-empty"] = "",
        ["content-length"] = "0" }, res.headers)
      assert.equal("", res.body)
    end)

    it("with any bytes in the body", function()
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      local body = table.concat(bytes)
      local res = assert(exchange("HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n" .. body))
      assert.is_true(res.body == body)
    end)

    it("as redirects, which are not followed", function()
      local res = assert(exchange("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"))
      assert.equal(302, res.status)
      assert.equal("/x", res.headers.location)
    end)
  end)

  describe("sends", function()
    it("JSON", function()
      local server = start()
      assert.equal("echo: é\n", content(assert(ask(server, "é\n"))))
      local sent = server:requests()[1]
      assert.equal("POST", sent.method)
      assert.equal("application/json", sent.headers["content-type"])
      assert.same(chat("é\n"), json.decode(sent.body))
    end)

    it("its own name and headers", function()
      local server = start()
      local url = root(server) .. "/health"
      http.get(url)
      http.get(url, { headers = { ["User-Agent"] = "x", ["X-List"] = { "a", 5 }, ["X-Number"] = 2 } })
      local sent = server:requests()
      assert.match("^weft/%d", sent[1].headers["user-agent"])
      assert.equal("x", sent[2].headers["user-agent"])
      assert.equal("a, 5", sent[2].headers["x-list"])
      assert.equal("2", sent[2].headers["x-number"])
    end)

    it("the content type that it is told", function()
      local server = start()
      ask(server, "x", { headers = { ["content-type"] = "application/x" } })
      assert.equal("application/x", server:requests()[1].headers["content-type"])
    end)

    it("a body as it is, with any method", function()
      local server = start()
      local url = root(server) .. "/x"
      http.request({ url = url, body = "a\0b" })
      http.request({ url = url, body = "", method = "put" })
      http.request({ url = url, method = "DELETE" })
      http.request({ url = url })
      local sent = server:requests()
      assert.same({ "POST", "PUT", "DELETE", "GET" },
        { sent[1].method, sent[2].method, sent[3].method, sent[4].method })
      assert.equal("a\0b", sent[1].body)
      assert.is_nil(sent[1].headers["content-type"])
    end)

    it("an offer of compression, unless told otherwise", function()
      local answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
      local _, _, head = exchange(answer)
      assert.match("\nAccept%-Encoding: [^\n]*gzip", table.concat(head, "\n"))
      _, _, head = exchange(answer, { decompress = false })
      assert.is_nil(table.concat(head, "\n"):find("Accept-Encoding", 1, true))
    end)
  end)

  describe("returns nil and an error", function()
    local function fails(kind, res, err)
      assert.is_nil(res)
      assert.equal(kind, err.kind)
      assert.is_nil(err.status)
      assert.is_nil(tostring(err):find("secret", 1, true))
      return err
    end

    it("when nobody listens", function()
      local listener, url = listen()
      listener:close()
      assert.match("GET http://127.0.0.1:%d+/path: ", fails("network", http.get(url)).message)
    end)

    it("when the connection is reset", function()
      fails("network", ask(start({ faults = { { reset = "before" } } }), "x"))
    end)

    it("when the body is cut short", function()
      fails("network", ask(start({ faults = { { truncate = 20 } } }), "x"))
    end)

    it("when the time is over", function()
      local server = start({ faults = { { stall = math.huge, times = 2 } } })
      local err = fails("timeout", ask(server, "x", { timeout = 0.05 }))
      assert.match("total took over 0.05 s; status 200 and %d+ bytes of the body had arrived", err.message)
      assert.same({ "total", 0.05, 28, true }, { err.timeout, err.seconds, err.code, err.sent })
      err = fails("timeout", ask(server, "x", { timeout = { idle = 0.05, connect = 5 } }))
      assert.equal("idle", err.timeout)
    end)

    it("when the answer is too large", function()
      local server = start()
      fails("too_large", ask(server, ("x"):rep(1000), { max_body = 500 }))
      assert.equal(200, assert(ask(server, "x", { max_body = 1000 })).status)
      fails("too_large", exchange("HTTP/1.1 200 OK\r\nX: " .. ("x"):rep(3000) .. "\r\n\r\n", { max_header = 2000 }))
    end)

    it("when the answer is not HTTP", function()
      fails("protocol", exchange("SSH-2.0-OpenSSH_9.2\r\n"))
    end)

    it("when TLS is not spoken", function()
      local server = start()
      fails("tls", http.get("https://127.0.0.1:" .. server.port .. "/"))
    end)

    it("when the request cannot be sent", function()
      fails("invalid", http.get("ftp://127.0.0.1/"))
      fails("invalid", http.get("http://127.0.0.1/\r\nX: secret"))
      fails("invalid", http.get("http://127.0.0.1/", { headers = { x = "secret\r\ny: z" } }))
      fails("invalid", http.get("http://127.0.0.1/", { headers = { ["secret key"] = "x" } }))
      fails("invalid", http.get("http://127.0.0.1/", { headers = { ["Content-Length"] = 5 } }))
    end)

    it("in tasks too", function()
      local server = start({ faults = { { reset = "before" } } })
      local url = server.url .. "/chat/completions"
      local group = weft.group()
      group:go("asks", function() return http.post(url, { json = chat("x") }) end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.equal("network", err.kind)
      assert.equal("asks", err.task)
    end)
  end)

  describe("when the context is done", function()
    -- A task whose request is on its way when the group is cancelled; returns what its pcall returned.
    local function cancel_in_flight(options, end_group)
      local server = start({ latency = 3600 })
      local url = server.url .. "/chat/completions"
      local group = weft.group(nil, options)
      local task = group:go(function()
        local ok, err = pcall(http.post, url, { json = chat("x") })
        local again, second = pcall(http.post, url, { json = chat("x") })
        return { ok = ok, err = err, again = again, second = second }
      end)
      if options and options.pool == weft.inline then
        weft.sleep(0) -- lets it start
      end
      eventually(counter(server, "in_flight"), 1)
      end_group(group, task)
      local outcome = task:wait()
      group:close()
      eventually(counter(server, "abandoned"), 1)
      assert.equal(1, server:stats().requests) -- the second call sent nothing
      return outcome
    end

    it("the transfer is aborted and the call raises", function()
      for _, pool in ipairs({ weft.default_pool(), weft.inline }) do
        local outcome = cancel_in_flight({ pool = pool }, function(group) group:cancel("enough") end)
        assert.is_false(outcome.ok)
        assert.equal("canceled", outcome.err.kind)
        assert.match("enough", outcome.err.message)
        assert.is_false(outcome.again)
        assert.equal("canceled", outcome.second.kind)
      end
    end)

    it("a single task can be cancelled", function()
      local outcome = cancel_in_flight(nil, function(_, task) task:cancel() end)
      assert.equal("canceled", outcome.err.kind)
    end)

    it("a deadline raises an error of that kind", function()
      local server = start({ latency = 3600 })
      local url = server.url .. "/chat/completions"
      local ctx = weft.background():with_timeout(0.05)
      local group = weft.group(ctx)
      group:go(function() return http.post(url, { json = chat("x") }) end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.equal("deadline", err.kind)
      group:close()
      eventually(counter(server, "in_flight"), 0)
    end)

    it("a group of many leaves nothing behind", function()
      local server = start({ latency = 3600 })
      local url = server.url .. "/chat/completions"
      local group = weft.group()
      for _ = 1, 50 do
        group:go(function() return http.post(url, { json = chat("x") }) end)
      end
      eventually(counter(server, "in_flight"), 50)
      group:close()
      eventually(counter(server, "abandoned"), 50)
      eventually(transfers, 0)
    end)
  end)

  describe("misuse", function()
    local function refuses(message, options)
      options.url = options.url or "http://127.0.0.1:1/"
      local err = raised(function() http.request(options) end)
      assert.equal(message, (err:gsub("^.-http_spec.lua:%d+: ", "")))
      assert.match("^[^\n]*http_spec.lua:%d+: ", err)
    end
    local of = " to weft.http.request: "

    it("of options is named", function()
      refuses("bad option 'metod'" .. of .. "known are body, buffer, ca_file, cert_file, decompress, headers, "
        .. "http2, json, key_file, key_password, limiter, max_body, max_header, method, proxy, redirects, retry, stream, "
        .. "timeout, url", { metod = "GET" })
      refuses("bad option '1'" .. of .. "known are body, buffer, ca_file, cert_file, decompress, headers, "
        .. "http2, json, key_file, key_password, limiter, max_body, max_header, method, proxy, redirects, retry, stream, "
        .. "timeout, url", { "x" })
      refuses("bad argument 'url'" .. of .. "expected a string, got 5", { url = 5 })
      refuses("bad argument 'method'" .. of .. "expected a string that is not empty, got string", { method = "" })
      refuses("bad argument 'body'" .. of .. "expected a string, got table", { body = {} })
      refuses("bad argument 'ca_file'" .. of .. "expected a string, got boolean", { ca_file = true })
      refuses("bad argument 'decompress'" .. of .. "expected a boolean, got 1", { decompress = 1 })
    end)

    it("of times and sizes is named", function()
      local seconds = of .. "expected a number of seconds > 0 and <= 4e6, or a table of them, got "
      for shown, value in pairs({ ["0"] = 0, ["-1"] = -1, ["nan"] = 0 / 0, ["1e+300"] = 1e300, ["string"] = "1" }) do
        refuses("bad argument 'timeout'" .. seconds .. shown, { timeout = value })
      end
      refuses("bad argument 'timeout.connect'" .. of .. "expected a number of seconds > 0 and <= 4e6, got nan",
        { timeout = { connect = 0 / 0 } })
      refuses("bad option 'timeout.read'" .. of .. "known are attempt, connect, first_byte, idle, total", { timeout = { read = 1 } })
      for shown, value in pairs({ ["0"] = 0, ["1.5"] = 1.5, ["inf"] = math.huge, ["nan"] = 0 / 0 }) do
        refuses("bad argument 'max_body'" .. of .. "expected a whole number of bytes >= 1, got " .. shown,
          { max_body = value })
      end
    end)

    it("of headers is named", function()
      local expected = of .. "expected a string, a number or a list of them, got "
      refuses("bad argument 'headers'" .. of .. "expected a table, got string", { headers = "x" })
      refuses("bad argument 'headers'" .. of .. "expected names that are strings, got 1", { headers = { "x" } })
      refuses("bad argument 'headers.x'" .. expected .. "boolean", { headers = { x = true } })
      refuses("bad argument 'headers.x'" .. expected .. "table", { headers = { x = { {} } } })
    end)

    it("of json is named", function()
      refuses("bad argument 'json.a[1]'" .. of .. "JSON cannot hold a function", { json = { a = { print } } })
      refuses("bad argument 'json'" .. of .. "there is a body already", { json = 1, body = "x" })
    end)

    it("of get and post is named", function()
      assert.match("bad argument 'url' to weft.http.get: expected a string, got table", raised(http.get, {}))
      assert.match("bad option 'url' to weft.http.post", raised(http.post, "http://x", { url = "x" }))
      assert.match("bad argument 'options' to weft.http.request: expected a table, got string",
        raised(http.request, "http://x"))
    end)

    it("shows no string, which may be a key in the wrong place", function()
      for _, options in ipairs({ { timeout = "sk-1" }, { headers = "sk-1" }, { max_body = "sk-1" } }) do
        options.url = "http://x"
        assert.is_nil(raised(http.request, options):find("sk-1", 1, true))
      end
    end)

    it("of the core's options for two calls at once is refused", function()
      local server = start({ latency = 3600 })
      local core = require "weft.core"
      local url = server.url .. "/chat/completions"
      local group = weft.group(nil, { pool = weft.inline })
      local options = { url = url, method = "POST", body = json.encode(chat("x")) }
      group:go(function() return core.http_request(options, {}) end)
      weft.sleep(0)
      assert.match("in use by a call that runs", raised(core.http_request, options, {}))
      group:close()
    end)
  end)
end)
