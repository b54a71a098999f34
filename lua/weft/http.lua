--- HTTP requests: in a task they park the task, in a script they block the script.
--
--     local res, err = weft.http.get("https://example.org/", { timeout = 10 })
--     if res and res.status == 200 then print(#res.body) end
--
-- Every answer is a result, whatever its status; what returns nil and an error is a request that got no whole
-- answer. A cancelled context aborts the transfer, and the call raises. Certificates are always verified, redirects
-- are followed only when asked for and never to another origin, and no error holds a header's value, the URL's query
-- or a proxy's credentials. The kinds of errors:
--
-- | kind | |
-- | --- | --- |
-- | "timeout" | a limit of `timeout`; `err.timeout` is its name, `err.seconds` how long it is |
-- | "network" | name, connection, reset, an answer that was cut short |
-- | "tls" | the certificate or the handshake |
-- | "too_large" | `max_body` or `max_header` |
-- | "protocol" | what came is not HTTP |
-- | "redirect" | one that may not be followed |
-- | "invalid" | the URL, a header, a proxy or a file's name cannot be used |
-- | "nomem", "nothread" | memory, threads |
--
-- Besides, `err.code` is libcurl's number (0: none), `err.sent` whether the server may have seen the request, and
-- `err.received` how many bytes of the body had come, `err.proxy_status` with which status a proxy refused to connect.
--
-- @module weft.http
local clients = require "weft.http.client"

local http = {}

--- An answer.
-- @type response
-- @field status number
-- @field headers by lower-case names; one that came several times is joined with ", "
-- @field body string, decompressed
-- @field timings seconds since the start: `launched` (its turn came), `connected`, `first_byte`, `total`, each
--   absent when it did not get so far; `reused`: over an open connection; `redirects`: how many were followed;
--   `sent`, `received`: bytes of the bodies on the network
-- @field attempts with `retry`: how many there were

--- The body as JSON.
-- @function response:json
-- @return[1] the value; see weft.json.decode
-- @treturn[2] nil
-- @treturn[2] error of kind "bad_reply", with `status`

local default = clients.new("weft.http", {}, 1)

--- Makes a client: what many requests to one server have in common.
-- @tparam table given
-- @tparam[opt] string given.base_url calls may name paths below it; its scheme, host and port are the only ones that
--   the client talks to, so that its headers go nowhere else
-- @tparam[opt] table given.headers sent with each request
-- @tparam[opt] table given.limits `per_host`, `total`: how many requests may be in flight at once, of all tasks that
--   have the client; more wait for their turn, hosts in turn (default: none but 10,000 for the process)
-- @tparam[opt] number|table given.timeout as for @{request}, and so are `max_body`, `max_header`, `decompress`, `ca_file`,
--   `cert_file`, `key_file`, `key_password`, `proxy`, `http2`, `redirects`, `retry` and `limiter`
-- @treturn client
-- @raise bad argument or unknown option
function http.client(given)
  local client = clients.new("weft.http.client", given, 2)
  return client
end

--- Sends a request and waits for the answer.
-- @tparam table given
-- @tparam string given.url http:// or https://, already percent-encoded
-- @tparam[opt] string given.method default: POST when there is a body, else GET
-- @tparam[opt] table given.headers by name: a string, a number, or a list of them for several headers
-- @tparam[opt] string given.body
-- @param[opt] given.json a value that is sent as JSON instead of `body`; see weft.json.encode
-- @tparam[opt] number|table given.timeout seconds in all (default: none but the context's); or a table of
--   `connect` (until there is a connection, default 30), `first_byte` (from then to the answer's first byte), `idle`
--   (between two arrivals of bytes from then on), `attempt` (from when its turn has come to the last byte),
--   `total` (the same with the wait for its turn, and with all attempts)
-- @tparam[opt] number given.max_body bytes of the answer, decompressed (default: 64 MiB)
-- @tparam[opt] number given.max_header bytes of the answer's headers (default: 256 KiB)
-- @tparam[opt=true] boolean given.decompress offers compression, and undoes it
-- @tparam[opt=0] integer given.redirects how many are followed, to the same scheme, host and port only; another one is
--   an error of kind "redirect". After 303, and after 301 or 302 for POST, the method is GET. 0: they are answers
-- @tparam[opt] string given.ca_file a PEM file with the certificates to trust instead of the system's
-- @tparam[opt] string given.cert_file a PEM file with the client's certificate, and `key_file`, `key_password`: its key
--   (default: in the same file, not encrypted)
-- @tparam[opt] string|boolean given.proxy a URL, for every host; false: none (default: the environment's http_proxy,
--   https_proxy, all_proxy and no_proxy, read once)
-- @tparam[opt=true] boolean given.http2 over TLS, where the server offers it; never for streams
-- @tparam[opt=false] table|boolean given.retry options of @{weft.retry}: failures and answers that may pass are tried
--   again. What the server may have acted on already is not, unless the method is idempotent or there is an
--   idempotency key. The last answer is the result, with `attempts`
-- @tparam[opt] limiter|boolean given.limiter what every attempt waits for: @{weft.limiter}, or anything with a method
--   `wait` that returns true, or nil and an error
-- @tparam[opt=false] boolean given.stream returns as soon as the headers are there; the body is read while it
--   arrives, and `max_body` holds for @{stream:body} and @{stream:json} alone
-- @tparam[opt=65536] number given.buffer of a stream: bytes that may wait for the reader before the transfer pauses
-- @treturn[1] response whatever its status; with `stream` a @{stream}
-- @treturn[2] nil
-- @treturn[2] error see above
-- @raise bad argument or unknown option; an error of kind "canceled" or "deadline"
function http.request(given)
  local res, err = clients.request(default, "weft.http.request", given, 2)
  return res, err -- no tail call: errors of arguments name the caller's line
end

local function shortcut(name, method)
  local what = "weft.http." .. name
  return function(url, given)
    local res, err = clients.call(default, what, method, url, given, 2)
    return res, err
  end
end

--- Gets a URL.
-- @function get
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.get = shortcut("get", "GET")

--- Posts to a URL.
-- @function post
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.post = shortcut("post", "POST")

--- Puts to a URL.
-- @function put
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.put = shortcut("put", "PUT")

--- Patches what is at a URL.
-- @function patch
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.patch = shortcut("patch", "PATCH")

--- Deletes what is at a URL.
-- @function delete
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.delete = shortcut("delete", "DELETE")

--- Asks for the headers alone.
-- @function head
-- @tparam string url
-- @tparam[opt] table given as for @{request}, without `method` and `url`
-- @return as @{request}
http.head = shortcut("head", "HEAD")

return http
