-- The options of the model server: what is refused, by name.

local clients = require "spec.support.model_client"
local testing = require "weft.testing"

local start = clients.start

describe("weft.testing.model_server", function()
  after_each(clients.close)

  describe("options", function()
    local function raises(options, message)
      local ok, err = pcall(testing.model_server, options)
      assert.is_false(ok)
      assert.equal(message, (err:gsub("(unknown option); known are [%w_, ]*$", "%1")))
    end
    local of = " to weft.testing.model_server: "
    local kinds = "status, reset, truncate, stall, pause, garbage, redirect, gzip_bomb"

    it("that are unknown are named, with those that are known", function()
      local _, err = pcall(testing.model_server, { stream = { chunk = 3 } })
      assert.match("'stream.chunk'" .. of .. "unknown option; known are .*chunks", err)
      raises({ latncy = 1 }, "bad argument 'latncy'" .. of .. "unknown option")
      raises({ 5 }, "bad argument '1'" .. of .. "unknown option")
      raises({ faults = { { status = 500, time = 1 } } },
        "bad argument 'faults[1].time'" .. of .. "unknown option")
    end)

    it("that are wrong are named, with what was expected", function()
      local seconds = of .. "expected a number of seconds >= 0, got "
      raises({ latency = 0 / 0 }, "bad argument 'latency'" .. seconds .. "nan")
      raises({ latency = "1" }, "bad argument 'latency'" .. seconds .. "string")
      raises({ jitter = -1 }, "bad argument 'jitter'" .. seconds .. "-1")
      raises({ port = 65536 },
        "bad argument 'port'" .. of .. "expected a port from 0 to 65535, got 65536")
      raises({ fault_rate = 2 },
        "bad argument 'fault_rate'" .. of .. "expected a number from 0 to 1, got 2")
      raises({ fault = { status = 500 } },
        "bad argument 'fault'" .. of .. "it needs a fault_rate above 0")
      raises({ faults = { status = 500 } },
        "bad argument 'faults'" .. of .. "expected a list of faults, got table")
      raises({ faults = { { status = 500 }, 3 } },
        "bad argument 'faults[2]'" .. of .. "expected a table, got number")
      raises({ faults = { { status = 500, truncate = 3 } } }, "bad argument 'faults[1].truncate'"
        .. of .. "a fault has only one of " .. kinds)
      raises({ faults = { { retry_after = 1 } } },
        "bad argument 'faults[1].retry_after'" .. of .. "it belongs to a status")
      raises({ fault_rate = 1, fault = { status = 500, times = 2 } }, "bad argument 'fault.times'"
        .. of .. "a random fault has no times, only a fault_rate")
      raises({ reply = "a\0b" },
        "bad argument 'reply'" .. of .. "expected a string without zero bytes, got string")
      raises({ replies = { "x" } },
        "bad argument 'replies[1]'" .. of .. "expected a table, got string")
      raises({ faults = { { stall = 1, at = "middle" } } }, "bad argument 'faults[1].at'" .. of
        .. "expected \"before\", \"headers\", \"after_headers\", \"body\", \"event\", \"end\""
        .. " or a whole number of bytes >= 0, got string")
      raises({ faults = { { status = 500, at = "body" } } },
        "bad argument 'faults[1].at'" .. of .. "it belongs to stall and pause")
      raises({ faults = { { inside = true, reset = "body" } } },
        "bad argument 'faults[1].inside'" .. of .. "it belongs to a status")
      raises({ faults = { { redirect = 307 } } }, "bad argument 'faults[1].redirect'" .. of
        .. "it needs `to`: a URL, \"same\" or \"other\"")
      raises({ faults = { { wire = { piece = 0 } } } }, "bad argument 'faults[1].wire.piece'" .. of
        .. "expected a whole number >= 1, got 0")
      raises({ stream = { chunk = 3 } }, "bad argument 'stream.chunk'" .. of .. "unknown option")
      raises({ stream = { line_end = "\n" } }, "bad argument 'stream.line_end'" .. of
        .. "expected \"lf\", \"crlf\" or \"cr\", got string")
      raises({ headers = { ["a b"] = "c" } }, "bad argument 'headers'" .. of
        .. "expected headers without line ends, and names without spaces and colons, got string")
      raises({ rate_limits = { window = 0 } }, "bad argument 'rate_limits.window'" .. of
        .. "expected a number of seconds above 0, got 0")
      raises({ models = {} }, "bad argument 'models'" .. of .. "expected at least one name, got table")
      raises({ models = { 3 } }, "bad argument 'models[1]'" .. of .. "expected the name of a model, got number")
      raises("x", "bad argument 'options'" .. of .. "expected a table, got string")
    end)

    it("of server:fault are checked as well", function()
      local server = start()
      local ok, err = pcall(server.fault, server, { reset = "after" })
      assert.is_false(ok)
      assert.equal("bad argument 'reset' to server:fault: expected \"before\", \"headers\", "
        .. "\"after_headers\", \"body\", \"event\", \"end\" or a whole number of bytes >= 0, got string", err)
      ok, err = pcall(server.fault, server, {})
      assert.is_false(ok)
      assert.equal("bad argument 'fault' to server:fault: "
        .. "expected one of " .. kinds .. ", delay, wrong_length, headers, stream, wire", err)
    end)
  end)
end)
