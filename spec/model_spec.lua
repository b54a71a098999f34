-- Chats with the model server, over real sockets.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local listeners = require "spec.support.listeners"
local models = require "spec.support.models"
local weft = require "weft"

local raised = calls.raised
local start, eventually, counter, last_body = models.server, models.eventually, models.counter, models.body
local model = models.openai

local KEY = "sk-test%.(key)-1"

describe("weft.model.openai", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    listeners.stop()
    leaks.after()
  end)

  describe("chat", function()
    it("answers a prompt", function()
      local server = start()
      local answer = assert(model(server):chat({ prompt = "hello" }))
      assert.equal("echo: hello", answer.text)
      assert.equal("stop", answer.finish_reason)
      assert.equal("m", answer.model)
      assert.equal(1, answer.attempts)
      assert.equal("echo: hello", answer.raw.choices[1].message.content)
      local usage = answer.usage
      assert.is_true(usage.prompt_tokens > 0 and usage.completion_tokens > 0)
      assert.equal(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens)
    end)

    it("sends what it is given", function()
      local server = start()
      local m = model(server)
      assert(m:chat({
        messages = { { role = "user", content = "a" }, { role = "assistant", content = "b" },
          { role = "user", content = "c" } },
        system = "be brief",
        model = "other",
        temperature = 0.5,
        max_tokens = 7,
        response_format = { type = "json_object" },
        extra = { seed = 5, stop = { "x" } },
      }))
      assert.same({
        model = "other",
        messages = {
          { role = "system", content = "be brief" },
          { role = "user", content = "a" },
          { role = "assistant", content = "b" },
          { role = "user", content = "c" },
        },
        temperature = 0.5,
        max_tokens = 7,
        response_format = { type = "json_object" },
        seed = 5,
        stop = { "x" },
      }, last_body(server))
      assert(m:chat({ prompt = "x" }))
      assert.same({ model = "m", messages = { { role = "user", content = "x" } } }, last_body(server))
    end)

    it("sends the key, and own headers", function()
      local server = start({ api_key = KEY })
      assert(model(server, { api_key = KEY, headers = { ["X-Team"] = "blue" } }):chat({ prompt = "x" }))
      local sent = server:requests()[1].headers
      assert.equal("Bearer " .. KEY, sent.authorization)
      assert.equal("blue", sent["x-team"])
      assert.equal("application/json", sent["content-type"])
    end)

    it("keeps the query of the base URL", function()
      local server = start()
      assert(model(server, { base_url = server.url .. "/?version=1" }):chat({ prompt = "x" }))
      assert.equal("/v1/chat/completions?version=1", server:requests()[1].path)
    end)
  end)

  it("lets own headers go before the usual ones", function()
    local server = start()
    assert(model(server, { api_key = KEY, headers = { authorization = "Other", ["content-type"] = "application/json; v=1" } })
      :chat({ prompt = "x" }))
    local sent = server:requests()[1].headers
    assert.equal("Other", sent.authorization)
    assert.equal("application/json; v=1", sent["content-type"])
  end)

  it("calls its functions with the script's own variables", function()
    local server = start({ faults = { { status = 503, times = 2 } } })
    local seen = {}
    local m = model(server, { retry = { base = 0, on_retry = function(err) seen[#seen + 1] = err.status end } })
    assert(m:chat({ prompt = "x" }))
    assert.same({ 503, 503 }, seen)
    -- a task would have a copy of them, and is refused
    local group = weft.group()
    local refused = raised(function() group:go(function() return m:chat({ prompt = "x" }) end) end)
    group:close()
    assert.match("writes into the captured table 'seen'", tostring(refused))
    -- those that only read cross, with the model
    local limit = 2
    m = model(server, { retry = { base = 0, attempts = 9, retry_if = function(err) return #tostring(err) > limit and nil end } })
    server:fault({ status = 503 })
    group = weft.group()
    group:go(function() return m:chat({ prompt = "y" }).attempts end)
    assert.equal(2, assert(group:wait())[1])
    group:close()
  end)

  it("takes the base URL of Anthropic with and without its version", function()
    local server = start({ api_key = KEY })
    for _, base in ipairs({ server.url, server.origin, server.origin .. "/" }) do
      assert(weft.model.anthropic({ base_url = base, api_key = KEY, model = "m" }):chat({ prompt = "x" }))
      local request = server:requests()[#server:requests()]
      assert.equal("/v1/messages", request.path)
      assert.equal(KEY, request.headers["x-api-key"])
      assert.equal("2023-06-01", request.headers["anthropic-version"])
    end
  end)

  it("sends its requests as `http` says", function()
    local server = start({ reply = ("long "):rep(1000) })
    local _, err = model(server, { http = { max_body = 100 }, retry = { attempts = 1 } }):chat({ prompt = "x" })
    assert.equal("too_large", err.kind)
    local proxy = start()
    _, err = model(server, { http = { proxy = "http://me:pa55word@127.0.0.1:" .. proxy.port }, retry = { attempts = 1 } })
      :chat({ prompt = "x" })
    assert.is_nil(tostring(err):find("pa55word", 1, true))
    assert.equal(1, proxy:stats().connections)
    assert.equal(1, server:stats().requests)
    assert.match("bad option 'http.url' to weft.model.openai", raised(weft.model.openai, { model = "m", http = { url = "x" } }))
  end)

  describe("in tasks", function()
    it("a captured model works on any thread", function()
      local server = start({ api_key = KEY, latency = 0.01 })
      local m = model(server, { api_key = KEY })
      local pool = weft.pool({ threads = 2 })
      local group = weft.group(nil, { pool = pool })
      for i = 1, 20 do
        group:go(function(_, number)
          return assert(m:chat({ prompt = "number " .. number })).text
        end, i)
      end
      local results = assert(group:wait())
      for i = 1, 20 do
        assert.equal("echo: number " .. i, results[i])
      end
      assert.is_true(server:stats().max_in_flight > 1)
      group:close()
      pool:close()
    end)

    it("one that came as an argument, too, and goes on to tasks of tasks", function()
      local server = start()
      local pool = weft.pool({ threads = 1 })
      local group = weft.group(nil, { pool = pool })
      group:go(function(_, m)
        local inner = require("weft").group()
        inner:go(function() return m:chat({ prompt = "deep" }) end)
        local results, err = inner:wait()
        inner:close()
        return results and results[1], err
      end, model(server))
      assert.equal("echo: deep", assert(group:wait())[1].text)
      group:close()
      pool:close()
    end)

    it("a made model can be returned", function()
      local server = start()
      local url = server.url
      local group = weft.group()
      group:go(function() return require("weft").model.openai({ base_url = url, model = "m" }) end)
      local m = assert(group:wait())[1]
      assert.equal("echo: x", assert(m:chat({ prompt = "x" })).text)
    end)

    it("the script's own answer as well", function()
      local m = model(start())
      local group = weft.group(nil, { pool = weft.inline })
      for i = 1, 3 do
        group:go(function() return m:chat({ prompt = tostring(i) }) end)
      end
      assert.equal("echo: 3", assert(group:wait())[3].text)
    end)

    it("a failure is the task's", function()
      local m = model(start({ faults = { { status = 400, message = "no" } } }))
      local group = weft.group()
      group:go("ask", function() return m:chat({ prompt = "x" }) end)
      local results, err = group:wait()
      assert.is_nil(results)
      assert.equal("request", err.kind)
      assert.equal(400, err.status)
      assert.equal(1, #err.attempts)
      assert.match("^task 1 'ask' .* failed: m at http.*the request was refused %(status 400%): no$", tostring(err))
    end)

    it("cancelling aborts the request", function()
      local server = start({ latency = 3600 })
      local m = model(server)
      local group = weft.group()
      local task = group:go(function()
        local ok, err = pcall(m.chat, m, { prompt = "x" })
        return { ok = ok, kind = err.kind }
      end)
      eventually(counter(server, "in_flight"), 1)
      group:cancel()
      assert.same({ ok = false, kind = "canceled" }, task:wait())
      group:close()
      eventually(counter(server, "abandoned"), 1)
      assert.equal(1, server:stats().requests)
    end)

    it("cancelling ends the wait for another try", function()
      local server = start({ faults = { { status = 503, times = -1 } } })
      local m = model(server, { retry = { base = 1e6, cap = 1e6 } })
      local group = weft.group()
      local task = group:go(function() return m:chat({ prompt = "x" }) end)
      eventually(function() return server:stats().requests - server:stats().in_flight end, 1)
      group:cancel()
      assert.equal("canceled", select(2, task:wait()).kind)
      group:close()
      assert.equal(1, server:stats().requests)
    end)
  end)

  describe("failures", function()
    -- Chats against a fault that never ends; returns the error and how many requests there were.
    local function failure(fault, options, request)
      fault.times = -1
      local server = start({ faults = { fault } })
      local answer, err = model(server, options):chat(request or { prompt = "x" })
      assert.is_nil(answer)
      return err, server:stats().requests
    end

    it("of each kind are told apart, and tried again where that helps", function()
      local kinds = {
        { { status = 429 }, "rate_limit", 3 },
        { { status = 500 }, "server", 3 },
        { { status = 503 }, "server", 3 },
        { { status = 529 }, "server", 3 },
        { { status = 408 }, "timeout", 3 },
        { { status = 402 }, "quota", 1 },
        { { status = 401 }, "auth", 1 },
        { { status = 403 }, "auth", 1 },
        { { status = 400 }, "request", 1 },
        { { status = 404 }, "request", 1 },
        { { garbage = true }, "bad_reply", 3, 200 },
      }
      for _, case in ipairs(kinds) do
        local err, requests = failure(case[1])
        assert.equal(case[2], err.kind)
        assert.equal(case[1].status or case[4], err.status)
        assert.equal(case[3], #err.attempts)
        assert.equal(case[3], requests)
      end
    end)

    it("without an answer have no status", function()
      for _, fault in ipairs({ { reset = "before" }, { truncate = 30 } }) do
        local err = failure(fault)
        assert.equal("network", err.kind)
        assert.is_nil(err.status)
        assert.equal(3, #err.attempts)
        assert.match("^m: POST http://.*after 3 attempts", err.message)
      end
    end)

    it("of time are told by the timeout of the model or the call", function()
      local err, requests = failure({ stall = math.huge }, { timeout = 0.05, retry = { attempts = 2, base = 0 } })
      assert.equal("timeout", err.kind)
      assert.equal(2, requests)
      err, requests = failure({ delay = 3600 }, { retry = { attempts = 1 } },
        { prompt = "x", timeout = { total = 0.05 } })
      assert.equal("timeout", err.kind)
      assert.equal(1, requests)
    end)

    it("say what the server said, in one line", function()
      local err = failure({ status = 400, message = "first\n\tline " .. ("long "):rep(1000) })
      assert.match("^m at http://[^\n]*/v1: the request was refused %(status 400%): first line long", err.message)
      assert.is_true(#err.message < 500)
      assert.is_nil(err.message:find("\n", 1, true))
    end)

    it("name the model that the call asked for", function()
      local err = failure({ status = 400 }, nil, { prompt = "x", model = "other" })
      assert.match("^other at http://", err.message)
    end)

    it("are gone when a later try succeeds", function()
      local server = start({ faults = { { status = 500 }, { garbage = true } } })
      local answer = assert(model(server):chat({ prompt = "x" }))
      assert.equal("echo: x", answer.text)
      assert.equal(3, answer.attempts)
      assert.equal(3, server:stats().requests)
    end)

    it("can be asked for not to be tried again", function()
      local err, requests = failure({ status = 500 }, { retry = { attempts = 1 } })
      assert.equal(1, requests)
      assert.equal(1, #err.attempts)
      assert.is_nil(err.message:find("attempts", 1, true))
    end)
  end)

  -- Answers of any shape, from a listener of this script's.
  describe("replies", function()
    local function reply(status, body)
      local listener, url = listeners.open()
      local m = weft.model.openai({ base_url = url, model = "m", retry = { attempts = 1 } })
      local group = weft.group()
      local task = group:go(function() return m:chat({ prompt = "x" }) end)
      local client = assert(listener:accept())
      client:settimeout(20)
      local size = 0
      for line in function() return assert(client:receive("*l")) end do
        if line == "" then break end
        size = tonumber(line:match("^Content%-Length: (%d+)")) or size
      end
      assert(client:receive(size))
      client:send(("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s"):format(status, #body, body))
      client:close()
      local answer, err = task:wait()
      group:close()
      return answer, err
    end

    it("without usage or with a tool call are taken", function()
      local answer = assert(reply("200 OK", '{"choices":[{"message":{"content":"hi"},"finish_reason":null}]}'))
      assert.equal("hi", answer.text)
      assert.is_nil(answer.finish_reason)
      assert.equal("m", answer.model)
      assert.is_true(answer.estimated)
      assert.equal(1, answer.usage.completion_tokens)
      assert.is_true(answer.usage.prompt_tokens > 5)
      answer = assert(reply("200 OK", '{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c"}]}}]}'))
      assert.equal("", answer.text)
      assert.equal("c", answer.tool_calls[1].id)
      assert.equal("c", answer.raw.choices[1].message.tool_calls[1].id)
    end)

    it("that miss something are bad", function()
      for _, body in ipairs({ "", "null", "[]", "5", "{}", '{"choices":[]}', '{"choices":[{"message":{}}]}',
        '{"choices":[{"message":{"content":null}}]}', '{"choices":[null]}', '{"choices":[5]}', '{"choices":["x"]}',
        '{"choices":[{"message":{"content":"x","tool_calls":[1]}}]}' }) do
        local answer, err = reply("200 OK", body)
        assert.is_nil(answer)
        assert.equal("bad_reply", err.kind)
        assert.equal(200, err.status)
      end
    end)

    it("that say why in other ways are understood", function()
      for body, message in pairs({
        ['{"error":"no luck"}'] = "no luck",
        ['{"message":"no luck"}'] = "no luck",
        ["<p>no luck</p>"] = "<p>no luck</p>",
        ['{"error":{"code":5}}'] = "",
        [""] = "",
      }) do
        local _, err = reply("400 Bad Request", body)
        assert.equal("request", err.kind)
        local ending = message == "" and "" or ": " .. message:gsub("%p", "%%%0")
        assert.match("status 400%)" .. ending .. "$", err.message)
      end
    end)

    it("429 that speak of the quota are told from the others", function()
      local _, err = reply("429 Too Many Requests", '{"error":{"type":"insufficient_quota","message":"pay"}}')
      assert.equal("quota", err.kind)
      _, err = reply("429 Too Many Requests", '{"error":{"code":"insufficient_quota","type":"x"}}')
      assert.equal("quota", err.kind)
      assert.equal(429, err.status)
    end)
  end)

  describe("waiting", function()
    it("is as long as the server asks for", function()
      local server = start({ faults = { { status = 429, retry_after = 0.02 } } })
      local answer = assert(model(server, { retry = { base = 1e6, cap = 1e6 } }):chat({ prompt = "x" }))
      assert.equal(2, answer.attempts)
    end)

    it("is not done when the server asks for too much", function()
      local server = start({ faults = { { status = 429, retry_after = 3600 } } })
      local answer, err = model(server):chat({ prompt = "x" })
      assert.is_nil(answer)
      assert.equal("rate_limit", err.kind)
      assert.equal(3600, err.retry_after)
      assert.equal(1, server:stats().requests)
    end)

    it("never goes beyond the deadline of the context", function()
      local server = start({ faults = {
        { status = 503, model = "backs off", times = -1 },
        { status = 429, retry_after = 3600, model = "obeys", times = -1 },
      } })
      local group = weft.group(weft.background():with_timeout(3))
      local function chat(_, m)
        local _, err = m:chat({ prompt = "x" })
        return { kind = err.kind, attempts = #err.attempts }
      end
      group:go(chat, model(server, { model = "backs off", retry = { base = 1e6, cap = 1e6 } }))
      group:go(chat, model(server, { model = "obeys", retry = { max_wait = 1e6 } }))
      local results = assert(group:wait())
      assert.same({ kind = "server", attempts = 1 }, results[1])
      assert.same({ kind = "rate_limit", attempts = 1 }, results[2])
    end)
  end)

  it("gives its places back when a request is cancelled", function()
    local server = start({ faults = { { delay = 3600 } } })
    local m = model(server, { limits = { concurrency = 1 } })
    local group = weft.group()
    group:go(function() return m:chat({ prompt = "x" }) end)
    eventually(counter(server, "in_flight"), 1)
    group:close()
    assert.equal("echo: y", assert(m:chat({ prompt = "y" })).text)
  end)

  describe("misuse", function()
    local function refuses(message, fn, ...)
      local args = { ... }
      local err = raised(function() fn((unpack or table.unpack)(args)) end)
      assert.match("^[^\n]*model_spec.lua:%d+: ", err)
      assert.equal(message, (err:gsub("^.-model_spec.lua:%d+: ", "")))
    end

    it("of models is named", function()
      local openai, of = weft.model.openai, " to weft.model.openai: "
      refuses("bad argument 'options'" .. of .. "expected a table, got nil", openai)
      refuses("bad argument 'model'" .. of .. "expected a string that is not empty, got nil", openai, {})
      refuses("bad option 'key'" .. of .. "known are api_key, base_url, breaker, budget, cache, coalesce, headers, "
        .. "http, limits, max_tokens, model, on_warn, prices, retry, timeout",
        openai, { model = "m", key = "x" })
      refuses("bad option 'retry.max'" .. of .. "known are attempts, base, budget, cap, idempotency_key, max_wait, on_retry, retry_if", openai,
        { model = "m", retry = { max = 1 } })
      refuses("bad argument 'retry.attempts'" .. of .. "expected a whole number >= 1, got 1.5", openai,
        { model = "m", retry = { attempts = 1.5 } })
      refuses("bad argument 'retry.base'" .. of .. "expected a number >= 0, got nan", openai,
        { model = "m", retry = { base = 0 / 0 } })
      refuses("bad argument 'limits.concurrency'" .. of .. "expected a whole number >= 1, got 0", openai,
        { model = "m", limits = { concurrency = 0 } })
      refuses("bad argument 'timeout.total'" .. of .. "expected a number of seconds > 0, got -1", openai,
        { model = "m", timeout = { total = -1 } })
      refuses("bad argument 'base_url'" .. of .. "expected a URL with http:// or https://", openai,
        { model = "m", base_url = "example.org" })
      refuses("bad argument 'headers'" .. of .. "expected strings by name", openai,
        { model = "m", headers = { "x" } })
    end)

    it("of chats is named", function()
      local m = weft.model.openai({ model = "m", base_url = "http://127.0.0.1:1" })
      local of = " to model:chat: "
      refuses("bad argument 'options'" .. of .. "expected a table, such as { prompt = text }, got string", m.chat, m, "x")
      refuses("bad argument 'messages'" .. of .. "expected either messages or a prompt", m.chat, m, {})
      refuses("bad argument 'messages'" .. of .. "expected a list of messages, got none", m.chat, m, { messages = {} })
      refuses("bad argument 'temperature'" .. of .. "expected a number >= 0, got -1", m.chat, m,
        { prompt = "x", temperature = -1 })
      refuses("bad argument 'max_tokens'" .. of .. "expected a whole number >= 1, got 0", m.chat, m,
        { prompt = "x", max_tokens = 0 })
      refuses("bad argument 'timeout'" .. of
        .. "expected a number of seconds > 0, or a table of them, got 0", m.chat, m,
        { prompt = "x", timeout = 0 })
      refuses("bad argument 'messages[1].content'" .. of .. "JSON cannot hold a function", m.chat, m,
        { messages = { { role = "user", content = print } } })
      refuses("bad argument 'extra.stream'" .. of .. "chat and stream decide that", m.chat, m,
        { prompt = "x", extra = { stream = true } })
      refuses("bad argument 'self'" .. of .. "expected a model, got table; call it as m:chat{…}", m.chat, {})
    end)

    it("of a model as a table is refused", function()
      local m = weft.model.openai({ model = "m" })
      refuses("a model cannot be changed; make another one", function() m.model = "other" end)
    end)

    it("of names of kinds is nil", function()
      assert.is_nil(weft.model.nothing)
    end)
  end)
end)

describe("weft.register", function()
  it("names a metatable after its module, which is loaded where it is needed", function()
    local pool = weft.pool({ threads = 1 })
    local group = weft.group(nil, { pool = pool })
    group:go(function()
      local res = setmetatable({ body = "x", status = 1 }, require("weft.core").class("weft.http.response"))
      return { before = package.loaded["weft.http.response"] ~= nil, res = res }
    end)
    local result = assert(group:wait())[1]
    assert.is_false(result.before)
    assert.match("^weft.http response", tostring(result.res))
    group:close()
    pool:close()
  end)

  it("says so when there is no such module", function()
    local Point = {}
    weft.register("no.such.module", Point)
    local point = setmetatable({}, Point)
    local group = weft.group()
    group:go(function() return point end)
    local results, err = group:wait()
    assert.is_nil(results)
    assert.match("the metatable 'no.such.module' is not registered in this Lua state; call weft.register"
      .. ".*module 'no.such.module' not found", err.message)
    assert.is_nil(err.message:find("\n", 1, true))
  end)
end)
