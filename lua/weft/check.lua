--- Checks of arguments: misuse throws an error that names the argument and the script's line. Internal.
local core = require "weft.core"

local check = {}

--- A value's type, in words: handles by the names of their classes. A function of weft's that is started as a task is
-- called with a context, which is not what it expects.
function check.type_of(value)
  if core.is_context(value) then
    return "weft.context (the first argument of every task)"
  end
  local class = type(value) == "userdata" and tostring(value):match "^weft (%w+):"
  return class and "weft." .. class or type(value)
end

--- Raises "bad argument" at the caller of the public function.
function check.fail(what, name, expected, got)
  local shown = check.type_of(got)
  if type(got) == "number" then
    shown = ("%.14g"):format(got)
  elseif type(got) == "string" then
    shown = "'" .. got .. "'"
  end
  core.raise(("bad argument '%s' to %s: expected %s, got %s"):format(name, what, expected, shown))
end

--- A function, or "bad argument".
function check.fn(what, name, value)
  if type(value) ~= "function" then
    core.raise(("bad argument '%s' to %s: expected a function, got %s"):format(name, what, check.type_of(value)))
  end
end

--- A table, or "bad argument".
function check.table(what, name, value)
  if type(value) ~= "table" then
    core.raise(("bad argument '%s' to %s: expected a table, got %s"):format(name, what, check.type_of(value)))
  end
end

--- A whole number of at least `least`, or nil.
function check.count(what, name, value, least)
  if value == nil then
    return
  end
  if type(value) ~= "number" or value < least or value ~= math.floor(value) or value == math.huge then
    local shown = type(value) == "number" and ("%.14g"):format(value) or check.type_of(value)
    core.raise(("bad argument '%s' to %s: expected a whole number >= %d, got %s"):format(name, what, least, shown))
  end
end

--- The object of a method that is written in Lua, or "bad argument": most often a '.' that should be a ':'.
function check.self(what, kind, value, metatable)
  if getmetatable(value) ~= metatable then
    core.raise(("bad argument 'self' to %s: expected a %s (call it with ':'), got %s"):format(what, kind, check.type_of(value)))
  end
end

--- Options may only have known keys.
function check.options(what, options, known)
  if options == nil then
    return {}
  end
  if type(options) ~= "table" then
    core.raise(("bad argument 'options' to %s: expected a table, got %s"):format(what, check.type_of(options)))
  end
  for key in pairs(options) do
    if not known[key] then
      local names = {}
      for name in pairs(known) do
        names[#names + 1] = name
      end
      table.sort(names)
      core.raise(("bad option '%s' to %s: known are %s"):format(tostring(key), what, table.concat(names, ", ")))
    end
  end
  return options
end

--- Splits an optional leading context from the other arguments.
function check.context(what, ctx)
  if ctx ~= nil and not core.is_context(ctx) then
    core.raise(("bad argument 'ctx' to %s: expected a weft context, got %s"):format(what, check.type_of(ctx)))
  end
  return ctx
end

return check
