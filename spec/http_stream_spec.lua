-- Answers that are read while they arrive: from a server that sends what each spec says.

local leaks = require "spec.support.leaks"
local raw = require "spec.support.raw_server"
local weft = require "weft"

local http = weft.http

local servers = {}

local function start(handler)
  local server = raw.start(handler)
  servers[#servers + 1] = server
  return server
end

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

local function raised(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
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
    for i = #servers, 1, -1 do
      servers[i].close()
      servers[i] = nil
    end
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
end)
