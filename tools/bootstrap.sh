#!/usr/bin/env bash
# Makes sure that what a make target needs is on the machine.
#
#   tools/bootstrap.sh apt PACKAGE...   installs missing Debian packages (as root or by sudo -n),
#                                       else names them in one line and fails
#   tools/bootstrap.sh python           prints the interpreter to build with: $PYTHON, else one that has
#                                       its headers, 3.11 or 3.12 if there is one (arshai, which the
#                                       demo and some tests run, supports no other), or newer
set -euo pipefail

say() { printf '==> %s\n' "$*" >&2; }

missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' ||
            printf '%s\n' "$package"
    done
}

install_apt() {
    if ! command -v dpkg-query >/dev/null; then
        return 0 # not Debian: the build says what it misses
    fi
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            say "missing packages; run as root:  apt-get install -y $missing"
            exit 1
        fi
    fi
    say "installing $missing"
    local log
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { "${as_root[@]}" apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q \
            --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        say "could not install: $missing"
        exit 1
    fi
    rm -f "$log"
    # The package starts a server on the standard port; the tests start their own elsewhere.
    return 0
}

usable() { # interpreter, newest minor version that will do
    "$1" - "$2" 2>/dev/null <<'PY'
import os, sys, sysconfig
ok = (3, 11) <= sys.version_info[:2] <= (3, int(sys.argv[1]))
ok = ok and sys.implementation.name == "cpython"
ok = ok and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
import ensurepip, venv
sys.exit(not ok)
PY
}

find_python() {
    local candidate newest
    for newest in 12 99; do
        for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.12 python3.11 python3.13 \
            "$HOME"/.pyenv/versions/3.1[1-3].*/bin/python3; do
            [ "$candidate" != "${PYTHON:-}" ] || newest=99
            if command -v "$candidate" >/dev/null 2>&1 && usable "$candidate" "$newest"; then
                "$candidate" -c 'import sys; print(sys.executable)'
                return 0
            fi
        done
    done
    say "no Python >= 3.11 with headers and venv found; on Debian: apt-get install python3-dev python3-venv"
    exit 1
}

case "${1:-}" in
apt) shift && install_apt "$@" ;;
python) find_python ;;
*) sed -n '2,9p' "$0" && exit 2 ;;
esac
