-- Runs every contender's round in turn, several times, and prints medians and ratios to Go.
--
-- Usage: lua bench/compare.lua ROUNDS "name=command" …; the first contender is what the others are divided by.
local rounds = tonumber(arg[1])
local contenders, order, names = {}, {}, {}

for i = 2, #arg do
  local name, command = arg[i]:match "^(.-)=(.*)$"
  contenders[#contenders + 1] = { name = name, command = command, times = {} }
end

for _ = 1, rounds do
  for _, contender in ipairs(contenders) do
    local pipe = io.popen(contender.command .. " 2>/dev/null")
    for line in pipe:lines() do
      local name, ns = line:match "^(.-)\t([%d.]+)$"
      if name then
        if not names[name] then
          names[name] = true
          order[#order + 1] = name
        end
        contender.times[name] = contender.times[name] or {}
        table.insert(contender.times[name], tonumber(ns))
      end
    end
    pipe:close()
  end
end

local function median(list)
  if not list then
    return nil
  end
  table.sort(list)
  return list[math.floor((#list + 1) / 2)]
end

for _, name in ipairs(order) do
  print(name)
  local base = median(contenders[1].times[name])
  for _, contender in ipairs(contenders) do
    local ns = median(contender.times[name])
    if ns then
      local ratio = base and ("%6.2f of %s"):format(ns / base, contenders[1].name) or ""
      print(("    %-22s %12.0f ns   %s"):format(contender.name, ns, ratio))
    end
  end
end
