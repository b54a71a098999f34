-- Every function of docs/api.md with every wrong kind of argument: an error that names the argument, never a crash,
-- a hang or an answer. The calls are made from the page itself, so that a new function is covered once it is
-- documented; a method of a new kind of object needs a way to make one in `objects`.
local leaks = require "spec.support.leaks"
local testing = require "weft.testing"
local weft = require "weft"

local unpack = table.unpack or unpack
local inf, nan = math.huge, 0 / 0

-- ---- the page ----

-- The functions: name ("weft.x" or "object:x"), params ({ name, type, optional } in order).
local function read_page()
  local functions, current = {}, nil
  for line in io.lines "docs/api.md" do
    local owner, separator, name, arguments = line:match "^([%w_.]+)([.:])([%w_]+)%((.*)%)$"
    if line:match "^### " then
      current = nil
    elseif owner and not current then
      current = { name = owner .. separator .. name, owner = separator == ":" and owner, method = name, params = {} }
      for argument in arguments:gmatch "[^,%s]+" do
        local bare = argument:gsub("[%[%]]", "")
        table.insert(current.params, { name = bare, optional = bare ~= argument })
      end
      functions[#functions + 1] = current
    elseif current then
      local param, kind = line:match "^%- `([%w_.]+)` %(([^)]*)%)"
      for _, known in ipairs(current.params) do
        if known.name == param then
          known.type = kind:gsub(",.*", "")
        end
      end
    end
  end
  return functions
end

-- ---- values ----

local foreign = io.stdout
local function nothing() end

local good = {
  number = 1,
  integer = 1,
  string = "drop",
  ["function"] = nothing,
  table = {},
  ["table or function"] = {},
  ["task or integer"] = 1,
  context = weft.background(),
}

-- What is wrong for a type, by a name for the report. Nothing here is a string that is a number: Lua takes those.
local wrong = {
  number = { text = "x", table = {}, boolean = true, userdata = foreign, ["function"] = nothing, NaN = nan },
  integer = { text = "x", table = {}, boolean = true, userdata = foreign, NaN = nan, fraction = 1.5, huge = inf,
    less = -inf, large = 2 ^ 62, larger = 2 ^ 80, negative = -2 ^ 62 },
  string = { table = {}, boolean = true, userdata = foreign, ["function"] = nothing },
  ["function"] = { table = {}, boolean = true, number = 1, text = "x", userdata = foreign },
  table = { boolean = true, number = 1, text = "x", userdata = foreign, NaN = nan },
  ["table or function"] = { boolean = true, number = 1, text = "x", userdata = foreign },
  ["task or integer"] = { boolean = true, text = "x", userdata = foreign, NaN = nan, zero = 0, larger = 2 ^ 80 },
  context = { boolean = true, number = 1, text = "x", userdata = foreign },
  group = { boolean = true, number = 1, text = "x", userdata = foreign, table = {} },
}

-- ---- objects ----

local function model()
  return weft.model.openai({ base_url = "http://127.0.0.1:1", model = "m", api_key = "k" })
end

local stream_server

local function make_stream()
  stream_server = testing.model_server()
  return assert(weft.http.get(stream_server.url .. "/health", { stream = true }))
end

local function close_stream(stream)
  stream:close()
  stream_server:close()
end

-- How an object of each kind of the page is made; what must be closed again is closed by the second function.
local objects = {
  context = { function() return (weft.background():with_cancel()) end },
  group = { function() return weft.group() end, function(group) group:close() end },
  pool = { function() return weft.pool({ threads = 1 }) end, function(pool) pool:close() end },
  channel = { function() return weft.channel(4) end },
  semaphore = { function() return weft.semaphore(5) end },
  waitgroup = { function() return weft.waitgroup() end },
  limiter = { function() return weft.limiter({ rate = 10, burst = 5 }) end },
  dict = { function() return weft.dict() end },
  singleflight = { function() return weft.singleflight() end },
  budget = { function() return weft.budget({ usd = 5 }) end },
  cache = { function() return weft.cache() end },
  retry_budget = { function() return weft.retry_budget() end },
  sse = { function() return weft.sse() end },
  pipeline = { function() return weft.pipeline({ weft.stage("a", nothing) }) end },
  client = { function() return weft.http.client({}) end },
  progress = { function() return weft.progress.new({ stream = assert(io.tmpfile()) }) end },
  model = { model },
  model_fallback = { function() return weft.model.fallback({ model() }) end },
  model_hedge = { function() return weft.model.hedge({ model(), after = 1 }) end },
  stream = { make_stream, close_stream },
  task = { function() return weft.group():go(nothing) end, function(task) task:wait() end },
  trace = { function() return weft.trace({ file = "/dev/null" }) end, function(trace) trace:stop() end },
  virtual_clock = { function() return testing.virtual_clock() end, function(clock) clock:close() end },
  check = { function() return testing.leaks() end, function(check) check:list() end },
  server = { function() return testing.model_server() end, function(server) server:close() end },
}

-- Left out: what exists in nginx alone, what takes its class from an answer (specs of their own), and
-- weft.json.null, which is no function.
local function is_left_out(one)
  return one.name:match "^weft%.ngx%." or one.name == "weft.json.null"
    or one.name == "weft.testing.server.start" or one.owner == "response"
    or one.owner == "model_stream"
end

local function function_of(one, self)
  if self then
    return self[one.method]
  end
  local module, name = one.name:match "^(.*)%.([%w_]+)$"
  if module == "weft" then
    return weft[name]
  end
  return require(module)[name]
end

-- ---- calls ----

-- Arguments with a wrong one at the place of params[at]: good ones before it, none behind it. An optional context or
-- name in front may be left out, so it is.
local function arguments_with(one, at, value)
  local arguments, n = {}, 0
  for i = 1, at - 1 do
    local param = one.params[i]
    local is_skipped = param.name == "..." or param.optional and (param.type == "context" or param.name == "name")
    if not is_skipped then
      n = n + 1
      arguments[n] = good[param.type] or "k"
    end
  end
  arguments[n + 1] = value
  return arguments, n + 1
end

-- Where a name may stand, the function that follows it may stand too.
local function is_right(param, value)
  return param.type == "string" and param.optional and type(value) == "function"
end

-- What is wrong about the outcome of a call, or nil.
local function complaint(label, ok, err)
  local message = tostring(err):match "^[^\n]*"
  if ok then
    return label .. ": taken"
  elseif not message:find "bad argument '[%w_ .]+' to " then
    return label .. ": " .. message
  end
end

local function check_argument(one, at, found)
  local param = one.params[at]
  local values = {}
  for label, value in pairs(wrong[param.type] or {}) do
    if not is_right(param, value) then
      values[label] = value
    end
  end
  for label, value in pairs(values) do
    local maker = one.owner and objects[one.owner]
    local self = maker and maker[1]()
    local fn = function_of(one, self)
    local arguments, n = arguments_with(one, at, value)
    local ok, err
    if self then
      ok, err = pcall(fn, self, unpack(arguments, 1, n))
    else
      ok, err = pcall(fn, unpack(arguments, 1, n))
    end
    found[#found + 1] = complaint(("%s, %s = %s"):format(one.name, param.name, label), ok, err)
    if maker and maker[2] then
      maker[2](self)
    end
  end
end

local selves = { number = 1, table = {}, userdata = foreign, text = "x" }

local function check_self(one, found)
  local maker = objects[one.owner]
  local self = maker[1]()
  local fn = function_of(one, self)
  local arguments = arguments_with(one, #one.params + 1, nil)
  for label, value in pairs(selves) do
    found[#found + 1] = complaint(one.name .. ", self = " .. label, pcall(fn, value, unpack(arguments)))
  end
  found[#found + 1] = complaint(one.name .. ", self = nil", pcall(fn, nil, unpack(arguments)))
  if maker[2] then
    maker[2](self)
  end
end

describe("misuse of every public function:", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local functions = read_page()

  it("the page is read as it is written", function()
    local n_typed = 0
    for _, one in ipairs(functions) do
      for _, param in ipairs(one.params) do
        n_typed = n_typed + (param.type and 1 or 0)
      end
    end
    assert.is_true(#functions > 180, "functions: " .. #functions)
    assert.is_true(n_typed > 120, "typed arguments: " .. n_typed)
  end)

  it("every kind of object can be made here", function()
    local missing = {}
    for _, one in ipairs(functions) do
      if one.owner and not objects[one.owner] and not is_left_out(one) then
        missing[#missing + 1] = one.owner
      end
    end
    assert.same({}, missing)
  end)

  it("a wrong argument is named", function()
    local found = {}
    for _, one in ipairs(functions) do
      for at = 1, is_left_out(one) and 0 or #one.params do
        check_argument(one, at, found)
      end
    end
    assert.same({}, found)
  end)

  it("a task of another group has no error here", function()
    local one, other = weft.group(), weft.group()
    local task = other:go(nothing)
    other:wait()
    assert.is_nil(other:error_of(task))
    local ok, err = pcall(one.error_of, one, task)
    assert.is_false(ok)
    assert.matches("bad argument 'task' to group:error_of: expected a task of this group", tostring(err))
    one:close()
    other:close()
  end)

  it("a wrong option of a progress line is named", function()
    for name, values in pairs({ interval = { nan, -1, "x" }, label = { {}, 1 }, stream = { "x", 1 }, total = { nan, -1, "x" } }) do
      for _, value in ipairs(values) do
        local ok, err = pcall(weft.progress.new, { [name] = value })
        assert.is_false(ok)
        assert.matches("bad argument '" .. name .. "' to weft.progress.new", tostring(err))
      end
    end
  end)

  it("a scope without a function says so", function()
    for _, args in ipairs({ { { limit = 3 } }, { weft.background() }, { weft.background(), { limit = 3 } }, {} }) do
      local ok, err = pcall(weft.scope, unpack(args))
      assert.is_false(ok)
      assert.matches("bad argument 'fn' to weft.scope: expected a function, got ", tostring(err))
    end
  end)

  it("a foreign self is refused", function()
    local found = {}
    for _, one in ipairs(functions) do
      if one.owner and not is_left_out(one) then
        check_self(one, found)
      end
    end
    assert.same({}, found)
  end)
end)
