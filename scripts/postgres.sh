#!/bin/sh
# Install PostgreSQL's server where that needs no question; without it, the tests that use it are skipped.
# The tests start servers of their own: Debian's default cluster (port 5432) is neither wanted nor made.
set -eu

command -v postgres >/dev/null && exit 0
for binary in /usr/lib/postgresql/*/bin/postgres; do
    [ -x "$binary" ] && exit 0
done

without() {
    echo "==> No PostgreSQL: $1. The tests that use it will be skipped."
    exit 0
}

command -v apt-get >/dev/null || without "this machine has no apt-get to install it with"
if [ "$(id -u)" = 0 ]; then
    as_root="env DEBIAN_FRONTEND=noninteractive"
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
else
    without "installing it takes root's rights (apt-get install postgresql)"
fi

echo "==> Installing PostgreSQL (apt-get)"
log=$(mktemp)
no_cluster=/etc/postgresql-common/createcluster.d/reviewmill.conf
trap 'rm -f "$log"; $as_root rm -f "$no_cluster"' EXIT

install() {
    $as_root apt-get install -y -qq --no-install-recommends "$@"
}

# The settings' folder comes with the first package, and the cluster with the second.
if ! {
    $as_root apt-get update -qq &&
        install postgresql-common &&
        $as_root mkdir -p "${no_cluster%/*}" &&
        echo "create_main_cluster = false" | $as_root tee "$no_cluster" &&
        install postgresql
} >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    without "apt-get could not install it"
fi
