-- What an event of a stream costs in Lua: many tasks, each in a loop over the events of its stream.
--
-- usage: lua5.4 bench/stream.lua [streams] [events]       (1000, 100); `make bench-stream` runs it on both VMs
local weft = require "weft"

local streams, events = tonumber(arg[1] or 1000), tonumber(arg[2] or 100)
local pipe = assert(io.popen(("build/c/bench_stream --serve %d %d"):format(streams, events)))
local url = ("http://127.0.0.1:%d/"):format(assert(pipe:read "*n"))

local function resident()
  local file = io.open "/proc/self/status"
  local kilobytes = file and file:read("*a"):match "VmRSS:%s*(%d+)" or 0
  if file then
    file:close()
  end
  return tonumber(kilobytes)
end

local memory, cpu, started = resident(), os.clock(), weft.now()
local group = weft.group()
for _ = 1, streams do
  group:go(function()
    local res = assert(weft.http.get(url, { stream = true }))
    local count = 0
    for event in res:events() do
      count = count + (#event.data > 0 and 1 or 0)
    end
    return count
  end)
end
local counts, err = group:wait()
assert(counts, tostring(err))
local total = 0
for i = 1, streams do
  total = total + counts[i]
end
assert(total == streams * events)
print(("%s: %d streams, %d events: %.1f us CPU and %.1f us an event in all, %.1f KB resident a stream"):format(
  jit and jit.version or _VERSION, streams, total, (os.clock() - cpu) * 1e6 / total,
  (weft.now() - started) * 1e6 / total, (resident() - memory) / streams))
group:close()
pipe:close()
