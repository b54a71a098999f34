--- weft in nginx (lua-nginx-module, OpenResty): a blocking call in a handler yields the request.
--
--     location /ask {
--       content_by_lua_block {
--         local weft = require "weft"
--         local answers, err = weft.all { a = ask_one_model, b = ask_another }
--       }
--     }
--
-- Blocking calls wait in the phases rewrite, access, content, timer, ssl_cert, ssl_session_fetch and
-- ssl_client_hello. In the others they return nil and an error of kind "phase" when they would have to wait; the
-- step of an iterator raises it. Each request has a context, @{current} in its handlers, that is done when
-- the request has ended: what it started is cancelled then.
--
-- The module is loaded by `require "weft"`; outside of nginx it cannot be.
--
-- @module weft.ngx
local core = require "weft.core"

local options = require "weft.options"

local host = core.host
if not host then
  error("weft.ngx is for lua-nginx-module and OpenResty", 2)
end

local semaphore = require "ngx.semaphore"
local ngx = ngx -- luacheck: globals ngx

local M = {}

-- ---- waiting ----
--
-- One light thread a VM, started by the first call that waits, has a cosocket whose other end the inbox of weft's
-- scheduler writes to. It posts the semaphore of each caller that was woken.

local FOREVER = 2147483 -- seconds: what fits into nginx's milliseconds
local TRIES = 3
local AGAIN = 1 -- seconds until nginx is asked for the light thread again

local folders = { "/tmp", "/dev/shm", "/var/tmp" }
local semaphores = {} -- by the number of the guest; kept for the next one of that number
local failures = {} -- why a guest was woken without its event
local is_serving, is_end_known = false, false
local asked_at -- when nginx was asked to start the light thread; nil once it has

local function post(number)
  local waited = semaphores[number]
  if waited and waited:count() < 0 then
    waited:post(1)
  else
    host.drop(number) -- its light thread was killed
  end
end

local function deliver()
  local number = host.take()
  while number do
    post(number)
    number = host.take()
  end
end

local function listen()
  local path, err
  for _, folder in ipairs(folders) do
    path, err = host.listen(folder)
    if path then
      break
    end
  end
  return path, err
end

local function connect()
  local socket = ngx.socket.tcp()
  socket:settimeouts(5000, 5000, FOREVER * 1000)
  local path, err = listen()
  local ok = path
  if ok then
    ok, err = socket:connect("unix:" .. path)
  end
  if ok then
    ok, err = host.accept()
  else
    host.unlisten()
  end
  return ok and socket, tostring(err)
end

-- Until nobody waits and nobody is expected; or nil and why the connection is lost.
local function serve()
  local socket, err = connect()
  if not socket then
    return nil, err
  end
  while true do
    repeat
      deliver()
      if host.shall_end() then
        host.disarm()
        socket:close()
        return true
      end
    until host.arm()
    local bytes
    bytes, err = socket:receive(8)
    host.disarm()
    if not bytes and err ~= "timeout" then
      return nil, err
    end
  end
end

local function fail_all(why)
  for number, waited in pairs(semaphores) do
    if waited:count() < 0 then
      failures[number] = why
      waited:post(1)
    end
  end
end

-- nginx runs far timers at once when a worker exits.
local function watch_exit(is_exiting)
  if is_exiting or not ngx.timer.at(FOREVER, watch_exit) then
    host.end_when_idle()
  end
end

-- A VM that stays keeps its connection until the worker exits. Any other, and one that cannot learn of the exit, gives
-- it up whenever nobody waits.
local function know_end()
  if is_end_known then
    return
  end
  is_end_known = true
  watch_exit(not host.may_linger())
end

-- While a worker that shuts down closes what is open, those who wait are cancelled and then waited for once more.
local function serve_or_fail()
  local ok, why = true, nil
  for _ = 1, TRIES do
    local is_fine
    is_fine, ok, why = pcall(serve)
    if not is_fine then
      ok, why = nil, ok
    end
    if ok or host.waiting() == 0 then
      break
    end
    if ngx.worker.exiting() then
      host.cancel_requests("the nginx worker is shutting down")
    end
  end
  return ok or host.waiting() == 0, why
end

-- The light thread; asked for twice, it is here once.
local function run()
  if is_serving then
    return
  end
  is_serving, asked_at = true, nil
  know_end()
  local ok, why = serve_or_fail()
  is_serving = false
  if not ok then
    fail_all(why)
    ngx.log(ngx.ERR, "weft: callers that wait cannot be woken: ", why)
  end
end

local function ensure_served()
  if is_serving or asked_at and ngx.now() < asked_at + AGAIN then
    return true
  end
  asked_at = ngx.now()
  local ok, err = ngx.timer.at(0, run)
  if not ok then
    asked_at = nil
  end
  return ok, err
end

-- nginx drops a timer that is one too many, and says so in its log alone.
local function wait_for(waited)
  local ok, err
  local tries = 0
  repeat
    ok, err = ensure_served()
    if ok then
      tries = is_serving and 0 or tries + 1
      ok, err = waited:wait(is_serving and FOREVER or AGAIN)
    end
  until ok or err ~= "timeout" or tries == TRIES
  return ok, err == "timeout" and "it does not start weft's timer; is lua_max_running_timers too low?" or err
end

-- Called by blocking functions: returns true once the guest is woken, or nil and an error.
function host.wait(number)
  local waited = semaphores[number]
  if not waited or waited:count() ~= 0 then
    waited = semaphore.new()
    semaphores[number] = waited
  end
  local ok, err = wait_for(waited)
  local failure = failures[number]
  failures[number] = nil
  if ok and not failure then
    return true
  end
  return host.withdraw(number, failure or err)
end

-- ---- tasks of weft.inline ----

local function call(fn, ...)
  return xpcall(fn, host.describe, ...)
end

local function run_task(starter)
  host.finish(starter, call(host.begin(starter)))
end

-- Called by group:go: a task of weft.inline is a light thread of the request.
function host.spawn(starter, task)
  ngx.thread.spawn(run_task, starter)
  return task
end

-- ---- settings ----

local fields = {
  threads = {
    function(value)
      return type(value) == "number" and value >= 1 and value <= 1024 and value == math.floor(value)
    end,
    "a whole number from 1 to 1024",
  },
  nice = {
    function(value)
      return type(value) == "number" and value >= -20 and value <= 19 and value == math.floor(value)
    end,
    "a whole number from -20 to 19",
  },
  folder = options.word,
}

-- A share of the processors for each worker process, and at least two, so that one task that computes does not
-- hold up the others. The threads are nice to nginx's event loop.
local threads, nice = math.max(2, math.floor(host.processors() / ngx.worker.count())), 10
host.setup_pool(threads, nice, true)

--- Settings of this worker process, for `init_worker_by_lua`.
-- @tparam table given
-- @tparam[opt] number given.threads of the default pool (default: a worker process's share of the processors, at
--   least 2)
-- @tparam[opt=10] number given.nice of these threads: 0 and they compete with nginx as equals
-- @tparam[opt] string given.folder where the socket is made that wakes nginx; it is gone as soon as it is
--   connected (default: the first of /tmp, /dev/shm, /var/tmp that works)
-- @raise bad argument or unknown option; the pool has started threads already
function M.setup(given)
  options.check("weft.ngx.setup", given, fields, 2)
  threads, nice = given.threads or threads, given.nice or nice
  if not host.setup_pool(threads, nice) then
    error("weft.ngx.setup: the default pool has started; call it in init_worker_by_lua", 2)
  end
  if given.folder then
    folders = { given.folder }
  end
end

-- ---- contexts ----

local function leave(ctx, ok, ...)
  host.leave()
  ctx:cancel()
  if not ok then
    error((...), 0)
  end
  return ...
end

-- Runs fn with ctx as the current context of this coroutine.
function host.run_under(ctx, fn, ...)
  if not host.enter(ctx) then
    return fn(...) -- in a phase that works for no request nothing blocks
  end
  return leave(ctx, pcall(fn, ...))
end

--- Cancels the request's context when the client closes the connection: what the handler waits for then raises an
-- error of kind "canceled", and the tasks that it started are cancelled. Needs `lua_check_client_abort on`. Without
-- this call nginx ends the handler in the middle, and its tasks are cancelled all the same.
-- @function cancel_on_abort
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] error of kind "nginx": `lua_check_client_abort` is off, or ngx.on_abort was called before
function M.cancel_on_abort()
  local ctx = core.current()
  local ok, err = ngx.on_abort(function()
    ctx:cancel("the client closed the connection")
  end)
  if ok then
    return true
  end
  return nil, core.new_error { kind = "nginx", message = "weft.ngx.cancel_on_abort: " .. tostring(err) }
end

return M
