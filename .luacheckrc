-- One set of sources runs on Lua 5.4 and on LuaJIT 2.1, so the globals of both are known.
std = "max"
max_line_length = 120

files["spec"] = { std = "+busted" }
