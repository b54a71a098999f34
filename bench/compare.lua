-- Runs every contender's round of each benchmark in turn, several times, and prints medians, ratios to the
-- first contender, and a line for each target: what was measured, what was aimed at, and whether it is met.
--
-- usage: lua bench/compare.lua ROUNDS "benchmark …" "name=command" …; a command gets a benchmark as its last
-- argument and prints lines "name<TAB>figure<TAB>unit".
local rounds = tonumber(arg[1])
local contenders = {}
for i = 3, #arg do
  local name, command = arg[i]:match "^(.-)=(.*)$"
  contenders[#contenders + 1] = { name = name, command = command, figures = {} }
end
local names, units = {}, {}

local function run(contender, benchmark, round)
  local pipe = assert(io.popen(("%s %s"):format(contender.command, benchmark)))
  for line in pipe:lines() do
    local name, figure, unit = line:match "^(.-)\t([%d.]+)\t(.*)$"
    if name then
      if not units[name] then
        units[name] = unit
        names[#names + 1] = name
      end
      contender.figures[name] = contender.figures[name] or {}
      contender.figures[name][round] = tonumber(figure)
    end
  end
  if not pipe:close() then -- a peer may miss a round
    assert(not contender.name:find "^weft", contender.name .. " failed")
    io.stderr:write(("%s failed in a round of %s\n"):format(contender.name, benchmark))
  end
end

local function median(list)
  local sorted = {}
  for _, figure in pairs(list) do
    sorted[#sorted + 1] = figure
  end
  table.sort(sorted)
  return sorted[math.floor((#sorted + 1) / 2)]
end

local function find(name)
  for _, contender in ipairs(contenders) do
    if contender.name == name then
      return contender
    end
  end
end

--- The median of a contender's figures, and that of the rounds' ratios to another one.
local function summary(contender, name, base)
  local figures = contender.figures[name]
  if not figures then
    return nil
  end
  local ratios = {}
  for round, figure in pairs(figures) do
    local other = base and base.figures[name] and base.figures[name][round]
    ratios[round] = other and figure / other
  end
  return median(figures), median(ratios)
end

local function print_figures(name)
  print(("%s (%s)"):format(name, units[name]))
  for _, contender in ipairs(contenders) do
    local figure, ratio = summary(contender, name, contenders[1])
    if figure then
      local text = ratio and ("%6.2f of %s"):format(ratio, contenders[1].name) or ""
      print(("    %-22s %12s   %s"):format(contender.name, ("%.4g"):format(figure), text))
    end
  end
end

-- What weft aims at. `ratio`: of time to Go's, `rate`: of tasks a second to Go's, else the figure itself.
local targets = {
  { "no-op task that returns a number", "weft 5.4, 1 thread", "ratio", "at most", 0.7 },
  { "no-op task that returns a number", "weft 5.4, 2 threads", "ratio", "at most", 0.85 },
  { "fresh closure with five captures", "weft 5.4, 1 thread", "ns", "at most", 1000 },
  { "closure with a 100-element table", "weft 5.4, 1 thread", "rate", "at least", 0.4 },
  { "go and wait of one task", "weft 5.4, 1 thread", "ns", "at most", 2000 },
  { "memory of a parked task", "weft 5.4, 1 thread", "bytes", "at most", 1.5 * 1024 },
  { "memory of a parked task", "weft LuaJIT, 1 thread", "bytes", "at most", 0.9 * 1024 },
  { "wake and finish a parked task", "weft 5.4, 1 thread", "ns", "at most", 250 },
  { "wake and finish a parked task", "weft LuaJIT, 1 thread", "ns", "at most", 250 },
  { "CPU-bound tasks on two threads", "weft 5.4, 2 threads", "times", "at least", 1.9 },
  { "map over a million items", "weft 5.4, 2 threads", "ns", "at most", 150 },
  { "channel round trip, one thread", "weft 5.4", "ns", "at most", 1000 },
  { "channel round trip, one thread", "weft 5.4", "ratio", "at most", 3 },
  { "semaphore, acquire and release", "weft's C core", "ns", "at most", 100 },
  { "limiter, wait that need not wait", "weft's C core", "ns", "at most", 100 },
}

local function print_target(target)
  local name, contender, kind, bound, limit = table.unpack(target)
  if not find(contender) then
    return
  end
  local figure, ratio = summary(find(contender), name, contenders[1])
  local value = kind == "ratio" and ratio or kind == "rate" and ratio and 1 / ratio or figure
  if not value then
    return
  end
  local is_met = bound == "at most" and value <= limit or bound == "at least" and value >= limit
  local unit = (kind == "ratio" or kind == "rate") and ("of %s's %s"):format(contenders[1].name, kind == "rate" and "rate" or "time") or kind
  print(("    %-34s %-22s %8s %-22s %s %6s   %s"):format(
    name, contender, ("%.4g"):format(value), unit, bound, ("%.4g"):format(limit), is_met and "met" or "NOT MET"))
end

for benchmark in arg[2]:gmatch "%S+" do
  for round = 1, rounds do
    for _, contender in ipairs(contenders) do
      run(contender, benchmark, round)
    end
  end
end
for _, name in ipairs(names) do
  print_figures(name)
end
print "targets (medians; ratios are medians of each round's)"
for _, target in ipairs(targets) do
  print_target(target)
end
