#!/bin/sh
# Install redis-server where that needs no question; without it, the tests that use it are skipped.
set -eu

command -v redis-server >/dev/null && exit 0

without() {
    echo "==> No redis-server: $1. The tests that use it will be skipped."
    exit 0
}

command -v apt-get >/dev/null || without "this machine has no apt-get to install it with"
if [ "$(id -u)" = 0 ]; then
    as_root="env DEBIAN_FRONTEND=noninteractive"
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
else
    without "installing it takes root's rights (apt-get install redis-server)"
fi

echo "==> Installing redis-server (apt-get)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends redis-server; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    without "apt-get could not install it"
fi
