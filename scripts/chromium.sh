#!/bin/sh
# Install Chromium, and letters for Chinese, where that needs no question; without it, the tests in a browser are skipped.
set -eu

command -v chromium >/dev/null && exit 0

without() {
    echo "==> No chromium: $1. The tests in a browser will be skipped."
    exit 0
}

command -v apt-get >/dev/null || without "this machine has no apt-get to install it with"
if [ "$(id -u)" = 0 ]; then
    as_root="env DEBIAN_FRONTEND=noninteractive"
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
else
    without "installing it takes root's rights (apt-get install chromium)"
fi

echo "==> Installing chromium (apt-get)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends \
    chromium fonts-wqy-zenhei fonts-noto-color-emoji; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    without "apt-get could not install it"
fi
