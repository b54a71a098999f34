-- Runs busted in the interpreter that runs this: `lua spec/support/run.lua spec/x_spec.lua`.
--
-- Debian's `busted` script names an interpreter of its own; the suite runs on two. On LuaJIT the
-- modules of Debian's Lua 5.1 folders serve.
package.path = package.path .. ";/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua"
require("busted.runner")({ standalone = false, output = "plainTerminal" })
