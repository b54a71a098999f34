-- weft.budget: reserved, settled, never overspent.

local leaks = require "spec.support.leaks"
local weft = require "weft"

describe("weft.budget", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("counts what is reserved and what is spent", function()
    local budget = weft.budget { usd = 5 }
    assert.is_true(budget:reserve(2))
    assert.same({ 0, 3, 5 }, { budget:spent(), budget:remaining(), budget:limit() })
    assert.is_false(budget:settle(2, 0.5))
    assert.same({ 0.5, 4.5, 5 }, { budget:spent(), budget:remaining(), budget:limit() })
    assert.is_true(budget:reserve(4.5))
    assert.is_false(budget:try_reserve(0.000001))
    local ok, err = budget:reserve(5)
    assert.is_nil(ok)
    assert.equal("skipped_budget", err.kind)
    assert.match("up to 5.000000 are wanted, 4.500000 of 5.000000 are left", err.message)
    budget:settle(4.5)
    assert.equal(4.5, budget:remaining())
  end)

  it("counts in whole millionths, rounded up, so that nothing is left over", function()
    local budget = weft.budget { usd = 1 }
    for _ = 1, 10 do assert.is_true(budget:reserve(0.1)) end
    assert.is_false((budget:try_reserve(0.0000001)))
    for _ = 1, 10 do budget:settle(0.1, 0.1) end
    assert.equal(1, budget:spent())
    budget = weft.budget { usd = 1 }
    budget:reserve(1 / 3)
    budget:settle(1 / 3)
    assert.equal(1, budget:remaining())
    budget:reserve(0.0000001)
    budget:settle(0.0000001, 0.0000001)
    assert.equal(0.000001, budget:spent())
  end)

  it("books what was more than reserved, and then nothing is left", function()
    local budget = weft.budget { usd = 1 }
    budget:reserve(1)
    budget:settle(1, 1.5)
    assert.same({ 1.5, 0 }, { budget:spent(), budget:remaining() })
    assert.is_nil((budget:reserve(0.1)))
  end)

  it("warns once, again after more was added", function()
    local budget = weft.budget { usd = 10, warn = 0.5 }
    local function spend(usd)
      assert(budget:reserve(usd))
      return budget:settle(usd, usd)
    end
    assert.is_false(spend(4.9))
    assert.is_false(budget:warned())
    assert.is_true(spend(0.1))
    assert.is_true(budget:warned())
    assert.is_false(spend(1))
    budget:add(10)
    assert.is_false(budget:warned())
    assert.is_false(spend(3))
    assert.is_true(spend(1))
    assert.is_false(weft.budget({ usd = 0, warn = 0 }):warned())
  end)

  it("takes more, up to a bound", function()
    local budget = weft.budget { usd = 1 }
    budget:add(5, 3)
    assert.equal(3, budget:remaining())
    budget:add(5, 3)
    assert.equal(3, budget:remaining())
    budget:reserve(2)
    budget:add(0.5, 3)
    assert.equal(1.5, budget:remaining())
    budget:add(1e9)
    assert.equal(1e9, budget:limit())
  end)

  it("is never overspent by tasks on many threads", function()
    local budget = weft.budget { usd = 1 }
    local pool = weft.pool { threads = 4 }
    local group = weft.group(nil, { pool = pool })
    for _ = 1, 8 do
      group:go(function()
        local got = 0
        for i = 1, 2000 do
          if budget:try_reserve(0.001) then
            if i % 2 == 0 then
              budget:settle(0.001)
            else
              budget:settle(0.001, 0.001)
              got = got + 1
            end
          end
        end
        return got
      end)
    end
    local results, got = assert(group:wait()), 0
    for i = 1, 8 do got = got + results[i] end
    assert.equal(1000, got)
    assert.same({ 1, 0 }, { budget:spent(), budget:remaining() })
    group:close()
    pool:close()
  end)

  it("lets who reserves wait while only reservations of others are in the way", function()
    local budget = weft.budget { usd = 1 }
    assert(budget:reserve(0.8))
    local group = weft.group(nil, { collect = true })
    for _ = 1, 3 do
      group:go(function()
        local ok, err = budget:reserve(0.3)
        if ok then budget:settle(0.3, 0.3) end
        return ok, err
      end)
    end
    budget:settle(0.8, 0.4)
    local results, err = group:wait()
    local got = 0
    for i = 1, 3 do got = got + (results[i] and 1 or 0) end
    assert.equal(2, got)
    assert.equal(1, budget:spent())
    assert.is_true(weft.is(err, "skipped_budget"))
  end)

  it("holds nothing for who was cancelled while waiting", function()
    local budget = weft.budget { usd = 1 }
    assert(budget:reserve(1))
    local group = weft.group()
    local waiting = weft.channel(1)
    local task = group:go(function()
      waiting:send(true)
      local ok, err = pcall(budget.reserve, budget, 0.5)
      return { ok, err.kind }
    end)
    waiting:recv()
    group:cancel()
    assert.same({ false, "canceled" }, task:wait())
    group:close()
    budget:settle(1)
    assert.equal(1, budget:remaining())
  end)

  it("refuses misuse by name", function()
    local budget = weft.budget { usd = 1 }
    local cases = {
      { "bad argument 'options' to weft.budget: expected a table, got nil", function() weft.budget() end },
      { "bad argument 'usd' to weft.budget: expected a number from 0 to 1e9, got nil", function() weft.budget {} end },
      { "bad argument 'usd' to weft.budget: expected a number from 0 to 1e9, got -1", function() weft.budget { usd = -1 } end },
      { "bad argument 'warn' to weft.budget: expected a share from 0 to 1, got 80",
        function() weft.budget { usd = 1, warn = 80 } end },
      { "bad option 'eur' to weft.budget: known are usd, warn", function() weft.budget { eur = 1 } end },
      { "bad argument 'usd' to budget:reserve: expected a number from 0 to 1e9, got nan",
        function() budget:reserve(0 / 0) end },
      { "budget:settle: so much is not reserved", function() budget:settle(0.5, 0) end },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(case[2])
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^.-budget_spec.lua:%d+: ", "")))
    end
    assert.match("^weft budget: ", tostring(budget))
  end)
end)
