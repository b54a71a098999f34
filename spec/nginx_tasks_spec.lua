-- weft.tasks() in nginx: what requests and their tasks wait for. On LuaJIT alone, the VM that nginx has.
local nginx = require "spec.support.nginx"

if not nginx.is_here() then
  return
end

describe("weft.tasks in nginx", function()
  it("lists requests that wait, with their tasks, and holds nobody up", function()
    local server = nginx.start {
      locations = [[
        location /wait { content_by_lua_block {
          local weft = require "weft"
          local shared = package.loaded.shared_by_requests or { channel = weft.channel() }
          package.loaded.shared_by_requests = shared
          local channel = shared.channel
          local group = weft.group()
          group:go("reader", function() return (channel:recv()) end)
          local results, err = group:wait()
          ngx.say(results and results[1] or tostring(err))
        } }
        location /look { content_by_lua_block {
          local weft = require "weft"
          local function find(name)
            for _, task in ipairs(weft.tasks()) do
              if task.name == name and task.state == "parked" then
                return task
              end
            end
          end
          local request, reader
          repeat
            ngx.sleep(0.001)
            request, reader = find "request", find "reader"
          until request and reader
          ngx.say(request.waits_for, " ", request.where ~= nil, " ", request.traceback ~= nil, " ", reader.waits_for)
          package.loaded.shared_by_requests.channel:send("released")
        } }
        location /numbers { content_by_lua_block {
          local weft = require "weft"
          ngx.say(weft.stats().awake >= 1, " ", weft.metrics():find("weft_tasks_ended_total", 1, true) ~= nil)
        } }
      ]],
    }
    local output = nginx.capture(([[
      curl -s http://127.0.0.1:%d/wait & curl -s http://127.0.0.1:%d/look; wait]]):format(server.port, server.port))
    assert.matches("group:wait true true channel:recv", output)
    assert.matches("released", output)
    local _, body = server:get "/numbers"
    assert.equal("true true\n", body)
    server:stop()
  end)

  it("lose no error of a task: leaving a group raises it, and a dropped one is in the error log", function()
    local server = nginx.start {
      locations = [[
        location /close { content_by_lua_block {
          local weft = require "weft"
          for _, pool in ipairs { weft.default_pool(), weft.inline } do
            local group = weft.group { pool = pool }
            local task = group:go("upload", function() error("the disk is full", 0) end)
            group:join()
            local ok, err = pcall(group.close, group)
            ngx.say(task:status(), " ", ok, " ", err.message)
          end
        } }
        location /drop { content_by_lua_block {
          local weft = require "weft"
          local function drop()
            local group = weft.group()
            group:go("upload", function() error("the disk is full", 0) end)
            group:join()
          end
          drop()
          collectgarbage()
          collectgarbage()
          ngx.say "served"
        } }
      ]],
    }
    local _, body = server:get "/close"
    assert.equal(("failed false the disk is full\n"):rep(2), body)
    _, body = server:get "/drop"
    assert.equal("served\n", body)
    local log = assert(io.open(server.folder .. "/error.log"))
    local text = log:read("*a")
    log:close()
    assert.matches("weft: nobody has seen an error of the group made at [^\n]*: task 1 'upload'", text)
    server:stop()
  end)
end)
