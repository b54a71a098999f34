#!/bin/sh
# Installs the rock, and the core, into a temporary tree, offline, and uses them from another folder.
#
# usage: sh spec/rock_smoke.sh [lua version]      (default: 5.4)
set -eu

version=${1:-5.4}
lua=lua$version
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

cd "$root"
env -u MAKEFLAGS -u MAKELEVEL luarocks --lua-version "$version" --tree "$tree" make weft-scm-1.rockspec >"$tree/log" 2>&1 || {
  cat "$tree/log" >&2
  exit 1
}

# Only the tree: nothing of the checkout may be found.
cd "$tree"
LUA_PATH="$tree/share/lua/$version/?.lua;$tree/share/lua/$version/?/init.lua" \
  LUA_CPATH="$tree/lib/lua/$version/?.so" "$lua" - <<'LUA'
local weft = require "weft"
local results, err = weft.all {
  a = function() return 1 end,
  b = function(ctx) weft.sleep(0.01); return type(ctx) end,
}
assert(results, tostring(err))
assert(results.a == 1 and results.b == "userdata")
local server = assert(require("weft.testing").model_server())
server:close()
LUA
echo "1 passed: the rock installs and runs from another folder"

make -s -C "$root" install-core PREFIX="$tree/core" DESTDIR=
${CC:-cc} -I"$tree/core/include" "$root/examples/embed.c" -L"$tree/core/lib" -lweft -lcurl -lm -pthread -o "$tree/embed"
"$tree/embed" | grep -q "the group ended with: context deadline exceeded"
echo "1 passed: the core installs, and a C program is linked with it"
