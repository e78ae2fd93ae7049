#!/bin/sh
# Create .venv with the first suitable Python.
#
# usage: scripts/venv.sh PYTHON [only]
#   PYTHON  tried first; unless "only" follows, other names of Python are tried after it.
set -eu

preferred=$1
others="python3.12 python3.13 python3.11 python3.14 python3 python"
[ "${2:-}" = only ] && others=""

suits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

can_make_venv() {
    "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "not found"
}

python="" without_venv=""
for candidate in $preferred $others; do
    suits "$candidate" || continue
    if can_make_venv "$candidate"; then
        python=$candidate
        break
    fi
    : "${without_venv:=$candidate}"
done

if [ -z "$python" ] && [ -n "$without_venv" ]; then
    minor=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv (Python $(version_of "$without_venv")) cannot make virtual environments: its modules venv and ensurepip are missing." >&2
    echo "On Debian or Ubuntu: apt-get install python$minor-venv   Or name another one: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if [ -z "$python" ]; then
    echo "reviewmill needs Python 3.11 or newer; $preferred is: $(version_of "$preferred")." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if [ -x .venv/bin/python ] && ! suits .venv/bin/python; then
    echo ".venv has Python $(version_of .venv/bin/python), but reviewmill needs 3.11 or newer. Remove it (make clean) and try again." >&2
    exit 1
fi

if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "==> Using the .venv that is here, with Python $(version_of .venv/bin/python)"
else
    # Cleared: one whose creation broke off may be of another version.
    echo "==> Creating .venv with Python $(version_of "$python")"
    "$python" -m venv --clear .venv
fi
# Dependency groups (--group) came with pip 25.1.
.venv/bin/python -m pip install -q --upgrade 'pip>=25.1'
