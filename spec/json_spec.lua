local weft = require "weft"
local json = require "weft.json"

describe("weft.json", function()
  local function problem(value)
    local ok, err = pcall(json.encode, value)
    assert.is_false(ok)
    return (err:gsub("^.-: bad", "bad"))
  end

  it("encodes what JSON has", function()
    assert.equal("null", json.encode(nil))
    assert.equal("null", json.encode(json.null))
    assert.equal("true", json.encode(true))
    assert.equal('"a\\"b\\\\c\\n\\u0000\\u001f\\u007fé/"', json.encode('a"b\\c\n\0\31\127é/'))
    assert.equal('[1,[2,false],{"a":null}]', json.encode({ 1, { 2, false }, { a = json.null } }))
  end)

  it("keeps the digits of numbers", function()
    local whole = 123456789012345
    assert.equal("[123456789012345,-7,2,0.1,1700000000.123456]",
      json.encode({ whole, -7, 2.0, 0.1, 1700000000.123456 }))
    for _, number in ipairs({ 1 / 3, 2 ^ 53, 1e300, -5e-324, 0.1 + 0.2, 2 ^ 60 }) do
      assert.equal(number, tonumber(json.encode(number)))
    end
  end)

  it("tells empty arrays from empty objects", function()
    assert.equal("{}", json.encode({}))
    assert.equal("[]", json.encode(json.array()))
    assert.equal("[[]]", json.encode({ json.array({}) }))
    assert.equal("[1]", json.encode(json.array({ 1 })))
  end)

  it("names what cannot be encoded", function()
    local of = " to weft.json.encode: JSON cannot hold "
    assert.equal("bad argument 'value'" .. of .. "a function", problem(print))
    assert.equal("bad argument 'value.a[2].b'" .. of .. "a number that is not finite",
      problem({ a = { 1, { b = 0 / 0 } } }))
    assert.match("value.a'.* holes", problem({ a = { 1, x = 2 } }))
    assert.match("value'.*a key that is a number", problem({ [5] = 1 }))
    local loop = {}
    loop.x = loop
    assert.match("nested too deeply or holds itself", problem(loop))
  end)

  it("decodes", function()
    local value = json.decode(' {"a":[1,null,"x\\u00e9"],"n":12,"f":1.5,"t":true} ')
    assert.same({ a = { 1, json.null, "xé" }, n = 12, f = 1.5, t = true }, value)
    assert.equal("12", tostring(value.n))
    assert.is_false(json.decode("false"))
    assert.equal(json.null, json.decode("null"))
  end)

  it("returns nil and an error for what is not JSON", function()
    for _, text in ipairs({ "", "{", "[1,]", "{} x", "nul", "<html>" }) do
      local value, err = json.decode(text)
      assert.is_nil(value)
      assert.equal("json", err.kind)
      assert.match("^not JSON: ", err.message)
    end
    assert.has_error(function() json.decode(nil) end)
  end)

  it("has a null and arrays that cross to tasks", function()
    local list = json.array()
    local group = weft.group()
    group:go(function()
      local here = require "weft.json"
      return { text = here.encode({ here.null, list }), null = here.null }
    end)
    local result = assert(group:wait())[1]
    assert.equal("[null,[]]", result.text)
    assert.equal(json.null, result.null)
  end)

  -- A state of its own, in which some modules are missing.
  local function without(missing, fn)
    local pool = weft.pool({ threads = 1 })
    local group = weft.group(nil, { pool = pool })
    local task = group:go(function(_, names, inner)
      for _, name in ipairs(names) do
        package.preload[name] = function() error("not installed") end
      end
      return inner(require "weft.json")
    end, missing, fn)
    local value, err = task:wait()
    pool:close()
    return value, err
  end

  it("takes dkjson when lua-cjson is missing", function()
    local value = assert(without({ "cjson.safe" }, function(here)
      local decoded = here.decode('{"a":[null,12],"e":[]}')
      local bad, err = here.decode("[1] x")
      assert(decoded.a[1] == here.null and getmetatable(decoded.e) == nil)
      assert(bad == nil and err.kind == "json")
      assert(here.decode("null") == here.null and here.decode("") == nil)
      return tostring(decoded.a[2])
    end))
    assert.equal("12", value)
  end)

  it("says what to install when both are", function()
    local value, err = without({ "cjson.safe", "dkjson" }, function(here)
      return here.decode("1")
    end)
    assert.is_nil(value)
    assert.match("luarocks install lua%-cjson", err.message)
  end)
end)
