--- Options as a table: every key must be known, every value must pass its test. Internal.
--
-- A string that is wrong is never shown: it may be a key that was put in the wrong place.
local check = require "weft.check"

local options = {}

--- How a wrong value is shown: numbers as such, anything else as its type.
function options.shown(value)
  if value ~= value then
    return "nan"
  end
  return type(value) == "number" and ("%.14g"):format(value) or check.type_of(value)
end

--- Raises "bad argument 'name' to what: expected …, got …" at `level`, 1 being the caller.
function options.refuse(what, name, expected, value, level)
  local text = "bad argument '%s' to %s: expected %s, got %s"
  error(text:format(name, what, expected, options.shown(value)), level + 1)
end

local function refuse_unknown(what, name, fields, level)
  local known = {}
  for field in pairs(fields) do
    known[#known + 1] = field
  end
  table.sort(known)
  error(("bad option '%s' to %s: known are %s"):format(tostring(name), what, table.concat(known, ", ")), level + 1)
end

--- Checks a table of options.
-- @tparam string what the public function, for errors
-- @param given the table
-- @tparam table fields by name: `{ test, expected }`
-- @tparam number level where errors are raised, 1 being the caller
-- @tparam[opt] string outer the option that this table is, for errors
function options.check(what, given, fields, level, outer)
  if type(given) ~= "table" then
    options.refuse(what, outer or "options", "a table", given, level + 1)
  end
  local prefix = outer and outer .. "." or ""
  for name, value in pairs(given) do
    local field = fields[name]
    if not field then
      refuse_unknown(what, prefix .. tostring(name), fields, level + 1)
    elseif not field[1](value) then
      options.refuse(what, prefix .. name, field[2], value, level + 1)
    end
  end
end

-- ---- tests, with what they expect ----

local function is_a(name)
  return function(value)
    return type(value) == name
  end
end

local function is_number(value, least, most)
  return type(value) == "number" and value >= least and value <= most
end

options.text = { is_a("string"), "a string" }
options.table = { is_a("table"), "a table" }
options.boolean = { is_a("boolean"), "a boolean" }
options.func = { is_a("function"), "a function" }
options.any = {
  function()
    return true
  end,
  "a value",
}
options.word = {
  function(value)
    return type(value) == "string" and value ~= ""
  end,
  "a string that is not empty",
}
options.seconds = {
  function(value)
    return type(value) == "number" and value > 0
  end,
  "a number of seconds > 0",
}
options.count = {
  function(value)
    return is_number(value, 1, 1e9) and value == math.floor(value)
  end,
  "a whole number >= 1",
}
options.whole = {
  function(value)
    return is_number(value, 0, 1e9) and value == math.floor(value)
  end,
  "a whole number >= 0",
}
options.bytes = {
  function(value)
    return is_number(value, 1, 1e15) and value == math.floor(value)
  end,
  "a whole number of bytes >= 1",
}
options.finite = {
  function(value)
    return is_number(value, 0, 1.7976931348623157e308)
  end,
  "a number >= 0",
}
options.timeout = {
  function(value)
    return type(value) == "table" or options.seconds[1](value)
  end,
  "a number of seconds > 0, or a table of them",
}
options.timeout_parts = {
  connect = options.seconds,
  first_byte = options.seconds,
  idle = options.seconds,
  attempt = options.seconds,
  total = options.seconds,
}

return options
