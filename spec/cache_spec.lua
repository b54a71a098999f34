-- weft.cache: bounded, shared, values copied.

local leaks = require "spec.support.leaks"
local virtual = require "spec.support.virtual"
local weft = require "weft"

describe("weft.cache", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("keeps copies under keys", function()
    local cache = weft.cache()
    local value = { 1, { x = "y" } }
    cache:set("a", value)
    value[1] = 2
    assert.same({ 1, { x = "y" } }, cache:get "a")
    assert.is_nil(cache:get "b")
    cache:set("a", "other")
    assert.equal("other", cache:get "a")
    cache:set("a", nil)
    assert.is_nil(cache:get "a")
    cache:set("c", 1)
    cache:clear()
    assert.is_nil(cache:get "c")
  end)

  it("lets the oldest go when it is full", function()
    local cache = weft.cache { max = 3 }
    for i = 1, 10 do
      cache:set("key " .. i, i)
      cache:set("key " .. i, i) -- the same entry again
    end
    for i = 1, 7 do assert.is_nil(cache:get("key " .. i)) end
    for i = 8, 10 do assert.equal(i, cache:get("key " .. i)) end
  end)

  it("lets entries go after their time", virtual.virtually(function(clock)
    local cache = weft.cache { ttl = 60 }
    cache:set("a", 1)
    clock:advance(59.9)
    assert.equal(1, cache:get "a")
    clock:advance(0.1)
    assert.is_nil(cache:get "a")
  end))

  it("is shared by tasks on all threads", function()
    local cache = weft.cache { max = 100 }
    assert(weft.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function(i)
      for n = 1, 50 do cache:set(("%d %d"):format(i, n), n) end
      return true
    end, { chunk = 1 }))
    local found = 0
    for i = 1, 8 do
      for n = 1, 50 do
        local value = cache:get(("%d %d"):format(i, n))
        if value then
          assert.equal(n, value)
          found = found + 1
        end
      end
    end
    assert.is_true(found > 0 and found <= 100)
  end)

  it("refuses misuse by name", function()
    local ok, err = pcall(function() weft.cache { max = 0 } end)
    assert.is_false(ok)
    assert.match("cache_spec.lua:%d+: bad argument 'max' to weft.cache: expected a whole number >= 1, got 0$", err)
  end)
end)
