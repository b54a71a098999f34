-- API keys, which never appear in an error, a log, or what is printed of a model.

local calls = require "spec.support.calls"
local clients = require "spec.support.model_client"
local leaks = require "spec.support.leaks"
local listeners = require "spec.support.listeners"
local models = require "spec.support.models"
local script = require "spec.support.script"
local weft = require "weft"

local raised = calls.raised
local start, model, eventually = models.server, models.openai, models.eventually

local KEY = "sk-test%.(key)-1"

describe("weft.model.openai", function()
  before_each(leaks.before)

  after_each(function()
    models.stop()
    listeners.stop()
    leaks.after()
  end)

  describe("keys", function()
    it("never appear in errors", function()
      local faults = {}
      for _, status in ipairs({ 400, 401, 403, 404, 500 }) do
        faults[#faults + 1] = { status = status, message = ("key %s is %s wrong"):format(KEY, KEY) }
      end
      local server = start({ faults = faults })
      local m = model(server, { api_key = KEY, retry = { attempts = 1 } })
      for _ = 1, #faults do
        local _, err = m:chat({ prompt = "x" })
        assert.match("key %[redacted%] is %[redacted%] wrong", err.message)
        assert.is_nil(tostring(err):find(KEY, 1, true))
      end
    end)

    it("are not cut in the middle by the limit of the text", function()
      local server = start({ faults = { { status = 400, message = ("x"):rep(294) .. KEY } } })
      local _, err = model(server, { api_key = KEY }):chat({ prompt = "x" })
      assert.is_nil(err.message:find("sk-", 1, true))
    end)

    it("in own headers count as well", function()
      local server = start({ faults = { { status = 400, message = "secret-2 and " .. KEY } } })
      local _, err = model(server, { api_key = KEY, headers = { ["api-key"] = "secret-2" } }):chat({ prompt = "x" })
      assert.match(": %[redacted%] and %[redacted%]$", err.message)
    end)

    -- Everything that a table holds, as text.
    local function dump(value, out, seen)
      out, seen = out or {}, seen or {}
      if type(value) == "table" and not seen[value] then
        seen[value] = true
        for key, item in pairs(value) do
          dump(key, out, seen)
          dump(item, out, seen)
        end
      else
        out[#out + 1] = tostring(value)
      end
      return table.concat(out, " ")
    end

    it("are hidden from who prints all of a model, or of its stream", function()
      local server = start()
      local m = model(server, { api_key = KEY, headers = { ["x-team"] = "secret-2" }, base_url = server.url .. "?key=secret-3" })
      local stream = assert(m:stream({ prompt = "one two three" }))
      for _, text in ipairs({ dump(m), dump(stream), dump(weft.model.fallback({ m })), dump(stream:result()), tostring(stream) }) do
        assert.is_true(#text > 5)
        assert.is_nil(text:find("sk-test", 1, true))
        assert.is_nil(text:find("secret-", 1, true))
      end
      local group = weft.group() -- nor does a task see them there
      group:go(function()
        assert(m:chat({ prompt = "x" }))
        return dump(m)
      end)
      assert.is_nil(assert(group:wait())[1]:find("sk-test", 1, true))
      group:close()
      assert.equal("Bearer " .. KEY, server:requests()[2].headers.authorization)
      assert.equal("secret-2", server:requests()[2].headers["x-team"])
    end)

    it("in any form, and in the causes of errors, never appear", function()
      local forms = { KEY, "sk-test%25.%28key%29-1", "Authorization: Bearer other-key", '"x-api-key": "other-key"' }
      local faults = {}
      for _, form in ipairs(forms) do
        faults[#faults + 1] = { status = 400, message = "you sent " .. form }
        faults[#faults + 1] = { status = 400, body = '{"error":{"message":"you sent ' .. form:gsub('"', '\\"') .. '"}}' }
        faults[#faults + 1] = { status = 400, body = "<p>you sent " .. form .. "</p>" }
      end
      local server = start({ faults = faults })
      local m = model(server, { api_key = KEY, base_url = server.url .. "?api_key=" .. "secret-3" })
      for _ = 1, #faults do
        local _, err = m:chat({ prompt = "x" })
        local text = dump(err)
        assert.match("%[redacted%]", text)
        assert.is_nil(text:find("sk-test", 1, true))
        assert.is_nil(text:find("other-key", 1, true))
      end
      local key = "secretkey4"
      local of_path = weft.model.openai({ model = "m", api_key = key, retry = { attempts = 1 },
        base_url = "http://127.0.0.1:1/" .. key .. "/v1?key=" .. key })
      local _, err = of_path:chat({ prompt = "x" })
      assert.match("127.0.0.1", dump(err))
      assert.is_nil(dump(err):find(key, 1, true))
      assert.is_nil(tostring(of_path):find(key, 1, true))
    end)

    it("that a stream echoes are taken out of its error", function()
      for _, inside in ipairs({ "data", "event" }) do
        local server = start({ faults = { { status = 400, inside = inside, message = "key " .. KEY } } })
        local stream = assert(model(server, { api_key = KEY }):stream({ prompt = "one two three four" }))
        local _, err = stream:result()
        assert.is_nil(dump(err):find("sk-test", 1, true))
        assert.match("key %[redacted%]", err.message)
      end
    end)

    -- A model with every kind of secret, at a server (which is the proxy, too) that says all of them in every answer.
    local SECRETS = { KEY, "own-header-2", "query/secret-3", "me:pass/word-4", "pass/word-4", "bWU6cGFzcy93b3JkLTQ=",
      "you:basic-5", "eW91OmJhc2ljLTU=", "key-word-6" }

    local function told_all(options)
      local said = table.concat(SECRETS, " and ") .. " and Authorization: Bearer " .. KEY
      local server = start({ faults = { { status = 503, message = said, times = -1 } } })
      local given = {
        api_key = KEY,
        base_url = server.url .. "?key=query%2Fsecret-3",
        headers = { ["x-team"] = "own-header-2", ["x-other"] = "Basic eW91OmJhc2ljLTU=" },
        http = { proxy = "http://me:pass%2Fword-4@127.0.0.1:" .. server.port, key_password = "key-word-6" },
        retry = { base = 0, attempts = 2 },
      }
      for name, value in pairs(options or {}) do given[name] = value end
      return model(server, given), server
    end

    local function is_clean(text)
      assert.is_true(#text > 5)
      for _, secret in ipairs(SECRETS) do
        assert.is_nil(text:find(secret, 1, true), secret)
      end
      for _, part in ipairs({ "sk-test", "query", "pass", "basic-5" }) do
        assert.is_nil(text:find(part, 1, true), part)
      end
    end

    it("of every kind, in every form, are not in an error that repeats them", function()
      local m, server = told_all()
      local _, err = m:chat({ prompt = "x" })
      assert.equal("server", err.kind)
      assert.match("%[redacted%] and %[redacted%]", err.message)
      is_clean(dump(err) .. tostring(err))
      _, err = m:stream({ prompt = "x" })
      is_clean(dump(err))
      local sent = server:requests()[1] -- but they were sent
      assert.equal("Bearer " .. KEY, sent.headers.authorization)
      assert.equal("Basic bWU6cGFzcy93b3JkLTQ=", sent.headers["proxy-authorization"])
      assert.match("key=query%%2Fsecret%-3", sent.path)
    end)

    it("in the path of the URL are not in the error of a connection, nor in its cause", function()
      local server = start({ faults = { { truncate = "body", only = "stream" }, { truncate = 30 } } })
      local m = model(server, { base_url = server.origin .. "/key-of-path/v1", api_key = "key-of-path", retry = { attempts = 1 } })
      local result, err = assert(m:stream({ prompt = "one two three four" })):result()
      assert.is_nil(result)
      assert.same({ "stream_truncated", "network" }, { err.kind, err.cause.kind })
      assert.is_nil(dump(err):find("key-of-path", 1, true))
      assert.match("/%[redacted%]/v1/chat", err.message)
      assert.match("/%[redacted%]/v1/chat", err.cause.message)
      err = select(2, m:chat({ prompt = "x" }))
      assert.equal("network", err.kind)
      assert.is_nil(dump(err):find("key-of-path", 1, true))
    end)

    if clients.has_shell then
      it("of the environment's proxy are not in an error that repeats them", function()
        local server = start({ faults = { { status = 400, times = -1,
          message = "login bWU6ZW52cGFzcy03, me:envpass-7, envpass-7" } } })
        local ended = script.run([[
          local weft = require "weft"
          local m = weft.model.openai { base_url = "http://somewhere.invalid/v1", model = "m" }
          print(select(2, m:chat { prompt = "x" }).message)
        ]], "http_proxy=http://me:envpass-7@127.0.0.1:" .. server.port)
        assert.match("login %[redacted%], %[redacted%], %[redacted%]\n$", ended.out)
      end)
    end

    it("are not in what on_retry is told, which may be logged", function()
      local told = {}
      local m = told_all({ retry = { base = 0, attempts = 3, on_retry = function(err) told[#told + 1] = dump(err) end } })
      m:chat({ prompt = "x" })
      assert.equal(2, #told)
      for _, text in ipairs(told) do is_clean(text) end
    end)

    it("are not in what on_warn is told", function()
      local told = {}
      local server = start()
      local m = model(server, { api_key = KEY, budget = weft.budget({ usd = 1, warn = 1e-6 }), max_tokens = 10,
        prices = { m = { input = 10, output = 10 } }, on_warn = function(...) told[#told + 1] = dump({ ... }) end })
      assert(m:chat({ prompt = "x" }))
      assert.equal(1, #told)
      is_clean(told[1])
    end)

    it("are not in the failures of tasks, whatever state they come from", function()
      local m = told_all()
      local group = weft.group(nil, { collect = true })
      group:go("asks", function() return m:chat({ prompt = "x" }) end)
      group:go("raises", function() return assert(m:chat({ prompt = "x" })) end)
      group:go("reads", function() return m:stream({ prompt = "x" }) end)
      local _, err = group:wait()
      group:close()
      assert.equal(3, #err.errors)
      is_clean(dump(err) .. tostring(err))
      is_clean(dump({ weft.map({ 1, 2 }, function() return m:chat({ prompt = "x" }) end, { collect = true }) }))
      is_clean(dump({ weft.model.fallback({ m, m }):chat({ prompt = "x" }) }))
      is_clean(dump({ weft.model.hedge({ m, after = 60 }):chat({ prompt = "x" }) }))
    end)

    it("are not in a trace", function()
      local m = told_all()
      local path = os.tmpname()
      local trace = assert(weft.trace({ file = path }))
      weft.span("work", function() m:chat({ prompt = "x" }) end)
      trace:stop()
      local file = assert(io.open(path))
      is_clean(file:read("*a"))
      file:close()
      os.remove(path)
    end)

    it("are not in what weft says that tasks do, nor in its counts", function()
      local server = start({ stream = { delay = 3600 }, faults = { { delay = 3600, model = "slow" } } })
      local m = model(server, { api_key = KEY, base_url = server.url .. "?key=query%2Fsecret-3",
        headers = { ["x-team"] = "own-header-2" }, limits = { concurrency = 2, requests_per_minute = 60 },
        http = { proxy = "http://me:pass%2Fword-4@127.0.0.1:" .. server.port } })
      local group = weft.group(nil, { collect = true })
      group:go("chats", function() return m:chat({ prompt = "x", model = "slow" }) end)
      group:go("reads", function()
        local stream = assert(m:stream({ prompt = "x" }))
        return stream:result()
      end)
      eventually(function() return server:stats().in_flight end, 2)
      group:go("waits", function() return m:chat({ prompt = "x" }) end)
      eventually(function()
        local waiting = 0
        for _, task in ipairs(weft.tasks()) do waiting = waiting + (task.waits_for and 1 or 0) end
        return waiting >= 3
      end, true)
      is_clean(dump(weft.tasks()))
      is_clean(weft.dump())
      is_clean(weft.metrics())
      is_clean(dump(weft.stats()) .. dump(m:stats()))
      group:cancel()
      group:close()
    end)

    it("are hidden from tostring", function()
      local server = start()
      local m = model(server, { api_key = KEY, base_url = server.url .. "?key=" .. KEY })
      assert.equal("weft.model.openai: m at " .. server.url, tostring(m))
    end)

    it("that were refused are named by status alone", function()
      local server = start({ api_key = KEY })
      local _, err = model(server, { api_key = "sk-wrong" }):chat({ prompt = "x" })
      assert.equal("auth", err.kind)
      assert.is_nil(tostring(err):find("sk-wrong", 1, true))
      assert.equal(1, server:stats().requests)
    end)

    it("do not show in complaints about arguments", function()
      for _, given in ipairs({ KEY, { model = "m", api_key = KEY .. "\n" }, { model = "m", timeout = KEY },
        { model = "m", retry = KEY }, { model = "m", base_url = "https://user:" .. KEY .. "@host/" },
        { model = "m", base_url = KEY }, { model = "m", headers = { x = KEY .. "\n" } } }) do
        assert.is_nil(raised(weft.model.openai, given):find("sk-test", 1, true))
      end
    end)
  end)
end)
