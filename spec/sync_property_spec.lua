-- Properties of channels, select, semaphores, limiters and dicts under random schedules. A failure prints its seed; run
-- that one alone with WEFT_SEED=n.
local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local SEED = tonumber(os.getenv("WEFT_SEED"))
local COURSES = os.getenv("WEFT_SAN") and 5 or 25

-- A generator of its own: the courses must not depend on who else draws.
local function generator(seed)
  local state = seed % 2147483647
  return function(most)
    state = state * 16807 % 2147483647
    return state % most + 1
  end
end

-- Runs fn(random, clock) on a virtual clock for several seeds.
local function with_seeds(fn)
  local first = SEED or os.time() % 100000 + 1
  for seed = first, SEED and first or first + COURSES - 1 do
    local ok, err = pcall(testing.virtual_clock, { seed = seed }, function(clock)
      fn(generator(seed), clock)
    end)
    if not ok then
      error(("seed %d: %s"):format(seed, tostring(err)), 0)
    end
  end
end

-- Sleeps for some of a few round times, so that things happen at the same instant often.
local function nap(random)
  weft.sleep((random(4) - 1) * 0.5)
end

-- Runs fn, which may be cut off by its own deadline; any other error fails the course.
local function cut_off(seconds, fn)
  local results, err = weft.all(weft.current():with_timeout(seconds), { fn }, { pool = weft.inline })
  if not results and not weft.is(err, "deadline") then
    error(err, 0)
  end
  return results ~= nil
end

describe("channels and select", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("lose nothing, double nothing, and keep the order of each sender", function()
    with_seeds(function(random)
      local chs, sent, received = {}, {}, {}
      for i = 1, 3 do
        chs[i] = weft.channel(random(4) - 1)
      end
      local producers = weft.waitgroup()
      assert(weft.scope({ pool = weft.inline }, function(group)
        for p = 1, 4 do
          producers:go(group, function()
            for n = 1, 15 do
              nap(random)
              local ch, value = random(3), p * 1000 + n
              local how = random(3)
              if how == 1 then
                chs[ch]:send(value)
                sent[value] = true
              elseif how == 2 then
                local index = weft.select({ { send = chs[ch], value = value }, { send = chs[1], value = value },
                  timeout = random(3) - 1 })
                sent[value] = index ~= "timeout" or nil
              else
                sent[value] = cut_off(random(3) * 0.5, function()
                  chs[ch]:send(value)
                end) or nil
              end
            end
          end)
        end
        local last = {}
        local function take(consumer, ch, value, ok)
          if not ok then
            return
          end
          assert(not received[value], "doubled " .. value)
          received[value] = true
          local key = consumer .. ":" .. ch .. ":" .. math.floor(value / 1000)
          assert(not last[key] or last[key] < value, "out of order: " .. key)
          last[key] = value
        end
        for c = 1, 3 do
          group:go(function()
            local open, left = { chs[1], chs[2], chs[3] }, 3
            while left > 0 do
              nap(random)
              local index, value, ok =
                weft.select({ { recv = open[1] }, { recv = open[2] }, { recv = open[3] }, timeout = random(5) })
              if index ~= "timeout" then
                take(c, index, value, ok)
                if not ok then
                  open[index], left = nil, left - 1
                end
              end
            end
          end)
        end
        producers:wait()
        for i = 1, 3 do
          chs[i]:close()
        end
      end))
      assert.same(sent, received)
    end)
  end)

  it("of equal cases chooses each, with a seed always the same", function()
    local function course(seed)
      local drawn = {}
      testing.virtual_clock({ seed = seed }, function()
        local ch = weft.channel()
        ch:close()
        for i = 1, 40 do
          drawn[i] = (weft.select({ { recv = ch }, { recv = ch }, { recv = ch } }))
        end
      end)
      return table.concat(drawn)
    end
    for seed = 1, 5 do
      local drawn = course(seed)
      assert.equal(drawn, course(seed))
      assert.is_true(drawn:find("1") and drawn:find("2") and drawn:find("3") and true)
    end
  end)
end)

-- Whoever asked first was served first, or at the same instant: two that were served may run in any order.
local function check_order(served_at, asked)
  local latest = 0
  for ticket = 1, asked do
    local at = served_at[ticket]
    if at then
      assert(at >= latest, "number " .. ticket .. " was overtaken")
      latest = at
    end
  end
end

describe("semaphores", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("never let in more than their size, and nobody overtakes", function()
    with_seeds(function(random, clock)
      local size = random(6) + 1
      local semaphore, held, asked, served_at = weft.semaphore(size), 0, 0, {}
      assert(weft.scope({ pool = weft.inline }, function(group)
        for _ = 1, 25 do
          group:go(function()
            nap(random)
            nap(random)
            local weight, ticket = random(size), nil
            local function enter()
              asked = asked + 1
              ticket = asked
              assert(semaphore:acquire(weight))
              held = held + weight
              assert(held <= size, "too many inside")
              served_at[ticket] = clock:now()
              local ok, raised = pcall(nap, random)
              held = held - weight
              semaphore:release(weight)
              if not ok then
                error(raised, 0)
              end
            end
            if random(3) == 1 then
              cut_off(random(4) * 0.5, enter)
            else
              enter()
            end
          end)
        end
      end))
      check_order(served_at, asked)
      assert.equal(0, semaphore:held())
      assert.equal(0, held)
    end)
  end)
end)

describe("limiters", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("never let more flow than rate and burst allow, in the order of asking, and owe nothing in the end", function()
    with_seeds(function(random, clock)
      local rate, burst = random(5), random(5)
      local limiter, start = weft.limiter({ rate = rate, burst = burst }), clock:now()
      local taken, asked, served_at = 0, 0, {}
      assert(weft.scope({ pool = weft.inline }, function(group)
        for _ = 1, 25 do
          group:go(function()
            nap(random)
            nap(random)
            local n, ticket = random(burst), nil
            local function take()
              asked = asked + 1
              ticket = asked
              local ok, err = limiter:wait(n)
              if not ok then
                assert(weft.is(err, "deadline"))
                return
              end
              served_at[ticket] = clock:now()
              taken = taken + n
              local most = burst + rate * (clock:now() - start) + 1e-3
              assert(taken <= most, ("%d taken, %g allowed"):format(taken, most))
              local what = random(4)
              if what == 1 then
                limiter:give_back(n)
                taken = taken - n
              elseif what == 2 then
                limiter:settle(n, n + 1) -- owed: one that was served before and runs later shall not count it
              end
            end
            if random(3) == 1 then
              cut_off(random(6) * 0.5, take)
            else
              take()
            end
          end)
        end
        if random(2) == 1 then
          nap(random)
          limiter:pause(random(3))
        end
      end))
      check_order(served_at, asked)
      weft.sleep(1000)
      assert(math.abs(limiter:tokens() - burst) < 1e-3)
    end)
  end)
end)

describe("dicts", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("lose no change of many threads", function()
    local seed = SEED or os.time() % 100000 + 1
    local dict, threads, each = weft.dict({ max = 8 }), 4, os.getenv("WEFT_SAN") and 200 or 1000
    local results = assert(weft.scope(function(group)
      for t = 1, threads do
        group:go(function(_, course)
          local function random(most)
            course = course * 16807 % 2147483647
            return course % most + 1
          end
          local added = 0
          for _ = 1, each do
            local key, what = random(3), random(3)
            if what == 1 then
              dict:incr(key, 2)
              added = added + 2
            elseif what == 2 then
              dict:update(key, function(value)
                return (value or 0) + 1
              end)
              added = added + 1
            else
              local old = dict:get(key)
              if dict:cas(key, old, (old or 0) + 5) then
                added = added + 5
              end
            end
          end
          return added
        end, seed + t)
      end
    end))
    local expected, sum = 0, 0
    for t = 1, threads do
      expected = expected + results[t]
    end
    for _, key in ipairs(dict:keys()) do
      sum = sum + dict:get(key)
    end
    assert.equal(expected, sum, "seed " .. seed)
  end)
end)
