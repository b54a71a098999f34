-- The examples run as they stand, to their end, and print what they promise. examples/embed.c is one of the programs of
-- `make test-c`.

local nginx = require "spec.support.nginx"
local script = require "spec.support.script"

if os.getenv("WEFT_SAN") == "thread" then -- no other process runs with it preloaded
  return
end

-- Whoever runs this may have keys: none of these calls a real service.
local AT_HOME = "env -u OPENAI_API_KEY -u OPENAI_BASE_URL -u ANTHROPIC_API_KEY"

local function output_of(name, words)
  local ended = script.run_file("examples/" .. name, words, AT_HOME)
  assert.equal(0, ended.status, ended.out)
  return ended.out
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  os.remove(path)
  return text
end

describe("examples/", function()
  it("batch.lua goes on where it was stopped", function()
    local path = os.tmpname()
    local words = script.quote(path) .. " 60"
    assert.match("25 scored, %d+ failed, 0 were done before, 35 are left", output_of("batch.lua", words .. " 25"))
    assert.match("%d+ scored, %d+ failed, 25 were done before", output_of("batch.lua", words))
    output_of("batch.lua", words)
    local seen = {}
    for line in read(path):gmatch("[^\n]+") do
      local id = line:match('"id":(%d+)')
      assert.is_nil(seen[id])
      assert.match('"score":7', line)
      seen[id] = true
    end
  end)

  it("budget.lua asks all, under its limits", function()
    local out = output_of("budget.lua", "20")
    assert.match("of 20 calls were skipped; spent: 0%.", out)
    assert.match("0 are skipped; 20 answers, each to its own question", out)
  end)

  it("chat.lua prints the answers to its questions", function()
    local out = output_of("chat.lua")
    assert.match("> How does a loom work%?\nA loom holds the warp", out)
    assert.match("> And what is a weft%?\nThe thread that crosses", out)
  end)

  it("fallback.lua has an answer to every question", function()
    local out = output_of("fallback.lua")
    for i = 1, 6 do
      assert.match("echo: question " .. i .. ", by model 2", out)
    end
    assert.match("breaker is open", out)
  end)

  it("limits.lua fetches each page once", function()
    assert.match("40 of 40 tasks, 5 pages fetched, all well", output_of("limits.lua", "40 5 100"))
  end)

  it("stream.lua prints the answer and what it cost", function()
    assert.match("the many have become one cloth%.\ntokens: %d+ in, %d+ out", output_of("stream.lua"))
  end)

  it("triage.lua writes a line for each item", function()
    local path = os.tmpname()
    local out = output_of("triage.lua", "--items 12 --output " .. script.quote(path))
    assert.match("12 items: 12 done, 0 failed", out)
    assert.equal(12, select(2, read(path):gsub("\n", "")))
  end)

  it("watch.lua shows its tasks, writes its trace, and is told of the deadlock", function()
    local path = os.tmpname()
    local out = output_of("watch.lua", script.quote(path))
    assert.match('weft_tasks_ended_total{result="done"} 40\n', out, 1, true)
    assert.match("deadlock: everything is waiting", out)
    assert.match("task 1 'left'", out)
    assert.match('"parse"', read(path))
  end)

  describe("model_server.lua", function()
    -- A shell's background job ignores SIGINT, so env undoes that.
    local SIGNALLED = [[
      log=$(mktemp)
      env --default-signal=INT %s examples/model_server.lua --port 0 >$log 2>&1 &
      until grep -q listening $log || ! kill -0 $!; do sleep 0.01; done
      kill -%s $!
      wait $!
      code=$?
      cat $log
      rm $log
      (exit $code)]]

    it("ends with 130 on Ctrl-C and 143 on SIGTERM", function()
      for signal, status in pairs({ INT = 130, TERM = 143 }) do
        local ended = script.shell(SIGNALLED:format(script.interpreter(), signal))
        assert.match("^listening on http://127.0.0.1:%d+/v1\n$", ended.out)
        assert.equal(status, ended.status)
      end
    end)

    it("says how it is used", function()
      for _, words in ipairs({ "", "--port", "--port x", "--what 1", "--port 0 --latency -1", "--port 0 --key",
        "--port 0 --chunks 0" }) do
        local ended = script.run_file("examples/model_server.lua", words)
        assert.match("\nusage: lua examples/model_server.lua %-%-port N", ended.out)
        assert.equal(2, ended.status)
      end
    end)
  end)

  if nginx.is_here() and not nginx.has_sanitizer then
    it("nginx answers, streams, and refuses who gives no key", function()
      local ended = script.shell("sh examples/nginx/demo.sh")
      assert.equal(0, ended.status, ended.out)
      assert.match('"answer":"{\\"label\\":\\"positive\\"', ended.out, 1, true)
      assert.match('data: {"text":" in se"}\n', ended.out, 1, true)
      assert.match('{"error":"the header X-Api-Key is missing"}', ended.out, 1, true)
      assert.match("seven at once with one key:\n%d%d%d\n", ended.out)
      assert.match("\nweft_tasks %d+\n", ended.out)
    end)
  end
end)
