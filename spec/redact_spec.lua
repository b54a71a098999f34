-- Secrets are taken out of text in every form, and by the names before them.

local core = require "weft.core"
local redact = require "weft.redact"

local KEY = "sk-te/st%.(key)+1"
local forms = redact.forms { KEY, "team=blue", "" }

describe("redact", function()
  it("takes out a secret in every form", function()
    for _, form in ipairs {
      KEY,
      "sk-te%2Fst%25.%28key%29%2B1",
      "sk-te%2fst%25.%28key%29%2b1",
      "sk-te\\/st%.(key)+1",
    } do
      assert.equal("a [redacted] b [redacted]", redact.text(forms, ("a %s b %s"):gsub("%%s", function() return form end)))
    end
    assert.equal("[redacted]!", redact.text(forms, "team=blue!"))
  end)

  it("takes the longer one when one is a part of another", function()
    assert.equal("[redacted]", redact.text(redact.forms { "abcd", "abcdefgh" }, "abcdefgh"))
  end)

  it("leaves short values alone, and text without secrets", function()
    assert.equal("version 1 of 1", redact.text(redact.forms { "1" }, "version 1 of 1"))
    assert.equal("nothing here", redact.text(forms, "nothing here"))
    assert.equal("my cookie jar", redact.text(forms, "my cookie jar"))
  end)

  it("takes out what stands behind the name of a header", function()
    for text, wanted in pairs {
      ["Authorization: Bearer abc.def"] = "Authorization: Bearer [redacted]",
      ["authorization: Basic Zm9v, x"] = "authorization: Basic [redacted], x",
      ['{"x-api-key":"abc","b":1}'] = '{"x-api-key":"[redacted]","b":1}',
      ["{\\\"X-Api-Key\\\": \\\"abc\\\"}"] = "{\\\"X-Api-Key\\\": \\\"[redacted]\\\"}",
      ["GET /?api_key=abc&x=1"] = "GET /?api_key=[redacted]&x=1",
      ["api-key: a api-key: b"] = "api-key: [redacted] api-key: [redacted]",
      ["Set-Cookie: id=5; path=/"] = "Set-Cookie: [redacted]; path=/",
      ["Proxy-Authorization: Basic Zm9v"] = "Proxy-Authorization: Basic [redacted]",
      ["POST /v1?key=abc&x=1 and &key=d"] = "POST /v1?key=[redacted]&x=1 and &key=[redacted]",
      ["the key: blue"] = "the key: blue",
      ["got Bearer abcdef0123456789, bearer of news"] = "got Bearer [redacted], bearer of news",
      ["via http://me:pass@proxy:3128/ and https://host/a@b"] = "via http://[redacted]@proxy:3128/ and https://host/a@b",
    } do
      assert.equal(wanted, redact.text(forms, text))
    end
  end)

  local function secrets_of(add, ...)
    local secrets = {}
    add(secrets, ...)
    return secrets
  end

  it("knows what is secret in a header's value", function()
    assert.same({ "sk-1" }, secrets_of(redact.add_header, "sk-1"))
    assert.same({ "Bearer sk-1", "sk-1" }, secrets_of(redact.add_header, "Bearer sk-1"))
    assert.same({ "Basic bWU6cGFzcw==", "bWU6cGFzcw==", "me:pass", "pass", "bWU6cGFzcw==" },
      secrets_of(redact.add_header, "Basic bWU6cGFzcw=="))
  end)

  it("knows what is secret in a proxy's URL, and how it is sent", function()
    assert.same({ "me:p%2Fs", "me:p/s", "p/s", "bWU6cC9z" }, secrets_of(redact.add_proxy, "http://me:p%2Fs@host:80"))
    assert.same({ "m:", "m:", "", "bTo=" }, secrets_of(redact.add_proxy, "m:@host"))
    for _, url in ipairs { "http://host:80/a@b", "host:80", "" } do
      assert.same({}, secrets_of(redact.add_proxy, url))
    end
    assert.same({}, secrets_of(redact.add_proxy, nil))
    -- every byte, whatever it is next to
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local login = table.concat(all)
    local encoded = secrets_of(redact.add_proxy, "http://" .. login:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)
      .. "@h")
    assert.equal(login, encoded[2])
    local back = secrets_of(redact.add_header, "Basic " .. encoded[#encoded])
    assert.equal(login, back[3])
  end)

  it("goes through all of an error", function()
    local cause = core.new_error { kind = "x", message = "inner " .. KEY }
    cause.cause = cause -- round and round
    local err = core.new_error { kind = "y", message = "outer " .. KEY, cause = cause, list = { { KEY } }, status = 5 }
    redact.value(forms, err)
    assert.equal("outer [redacted]", err.message)
    assert.equal("inner [redacted]", err.cause.message)
    assert.equal("[redacted]", err.list[1][1])
    assert.equal(5, err.status)
  end)
end)
