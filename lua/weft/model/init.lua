--- Language models behind HTTP APIs; each kind is loaded on first use.
--
-- - `weft.model.openai{…}`: OpenAI's chat completions, and the many servers that speak the same; see
--   @{weft.model.openai}
--
-- @module weft.model
local kinds = { openai = "weft.model.openai" }

return setmetatable({}, {
  __index = function(model, name)
    if not kinds[name] then
      return nil
    end
    local make = require(kinds[name]).new
    rawset(model, name, make)
    return make
  end,
})
