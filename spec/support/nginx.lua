--- A real nginx for specs: one a test, under a folder of its own, on a free port of the loopback.
--
--     local nginx = require "spec.support.nginx"
--     local server = nginx.start { locations = [[ location /x { content_by_lua_block { … } } ]] }
--     local status, body = server:get "/x"
--     server:stop()          -- fails when something of it stays alive, or the log has errors
--
-- nginx runs in the foreground below a pipe, whose end comes when its last process has gone.
local socket = require "socket"

local nginx = {}
local Server = {}
Server.__index = Server

local MODULES = { "ndk_http_module", "ngx_http_lua_module" }
local LIMIT = 60 -- seconds until something that must come is given up

local function exists(path)
  local file = io.open(path)
  return file and file:close() and true or false
end

-- What a command prints. Tools run without the sanitizer that may be preloaded for nginx.
local function capture(command)
  local pipe = assert(io.popen("unset LD_PRELOAD; " .. command .. " 2>/dev/null"))
  local text = pipe:read("*a")
  pipe:close()
  return (text:gsub("%s+$", ""))
end
nginx.capture = capture

local function modules_folder()
  for _, folder in ipairs { "/usr/lib/nginx/modules", "/usr/lib64/nginx/modules" } do
    if exists(folder .. "/" .. MODULES[2] .. ".so") then
      return folder
    end
  end
end

local binary = capture "PATH=$PATH:/usr/sbin command -v nginx"
local so = package.searchpath and package.searchpath("weft.core", package.cpath) or ""
local root = capture "pwd"

nginx.has_sanitizer = (os.getenv "WEFT_SAN" or "") ~= "" -- which keeps freed memory

--- Whether nginx with ngx_lua is here, and this is the VM that it runs.
function nginx.is_here()
  return jit ~= nil and binary ~= "" and modules_folder() ~= nil
end

function nginx.free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local function quoted(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function shell(command)
  local rc = os.execute(command)
  assert(rc == 0 or rc == true, command)
end

-- With SPEC_GC=hostile the collector of nginx's VM never rests either. Its steps are small: LuaJIT leaves compiled code
-- whenever a step comes to the end of the marking, and one that always does so keeps a loop at its start for ever.
local is_hostile = os.getenv "SPEC_GC" == "hostile"
local HOSTILE = "collectgarbage('setpause', 0) collectgarbage('setstepmul', 1000) "

-- `options.locations` of the one server; `http` and `main`: more directives there; `init`: code for init_by_lua_block;
-- `workers` (1); `cache` ("on"); `limit`: seconds until nginx is ended in any case (200).
local function config(folder, port, options)
  local load = {}
  for i, name in ipairs(MODULES) do
    load[i] = ("load_module %s/%s.so;"):format(modules_folder(), name)
  end
  local temporary = {}
  for i, name in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
    temporary[i] = ("%s_temp_path %s/temp;"):format(name, folder)
  end
  local user = capture "id -u" == "0" and "user root;" or ""
  local build = so:gsub("weft/core%.so$", "?.so")
  return table.concat({
    table.concat(load, "\n"), user,
    "daemon off;",
    "worker_processes " .. (options.workers or 1) .. ";",
    "error_log " .. folder .. "/error.log info;",
    "pid " .. folder .. "/nginx.pid;",
    "env WEFT_SHIP;",
    options.main or "",
    "events { worker_connections 8192; }",
    "http {",
    "access_log off;",
    "keepalive_requests 1000000;",
    table.concat(temporary, "\n"),
    ("lua_package_path '%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;;';"):format(root, root, root),
    ("lua_package_cpath '%s;;';"):format(build),
    "lua_code_cache " .. (options.cache or "on") .. ";",
    "init_by_lua_block { " .. (is_hostile and HOSTILE or "") .. (options.init or 'require "weft"') .. " }",
    options.http or "",
    "server {",
    ("listen 127.0.0.1:%d backlog=4096;"):format(port),
    [[location /ready { content_by_lua_block { ngx.say "ready" } }
    location /stats { content_by_lua_block {
      collectgarbage() collectgarbage()
      local stats = require("weft").stats()
      stats.memory = collectgarbage "count"
      stats.pid = ngx.worker.pid()
      ngx.say(require("weft").json.encode(stats))
    } }]],
    options.locations or "",
    "}", "}",
  }, "\n")
end

--- Calls `look` until it returns something, `LIMIT` seconds at most.
function nginx.await(what, look)
  local deadline = socket.gettime() + LIMIT
  repeat
    local found = look()
    if found then
      return found
    end
    socket.sleep(0.005)
  until socket.gettime() > deadline
  error("waited in vain until " .. what, 2)
end

--- Starts nginx, and returns once it answers.
function nginx.start(options)
  local self = setmetatable({ folder = capture "mktemp -d /tmp/weft-nginx-XXXXXX" }, Server)
  self.port = nginx.free_port()
  self.url = "http://127.0.0.1:" .. self.port
  shell("chmod 755 " .. self.folder .. " && mkdir " .. self.folder .. "/temp")
  local file = assert(io.open(self.folder .. "/nginx.conf", "w"))
  file:write(config(self.folder, self.port, options))
  file:close()
  self.pipe = assert(io.popen(("exec timeout -k 2 %d %s -p %s -e %s/error.log -c %s/nginx.conf 2>&1"):format(
    options.limit or 200, binary, quoted(self.folder), self.folder, self.folder)))
  nginx.await("nginx answers: " .. self.folder, function()
    return (self:get "/ready") == 200
  end)
  self.pid = tonumber((assert(io.open(self.folder .. "/nginx.pid"))):read("*a"))
  return self
end

-- ---- clients ----

--- A connection on which the request has been sent. Only in HTTP "1.1" is an answer streamed, in chunks.
function Server:connect(path, version)
  local client = assert(socket.tcp())
  client:settimeout(LIMIT)
  local ok, err = client:connect("127.0.0.1", self.port)
  if not ok then
    client:close()
    return nil, err
  end
  client:send(("GET %s HTTP/%s\r\nHost: test\r\nConnection: close\r\n\r\n"):format(path, version or "1.0"))
  return client
end

--- GET: status and body, or nil and why.
function Server:get(path)
  local client, err = self:connect(path)
  if not client then
    return nil, err
  end
  local answer, why, partial = client:receive("*a")
  client:close()
  answer = answer or partial or ""
  local status, body = answer:match("^HTTP/1%.%d (%d+).-\r\n\r\n(.*)$")
  return tonumber(status), body, why
end

--- Runs wrk for so many seconds: requests, errors, and all that it prints.
function Server:wrk(path, seconds, connections)
  return nginx.read_wrk(capture(("wrk -t1 -c%d -d%ss --timeout %ds --latency %s%s"):format(connections, seconds, LIMIT,
    self.url, path)))
end

--- The same in the background, with a connection a request: a pipe whose text is for `read_wrk`.
function Server:start_wrk(path, seconds, connections)
  return assert(io.popen(("unset LD_PRELOAD; wrk -t1 -c%d -d%ss --timeout %ds -H 'Connection: close' %s%s 2>&1"):format(
    connections, seconds, LIMIT, self.url, path)))
end

function nginx.read_wrk(text)
  local requests = tonumber(text:match("(%d+) requests in"))
  local errors = 0
  for count in (text:match("Socket errors:[^\n]*") or ""):gmatch("%d+") do
    errors = errors + tonumber(count)
  end
  return requests, errors + tonumber(text:match("Non%-2xx or 3xx responses: (%d+)") or 0), text
end

--- What weft.stats says in the worker, with `memory` (KB of Lua) and `pid`.
function Server:stats()
  local _, body = self:get "/stats"
  return require("weft").json.decode(body)
end

-- ---- processes ----

--- Waits until nothing that weft did in the worker is left.
-- @tparam string what that is, for the error
function Server:await_idle(what)
  nginx.await(what, function()
    local stats = self:stats()
    return stats.parked == 0 and stats.timers == 0 and stats.groups == 0
  end)
end

function Server:signal(name, pid)
  shell(("kill -%s %d"):format(name, pid or self.pid))
end

--- Process ids of the workers.
function Server:workers()
  local pids = {}
  for pid in capture(("pgrep -P %d"):format(self.pid)):gmatch("%d+") do
    pids[#pids + 1] = tonumber(pid)
  end
  return pids
end

--- Descriptors that a process has open.
function nginx.descriptors(pid)
  return tonumber(capture(("ls /proc/%d/fd | wc -l"):format(pid)))
end

--- Resident memory of a process in KB.
function nginx.resident(pid)
  return tonumber(capture(("grep VmRSS /proc/%d/status"):format(pid)):match("%d+"))
end

--- Reloads, and returns when the new workers answer and the old ones got the signal.
function Server:reload()
  local before = {}
  for _, pid in ipairs(self:workers()) do
    before[pid] = true
  end
  self:signal "HUP"
  nginx.await("a reload has made new workers", function()
    local status, body = self:get "/stats"
    local pid = status == 200 and tonumber(body:match('"pid":(%d+)'))
    return pid and not before[pid]
  end)
  return before
end

function Server:log()
  local file = assert(io.open(self.folder .. "/error.log"))
  local text = file:read("*a")
  file:close()
  return text
end

--- Lines of the log at level error or worse, without those that a pattern of `allowed` is found in.
function Server:errors(allowed)
  local found = {}
  for line in self:log():gmatch("[^\n]+") do
    local level = line:match("^%S+ %S+ %[(%a+)%]")
    local is_bad = level == "error" or level == "crit" or level == "alert" or level == "emerg"
    for _, pattern in ipairs(allowed or {}) do
      is_bad = is_bad and not line:find(pattern)
    end
    if is_bad then
      found[#found + 1] = line
    end
  end
  return found
end

--- Ends nginx by a signal ("QUIT": gracefully; "TERM"), waits for the end of all its processes, and raises when the
-- log has errors but those of `allowed`.
function Server:stop(signal, allowed)
  self:signal(signal or "QUIT")
  self.pipe:read("*a") -- until the last process that holds it has ended
  self.pipe:close()
  local errors = self:errors(allowed)
  assert(#errors == 0, "nginx logged errors:\n" .. table.concat(errors, "\n", 1, math.min(#errors, 20)))
  shell("rm -rf " .. self.folder)
end

return nginx
