-- Writes docs/api.md from the documentation comments of src/lua/*.c and lua/weft.
--
-- usage: lua5.4 scripts/apidoc.lua [--check]
--
-- With --check it writes nothing and fails when the page is not what the comments say.
-- It also fails on a reference @{x} to nothing, and on a file with documentation that no section lists.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local reader = require "doc_reader"

local PAGE = "docs/api.md"

-- The page from top to bottom: a section's title, a sentence, and where its functions are written.
local sections = {
  { "Contexts", "Deadlines and cancellation in a tree, as Go's `context`.", "src/lua/context.c", "lua/weft/after.lua" },
  { "Groups and tasks", "Errgroups: tasks that end together.", "src/lua/group.c", "src/lua/group_go.c",
    "src/lua/group_wait.c", "src/lua/group_task.c", "src/lua/group_leave.c", "src/lua/group_unseen.c",
    "lua/weft/scope.lua", "lua/weft/unseen.lua", "lua/weft/start.lua" },
  {
    "Several at once",
    "Groups in common shapes.",
    "lua/weft/parallel.lua",
    "lua/weft/map.lua",
    "lua/weft/stage.lua",
    "lua/weft/pipeline.lua",
  },
  { "Pools", "The native threads that tasks run on.", "src/lua/pool.c" },
  { "Channels", "Values between tasks, on whatever threads they run.", "src/lua/channel.c", "src/lua/select.c" },
  { "Semaphores and waitgroups", "Counting, across threads.", "src/lua/sync.c" },
  { "Limiters", "Rates, across threads.", "src/lua/limiter.c" },
  { "Dicts", "Maps that tasks share, on whatever threads they run.", "src/lua/dict.c" },
  { "Singleflights", "Of several who want the same at once, one fetches it.", "src/lua/singleflight.c" },
  { "Time", "Seconds, as numbers.", "src/lua/time.c", "src/lua/ticker.c" },
  {
    "Errors and sending",
    "What errors are, and what may cross between states.",
    "lua/weft/error.lua",
    "src/lua/module.c",
  },
  { "Watching", "What the process does.", "src/lua/tasks.c", "src/lua/metrics.c", "src/lua/trace.c", "lua/weft/span.lua" },
  { "weft.http", nil, "lua/weft/http.lua", "lua/weft/http/client.lua", "src/lua/http.c", "lua/weft/http/stream.lua" },
  { "Server-sent events", "The parser alone.", "src/lua/sse.c" },
  { "Budgets", "What may be spent, by all tasks together.", "src/lua/budget.c" },
  { "Trying again", nil, "lua/weft/retry.lua" },
  { "Caches", nil, "lua/weft/cache.lua" },
  { "weft.model", nil, "lua/weft/model/init.lua", "lua/weft/model/base.lua", "lua/weft/model/stream.lua",
    "lua/weft/model/fallback.lua", "lua/weft/model/hedge.lua" },
  { "weft.json", nil, "lua/weft/json.lua" },
  { "weft.progress", nil, "lua/weft/progress.lua" },
  { "weft.ngx", nil, "lua/weft/ngx.lua", "src/lua/nginx.c" },
  {
    "weft.testing",
    nil,
    "lua/weft/testing.lua",
    "lua/weft/virtual.lua",
    "lua/weft/leaks.lua",
    "src/lua/virtual_clock.c",
    "src/testing/lua_model_server.c",
  },
}

local function fail(message)
  io.stderr:write("apidoc: ", message, "\n")
  os.exit(1)
end

-- ---- names ----

-- Functions of other modules that are fields of weft, as lua/weft/init.lua lists them.
local function weft_functions()
  local names, inside = {}, false
  for line in io.lines "lua/weft/init.lua" do
    inside = inside or line:match "^local functions = {"
    local name, module = line:match '^  ([%w_]+) = "([%w_.]+)",$'
    if inside and name then
      names[module .. "." .. name] = "weft." .. name
    end
    inside = inside and not line:match "^}"
  end
  return names
end

local on_weft = weft_functions()

local function public_name(name, module)
  if name:find(":", 1, true) or name:match "^weft%." then
    return name
  end
  local full = module .. "." .. name
  return on_weft[full] or full
end

local function module_of(path, file)
  if path:match "^src/testing/" then
    return "weft.testing.server"
  end
  return file.module or "weft"
end

local function is_internal(doc)
  return doc["local"] or table.concat(doc.description, " "):find "Internal[.;]"
end

-- ---- reading ----

local entries = {}

local function read(path)
  local file = (path:match "%.c$" and reader.c_file or reader.lua_file)(path)
  local module = module_of(path, file)
  local list = { header = file.header }
  for _, doc in ipairs(file.docs) do
    if doc.name and not is_internal(doc) then
      doc.public = doc.is_type and doc.name or public_name(doc.name, module)
      doc.module = module
      entries[doc.public] = doc
      list[#list + 1] = doc
    end
  end
  return list
end

local function check_all_listed()
  local listed = {}
  for _, section in ipairs(sections) do
    for i = 3, #section do
      listed[section[i]] = true
    end
  end
  for _, pattern in ipairs { { "src/lua", "*.c" }, { "lua/weft", "*.lua" } } do
    for _, path in ipairs(reader.find(pattern[1], pattern[2])) do
      local file = (path:match "%.c$" and reader.c_file or reader.lua_file)(path)
      local count = 0
      for _, doc in ipairs(file.docs) do
        count = count + (is_internal(doc) and 0 or 1)
      end
      local is_inner = file.header and is_internal(file.header)
      if count > 0 and not listed[path] and not is_inner then
        fail(path .. " has documentation, but no section of scripts/apidoc.lua lists it")
      end
    end
  end
end

-- ---- writing ----

local out = {}
local function put(...)
  out[#out + 1] = table.concat { ... }
end

local function anchor(name)
  return "#" .. name:lower():gsub("[^%w_%- ]", ""):gsub(" ", "-")
end

local function link(name, doc)
  for _, candidate in ipairs { name, doc.module .. "." .. name, "weft." .. name } do
    if entries[candidate] then
      return ("[`%s`](%s)"):format(candidate, anchor(candidate))
    end
  end
  fail(("line %d: @{%s} refers to nothing"):format(doc.line, name))
end

local function prose(text, doc)
  return (text:gsub("@{([^}]+)}", function(name)
    return link(name, doc)
  end))
end

local function put_lines(lines, doc)
  for _, line in ipairs(lines) do
    put(prose(line, doc))
  end
end

local function signature(doc)
  local names = {}
  for _, tag in ipairs(doc.tags) do
    if (tag.name == "tparam" or tag.name == "param") and not tag.param:find(".", 1, true) or tag.param == "..." then
      local is_optional = (tag.modifier or ""):match "^opt"
      names[#names + 1] = is_optional and "[" .. tag.param .. "]" or tag.param
    end
  end
  local name = doc.public
  if doc.is_field then
    return name
  elseif name:match ":__len$" then
    return "#" .. name:match "^[^:]+"
  end
  return ("%s(%s)"):format(name, table.concat(names, ", "))
end

local function described(...)
  local parts = {}
  for i = 1, select("#", ...) do
    local part = select(i, ...)
    if part and part ~= "" then
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts, ": ")
end

local function put_parameters(doc)
  for _, tag in ipairs(doc.tags) do
    if tag.name == "tparam" or tag.name == "param" or tag.name == "field" then
      local default = (tag.modifier or ""):match "^opt=(.+)$"
      local notes = {}
      if tag.type then
        notes[#notes + 1] = tag.type:gsub("|", " or ")
      end
      if default then
        notes[#notes + 1] = "default " .. default
      elseif (tag.modifier or ""):match "^opt" then
        notes[#notes + 1] = "optional"
      end
      local note = #notes > 0 and " (" .. table.concat(notes, ", ") .. ")" or ""
      local indent = tag.param:find("%w%.%w") and "  " or ""
      put(indent, "- ", described("`" .. tag.param .. "`" .. note, prose(tag.text, doc)))
    end
  end
end

-- One line for each way in which the function may return.
local function put_results(doc)
  local cases, order = {}, {}
  for _, tag in ipairs(doc.tags) do
    if tag.name == "treturn" or tag.name == "return" then
      local case = (tag.modifier or ""):match "%d+" or "1"
      if not cases[case] then
        cases[case] = {}
        order[#order + 1] = case
      end
      local kind = tag.type and (tag.type:gsub("^%?", "nil or "):gsub("|", " or "))
      table.insert(cases[case], described(kind and "*" .. kind .. "*", prose(tag.text, doc)))
    end
  end
  for i, case in ipairs(order) do
    put("- ", i == 1 and "returns " or "or ", table.concat(cases[case], "; "))
  end
end

local function put_entry(doc)
  put("### ", doc.public, "\n")
  if not doc.is_type then
    put("```lua\n", signature(doc), "\n```\n")
  end
  put_lines(doc.description, doc)
  if #doc.description > 0 then
    put ""
  end
  put_parameters(doc)
  put_results(doc)
  for _, tag in ipairs(doc.tags) do
    if tag.name == "raise" then
      put("- raises ", prose(tag.text, doc))
    end
  end
  for _, tag in ipairs(doc.tags) do
    if tag.name == "usage" then
      put("\n```lua\n", tag.text, "\n```")
    end
  end
  put ""
end

-- Of a module's header the sentences, without the heading line's comment on the file.
local function put_header(header, module)
  if header then
    put_lines(header.description, { module = module, line = header.line })
    put ""
  end
end

check_all_listed()
local pages = {}
for i, section in ipairs(sections) do
  pages[i] = {}
  for k = 3, #section do
    pages[i][#pages[i] + 1] = read(section[k])
  end
end

put "# API\n"
put "Written by `scripts/apidoc.lua` from the comments in the sources: change it there.\n"
put "Times are seconds. What fails returns `nil, err`; a wrong argument raises; a done context raises.\n"
for _, section in ipairs(sections) do
  put("- [", section[1], "](", anchor(section[1]), ")")
end
put ""
for i, section in ipairs(sections) do
  put("## ", section[1], "\n")
  if section[2] then
    put(section[2], "\n")
  end
  for _, list in ipairs(pages[i]) do
    if not section[2] and list.header then
      put_header(list.header, section[1])
    end
    for _, doc in ipairs(list) do
      put_entry(doc)
    end
  end
end

local page = table.concat(out, "\n"):gsub("\n\n\n+", "\n\n"):gsub("\n+$", "") .. "\n"
if arg[1] == "--check" then
  local file = io.open(PAGE)
  if not file or file:read "a" ~= page then
    fail(PAGE .. " is out of date: run lua5.4 scripts/apidoc.lua")
  end
  file:close()
else
  local file = assert(io.open(PAGE, "w"))
  file:write(page)
  file:close()
end
