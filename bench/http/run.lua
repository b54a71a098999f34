-- Compares weft's HTTP client with Go's net/http and with the Lua libraries that Debian packages, in one run.
--
-- usage: lua5.4 bench/http/run.lua FOLDER PORT ROUNDS SLOW_PORT WAIT_PORT NEVER_PORT; by bench/http/run.sh, which
-- starts the servers.
local folder, port, rounds = arg[1], tonumber(arg[2]), tonumber(arg[3])
local plain, tls = ("http://127.0.0.1:%d"):format(port), ("https://127.0.0.1:%d"):format(port + 1)
local function late(number)
  return ("http://127.0.0.1:%s/v1/chat/completions"):format(arg[number])
end
local ca = folder .. "/cert.pem"

local lua54 = "env LUA_CPATH='build/lua54/?.so;;' lua5.4 bench/http/"
local luajit = "env LUA_CPATH='build/luajit/?.so;;' luajit bench/http/"
local commands = {
  ["Go net/http"] = "GOMAXPROCS=2 build/go-http-bench",
  ["weft, C"] = "build/c/bench_http",
  ["weft, Lua 5.4"] = lua54 .. "weft.lua",
  ["weft, LuaJIT"] = luajit .. "weft.lua",
  ["lua-http, LuaJIT"] = "luajit bench/http/luahttp.lua",
}
local GO, C, L54, JIT = "Go net/http", "weft, C", "weft, Lua 5.4", "weft, LuaJIT"
local PEER = "lua-http, LuaJIT" -- Debian has it for 5.1 to 5.3

local function median(list)
  table.sort(list)
  return list[math.floor((#list + 1) / 2)]
end

-- Runs a command and reads its "name<TAB>number" lines.
local function measure(command)
  local pipe, values = io.popen(command .. " 2>>" .. folder .. "/errors.log"), {}
  for line in pipe:lines() do
    local name, value = line:match "^(%w+)\t([%d.]+)$"
    if name then
      values[name] = tonumber(value)
    end
  end
  pipe:close()
  return values
end

-- Contenders in turn, several times: medians by contender and name.
local function compare(who, arguments)
  local all = {}
  for _ = 1, rounds do
    for _, name in ipairs(who) do
      local values = measure(commands[name] .. " " .. arguments)
      all[name] = all[name] or {}
      for key, value in pairs(values) do
        all[name][key] = all[name][key] or {}
        table.insert(all[name][key], value)
      end
    end
  end
  for _, values in pairs(all) do
    for key, list in pairs(values) do
      values[key] = median(list)
    end
  end
  return all
end

local function show(title, who, results, key, unit, targets)
  print(title)
  local base = results[GO] and results[GO][key]
  for _, name in ipairs(who) do
    local value = results[name] and results[name][key]
    if value then
      local ratio = base and name ~= GO and ("%5.2f of Go's"):format(value / base) or ""
      print(("    %-16s %9.2f %s   %s%s"):format(name, value, unit, ratio, targets[name] and "   target: " .. targets[name] or ""))
    end
  end
end

local TINY, CHAT = "/", "/v1/chat/completions"

local function calls(title, url, in_flight, count, who, targets, more)
  local arguments = ("calls %s %d %d %s"):format(url, in_flight, count, more or "")
  local results = compare(who, arguments)
  show(title, who, results, "cpu", "us", targets)
  return results
end

local ours = { GO, C, L54, JIT }
local everybody = { GO, C, L54, JIT, PEER }
local at_most = { [C] = "0.70 of Go's", [L54] = "0.90 of Go's" }
local over_tls = { [C] = "0.70 of Go's" }
local quoted = "'" .. ca .. "'"

calls("client CPU a model call, 64 in flight, kept connections: POST of 1 KB with a key, answer of 1.2 KB",
  plain .. CHAT, 64, 40000, ours, at_most)
calls("1,000 in flight", plain .. CHAT, 1000, 40000, ours, at_most)
calls("64 in flight over TLS, HTTP/1.1", tls .. CHAT, 64, 20000, ours, over_tls, quoted .. " h1")
calls("1,000 in flight over TLS, HTTP/1.1", tls .. CHAT, 1000, 20000, ours, over_tls, quoted .. " h1")
calls("64 in flight over TLS, HTTP/2", tls .. CHAT, 64, 20000, ours, {}, quoted)
local at_64 = calls("a GET without headers of its own, answer of 42 bytes, 64 in flight", plain .. TINY, 64, 40000, everybody, at_most)
calls("1,000 in flight", plain .. TINY, 1000, 40000, everybody, at_most)
local many = calls("10,000 in flight over 10,000 connections", plain .. TINY, 10000, 60000, ours, {})
print(("    weft, C: %.2f of its cost at 64   target: 1.50"):format(many[C].cpu / at_64[C].cpu))
calls("64 in flight over TLS, HTTP/1.1", tls .. TINY, 64, 20000, ours, over_tls, quoted .. " h1")
calls("1,000 in flight over TLS, HTTP/1.1", tls .. TINY, 1000, 20000, ours, over_tls, quoted .. " h1")

local kept = { GO, C }
local function memory(title, url, in_flight, target, more)
  local arguments = ("cold %s %d %d %s"):format(url, in_flight, in_flight, more or "")
  show(title, kept, compare(kept, arguments), "memory", "KB", { [C] = target })
end
memory("memory a call in flight, 5,000 of 1 s", late(4), 5000, "18 KB")
memory("over TLS, HTTP/1.1: 1,000", tls .. "/slow/chat/completions", 1000, "80 KB", quoted .. " h1")
memory("over TLS, HTTP/2: 1,000", tls .. "/slow/chat/completions", 1000, "30 KB", quoted)

local wall = compare({ GO, C, L54, JIT }, ("cold %s 1000 10000"):format(late(5)))
print "10,000 calls of 200 ms, 1,000 in flight, cold; the ideal is 2 s"
for _, name in ipairs(ours) do
  print(("    %-16s %9.3f s   %5.2f of the ideal   target: 1.12"):format(name, wall[name].wall, wall[name].wall / 2))
end

local cancel = measure(("%s cancel %s 5000"):format(commands[C], late(6)))
print(("5,000 calls cancelled: %.0f ms   target: 200; longest pause of the loop %.1f ms   target: 5"):format(
  cancel.wall * 1e3, cancel.pause * 1e3))
