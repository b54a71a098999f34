--- Whole answers. Internal; the class is documented in weft.http.
local core = require "weft.core"
local streams = require "weft.http.stream"

local Response = core.class "weft.http.response"

-- Most answers are not asked for these: what came is made a table by the first who asks.
local made_of = { headers = "_head", timings = "_times" }
local make = { headers = core.http_headers, timings = core.http_timings }

local function field(self, name)
  local source = made_of[name]
  local text = rawget(self, source)
  if text then
    rawset(self, name, make[name](text))
    rawset(self, source, nil)
  end
  return rawget(self, name)
end

function Response:__index(name)
  if made_of[name] then
    return field(self, name)
  end
  return Response[name]
end

-- Lua 5.4 asks for it.
function Response:__pairs()
  for name in pairs(made_of) do
    field(self, name)
  end
  return next, self, nil
end

function Response:json()
  return streams.decode(self.body, self.status)
end

streams.refuse_on(Response)

function Response:__tostring()
  return ("weft.http response: status %d, %d bytes"):format(self.status, #self.body)
end

return Response
