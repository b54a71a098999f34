-- What broken or hostile servers send, byte for byte, and what must come of it.

local leaks = require "spec.support.leaks"
local raw = require "spec.support.raw_server"
local weft = require "weft"

local http = weft.http

-- A server that sends these bytes and closes, on every connection.
local function sends(text)
  return raw.start(function(client) client:send(text) end)
end

describe("an answer", function()
  before_each(leaks.before)

  after_each(function()
    raw.stop()
    leaks.after()
  end)

  local function get(fields, body)
    return http.get(sends("HTTP/1.1 200 OK\r\n" .. fields .. "\r\n\r\n" .. body).url)
  end

  describe("whose length", function()
    it("is said twice, the same, is taken", function()
      for _, fields in ipairs {
        "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5", "content-length:5 ,\t05",
      } do
        assert.equal("hello", assert(get(fields, "hello")).body)
      end
    end)

    -- What would be left of it on the connection would be the next answer.
    it("is said in two ways, or is none, is refused and not tried again", function()
      for _, fields in ipairs {
        "Content-Length: 5\r\nContent-Length: 3", "Content-Length: 3\r\nContent-Length: 5", "Content-Length: 5, 3",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 6", "Content-Length: +5", "Content-Length: -5", "Content-Length: 0x5",
        "Content-Length: 5.0", "Content-Length: 5abc", "Content-Length: 5,", "Content-Length: ", "Content-Length: 5\r\n 6",
        "Content-Length: 9223372036854775807", "Content-Length: 99999999999999999999999",
      } do
        local server = sends("HTTP/1.1 200 OK\r\n" .. fields .. "\r\n\r\nhello")
        local res, err = http.get(server.url, { retry = { base = 0 } })
        assert.is_nil(res, fields)
        assert.same({ "protocol", 8, 1 }, { err.kind, err.code, #err.attempts }, fields)
        assert.match("Content%-Length", err.message)
        assert.is_nil(err.message:find("secret", 1, true))
        assert.is_nil((http.get(server.url, { stream = true })))
      end
    end)

    it("is said beside chunks, is that of the chunks", function()
      for _, fields in ipairs {
        "Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 300",
      } do
        assert.equal("hello", assert(get(fields, "5\r\nhello\r\n0\r\n\r\n")).body)
      end
    end)

    it("is in chunks of no size, is no answer", function()
      for _, size in ipairs { "+5", "-5", "", "g", "fffffffffffffffff", " 5", "7fffffffffffffff" } do
        local res, err = get("Transfer-Encoding: chunked", size .. "\r\nhello\r\n0\r\n\r\n")
        assert.is_nil(res, size)
        assert.equal("network", err.kind)
      end
    end)
  end)

  it("in a coding that is not known is no answer", function()
    for _, fields in ipairs { "Transfer-Encoding: xchunked", "Content-Encoding: lzma" } do
      local res, err = get(fields, "5\r\nhello\r\n0\r\n\r\n")
      assert.is_nil(res)
      assert.equal("protocol", err.kind)
    end
  end)

  it("with a NUL in a header is refused", function()
    local res, err = get("X: a\0b\r\nContent-Length: 5", "hello")
    assert.is_nil(res)
    assert.equal("protocol", err.kind)
  end)

  -- A server that says this once and that again and again, until the client has gone.
  local function never_ends(once, again)
    return raw.start(function(client)
      client:send(once)
      while client:send(again) do end -- luacheck: ignore
    end)
  end

  it("whose head never ends is given up at max_header", function()
    local OK = "HTTP/1.1 200 OK\r\n"
    for _, case in ipairs {
      { OK, "X: y\r\n" }, { "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" }, { OK .. "X: ", "yyyyyyyyyyyyyyyy" },
      { OK .. "X: y\r\n", " goes on\r\n" }, { OK .. "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", "X-Trailer: y\r\n" },
    } do
      local res, err = http.get(never_ends(case[1], case[2]:rep(100)).url, { retry = { base = 0 } })
      assert.is_nil(res)
      assert.same({ "too_large", 1 }, { err.kind, #err.attempts }, case[2])
    end
  end)

  describe("as a stream", function()
    local EVENTS = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

    -- Reads until the error, while this process may grow by so many bytes, if the system tells.
    local function fails_within(most, read)
      local before = weft.stats().memory.resident
      local _, err = read()
      assert.is_true(not before or weft.stats().memory.resident - before < most)
      return err
    end

    it("with a line of endless length is given up at its ceiling", function()
      for start, kind in pairs {
        ["data: "] = "too_large", ["id: "] = "too_large", ["event: "] = "too_large", ["data: 1\ndata: "] = "too_large",
        [": comment "] = "timeout", ["retry: "] = "too_large", ["unknown: "] = "timeout", -- passed over, and not kept
      } do
        local server = never_ends(EVENTS .. start, ("x"):rep(65536))
        local res = assert(http.get(server.url, { stream = true, timeout = kind == "timeout" and 0.3 or nil }))
        local err = fails_within(64 * 2 ^ 20, function() return res:read_event() end)
        assert.equal(kind, err.kind, start)
      end
      local res = assert(http.get(never_ends(EVENTS, ("x"):rep(65536)).url, { stream = true }))
      assert.equal("too_large", fails_within(64 * 2 ^ 20, function() return res:read_line() end).kind)
    end)

    it("of events without end is no danger, while it is read", function()
      local res = assert(http.get(never_ends(EVENTS, "data: x\n\n:\n\nid: 5\nretry: 1\n\n").url, { stream = true }))
      local count = 0
      local err = fails_within(32 * 2 ^ 20, function()
        for event in res:events() do
          count = count + (event.data == "x" and 1 or 0)
          if count == 100000 then res:close() break end
        end
        return nil, "done"
      end)
      assert.equal("done", err)
    end)

    it("in chunks of one byte is the same", function()
      local body = ("data: 0123456789\n\n"):rep(2000)
      local chunks = body:gsub(".", "1\r\n%0\r\n") .. "0\r\n\r\n"
      local server = sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" .. chunks)
      local res = assert(http.get(server.url, { stream = true }))
      local count = 0
      for event in res:events() do
        assert.equal("0123456789", event.data)
        count = count + 1
      end
      assert.equal(2000, count)
    end)
  end)
end)
