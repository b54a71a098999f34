-- Every fault of the model server, met by weft.model: plain and streamed, through all three APIs. Each says which
-- kind of error it is; the calls beside it get their own answers; nothing is left behind; and where another
-- attempt helps, it gets the call's own answer.

local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local APIS = { "openai", "anthropic", "ollama" }
local SAYS = " says: Grüße, one two three four five"
local PATIENCE_S = 60 -- of calls that nothing should hold up
local STALL_S, SECOND_S = 0.1, 0.5 -- of a call that meets silence, alone, and when it is tried again

local ever = math.huge

-- ---- the faults ----

-- { name, fault, what a plain chat comes to, what a stream does }: the kind of an error, or "ok". `partial`: some text came
-- before it. `slow`: it takes a timeout. `ollama` wins over both for it.
local faults = {}

local function add(name, fault, plain, stream, more)
  local entry = { name = name, fault = fault, plain = plain, stream = stream or plain }
  for key, value in pairs(more or {}) do
    entry[key] = value
  end
  faults[#faults + 1] = entry
end

for _, pair in ipairs({
  { 400, "request" }, { 401, "auth" }, { 402, "quota" }, { 403, "auth" }, { 404, "request" }, { 408, "timeout" },
  { 409, "request" }, { 413, "request" }, { 422, "request" }, { 429, "rate_limit" }, { 500, "server" },
  { 502, "server" }, { 503, "server" }, { 504, "server" }, { 529, "server" },
}) do
  add("status " .. pair[1], { status = pair[1] }, pair[2])
end
add("a used-up quota", { status = 429, code = "insufficient_quota", type = "insufficient_quota" }, "quota", nil,
  { ollama = "rate_limit" }) -- its errors have no code
add("a proxy's own error page", { status = 502, body = "<html>Bad Gateway</html>" }, "server")

local partial = { partial = true }
add("an error inside of a 200", { status = 500, inside = "data" }, "server", nil, partial)
add("a named error inside of a 200", { status = 529, inside = "event" }, "server", nil, partial)
add("an error inside of a 200 before the last mark", { status = 500, inside = "done" }, "server", nil, partial)
add("an error inside of a 200 at its begin", { status = 500, inside = true, after = 0 }, "server")

add("a reset before the answer", { reset = "before" }, "network")
add("a reset in the headers", { reset = "headers" }, "network")
add("a reset after the headers", { reset = "after_headers" }, "network")
add("a reset in the body", { reset = "body" }, "network", "stream_truncated", partial)
add("a reset in an event", { reset = "event" }, "network", "stream_truncated", partial)
-- These look like good ends: a neighbour may have sent its request on that connection already, and asks again.
add("a reset at the end", { reset = "end" }, "ok", nil, { attempts = 3 })
add("an end before the answer", { truncate = "before" }, "network")
add("an end in the headers", { truncate = "headers" }, "network")
add("an end after the headers", { truncate = "after_headers" }, "network")
add("an end in the body", { truncate = "body" }, "network", "stream_truncated", partial)
add("an end in an event", { truncate = "event" }, "network", "stream_truncated", partial)
add("an end without the last chunk", { truncate = "end" }, "ok", nil, { attempts = 3 })
add("an end in a body without a length", { truncate = "body", wire = { framing = "close" } },
  "bad_reply", "stream_truncated", partial)
add("an end after one byte", { truncate = 1 }, "network")

add("silence before the answer", { stall = ever, at = "before" }, "timeout", nil, { slow = true })
add("silence in the headers", { stall = ever, at = "headers" }, "timeout", nil, { slow = true })
add("silence after the headers", { stall = ever, at = "after_headers" }, "timeout", nil, { slow = true })
add("silence in the body", { stall = ever, at = "body" }, "timeout", "stream_truncated", { slow = true, partial = true })
add("silence in an event", { stall = ever, at = "event" }, "timeout", "stream_truncated", { slow = true, partial = true })
add("a pause", { pause = 0.005 }, "ok")
add("a late answer", { delay = 0.005 }, "ok")

add("garbage", { garbage = true }, "bad_reply", nil, partial)
add("a redirect to the same place", { redirect = 307, to = "same" }, "request")
add("a redirect to another origin", { redirect = 302, to = "other" }, "request")
add("a gzip bomb", { gzip_bomb = 2 ^ 27 }, "too_large")
add("a length that is too long", { wrong_length = 10 }, "network", "ok")
add("a length that is too short", { wrong_length = -10 }, "bad_reply", "ok")

for _, pair in ipairs({
  { "one byte at a time", { piece = 1 } },
  { "characters that are split", { split_utf8 = true } },
  { "gzip", { gzip = true } },
  { "chunks", { framing = "chunked" } },
  { "a body without a length", { framing = "close" } },
  { "many interim answers", { interim = 20 } },
  { "slow headers", { head_delay = 0.001 } },
}) do
  add(pair[1], { wire = pair[2] }, "ok")
end
add("a connection that is not kept", { wire = { hang_up = true } }, "ok", nil, { attempts = 3 })
for _, pair in ipairs({
  { "CRLF", { line_end = "crlf" } },
  { "CR", { line_end = "cr" } },
  { "a byte order mark", { bom = true } },
  { "comments", { comments = true } },
  { "no space after the colon", { space = false } },
  { "data on two lines", { split_lines = true } },
  { "no reason at the end", { finish = false } },
  { "no usage", { usage = false } },
  { "usage that grows", { usage = "cumulative" } },
}) do
  add(pair[1], { stream = pair[2] }, "ok")
end
add("no last mark", { stream = { done = false } }, "ok", nil,
  { partial = true, ollama_stream = "stream_truncated" }) -- its only one
add("neither a reason nor a last mark", { stream = { done = false, finish = false } }, "ok", "stream_truncated",
  { partial = true })

-- ---- the calls ----

local function new_model(server, api, retry)
  local base_url = api == "ollama" and server.origin or server.url
  return weft.model[api]({ base_url = base_url, model = "any", timeout = PATIENCE_S, retry = retry })
end

-- A whole answer, either way. Returns what came, as a plain table.
local function ask(model, is_stream, name, timeout)
  local given = { model = name, prompt = name, timeout = timeout }
  local result, err
  if is_stream then
    local stream
    stream, err = model:stream(given)
    if stream then
      result, err = stream:result()
    end
  else
    result, err = model:chat(given)
  end
  if result then
    return { kind = "ok", text = result.text, attempts = result.attempts }
  end
  return { kind = err.kind, partial = err.partial, message = tostring(err) }
end

-- One call that meets the fault, between two that do not, all at once.
local function ask_three(server, api, is_stream, timeout, retry)
  local model = new_model(server, api, retry)
  return assert(weft.map({ "left", "victim", "right" }, function(name)
    return ask(model, is_stream, name, name == "victim" and timeout or nil)
  end, { chunk = 1 }))
end

local function start(fault, times)
  local given = { model = "victim", times = times }
  for name, value in pairs(fault) do
    given[name] = value
  end
  return assert(testing.model_server({ reply = { template = "{{last}}" .. SAYS }, faults = { given } }))
end

local function expected_kind(entry, api, is_stream)
  if api == "ollama" and (entry.ollama or is_stream and entry.ollama_stream) then
    return entry.ollama or entry.ollama_stream
  end
  return is_stream and entry.stream or entry.plain
end

local function check_neighbours(results)
  for i, name in ipairs({ "left", "victim", "right" }) do
    if name ~= "victim" or results[i].kind == "ok" then
      assert.equal("ok", results[i].kind, results[i].message)
      assert.equal(name .. SAYS, results[i].text)
    end
  end
end

local function check_victim(entry, api, is_stream, result)
  assert.equal(expected_kind(entry, api, is_stream), result.kind, result.message)
  local has_partial = is_stream and entry.partial == true and result.kind ~= "ok"
  assert.equal(has_partial, is_stream and result.partial ~= nil)
  if has_partial then
    assert.equal(1, (("victim" .. SAYS):find(result.partial, 1, true)))
  end
end

-- Kinds that another attempt may help with.
local again = { network = true, server = true, rate_limit = true, timeout = true, bad_reply = true, stream_truncated = true }

-- ---- the matrix ----

-- How long a call bears silence: what has begun may take its time.
local function silence_of(entry)
  return { idle = STALL_S, first_byte = not entry.partial and STALL_S or nil }
end

local function meet(entry, is_stream)
  for _, api in ipairs(APIS) do
    local server = start(entry.fault, ever)
    local timeout = entry.slow and silence_of(entry) or nil
    local results = ask_three(server, api, is_stream, timeout, { attempts = entry.attempts or 1, base = 0 })
    server:close()
    check_neighbours(results)
    check_victim(entry, api, is_stream, results[2])
  end
end

local function meet_once(entry, is_stream, apis)
  for _, api in ipairs(apis) do
    local server = start(entry.fault, 1)
    local timeout = entry.slow and { attempt = SECOND_S } or nil
    local results = ask_three(server, api, is_stream, timeout, { attempts = 5, base = 0 })
    local faulty = server:stats().faults
    server:close()
    check_neighbours(results)
    assert.equal("ok", results[2].kind, results[2].message)
    assert.is_true(results[2].attempts >= 2)
    assert.equal(1, faulty)
  end
end

for number, entry in ipairs(faults) do
  describe("weft.model meets " .. entry.name .. ",", function()
    setup(leaks.before)
    teardown(leaks.after)

    for _, is_stream in ipairs({ false, true }) do
      local way = is_stream and "streamed" or "plain"
      it(way, function()
        meet(entry, is_stream)
      end)

      local kind = is_stream and entry.stream or entry.plain
      local begins = is_stream and entry.partial -- then it is never sent again
      if again[kind] and not begins and not entry.ollama then
        it(way .. ", once, and gets its own answer the second time", function()
          meet_once(entry, is_stream, entry.slow and { APIS[number % #APIS + 1] } or APIS)
        end)
      end
    end
  end)
end
