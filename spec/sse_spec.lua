-- The parser alone. Its rules are tested in spec/core/test_sse.c, which this does not repeat.

local leaks = require "spec.support.leaks"
local weft = require "weft"

local STREAM = table.concat {
  "\239\187\191: welcome\n\n",
  "data: first\n\n",
  "event: delta\r\nid: 42\r\ndata: a\r\ndata: b\r\n\r\n",
  "retry: 1500\n\ndata\n\n",
  "data: unfinished\n",
}

local EVENTS = {
  { type = "message", data = "first", id = "" },
  { type = "delta", data = "a\nb", id = "42" },
  { type = "message", data = "", id = "42", retry = 1.5 },
}

local function feed_in_pieces(parser, stream, size)
  local all = {}
  for at = 1, #stream, size do
    for _, event in ipairs(assert(parser:feed(stream:sub(at, at + size - 1)))) do
      all[#all + 1] = event
    end
  end
  return all
end

describe("weft.sse", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("gives the events of a stream, whatever the pieces", function()
    for size = 1, #STREAM do
      assert.same(EVENTS, feed_in_pieces(weft.sse(), STREAM, size))
    end
  end)

  it("gives an empty list when nothing is complete", function()
    local parser = weft.sse {}
    assert.same({}, parser:feed "")
    assert.same({}, parser:feed "data: x")
    assert.same({}, parser:feed "\n")
    assert.same({ { type = "message", data = "x", id = "" } }, parser:feed "\n")
  end)

  it("keeps zero bytes and long data", function()
    local data = ("\0long "):rep(100000)
    assert.equal(data, weft.sse():feed("data: " .. data .. "\n\n")[1].data)
  end)

  it("works in a task that makes it", function()
    local group = weft.group()
    local task = group:go(function(_, stream) return #require("weft").sse():feed(stream) end, STREAM)
    assert.equal(3, task:wait())
    group:close()
  end)

  it("fails for good at max_event, with the events before", function()
    local parser = weft.sse { max_event = 10 }
    local events, err, before = parser:feed("data: 1234567890\n\ndata: 12345678901\n\ndata: x\n\n")
    assert.is_nil(events)
    assert.equal("too_large", err.kind)
    assert.equal("an event is larger than max_event (10 bytes)", err.message)
    assert.same({ { type = "message", data = "1234567890", id = "" } }, before)
    events, err, before = parser:feed "data: y\n\n"
    assert.is_nil(events)
    assert.equal("too_large", err.kind)
    assert.same({}, before)
  end)

  it("reports a lack of memory", function()
    local core = require "weft.core"
    local parser = weft.sse()
    core.fail_at("malloc", 1)
    local events, err = parser:feed "data: x"
    core.fail_at("malloc", 0)
    assert.is_nil(events)
    assert.equal("nomem", err.kind)
  end)

  it("refuses misuse by name", function()
    local function message(fn, ...) return select(2, pcall(fn, ...)) end
    local parser = weft.sse()
    assert.matches("bad argument 'bytes' to sse:feed: expected a string, got nil", message(parser.feed, parser))
    assert.matches("bad argument 'bytes' to sse:feed: expected a string, got 5", message(parser.feed, parser, 5))
    assert.matches("bad argument 'self' to sse:feed: expected weft.sse, got table", message(parser.feed, {}, ""))
    assert.matches("bad argument 'options' to weft.sse: expected a table, got 5", message(weft.sse, 5))
    assert.matches("bad argument 'max_event' to weft.sse: expected a whole number of bytes >= 1, got 0",
      message(weft.sse, { max_event = 0 }))
    assert.matches("got 1.5", message(weft.sse, { max_event = 1.5 }), nil, true)
    assert.matches("bad option 'max_events' to weft.sse: known are max_event", message(weft.sse, { max_events = 1 }))
    assert.matches("^weft.sse: 0x", tostring(parser))
  end)

  it("cannot be captured, and says what to do", function()
    local parser = weft.sse()
    local group = weft.group()
    local ok, err = pcall(group.go, group, function() return parser:feed "" end)
    group:close()
    assert.is_false(ok)
    assert.matches("upvalue 'parser'", tostring(err))
    assert.matches("make it inside of the task, or send the events", tostring(err))
  end)

  it("refuses a finalizer that feeds the parser whose events are being made", function()
    if jit then return end -- no finalizers of tables
    local parser, refused = weft.sse(), 0
    local function churn()
      setmetatable({}, { __gc = function()
        if not pcall(parser.feed, parser, "data: intruder\n\n") then refused = refused + 1 end
      end })
    end
    local stream = ("data: x\n\n"):rep(1000)
    for _ = 1, 50 do
      churn()
      for _, event in ipairs(parser:feed(stream)) do assert.equal("x", event.data) end
    end
    assert.is_true(refused > 0)
  end)
end)
