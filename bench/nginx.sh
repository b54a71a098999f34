#!/bin/sh
# weft in nginx, measured by wrk in one run: `make bench-nginx`.
#
# usage: bench/nginx.sh [seconds a measurement]
#
# Two nginx with one worker each: one that is measured, and its upstream. What counts are the ratios.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
seconds=${1:-3}
folder=$(mktemp -d /tmp/weft-bench-XXXXXX)
chmod 755 "$folder"
mkdir "$folder/temp"
port=${PORT:-18370}
upstream_port=$((port + 1))
modules=/usr/lib/nginx/modules
user=""
[ "$(id -u)" != 0 ] || user="user root;"

start() { # name port
  sed -e "s|@MODULES@|$modules|g; s|@USER@|$user|g; s|@FOLDER@|$folder|g; s|@ROOT@|$PWD|g; s|@NAME@|$1|g" \
    -e "s|@PORT@|$2|g; s|@UPSTREAM@|$upstream_port|" bench/nginx.conf.in >"$folder/$1.conf"
  nginx -p "$folder" -e "$folder/error.log" -c "$folder/$1.conf"
}

stop() {
  for pid in "$folder"/*.pid; do
    [ ! -e "$pid" ] || kill "$(cat "$pid")"
  done
  [ ! -s "$folder/error.log" ] || cat "$folder/error.log" >&2
  rm -rf "$folder"
}
trap stop EXIT INT TERM
start measured "$port"
start upstream "$upstream_port"

# wrk: requests a second, p50 and p99 in ms
measure() { # path connections
  wrk -t1 -c"$2" -d"${seconds}s" --latency "http://127.0.0.1:$port$1" | awk '
    function ms(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
    $1 == "50%" { p50 = ms($2) }
    $1 == "99%" { p99 = ms($2) }
    $1 == "Requests/sec:" { rate = $2 }
    /Non-2xx|Socket errors/ { errors = errors " " $0 }
    END { printf "%.0f %.2f %.2f%s\n", rate, p50, p99, errors }'
}

beside() { # path connections: measures /plain while that runs
  wrk -t1 -c"$2" -d"$((seconds + 2))s" "http://127.0.0.1:$port$1" >"$folder/load" &
  load=$!
  sleep 1
  measure /plain 8
  wait $load
  awk '/Requests\/sec/ { print "  (beside it " $2 " requests a second of the other)" } /Non-2xx|Socket/ { print }' "$folder/load" >&2
}

show() { printf '%-44s %9s requests/s  p50 %7s ms  p99 %7s ms  %s %s %s\n' "$1" "$2" "$3" "$4" "${5-}" "${6-}" "${7-}"; }

echo "$(uname -sr), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg); $(nginx -v 2>&1); ${seconds} s each"
measure /await 64 >/dev/null # warm
measure /fanout/tasks 64 >/dev/null

# shellcheck disable=SC2046 # words
{
  show "a plain handler, 64 connections" $(measure /plain 64)
  show "a group of one task, awaited, 64" $(measure /await 64)
  show "three calls of 20 ms, cosockets, 64" $(measure /fanout/cosockets 64)
  show "three calls of 20 ms, weft.all of tasks, 64" $(measure /fanout/tasks 64)
  show "three calls of 20 ms, weft.http in threads, 64" $(measure /fanout/threads 64)
  show "plain, alone, 8" $(measure /plain 8)
  show "plain, beside 100 x ngx.sleep(0.05), 8" $(beside /sleep/nginx 100)
  show "plain, beside 100 x weft.sleep(0.05), 8" $(beside /sleep/weft 100)
  show "plain, beside 100 x a task's sleep(0.05), 8" $(beside /sleep/task 100)
  show "plain, beside 4 x 20 ms of computing, 8" $(beside /compute 4)
}
