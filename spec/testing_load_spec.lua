-- The model server under load: many connections, many streams, many requests, and no growth.

local clients = require "spec.support.model_client"
local json = require "dkjson"
local testing = require "weft.testing"

local sanitized = (os.getenv("WEFT_SAN") or "") ~= ""

local function resident_kib()
  local file = assert(io.open("/proc/self/status"))
  local size = file:read("*a"):match("VmRSS:%s*(%d+)")
  file:close()
  return tonumber(size)
end

local function interpreter()
  local name = "lua"
  for i = -1, -10, -1 do
    name = arg[i] and not arg[i]:match("^%-") and arg[i] or name
  end
  return name
end

local with_shell = clients.with_shell

describe("weft.testing.model_server holds", function()
  after_each(clients.close)

  with_shell(it, "10,000 connections at once, and 10,000 streams on them", function()
    local count = 10000
    local options = { record = 0, connections = count, faults = {
      { stall = math.huge, at = "body", times = count, only = "stream" },
    } }
    local possible, why = testing.model_server(options)
    if not possible then
      return pending(why)
    end
    possible:close()
    local server = clients.start(options)
    local name = os.tmpname()
    local file = assert(io.open(name, "wb"))
    file:write(clients.post(json.encode({ model = "m", stream = true, messages = { { role = "user", content = "hi" } } })))
    file:close()
    local before = resident_kib()
    local crowd = io.popen(("ulimit -n 10100; exec %s spec/support/crowd.lua %d %d %s")
      :format(interpreter(), server.port, count, name), "w")
    clients.eventually(server, "in_flight", count)
    local grown = resident_kib() - before
    assert.equal(count, server:stats().open)
    assert.equal(200, clients.ask(server, "m", "hi").status)
    crowd:close()
    os.remove(name)
    clients.eventually(server, "open", 0)
    local stats = server:stats()
    assert.equal(count, stats.abandoned)
    assert.equal(0, stats.in_flight)
    if not sanitized then
      assert.is_true(grown < count * 8, grown .. " KiB") -- 8 KiB a connection with its stream
    end
  end)

  it("400 streams at once, to their ends", function()
    local server = clients.start({ reply = { tokens = 20 }, stream = { delay = 0.002 }, record = 0 })
    local request = clients.post(json.encode({ model = "m", stream = true, messages = { { role = "user", content = "" } } }))
    local crowd = {}
    for i = 1, 400 do
      crowd[i] = clients.connect(server)
      crowd[i]:send(request)
    end
    for i = 1, #crowd do
      local response = clients.receive(crowd[i])
      assert.match("data: %[DONE%]\n\n$", response.body)
      crowd[i]:close()
    end
    assert.equal(0, server:stats().in_flight)
  end)

  it("200,000 requests without growing", function()
    local server = clients.start({ record = 100, faults = { { status = 500, times = 1000 } } })
    local client = clients.connect(server)
    client:settimeout(20)
    local request = clients.post(clients.chat("m", "hi"))
    local function run(count)
      client:send(request:rep(count))
      for _ = 1, count do
        local size
        repeat
          local line = assert(client:receive("*l"))
          size = tonumber(line:match("^Content%-Length: (%d+)$")) or size
        until line == ""
        assert(client:receive(size))
      end
    end
    run(1000)
    local before = resident_kib()
    local rounds = sanitized and 10 or 199
    for _ = 1, rounds do
      run(1000)
    end
    client:close()
    assert.equal((rounds + 1) * 1000, server:stats().requests)
    if not sanitized then
      assert.is_true(resident_kib() - before < 4096, resident_kib() - before .. " KiB")
    end
  end)

  it("a stream that nobody reads, in little memory", function()
    local server = clients.start({ reply = { tokens = 1000000 }, record = 0 })
    local client = clients.connect(server)
    local before = resident_kib()
    client:send(clients.post(json.encode({ model = "m", stream = true, messages = { { role = "user", content = "" } } })))
    assert.equal("HTTP/1.1 200 OK", client:receive("*l"))
    if not sanitized then
      -- the text itself is 4 MB; the events that it becomes are fifty times that
      assert.is_true(resident_kib() - before < 16384, resident_kib() - before .. " KiB")
    end
    client:close()
    clients.eventually(server, "open", 0)
  end)

  it("says how many connections it cannot hold", function()
    local server, err = testing.model_server({ connections = 1000000 })
    if server then
      server:close()
      return pending("this machine allows a million descriptors")
    end
    assert.match("^1000000 connections need 1000064 descriptors, and the limit of this process is %d+ %(ulimit %-Hn%)$", err)
  end)

  with_shell(it, "no more connections than there are descriptors, and goes on when some are free", function()
    local script = [[
      local clients = require "spec.support.model_client"
      local server = clients.start()
      local crowd = {}
      while server:stats().starved == 0 do
        local client = require("socket").connect("127.0.0.1", server.port)
        if not client then break end
        crowd[#crowd + 1] = client
      end
      for _, client in ipairs(crowd) do client:close() end
      clients.eventually(server, "open", 0)
      local client = clients.connect(server)
      client:send(clients.post(clients.chat("m", "hi")))
      print(clients.content(clients.receive(client)))
    ]]
    local output = clients.shell(("ulimit -n 64; %s -e %s 2>&1"):format(interpreter(), clients.quote(script)))
    assert.equal("echo: hi\n", output)
  end)
end)
