-- weft.map and weft.stream: bounded parallel loops over lists and iterators.

local weft = require "weft"
local leaks = require "spec.support.leaks"

local function numbers(n)
  local items = {}
  for i = 1, n do
    items[i] = i
  end
  return items
end

local function square(x)
  return x * x
end

-- The highest number of items that were in `fn` at once, as counted by the items themselves.
local function highest(run, n, limit)
  local inside, seen = weft.semaphore(1000), weft.channel(n)
  run(numbers(n), function()
    inside:acquire()
    seen:send(inside:held())
    weft.sleep(0)
    inside:release()
  end, limit)
  local high = 0
  seen:close()
  for held in seen:iter() do
    high = math.max(high, held)
  end
  return high
end

describe("weft.map", function()
  before_each(leaks.before)
  after_each(leaks.after)

  it("returns results in the order of the items, with n", function()
    for _, n in ipairs { 0, 1, 2, 7, 100, 1000, 20000 } do
      local results, err = weft.map(numbers(n), square)
      assert.is_nil(err)
      assert.equal(n, results.n)
      for i = 1, n do
        assert.equal(i * i, results[i])
      end
      assert.is_nil(results[n + 1])
    end
  end)

  it("passes the item, a context and the index", function()
    local results = assert(weft.map({ "a", "b" }, function(item, ctx, index)
      return { item, weft.is_context(ctx), index, ctx:err() }
    end))
    assert.same({ { "a", true, 1 }, { "b", true, 2 }, n = 2 }, results)
  end)

  it("keeps nil, false and tables as results", function()
    local results = assert(weft.map({ 1, 2, 3, 4 }, function(x)
      if x == 2 then
        return nil
      elseif x == 3 then
        return false
      end
      return { x }
    end))
    assert.same({ { 1 }, nil, false, { 4 }, n = 4 }, results)
  end)

  it("takes a context in front, and options behind", function()
    local ctx = weft.background():with_value("unit", "km")
    local results = assert(weft.map(ctx, { 1, 2 }, function(x, item_ctx)
      return x .. item_ctx:value("unit")
    end, { limit = 1 }))
    assert.same({ "1km", "2km", n = 2 }, results)
    assert.same({ 1, 4, n = 2 }, weft.map(nil, { 1, 2 }, square))
  end)

  it("reads an iterator to its end", function()
    local results = assert(weft.map(("a b c d"):gmatch("%a"), string.upper))
    assert.same({ "A", "B", "C", "D", n = 4 }, results)
    local channel = weft.channel(100)
    for i = 1, 100 do
      channel:send(i)
    end
    channel:close()
    local next_value, state = channel:iter()
    results = assert(weft.map(function()
      return (next_value(state))
    end, square, { limit = 3, chunk = 7 }))
    assert.equal(100, results.n)
    assert.equal(10000, results[100])
  end)

  it("gives the same results with any limit, chunk and pool", function()
    local pool = weft.pool { threads = 3 }
    local expected = weft.map(numbers(50), square)
    for _, opts in ipairs {
      { limit = 1 }, { limit = 2 }, { limit = 7 }, { limit = 1000 }, { chunk = 1 }, { chunk = 3, limit = 2 },
      { chunk = 1000 }, { chunk = 50, limit = 1 }, { pool = weft.inline }, { pool = weft.inline, limit = 3 },
      { pool = pool }, { pool = pool, limit = 5, chunk = 2 }, { collect = true },
    } do
      assert.same(expected, weft.map(numbers(50), square, opts))
    end
    pool:close()
  end)

  it("runs no more than limit items at once, and so many when they wait", function()
    for _, limit in ipairs { 1, 2, 3, 10, 37 } do
      local high = highest(weft.map, 200, { limit = limit })
      assert.is_true(high <= limit, high .. " at once, limit " .. limit)
    end
    local limit, gate = 40, weft.waitgroup()
    gate:add(limit)
    assert(weft.map(numbers(limit), function()
      gate:done()
      gate:wait() -- ends only when all are here
    end, { limit = limit }))
  end)

  it("shares the caller's variables with weft.inline", function()
    local sum = 0
    assert(weft.map(numbers(10), function(x)
      weft.sleep(0)
      sum = sum + x
    end, { pool = weft.inline }))
    assert.equal(55, sum)
  end)

  it("stops at the first failure, and names the item", function()
    local results, err = weft.map(numbers(500), function(x)
      if x == 123 then
        error("not this one", 0)
      elseif x > 123 then
        weft.sleep(math.huge)
      end
    end, { limit = 500 })
    assert.is_nil(results)
    assert.equal(123, err.index)
    assert.equal("not this one", err.message)
    assert.truthy(err.traceback)
    assert.truthy(tostring(err):find("^item 123 .*failed: not this one$"), tostring(err))
  end)

  it("takes nil, err for a failure", function()
    local results, err = weft.map({ 1, 2, 3 }, function(x)
      if x == 2 then
        return nil, "two is out"
      end
      return x
    end)
    assert.is_nil(results)
    assert.equal(2, err.index)
    assert.equal("two is out", err.message)
  end)

  it("reads no further items after a failure", function()
    local read = 0
    local results = weft.map(function()
      read = read + 1
      return read
    end, function(x)
      return nil, "no " .. x
    end, { limit = 2 })
    assert.is_nil(results)
    assert.is_true(read < 100)
  end)

  it("collects all failures in the order of the items", function()
    for _, opts in ipairs { { collect = true }, { collect = true, limit = 3 }, { collect = true, chunk = 100 } } do
      local results, err = weft.map(numbers(300), function(x)
        if x % 3 == 0 then
          error({ number = x })
        elseif x % 50 == 1 then
          weft.sleep(0)
        end
        return x
      end, opts)
      assert.equal(300, results.n)
      assert.equal("joined", err.kind)
      assert.equal(100, #err.errors)
      assert.truthy(err.message:find("100 of 300 items failed; the first: item 3", 1, true), err.message)
      for i = 1, 100 do
        assert.equal(3 * i, err.errors[i].index)
        assert.equal(3 * i, err.errors[i].value.number)
        assert.is_nil(results[3 * i])
        assert.equal(3 * i - 1, results[3 * i - 1])
      end
    end
  end)

  it("names an item or a result that cannot be sent", function()
    assert.error_matches(function()
      weft.map({ 1, { io.stdout } }, square)
    end, "^item 2%[1%]: userdata FILE%* cannot be sent; open it inside the task")
    local results, err = weft.map({ 1, 2, 3 }, function(x)
      return x == 2 and io.stdout or x
    end)
    assert.is_nil(results)
    assert.equal(2, err.index)
    assert.truthy(err.message:find("the result: userdata FILE* cannot be sent", 1, true), err.message)
    results, err = weft.map({ 1, 2, 3 }, function(x)
      return x == 2 and { io.stdout } or x
    end, { collect = true, chunk = 3 })
    assert.equal(3, results.n)
    assert.equal(3, #err.errors) -- one chunk, one message
    assert.truthy(err.message:find("the first: item 2", 1, true), err.message)
    assert.truthy(err.errors[1].message:find("lost", 1, true))
    assert.equal(err.errors[2].message, err.errors[3].cause.message)
  end)

  it("raises what an iterator raises, and leaves nothing running", function()
    local i = 0
    assert.error_matches(function()
      weft.map(function()
        i = i + 1
        if i == 5 then
          error("the source broke", 0)
        end
        return i
      end, function()
        weft.sleep(math.huge)
      end, { limit = 10 })
    end, "^the source broke$")
  end)

  it("raises when its context or the caller's is done", function()
    local ctx = weft.background():with_cancel()
    local started = weft.channel(100)
    local group = weft.group()
    group:go(function()
      started:recv()
      ctx:cancel("stop the map")
    end)
    local ok, err = pcall(weft.map, ctx, numbers(20), function()
      started:try_send(true)
      weft.sleep(math.huge)
    end)
    assert.is_false(ok)
    assert.equal("canceled", err.kind)
    assert.equal("stop the map", err.cause.message)
    group:close()
    local outer = weft.group()
    local task = outer:go(function(task_ctx)
      local begun = weft.channel(10)
      local inner = weft.group { pool = weft.inline }
      inner:go(function()
        begun:recv()
        task_ctx:cancel("from above")
      end)
      weft.map({ 1, 2 }, function()
        begun:try_send(true)
        weft.sleep(math.huge)
      end)
    end)
    local _, task_err = task:wait()
    assert.equal("canceled", task_err.kind)
    outer:close()
  end)

  it("with a context that is done calls nothing", function()
    local ctx, called = weft.background():with_cancel(), weft.channel(10)
    ctx:cancel()
    local ok, err = pcall(weft.map, ctx, { 1, 2 }, function()
      called:send(true)
    end)
    assert.is_false(ok)
    assert.equal("canceled", err.kind)
    assert.equal(0, #called)
  end)

  it("with a closed pool returns the error", function()
    local pool = weft.pool { threads = 1 }
    pool:close()
    local results, err = weft.map({ 1, 2 }, square, { pool = pool })
    assert.is_nil(results)
    assert.equal("closed", err.kind)
  end)

  it("may be nested", function()
    local results = assert(weft.map({ 3, 4 }, function(n)
      local items = {}
      for i = 1, n do
        items[i] = i
      end
      local inner, sum = assert(weft.map(items, square)), 0
      for _, v in ipairs(inner) do
        sum = sum + v
      end
      return sum
    end))
    assert.same({ 14, 30, n = 2 }, results)
  end)

  it("refuses bad arguments", function()
    local bad = {
      { "bad argument 'fn' to weft.map: expected a function, got nil", { 1 } },
      { "bad argument 'items' to weft.map: expected a list or an iterator, got 42", nil, 42, square },
      { "bad argument 'ctx' to weft.map: expected a weft context, got number", 42, {}, square },
      { "bad argument 'options' to weft.map: expected a table, got number", {}, square, 3 },
      { "bad option 'limits' to weft.map: known are chunk, collect, limit, pool", {}, square, { limits = 1 } },
      { "bad argument 'limit' to weft.map: expected a whole number >= 1, got 0", {}, square, { limit = 0 } },
      { "bad argument 'limit' to weft.map: expected a whole number >= 1, got string", {}, square, { limit = "3" } },
      { "bad argument 'chunk' to weft.map: expected a whole number >= 1, got 1.5", {}, square, { chunk = 1.5 } },
      { "bad argument 'pool' to weft", {}, square, { pool = "outline" } },
      { "bad argument 'pool' to weft", {}, square, { pool = 3 } },
    }
    for _, case in ipairs(bad) do
      local ok, err = pcall(weft.map, case[2], case[3], case[4], case[5])
      assert.is_false(ok)
      assert.truthy(tostring(err):find(case[1], 1, true), tostring(err))
    end
  end)
end)

describe("weft.stream", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local function gather(...)
    local values, errors, n = {}, {}, 0
    for i, value, err in weft.stream(...) do
      values[i], errors[i], n = value, err, n + 1
    end
    return values, errors, n
  end

  it("hands every result out once, with its index", function()
    for _, n in ipairs { 0, 1, 5, 300, 5000 } do
      local values, errors, count = gather(numbers(n), square)
      assert.equal(n, count)
      assert.same({}, errors)
      for i = 1, n do
        assert.equal(i * i, values[i])
      end
    end
  end)

  it("hands results out in the order of completion", function()
    local gates = { weft.channel(1), weft.channel(1), weft.channel(1) }
    local order = {}
    gates[2]:send(true)
    for i in weft.stream({ 1, 2, 3 }, function(k)
      gates[k]:recv()
      return k
    end) do
      order[#order + 1] = i
      local after = ({ [2] = 3, [3] = 1 })[i]
      if after then
        gates[after]:send(true)
      end
    end
    assert.same({ 2, 3, 1 }, order)
  end)

  it("goes on after a failure", function()
    local values, errors = gather({ 1, 2, 3 }, function(x)
      if x == 2 then
        error("two", 0)
      end
      return x
    end)
    assert.same({ 1, nil, 3 }, values)
    assert.equal("two", errors[2].message)
    assert.truthy(tostring(errors[2]):find("item 2", 1, true))
  end)

  it("reads no more items than run at once", function()
    local read, done = 0, 0
    for _ in weft.stream(function()
      if read < 100 then
        read = read + 1
        return read
      end
    end, square, { limit = 4 }) do
      assert.is_true(read - done <= 4)
      done = done + 1
    end
    assert.equal(100, done)
  end)

  it("runs no more than limit items at once", function()
    local high = highest(function(...)
      for _ in weft.stream(...) do -- luacheck: ignore
      end
    end, 100, { limit = 3 })
    assert.is_true(high <= 3)
  end)

  it("left early cancels what runs", function()
    local started, ended = weft.channel(10), weft.channel(10)
    do
      local count = 0
      for _ in weft.stream(numbers(5), function(x) -- luacheck: ignore 512
        if x == 1 then
          started:recv() -- not before another one waits
          return x
        end
        started:send(true)
        local _, raised = pcall(weft.sleep, math.huge)
        ended:try_send(raised.kind)
      end, { limit = 5 }) do
        count = count + 1
        break
      end
      assert.equal(1, count)
    end
    if jit then -- whose loops end nothing; the collector does
      jit.flush()
      collectgarbage()
      collectgarbage()
    end
    assert.equal("canceled", (ended:recv()))
  end)

  it("stays flat in memory", function()
    local sum = 0
    collectgarbage()
    local before
    for i, value in weft.stream(function()
      sum = sum + 1
      return sum <= 20000 and sum or nil
    end, square, { limit = 16 }) do
      assert.equal(i * i, value)
      if i == 1000 or i == 20000 then
        collectgarbage()
        collectgarbage()
        before = before or collectgarbage("count")
      end
    end
    assert.is_true(collectgarbage("count") - before < 1000)
  end)

  it("raises when its context is done", function()
    local ctx = weft.background():with_cancel()
    local ok, err = pcall(function()
      for i in weft.stream(ctx, numbers(1000), square, { limit = 2 }) do
        if i == 3 then
          ctx:cancel("seen enough")
        end
      end
    end)
    assert.is_false(ok)
    assert.equal("canceled", err.kind)
  end)

  it("names an item that cannot be sent", function()
    assert.error_matches(function()
      gather({ 1, { io.stdout } }, square)
    end, "^item 2%[1%]: userdata FILE%* cannot be sent")
  end)

  it("refuses bad arguments", function()
    assert.error_matches(function()
      weft.stream(3, square)
    end, "bad argument 'ctx' to weft.stream")
    assert.error_matches(function()
      weft.stream(nil, 3, square)
    end, "bad argument 'items' to weft.stream: expected a list or an iterator, got 3")
    assert.error_matches(function()
      weft.stream({}, square, { collect = true })
    end, "bad option 'collect' to weft.stream: known are limit, pool")
  end)
end)
