-- limits.lua: many tasks want the same few pages at once: each page is fetched once, and no more than so many in a second. A line
-- of progress while they work; Ctrl-C ends it.
--
-- usage: lua examples/limits.lua [TASKS] [PAGES] [PER_SECOND]
local weft = require "weft"

local tasks = tonumber(arg[1]) or 400
local pages = tonumber(arg[2]) or 20
local per_second = tonumber(arg[3]) or 20

-- All of these may be captured: every task, on whatever thread, has the same ones.
local cache = weft.dict { max = 10000, ttl = 60 }
local flights = weft.singleflight()
local limiter = weft.limiter { rate = per_second, burst = 2 }
local counts = weft.dict()

local function fetch(page)
  assert(limiter:wait())
  counts:incr "fetched"
  weft.sleep(0.03) -- what a server would take
  return "the text of page " .. page
end

-- From the cache, or from whoever fetches it already; who comes just after that looks into the cache again.
local function get(page)
  return cache:get(page) or flights:run(page, function()
    local text = cache:get(page)
    if not text then
      text = fetch(page)
      cache:set(page, text)
    end
    return text
  end)
end

local interrupted = weft.signal_context "INT"
local finished = weft.channel(1, "conflate") -- only the newest count matters
local group = weft.group(interrupted)
for i = 1, tasks do
  group:go(function()
    assert(get(i % pages + 1))
    finished:send(counts:incr "finished")
  end)
end

local ticks, count = weft.ticker(0.25), 0
while count < tasks do
  local case, value = weft.select { { recv = finished }, { recv = ticks }, { done = group.ctx } }
  if case == 1 then
    count = math.max(count, value)
  elseif case == 2 then
    io.write(("\r%d of %d tasks, %d pages fetched "):format(count, tasks, counts:get "fetched" or 0))
    io.flush()
  else
    break -- a task has failed, or Ctrl-C
  end
end
local results, err = group:wait()
group:close()
print(("\r%d of %d tasks, %d pages fetched, %s"):format(
  counts:get "finished" or 0, tasks, counts:get "fetched" or 0, results and "all well" or tostring(err)))
os.exit(results ~= nil)
