--- The long form of spec/nginx_life_spec.lua: `make test-nginx-long`. Ten reloads under load, and 100,000 requests of every
-- kind to one worker, after which nothing has grown. Prints what it measured.
local nginx = require "spec.support.nginx"

local LOCATIONS = [[
  lua_check_client_abort on;
  location /all { content_by_lua_block {
    local n = 20
    local answers = assert(weft.all { a = function() return n + 1 end, b = function() return { n } end })
    ngx.say(answers.a + answers.b[1])
  } }
  location /sleep { content_by_lua_block { weft.sleep(0.001) ngx.say "slept" } }
  location /map { content_by_lua_block {
    local squares = assert(weft.map({ 1, 2, 3, 4 }, function(x) return x * x end))
    ngx.say(squares[4])
  } }
  location /channel { content_by_lua_block {
    local ch, g = weft.channel(0), weft.group()
    g:go(function() for i = 1, 5 do ch:send(i) end ch:close() end)
    local sum = 0
    for value in ch:iter() do sum = sum + value end
    assert(g:wait())
    ngx.say(sum)
  } }
  location /http { content_by_lua_block {
    local res = assert(weft.http.get("http://127.0.0.1:" .. ngx.var.server_port .. "/ready"))
    ngx.print(res.body)
  } }
  location /left { content_by_lua_block {
    local g = weft.group()
    g:go(function() require("weft").sleep(60) end)
    ngx.say "left"
  } }
  location /abort { content_by_lua_block { weft.all { function() require("weft").sleep(60) end } } }
]]

local PATHS = { "/all", "/sleep", "/map", "/channel", "/http", "/left" }

describe("nginx, for long", function()
  local server

  after_each(function()
    server:stop()
  end)

  it("loses no request over ten reloads", function()
    server = nginx.start { workers = 2, locations = LOCATIONS, init = 'weft = require "weft"', limit = 200 }
    local master = { nginx.descriptors(server.pid), nginx.resident(server.pid) }
    local requests, reloads = 0, 0
    for _, path in ipairs(PATHS) do
      local load = server:start_wrk(path, 6, 16)
      for _ = 1, 2 do
        server:reload()
        reloads = reloads + 1
      end
      local count, errors = nginx.read_wrk(load:read "*a")
      load:close()
      assert.equal(0, errors)
      requests = requests + count
    end
    nginx.await("the old workers have ended", function()
      return #server:workers() == 2
    end)
    print(("%d reloads, %d requests, none lost; the master's descriptors %d -> %d, memory %d -> %d KB"):format(
      reloads, requests, master[1], nginx.descriptors(server.pid), master[2], nginx.resident(server.pid)))
    assert.equal(master[1], nginx.descriptors(server.pid))
  end)

  it("does not grow over 100,000 requests", function()
    server = nginx.start { locations = LOCATIONS, init = 'weft = require "weft"', limit = 200 }
    local pid = server:stats().pid
    local function aborts(count)
      local clients = {}
      for i = 1, count do
        clients[i] = server:connect "/abort"
      end
      nginx.await("all wait", function()
        return server:stats().parked == count
      end)
      for i = 1, count do
        clients[i]:close()
      end
    end
    local function measure()
      nginx.await("all is collected", function()
        local stats = server:stats()
        return stats.parked == 0 and stats.tasks == 0 and stats.groups == 0
      end)
      return nginx.descriptors(pid), nginx.resident(pid)
    end
    for _, path in ipairs(PATHS) do
      server:wrk(path, 2, 64)
    end
    aborts(500)
    local descriptors, resident = measure()
    local requests = 0
    repeat
      for _, path in ipairs(PATHS) do
        local count, errors = server:wrk(path, 2, 64)
        assert.equal(0, errors)
        requests = requests + count
      end
      aborts(500)
    until requests >= 100000
    local descriptors_after, resident_after = measure()
    print(("%d requests; descriptors %d -> %d, memory %d -> %d KB"):format(requests, descriptors, descriptors_after,
      resident, resident_after))
    assert.is_true(descriptors_after <= descriptors)
    assert.is_true(resident_after < resident * 1.25 + 8192)
  end)
end)
