--- The stream that won a race: read by the task that asked for it, and passed on. Internal.
--
-- A stream belongs to its task, so each racer reads its own, once somebody wants it, and sends what it reads.
local core = require "weft.core"

local streams = {}

local Stream = { __name = "weft.model hedged stream" }
Stream.__index = Stream
Stream.__weft_advice = "a stream belongs to its task; read it there, and send what it brings"

-- ---- the racer ----

local function pass_on(race, i, stream)
  repeat
    local delta, err = stream:next()
    if delta then
      race.outs[i]:send(delta)
    end
    race.errors[i] = err
  until not delta
  race.results[i] = stream:result()
  race.outs[i]:close()
end

--- What a racer's task does: tells when its answer has begun, then passes it on until it is cancelled.
function streams.run(race, i, member, given)
  race.outs = race.outs or { core.channel(1), core.channel(1) }
  local stream, err = member:stream(given)
  race.outcomes[i] = { stream, err }
  if not stream then
    race.news:send(i)
    return
  end
  local ok, raised = pcall(function()
    race.news:send(i)
    pass_on(race, i, stream)
  end)
  stream:close()
  if not ok then
    error(raised, 0)
  end
end

-- ---- the reader ----

--- The winner's stream. @{model_stream} tells what its methods do.
function streams.new(race, winner)
  return setmetatable({ race = race, winner = winner, out = race.outs[winner] }, Stream)
end

local function end_race(self, result, err)
  self.is_over, self.finished, self.failure = true, result, err
  self.race.group:cancel()
  self.race.group:close()
end

--- As model_stream:next.
function Stream:next()
  if self.is_over then
    return nil, self.failure
  end
  local delta, is_open = self.out:recv()
  if is_open then
    return delta
  end
  local result = self.race.results[self.winner]
  if result then
    result.hedged, result.winner = self.hedged, self.winner
  end
  end_race(self, result, self.race.errors[self.winner])
  return nil, self.failure
end

local function next_text(self)
  local delta, err = self:next()
  if err then
    error(err, 0)
  elseif delta then
    return delta.text, delta
  end
end

--- As model_stream:deltas.
function Stream:deltas()
  return next_text, self
end

--- As model_stream:result.
function Stream:result()
  while not self.is_over do
    self:next()
  end
  return self.finished, self.failure
end

--- As model_stream:close.
function Stream:close()
  if not self.is_over then
    end_race(self, nil, core.new_error({ kind = "closed", message = "the stream was closed" }))
  end
end

function Stream:__close()
  self:close()
end

function Stream.__tostring()
  return "weft.model hedged stream"
end

return streams
