-- One set of sources runs on Lua 5.4 and on LuaJIT 2.1, so the globals of both are known.
std = "max"
max_line_length = 150
ignore = { "581", "431", "432" } -- not (x >= 0): meant so, since it holds for NaN as well

files["spec"] = { std = "+busted" }
