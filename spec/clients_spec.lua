-- The model server, met by the clients that its APIs' makers publish: the npm packages openai,
-- @anthropic-ai/sdk and ollama. They are installed into build/clients on the first run, so this spec needs
-- node 18 or later, npm and, that once, a network; without them its one test is pending and says why.

local clients = require "spec.support.model_client"
local json = require "dkjson"

local folder = "build/clients"

local function install()
  if not clients.has_shell then
    return nil, "there is no shell under ThreadSanitizer"
  elseif clients.shell("command -v node && command -v npm") == "" then
    return nil, "node and npm are not installed"
  elseif clients.shell("LD_PRELOAD= node -p 'parseInt(process.versions.node) >= 18'") ~= "true\n" then
    return nil, "node is older than 18"
  end
  return clients.shell(([[
    unset LD_PRELOAD # a sanitizer's
    mkdir -p %s && exec 9>%s/lock && flock 9 # two runs at a time would install over each other
    cp spec/clients/package.json spec/clients/check.mjs %s && cd %s || exit
    cmp -s package.json installed.json && { echo good; exit; }
    timeout 120 npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error \
      --fetch-retries=2 --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=3000 >npm.log 2>&1 \
      && cp package.json installed.json && echo good && exit
    cat npm.log
  ]]):format(folder, folder, folder, folder))
end

local ever = math.huge

local function start_server()
  local text = "Grüße, one two three four."
  local weather = { tool_calls = { { name = "weather", arguments = { city = "Zürich" } } } }
  return clients.start({
    api_key = "key-1",
    models = { "poet", "caller", "labeler", "e", "limited", "broke", "broken", "reset", "retried", "final", "stalled",
      "inside", "inside-event", "inside-done", "cut", "crlf", "bytewise", "zipped", "interim", "long", "overloaded" },
    rate_limits = { requests = 1000000 },
    replies = {
      caller = weather,
      labeler = { json = { label = "good", score = 0.5 } },
      long = { tokens = 1000 },
      retried = { template = "{{header.x-stainless-retry-count}}" },
    },
    reply = text,
    faults = {
      { model = "limited", status = 429, retry_after = 7, message = "slow down", times = ever },
      { model = "broke", status = 429, code = "insufficient_quota", times = ever },
      { model = "broken", status = 500, times = ever },
      { model = "reset", reset = "before", times = ever },
      { model = "retried", status = 429, retry_after_ms = 1 },
      { model = "retried", status = 503, retry_after_ms = 1 },
      { model = "retried", reset = "headers" },
      { model = "final", status = 503, should_retry = false, times = 1 },
      { model = "stalled", stall = ever, at = "before", times = ever },
      { model = "inside", status = 500, inside = true, message = "gone", times = ever },
      { model = "inside-event", status = 529, inside = "event", message = "gone", times = ever },
      { model = "inside-done", status = 500, inside = "done", message = "gone", times = ever },
      { model = "cut", truncate = "event", times = ever },
      { model = "crlf", stream = { line_end = "crlf", comments = true }, times = ever },
      { model = "bytewise", wire = { piece = 1 }, times = ever },
      { model = "zipped", wire = { gzip = true }, times = ever },
      { model = "interim", wire = { interim = 3 }, times = ever },
      { model = "overloaded", status = 529, times = ever },
    },
  })
end

local installed, missing = install()
local ready = installed and installed:match("good%s*$")

describe("weft.testing.model_server serves", function()
  if not ready then
    pending("npm's clients: " .. (missing or "they cannot be installed: " .. installed:sub(1, 200)))
    return
  end

  -- Each check is a test of its own, whose name node tells.
  local server = start_server()
  local output = clients.shell(("cd %s && LD_PRELOAD= timeout 100 node check.mjs %s 2>&1"):format(folder, server.origin))
  local stats = server:stats()
  clients.close()

  local count = 0
  for line in output:gmatch("[^\n]+") do
    local result = json.decode(line)
    if type(result) == "table" and result.name then
      count = count + 1
      it(result.name, function()
        assert.is_true(result.ok, result.error)
      end)
    end
  end

  it("all that they ask for", function()
    assert.equal(32, count, output)
    assert.equal(0, stats.rejected)
  end)
end)
