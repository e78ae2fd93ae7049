#!/bin/sh
# Makes the passwords of compose.yaml: random ones, in the folder `secrets` beside this file. None is ever replaced.
set -eu
cd "$(dirname "$0")"
umask 077

if [ -e secrets ]; then
    echo "error: $(pwd)/secrets exists already, and databases may depend on it; nothing was changed." >&2
    exit 1
fi
random() { od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n'; }
postgres=$(random)
redis=$(random)

# Written elsewhere first: an interrupted run leaves no half of them.
rm -rf secrets.part
mkdir secrets.part
printf '%s' "$postgres" > secrets.part/postgres_password
cat > secrets.part/redis.conf <<CONF
requirepass $redis
save 300 1
maxmemory 1gb
maxmemory-policy allkeys-lru
CONF
cat > secrets.part/reviewmill.toml <<TOML
cache = "redis://:$redis@redis:6379/0"

[service]
database = "postgresql://reviewmill:$postgres@postgres:5432/reviewmill"
TOML
random > secrets.part/webui_secret_key
random > secrets.part/webui_admin_password
# Filled when the service runs, which makes its keys itself (compose.yaml).
: > secrets.part/chat_key
# Each container reads its file under a user of its own. On this machine the folder keeps everybody else out.
chmod 0444 secrets.part/*
chmod 0644 secrets.part/chat_key
chmod 0700 secrets.part
mv secrets.part secrets
echo "Made passwords in $(pwd)/secrets. Keep a copy in a safe place." >&2
