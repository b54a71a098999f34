--- weft in nginx over time: many requests, reloads, and how workers end. On LuaJIT alone: it is the VM that nginx has.
local nginx = require "spec.support.nginx"

if not nginx.is_here() then
  return
end

describe("weft in nginx", function()
  local server

  local function start(options)
    server = nginx.start(options)
    return server
  end

  local function body_of(path)
    local status, body = server:get(path)
    assert.equal(200, status)
    return body
  end

  after_each(function()
    if server then
      local ended = server
      server = nil
      ended:stop()
    end
  end)

  -- ---- many ----

  it("lets a thousand requests wait at once", function()
    start {
      http = "init_worker_by_lua_block { gate = require('weft').waitgroup() gate:add(1) }",
      locations = [[
        location /wait { content_by_lua_block { gate:wait() ngx.say "through" } }
        location /open { content_by_lua_block { gate:done() ngx.say "open" } }
      ]],
    }
    local clients = {}
    for i = 1, 1000 do
      clients[i] = assert(server:connect "/wait")
    end
    nginx.await("all wait", function()
      return server:stats().parked == 1000
    end)
    assert.equal("open\n", body_of "/open")
    for i = 1, 1000 do
      assert.matches("through\n$", (clients[i]:receive "*a"))
      clients[i]:close()
    end
    assert.equal(0, server:stats().parked)
  end)

  local WORK = [[
    location /work { content_by_lua_block {
      local weft = require "weft"
      local n = 20
      local answers = assert(weft.all { a = function() return n + 1 end, b = function() weft.sleep(0.002) return n end })
      ngx.say(answers.a + answers.b)
    } }
  ]]

  it("keeps memory and descriptors over many requests", function()
    start { locations = WORK }
    local pid = server:stats().pid
    assert(server:wrk("/work", 1, 32))
    local before, descriptors = nginx.resident(pid), nginx.descriptors(pid)
    for _ = 1, 2 do
      local requests, errors = server:wrk("/work", 1, 32)
      assert.equal(0, errors)
      assert.is_true(requests > 0)
    end
    server:await_idle("all is collected")
    assert.is_true(nginx.descriptors(pid) <= descriptors)
    assert.is_true(nginx.has_sanitizer or nginx.resident(pid) < before + 16 * 1024)
    assert.equal("41\n", body_of "/work")
  end)

  it("works in a VM a request, and keeps none of them", function()
    start { cache = "off", locations = WORK }
    local pid = server:stats().pid
    local function many()
      for _ = 1, 60 do
        assert.equal("41\n", body_of "/work")
      end
      local _, errors = server:wrk("/work", 1, 8)
      assert.equal(0, errors)
    end
    many()
    local descriptors, resident = nginx.descriptors(pid), nginx.resident(pid)
    many()
    nginx.await("descriptors are as before", function()
      return nginx.descriptors(pid) <= descriptors
    end)
    assert.is_true(nginx.has_sanitizer or nginx.resident(pid) < resident + 32 * 1024)
    local ended = server
    server = nil
    ended:stop("QUIT", { "lua_code_cache is off" })
  end)

  -- ---- reload, quit, kill ----

  it("loses no request when it reloads under load", function()
    start { workers = 2, locations = WORK }
    local load = server:start_wrk("/work", 3, 16)
    for _ = 1, 3 do
      server:reload()
    end
    local requests, errors = nginx.read_wrk(load:read "*a")
    load:close()
    assert.is_true(requests > 0)
    assert.equal(0, errors)
    nginx.await("the old workers have ended", function()
      return #server:workers() == 2
    end)
  end)

  local SLOW = [[
    location /slow { content_by_lua_block {
      local weft = require "weft"
      local ok, err = pcall(weft.all, { function() weft.sleep(0.3) end })
      ngx.say(ok and "whole" or tostring(err))
    } }
    location /endless { content_by_lua_block {
      local weft = require "weft"
      local ok, err = pcall(weft.all, { function() weft.sleep(600) end })
      ngx.log(ngx.NOTICE, "endless: ", tostring(err), " ", tostring(err.cause))
    } }
  ]]

  local function wait_for_parked(count)
    nginx.await(count .. " wait", function()
      return server:stats().parked == count
    end)
  end

  it("ends gracefully: what waits is answered first", function()
    start { locations = SLOW }
    local client = server:connect "/slow"
    wait_for_parked(1)
    server:signal "QUIT"
    assert.matches("whole\n$", (client:receive "*a"))
    client:close()
  end)

  it("ends at once on TERM, although requests wait", function()
    start { locations = SLOW }
    local client = server:connect "/endless"
    wait_for_parked(1)
    local ended = server
    server = nil
    ended:stop "TERM"
    client:close()
  end)

  it("cancels what waits after worker_shutdown_timeout", function()
    start { locations = SLOW, main = "worker_shutdown_timeout 100ms;" }
    local client = server:connect "/endless"
    wait_for_parked(1)
    local ended = server
    server = nil
    ended:signal "QUIT"
    client:receive "*a"
    client:close()
    ended:stop("QUIT", { "open socket" })
  end)

  it("serves again after a worker was killed", function()
    start { locations = WORK .. SLOW }
    local pid = server:stats().pid
    local client = server:connect "/endless"
    wait_for_parked(1)
    server:signal("KILL", pid)
    assert.is_nil((client:receive "*a" or ""):match "whole")
    client:close()
    nginx.await("another worker answers", function()
      return server:get "/work" == 200
    end)
    assert.equal("41\n", body_of "/work")
    local ended = server
    server = nil
    ended:stop("QUIT", { "exited on signal 9" })
  end)
end)
