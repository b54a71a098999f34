--- Runs a script in an interpreter of its own, as a user would, and tells how that ended.
local script = {}

local PATIENCE = 120 -- seconds until it has hung

--- A word of a shell command.
function script.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- The interpreter that runs this, as a word of a shell command.
function script.interpreter()
  local i = 0
  while arg[i - 1] do
    i = i - 1
  end
  return script.quote(arg[i])
end

--- Runs a shell command to its end.
-- @tparam string command
-- @treturn table `out` (both streams), `status` (as the shell gives it: 128 + n for signal n)
function script.shell(command)
  local pipe = assert(io.popen("{ " .. command .. "; } 2>&1; printf '\\nstatus=%d' $?"))
  local all = pipe:read "*a"
  pipe:close()
  local out, status = all:match "^(.*)\nstatus=(%d+)$"
  return { out = out, status = tonumber(status) }
end

--- Runs a file; the suite's paths are in the environment already.
-- @tparam string path
-- @tparam[opt] string words of the command line, behind it
-- @tparam[opt] string prefix of the command, such as "taskset -c 0"
-- @treturn table as for script.shell; status 124 when it hung
function script.run_file(path, words, prefix)
  return script.shell(("%s timeout %d %s %s %s"):format(prefix or "", PATIENCE, script.interpreter(), script.quote(path),
    words or ""))
end

--- Runs Lua code.
-- @tparam string code
-- @tparam[opt] string prefix of the command
-- @treturn table as for script.run_file
function script.run(code, prefix)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(code)
  file:close()
  local ended = script.run_file(path, nil, prefix)
  os.remove(path)
  return ended
end

return script
