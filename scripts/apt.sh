#!/bin/sh
# Install a program from Debian's packages where that needs no question; without it, the tests that use it are skipped.
#   apt.sh NAME PROGRAM PACKAGE...
set -eu

name=$1 program=$2
shift 2

# Debian keeps PostgreSQL's servers out of the path.
for binary in "$(command -v "$program" || true)" /usr/lib/postgresql/*/bin/"$program"; do
    [ -x "$binary" ] && exit 0
done

without() {
    echo "==> No $name: $1. The tests that use it will be skipped."
    exit 0
}

command -v apt-get >/dev/null || without "this machine has no apt-get to install it with"
if [ "$(id -u)" = 0 ]; then
    as_root="env DEBIAN_FRONTEND=noninteractive"
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
else
    without "installing it takes root's rights (apt-get install $*)"
fi

echo "==> Installing $name (apt-get)"
log=$(mktemp)
no_cluster=/etc/postgresql-common/createcluster.d/reviewmill.conf
trap 'rm -f "$log"; $as_root rm -f "$no_cluster"' EXIT

install() {
    $as_root apt-get install -y -qq --no-install-recommends "$@"
}

# The tests start servers of their own: Debian's default cluster (port 5432) is neither wanted nor made. The settings'
# folder comes with the first package, and the cluster with the second.
without_cluster() {
    [ "$program" = postgres ] || return 0
    install postgresql-common && $as_root mkdir -p "${no_cluster%/*}" &&
        echo "create_main_cluster = false" | $as_root tee "$no_cluster"
}

if ! { $as_root apt-get update -qq && without_cluster && install "$@"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    without "apt-get could not install it"
fi
