--- Models in the order of preference: the next one is asked when one fails.
-- @module weft.model.fallback
local base = require "weft.model.base"
local core = require "weft.core"
local options = require "weft.options"

local fallback = {}

--- Models of which the first that answers counts. It can be captured and sent.
-- @type model_fallback
local Fallback = core.class "weft.model.fallback"
Fallback.__index = Fallback
Fallback.__name = "weft.model.fallback"

-- Failures of one model that say nothing about the next. Content and requests that are refused, and what the caller's
-- context or arguments cause, are the same everywhere.
local default_kinds = {
  "rate_limit",
  "server",
  "timeout",
  "network",
  "quota",
  "auth",
  "bad_reply",
  "stream_truncated",
  "skipped_budget",
  "breaker_open",
  "tls",
  "protocol",
}

local function kinds_of(list)
  local kinds = {}
  for _, kind in ipairs(list) do
    kinds[kind] = true
  end
  return kinds
end

--- Makes one of several models. They may be of different providers; messages, and tools in OpenAI's shape, are
-- understood by all of them.
-- @function weft.model.fallback
-- @tparam table given a list of models (or of what @{weft.model.fallback} and @{weft.model.hedge} made), the preferred
--   one first
-- @tparam[opt] table given.on the kinds of failures after which the next one is asked; default: all but "content",
--   "request", "too_large", "invalid" and what is no failure of the model
-- @treturn model_fallback
-- @raise bad argument or unknown option
function fallback.new(given)
  local what = "weft.model.fallback"
  local members = base.members(what, given, { on = options.table }, 2)
  return setmetatable({ members = members, kinds = kinds_of(given.on or default_kinds) }, Fallback)
end

local function joined(failures)
  local last, texts = failures[#failures], {}
  for i, err in ipairs(failures) do
    texts[i] = tostring(err.message)
  end
  return core.new_error({
    kind = last.kind,
    message = ("all %d models failed: %s"):format(#failures, table.concat(texts, "; ")),
    status = last.status,
    attempts = last.attempts,
    errors = failures,
  })
end

local function ask(self, method, given)
  local failures = {}
  for i, member in ipairs(self.members) do
    local result, err = member[method](member, given)
    if result then
      rawset(result, "member", i)
      return result
    end
    failures[i] = err
    if not self.kinds[err.kind] then
      return nil, err
    end
  end
  return nil, #failures == 1 and failures[1] or joined(failures)
end

--- Asks one model after the other, until one answers.
-- @tparam table given as for @{model:chat}, without `model`
-- @treturn[1] table as @{model:chat}, with `member`: which one it was
-- @treturn[2] nil
-- @treturn[2] error the failure that no other model is asked after; or of the last model's kind, with all in `errors`
-- @raise as @{model:chat}
function Fallback:chat(given)
  base.check_chat("model:chat", given)
  base.refuse_model("model:chat", given)
  return ask(self, "chat", given)
end

--- As @{model:stream}: the next model is asked while the answer has not begun.
-- @tparam table given as for @{model:stream}, without `model`
-- @treturn[1] model_stream with `member`
-- @treturn[2] nil
-- @treturn[2] error as @{model_fallback:chat}
-- @raise as @{model:stream}
function Fallback:stream(given)
  base.check_stream("model:stream", given)
  base.refuse_model("model:stream", given)
  return ask(self, "stream", given)
end

--- As @{model:embed}. Vectors of different models cannot be compared: put only models of the same name together.
-- @tparam table given as for @{model:embed}, without `model`
-- @treturn[1] table as @{model:embed}, with `member`
-- @treturn[2] nil
-- @treturn[2] error as @{model_fallback:chat}
-- @raise as @{model:embed}
function Fallback:embed(given)
  base.check_embed("model:embed", given)
  base.refuse_model("model:embed", given)
  return ask(self, "embed", given)
end

function Fallback:__tostring()
  return "weft.model.fallback: " .. base.names(self.members)
end

return fallback
