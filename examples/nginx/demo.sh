#!/bin/sh
# Runs the gateway of this folder before a model server, and shows what it answers: `make demo-nginx`.
#
# usage: examples/nginx/demo.sh [--stay]
#
# With --stay it runs until Enter is pressed, for calls of your own. Everything it makes is in a folder of its own,
# and gone at the end.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
folder=$(mktemp -d /tmp/weft-demo-XXXXXX)
chmod 755 "$folder"
mkdir "$folder/temp"
server=""

stop() {
  trap - EXIT INT TERM
  [ ! -e "$folder/nginx.pid" ] || kill -QUIT "$(cat "$folder/nginx.pid")"
  [ -z "$server" ] || kill "$server" 2>/dev/null || :
  [ -z "$server" ] || wait "$server" 2>/dev/null || :
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"
LUA_CPATH="$PWD/build/luajit/?.so;;"
export LUA_PATH LUA_CPATH

# The model server says where it listens; nginx tries ports until one is free.
luajit examples/model_server.lua --port 0 --latency 0.3 --delay 0.15 --chunks 6 >"$folder/server" &
server=$!
until grep -qs listening "$folder/server"; do
  kill -0 "$server"
  sleep 0.05
done
MODEL_BASE_URL=$(sed -n 's/^listening on //p' "$folder/server")
MODEL_API_KEY=sk-demo
export MODEL_BASE_URL MODEL_API_KEY

user=""
[ "$(id -u)" != 0 ] || user="user root;"
port=18080
while :; do
  sed -e "s|@ROOT@|$PWD|g; s|@MODULES@|/usr/lib/nginx/modules|g; s|@USER@|$user|g; s|@PORT@|$port|g" \
    examples/nginx/nginx.conf >"$folder/nginx.conf"
  nginx -p "$folder" -e "$folder/error.log" -c "$folder/nginx.conf" 2>"$folder/start" && break
  grep -q "Address already in use" "$folder/start" || { cat "$folder/start" >&2; exit 1; }
  port=$((port + 1))
done
url=http://127.0.0.1:$port

show() {
  printf '\n$ curl'
  for word in "$@"; do
    case $word in *[!A-Za-z0-9:/._-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '\n'
  curl -sS "$@"
}

show -H "X-Api-Key: alice" -d "I love this library, it is fast" $url/ask
show -N -H "X-Api-Key: alice" -d "Say it in several words please" $url/stream
show -d "no key" $url/ask
printf '\nseven at once with one key:\n'
for _ in 1 2 3 4 5 6 7; do
  curl -sS -o /dev/null -w '%{http_code}\n' -H "X-Api-Key: bob" -d "hello" $url/ask &
  calls="${calls-} $!"
done
# shellcheck disable=SC2086 # a list of processes
wait $calls
show $url/health
printf '\n$ curl %s/metrics | grep -v "^#" | head -n 12\n' "$url"
curl -sS $url/metrics | grep -v '^#' | head -n 12

if [ "${1-}" = --stay ]; then
  printf '\nThe gateway is at %s until you press Enter.\n' "$url"
  read -r _ || :
fi
