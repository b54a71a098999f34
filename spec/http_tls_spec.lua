-- TLS as it fails and as it works: certificates that cannot be trusted, names, HTTP/2 with many calls, and tunnels
-- through proxies. nginx shows the certificates and passes calls on to a model server.

local leaks = require "spec.support.leaks"
local models = require "spec.support.models"
local raw = require "spec.support.raw_server"
local tls = require "spec.support.tls"
local weft = require "weft"

local http = weft.http

if not tls.is_here then
  return
end

describe("TLS", function()
  local backend, sites

  setup(function()
    backend = models.server { latency = 0.01, api_key = "sk-through-tls" }
    sites = tls.start {
      good = { names = "IP:127.0.0.1,DNS:localhost", to = backend.origin },
      few = { names = "IP:127.0.0.1", to = backend.origin, keepalive_requests = 50 },
      expired = { names = "IP:127.0.0.1", days = -1, to = backend.origin },
      other = { names = "DNS:other.example", to = backend.origin },
      own = { names = "IP:127.0.0.1", is_own = true, to = backend.origin },
    }
  end)

  teardown(function()
    sites.stop()
    models.stop()
  end)

  before_each(leaks.before)
  after_each(leaks.after)

  local function model(name, options)
    local given = { base_url = sites.urls[name] .. "/v1", model = "m", api_key = "sk-through-tls", retry = { base = 0 },
      http = { ca_file = sites.ca_file } }
    for key, value in pairs(options or {}) do given[key] = value end
    return weft.model.openai(given)
  end

  describe("refuses a certificate", function()
    local cases = {
      { "expired", "certificate has expired" },
      { "other", "no alternative certificate subject name matches target host name '127.0.0.1'" },
      { "own", "self%-signed certificate" },
    }
    for _, case in ipairs(cases) do
      it("that is not to be trusted, at once and in clear words: " .. case[1], function()
        local before = backend:stats().connections
        local res, err = http.get(sites.urls[case[1]] .. "/name", { ca_file = sites.ca_file, retry = { base = 0 } })
        assert.is_nil(res)
        assert.same({ "tls", 60, false, 1 }, { err.kind, err.code, err.sent, #err.attempts })
        assert.match("GET https://127.0.0.1:%d+/name: .*" .. case[2], err.message)
        assert.is_nil(err.message:find("set ca_file", 1, true)) -- there is one, or it would not help
        for _, method in ipairs { "chat", "stream" } do
          local m = model(case[1])
          local answer
          answer, err = m[method](m, { prompt = "x" })
          assert.is_nil(answer)
          assert.same({ "tls", "final", 1 }, { err.kind, err.gave_up, #err.attempts })
          assert.match(case[2], err.message)
          assert.is_nil(tostring(err):find("sk-through", 1, true))
        end
        assert.equal(before, backend:stats().connections) -- no key went out
      end)
    end

    it("of an authority that nobody knows, and says what to do", function()
      local _, err = http.get(sites.urls.good .. "/name", { retry = { base = 0 } })
      assert.same({ "tls", 60, 1 }, { err.kind, err.code, #err.attempts })
      assert.match("for a private certificate authority set ca_file$", err.message)
    end)
  end)

  it("tells the server the name that is asked for", function()
    local url = sites.urls.good:gsub("127%.0%.0%.1", "localhost")
    assert.equal("localhost HTTP/2.0", assert(http.get(url .. "/name", { ca_file = sites.ca_file })).body)
    assert.equal(" HTTP/2.0", assert(http.get(sites.urls.good .. "/name", { ca_file = sites.ca_file })).body)
  end)

  for _, name in ipairs { "good", "few" } do -- few: nginx ends each connection after 50 requests
    it("carries 1,000 calls at once, each with its own answer: " .. name, function()
      local m, items = model(name), {}
      for i = 1, 1000 do items[i] = i end
      local before = backend:stats().requests
      local answers = assert(weft.map(items, function(i)
        local answer, err = m:chat { prompt = "number " .. i }
        return answer and answer.text, err
      end, { pool = weft.inline, limit = 1000 }))
      for i = 1, 1000 do assert.equal("echo: number " .. i, answers[i]) end
      assert.is_true(backend:stats().requests - before >= 1000)
    end)
  end

  it("carries streams", function()
    local stream = assert(model("good"):stream { prompt = "one two three" })
    assert.equal("echo: one two three", assert(stream:result()).text)
  end)

  describe("through a proxy", function()
    -- A proxy that says `answer` to CONNECT, or without one connects and passes on until either side closes. Its
    -- results are the heads that it got.
    local function start_proxy(answer)
      return raw.start(function(client, head)
        local socket = require "socket"
        if answer then
          client:send(answer)
          return head
        end
        local host, port = head:match "^CONNECT ([^:]+):(%d+) "
        local server = assert(socket.connect(host, tonumber(port)))
        client:send "HTTP/1.1 200 Connection established\r\nX-Of-The-Proxy: yes\r\n\r\n"
        local other, is_open = { [client] = server, [server] = client }, true
        while is_open do
          local ready = socket.select({ client, server }, nil, 20)
          for _, from in ipairs(ready) do
            from:settimeout(0)
            local data, err, part = from:receive(65536)
            other[from]:settimeout(20)
            other[from]:send(data or part)
            is_open = is_open and err ~= "closed"
          end
          is_open = is_open and #ready > 0
        end
        server:close()
        return head
      end)
    end

    local function through(proxy, login)
      return "http://" .. (login or "") .. proxy.url:match "http://([^/]*)"
    end

    it("asks for a tunnel, with the login, and sends the proxy nothing else", function()
      for _, method in ipairs { "get", "post" } do
        local proxy = start_proxy()
        for i, ending in ipairs { "keep-alive", "keep-alive", "close" } do
          local res = assert(http[method](sites.urls.good .. "/name", { ca_file = sites.ca_file,
            proxy = through(proxy, "me:pass%2Fword@"), headers = { Connection = ending, ["X-Key"] = "sk-secret" },
            body = method == "post" and "x" or nil, http2 = false }))
          assert.same({ 200, " HTTP/1.1", i > 1 }, { res.status, res.body, res.timings.reused })
          assert.is_nil(res.headers["x-of-the-proxy"])
        end
        proxy.close()
        local head = proxy.results:recv()
        assert.match("\nProxy%-Authorization: Basic bWU6cGFzcy93b3Jk\n", head)
        assert.is_nil(head:find("sk-secret", 1, true))
        assert.equal(0, #proxy.results) -- one tunnel for all
      end
    end)

    it("does not try again what the proxy refuses, and says so without the login", function()
      for _, status in ipairs { 407, 403 } do
        local proxy = start_proxy(("HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno"):format(status))
        local _, err = http.post(sites.urls.good .. "/name", { ca_file = sites.ca_file, body = "x", retry = { base = 0 },
          proxy = through(proxy, "me:secret@") })
        assert.same({ "network", status, false, 1 }, { err.kind, err.proxy_status, err.sent, #err.attempts })
        assert.match("CONNECT tunnel failed, response " .. status, err.message)
        assert.equal(status == 407, err.message:find("the proxy wants a user and a password", 1, true) ~= nil)
        assert.is_nil(err.message:find("secret", 1, true))
        proxy.close()
      end
    end)

    it("tries again where a proxy fails or the tunnel is cut: nothing was sent", function()
      for _, answer in ipairs { "HTTP/1.1 502 Bad\r\n\r\n", "HTTP/1.1 429 Many\r\n\r\n", "", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\n\r\n" } do
        local proxy = start_proxy(answer)
        local m = model("good", { http = { ca_file = sites.ca_file, proxy = through(proxy, "me:secret@") } })
        local _, err = m:chat { prompt = "x" }
        assert.same({ "attempts", false, 3 }, { err.gave_up, err.sent, #err.attempts }, answer)
        assert.is_nil(tostring(err):find("secret", 1, true))
        assert.is_nil(err.cost)
        proxy.close()
        assert.equal(3, #proxy.results)
      end
    end)
  end)
end)
