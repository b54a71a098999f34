-- Clients: what they send, whom they send it to, and when they try again. The model server answers, or a listener of
-- this script's.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local listeners = require "spec.support.listeners"
local models = require "spec.support.models"
local weft = require "weft"

local message_of = calls.message_of
local listen, read_head = listeners.open, listeners.read_head
local start = models.server

local http = weft.http

local function root(server)
  return "http://127.0.0.1:" .. server.port
end

local CHAT = { model = "m", messages = { { role = "user", content = "x" } } }

local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

-- A task runs fn(url) while this script answers one request after the other on connections of their own. Returns
-- what the task returned, and the requests' heads.
local function serve(answers, fn)
  local listener, url = listen()
  local group = weft.group()
  local task = group:go(function(_, at, work) return work(at) end, url, fn)
  local heads = {}
  for i, answer in ipairs(answers) do
    local client = assert(listener:accept())
    client:settimeout(20)
    heads[i] = table.concat(read_head(client) or {}, "\n")
    client:send((answer:gsub("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)))
    client:close()
  end
  local res, err = task:wait()
  group:close()
  return res, err, heads
end

local function status(number, headers)
  return ("HTTP/1.1 %d X\r\n%sContent-Length: 0\r\n\r\n"):format(number, headers or "")
end

local FAST = { attempts = 3, base = 0.001 }

describe("weft.http.client", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    listeners.stop()
    leaks.after()
  end)

  describe("sends", function()
    it("its headers, and those of the call in their place", function()
      local server = start()
      local api = http.client { base_url = root(server), headers = { ["X-Key"] = "k1", Accept = "a", ["X-Off"] = 1 } }
      assert(api:get("/health"))
      assert(api:get("/health", { headers = { ["x-key"] = "k2", ["X-Off"] = false, ["X-New"] = { 1, 2 } } }))
      assert(api:get("/health"))
      local sent = server:requests()
      assert.same({ "k1", "a", "1" }, { sent[1].headers["x-key"], sent[1].headers.accept, sent[1].headers["x-off"] })
      assert.same({ "k2", "a", "1, 2" }, { sent[2].headers["x-key"], sent[2].headers.accept, sent[2].headers["x-new"] })
      assert.is_nil(sent[2].headers["x-off"])
      assert.same({ "k1", nil }, { sent[3].headers["x-key"], sent[3].headers["x-new"] })
    end)

    it("every method", function()
      local server = start()
      local api = http.client { base_url = root(server) }
      for _, name in ipairs { "get", "post", "put", "patch", "delete", "head" } do
        assert(api[name](api, "/x"))
        assert(http[name](root(server) .. "/y"))
      end
      assert(api:request { url = "/z", method = "options" })
      local methods = {}
      for i, request in ipairs(server:requests()) do
        methods[i] = request.method
      end
      assert.equal("GET GET POST POST PUT PUT PATCH PATCH DELETE DELETE HEAD HEAD OPTIONS", table.concat(methods, " "))
    end)

    it("to base_url and below it", function()
      local server = start()
      for base, path in pairs { [""] = "/v1/models", ["/v1"] = "models", ["/v1/"] = "/models", ["/v1/models"] = "" } do
        local api = http.client { base_url = root(server) .. base }
        assert.equal(200, assert(api:get(path)).status)
        assert.equal(200, assert(api:get(root(server) .. "/health")).status)
      end
      for _, request in ipairs(server:requests()) do
        assert.is_truthy(request.path == "/v1/models" or request.path == "/health")
      end
    end)

    it("nothing to another host", function()
      local api = http.client { base_url = "http://127.0.0.1:1/v1", headers = { ["X-Key"] = "secret" } }
      for _, url in ipairs { "http://127.0.0.1:2/", "https://127.0.0.1:1/", "http://user@localhost:1/", "ftp://x/" } do
        local message = message_of(api.get, api, url)
        assert.match("bad argument 'url' to client:get: expected a path, or a URL with scheme, host and port of base_url",
          message)
        assert.is_nil(message:find("secret", 1, true))
      end
    end)

    it("redirected requests within the origin", function()
      local res, _, heads = serve({ status(307, "Location: /b?c\r\n"), OK }, function(url)
        return http.client({ base_url = url, redirects = 2, headers = { ["X-Key"] = "k" } }):put("/a", { body = "x" })
      end)
      assert.same({ 200, 1 }, { res.status, res.timings.redirects })
      assert.match("^PUT /b%?c HTTP/1.1\n.*X%-Key: k", heads[2])
      local _, err = serve({ status(302, "Location: http://127.0.0.2/\r\n") }, function(url)
        return http.client({ base_url = url, redirects = 2 }):get("/a")
      end)
      assert.equal("redirect", err.kind)
      assert.match("was not followed: its scheme, host or port is another", err.message)
    end)

    it("through a proxy by option", function()
      local server = start()
      local api = http.client { proxy = root(server), base_url = "http://somewhere.invalid" }
      assert.equal(200, assert(api:get("/health")).status)
      local _, err = api:get("/health", { proxy = false, timeout = 20 })
      assert.equal("network", err.kind)
      _, err = http.get("http://x.invalid", { proxy = "http://me:secret@127.0.0.1:1" })
      assert.equal("network", err.kind)
      assert.is_nil(tostring(err):find("secret", 1, true))
      _, err = http.get("http://x.invalid", { proxy = "me:secret@:::" })
      assert.equal("invalid", err.kind)
      assert.is_nil(tostring(err):find("secret", 1, true))
    end)
  end)

  describe("crosses", function()
    it("to tasks, with its limits", function()
      local server = start { latency = 0.005 }
      local api = http.client { base_url = server.url, headers = { ["X-Key"] = "k" }, limits = { total = 3, per_host = 2 } }
      local group = weft.group()
      for _ = 1, 20 do
        group:go(function() return assert(api:post("/chat/completions", { json = CHAT })).status end)
      end
      local results = assert(group:wait())
      for i = 1, 20 do
        assert.equal(200, results[i])
      end
      assert.is_true(server:stats().max_in_flight <= 2)
      assert.equal("k", server:requests()[20].headers["x-key"])
      group:close()
    end)

    it("and comes back", function()
      local server = start()
      local api = http.client { base_url = root(server), limits = { total = 1 } }
      local group = weft.group()
      local task = group:go(function() return api end)
      assert.equal("ok", assert(task:wait():get("/health")).body)
      group:close()
    end)

    it("as what it is: it cannot be changed, and shows no header", function()
      local api = http.client { base_url = "https://example.org/v1", headers = { ["X-Key"] = "secret" } }
      assert.equal("weft.http client: https://example.org", tostring(api))
      assert.match("a client cannot be changed", message_of(function() api.headers2 = {} end))
    end)
  end)

  describe("limits", function()
    it("of a call go before those of the client, each by itself", function()
      local server = start { latency = 3600 }
      local api = http.client { base_url = server.url, timeout = { first_byte = 0.02, total = 100 } }
      local _, err = api:post("/chat/completions", { json = CHAT })
      assert.same({ "timeout", "first_byte", 0.02, true, 0 },
        { err.kind, err.timeout, err.seconds, err.sent, err.received })
      _, err = api:post("/chat/completions", { json = CHAT, timeout = { first_byte = 100, attempt = 0.02 } })
      assert.equal("attempt", err.timeout)
      _, err = api:post("/chat/completions", { json = CHAT, timeout = { first_byte = 50, total = 0.02 } })
      assert.equal("total", err.timeout)
    end)

    it("of the body hold for what comes out of the decompression", function()
      local server = start { faults = { { gzip_bomb = 50 * 1024 * 1024 } } }
      local before = collectgarbage "count"
      local api = http.client { base_url = server.url, max_body = 1024 * 1024 }
      local _, err = api:post("/chat/completions", { json = CHAT })
      assert.equal("too_large", err.kind)
      assert.is_true(err.received <= 1024 * 1024 + 65536)
      assert.is_true(collectgarbage "count" - before < 4096)
    end)
  end)

  describe("with retry", function()
    local function client(url, retry, more)
      local given = { base_url = url, retry = retry }
      for name, value in pairs(more or {}) do
        given[name] = value
      end
      return http.client(given)
    end

    it("tries again what may pass, and counts", function()
      local res, _, heads = serve({ status(503), status(500), OK }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):get("/a")
      end)
      assert.same({ 200, 3, 3 }, { res.status, res.attempts, #heads })
    end)

    it("returns the last answer, whatever it is", function()
      local res = serve({ status(503), status(503), status(503) }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):get("/a")
      end)
      assert.same({ 503, 3 }, { res.status, res.attempts })
      res = serve({ status(404) }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):get("/a")
      end)
      assert.same({ 404, 1 }, { res.status, res.attempts })
    end)

    it("heeds what the server says", function()
      local res = serve({ status(404, "x-should-retry: true\r\n"), status(503, "x-should-retry: false\r\n") }, function(url)
        return client(url, { attempts = 9, base = 0.001 }):get("/a")
      end)
      assert.same({ 503, 2 }, { res.status, res.attempts })
      res = serve({ status(429, "retry-after: 500\r\n") }, function(url)
        return client(url, { attempts = 9, base = 0.001 }):get("/a")
      end)
      assert.same({ 429, 1 }, { res.status, res.attempts })
    end)

    it("does not do again what may have been done", function()
      local res = serve({ status(500) }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):post("/a", { body = "x" })
      end)
      assert.same({ 500, 1 }, { res.status, res.attempts })
      res = serve({ status(503), status(429), OK }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):post("/a", { body = "x" })
      end)
      assert.same({ 200, 3 }, { res.status, res.attempts })
      local server = start { faults = { { reset = "before", times = 5 } } }
      local _, err = client(server.url, FAST):post("/chat/completions", { json = CHAT })
      assert.same({ "network", true, 1 }, { err.kind, err.sent, server:stats().requests })
    end)

    it("but with an idempotency key, which stays the same", function()
      local res, _, heads = serve({ status(500), OK }, function(url)
        return client(url, { attempts = 3, base = 0.001, idempotency_key = true }):post("/a", { body = "x" })
      end)
      assert.equal(2, res.attempts)
      local key = heads[1]:match "\nIdempotency%-Key: (%S+)"
      assert.equal(key, heads[2]:match "\nIdempotency%-Key: (%S+)")
      res = serve({ status(500), OK }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):post("/a", { headers = { ["idempotency-key"] = "mine" } })
      end)
      assert.equal(2, res.attempts)
    end)

    it("what was never sent is tried again, with any method", function()
      local listener, url = listen()
      listener:close()
      local _, err = client(url, FAST):post("/a", { body = "x" })
      assert.same({ "network", false, 3 }, { err.kind, err.sent, #err.attempts })
    end)

    it("stays within the total", function()
      local server = start { faults = { { status = 503, times = 99 } } }
      local api = client(server.url, { attempts = 99, base = 3600, cap = 3600 }, { timeout = 60 })
      local res = assert(api:post("/chat/completions", { json = CHAT }))
      assert.same({ 503, 1 }, { res.status, res.attempts })
      server = start { latency = 3600 }
      local started = weft.now()
      local _, err = client(server.url, { attempts = 99, base = 0.001, idempotency_key = true },
        { timeout = { first_byte = 0.02, total = 0.1 } }):post("/chat/completions", { json = CHAT })
      assert.equal("timeout", err.kind)
      assert.is_true(weft.now() - started < 10)
    end)

    it("streams are tried again before they are read", function()
      local server = start { faults = { { status = 503 } } }
      local res = assert(client(server.url, FAST):post("/chat/completions", { json = CHAT, stream = true }))
      assert.same({ 200, 2 }, { res.status, res.attempts })
      assert.equal("echo: x", assert(res:json()).choices[1].message.content)
    end)

    it("a call can do without", function()
      local res = serve({ status(503) }, function(url)
        return client(url, { attempts = 3, base = 0.001 }):get("/a", { retry = false })
      end)
      assert.same({ 503 }, { res.status, res.attempts })
    end)
  end)

  describe("with a limiter", function()
    it("waits before each attempt", function()
      local server = start { faults = { { status = 503 } } }
      local bucket = weft.limiter { rate = 0.001, burst = 2 }
      local api = http.client { base_url = server.url, limiter = bucket, retry = FAST }
      local res = assert(api:post("/chat/completions", { json = CHAT }))
      assert.same({ 200, 2, false }, { res.status, res.attempts, bucket:allow() })
      assert.equal(200, assert(api:post("/chat/completions", { json = CHAT, limiter = false })).status)
    end)

    it("raises what that raises, and tries nothing again", function()
      local waits = 0
      local api = http.client { base_url = "http://127.0.0.1:1", retry = FAST, limiter = { wait = function()
        waits = waits + 1
        error("my mistake", 0)
      end } }
      assert.equal("my mistake", message_of(api.get, api, "/a"))
      assert.equal(1, waits)
    end)

    it("returns its error, and takes anything that can wait", function()
      local calls = 0
      local limiter = { wait = function()
        calls = calls + 1
        return nil, { kind = "busy" }
      end }
      local _, err = http.get("http://127.0.0.1:1/", { limiter = limiter })
      assert.same({ "busy", 1 }, { err.kind, calls })
    end)
  end)

  describe("misuse", function()
    local function refuses(message, options)
      assert.match("^[^\n]*http_client_spec.lua:%d+: " .. message, message_of(function() http.client(options) end))
    end

    it("of options is named", function()
      local of = " to weft.http.client: "
      refuses("bad option 'body'" .. of .. "known are base_url, ", { body = "x" })
      refuses("bad argument 'base_url'" .. of .. "expected http:// or https://, a host, and a path at most, got string",
        { base_url = "example.org" })
      refuses("bad argument 'base_url'", { base_url = "http://x/?q" })
      refuses("bad argument 'limits.total'" .. of .. "expected a whole number >= 1, got 0", { limits = { total = 0 } })
      refuses("bad option 'limits.host'" .. of .. "known are per_host, total", { limits = { host = 1 } })
      refuses("bad argument 'redirects'" .. of .. "expected a whole number from 0 to 100, got 101", { redirects = 101 })
      refuses("bad argument 'proxy'" .. of .. "expected a string or false, got 5", { proxy = 5 })
      refuses("bad argument 'retry.attempts'" .. of, { retry = { attempts = 0 } })
      refuses("bad argument 'limiter'" .. of .. "expected an object with a method wait or false, got table", { limiter = {} })
      refuses("bad argument 'timeout.idle'" .. of .. "expected a number of seconds > 0 and <= 4e6, got 1e%+300",
        { timeout = { idle = 1e300 } })
      refuses("bad argument 'headers.X'" .. of, { headers = { X = {{}} } })
    end)

    it("of calls is named, at the caller's line", function()
      local api = http.client { base_url = "http://127.0.0.1:1" }
      local here = "^[^\n]*http_client_spec.lua:%d+: "
      assert.match(here .. "bad argument 'url' to client:get", message_of(function() api:get() end))
      assert.match(here .. "bad option 'url' to client:post", message_of(function() api:post("/", { url = "x" }) end))
      assert.match(here .. "bad argument 'url' to client:request", message_of(function() api:request {} end))
      assert.match(here .. "bad argument 'retry.attempts' to client:put",
        message_of(function() api:put("/", { retry = { attempts = -1 } }) end))
      assert.match(here .. "bad argument 'json%.f' to client:patch",
        message_of(function() api:patch("/", { json = { f = print } }) end))
    end)
  end)
end)
