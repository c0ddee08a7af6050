# What the scripts beside this file share; they source it. Bash, and nothing else but Python.

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The real interpreter (not a version manager's shim, nor an active virtual environment's): $PYTHON, else
# the default python3 if it is new enough, else a newer one beside it.
find_python() {
    local name found
    for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        found="$("$name" -I -c '
import os, sys
if sys.version_info < (3, 11): sys.exit(1)
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))' 2>/dev/null)" || found=""
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return
        fi
        [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is no Python 3.11 or later"
    done
    die "Python 3.11 or later is needed; set PYTHON to its path if it is not on PATH"
}

# set_up EXTRAS: the virtual environment, made or brought up to date; VENV is then its directory.
set_up() {
    BASE_PYTHON="$(find_python)"
    VENV="$("$BASE_PYTHON" -I "$ROOT/scripts/set_up.py" "$ROOT" "$1")"
}

# The sandbox image of this host, built once; nothing is said where it is there already.
build_image() {
    "$VENV/bin/codecell-executor" images build --backend local "${1:-python}" >/dev/null
}

# Whether a container engine answers: the one of DOCKER_HOST, else the usual socket's.
engine_answers() {
    "$VENV/bin/python" - <<'EOF'
import sys

import requests
from docker.errors import DockerException

from executor_service.docker_steps import connect

try:
    connect(None, seconds=20).close()
except (DockerException, requests.RequestException, OSError):
    sys.exit(1)
EOF
}

# build_docker_images NAME...: as build_image, in the engine. CODECELL_BOOTSTRAP=1 needs no image registry.
build_docker_images() {
    "$VENV/bin/codecell-executor" images build --backend docker "$@" >/dev/null
}
