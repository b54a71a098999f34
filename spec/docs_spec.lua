-- The examples on the pages of docs: each block of Lua is a whole script, which prints what stands behind `-->`.
-- Those that show Lua 5.4's <close> are for it alone.

local clients = require "spec.support.model_client"
local script = require "spec.support.script"

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

-- Runs a script that is called example.lua. Returns what it printed.
local function run(code, folder)
  local file = assert(io.open(folder .. "/example.lua", "w"))
  file:write(code)
  file:close()
  return clients.shell(("cd %s && timeout 60 %s example.lua 2>&1"):format(folder, script.interpreter()))
end

local function expected(code)
  local lines = {}
  for line in code:gmatch("%-%->[ ]?([^\n]*)") do
    lines[#lines + 1] = line .. "\n"
  end
  return table.concat(lines)
end

local function is_for_us(code)
  return code:find("-->", 1, true) and not (_VERSION == "Lua 5.1" and code:find("<close>", 1, true))
end

describe("the examples of", function()
  if not clients.has_shell then
    return
  end
  for page in clients.shell("ls docs/*.md"):gmatch("[^\n]+") do
    local count = 0
    for code in read(page):gmatch("\n```lua\n(.-)```") do
      count = count + 1
      if page ~= "docs/api.md" and is_for_us(code) then
        it(("%s: block %d prints what it says"):format(page, count), function()
          local folder = os.tmpname()
          os.remove(folder)
          clients.shell("mkdir " .. folder)
          local output = run(code, folder)
          clients.shell("rm -r " .. folder)
          assert.equal(expected(code), output)
        end)
      end
    end
  end
end)
