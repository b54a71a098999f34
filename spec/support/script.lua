--- Runs a script in an interpreter of its own, as a user would, and tells how that ended.

local script = {}

local function interpreter()
  local i = 0
  while arg[i - 1] do
    i = i - 1
  end
  return arg[i]
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

--- Runs Lua code to its end, with the interpreter that runs this; the suite's paths are in the environment already.
-- @tparam string code
-- @tparam[opt] string prefix of the command, such as "taskset -c 0"
-- @treturn table `out` (both streams), `status` (as the shell gives it: 128 + n for signal n, 124 when it hung)
function script.run(code, prefix)
  local path = os.tmpname()
  write(path, code)
  local command = ("%s timeout 120 %s %s"):format(prefix or "", quote(interpreter()), quote(path))
  local pipe = assert(io.popen("{ " .. command .. "; } 2>&1; printf '\\nstatus=%d' $?"))
  local all = pipe:read "*a"
  pipe:close()
  os.remove(path)
  local out, status = all:match "^(.*)\nstatus=(%d+)$"
  return { out = out, status = tonumber(status) }
end

return script
