#!/bin/sh
# Compares weft with Go's errgroup and with the Lua libraries that Debian packages (luv's thread pool; cqueues, a
# thread a task), all in one run. Prints the machine, the settings, medians, ratios and targets.
#
# usage: make bench [ROUNDS=5] [BENCH="noop map …"]. What else runs on the machine shows: use an idle one.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5}
benchmarks=${BENCH:-noop captures table go_wait parked parked3 speedup map}
(cd bench/go && go build -o ../../build/go-bench .)
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"
lua54="env LUA_CPATH='$PWD/build/lua54/?.so;;' lua5.4"
luajit="env LUA_CPATH='$PWD/build/luajit/?.so;;' luajit"
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, $(uname -sr)"
echo "versions: $(lua5.4 -v), $(luajit -v | cut -d' ' -f1-2), $(go version | cut -d' ' -f3)"
echo "settings: medians of $rounds rounds, contenders in turn; Go with GOMAXPROCS=2; load average $(cut -d' ' -f1 /proc/loadavg)"
exec lua5.4 bench/compare.lua "$rounds" "$benchmarks" \
  "Go errgroup=build/go-bench 2" \
  "weft 5.4, 1 thread=$lua54 bench/weft.lua 1" \
  "weft 5.4, 2 threads=$lua54 bench/weft.lua 2" \
  "weft LuaJIT, 1 thread=$luajit bench/weft.lua 1" \
  "weft LuaJIT, 2 threads=$luajit bench/weft.lua 2" \
  "luv (LuaJIT)=luajit bench/luv.lua 4" \
  "cqueues threads=lua5.4 bench/cqueues.lua 1"
