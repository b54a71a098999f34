-- Random programs with timers, channels, semaphores, transfers and groups, on one processor and on two, with
-- weft.inline and with threads: those that can end never hear of a deadlock; those that cannot always do.
-- A failure prints its seed.

local script = require "spec.support.script"

local PROGRAMS = os.getenv("WEFT_SAN") and 20 or 150

local CODE = [[
local first, count, is_virtual = %d, %d, %s
local weft = require "weft"
local testing = require "weft.testing"
local server = assert(testing.model_server({ latency = 0.001 }))

local function random_of(seed)
  local state = seed * 7919 + 1
  return function(n)
    state = (state * 16807) %% 2147483647
    return math.floor(state / 7) %% n + 1
  end
end

-- Each of `tasks` sends `messages` around a ring of channels, with pauses of all kinds in between.
local function ring(seed, breaks)
  local random = random_of(seed)
  local tasks, messages = random(6) + 1, random(8)
  local capacity, url = random(3) - 1, server.url
  local channels = {}
  for i = 1, tasks do
    channels[i] = weft.channel(capacity)
  end
  local broken = breaks and random(tasks)
  local semaphore = weft.semaphore(1)
  local options = {}
  if random(3) == 1 then
    options.pool = weft.inline
  end
  local sub_seed = random(1000000)
  return weft.scope(options, function(g)
    for i = 1, tasks do
      local from, to = channels[i], channels[i %% tasks + 1]
      local is_first, is_broken = i == 1, i == broken
      g:go("member" .. i, function()
        local state = sub_seed + i
        local function chance(n)
          state = (state * 16807) %% 2147483647
          return math.floor(state / 7) %% n + 1
        end
        for round = 1, messages do
          local value = round
          if not is_first then
            value = from:recv()
          end
          local what = chance(12)
          if what == 1 then
            weft.sleep(chance(3) / 1000)
          elseif what == 2 then
            weft.sleep(0)
          elseif what == 3 then
            semaphore:acquire()
            weft.sleep(chance(2) / 2000)
            semaphore:release()
          elseif what == 4 then
            local sum = 0
            for k = 1, chance(30000) do
              sum = sum + k
            end
          elseif what == 5 then
            assert(weft.http.get(url .. "/health"))
          elseif what == 6 then
            assert(weft.scope(function(h)
              h:go(function()
                weft.sleep(0.001)
              end)
              h:go(function() end)
            end))
          elseif what == 7 then
            weft.select({ { recv = weft.channel() }, timeout = 0.001 })
          elseif what == 8 then
            local pool = weft.pool({ threads = 1 })
            assert(weft.scope({ pool = pool }, function(h)
              h:go(function()
                weft.sleep(0.001)
              end)
            end))
            pool:close()
          elseif what == 9 then
            local ctx = weft.background():with_timeout(0.001)
            local _, err = weft.scope(ctx, function(h)
              h:go(function()
                weft.channel():recv()
              end)
            end)
            assert(not err or err.kind == "deadline", tostring(err)) -- none when it was too late to start one
          elseif what == 10 then
            local group = weft.group()
            local task = group:go(function()
              weft.channel():recv()
            end)
            if chance(2) == 1 then
              weft.sleep(0)
            end
            task:cancel()
            group:wait()
            group:close()
          end
          if is_broken and round == messages then
            weft.channel():recv() -- nobody has the other end
          end
          to:send(value)
          if is_first then
            assert(from:recv() == round)
          end
        end
        return true
      end)
    end
  end)
end

for seed = first, first + count - 1 do
  local breaks = seed %% 3 == 0
  local clock = is_virtual and testing.virtual_clock({ seed = seed + 1 })
  local ok, results, err = pcall(ring, seed, breaks)
  if clock then
    clock:close()
  end
  local failure = not ok and results or not results and err
  if breaks and (not failure or failure.kind ~= "deadlock") then
    print("seed " .. seed .. ": the deadlock was not seen: " .. tostring(failure))
    os.exit(1)
  elseif not breaks and failure then
    print("seed " .. seed .. ": a false alarm: " .. tostring(failure))
    os.exit(1)
  end
end
server:close()
print "all as expected"
]]

if os.getenv("WEFT_SAN") == "thread" then -- no other process runs with it preloaded
  return
end

describe("random programs", function()
  for _, processors in ipairs({ "0", "0,1" }) do
    for _, is_virtual in ipairs({ false, true }) do
      local clock = is_virtual and "virtual" or "real"
      it(("are judged rightly on processors %s, with a %s clock"):format(processors, clock), function()
        local seed = os.time() % 100000 * 10
        local ended = script.run(CODE:format(seed, PROGRAMS, tostring(is_virtual)), "taskset -c " .. processors)
        assert.equal(0, ended.status, ended.out)
        assert.equal("all as expected\n", ended.out)
      end)
    end
  end
end)
