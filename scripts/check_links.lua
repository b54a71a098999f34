-- Checks that every link from one page of the project to another leads somewhere: the file is there, and so is the
-- heading behind a "#". Lists those that do not as file:line.
--
-- usage: lua5.4 scripts/check_links.lua
--
-- Links to the web are not followed, and code is not looked at. Headings become anchors as on GitHub and GitLab.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local reader = require "doc_reader"

local pages = { "README.md", "CHANGELOG.md", "CONTRIBUTING.md" }
for _, folder in ipairs { "docs", "examples" } do
  for _, path in ipairs(reader.find(folder, "*.md")) do
    pages[#pages + 1] = path
  end
end

-- Calls visit(line, number) for each line of a page that is not in a fenced block of code.
local function each_line_of_prose(path, visit)
  local number, fence = 0, nil
  for line in io.lines(path) do
    number = number + 1
    local mark = line:match "^%s*(```+)"
    if mark and not fence then
      fence = mark
    elseif fence then
      if line:match("^%s*" .. fence .. "%s*$") then
        fence = nil
      end
    else
      visit(line, number)
    end
  end
end

local function anchor_of(heading)
  local text = heading:gsub("%[(.-)%]%b()", "%1"):gsub("[^%w%s_%-\128-\255]", "")
  return (text:lower():gsub("%s", "-"))
end

local anchors = {} -- by path: a set

local function anchors_of(path)
  if anchors[path] then
    return anchors[path]
  end
  local set, times = {}, {}
  each_line_of_prose(path, function(line)
    local heading = line:match "^#+%s+(.-)%s*$"
    if heading then
      local anchor = anchor_of(heading)
      local seen = times[anchor] or 0
      times[anchor] = seen + 1
      set[seen == 0 and anchor or anchor .. "-" .. seen] = true
    end
  end)
  anchors[path] = set
  return set
end

-- "docs/guide.md" and "../src/core" make "src/core"; nil when that leaves the tree.
local function resolved(page, target)
  local parts = {}
  for part in (page:match "^(.*/)" or ""):gmatch "[^/]+" do
    parts[#parts + 1] = part
  end
  for part in target:gmatch "[^/]+" do
    if part == ".." then
      if #parts == 0 then
        return nil
      end
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts, "/")
end

local function exists(path)
  local file = io.open(path) -- folders too
  return file and file:close()
end

-- What is wrong with a link, or nil.
local function problem_of(page, link)
  local target, anchor = link:match "^([^#]*)#?(.*)$"
  local path = target == "" and page or resolved(page, target)
  if not path or not exists(path) then
    return "there is no such file"
  end
  if anchor ~= "" and not (path:match "%.md$" and anchors_of(path)[anchor]) then
    return "there is no such heading"
  end
end

local broken, checked = 0, 0
for _, page in ipairs(pages) do
  each_line_of_prose(page, function(line, number)
    for link in line:gsub("`[^`]*`", ""):gmatch "%]%(([^%s)]+)%)" do
      if not link:match "^%a[%w+.-]*:" then
        checked = checked + 1
        local problem = problem_of(page, link)
        if problem then
          broken = broken + 1
          print(("%s:%d: %s: %s"):format(page, number, link, problem))
        end
      end
    end
  end)
end
if broken > 0 then
  os.exit(1)
end
print(("%d links between pages, all lead somewhere"):format(checked))
