-- select, tickers, limiters, singleflights and dicts in requests of nginx: on LuaJIT alone, the VM that nginx has.
local nginx = require "spec.support.nginx"

if not nginx.is_here() then
  return
end

describe("requests of nginx", function()
  it("wait in select, for ticks, limiters and shared runs, and never keep others waiting", function()
    local server = nginx.start {
      locations = [[
        location /select { content_by_lua_block {
          local weft = require "weft"
          local numbers, quit = weft.channel(), weft.channel()
          local g = weft.group()
          g:go(function() for i = 1, 3 do numbers:send(i) end quit:close() end)
          local sum = 0
          while true do
            local case, value = weft.select { { recv = numbers }, { recv = quit } }
            if case == 2 then break end
            sum = sum + value
          end
          g:close()
          local ctx = weft.background():with_timeout(0.01)
          ngx.say(sum, " ", weft.select { { recv = numbers }, timeout = 0.01 }, " ",
            (weft.select { { recv = numbers }, { done = ctx } }), " ", weft.select { { recv = numbers }, default = true })
        } }
        location /time { content_by_lua_block {
          local weft = require "weft"
          local ticks, count = weft.ticker(0.002), 0
          for _ in ticks:iter() do
            count = count + 1
            if count == 3 then ticks:close() end
          end
          local limiter = weft.limiter { rate = 500, burst = 1 }
          for _ = 1, 3 do limiter:wait() end
          ngx.say(count >= 3, " ", (weft.after(0.002):recv()) <= weft.now())
        } }
        location /shared { content_by_lua_block {
          local weft = require "weft"
          local shared = package.loaded.shared_by_requests
          if not shared then
            shared = { flights = weft.singleflight(), dict = weft.dict() }
            package.loaded.shared_by_requests = shared
          end
          local value = shared.flights:run("key", function()
            shared.dict:incr "runs"
            weft.sleep(0.2)
            return "value"
          end)
          local served = shared.dict:update("served", function(n)
            weft.sleep(0)
            return (n or 0) + 1
          end)
          ngx.say(value, " ", shared.dict:get "runs", " ", served)
        } }
      ]],
    }
    local _, body = server:get "/select"
    assert.equal("6 timeout 2 default\n", body)
    _, body = server:get "/time"
    assert.equal("true true\n", body)
    local many = nginx.capture(("for i in 1 2 3 4 5 6; do curl -s http://127.0.0.1:%d/shared & done; wait"):format(server.port))
    local served = {}
    for value, runs, nth in many:gmatch "(%w+) (%d+) (%d+)" do
      assert.equal("value", value)
      assert.is_true(tonumber(runs) < 6)
      served[tonumber(nth)] = true
    end
    assert.equal(6, #served)
    server:stop()
  end)
end)
