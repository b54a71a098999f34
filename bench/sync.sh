#!/bin/sh
# Compares weft's channels and select with Go's, and says what other primitives cost, from Lua and from C, all in one
# run. Prints the machine, the settings, medians, ratios and targets.
#
# usage: make bench-sync [ROUNDS=5] [BENCH="pingpong select …"]. What else runs on the machine shows: use an idle one.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5}
benchmarks=${BENCH:-pingpong threads select semaphore limiter dict}
(cd bench/gosync && go build -o ../../build/gosync .)
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"
lua54="env LUA_CPATH='$PWD/build/lua54/?.so;;' lua5.4"
luajit="env LUA_CPATH='$PWD/build/luajit/?.so;;' luajit"
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, $(uname -sr)"
echo "versions: $(lua5.4 -v), $(luajit -v | cut -d' ' -f1-2), $(go version | cut -d' ' -f3)"
echo "settings: medians of $rounds rounds, contenders in turn; load average $(cut -d' ' -f1 /proc/loadavg)"
exec lua5.4 bench/compare.lua "$rounds" "$benchmarks" \
  "Go=build/gosync" \
  "weft 5.4=$lua54 bench/sync.lua" \
  "weft LuaJIT=$luajit bench/sync.lua" \
  "weft's C core=build/c/bench_sync"
