--- A second request when the first takes long: the answer that comes first counts, the other request is cancelled.
-- @module weft.model.hedge
local base = require "weft.model.base"
local core = require "weft.core"
local options = require "weft.options"
local retry = require "weft.retry"
local streams = require "weft.model.hedge_stream"

local hedge = {}

local SHARE, LEAST = 0.95, 20 -- "p95", once so many latencies are known

--- A model that asks twice. It can be captured and sent.
-- @type model_hedge
local Hedge = core.class "weft.model.hedge"
Hedge.__index = Hedge
Hedge.__name = "weft.model.hedge"

local fields = {
  after = {
    function(value)
      return value == "p95" or options.seconds[1](value)
    end,
    'a number of seconds > 0, or "p95"',
  },
}

--- Makes one of a model, or of two: then the second request goes to the other. Both requests are paid for: the loser
-- counts with what was sent. A second request takes from the retry budget of the model that it goes to, so an outage
-- does not double the load.
-- @function weft.model.hedge
-- @tparam table given a list of one or two models
-- @tparam number|string given.after seconds without an answer (of a stream: without its first part) until the second
--   request; "p95": as long as 95 of 100 of the latest answers took, and no second request before 20 are known
-- @treturn model_hedge
-- @raise bad argument or unknown option
function hedge.new(given)
  local what = "weft.model.hedge"
  local members = base.members(what, given, fields, 2)
  if #members > 2 then
    options.refuse(what, "models", "one or two models", #members, 2)
  elseif not given.after then
    options.refuse(what, "after", fields.after[2], given.after, 2)
  elseif given.after == "p95" and not base.is_model(members[1]) then
    error(('bad argument \'after\' to %s: "p95" needs a model first, which knows its latencies'):format(what), 2)
  end
  return setmetatable({ members = members, after = given.after }, Hedge)
end

-- ---- the race ----

local function delay_of(self, series)
  if self.after ~= "p95" then
    return self.after
  end
  return base.settings(self.members[1]).limits.health:quantile(series, SHARE, LEAST)
end

local function may_start(member)
  return not base.is_model(member) or retry.take_out(base.settings(member).retry.budget)
end

-- Starts run(i) as a task of the caller's state. It stores its outcome and then tells its number.
local function start(race, i)
  race.tasks[i] = race.group:go(function()
    local ok, raised = pcall(race.run, race, i)
    if not ok and not race.outcomes[i] then
      race.outcomes[i] = { nil, raised, has_raised = true }
      race.news:send(i)
    end
  end)
  race.running = race.running + 1
end

local function start_timer(race, seconds)
  race.timer = race.group:go(function()
    core.sleep(seconds)
    race.news:send(0)
  end)
end

-- Waits for the first success: its number; or for the failure of all that were started: nil.
local function decide(race, members)
  while race.running > 0 do
    local i = race.news:recv()
    if i > 0 and race.outcomes[i][1] then
      return i
    elseif i > 0 then
      race.running = race.running - 1
    elseif may_start(members[2] or members[1]) then
      race.hedged = true
      start(race, 2)
    end
  end
end

-- Runs the race. Returns the winner's number or nil, and the race, whose group is the caller's to close.
local function run_race(self, series, run)
  local race = {
    group = core.group(nil, { pool = "inline", collect = true }):_hush(),
    news = core.channel(3),
    tasks = {},
    outcomes = {},
    results = {}, -- of streams, and their errors
    errors = {},
    running = 0,
    run = run,
  }
  local ok, winner = pcall(function()
    local seconds = delay_of(self, series)
    start(race, 1)
    if seconds then
      start_timer(race, seconds)
    end
    return decide(race, self.members)
  end)
  if not ok then
    race.group:cancel()
    race.group:close()
    error(winner, 0)
  end
  return winner, race
end

local function finish(race)
  race.group:cancel()
  race.group:close()
end

local function member_of(self, i)
  return self.members[i] or self.members[1]
end

-- No request succeeded: the first one's failure.
local function fail(race)
  finish(race)
  local first = race.outcomes[1]
  if first.has_raised then
    error(first[2], 0)
  end
  return nil, first[2]
end

local function mark(race, winner, result)
  rawset(result, "hedged", race.hedged)
  rawset(result, "winner", winner)
  return result
end

-- The second request must not share the answer of the first.
local function fresh(given)
  local copy = {}
  for name, value in pairs(given) do
    copy[name] = value
  end
  copy.fresh = true
  return copy
end

local function ask(self, method, given)
  local winner, race = run_race(self, "whole", function(race, i)
    local member = member_of(self, i)
    race.outcomes[i] = { member[method](member, i == 1 and given or fresh(given)) }
    race.news:send(i)
  end)
  if not winner then
    return fail(race)
  end
  finish(race)
  return mark(race, winner, race.outcomes[winner][1])
end

--- Asks, and asks a second time when the answer takes long.
-- @tparam table given as for @{model:chat}, without `model`
-- @treturn[1] table as @{model:chat}, with `hedged`: true when there was a second request, and `winner`: 1 or 2
-- @treturn[2] nil
-- @treturn[2] error of the first request, when no request succeeded
-- @raise as @{model:chat}
function Hedge:chat(given)
  base.check_chat("model:chat", given)
  base.refuse_model("model:chat", given)
  return ask(self, "chat", given)
end

--- As @{model:embed}, asked a second time when the answer takes long.
-- @tparam table given as for @{model:embed}, without `model`
-- @treturn[1] table as @{model:embed}, with `hedged` and `winner`
-- @treturn[2] nil
-- @treturn[2] error of the first request
-- @raise as @{model:embed}
function Hedge:embed(given)
  base.check_embed("model:embed", given)
  base.refuse_model("model:embed", given)
  return ask(self, "embed", given)
end

-- ---- streams ----

--- As @{model:stream}: the request whose answer begins first counts, and the other is cancelled.
-- @tparam table given as for @{model:stream}, without `model`
-- @treturn[1] model_stream with `hedged` and `winner`
-- @treturn[2] nil
-- @treturn[2] error of the first request
-- @raise as @{model:stream}
function Hedge:stream(given)
  base.check_stream("model:stream", given)
  base.refuse_model("model:stream", given)
  local winner, race = run_race(self, "first", function(race, i)
    streams.run(race, i, member_of(self, i), given)
  end)
  if not winner then
    return fail(race)
  end
  for i, task in pairs(race.tasks) do
    if i ~= winner then
      task:cancel()
    end
  end
  if race.timer then
    race.timer:cancel()
  end
  return mark(race, winner, streams.new(race, winner))
end

function Hedge:__tostring()
  return "weft.model.hedge: " .. base.names(self.members)
end

return hedge
