#!/bin/sh
# Installs what `make demo`, `make test`, `make bench` or `make fuzz` need on Debian 12, by apt, when it is not there.
#
# usage: scripts/deps.sh demo|test|fuzz|demo-nginx, or the name of a benchmark
#
# Says nothing when there is nothing to do. Never removes a package, and leaves no service of nginx behind. On a system without apt it names
# what is needed and leaves the rest to you.
set -eu

build="gcc libc6-dev make lua5.4 liblua5.4-dev libcurl4-openssl-dev ca-certificates lua-cjson"
luajit="luajit2 libluajit2-5.1-dev"
nginx_lua="libnginx-mod-http-lua wrk procps"
# Debian's luajit and luajit2 exclude each other; whichever is there stays. Only with luajit2 there is an nginx
# with Lua; without it the specs of nginx are left out.
if [ "$(dpkg-query -W -f '${db:Status-Status}' luajit 2>/dev/null || :)" = installed ]; then
  luajit="luajit libluajit-5.1-dev"
  nginx_lua=""
fi
go=golang-go
if command -v go >/dev/null; then
  go="" # any Go will do
fi
node="nodejs npm"
if command -v node >/dev/null && command -v npm >/dev/null; then
  node="" # whoever installed them
fi
tests="valgrind nginx libssl-dev zlib1g-dev openssl curl lua-busted lua-check lua-dkjson lua-socket luarocks $node"

case "${1-}" in
  demo) needed="$build" ;;
  test) needed="$build $luajit $nginx_lua $tests" ;;
  bench-nginx | demo-nginx) needed="$build $luajit nginx $nginx_lua curl" ;;
  bench-http) needed="$build $luajit $go nginx openssl lua-http" ;;
  bench | bench-sync | bench-stream) needed="$build $luajit $go lua-luv lua-cqueues" ;;
  fuzz) needed="$build clang libclang-rt-14-dev" ;;
  *)
    echo "usage: scripts/deps.sh demo|test|fuzz|demo-nginx, or the name of a benchmark" >&2
    exit 2
    ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "weft: no apt here; \"make $1\" goes on and needs what these Debian packages hold: $needed" >&2
  exit 0
fi

missing=""
for package in $needed; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=none
  [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "weft: these packages are missing and there is no sudo; as root run: apt-get install$missing" >&2
    exit 1
  fi
  as_root="sudo"
fi

echo "weft: installing$missing" >&2
log=$(mktemp)
policy=/usr/sbin/policy-rc.d # asked by Debian's packages before they start a service
made_policy=""
clean_up() {
  rm -f "$log"
  [ -z "$made_policy" ] || $as_root rm -f "$policy"
}
trap clean_up EXIT
apt() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$log" 2>&1
}
# The specs start nginx themselves, as a child: nothing shall listen on port 80 for their sake.
forbid_services() {
  case "$missing " in *" nginx "*) ;; *) return 0 ;; esac
  [ ! -e "$policy" ] || return 0
  made_policy=yes
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod 755 "$policy"
}
forget_service() {
  case "$missing " in *" nginx "*) ;; *) return 0 ;; esac
  ! command -v systemctl >/dev/null || $as_root systemctl disable nginx >/dev/null 2>&1 || :
}

# The lists of packages may be old or missing, so a first failure is no reason to stop.
# shellcheck disable=SC2086 # a list of words
install() {
  apt install -y --no-install-recommends --no-remove $missing
}
forbid_services
install || { apt update && install; } || {
  cat "$log" >&2
  echo "weft: the packages could not be installed:$missing" >&2
  exit 1
}
forget_service
