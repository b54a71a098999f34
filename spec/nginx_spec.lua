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
        location /generators { content_by_lua_block {
          local weft = require "weft"
          local function letters(ch)
            return coroutine.wrap(function()
              for letter in ch:iter() do
                weft.sleep(0)
                coroutine.yield(letter)
              end
            end)
          end
          local function read(ch)
            local all = ""
            for letter in letters(ch) do all = all .. letter end
            return all
          end
          local ch = weft.channel(3)
          for letter in ("abc"):gmatch "." do ch:send(letter) end
          ch:close()
          local group = weft.group { pool = weft.inline }
          group:go(function() return read(ch) end)
          ngx.say(assert(group:wait())[1])
          group:close()
        } }
      ]],
    }
    assert.equal("42\n42\n", body_of "/group")
    assert.equal("3won9602failed\n", body_of "/shapes")
    assert.equal("6\n", body_of "/primitives")
    assert.equal("acrossinside\n", body_of "/threads")
    assert.equal("abc\n", body_of "/generators")
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
        location /ctx { content_by_lua_block {
          ngx.ctx.user = "x"
          local mine, inside = { ngx = 1 }, { ctx = ngx.ctx }
          assert(require("weft").all { function() return mine.ngx end })
          local _, err = pcall(require("weft").all, { function() return inside.ctx end })
          ngx.say(tostring(err))
        } }
        location /cdata { content_by_lua_block {
          local request = require("ffi").new("int[1]")
          local _, err = pcall(require("weft").all, { function() return request end })
          ngx.say(tostring(err))
        } }
        location /signal { content_by_lua_block { ngx.say(select(2, pcall(require("weft").signal_context, "TERM"))) } }
        location /signal_of_task { content_by_lua_block {
          local weft = require "weft"
          local _, err = weft.all { function() weft.signal_context("TERM") end }
          ngx.say(tostring(err))
        } }
        location /sigquit { content_by_lua_block {
          local weft = require "weft"
          ngx.say(select(2, pcall(weft.dump_on_sigquit)))
          local _, err = weft.all { function() weft.dump_on_sigquit() end }
          ngx.say(tostring(err))
        } }
        location /gsub { content_by_lua_block {
          local weft = require "weft"
          ngx.say(tostring(select(2, pcall(string.gsub, "x", "x", function() weft.sleep(1) end))))
        } }
      ]],
    }
    assert.matches("ngx%.say is not there in a task", body_of "/task")
    assert.matches("upvalue 'socket': .*stays in the handler", body_of "/socket")
    assert.matches("upvalue 'inside'%.ctx: .*ngx%.ctx", body_of "/ctx")
    assert.matches("upvalue 'request'.*cdata", body_of "/cdata")
    assert.matches("would block inside a C call", body_of "/gsub")
    assert.matches("signals are nginx's", body_of "/signal")
    assert.matches("signals are nginx's", body_of "/signal_of_task")
    assert.matches("signals are nginx's.*signals are nginx's", body_of "/sigquit")
  end)

  it("runs tasks of weft.inline as light threads", function()
    start {
      locations = [[
        location /shared { content_by_lua_block {
          local weft = require "weft"
          local seen, url = {}, "http://127.0.0.1:" .. ngx.var.server_port .. "/ready"
          local g = weft.group { pool = weft.inline }
          local task = g:go("named", function(ctx, name)
            seen.ctx = ctx == weft.current()
            seen[name] = weft.http.get(url).body
            ngx.header["X-Inside"] = "yes"
            return name, 2
          end, "answer")
          g:go(function() weft.sleep(0.001) seen.second = true end)
          local results = g:wait()
          g:close()
          ngx.print(tostring(seen.ctx), tostring(seen.second), results[1], select(2, task:wait()), seen.answer)
        } }
        location /fails { content_by_lua_block {
          local weft = require "weft"
          local results, err = weft.all({
            good = function() weft.sleep(60) end,
            bad = function() weft.sleep(0.001) local nothing = nil; return nothing.field end,
          }, { pool = weft.inline })
          ngx.say(tostring(results), " ", tostring(err), " ", err.task, " ", tostring(err.traceback:find "stack traceback" ~= nil))
          local g = weft.group { pool = weft.inline, limit = 1 }
          g:go(function() weft.sleep(0.002) end)
          ngx.say(tostring(g:try_go(function() end)))
          local task = g:go(function() return "after" end)
          ngx.say(task:wait())
          g:cancel "enough"
          ngx.say(tostring(select(2, g:go(function() end)).kind))
          g:close()
        } }
        location /exit { content_by_lua_block {
          local weft = require "weft"
          local g = weft.group { pool = weft.inline }
          g:go(function() weft.sleep(60) end)
          ngx.say "gone"
          ngx.exit(200)
        } }
      ]],
    }
    assert.equal("truetrueanswer2ready\n", body_of "/shared")
    local body = body_of "/fails"
    assert.matches("^nil task %d 'bad'.*nothing.* bad true\nfalse\nafter\ncanceled\n$", body)
    assert.equal("gone\n", body_of "/exit")
    nginx.await("nothing of it is left", function()
      local stats = server:stats()
      return stats.parked == 0 and stats.timers == 0 and stats.groups == 0
    end)
  end)

  it("tells finalizers that they cannot block, whatever call the collector has interrupted", function()
    start {
      init = 'require("jit").off() require "weft"', -- compiled code and large steps: see spec.support.nginx
      locations = [[
        location /finalizers { content_by_lua_block {
          local weft = require "weft"
          local never, boxes, url = weft.channel(0), weft.channel(1), "http://127.0.0.1:" .. ngx.var.server_port .. "/ready"
          local refused, answered, sent = 0, 0, 0
          local function litter()
            for _ = 1, 10 do
              getmetatable(newproxy(true)).__gc = function()
                local ok, err = pcall(never.send, never, "x")
                refused = refused + (not ok and tostring(err):find("would block", 1, true) and 1 or 0)
              end
            end
          end
          collectgarbage("setpause", 0) collectgarbage("setstepmul", 100000)
          for i = 1, 20 do
            collectgarbage "stop"
            litter()
            local code = loadstring("return " .. i)
            collectgarbage "restart"
            boxes:send(code) -- packing a new function makes strings
            sent = sent + boxes:recv()()
            litter()
            answered = answered + (weft.http.get(url).status == 200 and 1 or 0)
          end
          ngx.say(answered, " ", sent, " ", tostring(refused > 0))
        } }
      ]],
    }
    assert.equal("20 210 true\n", body_of "/finalizers")
    server:await_idle("nothing of it is left")
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
        local _, err = weft.channel(0):recv()
        print("in init: ", tostring(err))
        local _, refusal = weft.group():go(function() end)
        print("no task: ", tostring(refusal))
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
    assert.matches("in init: channel:recv would wait, which nginx cannot do in the phase 'init'", log)
    assert.matches("no task: group:go: tasks are started in the workers of nginx", log)
    assert.matches("in init_worker: phase weft.sleep would wait", log)
    assert.matches("in timer: slept", log)
    assert.matches("in filter: channel:recv would wait.-'header_filter'", log)
    assert.matches("in loop: false phase", log)
    assert.matches("in log: 7 nil group:wait would wait.-'log'", log)
  end)

  it("has one pool a worker process, with settings of its own", function()
    start {
      http = [[
        init_worker_by_lua_block {
          local weft = require "weft"
          weft.ngx.setup { threads = 3, nice = 7, folder = "/dev/shm" }
        }
      ]],
      locations = [[
        location /pool { content_by_lua_block {
          local weft = require "weft"
          local results = assert(weft.all { function()
            for line in io.lines "/proc/thread-self/stat" do
              return select(17, line:match "%) (.*)":match(("(%S+) "):rep(17)))
            end
          end })
          local ok, err = pcall(weft.ngx.setup, { threads = 4 })
          ngx.say(weft.default_pool():stats().max_threads, " ", results[1], " ", tostring(ok), " ", err)
          ngx.say(select(2, pcall(weft.ngx.setup, { nice = 99 })))
          ngx.say(select(2, pcall(weft.ngx.setup, { color = 1 })))
        } }
      ]],
    }
    local body = body_of "/pool"
    local own = tonumber(nginx.capture "nice")
    local nice = os.getenv "WEFT_PLATFORM" == "posix" and own or math.min(own + 7, 19)
    assert.matches("^3 " .. nice .. " false .*has started", body)
    assert.matches("bad argument 'nice' to weft.ngx.setup", body)
    assert.matches("bad option 'color' to weft.ngx.setup: known are folder, nice, threads", body)
  end)

  it("says so when nginx cannot be woken", function()
    start {
      http = "init_worker_by_lua_block { require('weft').ngx.setup { folder = '/nowhere/at/all' } }",
      locations = [[
        location /fails { content_by_lua_block {
          local weft = require "weft"
          local ok, err = weft.sleep(60)
          local results, why = weft.all { function() weft.sleep(60) end }
          ngx.say(tostring(ok), " ", err.kind, " ", tostring(err), " ", tostring(results), " ", why.kind)
          local ch = weft.channel(1)
          ch:send "not waiting"
          ngx.say((ch:recv()))
        } }
      ]],
    }
    local body = body_of "/fails"
    assert.matches("^nil nginx .*/nowhere/at/all: No such file or directory nil nginx\nnot waiting\n$", body)
    nginx.await("nothing of it is left", function()
      local stats = server:stats()
      return stats.parked == 0 and stats.timers == 0 and stats.groups == 0
    end)
    local ended = server
    server = nil
    ended:stop("QUIT", { "callers that wait cannot be woken" })
  end)

  it("needs one pending timer, and ends with the worker even where no other is left", function()
    start {
      http = "lua_max_pending_timers 2; init_worker_by_lua_block { require 'weft' }",
      locations = [[
        location /sleep { content_by_lua_block {
          if not taken then
            local at = ngx.timer.at
            ngx.timer.at = function(...) -- weft's first; then the last one is taken
              ngx.timer.at = at
              return at(...), ngx.timer.at(3600, function() end)
            end
          end
          taken = true
          local _, err = require("weft").sleep(0.001)
          ngx.say(tostring(err))
        } }
      ]],
      init = 'require "weft" taken = false',
    }
    assert.equal("nil\n", body_of "/sleep")
    assert.equal("nil\n", body_of "/sleep")
    local pid = server:stats().pid
    server:signal "HUP"
    nginx.await("the old worker has ended", function()
      return server:workers()[1] ~= pid and #server:workers() == 1
    end)
  end)

  it("says so when nginx starts no more timers, and goes on when it does", function()
    start {
      http = [[
        lua_max_running_timers 2;
        init_worker_by_lua_block {
          failures = {}
          for _ = 1, 2 do
            ngx.timer.at(0, function()
              local _, err = require("weft").sleep(60)
              failures[#failures + 1] = err
            end)
          end
        }
      ]],
      locations = [[
        location /sleep { content_by_lua_block {
          local _, err = require("weft").sleep(0.001)
          ngx.say(tostring(err))
        } }
        location /failures { content_by_lua_block { ngx.say(#failures, " ", tostring(failures[1])) } }
      ]],
    }
    nginx.await("a timer was turned away, and made room", function()
      return body_of("/failures"):find "^[12] .*lua_max_running_timers"
    end)
    assert.equal("nil\n", body_of "/sleep")
    local ended = server
    server = nil
    ended:stop("TERM", { "lua_max_running_timers are not enough" })
  end)

  -- ---- contexts ----

  it("gives each request a context, which ends with it", function()
    start {
      locations = [[
        location /keep { content_by_lua_block {
          local weft = require "weft"
          kept = weft.current()
          local same = ngx.thread.spawn(function() return weft.current() == kept end)
          local _, is_same = ngx.thread.wait(same)
          ngx.say(tostring(is_same), " ", tostring((kept:err())), " ", tostring(kept == weft.background()))
        } }
        location /kept { content_by_lua_block {
          local weft = require "weft"
          ngx.say(kept:err().kind, ": ", tostring(kept:cause()), " ", tostring(kept == weft.current()))
        } }
        location /deadline { content_by_lua_block {
          local weft = require "weft"
          local ctx = weft.current():with_timeout(0.01)
          local results, err = weft.all(ctx, { function() weft.sleep(60) end })
          local ok, raised = pcall(weft.shield, 0.01, function() weft.sleep(60) end)
          ngx.say(tostring(results), " ", err.kind, " ", tostring(ok), " ", raised.kind)
          weft.current():cancel "enough"
          local ok, raised = pcall(weft.sleep, 60)
          ngx.say(tostring(ok), " ", raised.kind, " ", tostring(weft.current():cause()), " ",
            weft.shield(10, function(x) weft.sleep(0.001) return x end, "shielded"))
        } }
      ]],
      init = 'require "weft" kept = nil',
    }
    assert.equal("true nil false\n", body_of "/keep")
    assert.matches("^canceled: .*the request has ended.* false\n$", body_of "/kept")
    assert.equal("nil deadline false deadline\nfalse canceled enough shielded\n", body_of "/deadline")
  end)

  it("leaves no context to the next light thread when one is killed", function()
    start {
      locations = [[ location /kill { content_by_lua_block {
        local weft = require "weft"
        local own, wrong = weft.current(), 0
        for i = 1, 200 do
          local killed = ngx.thread.spawn(function() weft.shield(60, weft.sleep, 60) end)
          local inline = weft.group { pool = weft.inline }
          inline:go(function() weft.sleep(60) end)
          ngx.thread.kill(killed)
          local next_one = ngx.thread.spawn(function() return weft.current() == own end)
          local _, is_own = ngx.thread.wait(next_one)
          wrong = wrong + (is_own and 0 or 1)
          inline:cancel()
          if i % 50 == 0 then collectgarbage() end
        end
        local is_inside
        weft.shield(60, function() weft.sleep(0.001) is_inside = weft.current() ~= own end)
        ngx.say(wrong, " ", tostring(weft.current() == own), " ", tostring(is_inside))
      } } ]],
    }
    assert.equal("0 true true\n", body_of "/kill")
    nginx.await("nothing of it is left", function()
      local stats = server:stats()
      return stats.parked == 0 and stats.timers == 0 and stats.groups == 0
    end)
  end)

  it("leaves nothing of a request to the next ones when it is used in the phase log", function()
    start {
      locations = [[
        location /logs {
          content_by_lua_block {
            local weft = require "weft"
            weft.sleep(0.001)
            ngx.say(tostring((weft.current():err())), " ", tostring(weft.current() == weft.background()))
          }
          log_by_lua_block {
            local weft = require "weft"
            local g = weft.group()
            g:go(function() return "logged" end)
            g:cancel "the end"
            seen = weft.current() == weft.background()
          }
        }
        location /seen { content_by_lua_block { ngx.say(tostring(seen)) } }
      ]],
      init = 'require "weft" seen = nil',
    }
    for _ = 1, 5 do
      assert.equal("nil false\n", body_of "/logs")
    end
    assert.equal("true\n", body_of "/seen")
    nginx.await("nothing of them is left", function()
      local stats = server:stats()
      return stats.groups == 0 and stats.parked == 0
    end)
  end)

  -- ---- handlers that vanish ----

  local HANG = [[
    location /hang { content_by_lua_block {
      local weft = require "weft"
      ngx.log(ngx.NOTICE, "hangs: ", weft.stats().parked)
      weft.all { function() weft.sleep(60) end, function() weft.channel(0):recv() end }
    } }
    location /kill { content_by_lua_block {
      local weft = require "weft"
      local ch = weft.channel(0)
      local thread = ngx.thread.spawn(function() ch:recv() end)
      ngx.thread.kill(thread)
      local sem = weft.semaphore(1)
      sem:acquire()
      local second = ngx.thread.spawn(function() sem:acquire() end)
      ngx.thread.kill(second)
      sem:release()
      weft.sleep(0.001)
      ngx.say(sem:try_acquire() and "given back" or "lost")
    } }
    location /exit { content_by_lua_block {
      local weft = require "weft"
      local g = weft.group()
      g:go(function() weft.sleep(60) end)
      ngx.thread.spawn(function() g:wait() end)
      ngx.say "gone"
      ngx.exit(200)
    } }
    location /raise { content_by_lua_block {
      local g = require("weft").group()
      g:go(function() require("weft").sleep(60) end)
      error "handler failed"
    } }
  ]]

  it("cancels what a handler started when the client goes away", function()
    start { locations = HANG, http = "lua_check_client_abort on;" }
    local clients = {}
    for i = 1, 20 do
      clients[i] = server:connect "/hang"
    end
    nginx.await("all handlers wait", function()
      return server:stats().parked == 20
    end)
    for i = 1, 20 do
      clients[i]:close()
    end
    server:await_idle("nothing of them is left")
  end)

  it("cancels what a handler left behind, however it ended", function()
    start { locations = HANG }
    assert.equal("given back\n", body_of "/kill")
    assert.equal("gone\n", body_of "/exit")
    assert.equal(500, (server:get "/raise"))
    server:await_idle("nothing of them is left")
    local ended = server
    server = nil
    ended:stop("QUIT", { "handler failed" })
  end)

  it("tells a handler that the client has gone", function()
    start {
      http = "lua_check_client_abort on;",
      locations = [[
        location /told { content_by_lua_block {
          local weft = require "weft"
          assert(weft.ngx.cancel_on_abort())
          local again, err = weft.ngx.cancel_on_abort()
          ngx.log(ngx.NOTICE, "again: ", tostring(again), " ", err.kind)
          local ok, raised = pcall(weft.all, { function() weft.sleep(60) end })
          ngx.log(ngx.NOTICE, "told: ", tostring(ok), " ", raised.kind, " ", tostring(raised.cause))
        } }
        location /off { lua_check_client_abort off; content_by_lua_block {
          ngx.say(tostring(select(2, require("weft").ngx.cancel_on_abort())))
        } }
      ]],
    }
    local client = server:connect "/told"
    nginx.await("the handler waits", function()
      return server:stats().parked == 1
    end)
    client:close()
    local log = nginx.await("the handler was told", function()
      return server:log():match "told: [^\n]*"
    end)
    assert.matches("told: false canceled the client closed the connection", log)
    assert.matches("again: nil nginx", server:log())
    assert.matches("lua_check_client_abort", body_of "/off")
    server:await_idle("nothing of it is left")
  end)

  it("gives permits back that tasks, or handlers that were told, held for clients that have gone", function()
    start {
      http = [[
        lua_check_client_abort on;
        init_worker_by_lua_block { in_task = require("weft").semaphore(1) told = require("weft").semaphore(1) }
      ]],
      locations = [[
        location /task { content_by_lua_block {
          local gate = in_task
          require("weft").all { function() gate:with(1, function() require("weft").sleep(60) end) end }
        } }
        location /told { content_by_lua_block {
          local weft = require "weft"
          weft.ngx.cancel_on_abort()
          pcall(told.with, told, 1, function() weft.sleep(60) end)
        } }
        location /free { content_by_lua_block {
          local free = 0
          for _, gate in ipairs { in_task, told } do
            if gate:try_acquire() then free = free + 1 gate:release() end
          end
          ngx.say(free)
        } }
      ]],
    }
    local clients = { server:connect "/task", server:connect "/told" }
    nginx.await("both are held", function()
      return body_of "/free" == "0\n"
    end)
    for _, client in ipairs(clients) do
      client:close()
    end
    nginx.await("both are free", function()
      return body_of "/free" == "2\n"
    end)
    server:await_idle("nothing of them is left")
  end)

  -- ---- models ----

  it("asks models, streams them, and hedges in a handler", function()
    local models = assert(require("weft.testing").model_server { stream = { chunks = 4 } })
    start {
      init = ('weft = require "weft" base_url = "%s"'):format(models.url),
      http = [[
        init_worker_by_lua_block {
          model = weft.model.openai { base_url = base_url, model = "any", limits = { concurrency = 4 } }
          hedge = weft.model.hedge { model, after = 0.001 }
          flights = weft.singleflight()
          counts = weft.dict()
        }
      ]],
      locations = [[
        location /chat { content_by_lua_block { ngx.say(assert(model:chat { prompt = "hello" }).text) } }
        location /stream { content_by_lua_block {
          local stream = assert(model:stream { prompt = "one two three" })
          for text in stream:deltas() do ngx.print("[", text, "]") ngx.flush(true) end
          ngx.say(stream:result().usage.completion_tokens > 0)
        } }
        location /hedge { content_by_lua_block { ngx.say(assert(hedge:chat { prompt = "hedged" }).text) } }
        location /rest { content_by_lua_block {
          local value = flights:run("key", function() weft.sleep(0.001) return "flown" end)
          counts:incr("n", 2)
          local ch, done = weft.channel(0), weft.current():with_timeout(0.01)
          local index = weft.select { { recv = ch }, { done = done } }
          local tick = weft.ticker(0.001)
          local ticked = tick:recv() ~= nil
          tick:stop()
          ngx.say(value, counts:get "n", index, tostring(ticked))
        } }
        location /pipeline { content_by_lua_block {
          local p = weft.pipeline {
            weft.stage("double", function(x) return x * 2 end, { workers = 2 }),
            weft.stage("add", function(x) return x + 1 end),
          }
          ngx.say(assert(p:run(nil, { 1, 2, 3 }))[3])
        } }
      ]],
    }
    local bodies = {}
    for _, name in ipairs { "chat", "stream", "hedge", "rest", "pipeline" } do
      bodies[name] = { server:get("/" .. name) }
    end
    models:close()
    assert.same({ 200, "echo: hello\n" }, bodies.chat)
    assert.equal(200, bodies.stream[1])
    assert.equal("echo: one two three", (bodies.stream[2]:gsub("[%[%]]", ""):gsub("true\n$", "")))
    assert.same({ 200, "echo: hedged\n" }, bodies.hedge)
    assert.same({ 200, "flown22true\n" }, bodies.rest)
    assert.same({ 200, "7\n" }, bodies.pipeline)
  end)

  -- ---- streams ----

  it("passes values on as they come", function()
    start {
      http = "init_worker_by_lua_block { tokens = require('weft').channel(0) }",
      locations = [[
        location /stream { content_by_lua_block {
          local weft = require "weft"
          local tokens = tokens
          local out = weft.channel(1)
          local g = weft.group()
          g:go(function() for token in tokens:iter() do out:send(token) end out:close() end)
          for token in out:iter() do ngx.print(token, "\n") ngx.flush(true) end
          assert(g:wait())
          ngx.say "end"
        } }
        location /token { content_by_lua_block { tokens:send(ngx.var.arg_t) ngx.say "sent" } }
        location /close { content_by_lua_block { tokens:close() ngx.say "closed" } }
      ]],
    }
    local client = server:connect("/stream", "1.1")
    for _, token in ipairs { "one", "two", "three" } do
      assert.equal("sent\n", body_of("/token?t=" .. token))
      local line
      repeat
        line = assert(client:receive "*l")
      until line == token
    end
    body_of "/close"
    assert.matches("end\r?\n", (client:receive "*a"))
    client:close()
  end)
end)
