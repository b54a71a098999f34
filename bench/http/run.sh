#!/bin/sh
# Starts nginx and servers that answer late, and compares HTTP clients: `make bench-http [ROUNDS=3]`.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
rounds=${ROUNDS:-3}
port=${PORT:-18470}
ulimit -n 60000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
folder=$(mktemp -d /tmp/weft-bench-XXXXXX)
chmod 755 "$folder"
servers=""
stop() {
  [ ! -e "$folder/nginx.pid" ] || kill "$(cat "$folder/nginx.pid")"
  for pid in $servers; do kill "$pid"; done
  [ ! -s "$folder/errors.log" ] || { echo "messages of the clients:"; sort "$folder/errors.log" | uniq -c | head -n 20; } >&2
  rm -rf "$folder"
}
trap stop EXIT INT TERM
(cd bench/http/go && go build -o ../../../build/go-http-bench .)
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"

late() { # name seconds: a server in the background; its port in a file
  LUA_CPATH="$PWD/build/lua54/?.so;;" lua5.4 bench/http/server.lua "$2" >"$folder/$1.port" &
  servers="$servers $!"
  while [ ! -s "$folder/$1.port" ]; do
    kill -0 $! || exit 1
    sleep 0.05
  done
}
late slow 1
late wait 0.2
late never 3600
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
  -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null
text=$(printf 'The quick brown fox jumps over it. %.0s' $(seq 26))
sed -e "s|@TEXT@|$text|" -e "s|@FOLDER@|$folder|g; s|@PORT@|$port|; s|@TLS_PORT@|$((port + 1))|; s|@SLOW@|$(cat "$folder/slow.port")|" \
  bench/http/nginx.conf.in >"$folder/nginx.conf"
nginx -p "$folder" -e "$folder/error.log" -c "$folder/nginx.conf"

echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg), $(uname -sr)"
echo "versions: $(lua5.4 -v), $(luajit -v | cut -d' ' -f1-2), $(go version | cut -d' ' -f3), $(curl-config --version), $(nginx -v 2>&1)"
echo "settings: medians of $rounds rounds, contenders in turn; Go with GOMAXPROCS=2; CPU is that of the client's process"
lua5.4 bench/http/run.lua "$folder" "$port" "$rounds" "$(cat "$folder/slow.port")" "$(cat "$folder/wait.port")" "$(cat "$folder/never.port")"
