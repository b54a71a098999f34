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
    } do
      assert.equal(wanted, redact.text(forms, text))
    end
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
