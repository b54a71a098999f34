--- Runs a piece of Lua in a process of its own, with the interpreter and the module that run this.
local process = {}

local function interpreter()
  local lowest = 0
  while arg[lowest - 1] do
    lowest = lowest - 1
  end
  return arg[lowest]
end

local function quoted(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- Runs the code to its end.
-- @tparam string code
-- @tparam[opt=""] string before words of the command line before the interpreter, such as "taskset -c 0"
-- @treturn string standard output and standard error
-- @treturn boolean whether it ended with status 0
function process.run(code, before)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write("package.path = ", ("%q"):format(package.path), "\npackage.cpath = ", ("%q"):format(package.cpath), "\n", code)
  file:close()
  local pipe = assert(io.popen(("%s timeout 120 %s %s 2>&1; echo \"status $?\""):format(before or "", quoted(interpreter()), path)))
  local output = pipe:read("*a")
  pipe:close()
  os.remove(path)
  local text, status = output:match("^(.*)status (%d+)\n$")
  return text, status == "0"
end

return process
