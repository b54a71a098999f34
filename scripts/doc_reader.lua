--- Reads the documentation comments of C and Lua sources: what apidoc.lua prints and check_docs.lua checks.
--
-- In C a block `/*** … */` stands right above the definition of the function that it describes, and has a line
-- `@function name`. In Lua a run of comment lines that begins with `---` stands right above the function.
-- `@local` marks what scripts are not meant to call.
local reader = {}

local function lines_of(path)
  local file = assert(io.open(path))
  local lines = {}
  for line in file:lines() do
    lines[#lines + 1] = line
  end
  file:close()
  return lines
end

-- ---- the text of a comment ----

local function trimmed(text)
  return (text:gsub("^%s+", ""):gsub("%s+$", ""))
end

-- "[opt=0] int port the port" becomes the fields of a tag.
local function parse_tag(name, rest)
  local tag = { name = name, text = rest }
  local modifier, after = rest:match "^(%b[])%s*(.*)$"
  if modifier then
    tag.modifier, rest = modifier:sub(2, -2), after
  end
  if name == "tparam" or name == "treturn" then
    local kind, others = rest:match "^([^%s;,]+%S-)[;,]?%s+(.*)$"
    tag.type, rest = kind or rest, others or ""
  end
  if name == "tparam" or name == "param" or name == "field" then
    tag.param, rest = rest:match "^([^%s,;]+)[,;]?%s*(.*)$"
  end
  tag.text = rest or ""
  return tag
end

-- Lines without their comment marks: description, tags in order, and the tags by name.
local function parse(lines, line)
  local doc = { line = line, tags = {}, description = {} }
  local parts, last = {}, nil
  for _, text in ipairs(lines) do
    local name, rest = text:match "^%s*@(%a+)%s*(.*)$"
    if not name then
      name, rest = text:match "^%s*@(%a+)(%[.*)$"
    end
    if name then
      last = { name = name, lines = { rest } }
      parts[#parts + 1] = last
    else
      table.insert(last and last.lines or doc.description, text)
    end
  end
  for _, part in ipairs(parts) do
    local separator = part.name == "usage" and "\n" or " "
    for i = 2, #part.lines do
      part.lines[i] = separator == " " and trimmed(part.lines[i]) or part.lines[i]
    end
    local tag = parse_tag(part.name, trimmed(table.concat(part.lines, separator)))
    doc.tags[#doc.tags + 1] = tag
    doc[part.name] = doc[part.name] or tag.text
  end
  while doc.description[1] == "" do
    table.remove(doc.description, 1)
  end
  while doc.description[#doc.description] == "" do
    doc.description[#doc.description] = nil
  end
  return doc
end

-- ---- C ----

-- The `/***` block that begins at a line, and the line behind it.
local function c_block(lines, first)
  local text, last = {}, first
  while not lines[last]:find("*/", 1, true) do
    last = last + 1
  end
  for i = first, last do
    local line = i == first and lines[i]:gsub("^%s*/%*%*%*%s?", "") or lines[i]:gsub("^%s?%*?%s?", "", 1)
    if lines[i]:match "^%s*%*/" then
      line = ""
    end
    text[#text + 1] = (line:gsub("%s*%*/.*$", ""))
  end
  return parse(text, first), last + 1
end

--- Reads a C file of the binding.
-- @treturn table `docs`: the blocks in order; `by_function`: by the name of the C function below;
--   `registered`: the entries of weft_function and luaL_Reg tables, each with `name`, `fn`, `line`
function reader.c_file(path)
  local lines = lines_of(path)
  local file = { path = path, docs = {}, by_function = {}, registered = {} }
  local i = 1
  local in_table = false
  while i <= #lines do
    local line = lines[i]
    if line:match "^%s*/%*%*%*" then
      local doc
      doc, i = c_block(lines, i)
      doc.name = doc["function"] and doc["function"]:match "%S+"
      file.docs[#file.docs + 1] = doc
      local fn = (lines[i] or ""):match "^[%w_ *]-([%w_]+)%(lua_State"
      if fn then
        file.by_function[fn] = doc
      end
    else
      in_table = in_table or line:match "weft_function%s+[%w_]+%[%]" or line:match "luaL_Reg%s+[%w_]+%[%]"
      if in_table then
        for name, fn in line:gmatch '{"([%w_]+)",%s*([%w_]+)' do
          file.registered[#file.registered + 1] = { name = name, fn = fn, line = i }
        end
        in_table = not line:match "NULL.*;%s*$" and not line:match "^};"
      end
      i = i + 1
    end
  end
  return file
end

-- ---- Lua ----

-- A comment that begins with `---` at a line, and the line behind it.
local function lua_block(lines, first)
  local text, last = {}, first
  while (lines[last] or ""):match "^%s*%-%-" do
    text[#text + 1] = (lines[last]:gsub("^%s*%-%-%-?%s?", "", 1))
    last = last + 1
  end
  return parse(text, first), last
end

-- Classes are public when the file names them in a comment: `@type x`, or `@function x:method`.
local function public_classes(lines)
  local classes = {}
  for _, line in ipairs(lines) do
    local class = line:match "^%-%- @type ([%w_]+)" or line:match "^%-%- @function ([%w_]+):"
    if class then
      classes[class] = true
    end
  end
  return classes
end

-- The name that a line defines: "x" of a function on the module's table, "class:x" of a method.
local function defined_name(line, module_table, class, classes)
  local owner, separator, name = line:match "^function ([%w_]+)([.:])([%w_]+)"
  if owner and separator == "." and owner == module_table then
    return name
  elseif owner and separator == ":" then
    class = class or owner:lower()
    return classes[class] and class .. ":" .. name or nil, name
  end
  owner, name = line:match "^([%w_]+)%.([%w_]+) = function"
  if owner and owner == module_table then
    return name
  end
end

-- The name of a field that a line sets on the module's table.
local function field_name(line, module_table)
  local owner, name = line:match "^([%w_]+)%.([%w_]+) = "
  return owner and owner == module_table and name or nil
end

--- Reads a Lua module.
-- @treturn table `header`: its first block; `module`: its name; `docs`: the blocks of functions,
--   fields and types in order, each with `name`; `functions`: what it defines, each with `name`, `line` and `doc`
function reader.lua_file(path)
  local lines = lines_of(path)
  local file = { path = path, docs = {}, functions = {} }
  local module_table
  for i = #lines, 1, -1 do
    module_table = module_table or lines[i]:match "^return ([%w_]+)$"
  end
  local classes = public_classes(lines)
  local class, doc, above = nil, nil, 0
  local i = 1
  while i <= #lines do
    if lines[i]:match "^%-%-%-" and not lines[i]:match "^%-%-%-%-" then
      doc, i = lua_block(lines, i)
      above = i
      if not file.header then
        file.header, file.module = doc, doc.module
      elseif doc.type then
        class = doc.type
        doc.name, doc.is_type = class, true
        file.docs[#file.docs + 1] = doc
      elseif doc["function"] then
        doc.name = doc["function"]
        file.docs[#file.docs + 1] = doc
      end
    else
      local name, method = defined_name(lines[i], module_table, class, classes)
      if name and not (method or name):match "^__" then
        local own = above == i and doc ~= file.header and doc or nil
        file.functions[#file.functions + 1] = { name = name, line = i, doc = own }
        if own and not own.name then
          own.name = name
          file.docs[#file.docs + 1] = own
        end
      elseif above == i and doc ~= file.header and not doc.name and field_name(lines[i], module_table) then
        doc.name, doc.is_field = field_name(lines[i], module_table), true
        file.docs[#file.docs + 1] = doc
      end
      i = i + 1
    end
  end
  return file
end

--- Paths that a shell pattern of find matches, sorted.
function reader.find(folder, pattern)
  local pipe = assert(io.popen(("find %s -name '%s' | LC_ALL=C sort"):format(folder, pattern)))
  local paths = {}
  for path in pipe:lines() do
    paths[#paths + 1] = path
  end
  pipe:close()
  return paths
end

return reader
