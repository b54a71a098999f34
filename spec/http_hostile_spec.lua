-- What broken or hostile servers send, byte for byte, and what must come of it.

local leaks = require "spec.support.leaks"
local raw = require "spec.support.raw_server"
local weft = require "weft"

local http = weft.http

local servers = {}

-- A server that sends these bytes and closes, on every connection.
local function sends(text)
  local server = raw.start(function(client) client:send(text) end)
  servers[#servers + 1] = server
  return server
end

describe("an answer", function()
  before_each(leaks.before)

  after_each(function()
    for i = #servers, 1, -1 do
      servers[i].close()
      servers[i] = nil
    end
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
end)
