--- Model servers and models for specs: started here, closed by `models.stop()`.
local socket = require "socket"
local testing = require "weft.testing"
local weft = require "weft"

local models = {}

local servers = {}

function models.server(options)
  local server = assert(testing.model_server(options))
  servers[#servers + 1] = server
  return server
end

function models.stop()
  for i = #servers, 1, -1 do
    servers[i]:close()
    servers[i] = nil
  end
end

--- A model of any kind at a server; it tries again at once, unless the options say something else.
function models.make(kind, server, options)
  local given = { base_url = server.url, model = "m", retry = { base = 0 } }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return weft.model[kind](given)
end

function models.openai(server, options)
  return models.make("openai", server, options)
end

--- Waits until read() returns what is wanted.
function models.eventually(read, wanted)
  for _ = 1, 4000 do
    if read() == wanted then
      return
    end
    socket.sleep(0.005)
  end
  error(("it is %s, not %s"):format(tostring(read()), tostring(wanted)), 2)
end

function models.counter(server, name)
  return function()
    return server:stats()[name]
  end
end

function models.body(server, number)
  local requests = server:requests()
  return assert(weft.json.decode(requests[number or #requests].body))
end

models.kinds = { "openai", "anthropic", "ollama" }

return models
