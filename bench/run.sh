#!/bin/sh
# Compares weft with Go's errgroup and with the Lua libraries that Debian packages, all in one run.
# Prints the machine, the settings, medians and ratios. Usage: make bench [ROUNDS=5]
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5}
(cd bench/go && go build -o ../../build/go-bench .)
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"
lua54="env LUA_CPATH=$PWD/build/lua54/?.so;; lua5.4"
luajit="env LUA_CPATH=$PWD/build/luajit/?.so;; luajit"
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, $(uname -sr)"
echo "versions: $(lua5.4 -v), $(luajit -v | cut -d' ' -f1-2), $(go version | cut -d' ' -f3)"
echo "settings: medians of $rounds rounds, contenders in turn; Go with GOMAXPROCS=2"
exec lua5.4 bench/compare.lua "$rounds" \
  "Go errgroup=build/go-bench 2" \
  "weft 5.4, 1 thread=$lua54 bench/weft.lua 1" \
  "weft 5.4, 2 threads=$lua54 bench/weft.lua 2" \
  "weft LuaJIT, 1 thread=$luajit bench/weft.lua 1" \
  "weft LuaJIT, 2 threads=$luajit bench/weft.lua 2" \
  "luv (5.1, LuaJIT)=luajit bench/luv.lua" \
  "cqueues threads=lua5.4 bench/cqueues.lua"
