--- weft in a real nginx, with real clients. On LuaJIT alone: it is the VM that nginx has.
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

  it("awaits groups, scopes, channels, semaphores, limiters and time in a handler", function()
    start {
      locations = [[
        location /group { content_by_lua_block {
          local weft = require "weft"
          local n = 20
          local g = weft.group()
          local task = g:go(function(_, m) return n + m end, 22)
          ngx.say(task:wait())
          ngx.say(g:wait()[1])
          g:close()
        } }
        location /shapes { content_by_lua_block {
          local weft = require "weft"
          local all = weft.all { a = function() weft.sleep(0.01) return 1 end, b = function() return 2 end }
          local first = weft.any { function() return nil, "no" end, function() return "won" end }
          local squares = weft.map({ 1, 2, 3 }, function(x) return x * x end)
          local sum = 0
          for _, value in weft.stream({ 1, 2, 3 }, function(x) return x * 10 end) do sum = sum + value end
          local chained = weft.chain(nil, 1, { function(x) weft.sleep(0.01) return x + 1 end })
          local results, err = weft.scope(function(g) g:go(function() error "boom" end) end)
          ngx.say(all.a + all.b, first, squares[3], sum, chained, results == nil and tostring(err):find "boom" and "failed")
        } }
        location /primitives { content_by_lua_block {
          local weft = require "weft"
          local ch, sem, limiter = weft.channel(0), weft.semaphore(1), weft.limiter { rate = 1000, burst = 1 }
          local g = weft.group()
          sem:acquire()
          g:go(function() for i = 1, 3 do ch:send { n = i } end ch:close() sem:release() end)
          local sum = 0
          for value in ch:iter() do sum = sum + value.n end
          sem:acquire()
          limiter:wait() limiter:wait()
          weft.sleep(0.001)
          g:wait()
          ngx.say(sum)
        } }
        location /threads { content_by_lua_block {
          local weft = require "weft"
          local ch = weft.channel(0)
          local receiver = ngx.thread.spawn(function() return (ch:recv()) end)
          ch:send "across"
          local ok, value = ngx.thread.wait(receiver)
          local inside = coroutine.wrap(function() weft.sleep(0.001) coroutine.yield "inside" end)
          ngx.say(ok and value, inside())
        } }
      ]],
    }
    assert.equal("42\n42\n", body_of "/group")
    assert.equal("3won9602failed\n", body_of "/shapes")
    assert.equal("6\n", body_of "/primitives")
    assert.equal("acrossinside\n", body_of "/threads")
    assert.equal(0, server:stats().parked)
  end)

  it("says why ngx is not there in tasks, and what cannot be captured", function()
    start {
      locations = [[
        location /task { content_by_lua_block {
          local _, err = require("weft").all { function() ngx.say "x" end }
          ngx.say(tostring(err))
        } }
        location /socket { content_by_lua_block {
          local socket = ngx.socket.tcp()
          local _, err = pcall(require("weft").all, { function() return socket end })
          ngx.say(tostring(err))
        } }
        location /cdata { content_by_lua_block {
          local request = require("ffi").new("int[1]")
          local _, err = pcall(require("weft").all, { function() return request end })
          ngx.say(tostring(err))
        } }
        location /inline { content_by_lua_block {
          local weft = require "weft"
          ngx.say(select(2, pcall(weft.group, { pool = weft.inline })))
        } }
        location /gsub { content_by_lua_block {
          local weft = require "weft"
          ngx.say(tostring(select(2, pcall(string.gsub, "x", "x", function() weft.sleep(1) end))))
        } }
      ]],
    }
    assert.matches("ngx%.say is not there in a task", body_of "/task")
    assert.matches("upvalue 'socket'", body_of "/socket")
    assert.matches("upvalue 'request'.*cdata", body_of "/cdata")
    assert.matches("ngx%.thread%.spawn", body_of "/inline")
    assert.matches("would block inside a C call", body_of "/gsub")
  end)

  it("waits in rewrite, access and timers, and names the phases where nginx cannot", function()
    start {
      http = [[
        init_worker_by_lua_block {
          local weft = require "weft"
          local _, err = weft.sleep(1)
          ngx.log(ngx.NOTICE, "in init_worker: ", err.kind, " ", tostring(err))
          ngx.timer.at(0, function() weft.sleep(0.001) ngx.log(ngx.NOTICE, "in timer: slept") end)
        }
      ]],
      init = [[
        local weft = require "weft"
        local _, err = weft.sleep(1)
        print("in init: ", tostring(err))
      ]],
      locations = [[
        location /phases {
          rewrite_by_lua_block { require("weft").sleep(0.001) ngx.ctx.rewrite = "rewrite " }
          access_by_lua_block { require("weft").sleep(0.001) ngx.ctx.access = "access " }
          content_by_lua_block { ngx.ctx.content = "content" ngx.say(ngx.ctx.rewrite, ngx.ctx.access, ngx.ctx.content) }
          header_filter_by_lua_block {
            local ch = require("weft").channel(0)
            local _, err = ch:recv()
            ngx.log(ngx.NOTICE, "in filter: ", tostring(err))
            local ok, raised = pcall(function() for _ in ch:iter() do end end)
            ngx.log(ngx.NOTICE, "in loop: ", tostring(ok), " ", raised.kind)
          }
          log_by_lua_block {
            local weft = require "weft"
            local ch = weft.channel(1)
            ch:send(7)
            local results, err = weft.all { function() weft.sleep(10) end }
            ngx.log(ngx.NOTICE, "in log: ", ch:recv(), " ", tostring(results), " ", tostring(err))
          }
        }
      ]],
    }
    assert.equal("rewrite access content\n", body_of "/phases")
    local log = nginx.await("the timer has run", function()
      local text = server:log()
      return text:find("in timer", 1, true) and text:find("in log", 1, true) and text
    end)
    assert.matches("in init: weft.sleep would wait, which nginx cannot do in the phase 'init'", log)
    assert.matches("in init_worker: phase weft.sleep would wait", log)
    assert.matches("in timer: slept", log)
    assert.matches("in filter: channel:recv would wait.-'header_filter'", log)
    assert.matches("in loop: false phase", log)
    assert.matches("in log: 7 nil group:wait would wait.-'log'", log)
  end)
end)
