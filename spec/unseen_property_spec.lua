-- Random groups: whatever is asked of them, in whatever order, each error of a task is either got by who asked, or comes
-- out at the end, once: raised by close, or reported by the collector. A failure prints its seed.

local leaks = require "spec.support.leaks"
local weft = require "weft"

local ROUNDS, TASKS = 150, 12

-- A generator of our own: the same numbers on both VMs.
local function generator(seed)
  return function(n)
    seed = (seed * 48271) % 2147483647
    return seed % n + 1
  end
end

local endings = {
  function()
    return "fine"
  end,
  function(_, i)
    error("task " .. i, 0)
  end,
  function(_, i)
    return nil, "task " .. i
  end,
  function(_, i)
    error { message = "task " .. i }
  end,
}

-- Starts tasks; which of them fail.
local function start(group, random, failing, from, count)
  for i = from + 1, from + count do
    local kind = random(#endings)
    group:go(endings[kind], i)
    failing[i] = kind > 1 or nil
  end
  group:join()
  return from + count
end

-- Ways to look, each with the model of what it shows: `unseen` is a set of indices.
local looks = {
  function(group, _, unseen, last)
    group:wait()
    for i = 1, last do
      unseen[i] = nil
    end
  end,
  function(group, random, unseen, last)
    local i = random(last)
    local err = group:error_of(i)
    assert.is_true(not unseen[i] or err ~= nil)
    unseen[i] = nil
  end,
  function(group, random, unseen, last)
    local i = random(last)
    group:values(i)
    unseen[i] = nil
  end,
  function(group, random, unseen)
    local count = random(4)
    for task in group:completed() do
      unseen[task:index()] = nil
      count = count - 1
      if count == 0 then
        break
      end
    end
  end,
  function(group)
    group:stats()
  end,
  function(group)
    group:wait(3600)
    return true
  end,
}

local function add(found, err)
  for _, one in ipairs(err.kind == "joined" and err.errors or { err }) do
    local index = type(one) == "table" and one.index
    if index then
      assert.is_nil(found[index], "told twice")
      found[index] = true
    end
  end
end

local ways_to_leave = {
  function(group, found)
    local ok, err = pcall(group.close, group)
    if not ok then
      add(found, err)
    end
  end,
  function(group, found)
    local ok, err = pcall(group.close, group, "the body's")
    if not ok then
      assert.equal("the body's", err.errors[1])
      add(found, err)
    end
  end,
  function() end, -- the collector's turn
}

local function play(random, pool, found)
  local group = weft.group { pool = pool, collect = true }
  local unseen, last = {}, 0
  for _ = 1, random(3) do
    last = start(group, random, unseen, last, random(TASKS))
    for _ = 1, random(3) - 1 do
      local look = looks[random(#looks)]
      if look(group, random, unseen, last) then
        unseen = {}
      end
    end
  end
  ways_to_leave[random(#ways_to_leave)](group, found)
  return unseen
end

describe("errors of tasks, whatever is asked for", function()
  before_each(leaks.before)
  after_each(function()
    weft.on_unseen(nil)
    leaks.after()
  end)

  for name, pool in pairs { inline = weft.inline, pool = weft.default_pool() } do
    it("are told once to somebody, with " .. name, function()
      for seed = 1, ROUNDS do
        local found = {}
        weft.on_unseen(function(report)
          for _, err in ipairs(report.errors) do
            add(found, err)
          end
        end)
        local unseen = play(generator(seed), pool, found)
        collectgarbage()
        collectgarbage()
        assert.same(unseen, found, "seed " .. seed)
      end
    end)
  end
end)
