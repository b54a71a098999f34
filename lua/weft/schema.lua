--- Checks values against a JSON schema: a small, honest subset. Internal.
--
-- Known: `type` (a name or a list), `properties`, `required`, `additionalProperties`, `items`, `enum`, `const`,
-- `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`, `minLength`, `maxLength`, `minItems`,
-- `maxItems`, `uniqueItems`, `minProperties`, `maxProperties`, `anyOf`, `oneOf`, `allOf`, `not`, `$ref` within the
-- schema ("#/$defs/…"), and true and false as schemas. Every other keyword is ignored, `pattern` and `format` among
-- them. An empty table counts as an object and as an array, since JSON's two look the same in Lua.
local json = require "weft.json"

local schema = {}

local MAX_PROBLEMS = 8
local MAX_DEPTH = 100

-- ---- values ----

local function is_list(value)
  return type(value) == "table" and (next(value) == nil or rawget(value, 1) ~= nil)
end

local function is_map(value)
  return type(value) == "table" and rawget(value, 1) == nil
end

local tests = {
  object = is_map,
  array = is_list,
  string = function(value)
    return type(value) == "string"
  end,
  number = function(value)
    return type(value) == "number"
  end,
  integer = function(value)
    return type(value) == "number" and value == math.floor(value)
  end,
  boolean = function(value)
    return type(value) == "boolean"
  end,
  null = function(value)
    return value == json.null
  end,
}

local function type_name(value)
  for _, name in ipairs { "null", "boolean", "string", "integer", "number" } do
    if tests[name](value) then
      return name
    end
  end
  return is_map(value) and "object" or "array"
end

local function equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b
  end
  for key, value in pairs(a) do
    if not equal(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

local function shown(value)
  local text = json.try_encode(value) or tostring(value)
  return #text > 60 and text:sub(1, 57) .. "..." or text
end

local function count_keys(map)
  local count = 0
  for _ in pairs(map) do
    count = count + 1
  end
  return count
end

-- Code points: what JSON schema counts.
local function length(text)
  return select(2, text:gsub("[^\128-\191]", ""))
end

-- ---- checking ----

local check

local function add(state, path, message)
  if #state.problems < MAX_PROBLEMS then
    state.problems[#state.problems + 1] = { path = path == "" and "(root)" or path, message = message }
  end
end

-- Whether a value passes, without a record of why not.
local function passes(state, rule, value, path)
  local trial = { root = state.root, problems = {}, depth = state.depth }
  check(trial, rule, value, path)
  return #trial.problems == 0
end

local function count_passing(state, rules, value, path)
  local count = 0
  for _, rule in ipairs(rules) do
    count = count + (passes(state, rule, value, path) and 1 or 0)
  end
  return count
end

local keywords = {}

function keywords.type(state, wanted, value, path)
  for _, name in ipairs(type(wanted) == "table" and wanted or { wanted }) do
    if not tests[name] or tests[name](value) then
      return
    end
  end
  local names = type(wanted) == "table" and table.concat(wanted, " or ") or wanted
  add(state, path, ("expected %s, got %s"):format(names, type_name(value)))
end

function keywords.enum(state, list, value, path)
  for _, item in ipairs(list) do
    if equal(item, value) then
      return
    end
  end
  add(state, path, ("%s is not one of %s"):format(shown(value), shown(list)))
end

function keywords.const(state, wanted, value, path)
  if not equal(wanted, value) then
    add(state, path, ("expected %s, got %s"):format(shown(wanted), shown(value)))
  end
end

-- A keyword about numbers, strings, arrays or objects: does not concern other values.
local function bound(test, measure, holds, text)
  return function(state, limit, value, path)
    if test(value) and type(limit) == "number" and not holds(measure(value), limit) then
      add(state, path, (text):format(limit))
    end
  end
end

local function itself(value)
  return value
end
local function at_least(a, b)
  return a >= b
end
local function at_most(a, b)
  return a <= b
end

keywords.minimum = bound(tests.number, itself, at_least, "must be >= %.14g")
keywords.maximum = bound(tests.number, itself, at_most, "must be <= %.14g")
keywords.exclusiveMinimum = bound(tests.number, itself, function(a, b)
  return a > b
end, "must be > %.14g")
keywords.exclusiveMaximum = bound(tests.number, itself, function(a, b)
  return a < b
end, "must be < %.14g")
keywords.multipleOf = bound(tests.number, itself, function(a, b)
  return math.abs(a / b - math.floor(a / b + 0.5)) < 1e-9
end, "must be a multiple of %.14g")
keywords.minLength = bound(tests.string, length, at_least, "must have at least %d characters")
keywords.maxLength = bound(tests.string, length, at_most, "must have at most %d characters")

local function size(list)
  return #list
end
keywords.minItems = bound(is_list, size, at_least, "must have at least %d items")
keywords.maxItems = bound(is_list, size, at_most, "must have at most %d items")
keywords.minProperties = bound(is_map, count_keys, at_least, "must have at least %d properties")
keywords.maxProperties = bound(is_map, count_keys, at_most, "must have at most %d properties")

function keywords.uniqueItems(state, wanted, value, path)
  if not wanted or not is_list(value) then
    return
  end
  for i = 2, #value do
    for j = 1, i - 1 do
      if equal(value[i], value[j]) then
        return add(state, path, ("items %d and %d are equal"):format(j, i))
      end
    end
  end
end

function keywords.items(state, rule, value, path)
  if is_list(value) then
    for i, item in ipairs(value) do
      check(state, rule, item, ("%s[%d]"):format(path, i))
    end
  end
end

function keywords.required(state, list, value, path)
  if is_map(value) then
    for _, name in ipairs(list) do
      if value[name] == nil then
        add(state, path, ("'%s' is missing"):format(name))
      end
    end
  end
end

local function property_path(path, name)
  return path == "" and name or path .. "." .. name
end

function keywords.properties(state, rules, value, path)
  if is_map(value) then
    for name, rule in pairs(rules) do
      if value[name] ~= nil then
        check(state, rule, value[name], property_path(path, name))
      end
    end
  end
end

function keywords.additionalProperties(state, rule, value, path, whole)
  local known = whole.properties or {}
  if not is_map(value) or rule == true then
    return
  end
  for name, item in pairs(value) do
    if known[name] == nil and rule == false then
      add(state, path, ("'%s' is not a known property"):format(tostring(name)))
    elseif known[name] == nil then
      check(state, rule, item, property_path(path, name))
    end
  end
end

function keywords.allOf(state, rules, value, path)
  for _, rule in ipairs(rules) do
    check(state, rule, value, path)
  end
end

function keywords.anyOf(state, rules, value, path)
  if count_passing(state, rules, value, path) == 0 then
    add(state, path, "matches none of anyOf")
  end
end

function keywords.oneOf(state, rules, value, path)
  local count = count_passing(state, rules, value, path)
  if count ~= 1 then
    add(state, path, ("matches %d of oneOf, not one"):format(count))
  end
end

keywords["not"] = function(state, rule, value, path)
  if passes(state, rule, value, path) then
    add(state, path, "matches what it must not")
  end
end

-- "#/$defs/name": a way down the schema itself.
local function resolve(root, ref)
  local at = root
  for step in ref:gsub("^#/?", ""):gmatch "[^/]+" do
    step = step:gsub("~1", "/"):gsub("~0", "~")
    at = type(at) == "table" and (at[step] or at[tonumber(step) and tonumber(step) + 1]) or nil
  end
  return at
end

keywords["$ref"] = function(state, ref, value, path)
  local rule = type(ref) == "string" and ref:sub(1, 1) == "#" and resolve(state.root, ref)
  if rule then
    check(state, rule, value, path)
  end
end

check = function(state, rule, value, path)
  if rule == false then
    return add(state, path, "nothing is allowed here")
  elseif type(rule) ~= "table" or state.depth > MAX_DEPTH then
    return
  end
  state.depth = state.depth + 1
  for name, keyword in pairs(keywords) do
    if rule[name] ~= nil then
      keyword(state, rule[name], value, path, rule)
    end
  end
  state.depth = state.depth - 1
end

local function by_path(a, b)
  if a.path ~= b.path then
    return a.path < b.path
  end
  return a.message < b.message
end

--- Checks a value.
-- @tparam table|boolean rules the schema
-- @param value as weft.json.decode makes it
-- @treturn[1] boolean true
-- @treturn[2] boolean false
-- @treturn[2] table what is wrong: `{ path, message }` each, some of it when there is much
function schema.check(rules, value)
  local state = { root = rules, problems = {}, depth = 0 }
  check(state, rules, value, "")
  if #state.problems == 0 then
    return true
  end
  table.sort(state.problems, by_path)
  return false, state.problems
end

--- What is wrong, in one line.
function schema.explain(problems)
  local parts = {}
  for i, problem in ipairs(problems) do
    parts[i] = problem.path .. ": " .. problem.message
  end
  return table.concat(parts, "; ")
end

return schema
