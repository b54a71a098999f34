--- Fails a test that leaves something of weft's alive. In a spec file:
--
--     local leaks = require "spec.support.leaks"
--     before_each(leaks.before)
--     after_each(leaks.after)
--
-- or around one function: `leaks.check(fn)`.
--
-- What is compared: the process's groups, contexts, errors, pools, channels, semaphores, waitgroups, limiters,
-- dicts, flights of singleflights, tickers, timers, transfers, quotas of HTTP clients, budgets and threads, and
-- this state's tasks and parked callers. None may have grown.
--
-- Not compared: the code of shipped closures, a cache by design; the default pool with its threads,
-- which live as long as the process; the I/O thread, which is started here. The Lua states of the
-- default pool hold handles that they were sent until they collect garbage, so each of them is made
-- to. On LuaJIT compiled code holds captured values as well, so it is thrown away first. Pools of a
-- test's own must be closed by it, or collected: their states go with their threads.
--
-- What ends by itself in the background (a thread of a closed pool, a task of a dropped group, the
-- timer that ticks while workers are busy) is given time to: the check polls, and what is still alive
-- after the limit is a leak.
local core = require "weft.core"

local leaks = {}

local COUNTED = {
  "groups", "contexts", "errors", "pools", "channels", "semaphores", "waitgroups", "limiters", "timers",
  "dicts", "flights", "tickers",
  "transfers", "http_quotas", "budgets", "healths", "tasks", "parked", "threads",
}
local LIMIT = 10 -- seconds until what is alive counts as leaked
local POLLS, PAUSE = 20, 0.005 -- between two collections everywhere; the busy workers' tick is 0.01 s
local TURNS = 200

local function collect_here()
  if jit then
    jit.flush()
  end
  collectgarbage()
  collectgarbage()
end

-- In a worker; `round` is another one each time. Whoever has a turn already keeps its thread busy for a moment, so that others get one.
local function collect(_, round, keep_busy)
  local is_new = _G.collected_in ~= round
  if is_new then
    if os.getenv "SPEC_GC" == "hostile" then
      collectgarbage("setpause", 0)
      collectgarbage("setstepmul", 1000)
    end
    collect_here()
    _G.collected_in = round
  end
  for _ = 1, keep_busy do
    math.random()
  end
  return is_new
end

local function fresh_ones(results)
  local count = 0
  for i = 1, results.n do
    count = count + (results[i] and 1 or 0)
  end
  return count
end

-- Runs two full collections in each state of the default pool.
local function collect_on_workers()
  local pool = core.default_pool()
  local threads, seen = pool:stats().threads, 0
  local round = core.now()
  for turn = 1, TURNS do
    local group = core.group({ pool = pool })
    for _ = 1, threads do
      group:go(collect, round, turn * 1000)
    end
    seen = seen + fresh_ones(assert(group:wait()))
    group:close()
    if seen >= pool:stats().threads then
      return
    end
  end
end

local function count()
  local counts = core.stats()
  counts.threads = counts.threads - core.default_pool():stats().threads
  return counts
end

local function grown(before)
  local now, names = count(), {}
  for _, name in ipairs(COUNTED) do
    if now[name] > before[name] then
      names[#names + 1] = ("%s: %d, were %d"):format(name, now[name], before[name])
    end
  end
  return #names > 0 and table.concat(names, "; ") or nil
end

-- Whether all is gone, or goes while this polls.
local function settles(before)
  for _ = 1, POLLS do
    if not grown(before) then
      return true
    end
    core.sleep(PAUSE)
  end
  return false
end

--- What is alive now.
-- @treturn table counts by name
function leaks.snapshot()
  collect_here()
  return count()
end

--- Raises unless all that was made after the snapshot is gone, or goes soon.
-- @tparam table before
function leaks.verify(before)
  collect_here()
  if not grown(before) then
    return
  end
  local deadline = core.now() + LIMIT
  repeat
    collect_on_workers()
    collect_here()
  until settles(before) or core.now() > deadline
  local names = grown(before)
  if names then
    error("leaked: " .. names, 2)
  end
end

--- Calls a function and raises if something that it made is still alive.
-- @tparam function fn
function leaks.check(fn)
  local before = leaks.snapshot()
  fn()
  leaks.verify(before)
end

local at_start

function leaks.before()
  at_start = leaks.snapshot()
end

function leaks.after()
  local before = at_start
  at_start = nil
  leaks.verify(before)
end

core.background():with_timeout(1000):cancel() -- starts the I/O thread
collect_on_workers()

return leaks
