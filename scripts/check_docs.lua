-- Checks that every public function has a documentation comment. Lists those without as file:line.
--
-- usage: lua5.4 scripts/check_docs.lua
--
-- What counts: functions and methods registered from src/lua/*.c (names beginning with __ aside); functions of
-- the modules in lua/weft, and methods of their public classes (see doc_reader.lua); the functions of
-- src/core/weft.h, where a comment covers the declarations up to the next blank line, and the head of the file
-- all that end in _retain or _release.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local reader = require "doc_reader"

local missing, checked = {}, 0

local function check(is_documented, path, line, name)
  checked = checked + 1
  if not is_documented then
    missing[#missing + 1] = ("%s:%d: %s has no documentation comment"):format(path, line, name)
  end
end

local function check_c(path)
  local file = reader.c_file(path)
  for _, entry in ipairs(file.registered) do
    if not entry.name:match "^__" then
      check(file.by_function[entry.fn], path, entry.line, entry.name)
    end
  end
end

local function check_lua(path)
  for _, entry in ipairs(reader.lua_file(path).functions) do
    check(entry.doc, path, entry.line, entry.name)
  end
end

local function check_header(path)
  local is_covered, in_comment = false, false
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    if line == "" then
      is_covered = false
    elseif in_comment or line:match "^/%*" then
      is_covered = true
      in_comment = not line:find("*/", 1, true)
    else
      local name = line:match "^[%w_][%w_ *]-([%w_]+)%("
      if name and not line:match "^%s*__attribute__" and not line:match "^typedef" then
        local is_of_handle = name:match "_retain$" or name:match "_release$"
        check(is_covered or is_of_handle or line:find("/*", 1, true), path, number, name)
      end
    end
  end
end

for _, path in ipairs(reader.find("src/lua", "*.c")) do
  check_c(path)
end
for _, path in ipairs(reader.find("lua/weft", "*.lua")) do
  check_lua(path)
end
check_header "src/core/weft.h"

for _, problem in ipairs(missing) do
  print(problem)
end
if #missing > 0 then
  print(("%d of %d public functions have no documentation comment"):format(#missing, checked))
  os.exit(1)
end
print(("%d public functions, all documented"):format(checked))
