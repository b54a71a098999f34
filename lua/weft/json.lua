--- JSON: values to text and back.
--
-- Decoding is done by lua-cjson, or by dkjson where that is not installed; encoding is done here, so that
-- numbers keep all their digits whichever of them is there.
--
-- An empty table is an empty object: `{}`. For an empty array write `json.array()`; what was decoded from
-- `[]` is a plain empty table, so it is an object when it is encoded again.
--
--     local text = json.encode({ tags = json.array(), note = json.null })   -- {"tags":[],"note":null}
--
-- @module weft.json
local core = require "weft.core"

local json = {}

--- Stands for JSON's `null`, which a table could not hold otherwise; the same value in every state.
json.null = core.null

local Array = core.class("weft.json")
Array.__jsontype = "array"

--- Marks a table as an array, also when it is empty.
-- @tparam[opt] table list is given the mark itself; default: a new table
-- @treturn table the list
-- @raise bad argument 'list'
function json.array(list)
  if list ~= nil and type(list) ~= "table" then
    error("bad argument 'list' to weft.json.array: expected a table, got " .. type(list), 2)
  end
  return setmetatable(list or {}, Array)
end

-- ---- encoding ----

local MAX_DEPTH = 500
local MAX_WHOLE = 2 ^ 53

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(char)
  return escapes[char] or ("\\u%04x"):format(char:byte())
end

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', escape) .. '"'
end

local function number_text(value)
  if math.type and math.type(value) == "integer" then
    return ("%d"):format(value)
  elseif value == math.floor(value) and value > -MAX_WHOLE and value < MAX_WHOLE then
    return ("%.0f"):format(value)
  end
  for digits = 14, 17 do
    local text = ("%%.%dg"):format(digits):format(value)
    if tonumber(text) == value then
      return (text:gsub(",", "."))
    end
  end
end

-- The way down to the value being written is kept in `out.path`, so that a problem can name it.
local function fail(out, depth, what)
  local steps = {}
  for i = 1, depth do
    local key = out.path[i]
    steps[i] = (type(key) == "number" and "[%d]" or ".%s"):format(key)
  end
  out.problem = { path = table.concat(steps), what = what }
  error(out, 0)
end

local function is_array(value)
  local metatable = getmetatable(value)
  if type(metatable) == "table" and rawget(metatable, "__jsontype") == "array" then
    return true
  end
  return rawget(value, 1) ~= nil
end

local put

local function put_array(out, list, depth)
  local count = 0
  for _ in pairs(list) do
    count = count + 1
  end
  if count ~= #list then
    fail(out, depth, "a list with holes or names (json.null stands for nothing)")
  end
  for i = 1, count do
    out[#out + 1] = i == 1 and "[" or ","
    out.path[depth + 1] = i
    put(out, list[i], depth + 1)
  end
  out[#out + 1] = count == 0 and "[]" or "]"
end

-- As `pairs` of Lua 5.4; that of LuaJIT may not ask the metatable.
local function each(map)
  local metatable = getmetatable(map)
  local own = type(metatable) == "table" and rawget(metatable, "__pairs")
  return (own or pairs)(map)
end

local function put_object(out, map, depth)
  local separator = "{"
  for key, value in each(map) do
    if type(key) ~= "string" then
      fail(out, depth, "a table with a key that is a " .. type(key))
    end
    out[#out + 1] = separator
    out[#out + 1] = quote(key)
    out[#out + 1] = ":"
    out.path[depth + 1] = key
    put(out, value, depth + 1)
    separator = ","
  end
  out[#out + 1] = separator == "{" and "{}" or "}"
end

local writers = {}

function writers.string(out, value)
  out[#out + 1] = quote(value)
end

function writers.boolean(out, value)
  out[#out + 1] = tostring(value)
end

function writers.number(out, value, depth)
  if value ~= value or value == math.huge or value == -math.huge then
    fail(out, depth, "a number that is not finite")
  end
  out[#out + 1] = number_text(value)
end

function writers.table(out, value, depth)
  if depth > MAX_DEPTH then
    out.path = { "" }
    fail(out, 0, "a table that is nested too deeply or holds itself")
  end
  local write = is_array(value) and put_array or put_object
  write(out, value, depth)
end

put = function(out, value, depth)
  local write = writers[type(value)]
  if write then
    write(out, value, depth)
  elseif value == json.null then
    out[#out + 1] = "null"
  else
    fail(out, depth, "a " .. type(value))
  end
end

--- As @{encode}, but returns what is wrong. Internal.
-- @return[1] string
-- @return[2] nil
-- @return[2] string the path to what JSON cannot hold, such as ".items[2]"
-- @return[2] string what that is
function json.try_encode(value)
  local out = { path = {} }
  local ok, raised = pcall(put, out, value, 0)
  if ok then
    return table.concat(out)
  elseif raised ~= out then
    error(raised, 0)
  end
  return nil, out.problem.path, out.problem.what
end

--- Turns a value into JSON.
-- @param value nil, booleans, finite numbers, strings (in UTF-8), and tables of them: lists without holes,
--   or maps with strings as keys. Metatables are ignored but for @{array}'s
-- @treturn string
-- @raise what cannot be JSON, with the path to it
function json.encode(value)
  local text, path, what = json.try_encode(value == nil and json.null or value)
  if not text then
    error(("bad argument 'value%s' to weft.json.encode: JSON cannot hold %s"):format(path, what), 2)
  end
  return text
end

-- ---- decoding ----

local function use_cjson()
  local found, cjson = pcall(require, "cjson.safe")
  return found and cjson.new().decode -- with settings of its own
end

local function use_dkjson()
  local found, dkjson = pcall(require, "dkjson")
  return found
    and function(text)
      local value, stop, problem = dkjson.decode(text, 1, json.null, nil, nil) -- nil: no metatables
      if not problem and text:find("%S", stop) then
        problem = "something follows the value at character " .. stop
      end
      if problem then
        return nil, problem
      end
      return value
    end
end

local decoder

local function missing()
  error("weft.json.decode needs lua-cjson or dkjson: luarocks install lua-cjson, or apt install lua-cjson", 3)
end

-- lua-cjson makes floats of all numbers: whole ones become integers again, where Lua has them.
local function with_integers(value)
  if type(value) == "table" then
    for key, item in pairs(value) do
      local kind = type(item)
      if kind == "table" then
        with_integers(item)
      elseif kind == "number" then
        value[key] = math.tointeger(item) or item
      end
    end
  elseif type(value) == "number" then
    return math.tointeger(value) or value
  end
  return value
end

--- Turns JSON into a value. `null` becomes @{null}, so that nil means failure.
-- @tparam string text
-- @return[1] the value; on Lua 5.4 whole numbers are integers
-- @treturn[2] nil
-- @treturn[2] error of kind "json"
-- @raise bad argument 'text'; neither lua-cjson nor dkjson is installed
function json.decode(text)
  if type(text) ~= "string" then
    error("bad argument 'text' to weft.json.decode: expected a string, got " .. type(text), 2)
  end
  decoder = decoder or use_cjson() or use_dkjson() or missing()
  local value, problem = decoder(text)
  if value == nil then
    return nil, core.new_error({ kind = "json", message = "not JSON: " .. tostring(problem) })
  end
  return math.tointeger and with_integers(value) or value
end

return json
