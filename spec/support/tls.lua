--- Certificates of an authority of one's own, and an nginx that shows them: for specs of TLS.
--
--     local tls = require "spec.support.tls"
--     local server = tls.start { good = { names = "IP:127.0.0.1" }, old = { names = "IP:127.0.0.1", days = -1 } }
--     http.get(server.urls.good .. "/", { ca_file = server.ca_file })
--     server.stop()
local clients = require "spec.support.model_client"
local nginx = require "spec.support.nginx"

local tls = {}

--- Whether processes can be started here, and nginx is one of them.
tls.is_here = clients.has_shell and nginx.capture "PATH=$PATH:/usr/sbin command -v nginx" ~= ""

local function run(command)
  local rc = os.execute(command .. " >/dev/null 2>&1")
  assert(rc == 0 or rc == true, command)
end

local function make_authority(folder)
  run(("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout %s/ca.key -out %s/ca.pem"):format(
    folder, folder))
end

-- `names` as subjectAltName wants them; `days` that it is good for; `is_own`: signed by itself.
local function make_certificate(folder, name, options)
  local base = folder .. "/" .. name
  run(("openssl req -newkey rsa:2048 -nodes -subj /CN=%s -addext subjectAltName=%s -keyout %s.key -out %s.csr"):format(
    name, options.names, base, base))
  local signer = options.is_own and ("-signkey %s.key"):format(base)
    or ("-CA %s/ca.pem -CAkey %s/ca.key -CAcreateserial"):format(folder, folder)
  run(("openssl x509 -req -in %s.csr %s -days %d -copy_extensions copy -out %s.pem"):format(
    base, signer, options.days or 2, base))
end

local function site(folder, name, options, port)
  return ([[server {
    listen 127.0.0.1:%d ssl http2 backlog=2048;
    ssl_certificate %s/%s.pem; ssl_certificate_key %s/%s.key;
    keepalive_requests %d; http2_max_concurrent_streams 128;
    location /name { return 200 "$ssl_server_name $server_protocol"; }
    %s
  }]]):format(port, folder, name, folder, name, options.keepalive_requests or 100000,
    options.to and ("location / { proxy_pass %s; proxy_buffering off; proxy_http_version 1.1; }"):format(options.to) or "")
end

local CONFIG = [[%s
error_log %s/error.log crit; pid %s/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %s; proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
  %s
}
]]

--- Starts nginx, with a site for each name: `names`, `days`, `is_own` of its certificate, `to`: where requests go on.
-- @treturn table `urls` by name, `ca_file`, `stop()`
function tls.start(sites)
  local folder = nginx.capture "mktemp -d /tmp/weft-tls-XXXXXX"
  make_authority(folder)
  local urls, servers = {}, {}
  for name, options in pairs(sites) do
    local port = nginx.free_port()
    make_certificate(folder, name, options)
    urls[name] = "https://127.0.0.1:" .. port
    servers[#servers + 1] = site(folder, name, options, port)
  end
  local user = nginx.capture "id -u" == "0" and "user root;" or ""
  local file = assert(io.open(folder .. "/nginx.conf", "w"))
  file:write(CONFIG:format(user, folder, folder, folder, folder, folder, folder, folder, table.concat(servers, "\n")))
  file:close()
  run(("PATH=$PATH:/usr/sbin nginx -p %s -e %s/error.log -c %s/nginx.conf"):format(folder, folder, folder))
  local function stop()
    run(("kill $(cat %s/nginx.pid)"):format(folder))
    nginx.await("nginx has gone", function()
      local left = io.open(folder .. "/nginx.pid")
      return not left or (left:close() and false)
    end)
    run("rm -r " .. folder)
  end
  return { urls = urls, ca_file = folder .. "/ca.pem", stop = stop }
end

return tls
