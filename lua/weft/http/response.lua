--- Whole answers. Internal; the class is documented in weft.http.
local core = require "weft.core"
local streams = require "weft.http.stream"

local Response = core.class "weft.http.response"
Response.__index = Response

function Response:json()
  return streams.decode(self.body, self.status)
end

streams.refuse_on(Response)

function Response:__tostring()
  return ("weft.http response: status %d, %d bytes"):format(self.status, #self.body)
end

return Response
