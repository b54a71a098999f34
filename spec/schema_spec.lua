-- The JSON schema subset, as a table: schema, what passes, what does not.

local json = require "weft.json"
local schema = require "weft.schema"

local function check(rules, text)
  return schema.check(json.decode(rules) or rules == "false" and false, json.decode(text))
end

-- json.decode says nil for false alone: a list around it keeps it.
local function decode(text)
  return json.decode("[" .. text .. "]")[1]
end

describe("schemas", function()
  local cases = {
    { '{"type":"object"}', { "{}", '{"a":1}' }, { "[1]", "1", '"x"', "null" } },
    { '{"type":"array"}', { "[]", "[1]" }, { '{"a":1}', "1" } },
    { '{"type":"string"}', { '""' }, { "1", "null", "true" } },
    { '{"type":"integer"}', { "1", "1.0", "-3" }, { "1.5", '"1"' } },
    { '{"type":"number"}', { "1", "1.5" }, { '"1"', "null" } },
    { '{"type":"boolean"}', { "true", "false" }, { "0", "null" } },
    { '{"type":"null"}', { "null" }, { "0", "false" } },
    { '{"type":["string","null"]}', { '"x"', "null" }, { "1" } },
    { '{"enum":["a",1,null,{"x":[1]}]}', { '"a"', "1", "null", '{"x":[1]}' }, { '"b"', "2", '{"x":[2]}', '{"x":[1],"y":1}' } },
    { '{"const":{"a":1}}', { '{"a":1}' }, { '{"a":2}', "{}" } },
    { '{"minimum":1,"maximum":3}', { "1", "3", '"x"' }, { "0.9", "4" } },
    { '{"exclusiveMinimum":1,"exclusiveMaximum":3}', { "2" }, { "1", "3" } },
    { '{"multipleOf":0.1}', { "0.3", "2" }, { "0.35" } },
    { '{"minLength":2,"maxLength":3}', { '"äö"', '"abc"', "5" }, { '"ä"', '"abcd"' } },
    { '{"minItems":1,"maxItems":2}', { "[1]", "[1,2]" }, { "[]", "[1,2,3]" } },
    { '{"uniqueItems":true}', { "[1,2]", '[{"a":1},{"a":2}]' }, { "[1,2,1]", '[{"a":1},{"a":1}]' } },
    { '{"minProperties":1,"maxProperties":1}', { '{"a":1}' }, { "{}", '{"a":1,"b":2}' } },
    { '{"items":{"type":"integer"}}', { "[]", "[1,2]", '"x"' }, { '[1,"x"]' } },
    { '{"required":["a"]}', { '{"a":null}', "5" }, { "{}", '{"b":1}' } },
    { '{"properties":{"a":{"type":"string"}}}', { "{}", '{"a":"x","b":1}' }, { '{"a":1}' } },
    { '{"properties":{"a":{}},"additionalProperties":false}', { '{"a":1}', "{}" }, { '{"b":1}' } },
    { '{"additionalProperties":{"type":"integer"}}', { '{"a":1}' }, { '{"a":"x"}' } },
    { '{"anyOf":[{"type":"string"},{"minimum":5,"type":"number"}]}', { '"x"', "6" }, { "4", "null" } },
    { '{"oneOf":[{"type":"number"},{"type":"integer"}]}', { "1.5" }, { "1", '"x"' } },
    { '{"allOf":[{"minimum":1},{"maximum":2}]}', { "1", "2" }, { "3", "0" } },
    { '{"not":{"type":"string"}}', { "1" }, { '"x"' } },
    { '{"$defs":{"n":{"type":"integer"}},"items":{"$ref":"#/$defs/n"}}', { "[1]" }, { '["x"]' } },
    -- a tree
    { '{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}',
      { '{"next":{"next":{}}}' }, { '{"next":{"other":{}}}' } },
    { '{"properties":{"a":false}}', { '{"b":1}' }, { '{"a":1}' } },
    { '{"properties":{"a":true}}', { '{"a":1}' }, {} },
    -- ignored, as documented
    { '{"pattern":"^a$","format":"email","unknown":1,"type":"thing"}', { '"b"', "1" }, {} },
  }

  it("take what they allow, and nothing else", function()
    for _, case in ipairs(cases) do
      local rules = assert(json.decode(case[1]))
      for _, good in ipairs(case[2]) do
        assert.is_true(schema.check(rules, decode(good)), case[1] .. " should take " .. good)
      end
      for _, bad in ipairs(case[3]) do
        local ok, problems = schema.check(rules, decode(bad))
        assert.is_false(ok, case[1] .. " should not take " .. bad)
        assert.is_true(#problems > 0)
      end
    end
  end)

  it("say what is wrong, and where", function()
    local ok, problems = check('{"type":"object","required":["name","tags"],"properties":{"name":{"type":"string"},'
      .. '"items":{"items":{"properties":{"n":{"minimum":1}}}}}}', '{"name":5,"items":[{"n":1},{"n":0}]}')
    assert.is_false(ok)
    assert.equal("(root): 'tags' is missing; items[2].n: must be >= 1; name: expected string, got integer",
      schema.explain(problems))
  end)

  it("end although they refer to themselves, or the value is deep", function()
    assert.is_true(schema.check(json.decode '{"$ref":"#"}', 1))
    local ok, problems = check('{"items":{"type":"string"}}', "[" .. ("1,"):rep(1000) .. "1]")
    assert.is_false(ok)
    assert.equal(8, #problems)
  end)
end)
