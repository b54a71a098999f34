-- Clients of a model server in specs: curl, and raw sockets for what curl would hide.

local json = require "dkjson"
local socket = require "socket"
local testing = require "weft.testing"

local clients, servers = {}, {}

function clients.start(options)
  local server = assert(testing.model_server(options))
  servers[#servers + 1] = server
  return server
end

-- ThreadSanitizer's library, preloaded for us, breaks the shell.
clients.has_shell = os.getenv("WEFT_SAN") ~= "thread"

-- As it, for a test that needs a shell.
function clients.with_shell(it, name, test)
  if clients.has_shell then
    it(name, test)
  end
end

function clients.shell(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  return output
end

function clients.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

function clients.chat(model, text)
  return json.encode({ model = model, messages = { { role = "user", content = text } } })
end

-- What curl would get, over a plain socket: { status, headers, body }.
local function without_curl(url, body, flags)
  local port, path = url:match("^http://127%.0%.0%.1:(%d+)(.*)$")
  local method = flags and flags:find("--head", 1, true) and "HEAD" or body and "POST" or "GET"
  local head = ("%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n"):format(method, path, #(body or ""))
  for header in (flags or ""):gmatch("%-H '([^']*)'") do
    head = head .. header .. "\r\n"
  end
  local client = assert(socket.connect("127.0.0.1", port))
  client:settimeout(20)
  client:send(head .. "\r\n" .. (body or ""))
  local whole, _, part = client:receive("*a")
  client:close()
  local headers, rest = (whole or part):match("(HTTP/.-\r\n)\r\n(.*)$")
  return { status = tonumber((whole or part):match("HTTP/1.1 (%d+)")), headers = headers or "", body = rest or "" }
end

-- Returns { status, headers (as one text), body, exit (of curl) }.
function clients.curl(url, body, flags)
  if not clients.has_shell then
    return without_curl(url, body, flags)
  end
  local data = body and "--data-binary " .. clients.quote(body) or ""
  local output = clients.shell(("LD_PRELOAD= curl -sS -i -m 20 %s %s %s 2>&1; code=$?; echo; echo exit $code")
    :format(flags or "", data, clients.quote(url)))
  local text, exit = output:match("^(.*)\nexit (%d+)\n$")
  local headers, rest = text:match("(HTTP/.-\r\n)\r\n(.*)$")
  return {
    status = tonumber(text:match("HTTP/1.1 (%d+)")),
    headers = headers or "",
    body = rest or text,
    exit = tonumber(exit),
  }
end

function clients.ask(server, model, text, flags)
  return clients.curl(server.url .. "/chat/completions", clients.chat(model, text), flags)
end

function clients.content(response)
  return assert(json.decode(response.body)).choices[1].message.content
end

function clients.error_of(response)
  return assert(json.decode(response.body)).error
end

-- Raw connections: the kernel's buffers hold what is sent, so that one thread can be client here.

function clients.connect(server)
  local client = assert(socket.connect("127.0.0.1", server.port))
  client:settimeout(20)
  return client
end

function clients.post(body, path)
  return ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s")
    :format(path or "/v1/chat/completions", #body, body)
end

local function receive_chunks(client)
  local chunks = {}
  while true do
    local size = tonumber(assert(client:receive("*l")), 16)
    chunks[#chunks + 1] = size > 0 and assert(client:receive(size)) or nil
    assert(client:receive("*l") == "")
    if size == 0 then
      return table.concat(chunks), chunks
    end
  end
end

-- Returns { status, headers (by name), body, chunks }.
function clients.receive(client)
  local status_line = assert(client:receive("*l"))
  local response = { status = tonumber(status_line:match("^HTTP/1.1 (%d+)")), headers = {} }
  for line in function() return assert(client:receive("*l")) end do
    if line == "" then break end
    local name, value = line:match("^([^:]+): (.*)$")
    response.headers[name:lower()] = value
  end
  local size = tonumber(response.headers["content-length"])
  response.body = size and size > 0 and assert(client:receive(size)) or ""
  if response.headers["transfer-encoding"] == "chunked" then
    response.body, response.chunks = receive_chunks(client)
  end
  return response
end

-- One request over a connection of its own; `body` is encoded.
function clients.call(server, path, body, headers)
  local client = clients.connect(server)
  local text = body and json.encode(body) or ""
  local head = ("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"):format(body and "POST" or "GET", path, #text)
  for name, value in pairs(headers or {}) do
    head = head .. name .. ": " .. value .. "\r\n"
  end
  client:send(head .. "\r\n" .. text)
  local response = clients.receive(client)
  client:close()
  response.json = json.decode(response.body)
  return response
end

clients.anthropic = { ["anthropic-version"] = "2023-06-01" }

-- The events of SSE with plain line ends: each { event, data, json }.
function clients.events(response)
  local events = {}
  for block in response.body:gmatch("(.-)\n\n") do
    local event = { event = block:match("event: ([^\n]*)"), data = block:match("data: ([^\n]*)") }
    event.json = json.decode(event.data)
    events[#events + 1] = event
  end
  return events
end

-- The lines of NDJSON, decoded.
function clients.lines(response)
  local lines = {}
  for line in response.body:gmatch("([^\n]*)\n") do
    lines[#lines + 1] = assert(json.decode(line))
  end
  return lines
end

-- Waits until the server's own thread has come so far.
function clients.eventually(server, counter, value)
  local last
  for _ = 1, 4000 do
    last = server:stats()[counter]
    if last == value then return end
    socket.sleep(0.005)
  end
  error(("%s is %s, not %s"):format(counter, last, value), 2)
end

-- For after_each: closes what was started.
function clients.close()
  for i = #servers, 1, -1 do
    servers[i]:close()
    servers[i] = nil
  end
end

return clients
