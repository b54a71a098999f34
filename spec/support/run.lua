-- Runs busted in the interpreter that runs this: `lua spec/support/run.lua spec/x_spec.lua`.
--
-- Debian's `busted` script names an interpreter of its own; the suite runs on two. On LuaJIT the
-- modules of Debian's Lua 5.1 folders serve. With SPEC_GC=hostile in the environment the collector of
-- this state never rests, so that what is not held is gone at once; spec/support/leaks.lua makes the
-- workers of the default pool do the same.
package.path = package.path .. ";/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua"
if os.getenv "SPEC_GC" == "hostile" then
  collectgarbage("setpause", 0)
  collectgarbage("setstepmul", 1000)
end
require("busted.runner")({ standalone = false, output = "plainTerminal" })
