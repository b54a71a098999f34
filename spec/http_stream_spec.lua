-- Answers that are read while they arrive: from a server that sends what each spec says.

local calls = require "spec.support.calls"
local leaks = require "spec.support.leaks"
local raw = require "spec.support.raw_server"
local weft = require "weft"

local raised = calls.raised

local http = weft.http

local start = raw.start

-- A server that sends these pieces to each connection, in this order, and closes it.
local function serve(...)
  local pieces = { ... }
  return start(function(client)
    for _, piece in ipairs(pieces) do client:send(piece) end
  end)
end

local function open(server, options)
  local given = { stream = true }
  for name, value in pairs(options or {}) do given[name] = value end
  return assert(http.get(server.url, given))
end

local CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
local CLOSED = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

local function chunk(text) return ("%x\r\n%s\r\n"):format(#text, text) end

local function collect(iterator, ...)
  local list = {}
  for item in iterator, ... do list[#list + 1] = item end
  return list
end

describe("weft.http with stream = true", function()
  before_each(leaks.before)

  after_each(function()
    raw.stop()
    leaks.after()
  end)

  describe("returns when the headers are there, and gives", function()
    it("what arrives, when it arrives", function()
      local server = start(function(client, _, orders)
        client:send "HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: 11\r\n\r\n"
        for _ = 1, 2 do client:send((orders:recv())) end
      end)
      local res = open(server)
      assert.equal(200, res.status)
      assert.equal("1", res.headers["x-one"])
      assert.equal("length", res.framing)
      assert.is_nil(res:timings())
      server.orders:send "first "
      assert.equal("first ", res:read())
      server.orders:send "later"
      assert.equal("later", res:read())
      assert.is_nil(res:read())
      assert.is_nil(res:read())
      assert.equal(11, res:timings().received)
      assert.equal("weft.http stream: status 200", tostring(res))
    end)

    it("chunks to a loop", function()
      local res = open(serve(CHUNKED, chunk "one", chunk "two", "0\r\n\r\n"))
      assert.equal("chunked", res.framing)
      assert.equal("onetwo", table.concat(collect(res:chunks())))
    end)

    it("events to a loop, in any pieces", function()
      local res = open(serve(CHUNKED, chunk "event: a\ndata: o", chunk "ne\n\nda", chunk "ta: two\r", chunk "\n\r\n",
        chunk "data: unfinished\n", "0\r\n\r\n"))
      assert.same({ { type = "a", data = "one", id = "" }, { type = "message", data = "two", id = "" } },
        collect(res:events()))
      assert.is_nil(res:read_event())
    end)

    it("lines to a loop, the last one without an end too", function()
      local res = open(serve(CHUNKED, chunk '{"a":1}\n{"b"', chunk ":2}\r", chunk "\n\n", chunk "last", "0\r\n\r\n"))
      assert.same({ '{"a":1}', '{"b":2}', "", "last" }, collect(res:lines()))
      assert.is_nil(res:read_line())
    end)

    it("events and lines one by one", function()
      local events = open(serve(CHUNKED, chunk "data: 1\n\ndata: 2\n\n", "0\r\n\r\n"))
      assert.equal("1", events:read_event().data)
      assert.equal("2", collect(events:events())[1].data)
      local lines = open(serve(CHUNKED, chunk "1\n2\n3", "0\r\n\r\n"))
      assert.equal("1", lines:read_line())
      assert.same({ "2", "3" }, collect(lines:lines()))
    end)

    it("a last line without an end as one that may have been cut", function()
      local lines = open(serve(CHUNKED, chunk "1\n2", "0\r\n\r\n"))
      assert.is_nil(select(3, lines:read_line()))
      local line, err, is_cut = lines:read_line()
      assert.same({ "2", nil, true }, { line, err, is_cut })
    end)

    it("the body of an answer that is no success", function()
      local server = serve('HTTP/1.1 429 Slow\r\nContent-Length: 13\r\n\r\n{"error":"x"}')
      local res = open(server)
      assert.equal(429, res.status)
      assert.same({ error = "x" }, res:json())
      assert.equal('{"error":"x"}', open(server):body())
    end)

    it("nothing where there is no body", function()
      for _, head in ipairs { "204 No Content", "304 Not Modified" } do
        local res = open(serve("HTTP/1.1 " .. head .. "\r\n\r\n"))
        assert.equal("none", res.framing)
        assert.is_nil(res:read())
        assert.equal("", res:body())
      end
      local res = assert(http.request {
        url = serve("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").url, method = "HEAD", stream = true,
      })
      assert.equal("none", res.framing)
      assert.same({}, collect(res:events()))
    end)

    it("the final answer behind interim ones, without trailers", function()
      local res = open(serve("HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Late: 0\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n", chunk "abc",
        "0\r\nX-Late: 1\r\n\r\n"))
      assert.is_nil(res.headers["x-early"])
      assert.equal("abc", res:body())
      assert.equal("0", res.headers["x-late"])
    end)
  end)

  describe("fails when the body is cut short:", function()
    -- What came, and the error, by the form that returns and the form that raises.
    local function cut(...)
      local server = serve(...)
      local res, parts = open(server), {}
      local part, err = res:read()
      while part do
        parts[#parts + 1] = part
        part, err = res:read()
      end
      local again, same = res:read()
      assert.is_nil(again)
      assert.equal(err and err.message, same and same.message)
      if err then
        local loop = open(server)
        assert.equal(err.message:match "%(curl %d+%)", raised(collect, loop:chunks()).message:match "%(curl %d+%)")
        assert.equal(err.kind, select(2, open(server):body()).kind)
      end
      return table.concat(parts), err, res
    end

    it("less than its length", function()
      local came, err = cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "half")
      assert.equal("half", came)
      assert.equal("network", err.kind)
      assert.is_nil(err.message:find("secret", 1, true))
    end)

    it("in the middle of a chunk", function()
      local came, err = cut(CHUNKED, chunk "whole", "10\r\nhalf")
      assert.equal("wholehalf", came)
      assert.equal("network", err.kind)
    end)

    it("between chunks", function()
      local came, err = cut(CHUNKED, chunk "whole")
      assert.equal("whole", came)
      assert.equal("network", err.kind)
    end)

    it("but not when only the close ends it, which framing tells", function()
      local came, err, res = cut(CLOSED, "data: half")
      assert.equal("data: half", came)
      assert.is_nil(err)
      assert.equal("close", res.framing)
    end)

    it("events before it are seen, the error raises in the loop", function()
      local res, seen = open(serve(CHUNKED, chunk "data: 1\n\ndata: 2\n\ndata: half", "5")), {}
      local err = raised(function()
        for event in res:events() do seen[#seen + 1] = event.data end
      end)
      assert.same({ "1", "2" }, seen)
      assert.equal("network", err.kind)
      assert.matches("http_stream_spec.lua:%d+: GET http://127.0.0.1:%d+/path: ", tostring(err))
    end)

    it("half a line is not given for a whole one", function()
      local res, seen = open(serve(CHUNKED, chunk "1\n2", "5")), {}
      local err = raised(function()
        for line in res:lines() do seen[#seen + 1] = line end
      end)
      assert.same({ "1" }, seen)
      assert.equal("network", err.kind)
    end)
  end)

  -- Sends the head, then waits until the other side is gone: "gone" is the result.
  local function endless()
    return start(function(client, _, orders)
      client:send "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n"
      orders:try_recv()
      local _, err = client:receive(1)
      return err == "closed" and "gone" or tostring(err)
    end)
  end

  describe("aborts the transfer", function()
    it("by close, at any time and more than once", function()
      local server = endless()
      local res = open(server)
      assert.equal("data: first\n\n", res:read())
      res:close()
      res:close()
      assert.equal("gone", (server.results:recv()))
      local chunk_after, err = res:read()
      assert.is_nil(chunk_after)
      assert.equal("closed", err.kind)
      assert.equal("closed", raised(collect, res:chunks()).kind)
      assert.equal("closed", select(2, res:body()).kind)
    end)

    it("when the response is collected, after a loop was left", function()
      local server = endless()
      local function leave()
        for event in open(server):events() do
          if event.data == "first" then return event.data end
        end
      end
      assert.equal("first", leave())
      if jit then jit.flush() end
      collectgarbage()
      collectgarbage()
      assert.equal("gone", (server.results:recv()))
    end)

    it("when many responses are dropped, before there are too many", function()
      local server = assert(require("weft.testing").model_server { reply = "a b c", stream = { delay = 1000 } })
      local ballast, most = {}, 0
      for i = 1, 20000 do ballast[i] = { i } end
      for _ = 1, 600 do
        local res = assert(http.post(server.url .. "/chat/completions", {
          stream = true, json = { model = "m", stream = true, messages = { { role = "user", content = "x" } } },
        }))
        assert.equal("string", type(res:read()))
        most = math.max(most, weft.stats().transfers)
      end
      assert.is_true(most < 400)
      assert.equal(20000, #ballast)
      server:close()
    end)

    it("by <close>", function()
      if jit then return end
      local server = endless()
      assert(load([[
        local open, server = ...
        local res <close> = open(server)
        res:read()
      ]]))(open, server)
      assert.equal("gone", (server.results:recv()))
    end)

    it("when the context of its task is cancelled, though nobody reads", function()
      local server = endless()
      local group = weft.group()
      local opened, go_on = weft.channel(1), weft.channel()
      group:go(function(_, url)
        local res = assert(http.get(url, { stream = true }))
        assert(res:read() == "data: first\n\n")
        opened:send(true)
        go_on:recv()
      end, server.url)
      opened:recv()
      group:cancel()
      assert.equal("gone", (server.results:recv()))
      local _, err = group:wait()
      assert.equal("canceled", err.kind)
      group:close()
    end)

    -- Inline: a task on another thread may be stopped before it has looked at what was raised.
    it("while a read waits: it raises", function()
      local server = endless()
      local group = weft.group { pool = weft.inline }
      local reading, seen = weft.channel(1), {}
      group:go(function()
        local res = open(server)
        res:read()
        reading:send(true)
        for i = 1, 2 do seen[i] = raised(res.read, res).kind end
      end)
      reading:recv()
      group:cancel()
      assert.equal("gone", (server.results:recv()))
      group:wait()
      assert.same({ "canceled", "canceled" }, seen)
      group:close()
    end)

    it("while it waits for the headers: the request raises", function()
      local server = start(function(client, _, orders)
        orders:send "it has come"
        local _, err = client:receive(1)
        return err == "closed" and "gone" or tostring(err)
      end)
      local group = weft.group { pool = weft.inline }
      local kind
      group:go(function()
        kind = raised(http.get, server.url, { stream = true }).kind
      end)
      server.orders:recv()
      group:cancel()
      assert.equal("gone", (server.results:recv()))
      group:wait()
      assert.equal("canceled", kind)
      group:close()
    end)

    it("when the state of an inline task ends with it", function()
      local server = endless()
      local group = weft.group { pool = weft.inline }
      local read = weft.channel(1)
      group:go(function()
        local res = open(server)
        for event in res:events() do read:send(event.data) end
      end)
      assert.equal("first", (read:recv()))
      group:cancel()
      assert.equal("gone", (server.results:recv()))
      group:wait()
      group:close()
    end)
  end)

  describe("waits", function()
    it("in a task without blocking its thread", function()
      local server = endless()
      local pool = weft.pool { threads = 1 }
      local group = weft.group { pool = pool }
      local reading = weft.channel(1)
      group:go(function(_, url)
        local res = assert(http.get(url, { stream = true }))
        for _ in res:events() do reading:send(true) end
      end, server.url)
      reading:recv()
      assert.equal("other", group:go(function() return "other" end):wait())
      group:cancel()
      group:wait()
      group:close()
      pool:close()
    end)

    it("in inline tasks side by side", function()
      local function talk()
        return start(function(client, _, orders)
          client:send "HTTP/1.1 200 OK\r\n\r\n"
          for _ = 1, 3 do client:send((orders:recv())) end
        end)
      end
      local servers_of, heard = { talk(), talk() }, {}
      local group = weft.group { pool = weft.inline }
      for i = 1, 2 do
        group:go(function()
          local res = open(servers_of[i])
          servers_of[i].orders:send(i .. " begins\n")
          for line in res:lines() do
            heard[#heard + 1] = line
            servers_of[3 - i].orders:send((3 - i) .. " answers\n")
          end
        end)
      end
      local _, err = group:wait()
      assert.is_nil(err)
      table.sort(heard)
      assert.same({ "1 answers", "1 answers", "1 begins", "2 answers", "2 answers", "2 begins" }, heard)
      group:close()
    end)

    it("several readers of one body share it", function()
      local server = serve(CHUNKED, chunk "1\n2\n3\n4\n5\n6\n", "0\r\n\r\n")
      local res, seen = open(server), {}
      local group = weft.group { pool = weft.inline }
      for _ = 1, 3 do
        group:go(function()
          for line in res:lines() do
            seen[#seen + 1] = line
            weft.sleep(0)
          end
        end)
      end
      assert.is_nil(select(2, group:wait()))
      table.sort(seen)
      assert.same({ "1", "2", "3", "4", "5", "6" }, seen)
      group:close()
    end)
  end)

  describe("keeps memory bounded:", function()
    it("a slow reader pauses its transfer, and gets all of it", function()
      local server = start(function(client)
        client:send "HTTP/1.1 200 OK\r\nContent-Length: 41943040\r\n\r\n"
        return (client:send(("0123456789abcdef"):rep(2621440)))
      end)
      local res, total, matches = open(server, { buffer = 10000 }), 0, true
      weft.sleep(0.1) -- what is checked does not depend on it
      assert.is_nil(res:timings()) -- sockets cannot hold all of it
      for bytes in res:chunks() do
        assert.is_true(#bytes <= 10000 + 16384)
        matches = matches and bytes:byte(1) == ("0123456789abcdef"):byte(total % 16 + 1)
        total = total + #bytes
      end
      assert.equal(41943040, total)
      assert.is_true(matches)
      assert.equal(41943040, (server.results:recv()))
    end)

    it("max_body bounds what body() gathers, not what a loop reads", function()
      local function server() return serve("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", ("x"):rep(1000)) end
      local body, err = open(server(), { max_body = 999 }):body()
      assert.is_nil(body)
      assert.equal("too_large", err.kind)
      assert.equal(200, err.status)
      assert.equal("the answer's body is larger than max_body (999 bytes)", err.message)
      assert.equal(1000, #open(server(), { max_body = 1000 }):body())
      assert.equal(1000, #table.concat(collect(open(server(), { max_body = 10 }):chunks())))
    end)

    it("events and lines have ceilings", function()
      local function server() return serve(CHUNKED, chunk "data: 1\n\ndata: 12345678901\n\n", "0\r\n\r\n") end
      local res = open(server())
      assert.equal("1", res:read_event({ max_event = 10 }).data)
      local event, err = res:read_event()
      assert.is_nil(event)
      assert.equal("too_large", err.kind)
      assert.equal("the stream has an event of more than 10 bytes", err.message)
      res = open(server())
      assert.equal("too_large", raised(collect, res:events { max_event = 10 }).kind)
      assert.equal("too_large", raised(collect, res:events()).kind)
      assert.equal("too_large", select(2, res:read_event()).kind)
      err = raised(collect, open(server()):lines { max_line = 10 })
      assert.equal("the stream has a line of more than 10 bytes", err.message)
      assert.equal("too_large", select(2, open(server()):read_line { max_line = 1 }).kind)
    end)
  end)

  describe("keeps its time limits:", function()
    local function silent()
      return start(function(client)
        client:send "HTTP/1.1 200 OK\r\n\r\nfirst"
        client:receive(1)
      end)
    end

    it("silence is a timeout, after what came", function()
      local res = open(silent(), { timeout = { idle = 0.05 } })
      assert.equal("first", res:read())
      local bytes, err = res:read()
      assert.is_nil(bytes)
      assert.equal("timeout", err.kind)
      assert.equal("idle", err.timeout)
      assert.equal(5, err.received)
    end)

    it("the total counts to the last byte", function()
      local res = open(silent(), { timeout = 1 })
      assert.equal("first", res:read())
      assert.equal("timeout", raised(collect, res:chunks()).kind)
    end)

    it("a slow reader is no silence", function()
      local server = serve("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", ("x"):rep(3000000))
      local res, total = open(server, { buffer = 1000, timeout = { idle = 0.5 } }), 0
      weft.sleep(0.8)
      for bytes in res:chunks() do total = total + #bytes end
      assert.equal(3000000, total)
    end)
  end)

  it("hundreds of tasks read streams of the model server at once", function()
    local count = os.getenv "WEFT_SAN" == "thread" and 60 or 400
    local text = "one two three four five six seven eight nine ten"
    local server = assert(require("weft.testing").model_server {
      reply = text, stream = { delay = 0.001 }, connections = 2 * count + 200, -- both ends are in this process
    })
    local group = weft.group()
    for i = 1, count do
      group:go(function(_, url)
        local res = assert(http.post(url, {
          stream = true,
          buffer = i % 2 == 0 and 10 or nil,
          json = { model = "m", stream = true, messages = { { role = "user", content = "count" } } },
        }))
        local words = {}
        for event in res:events() do
          local chunk = event.data ~= "[DONE]" and weft.json.decode(event.data)
          local delta = chunk and chunk.choices[1] and chunk.choices[1].delta
          words[#words + 1] = delta and delta.content or nil
        end
        return table.concat(words)
      end, server.url .. "/chat/completions")
    end
    local texts, err = group:wait()
    assert.is_nil(err)
    for i = 1, count do assert.equal(text, texts[i]) end
    group:close()
    server:close()
  end)

  describe("through a client", function()
    -- Answers by turns. One that is not whole waits for the other side to close the connection, which
    -- `results` has the path of.
    local function by_turns()
      return start(function(client, head, orders)
        local answer = orders:recv()
        client:send(answer)
        if answer:find("1000000", 1, true) then
          local _, err = client:receive(1)
          return err == "closed" and head:match "^%u+ (%S+)" or tostring(err)
        end
      end)
    end

    local BUSY = "HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\nbusy"
    local GOOD = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" .. chunk "data: 1\n\n" .. "0\r\n\r\n"

    it("has its base URL, headers and retries: an answer that is tried again is closed", function()
      local server = by_turns()
      for _, answer in ipairs { BUSY, BUSY, GOOD } do server.orders:send(answer) end
      local client = http.client { base_url = server.url:gsub("/path.*", ""), retry = { attempts = 3, base = 0.001 } }
      local res = assert(client:get("/events", { stream = true }))
      assert.equal(200, res.status)
      assert.equal(3, res.attempts)
      assert.equal("/events", (server.results:recv()))
      assert.equal("/events", (server.results:recv()))
      assert.same({ { type = "message", data = "1", id = "" } }, collect(res:events()))
      res:close()
    end)

    it("gives the last answer, whatever its status, to be read", function()
      local server = by_turns()
      for _ = 1, 2 do server.orders:send "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy" end
      local client = http.client { base_url = server.url:gsub("/path.*", ""), retry = { attempts = 2, base = 0.001 } }
      local res = assert(client:get("/", { stream = true }))
      assert.equal(503, res.status)
      assert.equal("busy", res:body())
    end)

    it("is not tried again once the headers are there", function()
      local server = by_turns()
      server.orders:send "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nbroken"
      local client = http.client { base_url = server.url:gsub("/path.*", ""), retry = { attempts = 3, base = 0.001 } }
      local res = assert(client:get("/", { stream = true }))
      assert.equal(1, res.attempts)
      assert.equal("first", res:read())
      assert.equal("network", select(2, res:read()).kind)
    end)
  end)

  describe("refuses misuse:", function()
    it("a body is read in one way", function()
      local res = open(serve(CHUNKED, chunk "data: 1\n\n", "0\r\n\r\n"))
      for event in res:events() do assert.equal("1", event.data) end
      for _, name in ipairs { "read", "chunks", "lines", "read_line", "body", "json" } do
        assert.matches("^spec/http_stream_spec.lua:%d+: stream:%l[%l_]*: this body is read as events already; "
          .. "a body is read in one way only$", raised(function() return (res[name](res)) end))
      end
    end)

    it("options are checked", function()
      local res = open(serve(CHUNKED, "0\r\n\r\n"))
      assert.matches("bad option 'max_line' to stream:events: known are max_event",
        raised(function() res:events { max_line = 1 } end))
      assert.matches("bad argument 'max_line' to stream:lines: expected a whole number of bytes >= 1, got 0",
        raised(function() res:lines { max_line = 0 } end))
      assert.matches("bad argument 'options' to stream:lines: expected a table, got 5",
        raised(function() res:lines(5) end))
      assert.matches("bad argument 'stream' to weft.http.get: expected a boolean, got string",
        raised(http.get, "http://127.0.0.1/", { stream = "yes" }))
      assert.matches("bad argument 'buffer' to weft.http.get: expected a whole number of bytes >= 1, got 0.5",
        raised(http.get, "http://127.0.0.1/", { stream = true, buffer = 0.5 }))
      res:close()
    end)

    it("what is no stream says how to get one", function()
      local res = assert(http.get(serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").url))
      assert.matches("response:events: the whole body is in `body` already; ask for it with stream = true",
        raised(function() res:events() end))
    end)

    it("a response belongs to its task, what it brings can be sent", function()
      local server = serve(CHUNKED, chunk "data: 1\n\ndata: 2\n\n", "0\r\n\r\n")
      local res = open(server)
      local group = weft.group()
      local err = raised(group.go, group, function() return res:read() end)
      assert.matches("upvalue 'res': .* cannot be sent; a response that is still read belongs to its task", tostring(err))
      res:close()
      local events = weft.channel(1)
      group:go(function(_, url)
        for event in assert(http.get(url, { stream = true })):events() do events:send(event) end
        events:close()
      end, server.url)
      local seen = {}
      for event in events:iter() do seen[#seen + 1] = event.data end
      assert.same({ "1", "2" }, seen)
      assert.is_nil(select(2, group:wait()))
      group:close()
    end)

    it("a request that gets no headers fails as any other", function()
      local res, err = http.get("http://127.0.0.1:1/x?key=secret", { stream = true })
      assert.is_nil(res)
      assert.equal("network", err.kind)
      assert.is_nil(tostring(err):find("secret", 1, true))
    end)
  end)
end)
